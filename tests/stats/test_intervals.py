"""Intervals against scipy, known formulas and simulated coverage."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import optimize, special
from scipy import stats as scipy_stats

from sinkscope import stats
from sinkscope.errors import NonFiniteError, UsageError
from sinkscope.stats import _bootstrap as bootstrap

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
        stats.bca_interval(d, draws=500, rng=stats.keyed_generator(0))[0] for d in (whole * 3, whole * 0.3)
    )
    assert np.allclose(np.array(a) / 10, b, rtol=1e-12)


EIGHTHS = st.integers(-800, 800).map(lambda number: number / 8)  # adding a shift to them loses nothing


@given(arrays(float, st.integers(3, 25), elements=EIGHTHS), EIGHTHS)
@settings(max_examples=30, deadline=None)
def test_intervals_move_and_turn_with_the_values(values, shift):
    for method in ("combined", "bca", "percentile", "studentised", "t"):
        low, high = stats.mean_interval(values, method=method, draws=100, rng=stats.keyed_generator(0))[0]
        moved = stats.mean_interval(values + shift, method=method, draws=100, rng=stats.keyed_generator(0))[0]
        turned = stats.mean_interval(-values, method=method, draws=100, rng=stats.keyed_generator(0))[0]
        assert not low > high
        assert np.allclose([moved.low - shift, moved.high - shift], [low, high], atol=1e-6, equal_nan=True)
        assert np.allclose([-turned.high, -turned.low], [low, high], atol=1e-6, equal_nan=True)


def test_methods_are_checked():
    with pytest.raises(UsageError, match="interval method 'bcaa'"):
        stats.mean_interval([1.0, 2.0], method="bcaa", rng=stats.keyed_generator(0))  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="interval method within clusters 't'"):
        stats.clustered_interval([1.0, 2.0], [0, 1], within=True, method="t", rng=stats.keyed_generator(0))
    with pytest.raises(UsageError, match="draws=5"):
        stats.mean_interval([1.0, 2.0], draws=5, rng=stats.keyed_generator(0))


def test_combined_is_the_wider_of_t_and_studentised():
    rows = np.stack([make(np.random.default_rng(4), 25) for make in SHAPES.values()])
    ends = {
        method: stats.mean_interval(rows, method=method, draws=600, rng=stats.keyed_generator(5))[0]
        for method in ("combined", "t", "studentised")
    }
    assert (ends["combined"].low == np.minimum(ends["t"].low, ends["studentised"].low)).all()
    assert (ends["combined"].high == np.maximum(ends["t"].high, ends["studentised"].high)).all()
    one = np.r_[0.5, np.zeros(19)]  # resamples without the one value have no spread: no bootstrap-t
    undefined = stats.mean_interval(one, method="studentised", rng=stats.keyed_generator(5))[0]
    low, high = stats.mean_interval(one, rng=stats.keyed_generator(5))[0]
    assert np.isnan(undefined.high) and high == 0.5 and low < 0


@given(
    arrays(float, st.tuples(st.integers(1, 4), st.integers(2, 30)), elements=st.floats(-1e3, 1e3)),
    st.integers(0, 9),
)
@settings(max_examples=40, deadline=None)
def test_resampled_moments_equal_their_definition(rows, key):
    """The products with counts are the means and standard deviations of the resampled values."""
    means, spreads = bootstrap.resampled_means(rows, 120, stats.keyed_generator(key), spread=True)
    index = np.concatenate(list(bootstrap.resamples(rows.shape[1], 120, stats.keyed_generator(key))))
    scale = max(np.abs(rows).max(), 1e-300)
    assert np.allclose(means, rows[:, index].mean(axis=2), atol=1e-12 * scale)
    assert np.allclose(spreads, rows[:, index].std(axis=2, ddof=1), atol=2e-7 * scale)
    alone, _ = bootstrap.resampled_means(rows[:1], 120, stats.keyed_generator(key))
    assert (alone[0] == means[0]).all()


def test_paired_proportions_equal_a_published_example():
    """Airway hyper-responsiveness, 21 children, 1 against 7 discordant (Fagerland et al. 2014, table 3)."""
    d = np.array([1.0] + [-1.0] * 7 + [0.0] * 13)
    low, high = stats.paired_proportions(d)
    assert (round(float(low), 3), round(float(high), 3)) == (-0.517, -0.026)


def score_test(up: int, down: int, n: int, gap: float) -> float:
    """|z| of the score test that p_up - p_down = gap, by maximising the likelihood numerically."""

    def loss(p_down: float) -> float:
        cells = np.array([p_down + gap, p_down, 1 - 2 * p_down - gap])
        return -float(special.xlogy([up, down, n - up - down], np.maximum(cells, 1e-300)).sum())

    least, most = max(0.0, -gap), (1 - gap) / 2
    found = optimize.minimize_scalar(loss, bounds=(least, most), method="bounded", options={"xatol": 1e-14})
    p = min((found.x, least, most), key=loss)
    return abs(up - down - n * gap) / np.sqrt(n * (2 * p + gap - gap**2))


@given(st.integers(2, 60), st.data())
@settings(max_examples=40, deadline=None)
def test_the_ends_of_paired_proportions_are_where_the_score_test_rejects(n, data):
    up = data.draw(st.integers(0, n))
    down = data.draw(st.integers(0, n - up))
    d = np.r_[np.ones(up), -np.ones(down), np.zeros(n - up - down)]
    low, high = (float(end) for end in stats.paired_proportions(d))
    limit = scipy_stats.norm.isf(0.025)
    assert -1 <= low <= (up - down) / n <= high <= 1
    for end, outwards in ((low, -1e-4), (high, 1e-4)):
        if abs(end + outwards) < 1:
            assert score_test(up, down, n, end + outwards) > limit - 1e-6
        if abs(end - (up - down) / n) > 2e-4:
            assert score_test(up, down, n, end - outwards) < limit + 1e-6
    turned = stats.paired_proportions(-d)
    assert (float(turned.low), float(turned.high)) == pytest.approx((-high, -low), abs=1e-12)


def test_paired_proportions_of_several_seeds():
    rng = np.random.default_rng(0)
    d = rng.choice([-1.0, 0, 1], p=[0.1, 0.7, 0.2], size=40)
    one = stats.paired_proportions(d)
    same = stats.paired_proportions(d, seeds=4)  # all seeds of a prompt agree: no more than one seed
    assert np.allclose(same, one, atol=1e-3)
    units = rng.choice([-1.0, 0, 1], p=[0.1, 0.7, 0.2], size=(40, 4))
    free = stats.paired_proportions(units.mean(axis=1), seeds=4)  # independent: nearly as many pairs
    many = stats.paired_proportions(units.ravel())
    assert free.high - free.low == pytest.approx(many.high - many.low, rel=0.25)
    nothing = [stats.paired_proportions(np.zeros(40), seeds=seeds) for seeds in (1, 4)]
    assert nothing[0] == nothing[1] and nothing[0].high == pytest.approx(0.0876, abs=1e-4)
    for bad in ([0.5, 0.0], [2.0, 0.0]):
        with pytest.raises(UsageError, match="-1, 0 and 1"):
            stats.paired_proportions(bad)


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
    plain = stats.clustered_interval(values, labels, method="bca", draws=1000, rng=stats.keyed_generator(0))[
        0
    ]
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


# ---- coverage: the tables of docs/power.md in small


def heavy(rng: np.random.Generator, studies: int, n: int) -> np.ndarray:
    return rng.standard_t(3, size=(studies, n))


def mostly_zero(rng: np.random.Generator, studies: int, n: int) -> np.ndarray:
    return (rng.random((studies, n)) < 0.3) * rng.normal(1, 1, size=(studies, n))


CONTINUOUS = {
    "normal": (lambda rng, studies, n: rng.normal(size=(studies, n)), 0.0),
    "heavy tails": (heavy, 0.0),
    "log-normal": (lambda rng, studies, n: rng.lognormal(0, 0.75, size=(studies, n)), np.exp(0.75**2 / 2)),
    "mostly zero": (mostly_zero, 0.3),
}


@pytest.mark.parametrize("shape", CONTINUOUS)
def test_coverage_at_48_prompts(shape):
    """95 % intervals hold the true mean in 93 to 97 % of 1000 studies (here 92.5 to 98, for the noise)."""
    draw, truth = CONTINUOUS[shape]
    rng = stats.keyed_generator(0, "coverage", shape)
    rows = draw(rng, 1000, 48)
    (found,) = stats.mean_interval(rows, draws=600, rng=rng)
    assert 0.925 <= ((found.low <= truth) & (truth <= found.high)).mean() <= 0.98
    if shape == "log-normal":  # what the others do there
        (bca,) = stats.bca_interval(rows, draws=600, rng=rng)
        assert ((bca.low <= truth) & (truth <= bca.high)).mean() < 0.94


@pytest.mark.parametrize("shape", CONTINUOUS)
def test_equivalence_is_accepted_at_the_margin_as_often_as_it_may(shape):
    """TOST and the 95 % interval, true effect at either margin: at most 5.5 % of 1000 (here 6.5)."""
    draw, truth = CONTINUOUS[shape]
    rng = stats.keyed_generator(1, "margin", shape)
    rows = draw(rng, 1000, 48) - truth
    margin = 4 * rows.std() / np.sqrt(48)
    (found,) = stats.mean_interval(rows, draws=600, rng=rng)
    for side in (margin, -margin):
        inside = (found.low + side > -margin) & (found.high + side < margin)
        assert (inside & (stats.tost(rows + side, margin).p < 0.05)).mean() <= 0.065


@pytest.mark.parametrize("n", [16, 32, 64])
@pytest.mark.parametrize(("down", "up"), [(0.2, 0.05), (0.05, 0.01), (0.03, 0.0), (0.02, 0.02), (0.4, 0.2)])
def test_paired_proportions_cover_exactly(n, down, up):
    """Summed over every outcome: never below 93 %, and equivalence at the margin at most 5.5 %."""
    outcomes = [(a, b) for a in range(n + 1) for b in range(n + 1 - a)]
    rows = np.array([[1.0] * a + [-1.0] * b + [0.0] * (n - a - b) for a, b in outcomes])
    chance = scipy_stats.multinomial.pmf(
        [(a, b, n - a - b) for a, b in outcomes], n, [up, down, 1 - up - down]
    )
    low, high = stats.paired_proportions(rows)
    gap = up - down
    assert chance[(low <= gap) & (gap <= high)].sum() >= 0.93
    assert chance[(low > gap) & (high < -gap)].sum() <= 0.055


def test_tost_accepts_at_the_margin_as_often_as_it_may():
    d = np.random.default_rng(8).normal(size=(20_000, 32)) + 0.7
    assert (stats.tost(d, 0.7).p < 0.05).mean() <= 0.055
    assert (stats.tost(d - 0.7, 0.7).p < 0.05).mean() > 0.9
