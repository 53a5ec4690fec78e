"""Which token is what in every family: segments, places, words and their roles."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby, product
from typing import Any

import pytest
import torch
from tests.models.guard import state
from tests.models.shared import evaluations, every
from tests.zoo import SPECIMENS, Specimen
from tests.zoo.records import built, plain, record, record_anew, short

from sinkscope.models import AttentionCall, Session, Token, probe_layout
from sinkscope.models._denoiser import denoisers

pytestmark = pytest.mark.zoo

VISUAL = {"image", "video"}


def _inputs(specimen: Specimen, **changes: Any) -> tuple[list[AttentionCall], Any, tuple[Any, Any]]:
    """The calls of the first forward pass, its denoiser and what that was given."""
    captured: list[tuple[Any, Any, Any]] = []
    handles = [
        root.register_forward_pre_hook(
            lambda module, args, kwargs: captured.append((module, args, kwargs)), with_kwargs=True
        )
        for root in denoisers(built(specimen)).values()
    ]
    calls = evaluations(record_anew(specimen, **changes, **short(specimen)))[0]
    for handle in handles:
        handle.remove()
    root, *given = captured[0]
    return calls, root, (given[0], given[1])


@pytest.mark.parametrize(
    ("specimen", "units"),
    [(s, units) for s in SPECIMENS.values() if s.probed for units in ((1, 2) if s.two and s.whole else (1,))],
    ids=lambda value: getattr(value, "name", value),
)
def test_the_table_agrees_with_the_probe(specimen: Specimen, units: int) -> None:
    """Segments come from a table for listed families; perturbing the inputs must find the same."""
    calls, root, given = _inputs(specimen, **(specimen.two or {} if units == 2 else {}))
    start = _prefix(specimen, root)
    labels = {start + name: found for name, found in probe_layout(root, *given).items()}
    assert set(labels) >= {call.site.key for call in calls}
    if specimen.sites is None:
        assert set(labels) == {call.site.key for call in calls}
    for call in calls:
        found = labels[call.site.key]
        for by_row, segments in (
            (found.key_rows, call.key_segments),
            (found.query_rows, call.query_segments),
        ):
            for row, tokens in enumerate(by_row):
                _compare(specimen, tokens, {name: _row(mask, row) for name, mask in segments.items()})


def _row(mask: torch.Tensor, row: int) -> list[bool]:
    found: list[bool] = (mask if mask.dim() == 1 else mask[row]).tolist()
    return found


def _compare(specimen: Specimen, tokens: Sequence[str | None], segments: dict[str, list[bool]]) -> None:
    """Each token the probe names lies in the segment of that name, and no other stream's."""
    assert specimen.mixed or None not in tokens
    # Padding that a model learned is a register to the probe: no input reaches it.
    streams = {"image", "video", "text", "register", *specimen.names.values(), *specimen.finer}
    for position, token in enumerate(tokens):
        inside = {name for name, mask in segments.items() if mask[position]}
        if token == "register" and specimen.names.get(token) is None:
            assert inside & set(specimen.learned)
            assert not inside & (streams - set(specimen.learned))
        elif token is not None:
            part = {fine for fine, stream in specimen.finer.items() if stream == token} & inside
            assert inside & streams == (part or {specimen.names.get(token, token)})


def _prefix(specimen: Specimen, root: Any) -> str:
    """What site names start with where a pipeline has several denoisers."""
    parts = denoisers(built(specimen))
    return next(f"{part}." for part, module in parts.items() if module is root) if len(parts) > 1 else ""


@every(lambda s: s.probed)
def test_the_probe_disturbs_nothing(specimen: Specimen) -> None:
    pipe = built(specimen)
    _, root, given = _inputs(specimen)
    before, random = state(pipe), torch.get_rng_state()
    with Session(pipe, lambda call, run: run(call), sites=specimen.sites) as session:
        probe_layout(root, *given)
    assert session.calls == 0
    assert state(pipe) == before
    assert torch.equal(torch.get_rng_state(), random)
    assert torch.equal(plain(specimen), specimen.run(pipe))


@every()
def test_the_segments_are_those_declared(specimen: Specimen) -> None:
    calls = record(specimen, **short(specimen))
    parts = {"bos", "content", "padding"} - set(specimen.segments)
    assert {name for call in calls for name in call.key_segments} - parts == set(specimen.segments)


@every(lambda s: s.grid and VISUAL & set(s.segments))
def test_visual_keys_form_a_grid(specimen: Specimen) -> None:
    # A video model may be shown a picture besides, as features that lie nowhere.
    visual = "video" if "video" in specimen.segments else "image"
    for call in record(specimen, **short(specimen)):
        if visual not in call.key_segments:
            continue
        places = [(t.frame, t.row, t.column) for t in call.tokens()[0] if t.segment == visual]
        assert all(row is not None and column is not None for _, row, column in places)
        axes = [list(dict.fromkeys(axis)) for axis in zip(*places, strict=True)]
        assert axes[0] in ([None], list(range(len(axes[0]))))
        assert all(axis == list(range(len(axis))) for axis in axes[1:])
        assert places == list(product(*axes))


def text_tokens(specimen: Specimen) -> list[Token]:
    """The text tokens of a row of the prompt, where keys hold text first."""
    calls = record(specimen, **short(specimen))
    for call in calls:
        for info, tokens in zip(call.rows, call.tokens(), strict=True):
            text = [token for token in tokens if token.segment == "text"]
            if text and text[0].position == 0 and info.branch != "uncond":  # a pooler may see the rest only
                return text
    raise AssertionError("no call has text keys")


@every(lambda s: s.words)
def test_text_keys_have_names(specimen: Specimen) -> None:
    row = text_tokens(specimen)
    positions = [token.position for token in row]
    assert positions == sorted(set(positions))
    if "padding" not in specimen.segments:
        assert positions == list(range(len(row)))
    assert all(token.encoder for token in row)
    assert _spelled(row) == specimen.words


@every(lambda s: s.words and s.two and s.whole)
def test_each_row_of_a_batch_has_its_own_words(specimen: Specimen) -> None:
    assert specimen.words is not None and specimen.two is not None
    expected = (specimen.words, specimen.words.replace("acat", "anowl"))
    seen = set()
    for call in record(specimen, **specimen.two, **short(specimen)):
        if "text" not in call.key_segments or call.site.layer is None:
            continue
        for info, tokens in zip(call.rows, call.tokens(), strict=True):
            if info.branch != "uncond":
                assert _spelled(tokens) == expected[info.unit]
                seen.add(info.unit)
    assert seen == {0, 1}


def _spelled(tokens: Sequence[Token]) -> str:
    content = "".join(token.text or "" for token in tokens if token.role == "content")
    return "".join(letter for letter in content if letter not in "▁Ġ ")


@every(lambda s: s.roles)
def test_text_keys_have_roles(specimen: Specimen) -> None:
    found = [(role, len(list(some))) for role, some in groupby(token.role for token in text_tokens(specimen))]
    assert tuple(found) == specimen.roles
