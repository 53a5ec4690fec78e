"""Actions: what happens to the chosen keys.

Score path: `Mask`, `ScaleLogit`, `ScaleProbability`. Value path: `ReplaceValue`. Formulas of the paper's
released code (its `prob_scale`, `zero`, `mean`, `noise`, `lerp`); see each class.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal, TypeVar

import torch
from torch import Tensor
from typing_extensions import override

from sinkscope.errors import UsageError, unknown

from ._edits import Action, EditedCall, per_head
from ._operands import allowed_keys
from ._random import KeyedRandom
from ._rowblock import Block
from ._spec import Registry

_REGISTRY: Registry[Action] = Registry("action", Action, "sinkscope.actions")  # type: ignore[type-abstract]
C = TypeVar("C", bound=type[Action])


def register_action(cls: C) -> C:
    """Class decorator: let `action_from_dict` find an action by its class name."""
    _REGISTRY.register(cls)
    return cls


def action_names() -> list[str]:
    """Names that `action_from_dict` knows."""
    return _REGISTRY.names()


def action_from_dict(data: Mapping[str, Any]) -> Action:
    """Build an action from `{"ScaleProbability": {"eta": 0.5}}`.

    Raises:
        UsageError: Unknown name or field, missing field, or a value the action refuses.
    """
    return _REGISTRY.build(data)


def check_number(owner: str, name: str, value: object) -> None:
    """Refuse what is no finite number.

    Raises:
        UsageError: Names class and field.
    """
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        raise UsageError(f"{owner} got {name}={value!r}; expected a finite number.")


@register_action
@dataclass(frozen=True)
class Mask(Action):
    """Remove the chosen keys from the softmax (logit -inf); the other keys keep their ratios.

    A query left without any key attends to nothing: its output is 0.
    """

    stage: ClassVar[str] = "keys"

    @property
    @override
    def is_identity(self) -> bool:
        return False

    @override
    def apply(self, call: EditedCall, chosen: Tensor, random: KeyedRandom | None) -> EditedCall:
        return call.add_bias(chosen, -math.inf)


@register_action
@dataclass(frozen=True)
class ScaleLogit(Action):
    """Logit of the chosen keys: factor * scale * q.k + shift, before the model's mask is added.

    Where the model caps its logits the factor acts inside the cap and the shift outside.
    """

    factor: float = 1.0
    """factor on scale * q.k"""
    shift: float = 0.0
    """added to the scaled logit, nats; log(x) multiplies the unnormalised weight by x"""
    stage: ClassVar[str] = "logits"

    def __post_init__(self) -> None:
        check_number("ScaleLogit", "factor", self.factor)
        check_number("ScaleLogit", "shift", self.shift)

    @property
    @override
    def is_identity(self) -> bool:
        return self.factor == 1.0 and self.shift == 0.0

    @override
    def apply(self, call: EditedCall, chosen: Tensor, random: KeyedRandom | None) -> EditedCall:
        if self.factor != 1.0:
            call = per_head(call)
            call = replace(call, k=torch.where(chosen[..., None], call.k * self.factor, call.k))
            if call.bias is not None:
                scaled = call.bias * self.factor
                finite = torch.isfinite(call.bias) & chosen[:, :, None]
                call = replace(call, bias=torch.where(finite, scaled, call.bias))
        return call if self.factor != 1.0 and self.shift == 0.0 else call.add_bias(chosen, self.shift)


@register_action
@dataclass(frozen=True)
class ScaleProbability(Action):
    """Softmax weight of the chosen keys times eta, the others rescaled so that every row still sums to one.

    With s_i the weight of the chosen keys in softmax row i: p' = eta p on them,
    p' = p (1 - eta s_i) / (1 - s_i) elsewhere.
    eta = 0 equals `Mask`. A softmax row whose whole weight lies on chosen keys stays as it is
    (for eta = 0: attends to nothing).
    """

    eta: float
    """0..1; 1 changes nothing"""
    stage: ClassVar[str] = "probabilities"

    def __post_init__(self) -> None:
        check_number("ScaleProbability", "eta", self.eta)
        if not 0.0 <= self.eta <= 1.0:
            raise UsageError(
                f"ScaleProbability got eta={self.eta!r}; expected 0..1. To strengthen keys use "
                "ScaleLogit(shift=log(x))."
            )

    @property
    @override
    def is_identity(self) -> bool:
        return self.eta == 1.0

    @override
    def apply(self, call: EditedCall, chosen: Tensor, random: KeyedRandom | None) -> EditedCall:
        if self.eta == 0.0 and not call.weights:
            # First in its stage, so removal before or after the softmax is the same; this way is
            # one fused call.
            return call.add_bias(chosen, -math.inf)

        def rescale(p: Tensor, block: Block) -> Tensor:
            return _rescale(p, chosen[block.rows, block.heads], self.eta)

        return replace(call, weights=(*call.weights, rescale))


def _rescale(p: Tensor, on: Tensor, eta: float) -> Tensor:
    """Rescale weights [row, head, query, key] in place; `on` is boolean [row, head, key]."""
    shares = p @ torch.stack([on, ~on], dim=-1).to(p.dtype)
    s, rest = shares[..., :1], shares[..., 1:]
    # rest instead of 1 - s: no cancellation where the chosen keys hold nearly everything.
    some = rest > torch.finfo(p.dtype).tiny
    grow = torch.where(some, (1 - eta * s) / rest, torch.ones_like(s))
    shrink = torch.where(some, torch.full_like(s, eta), torch.full_like(s, float(eta > 0)))
    return p.mul_(torch.where(on[:, :, None], shrink, grow))


@register_action
@dataclass(frozen=True)
class ReplaceValue(Action):
    """Move the values of the chosen keys: v' = v + amount * (target - v); the weights stay.

    Targets: "zero"; "mean" of the values of all keys the model lets through, per row and head; "noise",
    normal with mean 0 and the standard deviation of v in that row and head, keyed by unit, seed, site, branch
    and step.
    """

    with_: Literal["zero", "mean", "noise"]
    """what the values move towards"""
    amount: float = 1.0
    """0 changes nothing, 1 replaces"""
    seed: int = 0
    """seed of the noise"""
    stage: ClassVar[str] = "values"

    def __post_init__(self) -> None:
        if self.with_ not in ("zero", "mean", "noise"):
            raise unknown("value target", self.with_, ("zero", "mean", "noise"))
        check_number("ReplaceValue", "amount", self.amount)

    @property
    @override
    def is_identity(self) -> bool:
        return self.amount == 0.0

    @override
    def apply(self, call: EditedCall, chosen: Tensor, random: KeyedRandom | None) -> EditedCall:
        if call.v is None:
            return call
        call = per_head(call)
        v = call.v
        assert v is not None  # per_head keeps what is there
        target = self._target(call, v, random)
        moved = target.expand_as(v) if self.amount == 1.0 else v + self.amount * (target - v)
        return replace(call, v=torch.where(chosen[..., None], moved.to(v.dtype), v))

    def _target(self, call: EditedCall, v: Tensor, random: KeyedRandom | None) -> Tensor:
        wide = v if v.dtype == torch.float64 else v.float()
        if self.with_ == "zero":
            return torch.zeros_like(wide[:, :, :1])
        mean = mean_value(call, wide)
        if self.with_ == "mean":
            return mean
        if random is None:
            raise UsageError(
                "ReplaceValue(with_='noise') needs keyed random numbers. Pass "
                "random=KeyedRandom.of(units, branches, site, step) to ResolvedEdit."
            )
        _, heads, keys, dim = v.shape
        centre = mean.mean(-1, keepdim=True)
        spread = torch.einsum("rk,rhkd->rh", _open_shares(call, wide), (wide - centre).square()) / dim
        noise = random.normal(self.seed, (heads, keys, dim)).to(device=v.device, dtype=wide.dtype)
        return noise * spread.sqrt()[..., None, None]


def mean_value(call: EditedCall, v: Tensor) -> Tensor:
    """Mean of the values v [row, head, key, dim] of all keys the model lets through: [row, head, 1, dim]."""
    return torch.einsum("rk,rhkd->rhd", _open_shares(call, v), v)[:, :, None]


def _open_shares(call: EditedCall, v: Tensor) -> Tensor:
    """[row, key] summing to one: equal on the keys the model lets through, else 0."""
    rows, heads, keys, _ = v.shape
    seen = allowed_keys(call.mask, (rows, heads, call.q.shape[2], keys))
    use = torch.ones(1, keys, device=v.device, dtype=v.dtype) if seen is None else seen.to(v.dtype)
    return (use / use.sum(-1, keepdim=True)).expand(rows, keys)
