"""What cannot be read off a running model: names.

A family entry says which module lists hold the numbered blocks, what their attention modules are called, in
which order streams are concatenated and which encoders make which part of the text. Nothing else in this room
knows a model by name, and a model that is not listed still works: `_sites` guesses kinds from the modules and
`_layout` finds the order of the streams by perturbation. The shared family test checks every entry here
against that probe.
"""

from __future__ import annotations

from dataclasses import dataclass
from fnmatch import fnmatchcase

from torch import nn

from ._call import Branch, Kind


@dataclass(frozen=True, kw_only=True)
class Family:
    """Names of one denoiser class."""

    stacks: tuple[str, ...]
    """Module lists that hold the numbered blocks, in the order in which they run."""
    kinds: tuple[tuple[str, Kind], ...]
    """Glob of the attention module's path and its kind; the first match counts."""
    joint: tuple[str, ...] = ()
    """Order of the streams in joint attention."""
    text: tuple[tuple[str, tuple[str, ...]], ...] = ()
    """Parts of the text in order: name and the encoders whose tokens share its positions. One part gets no
    own segment."""
    rows: tuple[Branch, Branch] = ("uncond", "cond")
    """Order of the two halves when guidance runs in one batch."""

    def kind(self, name: str) -> Kind | None:
        """Kind of an attention module, None if the table does not say."""
        return next((kind for glob, kind in self.kinds if fnmatchcase(name, glob)), None)


_UNET = Family(
    stacks=("down_blocks", "mid_block", "up_blocks"),
    kinds=(("*.attn1", "self"), ("*.attn2", "cross")),
    text=(("clip", ("text_encoder", "text_encoder_2")),),
)

FAMILIES: dict[str, Family] = {
    "SD3Transformer2DModel": Family(
        stacks=("transformer_blocks",),
        kinds=(("*.attn", "joint"), ("*.attn2", "self")),
        joint=("image", "text"),
        text=(("clip", ("text_encoder", "text_encoder_2")), ("t5", ("text_encoder_3",))),
    ),
    "FluxTransformer2DModel": Family(
        stacks=("transformer_blocks", "single_transformer_blocks"),
        kinds=(("*.attn", "joint"),),
        joint=("text", "image"),
        text=(("t5", ("text_encoder_2",)),),
    ),
    "PixArtTransformer2DModel": Family(
        stacks=("transformer_blocks",),
        kinds=(("*.attn1", "self"), ("*.attn2", "cross")),
        text=(("t5", ("text_encoder",)),),
    ),
    "UNet2DConditionModel": _UNET,
}


def family_of(root: nn.Module) -> Family | None:
    """The entry of a denoiser's class or of the nearest class it inherits from."""
    for kind in type(root).__mro__:
        if kind.__name__ in FAMILIES:
            return FAMILIES[kind.__name__]
    return None
