"""A warm start: checkpoints made from an exported model, so that training goes on where it stopped.

Autoencoder and CLIP count as finished. The denoiser starts at step 0 with the exported weights, a fresh
optimizer and a fresh read-out.
"""

from __future__ import annotations

from pathlib import Path

from diffusers import AutoencoderKL, SD3Transformer2DModel
from transformers import CLIPModel, CLIPTextModelWithProjection, T5EncoderModel

from sinkscope.errors import UsageError
from sinkscope.shapes.train.build import Size
from sinkscope.shapes.train.checkpoint import Checkpoint
from sinkscope.shapes.train.clip import _Trainee as ClipTrainee
from sinkscope.shapes.train.denoiser import Trainee
from sinkscope.shapes.train.vae import build_vae


def warm_start(work: Path, model: Path, *, size: Size, vae_steps: int, clip_steps: int) -> None:
    """Write the checkpoints of all stages from `model/pipeline` and `model/clip` into an empty work folder.

    Raises:
        UsageError: The work folder holds checkpoints already.
    """
    old = sorted(work.glob("*.ckpt.safetensors"))
    if old:
        raise UsageError(
            f"{work} already holds {old[0].name}. Expected an empty folder for a warm start: name another "
            "one with --work, or leave --start-from away to continue."
        )
    pipeline = model / "pipeline"
    vae = build_vae()
    vae.load_state_dict(AutoencoderKL.from_pretrained(pipeline / "vae").state_dict())
    Checkpoint(work / "vae", {"model": vae}).save(vae_steps)
    clip = ClipTrainee()
    clip.clip.load_state_dict(CLIPModel.from_pretrained(model / "clip").state_dict())
    Checkpoint(work / "clip", {"model": clip}).save(clip_steps)
    trainee = Trainee(size)
    trainee.transformer.load_state_dict(
        SD3Transformer2DModel.from_pretrained(pipeline / "transformer").state_dict()
    )
    encoders = trainee.conditioner
    for part, kind, name in (
        (encoders.clip_l, CLIPTextModelWithProjection, "text_encoder"),
        (encoders.clip_g, CLIPTextModelWithProjection, "text_encoder_2"),
        (encoders.t5, T5EncoderModel, "text_encoder_3"),
    ):
        part.load_state_dict(kind.from_pretrained(pipeline / name).state_dict())
    Checkpoint(work / "denoiser", {"model": trainee, "averaged": trainee}).save(0)
