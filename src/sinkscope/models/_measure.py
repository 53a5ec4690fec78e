"""Measuring one call: query groups by name, and errors that say where they happened."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor

from sinkscope.attention import Measurement, allowed_keys, ask_finite, default_group, measure
from sinkscope.errors import NonFiniteError, unknown
from sinkscope.models._call import AttentionCall

PADDING = "padding"
"""Segment of queries that are padding."""


def group_name(call: AttentionCall, name: str | None) -> str:
    """The query group `name` of this call; None means the image queries where the model has them, else all.

    Raises:
        UsageError: the site has no such segment among its queries.
    """
    if name is None:
        return default_group(call.query_segments)
    if name != "all" and name not in call.query_segments:
        raise unknown(f"query segment at {where(call)}", name, ["all", *call.query_segments])
    return name


def group_queries(call: AttentionCall, name: str) -> Tensor | None:
    """The queries of a group as the mask that `measure` takes; None for all.

    Padding counts in no mean: a language model's padding attends, but nothing comes of it.
    """
    if name != "all":
        return call.query_segments[name]
    padding = call.query_segments.get(PADDING)
    return None if padding is None else ~padding


def open_keys(call: AttentionCall) -> Tensor:
    """Keys that at least one query may attend to, bool `[row, key]`."""
    rows, heads, queries, _ = call.q.shape
    keys = call.k.shape[2]
    allowed = allowed_keys(call.mask, (rows, heads, queries, keys))
    return call.q.new_ones(rows, keys, dtype=torch.bool) if allowed is None else allowed


def where(call: AttentionCall) -> str:
    """Site and step of a call, for messages."""
    layer = "" if call.site.layer is None else f" (layer {call.site.layer})"
    return f"{call.site.name}{layer}, step {call.step}"


@contextmanager
def exact(call: AttentionCall) -> Iterator[None]:
    """Float32 without gradients: autocast would round the statistics to half precision."""
    with torch.no_grad(), torch.autocast(call.q.device.type, enabled=False):
        yield


def check_finite(call: AttentionCall) -> None:
    """Refuse NaN and infinity in what the model hands to its attention.

    Raises:
        NonFiniteError: names the tensor, the site and the step.
    """
    place = where(call)

    def error(names: str) -> NonFiniteError:
        return NonFiniteError(
            f"Got NaN or infinity in {names} at {place}. Expected finite numbers: the model's own "
            "activations are broken before this call. Try bfloat16 or float32, or edit fewer layers."
        )

    with exact(call):
        ask_finite({"q": call.q, "k": call.k, "v": call.v}, error)


def measure_call(
    call: AttentionCall,
    groups: Collection[str],
    *,
    want: Collection[str] = ("mass",),
    lse: Tensor | None = None,
) -> Measurement:
    """Measure a call for several query groups in one pass; `lse` is its log-sum-exp where that is known.

    Raises:
        NonFiniteError: names the site and the step.
    """
    queries: Mapping[str, Tensor | None] = {name: group_queries(call, name) for name in groups}
    with exact(call):
        try:
            return measure(
                call.q,
                call.k,
                call.v,
                mask=call.mask,
                scale=call.scale,
                is_causal=call.is_causal,
                softcap=call.softcap,
                queries=queries,
                want=want,
                lse=lse,
            )
        except NonFiniteError as error:
            raise NonFiniteError(f"At {where(call)}: {error}") from error
