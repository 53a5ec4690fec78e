"""The pure functions against scipy, statsmodels and known answers."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats as scipy_stats
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.weightstats import DescrStatsW, ttost_paired

from sinkscope import stats
from sinkscope.errors import NonFiniteError, UsageError


def sample(n: int = 40, rows: int = 3) -> np.ndarray:
    return np.random.default_rng(7).normal(0.2, 1.0, size=(rows, n)) ** 3


def test_bca_equals_scipy_with_the_same_draws():
    d = sample()[0]
    ours = stats.bca_interval(d, levels=(0.95, 0.9), draws=2000, rng=stats.keyed_generator(3, "a"))
    for interval, level in zip(ours, (0.95, 0.9), strict=True):
        theirs = scipy_stats.bootstrap(
            (d,), np.mean, n_resamples=2000, confidence_level=level, rng=stats.keyed_generator(3, "a")
        ).confidence_interval
        assert np.allclose([interval.low, interval.high], [theirs.low, theirs.high], rtol=1e-12)


def test_a_row_does_not_depend_on_its_neighbours():
    rows = sample(n=60, rows=5)
    whole = stats.bca_interval(rows, draws=500, rng=stats.keyed_generator(0))[0]
    alone = stats.bca_interval(rows[3], draws=500, rng=stats.keyed_generator(0))[0]
    assert whole.low[3] == alone.low and whole.high[3] == alone.high


def test_generator_is_keyed():
    first = stats.keyed_generator(1, "x", "y").random(4)
    assert (first == stats.keyed_generator(1, "x", "y").random(4)).all()
    assert not (first == stats.keyed_generator(2, "x", "y").random(4)).any()
    assert not (first == stats.keyed_generator(1, "xy").random(4)).any()
    with pytest.raises(UsageError, match="non-negative"):
        stats.keyed_generator(-1)


def test_constant_rows_have_zero_width():
    rows = np.stack([np.zeros(12), np.full(12, 0.1 + 0.2), np.arange(12.0)])
    interval = stats.bca_interval(rows, draws=200, rng=stats.keyed_generator(0))[0]
    assert interval.low[0] == interval.high[0] == 0
    assert interval.low[1] == interval.high[1] == pytest.approx(0.3)
    assert interval.low[2] < 5.5 < interval.high[2]


@pytest.mark.parametrize(
    ("values", "error"),
    [([1.0, np.nan], NonFiniteError), ([1.0, np.inf], NonFiniteError), ([1.0], UsageError)],
)
def test_bad_values_are_refused(values, error):
    for call in (stats.paired_t, stats.wilcoxon, stats.cohen_dz, lambda d: stats.tost(d, 1.0)):
        with pytest.raises(error):
            call(values)
    with pytest.raises(error):
        stats.bca_interval(values, rng=stats.keyed_generator(0))


def test_bootstrap_options_are_checked():
    with pytest.raises(UsageError, match="draws=5"):
        stats.bca_interval([1.0, 2.0], draws=5, rng=stats.keyed_generator(0))
    with pytest.raises(UsageError, match="level 95"):
        stats.bca_interval([1.0, 2.0], levels=(95,), rng=stats.keyed_generator(0))


def test_t_wilcoxon_dz_equal_scipy():
    d = sample()
    assert np.allclose(stats.paired_t(d), scipy_stats.ttest_1samp(d, 0, axis=-1).pvalue, rtol=1e-12)
    assert np.allclose(stats.wilcoxon(d), [scipy_stats.wilcoxon(row).pvalue for row in d], rtol=1e-12)
    assert np.allclose(stats.cohen_dz(d), d.mean(-1) / d.std(-1, ddof=1))


@pytest.mark.parametrize("n", [3, 20, 49, 50, 51, 200])
def test_wilcoxon_equals_scipy_exact_and_beyond(n):
    rng = np.random.default_rng(n)
    rows = [rng.normal(0.2, 1, size=n), rng.normal(0.2, 1, size=n) ** 3]
    if n > 13:
        rows += [rng.integers(-3, 5, size=n).astype(float)]  # ties, and zeros that are left out
    expected = [scipy_stats.wilcoxon(row[row != 0]).pvalue for row in rows]
    assert np.allclose(stats.wilcoxon(rows), expected, rtol=1e-10)


@pytest.mark.parametrize("n", [2, 5, 9])
def test_wilcoxon_with_ties_equals_scipy(n):
    rng = np.random.default_rng(n)
    d = np.vstack([rng.integers(-2, 3, (6, n)), np.ones((1, n)), -np.ones((1, n))]).astype(float)
    expected = [scipy_stats.wilcoxon(row[row != 0]).pvalue if row.any() else 1.0 for row in d]
    assert np.allclose(stats.wilcoxon(d), expected, rtol=1e-12)


def test_wilcoxon_sees_ties_through_rounding():
    thirds = np.array([0.1 + 0.2 - 0.3, 0.3, 0.1 + 0.2, -0.3, 0.6, 0.9, 0.3, 0.3] * 3)
    exact = np.array([0, 1, 1, -1, 2, 3, 1, 1] * 3, dtype=float)
    assert stats.wilcoxon(thirds) == stats.wilcoxon(exact)


def test_differences_without_variance():
    zero, same = np.zeros(10), np.full(10, -0.5)
    assert stats.paired_t(zero) == stats.wilcoxon(zero) == 1
    assert stats.cohen_dz(zero) == 0 and np.isnan(stats.cohen_dz(same))
    assert stats.paired_t(same) == 2.0**-9
    assert stats.tost(zero, 0.1).p == 2.0**-10
    assert stats.tost(same, 0.1).p == 1 and stats.tost(same, 0.6).p == 2.0**-10


@pytest.mark.parametrize("margin", [0.1, 0.5, 2.0])
def test_tost_equals_statsmodels(margin):
    rng = np.random.default_rng(1)
    a, b = rng.normal(size=50), rng.normal(size=50)
    p, lower, upper = ttost_paired(a, b, -margin, margin)
    ours = stats.tost(a - b, margin)
    assert np.allclose([ours.p, ours.p_lower, ours.p_upper], [p, lower[1], upper[1]], rtol=1e-10)
    low, high = DescrStatsW(a - b).tconfint_mean(alpha=0.1)
    assert (ours.p < 0.05) == (low > -margin and high < margin)


@pytest.mark.parametrize("margin", [0, -0.1, np.nan, np.inf])
def test_margins_are_positive_numbers(margin):
    with pytest.raises(UsageError, match="margin"):
        stats.tost([0.1, 0.2], margin)


@pytest.mark.parametrize("size", [1, 2, 7, 25])
def test_holm_equals_statsmodels(size):
    rng = np.random.default_rng(size)
    for p in (rng.random(size), rng.random(size) ** 8, rng.integers(0, 3, size) / 2):
        ours = stats.holm(p)
        assert np.allclose(ours, multipletests(p, method="holm")[1], rtol=1e-12, atol=0)
        assert (ours >= p).all()


def test_holm_known_answer():
    assert np.allclose(stats.holm([0.01, 0.04, 0.03, 0.005]), [0.03, 0.06, 0.06, 0.02])
    assert stats.holm([]).size == 0


def test_holm_refuses_what_is_not_a_p_value():
    with pytest.raises(NonFiniteError, match="1 NaN of 2"):
        stats.holm([0.1, np.nan])
    with pytest.raises(UsageError, match="expected"):
        stats.holm([0.1, 1.5])
    with pytest.raises(UsageError, match="one axis"):
        stats.holm([[0.1]])


def test_cluster_means():
    means, count = stats.cluster_means([1.0, 3.0, 5.0], ["b", "a", "b"])
    assert means.tolist() == [3.0, 3.0] and count.tolist() == [1, 2]
    with pytest.raises(UsageError, match="one label"):
        stats.cluster_means([1.0], ["a", "b"])


def test_clustering_is_what_keeps_the_error_rate():
    """Treating seeds as independent calls noise significant; prompt means do not (both at 5 %)."""
    rng = np.random.default_rng(11)
    prompts = np.repeat(np.arange(20), 8)
    runs = 400
    d = rng.normal(size=(runs, 20))[:, prompts] + 0.5 * rng.normal(size=(runs, 160))
    naive = (stats.paired_t(d) < 0.05).mean()
    honest = (stats.paired_t(np.stack([stats.cluster_means(row, prompts)[0] for row in d])) < 0.05).mean()
    assert honest < 0.08 < 0.3 < naive


@pytest.mark.slow
@pytest.mark.parametrize("shape", ["normal", "skewed", "binary"])
def test_interval_coverage(shape):
    """Simulated coverage of the 90 % interval at n = 60: 86 to 93 % of 800 samples hold the true mean."""
    rng = np.random.default_rng(5)
    draw, truth = {
        "normal": (lambda: rng.normal(size=(800, 60)), 0.0),
        "skewed": (lambda: rng.exponential(size=(800, 60)), 1.0),
        "binary": (lambda: rng.choice([-1.0, 0.0, 1.0], p=[0.1, 0.6, 0.3], size=(800, 60)), 0.2),
    }[shape]
    interval = stats.bca_interval(draw(), levels=(0.9,), draws=1000, rng=stats.keyed_generator(0))[0]
    assert 0.86 <= ((interval.low <= truth) & (truth <= interval.high)).mean() <= 0.93


def test_prompt_slopes_equal_polyfit():
    budgets, values = [0, 1, 5, 10], np.random.default_rng(0).normal(size=(4, 6))
    assert np.allclose(stats.prompt_slopes(values, budgets), np.polyfit(np.log1p(budgets), values, 1)[0])
    with pytest.raises(UsageError, match="two different"):
        stats.prompt_slopes(values, [1, 1, 1, 1])
    with pytest.raises(UsageError, match=r"\[dose, prompt\]"):
        stats.prompt_slopes(values, [0, 1])
