"""Stage 5: the trained parts as a plain `StableDiffusion3Pipeline` folder and a CLIP folder."""

from __future__ import annotations

import json
from importlib.metadata import version
from pathlib import Path

import torch
from safetensors.torch import load_file

from sinkscope.shapes.train.build import Size, assemble
from sinkscope.shapes.train.checkpoint import Checkpoint
from sinkscope.shapes.train.clip import _Trainee as ClipTrainee
from sinkscope.shapes.train.denoiser import Trainee, latent_scale
from sinkscope.shapes.train.tokenizers import clip_tokenizer
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
    record = {
        "command": command,
        "steps": steps,
        "size": size.to_dict(),
        "versions": {name: version(name) for name in ("torch", "diffusers", "transformers")},
    }
    (out / "training.json").write_text(json.dumps(record, indent=2) + "\n")
