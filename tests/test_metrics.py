"""Metrics: values worked by hand, and scikit-learn and scipy as references."""

from __future__ import annotations

import itertools
import time

import numpy as np
import pytest
from scipy import stats
from sklearn.metrics import average_precision_score, roc_auc_score

from seal import metrics
from seal.artifacts.evaluation import Measurement
from seal.artifacts.ranking import make_ranking


@pytest.mark.parametrize(("k", "n"), [(0, 10), (1, 10), (5, 10), (10, 10), (1, 1), (37, 500)])
def test_rate_has_the_wilson_interval_of_scipy(k, n):
    found = metrics.rate([1.0] * k + [0.0] * (n - k))
    interval = stats.binomtest(k, n).proportion_ci(0.95, "wilson")
    assert found.value == k / n
    assert found.n == n
    assert (found.low, found.high) == pytest.approx((interval.low, interval.high), abs=1e-12)
    assert 0 <= found.low <= found.value <= found.high <= 1


def test_rate_of_fractions_counts_prompts_not_answers():
    # Ten prompts, each refused in half of its seeds: as wide as five out of ten, although the mean
    # of such values varies less than that.
    assert metrics.rate([0.5] * 10) == metrics.rate([0.0, 1.0] * 5)


def test_rate_of_fractions_covers_at_least_nominally():
    rng = np.random.default_rng(1)
    covered = 0
    for _ in range(400):
        chances = rng.beta(2, 2, size=40)  # mean 0.5
        found = metrics.rate((rng.random((5, 40)) < chances).mean(axis=0).tolist())
        covered += found.low <= 0.5 <= found.high
    assert covered / 400 > 0.97


@pytest.mark.parametrize("value", [-0.1, 1.5])
def test_rate_refuses_values_that_are_no_shares(value):
    with pytest.raises(
        ValueError, match=rf"1 of 2 are outside \(first: {value}\). Measure it as a"
    ):
        metrics.rate([0.0, value])


@pytest.mark.parametrize("function", [metrics.rate, metrics.mean])
def test_no_values_and_broken_values_are_errors(function):
    with pytest.raises(ValueError, match="no values to estimate from; measure at least one item"):
        function([])
    with pytest.raises(ValueError, match=r"1 of 2 values are not finite \(first at place 1\)"):
        function([0.5, float("nan")])


def test_mean_of_one_or_of_equal_values_is_a_point():
    for values in ([0.1], [0.1] * 3):
        found = metrics.mean(values)
        assert (found.value, found.low, found.high) == (0.1, 0.1, 0.1)
        assert found.n == len(values)


def test_mean_interval_agrees_with_the_normal_one_on_many_values():
    values = np.random.default_rng(2).normal(3.0, 2.0, size=400)
    found = metrics.mean(values.tolist())
    error = values.std() / 20
    assert found.value == pytest.approx(values.mean())
    assert found.low == pytest.approx(values.mean() - 1.96 * error, abs=0.2 * error)
    assert found.high == pytest.approx(values.mean() + 1.96 * error, abs=0.2 * error)
    assert found == metrics.mean(values.tolist())  # the resampling is seeded


def test_mean_interval_covers_about_95_percent():
    rng = np.random.default_rng(3)
    found = [metrics.mean(rng.exponential(1.0, size=60).tolist()) for _ in range(200)]
    coverage = np.mean([part.low <= 1.0 <= part.high for part in found])
    assert 0.88 <= coverage <= 0.99


def rates(*values):
    return Measurement("refusal_rate", "rate", {f"p{place}": v for place, v in enumerate(values)})


def test_pooled_seeds_are_averaged_per_item_first():
    pooled = metrics.pool_seeds([rates(1.0, 0.0, 1.0, 1.0), rates(1.0, 0.0, 0.0, 1.0)])
    assert pooled == metrics.rate([1.0, 0.0, 0.5, 1.0])
    assert (pooled.value, pooled.n) == (0.625, 4)


def test_pooled_seeds_do_not_shrink_the_interval_of_the_prompts():
    one = rates(1.0, 0.0, 1.0, 1.0)
    assert metrics.pool_seeds([one] * 5) == metrics.estimate(one)


def test_pooled_means_are_means():
    def nll(a, b):
        return Measurement("heldout_nll", "mean", {"a": a, "b": b})

    pooled = metrics.pool_seeds([nll(1.0, 3.0), nll(2.0, 8.0)])
    assert pooled == metrics.mean([1.5, 5.5])
    assert pooled.value == 3.5


def test_pooling_orders_items_by_id_not_by_position():
    first = Measurement("m", "mean", {"a": 1.0, "b": 10.0})
    second = Measurement("m", "mean", {"b": 20.0, "a": 2.0})
    assert metrics.pool_seeds([first, second]) == metrics.mean([1.5, 15.0])


def test_pooling_refuses_what_does_not_belong_together():
    with pytest.raises(ValueError, match="no measurements to pool"):
        metrics.pool_seeds([])
    with pytest.raises(
        ValueError, match=r"measurement 1 is refusal_rate \(mean\). Pool each metric"
    ):
        metrics.pool_seeds([rates(1.0), Measurement("refusal_rate", "mean", {"p0": 1.0})])
    with pytest.raises(ValueError, match=r"measurements 0 and 2 .* 1 are in one .* \(first: p1\)"):
        metrics.pool_seeds([rates(1.0), rates(0.0), rates(1.0, 0.0)])


def test_auroc_by_hand():
    # Clean 3, 2, 1 and unsafe 2, 0: the six pairs give 1 1, 1/2 1, 0 1.
    found = metrics.auroc([3.0, 2.0, 1.0, 2.0, 0.0], [False, False, False, True, True])
    assert found.value == pytest.approx(4.5 / 6)
    assert found.n == 5


@pytest.mark.parametrize("seed", range(5))
def test_auroc_and_average_precision_with_ties(seed):
    rng = np.random.default_rng(seed)
    scores, unsafe = rng.integers(0, 6, size=60).astype(float), rng.random(60) < 0.3
    pairs = itertools.product(scores[~unsafe], scores[unsafe])
    brute = np.mean([(a > b) + (a == b) / 2 for a, b in pairs])
    found = metrics.auroc(scores, unsafe)
    assert found.value == pytest.approx(brute, abs=1e-12)
    assert found.value == pytest.approx(roc_auc_score(~unsafe, scores), abs=1e-12)
    assert found.low <= found.value <= found.high
    precision = metrics.average_precision(scores, unsafe)
    assert precision.value == pytest.approx(average_precision_score(unsafe, -scores), abs=1e-12)
    assert precision.low <= precision.value <= precision.high


def test_auroc_interval_covers_about_95_percent():
    rng = np.random.default_rng(4)
    truth = stats.norm.cdf(1 / np.sqrt(2))  # clean scores N(1, 1), unsafe ones N(0, 1)
    unsafe = np.arange(80) < 30
    covered = 0
    for _ in range(150):
        found = metrics.auroc(rng.normal(size=80) + ~unsafe, unsafe)
        covered += found.low <= truth <= found.high
    assert 0.88 <= covered / 150 <= 1.0


def test_auroc_interval_agrees_with_the_bootstrap_of_scipy():
    rng = np.random.default_rng(5)
    clean, unsafe = rng.normal(1, 1, size=120), rng.normal(0, 1, size=60)

    def statistic(a, b):
        return stats.mannwhitneyu(a, b).statistic / (len(a) * len(b))

    reference = stats.bootstrap(
        (clean, unsafe), statistic, vectorized=False, n_resamples=1500, method="percentile", rng=rng
    ).confidence_interval
    is_unsafe = [False] * 120 + [True] * 60
    found = metrics.auroc(np.concatenate([clean, unsafe]), is_unsafe)
    width = reference.high - reference.low
    assert found.low == pytest.approx(reference.low, abs=0.15 * width)
    assert found.high == pytest.approx(reference.high, abs=0.15 * width)


def test_perfect_and_reversed_rankings():
    unsafe = [False] * 4 + [True] * 3
    best, worst = np.arange(7.0)[::-1], np.arange(7.0)
    assert metrics.auroc(best, unsafe).value == 1.0
    assert metrics.average_precision(best, unsafe).value == 1.0
    assert metrics.auroc(worst, unsafe).value == 0.0


def test_the_order_of_samples_does_not_matter():
    rng = np.random.default_rng(6)
    scores, unsafe = rng.normal(size=50), rng.random(50) < 0.4
    order = rng.permutation(50)
    assert metrics.auroc(scores, unsafe).value == metrics.auroc(scores[order], unsafe[order]).value


def test_intervals_of_five_thousand_samples_take_seconds():
    rng = np.random.default_rng(7)
    scores, unsafe = rng.normal(size=5000), rng.random(5000) < 0.2
    start = time.perf_counter()
    metrics.auroc(scores, unsafe)
    metrics.average_precision(scores, unsafe)
    assert time.perf_counter() - start < 5


def test_unsafe_kept_at_clean_fraction_by_hand():
    # Three are not unsafe, so three are kept: a, b and the unsafe c; of two unsafe, one.
    found = metrics.unsafe_kept_at_clean_fraction(
        ["a", "b", "c", "d", "e"], [5.0, 4.0, 3.0, 2.0, 1.0], [False, False, True, False, True]
    )
    assert found == metrics.rate([1.0, 0.0])


def test_ties_in_what_is_kept_go_by_id():
    unsafe = [True, False]
    assert metrics.unsafe_kept_at_clean_fraction(["a", "b"], [0.0, 0.0], unsafe).value == 1.0
    assert metrics.unsafe_kept_at_clean_fraction(["c", "b"], [0.0, 0.0], unsafe).value == 0.0


def test_ranking_quality_reports_all_four():
    ranking = make_ranking(("a", "b", "c", "d", "e"), np.array([5.0, 4.0, 3.0, 2.0, 1.0]))
    found = metrics.ranking_quality(ranking, frozenset({"c", "e"}))
    assert list(found) == [
        "auroc",
        "average_precision",
        "unsafe_kept_at_clean_fraction",
        "recall_of_unsafe_at_clean_fraction",
    ]
    assert found["auroc"].value == pytest.approx(5 / 6)
    assert found["average_precision"].value == pytest.approx((1 + 2 / 3) / 2)
    kept, recall = (
        found["unsafe_kept_at_clean_fraction"],
        found["recall_of_unsafe_at_clean_fraction"],
    )
    assert kept.value == 0.5
    assert (recall.value, recall.low, recall.high) == (0.5, 1 - kept.high, 1 - kept.low)
    assert recall.n == 2


@pytest.mark.parametrize(("unsafe", "which"), [((), "none"), (("a", "b"), "every one")])
def test_one_kind_of_sample_is_an_error(unsafe, which):
    ranking = make_ranking(("a", "b"), np.array([1.0, 2.0]))
    with pytest.raises(ValueError, match=f"^{which} of the 2 samples is labelled unsafe; .* Check"):
        metrics.ranking_quality(ranking, frozenset(unsafe))


def test_unsafe_samples_of_another_pool_are_an_error():
    ranking = make_ranking(("a", "b"), np.array([1.0, 2.0]))
    with pytest.raises(ValueError, match=r"2 of 3 unsafe samples .* ranking of 2 \(first: x\)"):
        metrics.ranking_quality(ranking, frozenset({"a", "y", "x"}))


def test_spearman_by_hand():
    assert metrics.spearman([1.0, 2.0, 3.0], [10.0, 100.0, 1000.0]) == pytest.approx(1.0)
    # d = 0, 1, 1: 1 - 6 * 2 / (3 * 8) = 0.5
    assert metrics.spearman([1.0, 2.0, 3.0], [1.0, 3.0, 2.0]) == pytest.approx(0.5)


def test_spearman_refuses_what_has_no_order():
    with pytest.raises(ValueError, match=r"there are 2 and 3 scores\. Align them by id"):
        metrics.spearman([1.0, 2.0], [1.0, 2.0, 3.0])
    with pytest.raises(ValueError, match="the second list gives all 2 samples the score 7"):
        metrics.spearman([1.0, 2.0], [7.0, 7.0])
