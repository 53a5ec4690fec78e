"""Metrics of models that read."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from sinkscope import metrics
from sinkscope.errors import UsageError
from sinkscope.metrics._arrays import score_arrays

NAMES = ("loss", "perplexity", "accuracy", "top1", "feature_cosine")
losses = arrays.arrays(np.float32, st.integers(1, 40), elements=st.floats(0, 20, width=32))


def unit(seed: int = 0, **other: Any) -> dict[str, Any]:
    rng = np.random.default_rng(seed)
    made = {
        "loss": rng.exponential(size=6).astype(np.float32),
        "predicted": rng.integers(3, size=6),
        "target": rng.integers(3, size=6),
        "feature": rng.normal(size=8).astype(np.float32),
        "patches": rng.normal(size=(5, 8)).astype(np.float32),
    }
    return {**made, **other}


@given(losses)
def test_perplexity_is_exp_of_the_mean_loss(loss: np.ndarray) -> None:
    (mean,) = metrics.get("loss").score([{"loss": loss}])
    (perplexity,) = metrics.get("perplexity").score([{"loss": loss}])
    assert mean == pytest.approx(math.fsum(map(float, loss)) / len(loss), rel=1e-12, abs=1e-12)
    assert perplexity == pytest.approx(math.exp(mean), rel=1e-12)


@pytest.mark.parametrize("name", NAMES)
def test_a_unit_scores_the_same_alone_and_with_others(name: str) -> None:
    metric = metrics.get(name)
    outputs, others = [unit(0), unit(1), unit(2)], [unit(3), unit(4), unit(5)]
    together = metric.score(outputs, None, others)
    alone = [float(metric.score([a], None, [b])[0]) for a, b in zip(outputs, others, strict=True)]
    assert together.tolist() == alone and together.dtype == np.float64
    assert len(set(alone)) > 1


def test_against_itself_and_by_hand() -> None:
    one = unit(0)
    for name, options in (("top1", {}), ("feature_cosine", {}), ("feature_cosine", {"of": "patches"})):
        metric = metrics.get(name, **options)
        assert metric.score([one], None, [one])[0] == pytest.approx(1.0, abs=1e-12)
    other = {**one, "predicted": np.where(np.arange(6) < 2, 9, one["predicted"])}
    assert metrics.get("top1").score([other], None, [one])[0] == pytest.approx(4 / 6)
    right = {"predicted": np.array([1, 2, 3, 4]), "target": np.array([1, 2, 3, 0])}
    assert metrics.get("accuracy").score([right])[0] == 0.75
    turned = {**one, "patches": np.concatenate([one["patches"][:3], -one["patches"][3:]])}
    cosine = metrics.get("feature_cosine", of="patches").score([turned], None, [one])[0]
    assert cosine == pytest.approx((3 - 2) / 5)


def test_what_cannot_be_scored_says_why_and_costs_nothing_else() -> None:
    bad = {"feature": np.zeros(8, dtype=np.float32)}
    table = score_arrays(metrics.get("loss"), [unit(0), bad])
    assert table["status"].tolist()[0] == "ok" and np.isnan(table["value"][1])
    assert table["status"][1] == "loss reads the array 'loss', and the output has feature"
    empty = score_arrays(metrics.get("loss"), [unit(0, loss=np.zeros(0))])
    assert empty["status"][0].endswith("of which it is empty")
    short = score_arrays(metrics.get("top1"), [unit(0)], [unit(1, predicted=np.zeros(3))])
    assert short["status"][0] == "array 'predicted' is (6,) and in the reference (3,)"
    zero = score_arrays(metrics.get("feature_cosine"), [unit(0)], [unit(1, **bad)])
    assert zero["status"][0] == "feature_cosine: a vector of 'feature' has length 0"
    over = score_arrays(metrics.get("perplexity"), [unit(0, loss=np.array([2000.0]))])
    assert over["status"][0] == "perplexity gave inf, expected a finite number"


def test_tokens_at_the_start_can_be_left_out() -> None:
    for name in ("loss", "perplexity", "accuracy", "top1"):
        rest = {key: value[2:] for key, value in unit(0).items()}
        cut = metrics.get(name, skip=2).score([unit(0)], None, [unit(1)])
        assert cut == metrics.get(name).score([rest], None, [{k: v[2:] for k, v in unit(1).items()}])
        assert metrics.get(name, skip=2).identity() != metrics.get(name).identity()
    table = score_arrays(metrics.get("loss", skip=6), [unit(0)])
    assert table["status"][0] == "loss skips 6 tokens, and the output has 6"
    with pytest.raises(UsageError, match="loss got skip=-1"):
        metrics.get("loss", skip=-1)


def test_mistakes() -> None:
    with pytest.raises(UsageError, match="scores arrays .loss. of models that read, got str"):
        metrics.get("loss").score(["picture"])
    with pytest.raises(UsageError, match="'top1' needs one reference per unit: got none for 1 units"):
        metrics.get("top1").score([unit(0)])
    with pytest.raises(UsageError, match="feature_cosine got of=3"):
        metrics.get("feature_cosine", of=3)


def test_identity_names_the_arrays() -> None:
    assert metrics.get("feature_cosine", of="patches").identity()["preprocess"] == "arrays patches"
    assert metrics.get("loss").identity() != metrics.get("perplexity").identity()
