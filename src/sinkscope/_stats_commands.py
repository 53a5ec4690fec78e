"""Commands that answer from the statistics of a finished run. Heavy imports happen inside the functions."""

from __future__ import annotations

from argparse import Namespace

SHORT = {
    "n_prompts": "prompts",
    "detectable_effect": "finds",
    "detectable_effect_holm": "finds (Holm)",
    "detectable_margin": "stays in",
    "prompts_needed": "needs",
    "prompts_needed_safe": "needs (safe)",
}
"""Columns of `stats.power_table` by the names under which they are printed."""


def power(arguments: Namespace) -> int:
    """Say what a finished run could have found, and how many prompts another one needs."""
    from sinkscope._commands import _print_table
    from sinkscope.stats import power_table
    from sinkscope.study import Run

    result = Run.open(arguments.run)
    asked = {name: getattr(arguments, name) for name in ("metric", "effect", "margin", "power")}
    frame = power_table(result.effects(), **asked)
    known = frame["detectable_effect"].notna()
    hidden = ["kind"] + ([] if frame["note"][known].astype(bool).any() else ["note"])
    if not frame["asked"].astype(bool).any():
        hidden += ["asked", "power", "prompts_needed", "prompts_needed_safe"]
    percent = f"{100 * arguments.power:g} %"
    shown = frame[known].drop(columns=hidden).rename(columns=SHORT)
    _print_table(f"power over all prompts ({result.folder})", shown)
    print(f"finds: smallest difference found with {percent} (paired t test); Holm: at its first step")
    print(f"stays in: smallest margin in which TOST places a true difference of zero with {percent}")
    if "needs" in shown.columns:
        print("power: of this run for what is asked")
        print(f"needs: prompts for {percent}; safe: allows for the error of sd")
    for row in frame[~known].to_dict("records"):
        print(f"left out: {row['metric']}, {row['contrast']}: {row['note']}")
    return 0
