"""Bounds against exact ones of scipy, and Fieller's interval against its textbook formula."""

import math

import numpy as np
import pytest
from scipy import stats

from seal.artifacts.evaluation import Measurement
from seal.bounds import difference, gain, share_bounds


def of(values, metric="rate", kind="rate"):
    return Measurement(metric, kind, {f"i{k}": float(v) for k, v in enumerate(values)})


def first(num, n):
    return of([place < num for place in range(n)])


@pytest.mark.parametrize(("num", "n"), [(0, 20), (3, 60), (60, 60), (17, 250)])
def test_a_share_has_clopper_and_pearsons_bounds(num, n):
    exact = stats.binomtest(num, n).proportion_ci(0.9, method="exact")
    assert share_bounds(num, n, 0.05) == pytest.approx((exact.low, exact.high))


@pytest.mark.parametrize("num", [0, 1, 4, 12])
def test_changes_in_one_direction_have_the_exact_poisson_bounds(num):
    found = difference(
        [first(num, 200)], [first(0, 200)], is_share=True, alpha=0.05, theirs_trained=False
    )
    high = stats.chi2.ppf(0.95, 2 * num + 2) / 2
    low = stats.chi2.ppf(0.05, 2 * num) / 2 if num else 0.0
    none = stats.chi2.ppf(0.95, 2) / 2  # what may speak against it, though nothing did
    assert found.value == num / 200
    assert found.high == pytest.approx(high / 200)
    assert found.low == pytest.approx((num - math.hypot(num - low, none)) / 200)


def test_seeds_without_items_are_students_interval():
    means = [0.1, 0.2, 0.6]
    ours = [of([mean] * 50, "score", "mean") for mean in means]
    found = difference(
        ours, [of([0.0] * 50, "score", "mean")], is_share=False, alpha=0.05, theirs_trained=False
    )
    exact = stats.t.interval(0.9, 2, np.mean(means), stats.sem(means))
    assert (found.low, found.high) == pytest.approx(exact)


def test_the_share_of_a_gain_has_fiellers_interval():
    rng = np.random.default_rng(0)
    before = 3 + rng.normal(size=80)
    whole, ours = before - 1 + rng.normal(size=80), before - 0.9 + rng.normal(size=80)
    found = gain(
        *([of(one, "nll", "mean")] for one in (ours, whole, before)),
        is_share=False, is_higher_better=False, alpha=0.05, share=0.8,
    )  # fmt: skip
    x, y = before - ours, before - whole
    t = stats.t.ppf(0.95, 79)
    (vx, vxy), (_, vy) = np.cov(x, y) / 80
    a, b, c = y.mean() ** 2 - t**2 * vy, x.mean() * y.mean() - t**2 * vxy, x.mean() ** 2 - t**2 * vx
    half = math.sqrt(b * b - a * c)
    assert (found.low, found.high) == pytest.approx(((b - half) / a, (b + half) / a))
    assert found.share == pytest.approx(x.mean() / y.mean())
    assert (found.kept.low > 0) == (found.low > 0.8)


def test_no_gain_has_no_share():
    same = [of(np.linspace(1, 2, 50), "nll", "mean")]
    found = gain(same, same, same, is_share=False, is_higher_better=False, alpha=0.05, share=0.8)
    assert (found.whole.low, found.share, found.low) == (0, None, None)


def test_one_item_shows_nothing():
    found = difference(
        [of([1.0], "nll", "mean")], [of([2.0], "nll", "mean")], is_share=False, alpha=0.05
    )
    assert (found.low, found.high) == (-math.inf, math.inf)
