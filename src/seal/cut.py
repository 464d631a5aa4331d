"""Where to cut a ranking: between the two groups of its scores, or at what trusted rows score.

Pure functions of scores. `auto_cut` reads the scores as a mixture of a low and a high group and
refuses where there are no two; `trusted_cut` is a conformal quantile of trusted rows' scores.

Dimension key: N scores, G groups of neighbouring scores, B resamples.
"""

from __future__ import annotations

import math
from typing import Literal, NamedTuple

import numpy as np
from scipy import stats

from seal.artifacts.evaluation import Estimate
from seal.artifacts.settings import Settings
from seal.mixture import Mixture, Squeeze, crossing, fit_mixture, low_share, refit, squeeze

NUM_RESAMPLES = 200  # the 2.5 % tail rests on 5 resamples
MAX_GROUPS = 1000  # of neighbouring scores, so that a fit takes as long for any pool
MIN_DISTINCT = 50  # different scores, below which a shape cannot be told
MIN_SEPARATION = 2.0  # Ashman's D: two normals of equal size and spread have one peak below it
MAX_OUTLIERS = 0.005  # share of the scores at either end that make no group
MAX_P_VALUE = 0.01  # of a gap as deep as this in scores of one peak
MIN_CROSSED = 0.95  # share of the resamples that must have a threshold, too
_WAY_OUT = "Look at the histogram in the report, and give select.fraction or select.threshold."


class Group(Settings):
    """One of the two groups of scores.

    Attributes:
        share: Of all scores.
        mean: Of its scores, each weighted by its probability of being in the group.
        sd: Standard deviation, likewise.
    """

    share: float
    mean: float
    sd: float


class Cut(Settings):
    """A threshold found in scores; rows that score at least that much are kept.

    Attributes:
        rule: "auto", or "safe" for one that trusted rows decide.
        threshold: In the scores' unit; the interval is a percentile bootstrap over the rows that
            decide it.
        num_pool: Scores there were to cut.
        num_kept: Of them, at least the threshold. Quotas may keep others.
        share_kept: num_kept / num_pool; the interval comes of the threshold's.
        num_resamples: Behind the intervals.
    """

    rule: Literal["auto", "safe"]
    threshold: Estimate
    num_pool: int
    num_kept: int
    share_kept: Estimate
    num_resamples: int


class AutoCut(Cut):
    """The threshold between two groups of scores.

    Attributes:
        low: The group below.
        high: The group above.
        bad_kept: Expected number of rows of the low group that are kept.
        good_lost: Expected number of rows of the high group that are not.
        bic_one: Bayesian information criterion of one normal; lower = better.
        bic_two: The same of two.
        separation: Ashman's D of the two.
        gap_p_value: Probability of a gap as deep if the scores had one peak.
    """

    low: Group
    high: Group
    bad_kept: Estimate
    good_lost: Estimate
    bic_one: float
    bic_two: float
    separation: float
    gap_p_value: float


class TrustedCut(Cut):
    """The threshold that trusted rows decide.

    Attributes:
        error_rate: Share of trusted rows that may be lost.
        num_reference: Trusted rows that decide.
        reference_lost: How many of them score below the threshold.
    """

    error_rate: float
    num_reference: int
    reference_lost: int


def auto_cut(scores: np.ndarray, *, seed: int = 0) -> AutoCut:
    """The threshold between the low and the high group of the scores, if there are two.

    Two normals are fitted to the scores on a scale that is linear around their median and
    logarithmic far from it (`seal.mixture.squeeze`): a heavy tail would otherwise take one of the
    two for itself. For the same reason the outermost 0.5 % at either end count as if they were
    where the others end; a group must be larger than that. (Ranks instead of scores would take away
    all that tells two groups from one: they are always even.)

    There are two groups if two normals have the lower BIC, if their separation (Ashman's D) is
    above 2, and if the scores themselves have a gap: a window between the two peaks holds fewer
    rows than one as wide on either peak, by more than chance (two binomial tests, in the scores'
    own unit). The third is what flat and skewed scores fail: two normals fit them better than one
    does, though there is nothing to cut between.

    The threshold is where a row is as likely of the one group as of the other.

    Args:
        scores: [N], finite; higher = keep. Their order does not matter.
        seed: Of the bootstrap.

    Raises:
        ValueError: If the scores are not in two groups, with the numbers.
    """
    ordered = np.sort(np.asarray(scores, dtype=np.float64))
    if np.count_nonzero(np.diff(ordered)) + 1 < MIN_DISTINCT:
        raise ValueError(
            f"select: auto needs at least {MIN_DISTINCT} different scores to see two groups; the "
            f"{len(ordered)} scores have {np.count_nonzero(np.diff(ordered)) + 1} values. "
            f"{_WAY_OUT}"
        )
    scale = squeeze(ordered)
    points, counts = _groups(scale.squeezed(_winsorised(ordered)))
    two = fit_mixture(points, counts, num=2)
    shape = _shape(ordered, scale, two, fit_mixture(points, counts, num=1))
    found = (
        f"BIC {shape.bic_one:.1f} with one group and {shape.bic_two:.1f} with two, separation "
        f"(Ashman's D) {shape.separation:.2f}, p = {shape.gap_p_value:.2g} of such a gap in scores "
        "of one peak"
    )
    if not shape.is_bimodal():
        raise ValueError(
            f"select: auto sees no two groups in the {len(ordered)} scores: {found}. It takes a "
            f"lower BIC with two, a separation above {MIN_SEPARATION:g} and p below {MAX_P_VALUE}. "
            f"{_WAY_OUT}"
        )
    rng = np.random.default_rng(seed)
    drawn = rng.multinomial(len(ordered), counts / counts.sum(), size=NUM_RESAMPLES)
    weights, again = drawn.astype(np.float64), refit(points, drawn.astype(np.float64), two)
    fine = np.isfinite(crossing(again))
    if fine.mean() < MIN_CROSSED:
        raise ValueError(
            f"select: auto finds two groups in the {len(ordered)} scores ({found}), but loses them "
            f"in {(~fine).sum()} of {NUM_RESAMPLES} resamples. {_WAY_OUT}"
        )
    counted = _counted(points, weights[fine], again.only(fine))
    return _between(ordered, scale, two, counted, shape)


def trusted_cut(
    scores: np.ndarray, reference: np.ndarray, error_rate: float, *, seed: int = 0
) -> TrustedCut:
    """The threshold below which a trusted row falls with probability `error_rate` at most.

    It is the floor(error_rate (n + 1))-th smallest of the n reference scores: if one more trusted
    row came from where these came from, its place among them would be any with the same
    probability, so that it is lost with probability at most `error_rate`. No shape is assumed.

    Args:
        scores: [N], of the pool, finite; higher = keep.
        reference: [n], of trusted rows that the ranker scored as if they were pool rows.
        error_rate: In (0, 1).
        seed: Of the bootstrap.

    Raises:
        ValueError: If there are fewer than 1 / error_rate reference rows.
    """
    num = len(reference)
    least = math.ceil(1 / error_rate - 1e-9)
    if num < least:
        # Of one row no error rate below 1 can be kept.
        lax = f"Raise select.error_rate to {math.ceil(100 / num) / 100:g} or more; or r"
        raise ValueError(
            f"select.error_rate={error_rate:g} needs at least {least} held-out safe rows; there "
            f"are {num}. {lax if num > 1 else 'R'}aise holdout or give more safe rows, and rank "
            "again."
        )
    place = math.floor(error_rate * (num + 1) + 1e-9) - 1  # 0.29 * 100 is 28.999999999999996
    ordered, trusted = np.sort(np.asarray(scores, dtype=np.float64)), np.sort(reference)
    rng = np.random.default_rng(seed)
    drawn = np.sort(trusted[rng.integers(num, size=(NUM_RESAMPLES, num))], axis=1)[:, place]
    value = float(trusted[place])
    shares = 1 - np.searchsorted(ordered, drawn) / len(ordered)
    num_kept = int((ordered >= value).sum())
    return TrustedCut(
        rule="safe",
        threshold=_estimate(value, drawn, num),
        num_pool=len(ordered),
        num_kept=num_kept,
        share_kept=_estimate(num_kept / len(ordered), shares, num),
        error_rate=error_rate,
        num_reference=num,
        reference_lost=int((trusted < value).sum()),
        num_resamples=NUM_RESAMPLES,
    )


class _Shape(NamedTuple):
    """What speaks for two groups, and against."""

    bic_one: float
    bic_two: float
    separation: float
    gap_p_value: float

    def is_bimodal(self) -> bool:
        return (
            self.bic_two < self.bic_one
            and self.separation > MIN_SEPARATION
            and self.gap_p_value < MAX_P_VALUE
        )


class _Counted(NamedTuple):
    """What each resample says: [B] each."""

    thresholds: np.ndarray  # squeezed
    share_kept: np.ndarray
    bad_kept: np.ndarray
    good_lost: np.ndarray


def _shape(ordered: np.ndarray, scale: Squeeze, two: Mixture, one: Mixture) -> _Shape:
    low, high, threshold = scale.raw(np.append(two.means[0], crossing(two))).tolist()
    return _Shape(
        _bic(one, 2, len(ordered)),
        _bic(two, 5, len(ordered)),
        two.separation(),
        _gap_p_value(ordered, low, high, threshold),
    )


def _counted(points: np.ndarray, weights: np.ndarray, mixtures: Mixture) -> _Counted:
    thresholds = crossing(mixtures)
    kept = weights * (points >= thresholds[:, None])
    is_low = low_share(mixtures, points)
    return _Counted(
        thresholds,
        kept.sum(axis=1) / weights.sum(axis=1),
        (kept * is_low).sum(axis=1),
        ((weights - kept) * (1 - is_low)).sum(axis=1),
    )


def _between(
    ordered: np.ndarray, scale: Squeeze, two: Mixture, counted: _Counted, shape: _Shape
) -> AutoCut:
    """The cut of a fitted mixture, with the intervals that its resamples give."""
    num = len(ordered)
    value = float(scale.raw(crossing(two))[0])
    low = low_share(two, scale.squeezed(ordered))[0]
    kept = ordered >= value
    return AutoCut(
        rule="auto",
        threshold=_estimate(value, scale.raw(counted.thresholds), num),
        num_pool=num,
        num_kept=int(kept.sum()),
        share_kept=_estimate(float(kept.mean()), counted.share_kept, num),
        low=_group(ordered, low),
        high=_group(ordered, 1 - low),
        bad_kept=_estimate(float(low[kept].sum()), counted.bad_kept, num),
        good_lost=_estimate(float((1 - low)[~kept].sum()), counted.good_lost, num),
        num_resamples=len(counted.thresholds),
        **shape._asdict(),
    )


def _winsorised(ordered: np.ndarray) -> np.ndarray:
    """The sorted scores, those beyond the extreme percentiles moved to them; at least one each."""
    low = np.quantile(ordered, MAX_OUTLIERS, method="higher")
    high = np.quantile(ordered, 1 - MAX_OUTLIERS, method="lower")
    return np.clip(ordered, low, high)


def _groups(ordered: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Means and sizes of at most `MAX_GROUPS` runs of the sorted values: ([G], [G])."""
    runs = np.array_split(ordered, min(len(ordered), MAX_GROUPS))
    return np.array([run.mean() for run in runs]), np.array([float(len(run)) for run in runs])


def _bic(mixture: Mixture, num_parameters: int, num: int) -> float:
    return num_parameters * math.log(num) - 2 * num * float(mixture.log_likelihood[0])


def _gap_p_value(ordered: np.ndarray, low: float, high: float, threshold: float) -> float:
    """Probability of so few rows around the threshold, if the scores had one peak.

    Of three windows in a row, as wide as each other, the middle one of a density with one peak
    holds at least as much as the emptier of the two outer ones. So the middle one is held against
    either of the others as heads against tails; the weaker of the two tests counts.
    """
    width = min(threshold - low, high - threshold) / 2
    if not width > 0:  # also without a threshold, which is nan
        return 1.0

    def inside(centre: float) -> int:
        ends = np.searchsorted(ordered, [centre - width / 2, centre + width / 2])
        return int(ends[1] - ends[0])

    middle = inside(threshold)
    outer = (inside(low), inside(high))
    return max(float(stats.binom.cdf(middle, middle + num, 0.5)) for num in outer)


def _group(scores: np.ndarray, weights: np.ndarray) -> Group:
    share = float(weights.mean())
    mean = float(weights @ scores / weights.sum())
    variance = float(weights @ (scores - mean) ** 2 / weights.sum())
    return Group(share=share, mean=mean, sd=math.sqrt(variance))


def _estimate(value: float, resampled: np.ndarray, num: int) -> Estimate:
    low, high = np.quantile(resampled, [0.025, 0.975])
    return Estimate(value=value, low=min(float(low), value), high=max(float(high), value), n=num)
