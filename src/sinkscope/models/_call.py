"""One attention call and the names around it: sites, rows, tokens.

An `AttentionCall` is what a handler sees: the tensors of one `F.scaled_dot_product_attention` call, always
`[row, head, token, dim]`, and where and when it happened. It is frozen; `replace` makes a changed copy.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Literal

from torch import Tensor

Kind = Literal["joint", "self", "cross", "temporal", "causal"]
Branch = Literal["cond", "uncond", "none"]
Role = Literal["bos", "content", "eos", "pad", "template", "mask"]

_NO_SEGMENTS: Mapping[str, Tensor] = MappingProxyType({})


@dataclass(frozen=True)
class Site:
    """One softmax attention call of a model, named by module path, visit and call index."""

    name: str
    """Module path of the attention module inside its denoiser."""
    layer: int | None
    """0-based block index, None outside the main stack of blocks."""
    kind: Kind
    """Which tokens attend to which: joint, self, cross, temporal or causal."""
    heads: int
    """Number of query heads; 0 where only a running model tells."""
    segments: tuple[str, ...]
    """Names of the key segments in their order, as far as known without running the model."""
    visit: int = 0
    """How often the module had been entered before in the same forward pass."""
    index: int = 0
    """How many calls the same visit had made before."""
    per_row: bool = False
    """Whether the module makes one call per row of the batch: then `index` is the row and no call of its
    own kind."""

    @property
    def key(self) -> str:
        """Unique name of the call within one forward pass: `name#visit.index`."""
        return f"{self.name}#{self.visit}.{self.index}"

    @property
    def lasting_key(self) -> str:
        """The same, but equal for all rows of the batch: what random draws are keyed by."""
        return f"{self.name}#{self.visit}.{0 if self.per_row else self.index}"


@dataclass(frozen=True)
class RowInfo:
    """What a batch row of a call stands for."""

    row: int
    """Index along the row axis of the call."""
    branch: Branch
    """Side of classifier-free guidance; "none" where the model runs without it."""
    unit: int
    """Index of the prompt and image in the user's batch."""


@dataclass(frozen=True)
class Token:
    """Identity of one key."""

    key: int
    """Index along the key axis."""
    segment: str
    """Name of the widest segment the key lies in, or "unknown"."""
    position: int
    """Index within that segment."""
    text: str | None = None
    """Token string, without word-boundary marks; None for image tokens and for text nobody tokenised here."""
    role: Role | None = None
    """Role in the prompt; "mask" for a token that a masked-diffusion model has still to write."""
    encoder: str | None = None
    """Text encoder(s) that made the key, joined by "+" where several share the position."""
    row: int | None = None
    """Row in the image grid."""
    column: int | None = None
    """Column in the image grid."""
    frame: int | None = None
    """Frame of a video, in latent frames."""


@dataclass(frozen=True, eq=False)
class AttentionCall:
    """One attention call, as the model issued it or as an inner handler changed it.

    `q` is `[row, head, query, dim]`; `k` and `v` are `[row, kv_head, key, dim]`. `mask` is None, bool (True
    keeps) or additive float, broadcastable to `[row, head, query, key]`. `is_causal` is aligned to the top
    left. `scale` None means `dim ** -0.5`.
    """

    site: Site
    q: Tensor
    k: Tensor
    v: Tensor
    mask: Tensor | None = None
    is_causal: bool = False
    scale: float | None = None
    enable_gqa: bool = False
    dropout_p: float = 0.0
    softcap: float | None = None
    """Logits become `softcap * tanh(logits / softcap)` before the mask is added; None where they do not."""
    sinks: int = 0
    """Keys at the end that are no tokens: each stands for a learned sink logit, in the mask, with value 0."""
    step: int = 0
    """Sampler step: completed `scheduler.step` calls; for a bare module, completed forward calls."""
    step_count: int | None = None
    """Number of sampler steps of this generation; None for a bare module."""
    timestep: float | None = None
    """Raw value the denoiser was given (scales differ between families)."""
    sigma: float | None = None
    """Noise level of the scheduler at this step, where it has one."""
    rows: tuple[RowInfo, ...] = ()
    """One entry per row."""
    generation: int = 0
    """Pipeline calls since the session was opened, starting at 0."""
    evaluation: int = 0
    """Denoiser calls before this one in the same generation."""
    recompute: bool = False
    """True when gradient checkpointing repeats the call during backward; recorders skip these."""
    key_segments: Mapping[str, Tensor] = field(default_factory=lambda: _NO_SEGMENTS)
    """Segment name to bool `[key]` or `[row, key]`; sub-segments overlap the segment they lie in."""
    query_segments: Mapping[str, Tensor] = field(default_factory=lambda: _NO_SEGMENTS)
    """Segment name to bool `[query]` or `[row, query]`."""
    token_source: Callable[[AttentionCall], tuple[tuple[Token, ...], ...]] | None = field(
        default=None, repr=False
    )

    def replace(self, **changes: Any) -> AttentionCall:
        """Return a copy with some fields changed."""
        return dataclasses.replace(self, **changes)

    def tokens(self) -> tuple[tuple[Token, ...], ...]:
        """Identities of the keys, one tuple per row, in key order. Costs time: ask once per step, not per
        layer."""
        if self.token_source is None:
            unknown = tuple(Token(key, "unknown", key) for key in range(self.k.shape[2]))
            return (unknown,) * self.k.shape[0]
        return self.token_source(self)


Run = Callable[[AttentionCall], Tensor]
"""Issues the model's own call and returns its output `[row, head, query, dim]`."""

Handler = Callable[[AttentionCall, Run], Tensor]
"""Looks at a call, edits it or passes it on; returns the output the model shall go on with."""
