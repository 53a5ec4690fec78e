"""Distances between sets against their definitions, scipy's matrix root and simulations of their bias."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import scipy.linalg
from hypothesis import given, settings
from hypothesis import strategies as st

from sinkscope import stats
from sinkscope.errors import NonFiniteError, UsageError
from sinkscope.stats import gaussian, polynomial


def drawn(seed, n, d, shift=0.0, scale=1.0):
    return np.random.default_rng(seed).normal(shift, scale, (n, d))


def by_hand(kernel, a, b):
    if kernel is polynomial:
        return (float(a @ b) / len(a) + 1) ** 3
    return 1000 * np.exp(-float(((a - b) ** 2).sum()) / 200)


sizes = st.tuples(st.integers(0, 10**6), st.integers(2, 9), st.integers(2, 9), st.integers(1, 12))


@given(sizes, st.sampled_from([polynomial, gaussian]))
@settings(max_examples=40, deadline=None)
def test_mmd_is_its_definition(size, kernel):
    seed, n, m, d = size
    x, y = drawn(seed, n, d, 0.3, 2.0), drawn(seed + 1, m, d)
    within = [np.mean([by_hand(kernel, a, b) for a, b in itertools.permutations(s, 2)]) for s in (x, y)]
    across = np.mean([by_hand(kernel, a, b) for a in x for b in y])
    assert stats.mmd(x, y, kernel) == pytest.approx(sum(within) - 2 * across, rel=1e-9, abs=1e-9)


@given(sizes, st.sampled_from([polynomial, gaussian]), st.integers(1, 3))
@settings(max_examples=40, deadline=None)
def test_paired_mmd_leaves_out_pairs_of_one_prompt(size, kernel, seeds):
    seed, n, _, d = size
    x, y = drawn(seed, n * seeds, d, 0.3, 2.0), drawn(seed + 1, n * seeds, d)
    prompts = [f"p{i // seeds}" for i in range(n * seeds)]
    terms = [
        by_hand(kernel, x[i], x[j]) + by_hand(kernel, y[i], y[j]) - by_hand(kernel, x[i], y[j])
        - by_hand(kernel, x[j], y[i])
        for i in range(n * seeds)
        for j in range(n * seeds)
        if prompts[i] != prompts[j]
    ]  # fmt: skip
    found = stats.paired_mmd(x, y, prompts, kernel=kernel, draws=100)
    assert found.value == pytest.approx(np.mean(terms), rel=1e-9, abs=1e-9)
    order = np.random.default_rng(seed).permutation(n * seeds)
    again = stats.paired_mmd(x[order], y[order], [prompts[i] for i in order], kernel=kernel, draws=100)
    assert again == pytest.approx(found, rel=1e-9, abs=1e-9)


@given(sizes)
@settings(max_examples=60, deadline=None)
def test_frechet_is_scipys(size):
    seed, n, m, d = size
    x, y = drawn(seed, n, d, 0.3, 2.0), drawn(seed + 1, m, d)
    s1, s2 = (np.atleast_2d(np.cov(values, rowvar=False)) for values in (x, y))
    # The root of a singular product is ill-conditioned, so it is taken of the symmetric form with a square
    # root of S1 that is exact on its null space.
    root = scipy.linalg.sqrtm(s1 + 1e-13 * np.eye(d)).real
    cross = scipy.linalg.sqrtm(root @ s2 @ root + 1e-13 * np.eye(d)).real
    expected = ((x.mean(0) - y.mean(0)) ** 2).sum() + np.trace(s1 + s2) - 2 * np.trace(cross)
    assert stats.frechet(x, y) == pytest.approx(expected, rel=1e-5, abs=1e-4)


def test_frechet_of_full_rank_is_the_textbook_formula():
    x, y = drawn(0, 400, 6, 0.3, 2.0) @ drawn(1, 6, 6), drawn(2, 300, 6)
    s1, s2 = np.cov(x, rowvar=False), np.cov(y, rowvar=False)
    expected = ((x.mean(0) - y.mean(0)) ** 2).sum() + np.trace(s1 + s2 - 2 * scipy.linalg.sqrtm(s1 @ s2).real)
    assert stats.frechet(x, y) == pytest.approx(expected, rel=1e-10)
    assert stats.frechet(x, x) == pytest.approx(0, abs=1e-10)
    # Only the means differ: the squared distance of the means.
    assert stats.frechet(x, x + np.arange(6.0)) == pytest.approx(55, rel=1e-10)


def test_equal_sets_are_at_distance_zero_and_indistinguishable():
    x = drawn(3, 20, 4)
    found = stats.paired_mmd(x, x, range(20), draws=200)
    assert found == (0, 0, 0, 1)


def test_paired_mmd_is_unbiased_where_pairs_resemble_each_other():
    """Arm and reference share most of each unit; the plain estimator takes that for closeness."""
    plain, paired = [], []
    for seed in range(200):
        shared = drawn(seed, 12, 5)
        x, y = (np.sqrt(0.8) * shared + np.sqrt(0.2) * drawn(1000 * k + seed, 12, 5) for k in (1, 2))
        plain.append(stats.mmd(x, y))
        paired.append(stats.paired_mmd(x, y, range(12), draws=100).value)
    error = np.std(paired) / np.sqrt(len(paired))
    assert abs(np.mean(paired)) < 3 * error
    assert np.mean(plain) < -10 * np.std(plain) / np.sqrt(len(plain))


def test_swapping_says_whether_sets_differ():
    p = [stats.paired_mmd(drawn(s, 10, 3), drawn(s + 500, 10, 3), range(10), draws=199).p for s in range(100)]
    assert np.mean(np.array(p) <= 0.1) == pytest.approx(0.1, abs=0.09)
    far = stats.paired_mmd(drawn(1, 20, 3, shift=1.5), drawn(2, 20, 3), range(20), draws=999)
    assert far.p < 0.01 and 0 < far.low < far.value < far.high


def test_the_same_seed_gives_the_same_interval():
    x, y = drawn(1, 30, 4, 0.5), drawn(2, 30, 4)
    for function in (stats.paired_mmd, stats.paired_frechet):
        first, second = (function(x, y, range(30), seed=5, draws=100) for _ in range(2))
        other = function(x, y, range(30), seed=6, draws=100)
        assert first[:3] == second[:3] and first.value == other.value and first.low != other.low


def test_the_frechet_interval_takes_the_bias_of_resampling_off():
    x, y = drawn(1, 80, 6), drawn(2, 80, 6)
    found = stats.paired_frechet(x, y, range(80), draws=100)
    # The truth is 0 and the estimate lies above it, as it must.
    assert found.value > 0 and found.low < 0 < found.value and np.isnan(found.p)


@pytest.mark.parametrize(
    ("x", "y", "prompts", "error", "message"),
    [
        (drawn(1, 3, 4), drawn(1, 3, 5), "abc", UsageError, r"Got features of shapes \(3, 4\) and \(3, 5\)"),
        (drawn(1, 3, 4), drawn(1, 2, 4), "abc", UsageError, "Got 3 and 2 images and 3 prompts"),
        (drawn(1, 3, 4), drawn(1, 3, 4), "aaa", UsageError, "Got images of one prompt"),
        (drawn(1, 3, 4) * np.inf, drawn(1, 3, 4), "abc", NonFiniteError, "NaN or infinite"),
    ],
)
def test_wrong_sets(x, y, prompts, error, message):
    for function in (stats.paired_mmd, stats.paired_frechet):
        with pytest.raises(error, match=message):
            function(x, y, list(prompts))
