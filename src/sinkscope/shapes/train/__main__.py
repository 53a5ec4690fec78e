"""Train the embedded model: `python -m sinkscope.shapes.train --work FOLDER`.

Stages run in order (clip, vae, latents, denoiser, export), each resumes from its checkpoint in the work
folder, so the same command continues a run that was cut off. `--stage` runs one of them.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path

STAGES = ("clip", "vae", "latents", "denoiser", "export")


def main(argv: list[str] | None = None) -> int:
    """Run the stages asked for."""
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    args = _parser().parse_args(argv)
    import torch

    from sinkscope.shapes.train.build import Size
    from sinkscope.shapes.train.clip import train_clip
    from sinkscope.shapes.train.denoiser import Plan, train_denoiser
    from sinkscope.shapes.train.export import export
    from sinkscope.shapes.train.latents import make_latents
    from sinkscope.shapes.train.vae import train_vae
    from sinkscope.shapes.train.warm import warm_start

    torch.set_num_threads(args.threads)
    device = torch.device(args.device)
    args.work.mkdir(parents=True, exist_ok=True)
    size = Size(layers=args.layers, heads=args.heads)
    plan = Plan(
        steps=args.steps,
        batch=args.batch,
        sigma_mean=args.sigma_mean,
        task_shares=tuple(args.task_shares),
        seed=args.seed,
        compile=args.compile,
    )
    if args.start_from is not None:
        warm_start(
            args.work, args.start_from, size=size, vae_steps=args.vae_steps, clip_steps=args.clip_steps
        )
    wanted = STAGES if args.stage == "all" else (args.stage,)
    if "clip" in wanted:
        train_clip(args.work, steps=args.clip_steps, device=device, seed=args.seed)
    if {"vae", "latents", "denoiser"} & set(wanted):
        vae = train_vae(args.work, steps=args.vae_steps, batch=20, device=device).eval()
    if {"latents", "denoiser"} & set(wanted):
        data = make_latents(args.work, vae, n=args.scenes, device=device)
    if "denoiser" in wanted:
        train_denoiser(args.work, data, plan, size=size, device=device)
    if "export" in wanted:
        export(args.work, args.out, size=size, command=_command(args))
    return 0


def _command(args: argparse.Namespace) -> list[str]:
    """The command that trains the same model from nothing."""
    words = ["python", "-m", "sinkscope.shapes.train"]
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
        words += [f"--{name.replace('_', '-')}", str(getattr(args, name))]
    words += ["--task-shares", *map(str, args.task_shares)]
    if args.start_from is not None:
        words += ["--start-from", args.start_from.name]
    return words + ["--compile"] * args.compile


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m sinkscope.shapes.train", description=__doc__)
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
    parser.add_argument("--layers", type=int, default=6)
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
