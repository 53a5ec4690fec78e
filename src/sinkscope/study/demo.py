"""The demo: what happens to a trained model when its attention sinks are removed, and is it more than
removing other keys?

96 prompts of the embedded model, stratified over the six GenEval tasks, one image each and arm. The arms
remove the 1, 5 or 10 keys of largest mass in every head of every layer at every step, or as many random
others, or replace the values of the top 5 by the mean value; a null arm goes through the masked path without
a key. The margins below were fixed before any result was seen. They say from which size on a difference would
matter to a reader of the page: five images in a hundred, a hundredth of a cosine, and for the distances a
twentieth of similarity or two hundredths of the pixel range.
"""

from __future__ import annotations

from sinkscope import metrics
from sinkscope.attention import Mask, ReplaceValue, TopMass
from sinkscope.models import Edit
from sinkscope.study._observe_plan import ObservePlan
from sinkscope.study._study import Study

METRICS = ("scene", "clip_t", "ssim", "rmse")
WHERE_POSSIBLE = ("ms_ssim", "lpips")
MARGINS = {"scene": 0.05, "clip_t": 0.01, "ssim": 0.05, "rmse": 0.02, "ms_ssim": 0.05, "lpips": 0.05}
BUDGETS = (1, 5, 10)
VALUE_BUDGET = 5


def demo(*, quick: bool = False) -> Study:
    """The demo study.

    Args:
        quick: 24 prompts, 10 steps, and of the budgets only 5; about two minutes on two CPU cores.
    """
    names = (*METRICS, *_possible(WHERE_POSSIBLE))
    return Study(
        name="demo-quick" if quick else "demo",
        model="shapes",
        prompts="shapes",
        arms=arms((VALUE_BUDGET,) if quick else BUDGETS, value=not quick),
        metrics=names,
        n_prompts=24 if quick else 96,
        steps=10 if quick else 20,
        observe=ObservePlan(units=None if quick else 48, replacements=1),
        margins={name: MARGINS[name] for name in names},
    )


def arms(budgets: tuple[int, ...], *, value: bool) -> dict[str, Edit]:
    """Null, sinks and random keys at each budget, and where asked the value-path arm."""
    made: dict[str, Edit] = {}
    for budget in budgets:
        edit = Edit(TopMass(keys_per_head=budget), Mask())
        made.setdefault("null", edit.control("null"))
        made[f"sink_{budget}"] = edit
        made[f"random_{budget}"] = edit.control("count", seed=0)
    if value:
        made[f"value_{VALUE_BUDGET}"] = Edit(TopMass(keys_per_head=VALUE_BUDGET), ReplaceValue(with_="mean"))
    return made


def _possible(names: tuple[str, ...]) -> tuple[str, ...]:
    """Those metrics whose weights are on this machine."""
    ready = {info.name for info in metrics.available() if info.status == "ready"}
    return tuple(name for name in names if name in ready)
