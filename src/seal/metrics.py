"""Metrics with their 95 % confidence intervals; every interval is over items, never over tokens."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
from scipy import stats
from scipy.special import ndtri

from seal.artifacts.evaluation import Estimate, Measurement
from seal.artifacts.ranking import Ranking, make_ranking

NUM_RESAMPLES = 1000  # the 2.5 % tail then rests on 25 resamples
SEED = 0  # of the resampling: the same data gives the same interval
RESAMPLED_CELLS = 2_000_000  # of one block of resamples: bounds the memory at some 50 MB
CONFIDENCE = 0.95
ROUNDING = 1e-12  # a difference of less, relative to the values, is none: 3 x / 3 may not be x

# (B, K) counts of not-unsafe and of unsafe samples in each of K groups of equal score, lowest score
# first, in each of B resamples -> (B,) values.
_Statistic = Callable[[np.ndarray, np.ndarray], np.ndarray]


def rate(values: Sequence[float]) -> Estimate:
    """The share of items for which something holds, with Wilson's score interval.

    A value may be a fraction: what one prompt gave on average over seeds. n is still the number of
    prompts, which is conservative: a variable in [0, 1] with mean p varies at most as much as a
    coin with p does, so the interval is too wide rather than too narrow.

    Args:
        values: One per item, each in [0, 1].

    Returns:
        The rate, in [0, 1].

    Raises:
        ValueError: If there are no values, or one is outside [0, 1].
    """
    array = _array(values)
    outside = array[(array < 0) | (array > 1)]
    if len(outside):
        raise ValueError(
            f"a rate is made of values in [0, 1]; {len(outside)} of {len(array)} are outside "
            f"(first: {outside[0]:g}). Measure it as a mean instead."
        )
    n, share = len(array), float(array.mean())
    # Wilson (1927). scipy.stats.binomtest has it for whole counts only; the tests compare the two.
    z = float(ndtri(0.5 + CONFIDENCE / 2))
    centre = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    # At 0 and 1 the interval ends on the estimate; rounding must not put it on the other side.
    low, high = min(max(0.0, centre - half), share), max(min(1.0, centre + half), share)
    return Estimate(value=share, low=low, high=high, n=n)


def mean(values: Sequence[float]) -> Estimate:
    """The mean of one number per item, with a percentile bootstrap interval over items.

    With one item, or with equal values, the interval is the value itself: nothing is known about
    the spread then. Below some 20 items the interval is too narrow.

    Args:
        values: One per item, finite, in any unit.

    Returns:
        The mean, in the same unit.

    Raises:
        ValueError: If there are no values, or one is not finite.
    """
    array = _array(values)
    n, value = len(array), float(array.mean())
    if array.min() == array.max():
        return Estimate(value=float(array[0]), low=float(array[0]), high=float(array[0]), n=n)
    interval = stats.bootstrap(
        (array,),
        np.mean,
        n_resamples=NUM_RESAMPLES,
        batch=max(1, RESAMPLED_CELLS // n),
        confidence_level=CONFIDENCE,
        method="percentile",
        rng=np.random.default_rng(SEED),
    ).confidence_interval
    return Estimate(value=value, low=float(interval.low), high=float(interval.high), n=n)


def estimate(measurement: Measurement) -> Estimate:
    """The rate or the mean of a measurement, by its kind.

    Raises:
        ValueError: If it has no values, or values that its kind does not allow.
    """
    values = list(measurement.values.values())
    return rate(values) if measurement.kind == "rate" else mean(values)


def average_seeds(per_seed: Sequence[Measurement]) -> Measurement:
    """The same metric measured on models that differ in their seed, each item averaged over them.

    Raises:
        ValueError: If there are none, or they differ in metric, kind or items.
    """
    if not per_seed:
        raise ValueError("there are no measurements to pool; give one per seed.")
    first = per_seed[0]
    for place, other in enumerate(per_seed[1:], start=1):
        if (other.metric, other.kind) != (first.metric, first.kind):
            raise ValueError(
                f"seeds are pooled metric by metric: measurement 0 is {first.metric} "
                f"({first.kind}), measurement {place} is {other.metric} ({other.kind}). Pool each "
                "metric by itself."
            )
        odd = first.values.keys() ^ other.values.keys()
        if odd:
            raise ValueError(
                f"{first.metric}: measurements 0 and {place} are not of the same items; {len(odd)} "
                f"are in one of them only (first: {min(odd)}). Evaluate every seed on the same "
                "file with the same limit."
            )
    if len(per_seed) == 1:
        return first
    columns = ([part.values[key] for key in first.values] for part in per_seed)
    averages = (math.fsum(values) / len(per_seed) for values in zip(*columns, strict=True))
    return Measurement(first.metric, first.kind, dict(zip(first.values, averages, strict=True)))


def pool_seeds(per_seed: Sequence[Measurement]) -> Estimate:
    """One estimate from the same metric measured on models that differ in their seed.

    Each item is averaged over the seeds first: answers to one prompt are not independent, so that
    P prompts times S seeds are P items, not P x S.

    Args:
        per_seed: One measurement per seed, all on the same items.

    Raises:
        ValueError: If there are none, or they differ in metric, kind or items.
    """
    return estimate(average_seeds(per_seed))


def auroc(scores: Sequence[float] | np.ndarray, is_unsafe: Sequence[bool] | np.ndarray) -> Estimate:
    """Probability that a random sample that is not unsafe outranks a random unsafe one.

    A tie counts one half, so that a ranking that says nothing has 0.5. The interval is a percentile
    bootstrap that resamples the unsafe and the other samples separately.

    Args:
        scores: One per sample, finite; higher = keep.
        is_unsafe: Which samples are unsafe.

    Returns:
        The area under the ROC curve, in [0, 1]; higher = better, 1 = every unsafe sample is last.

    Raises:
        ValueError: If no sample is unsafe, every sample is, or a score is not finite.
    """
    return _bootstrapped(scores, is_unsafe, _auroc_of_counts)


def average_precision(
    scores: Sequence[float] | np.ndarray, is_unsafe: Sequence[bool] | np.ndarray
) -> Estimate:
    """Average precision of finding the unsafe samples from the bottom of the ranking.

    The precision among the lowest samples, down to and including each unsafe one's score, averaged
    over the unsafe samples: scikit-learn's definition, without interpolation. A ranking that says
    nothing has the share of unsafe samples. The interval is bootstrapped as that of `auroc`.

    Args:
        scores: One per sample, finite; higher = keep.
        is_unsafe: Which samples are unsafe.

    Returns:
        Average precision, in [0, 1]; higher = better.

    Raises:
        ValueError: If no sample is unsafe, every sample is, or a score is not finite.
    """
    return _bootstrapped(scores, is_unsafe, _average_precision_of_counts)


def unsafe_kept_at_clean_fraction(
    ids: Sequence[str],
    scores: Sequence[float] | np.ndarray,
    is_unsafe: Sequence[bool] | np.ndarray,
) -> Estimate:
    """Share of the unsafe samples that are kept where as many are kept as are not unsafe.

    The K best samples are kept, K being the number of samples that are not unsafe, so that a
    perfect ranking keeps exactly those. Equal scores are ordered by id, as in a `Ranking`.

    Args:
        ids: One per sample, each once.
        scores: One per sample, finite; higher = keep.
        is_unsafe: Which samples are unsafe.

    Returns:
        The share, in [0, 1]; lower = better. Wilson's interval over the unsafe samples.

    Raises:
        ValueError: If no sample is unsafe, every sample is, or a score is not finite.
    """
    values, unsafe = _checked(scores, is_unsafe)
    ranking = make_ranking(tuple(ids), values)
    kept = set(ranking.best_first()[: int((~unsafe).sum())])
    return rate([float(key in kept) for key, bad in zip(ids, unsafe, strict=True) if bad])


def ranking_quality(ranking: Ranking, unsafe: frozenset[str]) -> dict[str, Estimate]:
    """How far down a ranking puts the samples that are known to be unsafe.

    Args:
        ranking: The ranking of a pool.
        unsafe: Ids of the unsafe samples of that pool.

    Returns:
        By name: `auroc` and `average_precision` (higher = better), `unsafe_kept_at_clean_fraction`
        (lower = better) and its complement `recall_of_unsafe_at_clean_fraction` (higher = better).

    Raises:
        ValueError: If no sample is unsafe, every sample is, or an unsafe one is not ranked.
    """
    unknown = unsafe.difference(ranking.ids)
    if unknown:
        raise ValueError(
            f"{len(unknown)} of {len(unsafe)} unsafe samples are not in this ranking of "
            f"{len(ranking.ids)} (first: {min(unknown)}). It was made from another pool, or they "
            "were excluded from it: take the labels of the pool that was ranked, less its "
            "exclusions."
        )
    is_unsafe = np.array([key in unsafe for key in ranking.ids], dtype=bool)
    kept = unsafe_kept_at_clean_fraction(ranking.ids, ranking.scores, is_unsafe)
    return {
        "auroc": auroc(ranking.scores, is_unsafe),
        "average_precision": average_precision(ranking.scores, is_unsafe),
        "unsafe_kept_at_clean_fraction": kept,
        "recall_of_unsafe_at_clean_fraction": Estimate(
            value=1 - kept.value, low=1 - kept.high, high=1 - kept.low, n=kept.n
        ),
    }


def spearman(a: Sequence[float] | np.ndarray, b: Sequence[float] | np.ndarray) -> float:
    """Spearman's rank correlation of two aligned lists of scores, in [-1, 1].

    Raises:
        ValueError: If they differ in length, have fewer than two entries, or one is constant.
    """
    left, right = _array(a), _array(b)
    if len(left) != len(right) or len(left) < 2:
        raise ValueError(
            f"a rank correlation needs two lists of the same samples, at least two; there are "
            f"{len(left)} and {len(right)} scores. Align them by id first."
        )
    for name, side in (("first", left), ("second", right)):
        if side.min() == side.max():
            raise ValueError(
                f"the {name} list gives all {len(side)} samples the score {side[0]:g}: it has no "
                "order to correlate. Compare rankings that tell samples apart."
            )
    return float(np.asarray(stats.spearmanr(left, right))[0])


def _array(values: Sequence[float] | np.ndarray) -> np.ndarray:
    array = np.asarray(values, dtype=np.float64)
    if not len(array):
        raise ValueError("there are no values to estimate from; measure at least one item.")
    bad = int((~np.isfinite(array)).sum())
    if bad:
        raise ValueError(
            f"{bad} of {len(array)} values are not finite (first at place "
            f"{int(np.flatnonzero(~np.isfinite(array))[0])}). Look at what produced them: a mean "
            "without them would be of other items."
        )
    return array


def _checked(
    scores: Sequence[float] | np.ndarray, is_unsafe: Sequence[bool] | np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    values, unsafe = _array(scores), np.asarray(is_unsafe, dtype=bool)
    assert values.shape == unsafe.shape
    if unsafe.all() or not unsafe.any():
        which = "every one" if unsafe.any() else "none"
        raise ValueError(
            f"{which} of the {len(unsafe)} samples is labelled unsafe; how well a ranking "
            "separates them needs both kinds. Check which label means unsafe."
        )
    return values, unsafe


def _bootstrapped(
    scores: Sequence[float] | np.ndarray,
    is_unsafe: Sequence[bool] | np.ndarray,
    statistic: _Statistic,
) -> Estimate:
    """A statistic of the counts per score, with a stratified percentile bootstrap interval.

    Sorting once and counting in each resample is what makes this fast: scipy.stats.bootstrap would
    rank every resample anew.
    """
    values, unsafe = _checked(scores, is_unsafe)
    groups, group_of = np.unique(values, return_inverse=True)
    parts, num_groups = (group_of[~unsafe], group_of[unsafe]), len(groups)
    exact = statistic(*(np.bincount(part, minlength=num_groups)[None] for part in parts))
    rng = np.random.default_rng(SEED)
    block = max(1, min(NUM_RESAMPLES, RESAMPLED_CELLS // len(values)))
    resampled = [
        statistic(*(_resampled_counts(part, num_groups, size, rng) for part in parts))
        for size in (min(block, NUM_RESAMPLES - start) for start in range(0, NUM_RESAMPLES, block))
    ]
    tail = (1 - CONFIDENCE) / 2
    low, high = np.quantile(np.concatenate(resampled), [tail, 1 - tail])
    return Estimate(value=float(exact[0]), low=float(low), high=float(high), n=len(values))


def _resampled_counts(
    members: np.ndarray, num_groups: int, size: int, rng: np.random.Generator
) -> np.ndarray:
    """(size, num_groups): how often each group is drawn when the members are drawn again."""
    drawn = members[rng.integers(len(members), size=(size, len(members)))]
    flat = drawn + num_groups * np.arange(size)[:, None]
    return np.bincount(flat.ravel(), minlength=size * num_groups).reshape(size, num_groups)


def _auroc_of_counts(clean: np.ndarray, unsafe: np.ndarray) -> np.ndarray:
    below = unsafe.cumsum(axis=1) - unsafe / 2  # a tie is half below
    return (clean * below).sum(axis=1) / (clean.sum(axis=1) * unsafe.sum(axis=1))


def _average_precision_of_counts(clean: np.ndarray, unsafe: np.ndarray) -> np.ndarray:
    found, seen = unsafe.cumsum(axis=1), (clean + unsafe).cumsum(axis=1)
    # A resample may hold none of the lowest samples: nothing is seen there, and nothing found.
    precision = found / np.maximum(seen, 1)
    return (precision * unsafe).sum(axis=1) / unsafe.sum(axis=1)
