"""The commands about presets: listing them, building the study of one, comparing its run with the release.

Heavy imports happen inside the functions.
"""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sinkscope.errors import UsageError

if TYPE_CHECKING:
    from sinkscope.recipes import Preset
    from sinkscope.study import Study

ONLY_DEFAULT_ARMS = ("layers", "budgets")
"""Flags of `run` that build default arms; a preset has arms of its own."""
FIELDS = tuple("prompts n_prompts seeds steps guidance height width frames batch metrics".split())
"""Flags of `run` that set a field of a preset's study otherwise."""


def is_file(name: str) -> bool:
    """Whether the first argument of `run` means a study file rather than a preset."""
    path = Path(name)
    return path.is_file() or path.suffix in (".yaml", ".yml", ".json")


def study_of(arguments: Namespace, options: dict[str, dict[str, Any]]) -> Study:
    """The study of a preset, as the flags of `run` say.

    Raises:
        UsageError: There is no such preset, or a flag does not go with it.
    """
    chosen = _preset(arguments.study)
    unfit = [f"--{name}" for name in ONLY_DEFAULT_ARMS if getattr(arguments, name) is not None]
    if unfit:
        raise UsageError(
            f"Got {', '.join(unfit)} with {chosen.name}, which has arms of its own. Leave it out, or write "
            f"the study to a file: `sinkscope presets {chosen.name} --out study.yaml`."
        )
    changes = {name: getattr(arguments, name) for name in FIELDS if getattr(arguments, name) is not None}
    if "metrics" in changes:
        from sinkscope._commands import _canonical

        changes["metrics"] = _canonical(changes["metrics"])
    if "prompts" in changes:
        changes.setdefault("n_prompts", None)
    made = chosen.study(arguments.variant, model=arguments.model, scale=arguments.scale, **changes)
    if options:
        from dataclasses import replace

        made = replace(made, metric_options={**made.metric_options, **options})
    return made


def run_together(arguments: Namespace, options: dict[str, dict[str, Any]]) -> int | None:
    """Run every variant of a preset whose variants belong together, and set them beside each other.

    Returns:
        The exit code; None for any other preset, or where one variant was asked for.
    """
    from sinkscope import report
    from sinkscope._commands import _run_study

    chosen = _preset(arguments.study)
    if not chosen.together or arguments.variant is not None:
        return None
    if arguments.model is not None:
        raise UsageError(
            f"{chosen.name} sets {len(chosen.variants)} models beside each other, got one in --model "
            f"{arguments.model}. Name a variant as well: {', '.join(chosen.variants)}."
        )
    home = Path(arguments.out or Path("runs") / chosen.name.replace("/", "-"))
    studies = {}
    for variant in chosen.variants:
        studies[variant] = study_of(Namespace(**{**vars(arguments), "variant": variant}), options)
    for variant, study in studies.items():
        # Kept in the arguments so that an interrupt can say what is in the folder.
        arguments.out = home / variant
        _run_study(study, arguments, pipe=None)
    folders: dict[str, Path | str] = {variant: home / variant for variant in studies}
    print(f"beside each other: {report.build_beside(folders, home / 'beside.html')}")
    return 0


def _preset(name: str) -> Preset:
    from sinkscope.recipes import preset

    return preset(name)


def presets(arguments: Namespace) -> int:
    """List the presets, or say what one of them does on a model."""
    from sinkscope import recipes
    from sinkscope._commands import _print_table

    if arguments.name is None:
        import pandas as pd

        if arguments.out is not None:
            raise UsageError("--out needs the name of a preset, for example: sinkscope presets paper/table6.")
        rows = [
            {"preset": p.name, "paper": p.paper, "question": p.question, "variants": ", ".join(p.variants)}
            for p in recipes.presets()
        ]
        _print_table("presets (sinkscope presets NAME says more)", pd.DataFrame(rows))
        return 0
    chosen = _preset(arguments.name)
    if arguments.out is not None:
        made = chosen.study(arguments.variant, model=arguments.model, scale=arguments.scale)
        made.to_yaml(arguments.out)
        print(f"study: {arguments.out}")
        return 0
    print("\n".join(_said(chosen, arguments)))
    return 0


def _said(chosen: Preset, arguments: Namespace) -> list[str]:
    lines = [f"{chosen.name}: {chosen.title} ({chosen.paper})", chosen.question]
    if chosen.repaired:
        lines.append(f"faults of the release repaired in 'corrected': {', '.join(chosen.repaired)}")
    what = "readings" if chosen.models else "images"
    wanted = [arguments.variant] if arguments.variant is not None else list(chosen.variants)
    for name in wanted:
        made = chosen.study(name, model=arguments.model, scale=arguments.scale)
        variant, count = chosen.variants[name], prompts_of(made)
        images = count * len(made.seeds) * len(made.arm_names)
        lines += ["", f"{made.name} on {made.model}", f"  {variant.text}"]
        lines += [f"  differs: {text}" for text in variant.differs]
        lines += [
            f"  {count} prompts, {len(made.seeds)} seed{'s' if len(made.seeds) > 1 else ''}, {made.steps} "
            f"step{'s' if made.steps > 1 else ''}, {len(made.arm_names)} arms: {images} {what}",
            f"  arms: {', '.join(made.arm_names)}",
            f"  metrics: {', '.join(made.metrics) or 'none'}",
        ]
    return lines


def prompts_of(study: Study) -> int:
    """How many prompts a study of a preset has."""
    return len(study.prompts) if study.n_prompts is None else study.n_prompts


def compare(arguments: Namespace) -> int:
    """Print a run of a preset beside what the paper's release states, and write it where asked."""
    from sinkscope._commands import _print_table, _quiet_libraries
    from sinkscope.recipes._compare import compare as compare_run
    from sinkscope.recipes._compare_write import check_path, notes, readable, title, write

    if arguments.out is not None:
        check_path(arguments.out)
    _quiet_libraries()
    frame = compare_run(arguments.run)
    _print_table(title(frame), readable(frame))
    if arguments.notes:
        print("\n".join(f"{words}: {note}" for words, note in notes(frame)))
    if arguments.out is not None:
        write(frame, arguments.out)
        print(f"comparison: {arguments.out}")
    return 0
