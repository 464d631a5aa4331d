"""Where a ranking is cut: planted groups, shapes without groups, and worked conformal quantiles."""

import numpy as np
import pytest
from scipy import stats
from scipy.special import expit, logit
from sklearn.mixture import GaussianMixture

from seal.cut import log_odds_cut, mixture_cut, normals_cut, trusted_cut
from seal.mixture import Shape, crossing, fit_mixture, low_share, refit, squeeze


def planted(num: int, share: float, gap: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Scores N(0, 1) of bad rows and N(gap, 1) of good ones, and which are bad."""
    rng = np.random.default_rng(seed)
    is_bad = np.arange(num) < round(share * num)
    return rng.normal(size=num) + gap * ~is_bad, is_bad


@pytest.mark.parametrize("share", [0.05, 0.2, 0.5, 0.8])
def test_a_planted_mixture_is_recovered(share):
    scores, is_bad = planted(2000, share, 6, seed=0)
    cut = mixture_cut(scores)
    assert cut.low.share == pytest.approx(share, abs=0.01)
    assert cut.high.share == pytest.approx(1 - share, abs=0.01)
    assert (cut.low.mean, cut.high.mean) == pytest.approx((0, 6), abs=0.15)
    assert (cut.low.sd, cut.high.sd) == pytest.approx((1, 1), abs=0.1)
    # where two unit normals are as likely: halfway, towards the smaller one
    ideal = 3 + np.log(share / (1 - share)) / 6
    assert cut.threshold.value == pytest.approx(ideal, abs=0.5)
    kept = scores >= cut.threshold.value
    assert cut.num_kept == kept.sum()
    assert cut.num_pool == 2000
    assert (is_bad != ~kept).sum() <= 8


def test_the_expected_mistakes_are_those_that_happen():
    scores, is_bad = planted(20_000, 0.3, 4.5, seed=1)
    cut = mixture_cut(scores)
    kept = scores >= cut.threshold.value
    for expected, true in ((cut.bad_kept, is_bad & kept), (cut.good_lost, ~is_bad & ~kept)):
        assert expected.value == pytest.approx(true.sum(), rel=0.35)
        assert expected.low < expected.value < expected.high


def test_the_intervals_cover_what_another_draw_gives():
    cuts = [mixture_cut(planted(400, 0.3, 5, seed)[0]) for seed in range(12)]
    middle = float(np.median([cut.threshold.value for cut in cuts]))
    covered = [cut.threshold.low <= middle <= cut.threshold.high for cut in cuts]
    assert np.mean(covered) >= 0.8
    assert np.median([cut.threshold.high - cut.threshold.low for cut in cuts]) < 1.5
    assert all(cut.num_resamples >= 200 for cut in cuts)


def test_the_same_scores_in_any_order_give_the_same_cut():
    scores, _ = planted(300, 0.3, 6, seed=3)
    assert mixture_cut(scores) == mixture_cut(scores[::-1])


@pytest.mark.parametrize(("factor", "offset"), [(1e-6, 0.0), (1e5, -40.0)])
def test_another_unit_keeps_the_same_rows(factor, offset):
    scores, _ = planted(1000, 0.2, 6, seed=4)
    first, second = mixture_cut(scores), mixture_cut(factor * scores + offset)
    assert second.num_kept == first.num_kept
    assert second.threshold.value == pytest.approx(factor * first.threshold.value + offset)
    assert second.bad_kept.value == pytest.approx(first.bad_kept.value, rel=1e-3)


@pytest.mark.parametrize("curve", [lambda x: np.exp(x / 6), np.arctan, lambda x: np.sinh(x / 4)])
def test_an_increasing_curve_keeps_nearly_the_same_rows(curve):
    scores, is_bad = planted(2000, 0.3, 6, seed=5)
    scores -= 3
    cut = mixture_cut(curve(scores))
    assert ((curve(scores) < cut.threshold.value) != is_bad).sum() <= 20


def test_a_far_outlier_does_not_become_a_group():
    scores, _ = planted(1000, 0.2, 6, seed=6)
    cut = mixture_cut(np.append(scores, [-1e6, 1e6]))
    assert cut.num_kept == pytest.approx(801, abs=6)
    assert 1 < cut.threshold.value < 4


RNG = np.random.default_rng(7)
ONE_PEAK = {
    "normal": RNG.normal(size=2000),
    "flat": RNG.random(2000),  # what the ranker `random` gives
    "heavy": RNG.standard_t(2, size=2000),
    "skewed": -RNG.gamma(2, size=2000),
    "very skewed": -np.exp(RNG.normal(size=2000)),
    "exponential": -RNG.exponential(size=2000),
    "overlapping": planted(2000, 0.5, 1.5, seed=8)[0],
}


@pytest.mark.parametrize("shape", ONE_PEAK)
def test_scores_without_two_groups_are_refused_with_the_numbers(shape):
    with pytest.raises(
        ValueError,
        match=r"^select: auto sees no two groups in the 2000 scores: BIC -?[\d.]+ with one group "
        r"and -?[\d.]+ with two, separation \(Ashman's D\) [\d.]+, p = \S+ of such a gap .*"
        r"give select\.fraction or select\.threshold\.$",
    ):
        mixture_cut(ONE_PEAK[shape])


def test_too_few_different_scores():
    with pytest.raises(ValueError, match=r"at least 50 different scores .* the 90 scores have 2 v"):
        mixture_cut(np.repeat([0.0, 5.0], 45))


@pytest.mark.parametrize(("separation", "num_peaks"), [(1.9, 1), (2.1, 2)])
def test_two_groups_are_so_far_apart_that_halves_of_a_pool_have_two_peaks(separation, num_peaks):
    x = np.linspace(-3, 3, 601) + separation / 2
    density = stats.norm.pdf(x) + stats.norm.pdf(x, separation)
    peaks = (density[1:-1] > density[:-2]) & (density[1:-1] > density[2:])
    assert peaks.sum() == num_peaks
    assert Shape(10.0, 5.0, separation, 1e-9).is_bimodal() == (num_peaks == 2)


@pytest.mark.parametrize("against", [{"bic_two": 10.5}, {"separation": 1.0}, {"gap_p_value": 0.05}])
def test_two_groups_take_all_three_signs(against):
    shape = Shape(bic_one=10.0, bic_two=5.0, separation=3.0, gap_p_value=0.001)
    assert shape.is_bimodal()
    assert not shape._replace(**against).is_bimodal()


# --- log-odds ------------------------------------------------------------------------------------


def test_even_odds_by_hand():
    """P(bad) = .9, .7, .5, .4, .2: the row at even odds is kept."""
    scores = -logit(np.array([0.9, 0.7, 0.5, 0.4, 0.2]))
    cut = log_odds_cut(scores)
    assert (cut.rule, cut.num_pool, cut.num_kept) == ("log_odds", 5, 3)
    assert (cut.threshold.value, cut.threshold.low, cut.threshold.high) == (0, 0, 0)
    assert cut.share_kept.value == pytest.approx(0.6)
    assert cut.bad_in_pool.value == pytest.approx(2.7)
    assert cut.bad_kept.value == pytest.approx(0.5 + 0.4 + 0.2)
    assert cut.good_lost.value == pytest.approx(0.1 + 0.3)
    assert log_odds_cut(scores[::-1]) == cut


def believed(num: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Scores whose odds are right, and the truth drawn from them."""
    rng = np.random.default_rng(seed)
    scores = rng.normal(1.5, 2, size=num)
    return scores, rng.random(num) < expit(-scores)


def test_right_odds_give_right_counts():
    scores, is_bad = believed(20_000, seed=0)
    cut = log_odds_cut(scores)
    kept = scores >= 0
    for expected, true in (
        (cut.bad_in_pool, is_bad),
        (cut.bad_kept, is_bad & kept),
        (cut.good_lost, ~is_bad & ~kept),
    ):
        assert expected.value == pytest.approx(true.sum(), rel=0.05)


def test_the_intervals_hold_the_truth_of_pools_like_this_one():
    covered = []
    for seed in range(60):
        scores, is_bad = believed(300, seed)
        cut, kept = log_odds_cut(scores), scores >= 0
        covered.append(cut.bad_kept.low <= (is_bad & kept).sum() <= cut.bad_kept.high)
        covered.append(cut.good_lost.low <= (is_bad < ~kept).sum() <= cut.good_lost.high)
        covered.append(cut.share_kept.low <= stats.norm.sf(-0.75) <= cut.share_kept.high)
    assert 0.9 < np.mean(covered) <= 1


def test_a_pool_without_bad_rows_is_kept_whole():
    cut = log_odds_cut(np.linspace(3, 40, 200))
    assert cut.num_kept == 200
    assert cut.bad_kept.value == cut.bad_in_pool.value < 1
    assert cut.good_lost.value == 0
    assert log_odds_cut(np.array([-800.0, 800.0])).bad_in_pool.value == pytest.approx(1)


# --- GradShield's threshold ----------------------------------------------------------------------

WORKED = -np.array([-1, -0.9, -1.1, -1, 3, 3.1])  # the risks of the worked example


def test_two_normals_by_hand():
    """Log-likelihoods -12.40 and 4.26: the highest of the low group is kept, and all below it."""
    cut = normals_cut(WORKED)
    assert (cut.rule, cut.num_normals, cut.num_kept) == ("grad_shield", 2, 4)
    assert cut.threshold.value == 0.9
    assert cut.gain == pytest.approx(4.26 + 12.40, abs=0.02)
    assert cut.share_kept.value == pytest.approx(4 / 6)
    assert normals_cut(WORKED[::-1]) == cut


def test_one_normal_by_hand(monkeypatch):
    """mean .35 and sd 1.910 of the same risks give 4.17, above all of them."""
    monkeypatch.setattr("seal.mixture.MIN_GAIN", 17.0)
    monkeypatch.setattr("seal.cut.MIN_GAIN", 17.0)
    cut = normals_cut(WORKED)
    assert (cut.num_normals, cut.num_kept) == (1, 6)
    assert cut.threshold.value == pytest.approx(-(0.35 + 2 * 1.9103), abs=1e-3)


def test_two_planted_normals_are_cut_between():
    """Risks N(0, 1) and N(6, 1): nothing between 3 and 4 is left to decide."""
    scores, is_bad = planted(2000, 0.3, 6, seed=0)
    cut = normals_cut(scores)
    assert cut.num_normals == 2
    assert cut.agreement == 1
    assert ((scores < cut.threshold.value) != is_bad).sum() <= 8
    assert cut.threshold.low <= cut.threshold.value <= cut.threshold.high
    assert cut.share_kept.low < cut.share_kept.value < cut.share_kept.high


def test_one_normal_is_cut_at_two_standard_deviations():
    scores = np.random.default_rng(0).normal(5, 2, size=3000)
    cut = normals_cut(scores)
    assert cut.num_normals == 1
    assert cut.gain < 10
    assert cut.agreement > 0.5, "most resamples see one normal, too"
    assert cut.threshold.value == pytest.approx(scores.mean() - 2 * scores.std(), abs=1e-3)
    assert cut.num_kept / 3000 == pytest.approx(stats.norm.cdf(2), abs=0.01)


def test_the_lower_of_the_two_highest_counts():
    """A wide low-mean normal owns both tails of the risks: the narrow one's end counts."""
    rng = np.random.default_rng(1)
    risks = np.concatenate([rng.normal(0, 10, 500), rng.normal(4, 0.5, 500)])
    cut = normals_cut(-risks)
    assert cut.num_normals == 2
    assert 5 < -cut.threshold.value < 7
    assert (risks > -cut.threshold.value).sum() > 100


@pytest.mark.parametrize("shape", ["skewed", "exponential"])
def test_unlike_the_mixture_it_cuts_scores_of_one_peak(shape):
    """The bar of 10 nats is for all rows together, and a large pool passes it by any skew."""
    assert normals_cut(ONE_PEAK[shape]).num_normals == 2


def test_equal_scores_have_no_threshold():
    with pytest.raises(ValueError, match=r"auto=grad_shield needs scores that differ; all 9 are 2"):
        normals_cut(np.full(9, 2.0))


# --- the mixture ---------------------------------------------------------------------------------


def test_the_mixture_is_that_of_scikit_learn():
    points = np.sort(planted(500, 0.3, 4, seed=9)[0])
    for num in (1, 2):
        ours = fit_mixture(points, np.ones(500), num=num)
        theirs = GaussianMixture(num, tol=1e-9, max_iter=2000, random_state=0, reg_covar=0)
        theirs.fit(points[:, None])
        order = np.argsort(theirs.means_[:, 0])
        assert ours.log_likelihood[0] == pytest.approx(theirs.score(points[:, None]), abs=1e-5)
        np.testing.assert_allclose(ours.means[0], theirs.means_[order, 0], atol=5e-3)
        np.testing.assert_allclose(ours.shares[0], theirs.weights_[order], atol=5e-3)
        spreads = np.sqrt(theirs.covariances_[order, 0, 0])
        np.testing.assert_allclose(ours.sds[0], spreads, atol=5e-3)


def test_a_weight_is_as_good_as_a_repetition():
    points = np.sort(planted(120, 0.4, 5, seed=10)[0])
    weights = np.random.default_rng(0).integers(0, 4, size=120).astype(float)
    start = fit_mixture(points, np.ones(120), num=2)
    weighted = refit(points, np.stack([weights, np.ones(120)]), start)
    repeated = fit_mixture(
        np.repeat(points, weights.astype(int)), np.ones(int(weights.sum())), num=2
    )
    np.testing.assert_allclose(weighted.means[0], repeated.means[0], atol=1e-3)
    np.testing.assert_allclose(weighted.means[1], start.means[0], atol=1e-3)


def test_the_crossing_is_where_both_are_as_likely():
    points = np.sort(planted(800, 0.2, 5, seed=11)[0])
    fit = fit_mixture(points, np.ones(800), num=2)
    at = crossing(fit)
    assert low_share(fit, at) == pytest.approx(0.5)
    densities = fit.shares[0] * stats.norm.pdf(at[0], fit.means[0], fit.sds[0])
    assert densities[0] == pytest.approx(densities[1])


def test_far_out_the_wider_normal_claims_nothing():
    """N(0, 3) and N(4, 0.5): above 5 the wide low one would win again."""
    rng = np.random.default_rng(12)
    points = np.sort(np.concatenate([rng.normal(0, 3, 300), rng.normal(4, 0.5, 600)]))
    fit = fit_mixture(points, np.ones(900), num=2)
    shares = low_share(fit, np.linspace(-20, 30, 500))[0]
    assert (np.diff(shares) <= 0).all()
    assert shares[0] == pytest.approx(1)
    assert shares[-1] < 0.5


def test_the_squeezed_scale_is_its_own_inverse_and_about_linear_inside():
    scores = np.random.default_rng(13).normal(10, 2, 1001)
    scale = squeeze(scores)
    np.testing.assert_allclose(scale.raw(scale.squeezed(scores)), scores)
    assert scale.squeezed(np.median(scores)[None]) == pytest.approx(0)
    assert scale.width == pytest.approx(3 * 2, rel=0.1)


# --- trusted rows --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("num", "error_rate", "threshold"),
    [
        (19, 0.05, 1),  # floor(0.05 * 20) = 1: the smallest
        (20, 0.05, 1),  # floor(1.05)
        (39, 0.05, 2),
        (38, 0.05, 1),  # floor(1.95)
        (99, 0.29, 29),  # 0.29 * 100 is 28.999999999999996 in floating point
        (4, 0.5, 2),
        (49, 1 / 49, 1),  # 1 / (1 / 49) is 49.00000000000001: 49 rows are enough
    ],
)
def test_the_conformal_quantile_by_hand(num, error_rate, threshold):
    if num == 19:
        with pytest.raises(ValueError, match=r"needs at least 20 held-out safe rows; there are 19"):
            trusted_cut(np.arange(50.0), np.arange(1.0, 20), error_rate)
        return
    reference = np.random.default_rng(0).permutation(np.arange(1.0, num + 1))
    cut = trusted_cut(np.arange(50.0), reference, error_rate)
    assert cut.threshold.value == threshold
    assert cut.reference_lost == threshold - 1
    assert cut.num_kept == 50 - threshold
    assert cut.share_kept.value == pytest.approx(1 - threshold / 50)
    assert (cut.num_reference, cut.error_rate, cut.num_pool) == (num, error_rate, 50)


def test_a_trusted_row_is_lost_as_rarely_as_promised():
    rng = np.random.default_rng(1)
    lost = [
        rng.standard_cauchy()
        < trusted_cut(np.zeros(1), rng.standard_cauchy(59), 0.1).threshold.value
        for _ in range(1500)
    ]
    assert 0.07 < np.mean(lost) <= 0.12  # floor(0.1 * 60) / 60 = 0.1


def test_too_few_trusted_rows_are_told_with_the_least_rate():
    with pytest.raises(
        ValueError,
        match=r"^select\.error_rate=0\.01 needs at least 100 held-out safe rows; there are 7\. "
        r"Raise select\.error_rate to 0\.15 or more",
    ):
        trusted_cut(np.zeros(3), np.zeros(7), 0.01)
    assert trusted_cut(np.zeros(3), np.zeros(7), 0.15).threshold.value == 0


def test_the_interval_of_a_conformal_threshold_covers():
    truth = stats.norm.ppf(0.1)
    covered = []
    for seed in range(100):
        rng = np.random.default_rng(seed)
        cut = trusted_cut(rng.normal(size=50), rng.normal(size=199), 0.1)
        covered.append(cut.threshold.low <= truth <= cut.threshold.high)
        assert cut.share_kept.low <= cut.share_kept.value <= cut.share_kept.high
    assert np.mean(covered) > 0.85


def test_one_reference_row_is_too_few_for_any_error_rate():
    with pytest.raises(ValueError, match=r"at least 2 held-out safe rows; there are 1\. Raise hol"):
        trusted_cut(np.arange(50.0), np.ones(1), 0.9)
