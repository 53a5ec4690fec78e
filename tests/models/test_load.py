"""load(): names, folders, files, and what is said when they are wrong."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from tests import tiny

from sinkscope.errors import MissingDependencyError, MissingWeightsError, UsageError
from sinkscope.models import load, sites


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models") / "sd3"
    tiny.tiny_sd3().save_pretrained(folder)
    return folder


@pytest.fixture
def folder(saved: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(saved, tmp_path / "sd3"))


def test_built_pipelines_and_modules_pass_through() -> None:
    pipe = tiny.tiny_sd15()
    assert load(pipe) is pipe
    assert load(pipe.unet) is pipe.unet
    assert load(pipe, dtype="bfloat16").unet.dtype == torch.bfloat16
    assert load(pipe.unet, device="cpu", dtype=torch.float32).dtype == torch.float32


def test_folders_of_pipelines(saved: Path) -> None:
    pipe = load(str(saved))
    pipe.set_progress_bar_config(disable=True)
    assert type(pipe).__name__ == "StableDiffusion3Pipeline"
    assert torch.allclose(
        tiny.run(pipe, output_type="latent"), tiny.run(tiny.tiny_sd3(), output_type="latent"), atol=1e-4
    )
    assert load(saved, dtype="bfloat16").transformer.dtype == torch.bfloat16


def test_folders_of_denoisers(saved: Path) -> None:
    model = load(saved / "transformer")
    assert len(sites(model)) == 3


@pytest.mark.parametrize("name", ["shapes", "shapes-unet"])
def test_the_embedded_models(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    import sinkscope.shapes

    given: dict[str, Any] = {}
    monkeypatch.setattr(sinkscope.shapes, "load", lambda name, **options: given.update(name=name, **options))
    load(name, device="cpu", dtype="bfloat16")
    assert given == {"name": name, "device": "cpu", "dtype": torch.bfloat16}


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("shape", "Unknown model 'shape'.*Did you mean 'shapes'"),
        ("./nowhere", "Model './nowhere' does not exist. Expected 'shapes', 'shapes-unet', a folder"),
        ("/no/such/folder", "does not exist"),
        ("missing.safetensors", "does not exist"),
        (3, "Got int, expected 'shapes'"),
        (None, "Got NoneType"),
    ],
)
def test_names_that_mean_nothing(name: Any, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        load(name)


def test_unknown_dtype() -> None:
    with pytest.raises(UsageError, match="Unknown dtype 'bf16'.*bfloat16"):
        load("shapes", dtype="bf16")


def test_hub_ids_that_cannot_be_fetched(monkeypatch: pytest.MonkeyPatch) -> None:
    import diffusers

    def offline(*args: Any, **kwargs: Any) -> None:
        raise OSError("Cannot load model nobody/nothing: no connection\nmore lines")

    monkeypatch.setattr(diffusers.DiffusionPipeline, "from_pretrained", offline)
    with pytest.raises(
        MissingWeightsError, match=r"no connection\. Check the name.*hf download nobody/nothing"
    ):
        load("nobody/nothing")


def test_missing_packages_are_not_missing_weights(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import diffusers

    def lacking(*args: Any, **kwargs: Any) -> None:
        raise ImportError("T5Tokenizer requires sentencepiece\ndetails")

    monkeypatch.setattr(diffusers.DiffusionPipeline, "from_pretrained", lacking)
    with pytest.raises(MissingDependencyError, match=r"not installed. T5Tokenizer requires sentencepiece\.$"):
        load(folder)


def test_folders_that_are_no_pipelines(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"holds no pipeline.*model_index.json.*found nothing"):
        load(tmp_path)
    (tmp_path / "notes.txt").write_text("")
    with pytest.raises(UsageError, match=r"found notes.txt"):
        load(tmp_path)


def test_a_missing_part_is_named(folder: Path) -> None:
    shutil.rmtree(folder / "vae")
    with pytest.raises(
        MissingWeightsError, match="model_index.json names vae, but there is no such subfolder"
    ):
        load(folder)


def test_missing_weights(folder: Path) -> None:
    (folder / "transformer" / "diffusion_pytorch_model.safetensors").unlink()
    with pytest.raises(MissingWeightsError, match=f"The model in {folder} cannot be loaded: .*safetensors"):
        load(folder)


def test_truncated_weights(folder: Path) -> None:
    weights = folder / "transformer" / "diffusion_pytorch_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(MissingWeightsError, match="cannot be loaded"):
        load(folder)


@pytest.mark.parametrize("text", ["{", "[]", json.dumps({"_class_name": "NoSuchPipeline"})])
def test_damaged_index(folder: Path, text: str) -> None:
    (folder / "model_index.json").write_text(text)
    with pytest.raises(MissingWeightsError, match="cannot be loaded"):
        load(folder)


def test_single_files(tmp_path: Path) -> None:
    pickled = tmp_path / "model.ckpt"
    pickled.write_bytes(b"x")
    with pytest.raises(UsageError, match="can run code and are refused"):
        load(pickled)
    broken = tmp_path / "model.safetensors"
    broken.write_bytes(b"x")
    with pytest.raises(MissingWeightsError, match="cannot be loaded as a pipeline"):
        load(broken)
    lumina = tmp_path / "lumina.safetensors"
    save_file({"model.diffusion_model.cap_embedder.0.weight": torch.zeros(1)}, lumina)
    with pytest.raises((UsageError, MissingWeightsError), match="one file here|cannot be loaded"):
        load(lumina)


def test_single_files_go_to_the_pipeline_of_their_family(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import diffusers
    from diffusers.loaders import single_file_utils

    given: list[Any] = []
    monkeypatch.setattr(
        single_file_utils, "infer_diffusers_model_type", lambda shapes: given.append(shapes) or "sd3"
    )
    monkeypatch.setattr(
        diffusers.StableDiffusion3Pipeline,
        "from_single_file",
        lambda *args, **kwargs: given.append((args, kwargs)),
    )
    path = tmp_path / "any.safetensors"
    save_file({"weight": torch.zeros(2, 3)}, path)
    load(str(path), dtype="float16")
    assert given[0]["weight"].shape == (2, 3) and given[0]["weight"].device.type == "meta"
    (arguments, options) = given[1]
    assert arguments == (str(path),) and options["use_safetensors"] is True
    assert torch.float16 in options.values()
