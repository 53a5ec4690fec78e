"""Text encoders run once per batch of prompts: same images, same token identities, less work."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from tests.study.small import SINK, TEXTS, tiny_study
from tests.tiny import call_arguments, tiny_flux, tiny_pixart, tiny_sd3, tiny_sd15, tiny_sdxl

import sinkscope.study._generate as generating
from sinkscope.models import observe
from sinkscope.study import run
from sinkscope.study._encodings import Encodings
from sinkscope.study._record import weight_hashes

FAMILIES = [tiny_sd3, tiny_sdxl, tiny_sd15, tiny_flux, tiny_pixart]


@contextmanager
def counted(pipe: Any) -> Iterator[list[str]]:
    """Names of text encoders, once per call."""
    calls: list[str] = []
    names = [name for name in pipe.components if name.startswith("text_encoder")]
    parts = {name: getattr(pipe, name) for name in names if getattr(pipe, name) is not None}
    handles = [
        part.register_forward_pre_hook(lambda *_, name=name: calls.append(name))  # type: ignore[misc]
        for name, part in parts.items()
    ]
    yield calls
    for handle in handles:
        handle.remove()


def paint(pipe: Any, **changes: Any) -> tuple[np.ndarray[Any, Any], pd.DataFrame, pd.DataFrame]:
    """Images of two prompts, and everything that was seen of the attention, with identities."""
    arguments = call_arguments(pipe, prompt=["a red cat", "dogs"], num_inference_steps=2, **changes)
    arguments["generator"] = [torch.Generator().manual_seed(seed) for seed in (0, 1)]
    arguments["output_type"] = "np"
    with observe(pipe, kind="all") as seen:
        made = pipe(**arguments)
    return np.asarray(made.images), seen.sinks(keys_per_head=2), seen.roles()


@pytest.mark.parametrize("make", FAMILIES, ids=[make.__name__ for make in FAMILIES])
def test_replayed_prompts_change_no_bit_and_no_identity(make: Callable[[], Any], tmp_path: Path) -> None:
    pipe = make()
    plain = paint(pipe)
    cache = Encodings(tmp_path, pipe, weight_hashes(pipe))
    with counted(pipe) as calls:
        with cache.installed():
            first, again = paint(pipe), paint(pipe)
            ran = len(calls)
            later = Encodings(tmp_path, pipe, weight_hashes(pipe))  # a resumed run: from the disk
        with later.installed():
            resumed = paint(pipe)
    assert ran
    assert len(calls) == ran
    assert later.computed == 0
    for other in (first, again, resumed):
        assert np.array_equal(plain[0], other[0])
        pd.testing.assert_frame_equal(plain[1], other[1])
        pd.testing.assert_frame_equal(plain[2], other[2])
    assert plain[1]["token"].notna().any()
    assert "encode_prompt" not in vars(pipe)


def test_other_prompts_arguments_and_weights_are_other_entries(tmp_path: Path) -> None:
    pipe = tiny_sd3()
    cache = Encodings(tmp_path, pipe, weight_hashes(pipe))
    with cache.installed():
        for changes in ({}, {"negative_prompt": "blue"}, {"guidance_scale": 1.0}):
            paint(pipe, **changes)
        paint(pipe)
    assert cache.computed == len(list(tmp_path.glob("*.safetensors"))) == 3
    other = Encodings(tmp_path, pipe, {**weight_hashes(pipe), "text_encoder": "another"})
    with other.installed():
        paint(pipe)
    assert other.computed == 1


def test_ready_made_embeddings_are_left_alone(tmp_path: Path) -> None:
    pipe = tiny_sd3()
    ready = pipe.encode_prompt("a cat", None, None)
    names = (
        "prompt_embeds",
        "negative_prompt_embeds",
        "pooled_prompt_embeds",
        "negative_pooled_prompt_embeds",
    )
    cache = Encodings(tmp_path, pipe, weight_hashes(pipe))
    with cache.installed():
        pipe(**dict(zip(names, ready, strict=True)), num_inference_steps=1, height=16, width=16)
    assert cache.computed == 0
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("damage", ["cut", "changed"])
def test_a_damaged_file_is_made_again(
    tmp_path: Path, damage: str, capsys: pytest.CaptureFixture[str]
) -> None:
    pipe = tiny_sd3()
    with Encodings(tmp_path, pipe, {}).installed():
        plain = paint(pipe)
    (path,) = tmp_path.iterdir()
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(bytes(data) if damage == "changed" else bytes(data[:-40]))
    cache = Encodings(tmp_path, pipe, {})
    with cache.installed():
        again = paint(pipe)
    assert cache.computed == 1
    assert "is damaged" in capsys.readouterr().err
    assert np.array_equal(plain[0], again[0])


def test_a_study_encodes_each_batch_of_prompts_once_and_leaves_no_files(tmp_path: Path) -> None:
    pipe = tiny_sd3()
    arms = {"sink": SINK, "random": SINK.control("count")}
    study = tiny_study(arms=arms, prompts=TEXTS[:4], metrics=(), margins={}, observe=None)
    with counted(pipe) as calls:
        result = run(study, tmp_path / "run", pipe=pipe, progress=False)
    # Two batches, prompts and negative prompts, three encoders; not once per arm.
    assert {name: calls.count(name) for name in set(calls)} == dict.fromkeys(set(calls), 4)
    assert len(set(calls)) == 3
    assert not (result.folder / "shards" / "encodings").exists()


@pytest.mark.parametrize("make", [tiny_sd3, tiny_sdxl, tiny_flux])
def test_encoders_that_left_are_not_missed(
    make: Callable[[], Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What happens on a GPU, asked for on the CPU."""
    pipe = make()
    kind = {"kind": "cross"} if make is tiny_sdxl else {}
    arms = {"sink": type(SINK)(SINK.select, **kind)}
    size = {"height": 32, "width": 32} if make is tiny_sdxl else {}
    study = tiny_study(arms=arms, prompts=TEXTS[:3], metrics=(), margins={}, **size)
    plain = run(study, tmp_path / "plain", pipe=pipe, progress=False)
    gone: list[bool] = []
    denoiser = pipe.unet if make is tiny_sdxl else pipe.transformer
    handle = denoiser.register_forward_pre_hook(lambda *_: gone.append(pipe.text_encoder is None))
    monkeypatch.setattr(generating, "encoders_leave", lambda _: True)
    other = run(study, tmp_path / "other", pipe=pipe, progress=False)
    handle.remove()
    assert gone
    assert sum(gone) >= len(gone) - 4  # but for the calls that were stopped at the denoiser
    assert pipe.text_encoder is not None
    for arm in ("baseline", "sink"):
        for unit, image in plain.images(arm).items():
            assert np.array_equal(image, other.images(arm)[unit])
    pd.testing.assert_frame_equal(plain.traces(), other.traces())
