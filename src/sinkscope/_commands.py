"""What each command of the command line does. Heavy imports happen inside the functions."""

from __future__ import annotations

import re
import sys
from argparse import Namespace
from collections.abc import Callable, Sequence
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sinkscope import _recipe_commands
from sinkscope._planted_command import planted as planted
from sinkscope._recipe_commands import compare as compare
from sinkscope._recipe_commands import presets as presets
from sinkscope._sites_command import sites as sites
from sinkscope._stats_commands import power as power
from sinkscope.errors import SinkscopeError, UsageError

if TYPE_CHECKING:
    import pandas as pd

    from sinkscope.study import Run, Study

ONLY_WITHOUT_FILE = tuple(
    "model prompts n_prompts seeds steps guidance height width frames batch layers budgets metrics "
    "option".split()
)
SHAPES_PROMPTS = 24


def demo(arguments: Namespace) -> int:
    """Run the demo study and write its page."""
    from sinkscope.study.demo import demo as demo_study

    study = demo_study(quick=arguments.quick)
    return _run_study(study, arguments, pipe=None)


def _with_backend(command: Callable[[Namespace], int]) -> Callable[[Namespace], int]:
    """A command that measures with the backend `--backend` names; refused before any model is loaded."""

    @wraps(command)
    def measured(arguments: Namespace) -> int:
        if arguments.backend is None:
            return command(arguments)
        import torch

        from sinkscope.attention import use_backend

        device = arguments.device or ("cuda" if torch.cuda.is_available() else "cpu")
        with use_backend(arguments.backend, _first(device)):
            return command(arguments)

    return measured


@_with_backend
def run(arguments: Namespace) -> int:
    """Run a study file, or the default arms on a model."""
    from sinkscope.study import Study

    given = [name for name in ONLY_WITHOUT_FILE if getattr(arguments, name) is not None]
    for_presets = [name for name in ("variant", "scale") if getattr(arguments, name) is not None]
    if arguments.study is not None and not _recipe_commands.is_file(arguments.study):
        together = _recipe_commands.run_together(arguments, _options(arguments.option))
        if together is not None:
            return together
        study = _recipe_commands.study_of(arguments, _options(arguments.option))
        return _run_study(study, arguments, pipe=None)
    if arguments.study is None and for_presets:
        flags = ", ".join("--" + name for name in for_presets)
        raise UsageError(f"Got {flags} without a preset. Try: sinkscope run paper/table6 {flags} ...")
    if arguments.study is not None:
        given += for_presets
        if given:
            flags = ", ".join("--" + name.replace("_", "-") for name in given)
            raise UsageError(
                f"Got both {arguments.study} and {flags}. Write the settings into the study file instead."
            )
        return _run_study(Study.from_yaml(arguments.study), arguments, pipe=None)
    if arguments.model is None:
        raise UsageError(
            "Got neither a study file, a preset nor --model. Try: sinkscope run STUDY.yaml, sinkscope run "
            "paper/table6, or sinkscope demo."
        )
    from sinkscope.shapes import EMBEDDED
    from sinkscope.study import _team

    several = len(_team.asked(arguments.workers, arguments.device) or ()) > 1
    pipe = _load(arguments.model, _first(arguments.device))
    study = _study_of(arguments, pipe)
    # Workers load the model themselves, and so may one process where that takes no time.
    alone = not several and arguments.model not in EMBEDDED
    return _run_study(study, arguments, pipe=pipe if alone else None)


def _first(device: str | None) -> str | None:
    """The first of several devices."""
    return None if device is None else device.partition(",")[0]


def _study_of(arguments: Namespace, pipe: Any) -> Study:
    """The default study of a model."""
    from sinkscope.models import sites
    from sinkscope.shapes import EMBEDDED
    from sinkscope.study import Study
    from sinkscope.study._default_arms import default_arms

    shapes = arguments.model in EMBEDDED
    prompts = arguments.prompts or ("shapes" if shapes else None)
    if prompts is None:
        raise UsageError(
            "--prompts is missing: expected 'geneval', 'shapes', or a file (.txt with one prompt per line, "
            ".csv, .jsonl)."
        )
    count = arguments.n_prompts or (SHAPES_PROMPTS if prompts == "shapes" else None)
    names = ("seeds", "steps", "guidance", "height", "width", "frames", "batch")
    settings = {name: getattr(arguments, name) for name in names}
    return Study(
        name=Path(arguments.model).name or "model",
        model=arguments.model,
        prompts=prompts,
        n_prompts=count,
        arms=default_arms(sites(pipe), budgets=arguments.budgets or (1,), layers=arguments.layers),
        metrics=_canonical(arguments.metrics or ()) or _fitting_metrics(shapes and prompts == "shapes", pipe),
        metric_options=_options(arguments.option),
        **{name: value for name, value in settings.items() if value is not None},
    )


def _options(given: list[tuple[str, str, Any]] | None) -> dict[str, dict[str, Any]]:
    """Metric -> its options, from what `--option` collected."""
    if not given:
        return {}
    from sinkscope.metrics import canonical

    found: dict[str, dict[str, Any]] = {}
    for metric, name, value in given:
        found.setdefault(canonical(metric), {})[name] = value
    return found


def _canonical(given: Sequence[str]) -> tuple[str, ...]:
    """Names of metrics for the names or aliases that were given."""
    from sinkscope.metrics import canonical

    return tuple(dict.fromkeys(canonical(name) for name in given))


def _fitting_metrics(shapes: bool, pipe: Any) -> tuple[str, ...]:
    """Metrics that mean something for the model and can be computed here."""
    from sinkscope import metrics
    from sinkscope.study._outputs import VIDEO, kind_of

    wanted = ("scene", "clip_t", "lpips", "ssim", "rmse") if shapes else ("lpips", "ssim", "rmse")
    if kind_of(pipe) == VIDEO:
        wanted = (*wanted, "frame_change")
    ready = {info.name for info in metrics.available() if info.status == "ready"}
    return tuple(name for name in wanted if name in ready)


def _run_study(study: Study, arguments: Namespace, *, pipe: Any) -> int:
    from sinkscope.study import run as run_study

    _quiet_libraries()
    safe = re.sub(r"[^A-Za-z0-9._+-]+", "-", study.name)
    name = safe if arguments.command == "demo" else f"{safe}-{study.hash}"
    # Kept in the arguments so that an interrupt can say what is in the folder.
    arguments.out = arguments.out or Path("runs") / name
    result = run_study(
        study,
        arguments.out,
        progress=not arguments.quiet,
        device=arguments.device,
        pipe=pipe,
        workers=arguments.workers,
    )
    _print_effects(result)
    print(f"report: {result.report()}")
    return 0


def _print_effects(result: Run) -> None:
    frame = result.effects()
    if frame.empty:
        return
    frame = frame[frame["task"] == "all"]
    columns = ("metric", "contrast", "effect", "ci_low", "ci_high", "n_prompts", "verdict")
    _print_table(f"effects over all prompts ({result.folder})", frame[list(columns)])


def score(arguments: Namespace) -> int:
    """List metrics, or score a run."""
    if arguments.list:
        return _list_metrics()
    if arguments.run is None:
        raise UsageError("RUN is missing: expected a run folder, or --list.")
    from sinkscope.study import Run

    _quiet_libraries()
    result = Run.open(arguments.run)
    try:
        result.score(
            arguments.metrics,
            options=_options(arguments.option),
            progress=not arguments.quiet,
            device=arguments.device,
        )
    finally:
        # Metrics that could not be computed end in an error; what was scored is shown all the same.
        if (result.folder / "effects.parquet").is_file():
            _print_effects(result)
            print(f"scores: {result.folder / 'scores.parquet'}")
        _print_distances(result, arguments.metrics)
    return 0


def _print_distances(result: Run, asked: Sequence[str] | None) -> None:
    """Distances between sets, where some were asked for."""
    from sinkscope.metrics.distances import DISTANCES

    path = result.folder / "distances.parquet"
    if not path.is_file() or not set(asked or ()) & set(DISTANCES):
        return
    columns = ["metric", "arm", "reference", "n_prompts", "value", "ci_low", "ci_high", "p_swap", "status"]
    _print_table(f"distances between sets ({result.folder})", result.distances()[columns])
    print(f"distances: {path}")


def convert(arguments: Namespace) -> int:
    """List what can be converted, or convert it."""
    from sinkscope.metrics.convert import KINDS
    from sinkscope.metrics.convert import convert as convert_weights

    if arguments.kind is None:
        for kind, about in KINDS.items():
            print(
                f"sinkscope convert {kind} {' '.join(about.sources)}{'' if about.folder else ' --out FOLDER'}"
            )
        return 0
    _quiet_libraries()
    made = convert_weights(arguments.kind, arguments.sources, arguments.out, tokenizer=arguments.tokenizer)
    size = sum(path.stat().st_size for path in made.rglob("*") if path.is_file())
    print(f"weights: {made} ({size / 1e9:.2f} GB)")
    return 0


def _list_metrics() -> int:
    import pandas as pd

    from sinkscope import metrics
    from sinkscope.metrics import distances

    rows = [
        {"metric": i.name, "status": i.status, "why": i.reason or "", "how": i.how or ""}
        for i in (*metrics.available(), *distances.available())
    ]
    _print_table("metrics", pd.DataFrame(rows))
    return 0


def report(arguments: Namespace) -> int:
    """Write the page of a run."""
    from sinkscope.study import Run

    print(f"report: {Run.open(arguments.run).report()}")
    return 0


@_with_backend
def observe(arguments: Namespace) -> int:
    """Generate one image or video and show its sinks."""
    import torch

    from sinkscope.models import observe as observe_model
    from sinkscope.study._outputs import frames_argument
    from sinkscope.study._pipeline import call, check_frames
    from sinkscope.study._resolve import default_kind

    if arguments.out is not None and arguments.out.suffix not in (".parquet", ".csv"):
        raise UsageError(f"--out {arguments.out}: expected a name that ends in .parquet or .csv.")
    if arguments.steps < 1 or not arguments.prompt.strip():
        raise UsageError("Got an empty prompt or no steps: expected a text, and --steps from 1.")
    pipe = _load(arguments.model, arguments.device)
    if not hasattr(pipe, "set_progress_bar_config"):
        raise UsageError(f"{arguments.model} is a {type(pipe).__name__}: expected a text-to-image pipeline.")
    pipe.set_progress_bar_config(disable=True)
    kind = arguments.kind or default_kind(pipe)
    given = {name: getattr(arguments, name) for name in ("height", "width")}
    size = {name: value for name, value in given.items() if value is not None}
    check_frames(pipe, arguments.frames, "The command")
    if arguments.frames is not None:
        size[str(frames_argument(pipe))] = arguments.frames
    with observe_model(pipe, arguments.layers, kind=kind, queries=arguments.queries) as seen:
        generator = torch.Generator("cpu").manual_seed(arguments.seed)
        call(pipe, prompt=arguments.prompt, num_inference_steps=arguments.steps, generator=generator, **size)
    sinks, summary = seen.sinks(keys_per_head=arguments.keys_per_head), seen.summary()
    _print_table("attention mass, mean over steps", _by_layer(summary))
    _print_table("most frequent sinks", _by_token(sinks))
    if arguments.out is not None:
        from sinkscope.study._files import write_bytes, write_table

        if arguments.out.suffix == ".csv":
            write_bytes(arguments.out, sinks.to_csv(index=False).encode())
        else:
            write_table(arguments.out, sinks)
        print(f"sinks: {arguments.out}")
    return 0


def _by_layer(summary: pd.DataFrame) -> pd.DataFrame:
    shares = [name for name in summary.columns if name.startswith("mass_")]
    wanted = ["max_mass", "mean_top1", "top5_mass", "entropy", "keys", *shares]
    columns = [name for name in wanted if name in summary.columns]
    frame = (
        summary.groupby(["layer", "site", "branch"], sort=False, dropna=False)[columns].mean().reset_index()
    )
    return frame.assign(times_uniform=frame["mean_top1"] * frame["keys"])


def _by_token(sinks: pd.DataFrame, limit: int = 15) -> pd.DataFrame:
    identity = [name for name in ("segment", "position", "token", "role", "encoder") if name in sinks.columns]
    groups = sinks.groupby(identity, dropna=False, sort=False)["mass"]
    frame = groups.agg(times="size", mean_mass="mean").reset_index()
    frame = frame.assign(share=frame["times"] / len(sinks))
    return frame.sort_values(["times", "mean_mass"], ascending=False, kind="stable").head(limit)


def doctor(arguments: Namespace) -> int:
    """Say what is here, what is missing and how to get it."""
    from sinkscope import _doctor

    return _doctor.examine()


def kept(arguments: Namespace) -> list[str]:
    """After an interrupt: what is in the run folder, and how to go on."""
    folder = (
        getattr(arguments, "out", None)
        if arguments.command in ("run", "demo")
        else getattr(arguments, "run", None)
    )
    if not isinstance(folder, Path) or not (folder / "study.yaml").is_file():
        return [
            "Nothing had been generated yet." if arguments.command in ("run", "demo") else "Nothing is lost."
        ]
    from sinkscope.study import Run

    try:
        done, total = Run.open(folder).progress()
    except SinkscopeError as error:
        return [str(error)]
    return [f"{done} of {total} images are kept in {folder}. The same command continues from there."]


def _load(model: str, device: str | None) -> Any:
    import torch

    from sinkscope.models import load

    _quiet_libraries()
    return load(model, device=device or ("cuda" if torch.cuda.is_available() else "cpu"))


def _quiet_libraries() -> None:
    """Show our own progress only: loading bars and advice of libraries would bury it."""
    import diffusers
    import transformers

    for library in (diffusers, transformers):
        logging: Any = library.utils.logging
        logging.disable_progress_bar()
        logging.set_verbosity_error()


def _print_table(title: str, frame: pd.DataFrame) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(title=title, title_justify="left")
    for name in frame.columns:
        table.add_column(
            str(name), justify="right" if frame[name].dtype.kind in "fiu" else "left", overflow="fold"
        )
    for row in frame.itertuples(index=False):
        table.add_row(*(Text(_cell(value)) for value in row))
    console = Console()
    # A file or a pipe has no width: keep rows on one line there instead of folding them at 80 columns.
    Console(width=None if sys.stdout.isatty() else max(160, console.width)).print(table)


def _cell(value: Any) -> str:
    import pandas as pd

    if value is None or (not isinstance(value, (list, tuple)) and pd.isna(value)):
        return ""
    return f"{value:.4g}" if isinstance(value, float) else str(value)
