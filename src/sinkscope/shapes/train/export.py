"""Stage 5: the trained parts as plain pipeline folders, and a CLIP folder."""

from __future__ import annotations

import json
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, StableDiffusionXLPipeline
from safetensors.torch import load_file

from sinkscope.errors import MissingWeightsError
from sinkscope.shapes.train.build import Size, assemble
from sinkscope.shapes.train.checkpoint import Checkpoint
from sinkscope.shapes.train.clip import _Trainee as ClipTrainee
from sinkscope.shapes.train.denoiser import Trainee, latent_scale
from sinkscope.shapes.train.tokenizers import clip_tokenizer
from sinkscope.shapes.train.unet import Trainee as UnetTrainee
from sinkscope.shapes.train.unet import UnetSize, build_scheduler
from sinkscope.shapes.train.vae import build_vae


def export(work: Path, out: Path, *, size: Size, command: list[str]) -> None:
    """Write `out/pipeline`, `out/clip` and `out/training.json` (command, steps, sizes, versions)."""
    vae = build_vae()
    steps = {"vae": Checkpoint(work / "vae", {"model": vae}).restore()}
    trainee, averaged = Trainee(size), Trainee(size)
    steps["denoiser"] = Checkpoint(work / "denoiser", {"model": trainee, "averaged": averaged}).restore()
    mean, std = latent_scale(load_file(work / "latents.safetensors"))
    vae.register_to_config(scaling_factor=1.0 / std, shift_factor=mean)
    pipe = assemble(averaged.transformer, averaged.conditioner, vae)
    pipe.to(torch.float32).save_pretrained(out / "pipeline", safe_serialization=True)
    clip = ClipTrainee()
    steps["clip"] = Checkpoint(work / "clip", {"model": clip}).restore()
    if steps["clip"]:
        clip.clip.save_pretrained(out / "clip", safe_serialization=True)
        clip_tokenizer().save_pretrained(out / "clip")
    _record(out, command=command, steps=steps, size=size.to_dict())


def export_unet(work: Path, out: Path, *, size: UnetSize, pipeline: Path, command: list[str]) -> None:
    """Write `out/pipeline`, a plain `StableDiffusionXLPipeline` folder, and `out/training.json`.

    Autoencoder and text encoders are those of the pipeline folder that the UNet was trained with.
    """
    trainee, averaged = UnetTrainee(size, pipeline), UnetTrainee(size, pipeline)
    done = Checkpoint(work / "unet", {"model": trainee, "averaged": averaged}).restore()
    if not done:
        raise MissingWeightsError(
            f"{work} holds no unet.ckpt.safetensors. Expected a trained UNet: run the same command with "
            "--stage denoiser first."
        )
    pipe = assemble_unet(averaged, AutoencoderKL.from_pretrained(pipeline / "vae", local_files_only=True))
    pipe.to(torch.float32).save_pretrained(out / "pipeline", safe_serialization=True)
    _forget_origin(out / "pipeline" / "vae" / "config.json")
    _record(out, command=command, steps={"denoiser": done}, size=size.to_dict())


def _forget_origin(file: Path) -> None:
    """Take the folder a part was loaded from out of its config: a path of the training machine."""
    config = json.loads(file.read_text())
    config.pop("_name_or_path", None)
    file.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")


def assemble_unet(trained: UnetTrainee, vae: AutoencoderKL) -> StableDiffusionXLPipeline:
    """Put the parts into a `StableDiffusionXLPipeline`."""
    return StableDiffusionXLPipeline(
        unet=trained.unet.to(memory_format=torch.contiguous_format).eval(),
        scheduler=build_scheduler(),
        vae=vae.eval(),
        text_encoder=trained.encoders.clip_l.eval(),
        tokenizer=clip_tokenizer(),
        text_encoder_2=trained.encoders.clip_g.eval(),
        tokenizer_2=clip_tokenizer(pad="!"),
        force_zeros_for_empty_prompt=True,
        add_watermarker=False,
    )


def _record(out: Path, **what: Any) -> None:
    versions = {name: version(name) for name in ("torch", "diffusers", "transformers")}
    (out / "training.json").write_text(json.dumps({**what, "versions": versions}, indent=2) + "\n")
