"""Commands that answer from the statistics of a finished run. Heavy imports happen inside the functions."""

from __future__ import annotations

from argparse import Namespace


def power(arguments: Namespace) -> int:
    """Say what a finished run could have found, and how many prompts another one needs."""
    from sinkscope._commands import _print_table
    from sinkscope.stats import power_table
    from sinkscope.study import Run

    result = Run.open(arguments.run)
    asked = {name: getattr(arguments, name) for name in ("metric", "effect", "margin", "power")}
    frame = power_table(result.effects(), **asked)
    empty = [name for name in ("asked", "note") if not frame[name].astype(bool).any()]
    if "asked" in empty:
        empty += ["power", "prompts_needed", "prompts_needed_safe"]
    percent = f"{100 * arguments.power:g} %"
    _print_table(f"power {percent}, over all prompts ({result.folder})", frame.drop(columns=[*empty, "kind"]))
    print(
        f"detectable_effect: smallest difference found with {percent} by the paired t test; _holm: at the "
        "first step of Holm.\ndetectable_margin: smallest margin in which TOST places a true difference of "
        "zero.\nsd is the observed one; prompts_needed_safe allows for its error."
    )
    return 0
