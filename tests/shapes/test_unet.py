"""The trainer of "shapes-unet" on a minute model: its noise is the scheduler's, a run that was cut off
continues to the same weights, and what it exports is a plain Stable Diffusion XL pipeline."""

from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import DiffusionPipeline, StableDiffusionXLPipeline
from safetensors.torch import save_file

import sinkscope as sk
from sinkscope import shapes
from sinkscope.errors import MissingWeightsError
from sinkscope.shapes._pipeline import ShapesPipeline, ShapesUnetPipeline, open_pipeline
from sinkscope.shapes.train import loop, unet
from sinkscope.shapes.train.__main__ import main
from sinkscope.shapes.train.build import token_ids
from sinkscope.shapes.train.export import export_unet
from sinkscope.shapes.train.loop import Plan
from sinkscope.shapes.train.unet import Trainee, UnetSize, build_scheduler, noised, train_unet

SMALL = UnetSize(layers=1, heads=2, head_dim=16)
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def data() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    ids = token_ids(["a photo of a red circle", "a photo of two stars"] * 8)
    names = ("clip_l", "clip_g", "t5")
    return {
        "latent": torch.randn(16, 4, 16, 16, generator=generator).half(),
        "shape": torch.randint(9, (16, 64), generator=generator, dtype=torch.uint8),
        "color": torch.randint(11, (16, 64), generator=generator, dtype=torch.uint8),
        "task": torch.arange(16, dtype=torch.uint8) % 6,
        **{name: i.to(torch.int16) for name, i in zip(names, ids, strict=True)},
    }


def train(folder: Path, data: dict[str, torch.Tensor], plan: Plan) -> Trainee:
    folder.mkdir(exist_ok=True)
    return train_unet(folder, data, plan, size=SMALL, pipeline=shapes.folder(), device=CPU)


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory, data: dict[str, torch.Tensor]) -> Path:
    work = tmp_path_factory.mktemp("work")
    train(work, data, Plan(steps=2, batch=4))
    export_unet(work, work / "model", size=SMALL, pipeline=shapes.folder(), command=["python"])
    return work / "model"


def test_what_is_exported_names_no_folder_of_the_machine(exported: Path) -> None:
    files = [file for file in exported.rglob("*.json") if "tokenizer" not in file.parent.name]
    assert len(files) > 5
    assert not [file for file in files if str(shapes.folder()) in file.read_text()]


def test_training_goes_on_from_an_exported_unet(
    tmp_path: Path, data: dict[str, torch.Tensor], exported: Path
) -> None:
    plan = Plan(steps=0)
    begun = train_unet(
        tmp_path, data, plan, size=SMALL, pipeline=exported / "pipeline", device=CPU
    ).unet.state_dict()
    shipped = sk.load(exported / "pipeline").unet.state_dict()
    assert all(torch.equal(begun[name], value) for name, value in shipped.items())
    fresh = train(tmp_path / "fresh", data, plan).unet.state_dict()
    assert any(not torch.equal(fresh[name], value) for name, value in shipped.items())


def test_a_resumed_run_ends_with_the_same_weights(
    tmp_path: Path, data: dict[str, torch.Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = Plan(steps=4, batch=4, task_shares=(0.5, 1, 1, 0.5, 2, 2))
    whole = train(tmp_path / "whole", data, plan).state_dict()
    original, calls = unet._loss, []

    def cut(*args: object) -> object:
        calls.append(1)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return original(*args)

    monkeypatch.setattr(loop, "_SAVE_EVERY", 2)
    monkeypatch.setattr(unet, "_loss", cut)
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path / "cut", data, plan)
    monkeypatch.setattr(unet, "_loss", original)
    resumed = train(tmp_path / "cut", data, plan).state_dict()
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)


def test_a_few_steps_reduce_the_loss(
    tmp_path: Path, data: dict[str, torch.Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    losses = []
    original = unet._loss
    one_scene = {name: tensor[:1].expand_as(tensor) for name, tensor in data.items()}

    def watched(*args: object) -> tuple[torch.Tensor, torch.Tensor]:
        found = original(*args)
        losses.append([part.item() for part in found])
        return found

    monkeypatch.setattr(unet, "_loss", watched)
    train(tmp_path / "work", one_scene, Plan(steps=24, batch=8, matrix_lr=0.05, other_lr=0.05))
    early, late = np.mean(losses[:5], axis=0), np.mean(losses[-5:], axis=0)
    assert late[0] < 0.8 * early[0] and late[1] < 0.6 * early[1]


def test_an_oracle_recovers_the_latent_through_the_pipeline(
    exported: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The velocity that training asks for, given to the pipeline's scheduler, leads back to the picture."""
    pipe = open_pipeline(exported / "pipeline")
    clean = torch.randn(1, 4, 16, 16, generator=torch.Generator().manual_seed(3))
    shares = build_scheduler().alphas_cumprod
    seen: list[tuple[int, torch.Tensor]] = []

    def oracle(latent: torch.Tensor, timestep: torch.Tensor, **_: object) -> tuple[torch.Tensor]:
        share = shares[int(timestep)].expand(len(latent))
        noise = (latent - share.sqrt()[0] * clean) / (1 - share[0]).sqrt()
        seen.append((int(timestep), noise[:1]))
        found = noised(clean.expand_as(latent), noise, share)
        torch.testing.assert_close(found.latent, latent, rtol=1e-4, atol=1e-4)
        return (found.velocity,)

    monkeypatch.setattr(pipe.unet, "forward", oracle)
    generator = torch.Generator().manual_seed(7)
    latent = pipe("a photo of a red circle", generator=generator, output_type="latent").images
    torch.testing.assert_close(latent, clean, rtol=0, atol=2e-3)
    assert len(seen) == 20 and seen[0][0] == 999 and seen[-1][0] == 49
    # What training calls noise is the noise that the pipeline began with, at every step.
    assert all(torch.allclose(noise, seen[0][1], atol=5e-3) for _, noise in seen)
    assert seen[0][1].std() == pytest.approx(1, abs=0.1)


def test_training_ends_at_pure_noise_and_visits_every_level() -> None:
    assert build_scheduler().alphas_cumprod[-1] < 1e-6
    plan = Plan(steps=1, batch=50)
    generator = torch.Generator().manual_seed(0)
    drawn = torch.stack([unet._timesteps(plan, 1000, generator) for _ in range(200)])
    assert all(((row >= 20 * i) & (row < 20 * (i + 1))).all() for i, row in enumerate(drawn.T))
    later = unet._timesteps(Plan(steps=1, batch=50, sigma_mean=1.0), 1000, generator)
    assert later.float().mean() > 600 and later.max() <= 999


def test_rows_without_a_prompt_see_what_the_pipeline_gives_them(
    exported: Path, data: dict[str, torch.Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Text states, pooled text and image size of training are those of `encode_prompt` and the pipeline."""
    pipe = open_pipeline(exported / "pipeline")
    calls: list[dict[str, torch.Tensor]] = []

    def keep(latent: torch.Tensor, *args: torch.Tensor, **options: object) -> object:
        states = options.get("encoder_hidden_states", args[1] if len(args) > 1 else None)
        calls.append({"states": states, **options["added_cond_kwargs"]})
        return type("Output", (tuple,), {"sample": latent})((latent,))

    monkeypatch.setattr(pipe.unet, "forward", keep)
    pipe("a photo of a red circle", num_inference_steps=1, output_type="latent")
    trainee = Trainee(SMALL, shapes.folder())
    trainee._middle = torch.zeros(2, 32, 8, 8)
    monkeypatch.setattr(trainee.unet, "forward", keep)
    ids = (data["clip_l"][[1, 0]].long(), data["clip_g"][[1, 0]].long())
    zeroed = torch.tensor([True, False])
    trainee(torch.zeros(2, 4, 16, 16), ids, zeroed, torch.tensor([999, 999]))
    of_pipeline, of_training = calls
    for name in ("states", "text_embeds", "time_ids"):
        torch.testing.assert_close(of_pipeline[name].float(), of_training[name].float())
    assert not of_training["states"][0].any() and of_training["states"][1].any()


def test_plain_diffusers_loads_what_is_exported(exported: Path) -> None:
    plain = DiffusionPipeline.from_pretrained(exported / "pipeline", local_files_only=True)
    plain.set_progress_bar_config(disable=True)
    assert type(plain) is StableDiffusionXLPipeline
    assert plain.config.force_zeros_for_empty_prompt
    ours = open_pipeline(exported / "pipeline")
    assert type(ours) is ShapesUnetPipeline and type(open_pipeline(shapes.folder())) is ShapesPipeline
    pictures = [
        np.asarray(pipe("a photo of a ring", generator=torch.Generator().manual_seed(1), **options).images[0])
        for pipe, options in ((plain, shapes.defaults("shapes-unet")), (ours, {}))
    ]
    assert pictures[0].shape == (64, 64, 3) and np.array_equal(*pictures)
    short = ours("a photo of a ring", None, None, None, 1, output_type="latent").images
    named = ours("a photo of a ring", num_inference_steps=1, output_type="latent").images
    assert short.shape == named.shape == (1, 4, 16, 16)


def test_text_encoders_and_autoencoder_are_those_of_shapes(exported: Path) -> None:
    ours, theirs = open_pipeline(exported / "pipeline"), shapes.load()
    for name in ("text_encoder", "text_encoder_2", "vae"):
        shipped = getattr(theirs, name).state_dict()
        for key, value in getattr(ours, name).state_dict().items():
            other = shipped[key] if key in shipped else shipped[f"text_model.{key}"]
            assert torch.equal(value, other), f"{name}.{key}"
    assert ours.vae.config.scaling_factor == theirs.vae.config.scaling_factor


def test_its_sites_are_self_and_cross_attention(exported: Path) -> None:
    pipe = sk.load(exported / "pipeline")
    found = sk.sites(pipe)
    assert {site.kind for site in found} == {"self", "cross"}
    assert sum(site.kind == "self" for site in found) == 1 + 1 + 2
    with sk.observe(pipe, kind="cross", queries="image") as seen:
        pipe("a photo of a red circle", num_inference_steps=1, guidance_scale=4.0)
    summary = seen.summary()
    assert set(summary["branch"]) == {"cond", "uncond"}
    # Zeros for an absent prompt make all keys of a cross-attention equal.
    uniform = summary.loc[summary["branch"] == "uncond", "max_mass"]
    assert np.allclose(uniform, 1 / 16, atol=1e-5)


def test_the_command_trains_and_exports(
    tmp_path: Path, data: dict[str, torch.Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    save_file(data, tmp_path / "latents.safetensors")
    common = ["--model", "unet", "--work", str(tmp_path), "--out", str(tmp_path / "out"), "--threads", "1"]
    common += ["--scenes", "16", "--steps", "1", "--batch", "2", "--layers", "1", "--heads", "2"]
    with pytest.raises(MissingWeightsError, match="no unet.ckpt.safetensors.*--stage denoiser"):
        main([*common, "--stage", "export"])
    assert main([*common, "--start-from", str(shapes.folder().parent)]) == 0
    monkeypatch.setitem(shapes._FOLDERS, "shapes-unet", tmp_path / "out")
    record = shapes.training_record("shapes-unet")
    assert record["steps"] == {"denoiser": 1} and record["size"]["layers"] == 1
    assert "--vae-steps" not in record["command"] and record["command"][3:5] == ["--model", "unet"]
    assert type(sk.load("shapes-unet")) is ShapesUnetPipeline


@pytest.mark.parametrize("size", [{"heads": 3}, {"head_dim": 20}])
def test_sizes_that_cannot_be_halved_are_refused(size: dict[str, int]) -> None:
    with pytest.raises(sk.errors.UsageError, match="expected an even number of heads.*multiple of 8"):
        UnetSize(**size)


def test_a_missing_unet_is_one_clear_error(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(shapes._FOLDERS, "shapes-unet", tmp_path)
    with pytest.raises(MissingWeightsError, match="'shapes-unet' is not in.*shapes.train --model unet"):
        sk.load("shapes-unet")
    with pytest.raises(sk.errors.UsageError, match="Unknown embedded model 'shape'.*Did you mean 'shapes'"):
        shapes.folder("shape")
