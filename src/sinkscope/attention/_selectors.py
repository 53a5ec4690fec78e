"""Selectors: which keys an edit touches.

`choose(ctx)` returns a boolean [row, head, key]. Budgets are `keys_per_head` (each head its own keys) or
`shared_keys` (one set per row for all heads, ranked by the mean over heads). Ties go to the lower key index.
No selector chooses a key that the model itself masks out.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor
from typing_extensions import override

from sinkscope.errors import UsageError

from ._context import SelectionContext
from ._questions import ask, on_device
from ._spec import Registry, Spec


class Selector(Spec):
    """Base class of selectors. Subclasses are frozen dataclasses and implement `choose`."""

    @property
    def side(self) -> str:
        """ "keys", or "queries" for a selector that chooses queries."""
        return "keys"

    @property
    def always_chooses(self) -> bool:
        """Whether every row and head surely gets at least one, so that nobody has to look."""
        return False

    @abstractmethod
    def choose(self, ctx: SelectionContext) -> Tensor:
        """Boolean [row, head, key] of the chosen keys, or [row, head, query] of the chosen queries."""

    def required_queries(self) -> tuple[str | None, ...]:
        """Query groups whose incoming mass is needed; None stands for the model's default group."""
        return ()

    def must_see(self, step: int) -> bool:
        """Whether the selector has to be asked at this step even where nothing is edited."""
        return False


_REGISTRY: Registry[Selector] = Registry("selector", Selector, "sinkscope.selectors")  # type: ignore[type-abstract]
C = TypeVar("C", bound=type[Selector])


def register_selector(cls: C) -> C:
    """Class decorator: let `selector_from_dict` find a selector by its class name."""
    _REGISTRY.register(cls)
    return cls


def selector_names() -> list[str]:
    """Names that `selector_from_dict` knows."""
    return _REGISTRY.names()


def selector_from_dict(data: Mapping[str, Any]) -> Selector:
    """Build a selector from `{"TopMass": {"keys_per_head": 1}}`.

    Raises:
        UsageError: Unknown name or field, missing field, or a value the selector refuses.
    """
    return _REGISTRY.build(data)


def _nested(value: Any) -> Any:
    return selector_from_dict(value) if isinstance(value, Mapping) else value


def check_budget(spec: Selector, names: tuple[str, str] = ("keys_per_head", "shared_keys")) -> None:
    """Refuse anything but exactly one budget of at least 1.

    Raises:
        UsageError: Says what was given.
    """
    name = type(spec).__name__
    given = {key: getattr(spec, key) for key in names}
    used = {key: value for key, value in given.items() if value is not None}
    if len(used) != 1:
        raise UsageError(
            f"{name} got {given}; expected exactly one budget: {names[0]}=... or {names[1]}=...."
        )
    (key, value), *_ = used.items()
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise UsageError(f"{name} got {key}={value!r}; expected a whole number of at least 1.")


@dataclass(frozen=True)
class _Budget(Selector):
    keys_per_head: int | None = None
    """keys for each head on its own"""
    shared_keys: int | None = None
    """keys in one set shared by all heads of a row"""

    def __post_init__(self) -> None:
        check_budget(self)

    @property
    @override
    def always_chooses(self) -> bool:
        return True

    def _pick(
        self, scores: Tensor, candidates: Tensor, ctx: SelectionContext, *, skip: bool = False
    ) -> Tensor:
        """Take the budget's highest scores among candidates; both [row, head, key].

        With `skip` as many keys below those.
        """
        if self.shared_keys is not None:
            scores, candidates = scores.mean(1, keepdim=True), candidates.all(1, keepdim=True)
        count = self.keys_per_head or self.shared_keys or 0
        first = count if skip else 0

        def check(left: list[float]) -> None:
            free = int(min(left, default=0))
            if first + count > free:
                budget = "keys_per_head" if self.keys_per_head else "shared_keys"
                raise UsageError(
                    f"{type(self).__name__} asks for {budget}={count}{' below as many' if skip else ''}, but "
                    f"only {free} of {ctx.shape[2]} keys are there to choose from at {ctx.random.site!r}. "
                    f"Use a budget of at most {free // 2 if skip else free}."
                )

        ask(candidates.sum(-1).amin() if candidates.numel() else torch.zeros(1), check)
        ranked = scores.masked_fill(~candidates, -torch.inf)
        chosen = _top(ranked, first + count)
        return (chosen & ~_top(ranked, first) if first else chosen).expand(ctx.shape)


@dataclass(frozen=True)
class _Ranked(_Budget):
    """A budget of keys ranked by their incoming mass."""

    queries: str | None = None
    """query group whose attention is counted; None = image queries where the model has them, else all"""
    within: str | None = None
    """rank the keys of this segment only, so that every head gives its whole budget there"""

    @override
    def required_queries(self) -> tuple[str | None, ...]:
        return (self.queries,)


@register_selector
@dataclass(frozen=True)
class TopMass(_Ranked):
    """The keys with the largest incoming mass: the sinks.

    Example:
        >>> TopMass(keys_per_head=1).to_dict()
        {'TopMass': {'keys_per_head': 1}}
    """

    @override
    def choose(self, ctx: SelectionContext) -> Tensor:
        return self._pick(ctx.mass(self.queries), _candidates(ctx, self.within), ctx)


@register_selector
@dataclass(frozen=True)
class BottomMass(_Ranked):
    """The keys with the smallest incoming mass."""

    @override
    def choose(self, ctx: SelectionContext) -> Tensor:
        return self._pick(-ctx.mass(self.queries), _candidates(ctx, self.within), ctx)


@register_selector
@dataclass(frozen=True)
class NextMass(_Ranked):
    """The keys just below those of largest incoming mass: with a budget of n the ranks n + 1 to 2 n."""

    @override
    def choose(self, ctx: SelectionContext) -> Tensor:
        return self._pick(ctx.mass(self.queries), _candidates(ctx, self.within), ctx, skip=True)


@register_selector
@dataclass(frozen=True)
class RandomKeys(_Budget):
    """Keys drawn uniformly without replacement, keyed by unit, seed, site, branch and step."""

    seed: int = 0
    """random seed of the draw"""
    exclude: Selector | None = None
    """never draw keys that this selector chooses (with a shared budget: in any head)"""
    within: str | None = None
    """draw from this segment only"""

    def __post_init__(self) -> None:
        check_budget(self)
        object.__setattr__(self, "exclude", _nested(self.exclude))

    @override
    def required_queries(self) -> tuple[str | None, ...]:
        return () if self.exclude is None else self.exclude.required_queries()

    @override
    def must_see(self, step: int) -> bool:
        return self.exclude is not None and self.exclude.must_see(step)

    @override
    def choose(self, ctx: SelectionContext) -> Tensor:
        candidates = _candidates(ctx, self.within)
        if self.exclude is not None:
            candidates = candidates & ~self.exclude.choose(ctx)
        scores = ctx.uniform(self.seed)
        # One draw serves all heads; a mean over heads would be a different, but equally keyed, ranking.
        return self._pick(scores[:, :1].expand_as(scores) if self.shared_keys else scores, candidates, ctx)


@register_selector
@dataclass(frozen=True)
class MassAbove(Selector):
    """Every key whose incoming mass lies above a threshold; the number of keys follows from the call."""

    share: float | None = None
    """threshold as a share of all mass, 0..1"""
    times_uniform: float | None = None
    """threshold as a multiple of 1 / (number of keys the model lets through)"""
    queries: str | None = None
    """query group whose attention is counted; None = image queries where the model has them, else all"""

    def __post_init__(self) -> None:
        given = [value for value in (self.share, self.times_uniform) if value is not None]
        if len(given) != 1 or given[0] < 0 or (self.share is not None and self.share > 1):
            raise UsageError(
                f"MassAbove got share={self.share!r}, times_uniform={self.times_uniform!r}; expected "
                "exactly one: share between 0 and 1, or times_uniform of at least 0."
            )

    @override
    def required_queries(self) -> tuple[str | None, ...]:
        return (self.queries,)

    @override
    def choose(self, ctx: SelectionContext) -> Tensor:
        mass, candidates = ctx.mass(self.queries), _candidates(ctx)
        if self.share is not None:
            return (mass > self.share) & candidates
        uniform = 1.0 / candidates.sum(-1, keepdim=True)
        return (mass > float(self.times_uniform or 0.0) * uniform) & candidates


@register_selector
@dataclass(frozen=True)
class Keys(Selector):
    """Named key positions, the same for every head."""

    indices: tuple[int, ...]
    """0-based positions among all keys, or within `segment`"""
    segment: str | None = None
    """count positions within this segment"""

    def __post_init__(self) -> None:
        got = tuple(self.indices)
        if not got or any(not isinstance(i, int) or i < 0 for i in got) or len(set(got)) != len(got):
            raise UsageError(
                f"Keys got indices={got!r}; expected one or more different whole numbers from 0 on."
            )
        object.__setattr__(self, "indices", got)

    @override
    def choose(self, ctx: SelectionContext) -> Tensor:
        rows, _, keys = ctx.shape
        inside = torch.ones(rows, keys, dtype=torch.bool, device=ctx.device)
        if self.segment is not None:
            inside = ctx.segment(self.segment)

        def check(left: list[float]) -> None:
            size = int(left[0])
            if max(self.indices) >= size:
                where = "this call" if self.segment is None else f"segment {self.segment!r}"
                raise UsageError(
                    f"Keys names position {max(self.indices)}, but {where} has {size} keys "
                    f"(0..{size - 1}) at {ctx.random.site!r}."
                )

        ask(inside.sum(-1).amin(), check)
        position = inside.long().cumsum(-1) - 1
        named = torch.isin(position, on_device(self.indices, ctx.device))
        return (named & inside)[:, None] & _candidates(ctx)


@register_selector
@dataclass(frozen=True)
class Segment(Selector):
    """Every key of a named segment."""

    name: str
    """a segment of the model, for example "image" or "text\""""

    @override
    def choose(self, ctx: SelectionContext) -> Tensor:
        return ctx.segment(self.name)[:, None] & _candidates(ctx)


@register_selector
@dataclass(frozen=True)
class Within(Selector):
    """Those of the keys another selector chooses that lie in a segment: fewer, or none, where others won.

    For the full budget inside a segment use `TopMass(within=...)`.
    """

    select: Selector
    """who chooses among all keys"""
    segment: str
    """what is kept"""

    def __post_init__(self) -> None:
        object.__setattr__(self, "select", _nested(self.select))

    @override
    def required_queries(self) -> tuple[str | None, ...]:
        return self.select.required_queries()

    @override
    def must_see(self, step: int) -> bool:
        return self.select.must_see(step)

    @override
    def choose(self, ctx: SelectionContext) -> Tensor:
        return self.select.choose(ctx) & ctx.segment(self.segment)[:, None]


@register_selector
@dataclass(frozen=True)
class Frozen(Selector):
    """The set another selector chooses at one step, kept for all later steps; nothing before that step."""

    select: Selector
    """who chooses"""
    step: int = 0
    """sampler step at which the set is chosen"""

    def __post_init__(self) -> None:
        object.__setattr__(self, "select", _nested(self.select))
        if not isinstance(self.step, int) or self.step < 0:
            raise UsageError(f"Frozen got step={self.step!r}; expected a whole number from 0 on.")

    @property
    @override
    def side(self) -> str:
        return self.select.side

    @override
    def required_queries(self) -> tuple[str | None, ...]:
        return self.select.required_queries()

    @override
    def must_see(self, step: int) -> bool:
        return step == self.step

    @override
    def choose(self, ctx: SelectionContext) -> Tensor:
        if ctx.step < self.step:
            shape = ctx.query_shape if self.side == "queries" else ctx.shape
            return torch.zeros(shape, dtype=torch.bool, device=ctx.device)
        rows = list(zip(ctx.random.units, ctx.random.branches, strict=True))
        missing = [row for row in rows if (self, row) not in ctx.memory]
        if missing and ctx.step == self.step:
            # Samplers that evaluate a step twice keep the set of the first evaluation.
            chosen = self.select.choose(ctx)
            for index, row in enumerate(rows):
                ctx.memory.setdefault((self, row), chosen[index].clone())
        elif missing:
            raise UsageError(
                f"Frozen chooses its keys at step {self.step}, but {missing[0]} at {ctx.random.site!r} "
                f"was first seen at step {ctx.step}. Choose a step that the run reaches, counted from 0."
            )
        return torch.stack([ctx.memory[(self, row)] for row in rows]).to(ctx.device)


def _top(scores: Tensor, count: int) -> Tensor:
    """Boolean [..., key] of the `count` highest scores, ties to the lower index.

    Far quicker than a stable sort, which a GPU spends a good part of an attention call on.
    """
    last = scores.topk(min(count, scores.shape[-1]), dim=-1).values[..., -1:]
    above, ties = scores > last, scores == last
    return above | (ties & (ties.cumsum(-1) <= count - above.sum(-1, keepdim=True)))


def _candidates(ctx: SelectionContext, within: str | None = None) -> Tensor:
    keys = ctx.candidates()
    return (keys if within is None else keys & ctx.segment(within))[:, None].expand(ctx.shape)
