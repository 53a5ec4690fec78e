"""The command line: arguments in, one call out.

Exit codes: 0 done, 1 failed, 2 wrong usage, 130 interrupted. Errors are one message on standard error, never
a traceback for something the user can mend. Nothing heavy is imported before a command needs it.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from sinkscope._version import __version__
from sinkscope.errors import SinkscopeError

EPILOG = """examples:
  sinkscope demo --quick
  sinkscope run study.yaml --out runs/first
  sinkscope run study.yaml --device cuda:0,cuda:1
  sinkscope presets
  sinkscope run paper/table6 --variant as_released
  sinkscope run --model path/to/pipeline --prompts prompts.txt --out runs/mine
  sinkscope score runs/mine --metrics clip_t,ssim
  sinkscope observe shapes --prompt "a photo of a red circle"
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code."""
    # Spinning OpenMP threads halve the speed of two processes on one machine; must be set before torch is
    # imported.
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    # On import transformers speaks of torchvision, which nothing here needs.
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    parser = build_parser()
    try:
        arguments = parser.parse_args(argv)
    except SystemExit as stop:  # argparse leaves this way for --help and for wrong usage
        return stop.code if isinstance(stop.code, int) else 2
    if arguments.command is None:
        parser.print_help()
        return 2
    return _guarded(arguments)


def _guarded(arguments: argparse.Namespace) -> int:
    from sinkscope import _commands

    try:
        return int(getattr(_commands, arguments.command)(arguments) or 0)
    except SinkscopeError as error:
        _say(f"error: {error}", *getattr(error, "__notes__", ()))
        return error.exit_code
    except KeyboardInterrupt:
        _say("", "Interrupted.", *_commands.kept(arguments))
        return 130
    except BrokenPipeError:
        # The reader of a pipe such as `| head` has left; the interpreter would complain once more at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1


def _say(*lines: str) -> None:
    for line in lines:
        print(line, file=sys.stderr)


def build_parser() -> argparse.ArgumentParser:
    """The parser of all commands."""
    parser = argparse.ArgumentParser(
        prog="sinkscope",
        description="Measure attention sinks in diffusion transformers, remove them while generating, and "
        "say what that changed.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"sinkscope {__version__}")
    commands = parser.add_subparsers(dest="command", metavar="command", title="commands")
    adders = (_demo, _presets, _run, _score, _convert, _report, _compare, _power, _planted, _observe, _sites)
    for add in (*adders, _doctor):
        add(commands)
    return parser


def _common(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--device", help="cpu, cuda, cuda:1 ... (default: a GPU where there is one)")
    _quiet(parser)


def _generating(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--device",
        help="cpu, cuda, or several such as cuda:0,cuda:1, a worker on each (default: a GPU "
        "where there is one)",
    )
    parser.add_argument(
        "--workers",
        type=int,
        metavar="N",
        help="processes that generate, each with a model of its own; the results are the same (default: 1; "
        "on a CPU one per core where the model is small and there is enough to do)",
    )
    _quiet(parser)


def _quiet(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--quiet", action="store_true", help="no progress")


def _backend(parser: argparse._ActionsContainer) -> None:
    parser.add_argument(
        "--backend",
        metavar="NAME",
        help="what measures attention: triton, rowblock or reference; an error where it cannot run "
        "(default: the fastest that can)",
    )


def _demo(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = commands.add_parser("demo", help="run the demo study on the embedded model and write its page")
    parser.add_argument("--quick", action="store_true", help="24 prompts, 10 steps, fewer arms")
    parser.add_argument("--out", type=Path, help="run folder (default: runs/demo or runs/demo-quick)")
    _generating(parser)


def _run(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = commands.add_parser(
        "run",
        help="run a study, or continue one; the same command resumes",
        description="Run a preset, a study file, or the default arms (null, strongest sinks, as many random "
        "keys).",
    )
    parser.add_argument(
        "study", nargs="?", metavar="STUDY", help="a study file (.yaml), or a preset such as paper/table6"
    )
    _variant(parser)
    parser.add_argument("--out", type=Path, help="run folder (default: runs/<name>-<hash>)")
    _backend(parser)
    _generating(parser)
    own = parser.add_argument_group("without a study file; with a preset most of them change it")
    own.add_argument("--model", help="'shapes', 'shapes-unet', a pipeline folder, or a hub id")
    own.add_argument(
        "--prompts",
        help="'shapes', 'geneval', or a prompt file such as .txt or .csv (default: shapes for shapes)",
    )
    own.add_argument(
        "--n-prompts", type=int, help="how many prompts to draw (default: all of a file, 24 of shapes)"
    )
    own.add_argument("--seeds", type=numbers, metavar="0,1", help="seeds (default: 0)")
    own.add_argument("--steps", type=int, help="sampler steps (default: 20)")
    own.add_argument("--guidance", type=float, help="guidance scale (default: the pipeline's)")
    own.add_argument("--height", type=int, help="pixels (default: the pipeline's)")
    own.add_argument("--width", type=int, help="pixels (default: the pipeline's)")
    own.add_argument("--frames", type=int, help="frames of a video (default: the pipeline's)")
    own.add_argument("--batch", type=int, help="units per batch (default: by model size and device)")
    own.add_argument("--layers", type=numbers, metavar="0,3-5", help="layers to edit (default: all)")
    own.add_argument("--budgets", type=numbers, metavar="1,5", help="keys per head to remove (default: 1)")
    own.add_argument(
        "--metrics", type=names, metavar="ssim,rmse", help="metrics (default: those that fit the model)"
    )
    _option(own)


def _presets(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = commands.add_parser("presets", help="list the named studies, or say what one of them does")
    parser.add_argument("name", nargs="?", metavar="NAME", help="for example paper/table6")
    parser.add_argument("--model", help="plan it for this model (default: the preset's own)")
    _variant(parser)
    parser.add_argument("--out", type=Path, help="write its study as a .yaml file")


def _variant(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--variant", help="of a preset: corrected (default) or as_released")
    parser.add_argument(
        "--scale", help="of a preset: demo or full (default: demo for embedded models, full for others)"
    )


def _score(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = commands.add_parser("score", help="score a finished run again or with further metrics")
    parser.add_argument("run", nargs="?", type=Path, metavar="RUN", help="run folder")
    parser.add_argument(
        "--metrics", type=names, metavar="ssim,lpips", help="metrics to add (default: the run's own)"
    )
    _option(parser)
    parser.add_argument(
        "--list", action="store_true", help="list the metrics and whether they can be computed here"
    )
    _common(parser)


def _convert(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = commands.add_parser(
        "convert",
        help="make safetensors of released metric weights that come as pickles",
        description="Without arguments: list what can be converted. Pickles are read as tensors only "
        "(weights_only); none of their code runs.",
    )
    parser.add_argument("kind", nargs="?", metavar="KIND", help="hps, imagereward, lpips-alex ...")
    parser.add_argument("sources", nargs="*", type=Path, metavar="FILE", help="the released files, in order")
    parser.add_argument("--out", type=Path, help="folder to write (default: where the metric looks)")
    parser.add_argument("--tokenizer", help="folder or hub id of the tokenizer that goes along")


def _report(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = commands.add_parser("report", help="write report.html of a run")
    parser.add_argument("run", type=Path, metavar="RUN", help="run folder")


def _compare(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = commands.add_parser(
        "compare",
        help="a run of one of the paper's presets beside the published numbers",
        description="Every cell of the run with its interval, beside what the paper's release states about "
        "it. Cells that are not stated stay empty.",
    )
    parser.add_argument("run", type=Path, metavar="RUN", help="run folder")
    parser.add_argument("--out", type=Path, help="write the table as .csv (all columns), .md or .tex")
    parser.add_argument("--notes", action="store_true", help="print the remarks on the rows too")


def _power(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = commands.add_parser(
        "power",
        help="what a finished run could have found, and how many prompts another one needs",
        description="From the spread between prompts of a finished run: the smallest effect it could find, "
        "the smallest margin it could stay inside, and the prompts needed for --effect or --margin.",
    )
    parser.add_argument("run", type=Path, metavar="RUN", help="run folder")
    parser.add_argument("--metric", help="one metric (default: all)")
    asked = parser.add_mutually_exclusive_group()
    asked.add_argument("--effect", type=float, help="a difference to be found, in the metric's units")
    asked.add_argument("--margin", type=float, help="a margin to stay inside (default: the study's own)")
    parser.add_argument("--power", type=float, default=0.8, help="chance of success (default: 0.8)")


def _planted(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = commands.add_parser(
        "planted",
        help="judge models whose truth is planted; 1 if any answer is wrong",
        description="Models built by hand, whose sinks and effects are known, go through the ordinary study.",
    )
    parser.add_argument("--seeds", type=int, default=20, help="models per case (default: 20)")
    parser.add_argument("--cases", type=names, metavar="moving,only_mass", help="cases (default: all)")
    parser.add_argument("--out", type=Path, help="write every answer as .csv")
    parser.add_argument("--quiet", action="store_true", help="no progress")


def _observe(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = commands.add_parser("observe", help="generate one image or video and show its sinks")
    parser.add_argument(
        "model", metavar="MODEL", help="'shapes', 'shapes-unet', a pipeline folder, or a hub id"
    )
    parser.add_argument("--prompt", required=True)
    parser.add_argument("--layers", type=numbers, metavar="0,3-5", help="layers to watch (default: all)")
    parser.add_argument("--kind", help="joint, self, cross, temporal or all, where blocks hold several sites")
    parser.add_argument("--queries", help="image, text or all (default: image where the model has them)")
    parser.add_argument("--keys-per-head", type=int, default=1, help="sinks to list per head (default: 1)")
    parser.add_argument("--steps", type=int, default=20, help="sampler steps (default: 20)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--height", type=int)
    parser.add_argument("--width", type=int)
    parser.add_argument("--frames", type=int, help="frames of a video (default: the pipeline's)")
    parser.add_argument("--out", type=Path, help="write the table of sinks as .parquet or .csv")
    _backend(parser)
    parser.add_argument("--device", help="cpu, cuda, cuda:1 ... (default: a GPU where there is one)")


def _sites(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = commands.add_parser(
        "sites",
        help="the attention map of a model, from its configuration alone",
        description="Layers, kinds, heads, tokens by segment at a given size, what cannot be seen and what "
        "observing costs. Reads configurations only: no weights are loaded or fetched.",
    )
    parser.add_argument(
        "model",
        nargs="?",
        metavar="MODEL",
        help="a name such as 'shapes', a folder, a .safetensors file, or a hub id",
    )
    parser.add_argument("--height", type=int, help="pixels (default: the pipeline's)")
    parser.add_argument("--width", type=int, help="pixels (default: the pipeline's)")
    parser.add_argument("--frames", type=int, help="frames of a video (default: the pipeline's)")
    parser.add_argument(
        "--text", type=int, help="text tokens (default: as many as the pipeline pads or cuts to)"
    )
    parser.add_argument("--all", action="store_true", help="one row per call instead of alike ones together")
    parser.add_argument("--families", action="store_true", help="list the models that the tests run")


def _doctor(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    commands.add_parser(
        "doctor", help="versions, devices, weights: what is here, what is missing, how to get it"
    )


def _option(parser: argparse._ActionsContainer) -> None:
    parser.add_argument(
        "--option",
        type=option,
        action="append",
        metavar="METRIC.NAME=VALUE",
        help="an option of a metric, for example clip_t.checkpoint=openai/clip-vit-base-patch32",
    )


def option(text: str) -> tuple[str, str, str | int | float]:
    """One option of a metric: "clip_t.batch=8" is ("clip_t", "batch", 8)."""
    key, equals, value = text.partition("=")
    metric, dot, name = key.partition(".")
    if not (equals and dot and metric and name and value):
        raise argparse.ArgumentTypeError(f"{text!r}: expected METRIC.NAME=VALUE, for example clip_t.batch=8")
    for kind in (int, float):
        try:
            return metric, name, kind(value)
        except ValueError:
            continue
    return metric, name, value


def names(text: str) -> tuple[str, ...]:
    """Comma-separated names."""
    found = tuple(part.strip() for part in text.split(",") if part.strip())
    if not found:
        raise argparse.ArgumentTypeError(f"{text!r} holds no name; expected for example ssim,rmse")
    return found


def numbers(text: str) -> tuple[int, ...]:
    """Comma-separated whole numbers and ranges: "0,3-5" is 0, 3, 4, 5."""
    found: list[int] = []
    for part in text.split(","):
        first, dash, last = part.strip().partition("-")
        if not first.isdigit() or (dash and not last.isdigit()) or (dash and int(last) < int(first)):
            raise argparse.ArgumentTypeError(f"{text!r}: expected whole numbers and ranges such as 0,3-5")
        found += range(int(first), int(last or first) + 1)
    return tuple(found)


__all__ = ["build_parser", "main", "names", "numbers", "option"]

if __name__ == "__main__":
    sys.exit(main())
