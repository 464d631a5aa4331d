"""Paired comparisons: values worked by hand, scipy, scikit-learn and statsmodels as references."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from scipy import stats
from sklearn.metrics import cohen_kappa_score
from statsmodels.stats.contingency_tables import mcnemar
from statsmodels.stats.inter_rater import cohens_kappa
from statsmodels.stats.multitest import multipletests

from seal import metrics, paired
from seal.artifacts.evaluation import Measurement


def measured(values, kind="rate", metric="attack_success_rate"):
    return Measurement(metric, kind, {f"p{place:04}": float(v) for place, v in enumerate(values)})


def means(values):
    return measured(values, "mean", "score")


def test_mcnemar_by_hand():
    # Four prompts only ours fails at, none only theirs: two-sided 2 / 2^4.
    ours, theirs = measured([1, 1, 1, 1, 0, 1]), measured([0, 0, 0, 0, 0, 1])
    found = paired.compare_paired([ours], [theirs])
    assert found.metric == "attack_success_rate"
    assert found.test == "exact McNemar"
    assert found.p_value == pytest.approx(2 / 2**4)
    assert found.difference == pytest.approx(4 / 6)
    assert found.n == 6
    assert 0 < found.low < found.difference < found.high <= 1


@pytest.mark.parametrize(("better", "worse"), [(1, 0), (3, 9), (5, 5), (20, 41), (0, 12)])
def test_mcnemar_is_that_of_statsmodels(better, worse):
    ours = measured([1] * better + [0] * worse + [1] * 7 + [0] * 4)
    theirs = measured([0] * better + [1] * worse + [1] * 7 + [0] * 4)
    expected = mcnemar([[7, better], [worse, 4]], exact=True).pvalue
    assert paired.compare_paired([ours], [theirs]).p_value == pytest.approx(min(1.0, expected))


def test_equal_answers_are_no_evidence():
    same = measured([1, 0, 1])
    found = paired.compare_paired([same], [same])
    assert (found.difference, found.low, found.high, found.p_value) == (0, 0, 0, 1)
    halves = measured([0.5, 0.5])
    assert paired.compare_paired([halves], [halves]).p_value == 1


def test_changing_sides_turns_the_difference_round():
    rng = np.random.default_rng(1)
    ours, theirs = [means(rng.normal(size=30))], [means(rng.normal(0.5, size=30))]
    one, other = paired.compare_paired(ours, theirs), paired.compare_paired(theirs, ours)
    assert one.difference == pytest.approx(-other.difference)
    assert one.p_value == other.p_value
    assert (one.low, one.high) == pytest.approx((-other.high, -other.low), abs=0.05)


def test_items_are_matched_by_id_not_by_place():
    ours = Measurement("score", "mean", {"a": 1.0, "b": 5.0, "c": 2.0})
    theirs = Measurement("score", "mean", {"c": 1.5, "a": 0.5, "b": 4.5})
    found = paired.compare_paired([ours], [theirs])
    assert (found.difference, found.low, found.high) == (0.5, 0.5, 0.5)


def test_signs_are_flipped_in_every_way_where_that_is_possible():
    ours, theirs = [3.0, 1.0, 4.0, 1.5, 5.0, 2.0], [1.0, 2.0, 2.5, 1.5, 1.0, 1.0]
    differences = np.subtract(ours, theirs)
    sums = [abs(np.dot(s, differences)) for s in itertools.product((1, -1), repeat=6)]
    expected = np.mean(np.array(sums) >= abs(differences.sum()) - 1e-9)
    found = paired.compare_paired([means(ours)], [means(theirs)])
    assert found.test == "exact sign-flip permutation"
    assert found.p_value == pytest.approx(expected)
    assert found.difference == pytest.approx(differences.mean())


def test_flipping_signs_of_ones_is_mcnemar():
    ours, theirs = [1] * 9 + [0] * 2 + [1, 0], [0] * 9 + [1] * 2 + [1, 0]
    rates = paired.compare_paired([measured(ours)], [measured(theirs)])
    shifted = paired.compare_paired(
        [means(np.array(ours) + 1)], [means(np.array(theirs) + 1)]
    )  # 2 and 1
    assert (rates.test, shifted.test) == ("exact McNemar", "exact sign-flip permutation")
    assert shifted.p_value == pytest.approx(rates.p_value)


def test_rounding_breaks_no_tie():
    # Sevenths that sum to 0, but in floating point to a hair more: every sign pattern is as far.
    ours, theirs = np.array([2, 4, 7, 0, 7, 4, 4, 4]), np.array([-4, 5, 10, 7, 0, 7, 9, -2])
    assert (ours - theirs).sum() == 0 < abs((ours / 7 - theirs / 7).sum())
    found = paired.compare_paired([means(ours / 7)], [means(theirs / 7)])
    assert found.p_value == 1


def test_many_items_are_sampled_and_the_p_value_is_never_zero():
    found = paired.compare_paired([means(np.ones(40) + np.arange(40))], [means(np.zeros(40))])
    assert found.test == "Monte Carlo (9999) sign-flip permutation"
    assert found.p_value == pytest.approx(1 / 10_000)
    rng = np.random.default_rng(2)
    values = rng.normal(0.3, 1.0, size=60)
    sampled = paired.compare_paired([means(values)], [means(np.zeros(60))])
    assert sampled == paired.compare_paired([means(values)], [means(np.zeros(60))])
    assert sampled.p_value == pytest.approx(stats.ttest_1samp(values, 0).pvalue, abs=0.01)


def test_seeds_are_averaged_per_item_and_add_no_items():
    ours, theirs = measured([1, 1, 0, 1, 1]), measured([0, 0, 0, 1, 0])
    one = paired.compare_paired([ours], [theirs])
    assert paired.compare_paired([ours] * 5, [theirs] * 3) == one
    mixed = paired.compare_paired([ours, measured([0, 1, 0, 1, 1])], [theirs])
    assert mixed.difference == pytest.approx((0.5 + 1 + 0 + 0 + 1) / 5)
    assert (mixed.n, mixed.test) == (5, "exact sign-flip permutation")


def test_false_alarms_are_as_rare_as_the_p_value_says():
    # Prompts differ a lot in how each side takes them, and are asked with five seeds. Taken for 100
    # prompts instead of 20, the same answers raise several times as many alarms.
    rng = np.random.default_rng(3)
    alarms, naive = 0, 0
    for _ in range(100):
        chance = rng.beta(0.3, 0.3, size=(2, 20))
        ours, theirs = (rng.random((5, 20)) < part for part in chance)
        found = paired.compare_paired(list(map(measured, ours)), list(map(measured, theirs)))
        alarms += found.p_value <= 0.05
        flat = paired.compare_paired([measured(ours.ravel())], [measured(theirs.ravel())])
        naive += flat.p_value <= 0.05
    assert alarms / 100 <= 0.08
    assert naive / 100 >= 0.12


def test_the_interval_covers_about_95_percent():
    rng = np.random.default_rng(4)
    covered = 0
    for _ in range(150):
        ours, theirs = (rng.random(60) < share for share in (0.6, 0.4))
        found = paired.compare_paired([measured(ours)], [measured(theirs)])
        covered += found.low <= 0.2 <= found.high
    assert 0.88 <= covered / 150 <= 0.99


@pytest.mark.parametrize("function", [paired.compare_paired, paired.seed_spread])
def test_what_cannot_be_compared_is_refused(function):
    one = measured([1, 0, 1])
    with pytest.raises(ValueError, match=r"not of the same items; 2 are in one .*\(first: p0001\)"):
        function([one], [measured([1])])
    with pytest.raises(ValueError, match="0 and 1 are not of the same items; 1 are in one of them"):
        function([one, measured([1, 0])], [one])
    with pytest.raises(ValueError, match=r"ours is attack_success_rate \(rate\), theirs is score"):
        function([one], [means([1, 0, 1])])
    with pytest.raises(ValueError, match="no measurements to pool; give one per seed"):
        function([one], [])


def test_seed_spread_without_item_spread_is_welchs_interval():
    # Every item moves with its model: only the seeds vary.
    ours, theirs = [0.1, 0.5, 0.3], [0.9, 0.4]
    found = paired.seed_spread(
        [means([value, value + 7]) for value in ours],
        [means([value, value + 7]) for value in theirs],
    )
    welch = stats.ttest_ind(ours, theirs, equal_var=False).confidence_interval()
    assert (found.low, found.high) == pytest.approx((welch.low, welch.high))
    assert found.seed_share == pytest.approx(1)
    assert (found.num_seeds, found.problem) == ((3, 2), "")


def test_seed_spread_without_seed_effect_is_the_paired_t_interval():
    ours, theirs = [3.0, 1.0, 4.0, 1.0, 5.0], [1.0, 2.0, 2.0, 1.0, 1.0]
    found = paired.seed_spread([means(ours)] * 2, [means(theirs)] * 3)
    expected = stats.ttest_rel(ours, theirs).confidence_interval()
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high))
    assert found.seed_share == 0
    assert paired.seed_spread([means([1, 2])] * 2, [means([0, 1])] * 2).low == 1


def test_one_seed_says_nothing_about_seeds():
    one, two = [means([1, 2, 3])], [means([1, 2, 4]), means([0, 2, 5])]
    for ours, theirs, num_seeds in ((one, two, (1, 2)), (two, one, (2, 1))):
        found = paired.seed_spread(ours, theirs)
        assert (found.low, found.high, found.seed_share) == (None, None, None)
        assert found.num_seeds == num_seeds
        assert found.problem.startswith("not measurable: with one training seed nothing is known")
    assert "with one item" in paired.seed_spread([means([1])] * 2, [means([2])] * 2).problem
    assert paired.seed_spread(two, one, theirs_trained=False).problem == ""


def test_the_base_model_adds_no_seed_variance():
    ours = [means([0.0, 1.0]), means([2.0, 3.0])]
    found = paired.seed_spread(ours, [means([0.0, 1.0])], theirs_trained=False)
    expected = stats.ttest_1samp([0.0, 2.0], 0).confidence_interval()
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high))


def bootstrapped(sides, rng):
    """The bootstrap interval of the difference of two (seeds, items) arrays, drawing both."""
    (num_seeds, n), drawn = sides[0].shape, []
    items = rng.multinomial(n, np.full(n, 1 / n), size=300) / n
    for side in sides:
        seeds = rng.multinomial(num_seeds, np.full(num_seeds, 1 / num_seeds), size=300) / num_seeds
        drawn.append(((items @ side.T) * seeds).sum(axis=1))
    return np.quantile(drawn[0] - drawn[1], [0.025, 0.975])


@pytest.mark.parametrize(("num_seeds", "share_of_bootstrap"), [(2, 0.82), (3, 0.9)])
def test_seed_spread_covers_what_bootstraps_miss(num_seeds, share_of_bootstrap):
    rng = np.random.default_rng(5)
    covered = np.zeros(3)
    for _ in range(150):
        hard = rng.normal(size=40)  # of each prompt
        sides = [
            hard + rng.normal(0, 0.3, size=(num_seeds, 1)) + rng.normal(0, 0.5, (num_seeds, 40))
            for _ in range(2)
        ]
        measurements = [[means(values) for values in side] for side in sides]
        found = paired.seed_spread(*measurements)
        by_items = metrics.mean((sides[0] - sides[1]).mean(axis=0).tolist())
        low, high = bootstrapped(sides, rng)
        ends = [(by_items.low, by_items.high), (low, high), (found.low, found.high)]
        covered += [low <= 0 <= high for low, high in ends]
    only_items, both, ours = covered / 150
    assert ours >= 0.92
    assert both < share_of_bootstrap
    assert only_items < 0.5


def test_holm_by_hand():
    # 0.01 x 3, then 0.02 x 2, then 0.03 x 1, which must not fall below the one before.
    found = paired.holm({"b": 0.02, "a": 0.01, "c": 0.03})
    assert list(found) == ["b", "a", "c"]
    assert found == pytest.approx({"a": 0.03, "b": 0.04, "c": 0.04})
    assert paired.holm({"a": 0.6, "b": 0.7}) == {"a": 1.0, "b": 1.0}
    assert paired.holm({}) == {}


def test_holm_is_that_of_statsmodels():
    rng = np.random.default_rng(6)
    for size in (1, 2, 9):
        values = np.round(rng.random(size) ** 3, 2)  # with ties
        found = paired.holm({f"m{place}": float(value) for place, value in enumerate(values)})
        assert list(found.values()) == pytest.approx(multipletests(values, method="holm")[1])


@pytest.mark.parametrize("value", [-0.1, 1.2, float("nan")])
def test_holm_refuses_what_is_no_p_value(value):
    with pytest.raises(ValueError, match=rf"^mine: {value} is no p-value; it must be in \[0, 1\]"):
        paired.holm({"mine": value})


def test_kappa_by_hand():
    # Agreement 7 / 10; by chance 0.5 * 0.6 + 0.5 * 0.4 = 0.5; (0.7 - 0.5) / 0.5.
    a, b = [True] * 5 + [False] * 5, [True] * 4 + [False] + [True] * 2 + [False] * 3
    found = paired.kappa(a, b)
    assert found.value == pytest.approx(0.4)
    assert found.n == 10
    assert found.low < 0.4 < found.high
    assert found == paired.kappa(a, b)


def test_kappa_is_that_of_scikit_learn_and_its_interval_that_of_statsmodels():
    rng = np.random.default_rng(7)
    a = rng.choice(["safe", "unsafe", "controversial"], p=[0.6, 0.3, 0.1], size=600)
    b = np.where(rng.random(600) < 0.7, a, rng.choice(["safe", "unsafe", "refused"], size=600))
    found = paired.kappa(a.tolist(), b.tolist())
    assert found.value == pytest.approx(cohen_kappa_score(a, b))
    words = sorted({*a, *b})
    table = [[((a == x) & (b == y)).sum() for y in words] for x in words]
    expected = cohens_kappa(table)
    assert (found.low, found.high) == pytest.approx(
        (expected.kappa_low, expected.kappa_upp), abs=0.01
    )


def test_kappa_of_a_judge_who_always_says_the_same_is_zero():
    assert paired.kappa([True] * 4, [True, False, True, False]).value == 0


def test_kappa_with_one_odd_item_has_no_hole():
    found = paired.kappa(["no"] * 9 + ["yes"], ["no"] * 9 + ["yes"])  # many resamples have no "yes"
    assert (found.value, found.low, found.high) == (1, 1, 1)


def test_kappa_that_is_not_defined_is_told():
    with pytest.raises(ValueError, match="not defined: both judges say False to all 3 items"):
        paired.kappa([False] * 3, [False] * 3)
    with pytest.raises(ValueError, match="there are 0 and 0"):
        paired.kappa([], [])
    with pytest.raises(ValueError, match="there are 1 and 2"):
        paired.kappa(["x"], ["x", "y"])


def test_agreement_counts_what_one_judge_left_open():
    a = {"1": True, "2": False, "3": None, "4": True, "5": True}
    b = {"5": False, "4": True, "3": True, "2": False, "1": None}
    found = paired.agreement(a, b)
    assert (found.n, found.both, found.agreed) == (5, 3, 2)
    assert found.counts == (("False", "False", 1), ("True", "False", 1), ("True", "True", 1))
    assert found.kappa == paired.kappa([False, True, True], [False, True, False])
    assert found.problem == ""


def test_agreement_without_kappa_says_why():
    same = paired.agreement({"1": True, "2": True}, {"1": True, "2": True})
    assert (same.both, same.agreed, same.kappa) == (2, 2, None)
    assert "both judges say True to all 2 items" in same.problem
    nothing = paired.agreement({"1": None}, {"1": True})
    assert (nothing.n, nothing.both, nothing.counts) == (1, 0, ())
    assert "there are 0 and 0" in nothing.problem


def test_agreement_on_other_items_is_refused():
    with pytest.raises(ValueError, match=r"1 are in one of them only \(first: b\)\. Let both"):
        paired.agreement({"a": True, "b": True}, {"a": True})


def test_one_item_that_differs_says_nothing():
    found = paired.compare_paired([means([0.0, 0.5, 1.0])], [means([0.0, 0.5, 0.5])])
    assert found.p_value == 1.0
    assert found.difference == pytest.approx(1 / 6)


@pytest.mark.parametrize(("num", "test"), [(13, "exact"), (14, "Monte Carlo (9999)")])
def test_up_to_13_differences_all_signs_are_tried(num, test):
    found = paired.compare_paired([means(np.arange(1.0, num + 1))], [means(np.zeros(num))])
    assert found.test == f"{test} sign-flip permutation"
    least = 2 / 2**13 if num == 13 else 1 / 10_000  # all of one sign: the two extremes
    assert found.p_value == pytest.approx(least, abs=0 if num == 13 else 5e-4)
