"""Intervals against scipy, known formulas and simulated coverage."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import stats as scipy_stats

from sinkscope import stats
from sinkscope.errors import NonFiniteError, UsageError

SHAPES = {
    "normal": lambda rng, n: rng.normal(size=n),
    "skewed": lambda rng, n: rng.exponential(size=n) ** 2,
    "integers": lambda rng, n: rng.integers(-2, 3, size=n).astype(float),
}


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("n", [12, 40, 553])
@pytest.mark.parametrize(("method", "theirs"), [("bca", "BCa"), ("percentile", "percentile")])
def test_bootstrap_equals_scipy_with_the_same_draws(shape, n, method, theirs):
    d, draws = SHAPES[shape](np.random.default_rng(n), n), 1500
    ours = stats.mean_interval(
        d, method=method, levels=(0.95, 0.9), draws=draws, rng=stats.keyed_generator(3, n)
    )
    for interval, level in zip(ours, (0.95, 0.9), strict=True):
        expected = scipy_stats.bootstrap(
            (d,),
            np.mean,
            n_resamples=draws,
            batch=max(1, min(draws, 100_000 // n)),
            confidence_level=level,
            method=theirs,
            rng=stats.keyed_generator(3, n),
        ).confidence_interval
        assert np.allclose(interval, expected, rtol=1e-10, atol=1e-12)


def test_t_interval_equals_scipy():
    d = SHAPES["skewed"](np.random.default_rng(1), 24)
    low, high = stats.mean_interval(d, method="t", rng=stats.keyed_generator(0))[0]
    expected = scipy_stats.ttest_1samp(d, 0).confidence_interval(0.95)
    assert np.allclose([low, high], [expected.low, expected.high], rtol=1e-10)


def test_studentised_equals_its_definition():
    d = SHAPES["skewed"](np.random.default_rng(2), 20)
    low, high = stats.mean_interval(d, method="studentised", draws=800, rng=stats.keyed_generator(4))[0]
    index = stats.keyed_generator(4).integers(0, 20, size=(800, 20))
    t = [(d[i].mean() - d.mean()) / (d[i].std(ddof=1) / np.sqrt(20)) for i in index]
    error = d.std(ddof=1) / np.sqrt(20)
    expected = d.mean() - np.quantile(t, [0.975, 0.025]) * error
    assert np.allclose([low, high], expected, rtol=1e-10)


def test_ties_up_to_rounding_are_ties():
    """Seed averages such as (0.1 + 0.2) / 3 sum to the same mean in several ways."""
    whole = np.random.default_rng(3).integers(-2, 3, size=30).astype(float)
    a, b = (
        stats.mean_interval(d, draws=500, rng=stats.keyed_generator(0))[0] for d in (whole * 3, whole * 0.3)
    )
    assert np.allclose(np.array(a) / 10, b, rtol=1e-12)


@given(arrays(float, st.integers(3, 25), elements=st.floats(-100, 100)), st.floats(-50, 50))
@settings(max_examples=30, deadline=None)
def test_intervals_move_and_turn_with_the_values(values, shift):
    for method in ("bca", "percentile", "studentised", "t"):
        low, high = stats.mean_interval(values, method=method, draws=100, rng=stats.keyed_generator(0))[0]
        moved = stats.mean_interval(values + shift, method=method, draws=100, rng=stats.keyed_generator(0))[0]
        turned = stats.mean_interval(-values, method=method, draws=100, rng=stats.keyed_generator(0))[0]
        assert not low > high
        assert np.allclose([moved.low - shift, moved.high - shift], [low, high], atol=1e-6, equal_nan=True)
        assert np.allclose([-turned.high, -turned.low], [low, high], atol=1e-6, equal_nan=True)


def test_methods_are_checked():
    with pytest.raises(UsageError, match="interval method 'bcaa'"):
        stats.mean_interval([1.0, 2.0], method="bcaa", rng=stats.keyed_generator(0))  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="interval method of clusters 't'"):
        stats.clustered_interval([1.0, 2.0], [0, 1], method="t", rng=stats.keyed_generator(0))  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="draws=5"):
        stats.mean_interval([1.0, 2.0], draws=5, rng=stats.keyed_generator(0))


def test_paired_proportions():
    d = np.array([1.0] * 6 + [-1.0] * 2 + [0.0] * 32)
    low, high = stats.paired_proportions(d)
    b, c, n = 6.5, 2.5, 42
    half = scipy_stats.norm.isf(0.025) * np.sqrt(b + c - (b - c) ** 2 / n) / n
    assert (low, high) == (pytest.approx((b - c) / n - half), pytest.approx((b - c) / n + half))
    nothing = stats.paired_proportions(np.zeros(40))
    assert nothing.low == -nothing.high and 0.02 < nothing.high < 0.1
    with pytest.raises(UsageError, match="-1, 0 and 1"):
        stats.paired_proportions([0.5, 0.0])


# ---- seeds within prompts


def nested(prompts: int = 40, seeds: int = 3) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(5)
    labels = np.repeat([f"p{i:03d}" for i in range(prompts)], seeds)
    return np.repeat(rng.normal(size=prompts), seeds) + 2 * rng.normal(size=prompts * seeds), labels


def test_clustered_interval_is_that_of_the_prompt_means():
    values, labels = nested()
    means, _ = stats.cluster_means(values, labels)
    ours = stats.clustered_interval(values, labels, draws=400, rng=stats.keyed_generator(1))[0]
    assert ours == stats.mean_interval(means, draws=400, rng=stats.keyed_generator(1))[0]


def test_two_level_spread_is_what_the_formula_says():
    """Its variance is that of the prompt means plus the variance of seeds within prompts, once more."""
    values, labels = nested()
    keep = np.ones(values.size, dtype=bool)
    keep[[0, 1, 3]] = False  # unequal numbers of seeds
    values, labels = values[keep], labels[keep]
    ends = [
        stats.clustered_interval(
            values,
            labels,
            within=True,
            method="percentile",
            levels=(0.6827,),
            draws=6000,
            rng=stats.keyed_generator(0),
        )[0]
    ]
    groups = [values[labels == name] for name in np.unique(labels)]
    between = np.var([group.mean() for group in groups])
    within = np.mean([group.var() / group.size for group in groups])
    expected = 2 * np.sqrt((between + within) / len(groups))
    assert ends[0].high - ends[0].low == pytest.approx(expected, rel=0.05)


def test_two_level_bca_is_wider_and_contains_the_mean():
    values, labels = nested()
    plain = stats.clustered_interval(values, labels, draws=1000, rng=stats.keyed_generator(0))[0]
    double = stats.clustered_interval(values, labels, within=True, draws=1000, rng=stats.keyed_generator(0))[
        0
    ]
    means, _ = stats.cluster_means(values, labels)
    assert double.high - double.low > 1.1 * (plain.high - plain.low)
    assert double.low < means.mean() < double.high
    flat = stats.clustered_interval(np.ones(6), [0, 0, 1, 1, 2, 2], within=True, rng=stats.keyed_generator(0))
    assert flat[0].low == flat[0].high == 1
    with pytest.raises(NonFiniteError):
        stats.clustered_interval([1.0, np.nan], [0, 1], rng=stats.keyed_generator(0))


# ---- coverage: the table of docs/power.md in small


@pytest.mark.parametrize(
    ("shape", "methods"),
    [
        ("normal", {"bca": (0.92, 0.97), "t": (0.935, 0.97), "studentised": (0.93, 0.975)}),
        ("skewed", {"bca": (0.91, 0.965), "studentised": (0.925, 0.975)}),
        ("changes", {"bca": (0.92, 0.97), "t": (0.93, 0.975), "proportions": (0.93, 0.98)}),
    ],
)
def test_coverage_at_64_prompts(shape, methods):
    rng, studies = stats.keyed_generator(0, "coverage", shape), 1000
    draw, truth = {
        "normal": (lambda: rng.normal(size=(studies, 64)), 0.0),
        "skewed": (lambda: rng.exponential(size=(studies, 64)), 1.0),
        "changes": (lambda: rng.choice([-1.0, 0, 1], p=[0.05, 0.75, 0.2], size=(studies, 64)), 0.15),
    }[shape]
    rows = draw()
    for method, (least, most) in methods.items():
        if method == "proportions":
            low, high = stats.paired_proportions(rows)
        else:
            low, high = stats.mean_interval(rows, method=method, draws=500, rng=rng)[0]
        assert least <= ((low <= truth) & (truth <= high)).mean() <= most, method


def test_tost_accepts_at_the_margin_as_often_as_it_may():
    d = np.random.default_rng(8).normal(size=(20_000, 32)) + 0.7
    assert (stats.tost(d, 0.7).p < 0.05).mean() <= 0.055
    assert (stats.tost(d - 0.7, 0.7).p < 0.05).mean() > 0.9
