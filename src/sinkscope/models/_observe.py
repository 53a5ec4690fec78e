"""Watch a model's attention while it runs.

Nothing the model computes is changed: the output of every call is the model's own, bit for bit.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from sinkscope.attention import Measurement, segment_mass, top_mass_share
from sinkscope.errors import UsageError, unknown
from sinkscope.models._call import AttentionCall, Run
from sinkscope.models._late import Late
from sinkscope.models._lse import LogSumExp, wanting_lse
from sinkscope.models._measure import group_name, measure_call, open_keys
from sinkscope.models._observation import Observation
from sinkscope.models._roles import picked, query_streams, role_values
from sinkscope.models._scope import StepScope, check_heads, normal_numbers
from sinkscope.models._seen import Seen
from sinkscope.models._session import Session
from sinkscope.models._sites import resolve_sites
from sinkscope.models._split import Origins, is_partial
from sinkscope.models._table import Tokens
from sinkscope.models._units import RowId, Units

KEEP = ("mass", "entropy", "max_activation", "roles")


class _Recorder:
    """Handler that measures a call and passes it on."""

    def __init__(self, seen: Observation, units: Units, **scope: Any) -> None:
        self._seen = seen
        self._units = units
        self._tokens = Tokens()
        self._origins = Origins()
        self._late = Late()
        self._queries: Sequence[str | None] = scope["queries"]
        self._heads: tuple[int, ...] | None = scope["heads"]
        self.steps = StepScope(scope["steps"])
        self._keep: frozenset[str] = scope["keep"]

    def __call__(self, call: AttentionCall, run: Run) -> Tensor:
        with wanting_lse() as lse:
            output = run(call)
        if not call.recompute and not is_partial():
            call = self._origins.settle(call)
            with self._late.reading(call):
                self._look(call, output, lse)
        return output

    def settle(self) -> None:
        """Read what the calls of a forward pass have left to be read."""
        self._late.settle()

    def _look(self, call: AttentionCall, output: Tensor, lse: LogSumExp) -> None:
        # Also outside the wanted steps: units are numbered by the rows of every call.
        rows = self._units.rows(call)
        if self.steps.includes(call.step, call.step_count):
            self._record(call, rows, output, lse.of(call))

    def _record(
        self, call: AttentionCall, rows: tuple[RowId, ...], output: Tensor, lse: Tensor | None
    ) -> None:
        check_heads(self._heads, call.site.name, call.q.shape[1])
        heads = tuple(range(call.q.shape[1])) if self._heads is None else self._heads
        groups = list(dict.fromkeys(group_name(call, name) for name in self._queries))
        streams = query_streams(call) if "roles" in self._keep else []
        asked = list(dict.fromkeys((*groups, *streams)))
        want = {"mass", *self._keep} & {"mass", "entropy", "max_activation"}
        if call.mask is not None or torch.overrides._get_current_function_mode_stack():
            # Kernels may answer NaN for a query without keys, and something further out, such as an edit, may
            # have changed what `run` gave back; otherwise the model's own output spares a second product.
            measured = measure_call(call, asked, want=want)
        else:
            measured = measure_call(call, asked, want=want - {"max_activation"}, lse=lse)
            if "max_activation" in want:
                measured = replace(measured, max_activation=output.detach().abs().amax((-1, -2)))
        allowed = open_keys(call)
        shared = {"keys": allowed.sum(dim=-1)}
        once = role_values(measured, streams, heads, allowed) if streams else {}
        for number, group in enumerate(groups):
            found = {**self._values(call, measured, group, heads), **shared, **({} if number else once)}
            values = {name: self._late.take(value) for name, value in found.items()}
            tokens = self._tokens.of(call, rows)
            seen = Seen.of(call, queries=group, rows=rows, heads=heads, tokens=tokens, values=values)
            self._late.then(partial(self._seen.add, seen))

    def _values(
        self, call: AttentionCall, measured: Measurement, group: str, heads: tuple[int, ...]
    ) -> dict[str, Tensor]:
        pick = picked(heads, measured.mass[group])
        mass = measured.mass[group][:, pick]
        values = {"top1": top_mass_share(mass, 1), "top5": top_mass_share(mass, min(5, mass.shape[2]))}
        shares = segment_mass(mass, call.key_segments)
        values |= {f"mass_{name}": share for name, share in shares.items()}
        if "mass" in self._keep:
            values["mass"] = mass
        if "entropy" in self._keep:
            values["entropy"] = measured.entropy[group][:, pick]
        if "max_activation" in self._keep and measured.max_activation is not None:
            values["max_activation"] = measured.max_activation[:, pick]
        return {name: value.float() for name, value in values.items()}


def _queries(queries: str | Sequence[str] | None) -> tuple[str | None, ...]:
    if queries is None or isinstance(queries, str):
        return (queries,)
    if not queries:
        raise UsageError(
            "Got queries=(). Expected 'image', 'text', 'all', several of them, or None for the default."
        )
    return tuple(queries)


@contextmanager
def observe(
    pipe: Any,
    layers: int | Collection[int] | None = None,
    *,
    sites: str | None = None,
    kind: str | None = None,
    queries: str | Sequence[str] | None = None,
    heads: int | Collection[int] | None = None,
    steps: Any = None,
    keep: Collection[str] = KEEP,
    units: Sequence[str] | None = None,
    strict: bool = True,
    tokenizer: Any = None,
) -> Iterator[Observation]:
    """Measure attention while the pipeline runs inside the `with` block.

    Opened inside an `intervene` block it sees the model's own attention; opened around one, the edited one.

    Example:
        >>> with observe(pipe, layers=[3], queries="image") as seen:  # doctest: +SKIP
        ...     pipe("a photo of a red circle")
        >>> seen.mass(layer=3).shape  # doctest: +SKIP
        torch.Size([20, 2, 3, 112])

    Args:
        pipe: A pipeline, or a bare module: a denoiser, a language or a vision model (a step is then a forward
            call).
        layers: Block numbers; None for all.
        sites: Glob over module paths.
        kind: `"joint"`, `"self"`, `"cross"`, `"temporal"` or `"all"`, where blocks hold several sites.
        queries: Whose attention is counted: `"image"`, `"text"`, `"all"`, another segment, or several of
            them, measured in one pass. None: the image queries where the model has them, else all.
        heads: Head numbers; None for all.
        steps: A window of the run such as `(0.0, 0.4)` or a list of step numbers; None for all.
        keep: Of `"mass"` (every key; the bulk of the memory: 4 bytes x steps x rows x heads x keys),
            `"entropy"`, `"max_activation"`, `"roles"` (mass by segment and role, from every stream of
            queries). The summary's masses are kept always.
        units: Names of the generated images, in order; running numbers if None.
        strict: False goes on where attention modules cannot be seen or a cache skips steps; what was not
            seen is then absent.
        tokenizer: Of a bare language model: gives its tokens their strings and tells its special marks.

    Yields:
        The observation, filled while the pipeline runs.

    Raises:
        UsageError: an unknown layer, site, kind, segment, head or step; the message lists what exists.
        UnsupportedAttentionError: attention that would be missed, unless `strict` is False.
        NoMatchError: on leaving the block, when nothing was seen.
        NonFiniteError: NaN or infinity in queries, keys or values.
    """
    for name in keep:
        if name not in KEEP:
            raise unknown("quantity to keep", name, KEEP)
    wanted = resolve_sites(pipe, layers=layers, sites=sites, kind=kind)
    numbers, names = Units(units), normal_numbers("heads", heads)
    for site in wanted:
        if site.heads:
            check_heads(names, site.name, site.heads)
    where = f"observe(layers={layers!r}, sites={sites!r}, kind={kind!r}, steps={steps!r})"
    seen = Observation(numbers, where=where)
    recorder = _Recorder(
        seen, numbers, queries=_queries(queries), heads=names, steps=steps, keep=frozenset(keep)
    )
    with Session(pipe, [recorder], sites=wanted, strict=strict, tokenizer=tokenizer):
        yield seen
    recorder.steps.check()
    seen.check()
