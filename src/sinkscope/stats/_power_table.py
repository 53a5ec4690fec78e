"""What a finished run could have found, and how many prompts another one needs."""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

from sinkscope.errors import UsageError, unknown

from ._power import (
    Needed,
    detectable_effect,
    detectable_margin,
    power_difference,
    power_equivalence,
    prompts_for_difference,
    prompts_for_equivalence,
)

POWER_COLUMNS = tuple(
    (
        "metric contrast kind n_prompts sd detectable_effect detectable_effect_holm detectable_margin asked "
        "power prompts_needed prompts_needed_safe note"
    ).split()
)
NAN = math.nan


def power_table(
    effects: pd.DataFrame,
    *,
    metric: str | None = None,
    effect: float | None = None,
    margin: float | None = None,
    power: float = 0.8,
) -> pd.DataFrame:
    """Power of every contrast of a finished run, from the standard deviation that was observed.

    Args:
        effects: The table of effects.
        metric: One metric; all by default.
        effect: A mean difference to be found by the paired t test.
        margin: A margin inside which the whole interval is to lie at a true difference of zero. With neither,
            each metric's own margin is asked about, where it has one.
        power: Chance of success that is asked for.

    Returns:
        Columns `POWER_COLUMNS`, rows over all prompts. `detectable_effect` and `detectable_margin` are the
        smallest that the run's own number of prompts reaches with `power`; `detectable_effect_holm` is at the
        first step of Holm (`alpha / family_size`). `power` is that of the run for what was `asked`,
        `prompts_needed` what would reach the power asked for, and `prompts_needed_safe` the same with the
        upper one-sided 80 % limit of the standard deviation in its place (Browne 1995), since an observed
        standard deviation is too small about half of the time.

    Raises:
        UsageError: No effects, an unknown metric, both an effect and a margin, or values out of range.
    """
    if effect is not None and margin is not None:
        raise UsageError(
            f"Got effect={effect:g} and margin={margin:g}, expected one: an effect to be found or a margin "
            "to stay inside."
        )
    if margin is not None and not (np.isfinite(margin) and margin > 0):
        raise UsageError(f"Got margin {margin}, expected a positive number in the metric's units.")
    if effect is not None and (not np.isfinite(effect) or effect == 0):
        raise UsageError(f"Got effect {effect}, expected a non-zero difference in the metric's units.")
    if not 0.05 < power < 1:
        raise UsageError(f"Got power={power}, expected a number between 0.05 and 1 such as 0.8.")
    rows = effects[effects["task"] == "all"] if "sd" in effects.columns else effects.iloc[:0]
    if rows.empty:
        raise UsageError("The run declares no contrast, so it has no effects and no standard deviation.")
    known = list(dict.fromkeys(rows["metric"]))
    if metric is not None:
        if metric not in known:
            raise unknown("metric", metric, known)
        rows = rows[rows["metric"] == metric]
    return pd.DataFrame(
        [_row(row, effect, margin, power) for row in rows.to_dict("records")], columns=list(POWER_COLUMNS)
    )


def _row(
    row: Mapping[Hashable, Any], effect: float | None, margin: float | None, power: float
) -> dict[str, Any]:
    n, sd, alpha = int(row["n_prompts"]), float(row["sd"]), 1 - float(row["level"])
    out = {name: row[name] for name in ("metric", "contrast", "kind")} | {"asked": "", "note": ""}
    out |= {"n_prompts": n, "sd": sd}
    if n < 2 or not sd > 0:
        reason = f"{n} prompts" if n < 2 else "the differences do not vary"
        return out | {"note": f"no standard deviation to go by: {reason}"}
    family = max(int(row.get("family_size", 1)), 1)
    out |= {
        "detectable_effect": detectable_effect(n, sd, power=power, alpha=alpha),
        "detectable_effect_holm": detectable_effect(n, sd, power=power, alpha=alpha / family),
        "detectable_margin": detectable_margin(n, sd, power=power, alpha=alpha / 2),
    }
    if effect is None and margin is None:
        own = float(row.get("margin", NAN))
        margin = None if math.isnan(own) else own
    if effect is not None:
        now = power_difference(n, effect, sd, alpha=alpha)
        return out | _answer(f"effect {effect:g}", now, n, lambda s: _find(effect, s, power, alpha), sd)
    if margin is not None:
        now = power_equivalence(n, margin, sd, alpha=alpha / 2)
        return out | _answer(f"margin {margin:g}", now, n, lambda s: _stay(margin, s, power, alpha), sd)
    return out


def _find(effect: float, sd: float, power: float, alpha: float) -> Needed:
    return prompts_for_difference(effect, sd, power=power, alpha=alpha)


def _stay(margin: float, sd: float, power: float, alpha: float) -> Needed:
    return prompts_for_equivalence(margin, sd, power=power, alpha=alpha / 2)


def _answer(asked: str, now: float, n: int, needed: Any, sd: float) -> dict[str, Any]:
    upper = sd * math.sqrt((n - 1) / stats.chi2.ppf(0.2, n - 1))
    found, safe = needed(sd), needed(upper)
    return {
        **{"asked": asked, "power": now},
        **{"prompts_needed": found.n, "prompts_needed_safe": safe.n},
        "note": found.reason or safe.reason,
    }
