"""What a family entry says: the names of one denoiser class."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any, Literal

from .._call import Branch, Kind

if TYPE_CHECKING:
    from .._call import AttentionCall
    from .._prompts import Captured
    from .._spans import Spans
    from .._tracker import Evaluation

Taken = Callable[[Any, "Captured", int, int], Sequence[int]]
"""From the pipeline, what an encoder was given, the number of a prompt and the length of the text: which of
the encoder's positions became the positions of the text, in order. Further positions of the text are padding
that no token stands behind."""


@dataclass(frozen=True, kw_only=True)
class Family:
    """Names of one denoiser class."""

    stacks: tuple[str, ...]
    """Module lists that hold the numbered blocks, in the order in which they run."""
    kinds: tuple[tuple[str, Kind], ...]
    """Glob of the attention module's path and its kind; the first match counts."""
    alternate: tuple[str, ...] = ()
    """Lists beside each other whose members run in turn: first of the one, first of the other, second ..."""
    last: tuple[str, ...] = ()
    """Globs of members of a module list that run behind the others of that list."""
    keys: tuple[tuple[str, tuple[str, ...]], ...] = ()
    """Glob of the attention module's path and the segments of its keys, where its kind does not say them; the
    first match counts. For what is said of a model that does not run."""
    visual: str = "image"
    """Name of the stream that is denoised: image, video or audio."""
    latents: str | None = None
    """Order of the axes of a video's latents behind the batch (c, f, h, w); None: found by the channels."""
    joint: tuple[str, ...] = ()
    """Order of the streams in joint attention."""
    text: tuple[tuple[str, tuple[str, ...]], ...] = ()
    """Parts of the text in order: name and the encoders whose tokens share its positions. One part gets no
    own segment."""
    rows: tuple[Branch, Branch] = ("uncond", "cond")
    """Order of the two halves when guidance runs in one batch."""
    spans: Callable[[AttentionCall, Evaluation], Spans | None] | None = None
    """For layouts that order and lengths of streams do not tell (registers, lengths of their own per row):
    the spans of keys and queries of a call, one list for all rows or one per row; None where they do tell."""
    by_block: bool = False
    """Whether alike modules of different blocks may see different streams."""
    taken: Taken | Literal["last"] | None = None
    """Where the pipeline drops tokens of the encoder (a template's head, padding) before the denoiser sees
    them; "last": the encoder's last ones remain; None: position by position."""

    def kind(self, name: str) -> Kind | None:
        """Kind of an attention module, None if the table does not say."""
        return next((kind for glob, kind in self.kinds if fnmatchcase(name, glob)), None)
