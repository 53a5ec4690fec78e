"""Random attention calls for the tests of this room."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import torch
import torch.nn.functional as F
from hypothesis import strategies as st
from torch import Tensor

from sinkscope.attention import (
    KeyedRandom,
    ResolvedEdit,
    SelectionContext,
    apply_edits,
    incoming_mass,
    mass_after,
    measure,
)

MASKS = ("none", "bool", "float", "keys", "causal")


@dataclass
class Call:
    q: Tensor
    k: Tensor
    v: Tensor
    mask: Tensor | None = None
    scale: float | None = None
    is_causal: bool = False
    softcap: float | None = None
    issued: list[tuple[Any, ...]] = field(default_factory=list)

    @property
    def shape(self) -> tuple[int, int, int]:
        return self.q.shape[0], self.q.shape[1], self.k.shape[2]

    @property
    def how(self) -> dict[str, Any]:
        how = {"mask": self.mask, "scale": self.scale, "is_causal": self.is_causal}
        return how if self.softcap is None else {**how, "softcap": self.softcap}

    def run(
        self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, is_causal: bool, scale: float | None
    ) -> Tensor:
        self.issued.append((q, k, v, mask, is_causal, scale))
        return F.scaled_dot_product_attention(
            q, k, v, attn_mask=mask, is_causal=is_causal, scale=scale, enable_gqa=True
        )

    def plain(self) -> Tensor:
        return self.run(self.q, self.k, self.v, self.mask, self.is_causal, self.scale)

    def edited(self, *edits: ResolvedEdit) -> Tensor:
        self.issued.clear()
        return apply_edits(self.q, self.k, self.v, edits, run=self.run, **self.how)

    def after(self, *edits: ResolvedEdit, **queries: Any) -> Tensor:
        return mass_after(self.q, self.k, edits, queries=queries or None, **self.how)["all"]

    def mass(self) -> Tensor:
        return incoming_mass(self.q, self.k, self.mask, self.scale, is_causal=self.is_causal)

    def concentration(self) -> Tensor:
        found = measure(self.q, self.k, want=("concentration",), **self.how).concentration
        assert found is not None
        return found

    def context(self, **changes: Any) -> SelectionContext:
        rows = self.q.shape[0]
        given: dict[str, Any] = {"random": KeyedRandom.of(range(rows), ["cond"] * rows, "block.0", 0)}
        given |= {"masses": {"all": self.mass()}, "queries": {"all": torch.ones(self.q.shape[2]) > 0}}
        given |= {"concentration": self.concentration}
        given |= changes
        return SelectionContext(self.shape, **given)

    def pick_queries(self, count: int, seed: int = 0) -> Tensor:
        """Up to `count` random queries of every head."""
        shape = self.q.shape[:3]
        order = torch.rand(shape, generator=torch.Generator().manual_seed(seed)).argsort(-1)
        return torch.zeros(shape, dtype=torch.bool).scatter(-1, order[..., :count], True)

    def pick(self, count: int, seed: int = 0) -> Tensor:
        """`count` random keys of every head, never key 0 (so that no query loses every key)."""
        rows, heads, keys = self.shape
        order = (
            torch.rand(rows, heads, keys - 1, generator=torch.Generator().manual_seed(seed)).argsort(-1) + 1
        )
        return torch.zeros(self.shape, dtype=torch.bool).scatter(-1, order[..., :count], True)


def make(
    seed: int = 0,
    *,
    rows: int = 2,
    heads: int = 4,
    kv_heads: int | None = None,
    queries: int = 12,
    keys: int = 17,
    dim: int = 8,
    mask: str = "none",
    dtype: torch.dtype = torch.float64,
    spread: float = 1.5,
    scale: float | None = None,
) -> Call:
    """A call with strided [row, token, head, dim] storage; key 0 stays visible to every query."""
    g = torch.Generator().manual_seed(seed)

    def draw(count: int, n: int) -> Tensor:
        return (
            (torch.randn(rows, count, n, dim, generator=g, dtype=torch.float64) * spread)
            .to(dtype)
            .transpose(1, 2)
        )

    call = Call(
        draw(queries, heads), draw(keys, kv_heads or heads), draw(keys, kv_heads or heads), scale=scale
    )
    keep = torch.rand(rows, 1, 1 if mask == "keys" else queries, keys, generator=g) > 0.3
    keep[..., 0] = True
    if mask in ("bool", "keys"):
        call.mask = keep
    elif mask == "float":
        call.mask = torch.where(keep, torch.randn(keep.shape, generator=g), -torch.inf).to(dtype)
    call.is_causal = mask == "causal"
    return call


def moved(call: Call, device: torch.device) -> Call:
    """The call on the device; layouts are kept."""
    return replace(call, **{n: t.to(device) for n, t in vars(call).items() if isinstance(t, Tensor)})


@st.composite
def calls(draw: st.DrawFn, dtype: torch.dtype = torch.float64, masks: tuple[str, ...] = MASKS) -> Call:
    kv = draw(st.sampled_from((1, 2, 3)))
    return make(
        draw(st.integers(0, 10**6)),
        rows=draw(st.integers(1, 3)),
        heads=kv * draw(st.sampled_from((1, 2))),
        kv_heads=kv,
        queries=draw(st.integers(1, 19)),
        keys=draw(st.integers(4, 23)),
        dim=draw(st.sampled_from((4, 8))),
        mask=draw(st.sampled_from(masks)),
        dtype=dtype,
        scale=draw(st.sampled_from((None, 1.0, 0.2))),
    )
