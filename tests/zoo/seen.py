"""What a run of a specimen shows: the rows of the table of supported models."""

from __future__ import annotations

from collections.abc import Iterator
from fnmatch import fnmatchcase
from itertools import groupby
from math import isqrt
from typing import Any

import diffusers
import pytest
import transformers

from sinkscope.models import AttentionCall, AttentionMap, attention_map
from sinkscope.models._denoiser import denoisers, forward_inputs
from sinkscope.models.families import family_of

from .records import built, record, short
from .specimen import Specimen


def versions() -> dict[str, str]:
    """Of the libraries that decide what is seen."""
    return {"diffusers": diffusers.__version__, "transformers": transformers.__version__}


def seen(specimen: Specimen) -> dict[str, Any]:
    """One row, from one run; the specimen itself only says how it is called and what it must refuse."""
    calls = record(specimen, **short(specimen))
    roots = denoisers(built(specimen))
    return {
        "name": specimen.name,
        "title": specimen.title,
        "group": specimen.group,
        "class": " + ".join(dict.fromkeys(type(root).__name__ for root in roots.values())),
        "tested": type(built(specimen)).__name__ if specimen.whole else "module alone",
        "kinds": list(dict.fromkeys(call.site.kind for call in calls)),
        "keys": _orders(calls),
        "guidance": _guidance(specimen, calls),
        "text": any(token.text is not None for call in calls for row in call.tokens() for token in row),
        "sites": specimen.sites,
        "refused": specimen.refused,
        "from_config": told_by_config(specimen),
    }


class _Stop(Exception):
    """Ends a run at the door of the pipeline."""


def _given(specimen: Specimen) -> dict[str, Any]:
    """What the specimen's run calls its pipeline or module with, by name; nothing is run."""
    given: dict[str, Any] = {}
    model = built(specimen)

    def stop(self: Any, *args: Any, **kwargs: Any) -> None:
        given.update(kwargs if specimen.whole else forward_inputs(model, args, kwargs))
        raise _Stop

    with pytest.MonkeyPatch.context() as patch, pytest.raises(_Stop):
        patch.setattr(type(model), "__call__", stop)
        specimen.run(model, **short(specimen))
    return given


def _size(specimen: Specimen, given: dict[str, Any]) -> dict[str, int]:
    """Height, width and frames: as the pipeline was asked, or such that a module's latents come out."""
    if specimen.whole:
        named = {"height": "height", "width": "width"}
        named |= dict.fromkeys(("num_frames", "video_length", "segment_frame_length"), "frames")
        return {to: given[name] for name, to in named.items() if given.get(name)}
    family = family_of(built(specimen))
    latents = given.get("hidden_states", given.get("sample"))
    if (
        family is None
        or family.visual == "audio"
        or latents is None
        or latents.dim() not in (3, 4, 5)
        or specimen.group not in ("image", "video")
    ):
        return {}
    if latents.dim() == 3:  # squares of two by two latents as tokens; all of ours are as high as wide
        counts = [
            call.key_segments["image"].sum(-1).max()
            for call in record(specimen)
            if "image" in call.key_segments
        ]
        side = 16 * isqrt(int(max(counts, default=0)))
        return {"height": side, "width": side} if side else {}
    axes = family.latents or ("cfhw" if latents.dim() == 5 else "chw")
    shape = dict(zip(axes, latents.shape[1:], strict=True))
    size = {"height": 8 * shape["h"], "width": 8 * shape["w"]}
    per_frame = attention_map(built(specimen), frames=5).size.latent.frames - 1 or 1
    return {**size, "frames": (shape["f"] - 1) * 4 // per_frame + 1} if "f" in shape else size


def maps(specimen: Specimen) -> Iterator[AttentionMap]:
    """Maps from the configuration, at the size of the run and the lengths its text may have had."""
    calls = record(specimen, **short(specimen))
    given = _given(specimen)
    size = _size(specimen, given)
    lengths = [int(call.key_segments["text"].sum(-1).max()) for call in calls if "text" in call.key_segments]
    lengths += [call.k.shape[2] for call in calls if call.site.kind in ("cross", "causal", "self")]
    lengths += [given.get("max_sequence_length")]
    for text in dict.fromkeys(lengths):
        yield attention_map(built(specimen), **size, text=text)


def told_by_config(specimen: Specimen) -> bool:
    """Whether heads, queries and keys of every call of a denoiser's first pass are those of the real run."""
    calls = record(specimen, **short(specimen))
    real = [(c.site.key, c.site.heads, c.q.shape[2], c.k.shape[2]) for c in calls if not c.evaluation]
    for found in maps(specimen):
        # One denoiser of several runs first: which one depends on the noise.
        for part in found.parts:
            told = [(c.site.key, c.site.heads, c.queries, c.keys) for c in part.calls or ()]
            if specimen.sites is not None:
                told = [call for call in told if fnmatchcase(call[0].partition("#")[0], specimen.sites)]
            if told == real:
                return True
    return False


def _orders(calls: list[AttentionCall]) -> list[str]:
    """Orders of the key segments that occur, most frequent kind of call first."""
    found: dict[str, int] = {}
    for call in calls:
        row = [name for name, _ in groupby(token.segment for token in call.tokens()[-1])]
        # Segments may take turns (places of a video, texts around images): once each is enough to name them.
        order = ", ".join(dict.fromkeys(row))
        found[order] = found.get(order, 0) + 1
    return sorted(found, key=lambda order: (-found[order], order))


def _guidance(specimen: Specimen, calls: list[AttentionCall]) -> str:
    """How the sides of guidance reach the denoiser, with their order."""
    sides = [
        list(dict.fromkeys(info.branch for call in some for info in call.rows))
        for _, some in groupby(calls, lambda call: call.evaluation)
    ]
    if ["none"] in sides or not specimen.whole:
        assert all(side == ["none"] for side in sides)
        assert specimen.guidance in ("distilled", "none")
        return specimen.guidance
    if any(len(side) > 1 for side in sides):
        return f"one batch: {', '.join(sides[0])}"
    return f"separate calls: {', '.join(dict.fromkeys(side[0] for side in sides))}"
