"""Train the embedded models: `python -m sinkscope.shapes.train --work FOLDER`.

Stages run in order (clip, vae, latents, denoiser, export), each resumes from its checkpoint in the work
folder, so the same command continues a run that was cut off. `--stage` runs one of them.

`--model transformer` is "shapes". `--model unet` is "shapes-unet": it takes text encoders and autoencoder,
unchanged, from the model that `--start-from` names (default: the shipped one) and runs latents, denoiser and
export. Where that model is a UNet itself, training goes on from its weights.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

    from sinkscope.shapes.train.loop import Plan

STAGES = ("clip", "vae", "latents", "denoiser", "export")
_TRANSFORMER_ONLY = ("vae_steps", "clip_steps")


def main(argv: list[str] | None = None) -> int:
    """Run the stages asked for."""
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    args = _parser().parse_args(argv)
    import torch

    from sinkscope.shapes.train.loop import Plan

    torch.set_num_threads(args.threads)
    args.work.mkdir(parents=True, exist_ok=True)
    plan = Plan(
        steps=args.steps,
        batch=args.batch,
        sigma_mean=args.sigma_mean,
        task_shares=tuple(args.task_shares),
        seed=args.seed,
        compile=args.compile,
    )
    wanted = STAGES if args.stage == "all" else (args.stage,)
    train = _train_unet if args.model == "unet" else _train_transformer
    train(args, plan, set(wanted), torch.device(args.device))
    return 0


def _train_transformer(args: argparse.Namespace, plan: Plan, wanted: set[str], device: torch.device) -> None:
    from sinkscope.shapes.train.build import Size
    from sinkscope.shapes.train.clip import train_clip
    from sinkscope.shapes.train.denoiser import train_denoiser
    from sinkscope.shapes.train.export import export
    from sinkscope.shapes.train.latents import make_latents
    from sinkscope.shapes.train.vae import train_vae
    from sinkscope.shapes.train.warm import warm_start

    size = Size(layers=args.layers or Size.layers, heads=args.heads)
    if args.start_from is not None:
        warm_start(
            args.work, args.start_from, size=size, vae_steps=args.vae_steps, clip_steps=args.clip_steps
        )
    if "clip" in wanted:
        train_clip(args.work, steps=args.clip_steps, device=device, seed=args.seed)
    if {"vae", "latents", "denoiser"} & wanted:
        vae = train_vae(args.work, steps=args.vae_steps, batch=20, device=device).eval()
    if {"latents", "denoiser"} & wanted:
        data = make_latents(args.work, vae, n=args.scenes, device=device)
    if "denoiser" in wanted:
        train_denoiser(args.work, data, plan, size=size, device=device)
    if "export" in wanted:
        export(args.work, args.out, size=size, command=_command(args, size.layers))


def _train_unet(args: argparse.Namespace, plan: Plan, wanted: set[str], device: torch.device) -> None:
    from diffusers import AutoencoderKL

    from sinkscope import shapes
    from sinkscope.shapes.train.export import export_unet
    from sinkscope.shapes.train.latents import make_latents
    from sinkscope.shapes.train.unet import UnetSize, train_unet

    size = UnetSize(layers=args.layers or UnetSize.layers, heads=args.heads)
    pipeline = shapes.folder() if args.start_from is None else args.start_from / "pipeline"
    if {"latents", "denoiser"} & wanted:
        vae = AutoencoderKL.from_pretrained(pipeline / "vae", local_files_only=True).to(device).eval()
        data = make_latents(args.work, vae, n=args.scenes, device=device)
    if "denoiser" in wanted:
        train_unet(args.work, data, plan, size=size, pipeline=pipeline, device=device)
    if "export" in wanted:
        command = _command(args, size.layers)
        export_unet(args.work, args.out, size=size, pipeline=pipeline, command=command)


def _command(args: argparse.Namespace, layers: int) -> list[str]:
    """The command that trains the same model from nothing."""
    words = ["python", "-m", "sinkscope.shapes.train"]
    words += ["--model", args.model] if args.model != "transformer" else []
    for name in (
        "steps",
        "batch",
        "scenes",
        "layers",
        "heads",
        "vae_steps",
        "clip_steps",
        "sigma_mean",
        "seed",
    ):
        if args.model == "transformer" or name not in _TRANSFORMER_ONLY:
            value = layers if name == "layers" else getattr(args, name)
            words += [f"--{name.replace('_', '-')}", str(value)]
    words += ["--task-shares", *map(str, args.task_shares)]
    if args.start_from is not None:
        words += ["--start-from", args.start_from.name]
    return words + ["--compile"] * args.compile


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m sinkscope.shapes.train", description=__doc__)
    parser.add_argument("--model", choices=["transformer", "unet"], default="transformer")
    parser.add_argument("--work", type=Path, default=Path("training"), help="folder of checkpoints")
    parser.add_argument(
        "--out", type=Path, default=Path("training/model"), help="folder to export the pipeline to"
    )
    parser.add_argument("--stage", choices=["all", *STAGES], default="all")
    parser.add_argument(
        "--start-from", type=Path, help="exported model to begin from, for example src/sinkscope/shapes/model"
    )
    parser.add_argument("--steps", type=int, default=6000, help="training steps of the denoiser")
    parser.add_argument("--batch", type=int, default=64, help="rows of a denoiser step")
    parser.add_argument("--scenes", type=int, default=40_000, help="painted scenes")
    parser.add_argument(
        "--layers", type=int, help="blocks of the transformer (6), layers per block of the UNet (4)"
    )
    parser.add_argument("--heads", type=int, default=4)
    parser.add_argument("--vae-steps", type=int, default=1000)
    parser.add_argument("--clip-steps", type=int, default=1500)
    parser.add_argument("--sigma-mean", type=float, default=0.0, help="mean logit of the noise level")
    parser.add_argument(
        "--task-shares", type=float, nargs=6, default=[1.0] * 6, help="how often each GenEval task is drawn"
    )
    parser.add_argument("--seed", type=int, default=2)
    parser.add_argument(
        "--compile", action="store_true", help="compile the blocks (needs a C++ compiler on CPU)"
    )
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    return parser


if __name__ == "__main__":
    raise SystemExit(main())
