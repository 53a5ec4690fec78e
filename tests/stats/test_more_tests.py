"""Sign flips, false discovery rate, difference of differences, ratios and power against other packages."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import integrate, special
from scipy import stats as scipy_stats
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.power import TTestPower

from sinkscope import stats
from sinkscope.errors import UsageError
from sinkscope.stats._power import tost_power

# ---- sign flips


@pytest.mark.parametrize("shape", ["normal", "ties", "zeros"])
def test_sign_flip_is_exact_for_few(shape):
    rng = np.random.default_rng(0)
    d = {
        "normal": rng.normal(0.4, size=12),
        "ties": np.array([0.1, 0.2, 0.3, -0.3, 0.1, 0.1 + 0.2, -0.1, 0.2, 0.3]),
        "zeros": np.array([0, 0, 0.5, -0.2, 0.7, 0.7, 0, 0.3]),
    }[shape]
    ours = stats.sign_flip(d, rng=stats.keyed_generator(0))
    theirs = scipy_stats.permutation_test(
        (d,), np.mean, permutation_type="samples", n_resamples=2**13, vectorized=True
    ).pvalue
    assert ours == pytest.approx(theirs, abs=1e-12)


def test_sign_flip_draws_for_many():
    d = np.random.default_rng(1).normal(0.3, 1, size=(3, 60))
    ours = stats.sign_flip(d, draws=20_000, rng=stats.keyed_generator(0))
    assert np.allclose(ours, stats.paired_t(d), atol=0.02)
    assert (ours >= 1 / 20_001).all()
    assert (ours[1] == stats.sign_flip(d[1], draws=20_000, rng=stats.keyed_generator(0))).all()
    far = stats.sign_flip(np.full(40, 0.5), draws=999, rng=stats.keyed_generator(0))
    assert far == 1 / 1000


def test_sign_flip_drawn_agrees_with_counted(monkeypatch):
    d = np.random.default_rng(2).normal(0.4, 1, size=14)
    counted = stats.sign_flip(d, rng=stats.keyed_generator(0))
    monkeypatch.setattr("sinkscope.stats._signflip.EXACT", 5)
    assert stats.sign_flip(d, draws=50_000, rng=stats.keyed_generator(0)) == pytest.approx(counted, abs=0.01)


@given(arrays(float, st.integers(2, 10), elements=st.integers(-5, 5).map(float)))
@settings(max_examples=60, deadline=None)
def test_sign_flip_laws(d):
    p = stats.sign_flip(d, rng=stats.keyed_generator(0))
    assert 0.5 ** (d.size - 1) <= p <= 1
    assert p == stats.sign_flip(-d, rng=stats.keyed_generator(0))
    assert p == stats.sign_flip(d * 0.1, rng=stats.keyed_generator(0))
    if d.sum() == 0:
        assert p == 1


# ---- false discovery rate


@pytest.mark.parametrize("size", [1, 2, 7, 25])
def test_benjamini_hochberg_equals_statsmodels(size):
    rng = np.random.default_rng(size)
    for p in (rng.random(size), rng.random(size) ** 8, rng.integers(0, 3, size) / 2):
        ours = stats.benjamini_hochberg(p)
        assert np.allclose(ours, multipletests(p, method="fdr_bh")[1], rtol=1e-12, atol=0)
        assert (ours >= p).all() and (ours <= stats.holm(p) + 1e-15).all()
    with pytest.raises(UsageError, match="expected"):
        stats.benjamini_hochberg([0.1, 1.5])


# ---- ratios


def distances(n: int = 50) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(4)
    share = rng.gamma(4, size=n)
    return 6 * share * rng.gamma(6, size=n) / 6, share * rng.gamma(3, size=n) / 3


def test_ratio_interval_equals_its_definition():
    """An end is where the mean of y - r x lies as many standard errors off as t or the bootstrap says."""
    y, x = distances()
    found = stats.ratio_of_means(y, x, draws=1500, rng=stats.keyed_generator(2))
    assert found.ratio == pytest.approx(y.mean() / x.mean())
    rest = y - found.ratio * x
    index = stats.keyed_generator(2).integers(0, 50, size=(1500, 50))
    drawn = [rest[i].mean() / (rest[i].std(ddof=1) / np.sqrt(50)) for i in index]
    limit = scipy_stats.t.isf(0.025, 49)
    below, above = np.quantile(drawn, [0.025, 0.975])
    for end, expected in ((found.low, max(above, limit)), (found.high, min(below, -limit))):
        gap = y - end * x
        assert gap.mean() / (gap.std(ddof=1) / np.sqrt(50)) == pytest.approx(expected, rel=1e-8)
    assert found.reason == "" and found.low < found.fieller_low + 1e-9
    assert found.fieller_low < found.fieller_high <= found.high
    turned = stats.ratio_of_means(-y, -x, draws=1500, rng=stats.keyed_generator(2))
    assert turned[:5] == pytest.approx(found[:5])


def test_fieller_holds_the_ratios_that_t_does_not_reject():
    y, x = distances()
    low, high = stats.fieller_interval(y, x)
    for end in (low, high):
        assert scipy_stats.ttest_1samp(y - end * x, 0).pvalue == pytest.approx(0.05, abs=1e-10)
    found = stats.ratio_of_means(y, x, draws=2000, rng=stats.keyed_generator(0))
    assert (found.fieller_low, found.fieller_high) == (low, high)


def test_ratio_without_an_answer_says_why():
    rng = np.random.default_rng(0)
    y, noise = rng.normal(1, 1, 20), rng.normal(0, 1, 20)
    none = stats.ratio_of_means(y, noise - noise.mean() + 0.05, rng=stats.keyed_generator(0))
    assert np.isnan([none.low, none.high]).all() and "may be zero" in none.reason
    zero = stats.ratio_of_means(y, np.zeros(20), rng=stats.keyed_generator(0))
    assert np.isnan(zero.ratio) and zero.reason == "the denominator is zero"
    twice = stats.ratio_of_means(2 * np.abs(y), np.abs(y), rng=stats.keyed_generator(0))
    assert twice[:3] == pytest.approx((2, 2, 2))
    few = np.r_[np.zeros(25), 1.0, 1.0, 2.0, 2.0, 9.0]  # one prompt makes most of the denominator
    open_ = stats.ratio_of_means(np.abs(rng.normal(3, 1, 30)), few, rng=stats.keyed_generator(0))
    assert open_.high == math.inf and 0 < open_.low < open_.ratio and "no upper bound" in open_.reason
    none_at_all = stats.ratio_of_means(few, np.abs(rng.normal(3, 1, 30)), rng=stats.keyed_generator(0))
    assert none_at_all.low == 0 and none_at_all.ratio < none_at_all.high < math.inf
    with pytest.raises(UsageError, match="one value per prompt"):
        stats.ratio_of_means([1.0, 2.0], [1.0, 2.0, 3.0], rng=stats.keyed_generator(0))


@given(arrays(float, (2, 12), elements=st.floats(0, 100)), st.integers(0, 5))
@settings(max_examples=60, deadline=None)
def test_ratio_laws(values, key):
    y, x = values
    if x.mean() < 1e-3:
        return
    found = stats.ratio_of_means(y, x, draws=200, rng=stats.keyed_generator(key))
    assert 0 <= found.low <= found.ratio + 1e-9 and found.ratio <= found.high + 1e-9
    if np.isfinite(found.fieller_low):
        assert found.low <= max(found.fieller_low, 0) + 1e-9 and found.fieller_high <= found.high + 1e-9
    twice = stats.ratio_of_means(2 * y, x, draws=200, rng=stats.keyed_generator(key))
    assert twice[:3] == pytest.approx([2 * end for end in found[:3]], rel=1e-6, abs=1e-9)


# ---- power


@pytest.mark.parametrize("n", [3, 32, 96, 553])
@pytest.mark.parametrize("effect", [0.02, 0.1, 0.4])
@pytest.mark.parametrize("alpha", [0.05, 0.001])
def test_power_equals_statsmodels(n, effect, alpha):
    ours = stats.power_difference(n, 3 * effect, 3.0, alpha=alpha)
    theirs = TTestPower().power(effect, n, alpha)
    if np.isnan(theirs):  # far out scipy's noncentral t, and statsmodels with it, has no answer
        assert effect * math.sqrt(n) > 9
        t = scipy_stats.t.isf(alpha / 2, n - 1)
        theirs = integrate.quad(
            lambda s: (
                special.ndtr(effect * math.sqrt(n) - t * s)
                * (2 * (n - 1) * s * scipy_stats.chi2.pdf((n - 1) * s * s, n - 1))
            ),
            0.5,
            1.5,
            epsabs=1e-13,
        )[0]
    assert ours == pytest.approx(theirs, abs=1e-10)


def test_power_far_out_is_one():
    assert stats.power_difference(96, 1.5, 1.0) == pytest.approx(1, abs=1e-12)
    assert stats.power_difference(10_000, 5.0, 1.0) == pytest.approx(1, abs=1e-12)


def test_prompts_needed_is_the_smallest_number():
    found = stats.prompts_for_difference(0.3, 1.0, power=0.8)
    assert found.n == math.ceil(TTestPower().solve_power(0.3, None, 0.05, 0.8))
    assert stats.power_difference(found.n - 1, 0.3, 1.0) < 0.8 <= found.power
    same = stats.prompts_for_equivalence(0.3, 1.0, power=0.9)
    assert stats.power_equivalence(same.n - 1, 0.3, 1.0) < 0.9 <= same.power


def test_detectable_sizes_have_the_power():
    effect = stats.detectable_effect(32, 2.0, power=0.9, alpha=0.01)
    assert stats.power_difference(32, effect, 2.0, alpha=0.01) == pytest.approx(0.9, abs=1e-9)
    margin = stats.detectable_margin(32, 2.0, effect=-0.1, power=0.9)
    assert stats.power_equivalence(32, margin, 2.0, effect=-0.1) == pytest.approx(0.9, abs=1e-9)


def test_impossible_numbers_of_prompts_say_why():
    assert stats.prompts_for_difference(0.0, 1.0).reason.startswith("an effect of zero")
    assert "not inside a margin" in stats.prompts_for_equivalence(0.1, 1.0, effect=-0.1).reason
    assert stats.prompts_for_difference(1e-5, 1.0).reason == "more than 10,000,000 prompts"
    with pytest.raises(UsageError, match="sd=0"):
        stats.power_difference(10, 0.1, 0.0)
    with pytest.raises(UsageError, match="n=1"):
        stats.power_equivalence(1, 0.1, 1.0)
    with pytest.raises(UsageError, match="power=1.5"):
        stats.detectable_effect(10, 1.0, power=1.5)


def test_tost_power_reproduces_the_published_crossover_design():
    """CV 30 %, true ratio 0.95, limits 0.80 to 1.25, 40 subjects: 0.815845 (R package PowerTOST)."""
    error = math.sqrt(math.log(1 + 0.3**2)) * math.sqrt(2 / 40)
    assert tost_power(math.log(1.25), error, 38, effect=math.log(0.95)) == pytest.approx(0.815845, abs=1e-6)


@pytest.mark.parametrize(
    ("margin", "error", "df"), [(0.5, 0.1, 30), (0.3, 0.2, 4), (0.3, 0.14, 552), (0.3, 0.3, 1)]
)
def test_tost_power_equals_adaptive_integration(margin, error, df):
    t = scipy_stats.t.isf(0.05, df)

    def integrand(s: float) -> float:
        inside = special.ndtr(margin / error - t * s) - special.ndtr(t * s - margin / error)
        return max(0.0, inside) * 2 * df * s * scipy_stats.chi2.pdf(df * s * s, df)

    exact = integrate.quad(integrand, 0, margin / (t * error), limit=400, epsabs=1e-12)[0]
    assert tost_power(margin, error, df) == pytest.approx(exact, abs=1e-9)


@pytest.mark.parametrize(("n", "margin", "effect"), [(10, 0.8, 0.0), (32, 0.5, 0.1), (96, 0.3, 0.0)])
def test_power_agrees_with_simulation(n, margin, effect):
    d = np.random.default_rng(n).normal(effect, 1, size=(20_000, n))
    simulated = (stats.tost(d, margin).p < 0.05).mean()
    assert stats.power_equivalence(n, margin, 1.0, effect=effect) == pytest.approx(simulated, abs=0.013)
    found = (stats.paired_t(d + 0.25) < 0.05).mean()
    assert stats.power_difference(n, effect + 0.25, 1.0) == pytest.approx(found, abs=0.013)


# ---- rank


def test_rank_deficient_distances_are_refused():
    for n in (100, 553, 2048):
        with pytest.raises(UsageError, match=rf"FID of {n} images .* rank {n - 1} of 2048.*Use KID"):
            stats.check_rank(n, 2048)
    stats.check_rank(2049, 2048)
    with pytest.raises(UsageError, match="FD of 10 images"):
        stats.check_rank(10, 64, what="FD")
    with pytest.raises(UsageError, match="at least 2 images"):
        stats.check_rank(1, 1)


# ---- trend


def test_page_trend_equals_scipy_on_either_side():
    rng = np.random.default_rng(0)
    values = rng.normal(size=(4, 30)) + 0.3 * np.arange(4)[:, None]
    up = scipy_stats.page_trend_test(values.T).pvalue
    assert stats.page_trend(values) == pytest.approx(2 * up, rel=1e-10)
    assert stats.page_trend(-values) == pytest.approx(stats.page_trend(values), rel=1e-10)
    assert stats.page_trend(np.ones((3, 9))) == 1
    whole = rng.integers(0, 3, size=(4, 20)).astype(float)
    assert stats.page_trend(whole * 0.3) == stats.page_trend(whole)
    assert np.isnan(stats.page_trend(values[:2]))
    with pytest.raises(UsageError, match=r"expected \[dose, prompt\]"):
        stats.page_trend(values[0])
