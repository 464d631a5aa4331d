"""Comparisons on the same items: paired tests of two models, and the agreement of two judges."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

from seal.artifacts.evaluation import Estimate, Measurement
from seal.metrics import (
    CONFIDENCE,
    NUM_RESAMPLES,
    RESAMPLED_CELLS,
    ROUNDING,
    SEED,
    average_seeds,
    mean,
)

NUM_PERMUTATIONS = 9999  # the smallest p-value is then 0.0001; up to 13 items all signs are tried


@dataclass(frozen=True, slots=True)
class PairedComparison:
    """One metric on two models, item by item.

    Attributes:
        metric: Its name.
        difference: Mean over the items of ours minus theirs, in the metric's unit.
        low: Lower end of the 95 % interval of the difference.
        high: Upper end.
        p_value: Of the hypothesis that the two do not differ, two-sided, not adjusted for other
            comparisons (see `holm`).
        n: Number of items: prompts, however many seeds each was measured with.
        test: Which test gave the p-value, in words.
    """

    metric: str
    difference: float
    low: float
    high: float
    p_value: float
    n: int
    test: str


@dataclass(frozen=True, slots=True)
class SeedSpread:
    """What training again with other seeds, on other prompts, could make of a difference.

    Attributes:
        low: Lower end of the 95 % interval; None where it is not measurable.
        high: Upper end; None where it is not measurable.
        seed_share: Share of the variance of the difference that comes from the seeds, in [0, 1];
            None where it is not measurable.
        num_seeds: Of ours and of theirs.
        problem: Why it is not measurable; empty if it is.
    """

    low: float | None
    high: float | None
    seed_share: float | None
    num_seeds: tuple[int, int]
    problem: str = ""


@dataclass(frozen=True, slots=True)
class Agreement:
    """How far two judges agree on the same items.

    Attributes:
        n: Number of items.
        both: How many of them both judges judged; what follows is about these.
        agreed: How many of those got the same verdict from both.
        counts: (verdict of the first, verdict of the second, how many), sorted.
        kappa: Cohen's kappa; None where it is not defined.
        problem: Why kappa is not defined; empty if it is.
    """

    n: int
    both: int
    agreed: int
    counts: tuple[tuple[str, str, int], ...]
    kappa: Estimate | None
    problem: str = ""


def compare_paired(ours: Sequence[Measurement], theirs: Sequence[Measurement]) -> PairedComparison:
    """Whether two models differ on one metric, by the same items answered by both.

    Each item is averaged over the seeds of its side first: answers to one prompt are not
    independent. What is compared are therefore the models that were trained, on prompts like these;
    how much another training would change is what `seed_spread` says.

    Where every average is 0 or 1 (one seed, or seeds that agree) the test is McNemar's, exact.
    Else the signs of the differences are flipped: under the hypothesis, ours and theirs could
    change places in each item. The interval is a percentile bootstrap over items; with items that
    all differ by the same, it is that difference, for nothing is known about the spread.

    Args:
        ours: One measurement per seed.
        theirs: One per seed, on the same items; they may be more or fewer.

    Raises:
        ValueError: If a side is empty, or metric, kind or items differ.
    """
    left, right = _aligned(ours, theirs)
    differences = left - right
    differences[np.abs(differences) <= ROUNDING * np.maximum(np.abs(left), np.abs(right))] = 0.0
    interval = mean(differences.tolist())
    if np.isin(left, (0, 1)).all() and np.isin(right, (0, 1)).all():
        test, p_value = "exact McNemar", _mcnemar(differences)
    else:
        test, p_value = _sign_flip(differences)
    return PairedComparison(
        metric=ours[0].metric,
        difference=interval.value,
        low=interval.low,
        high=interval.high,
        p_value=p_value,
        n=len(differences),
        test=test,
    )


def seed_spread(
    ours: Sequence[Measurement], theirs: Sequence[Measurement], *, theirs_trained: bool = True
) -> SeedSpread:
    """The interval of a difference when seeds count as drawn at random too, not the items alone.

    It is what a two-level bootstrap aims at, which draws items and, within each side, seeds: but
    two or three seeds drawn again vary too little (two have half of their variance) and have no
    tails. So the variances are taken in closed form with Bessel's correction and added (that of the
    item differences and that of each side's seeds), and the quantile is Student's with the degrees
    of freedom of Welch and Satterthwaite. What items and seeds do together is counted in both, so
    the interval is too wide rather than too narrow. With two seeds it is very wide: that is what
    two seeds can say.

    Args:
        ours: One measurement per training seed.
        theirs: One per training seed, on the same items. Seeds are not paired between the sides.
        theirs_trained: Whether theirs was trained with a seed; False for the base model, which is
            measured once and is what it is.

    Raises:
        ValueError: If a side is empty, or metric, kind or items differ.
    """
    left, right = _aligned(ours, theirs)
    sides, num_seeds = (ours, theirs) if theirs_trained else (ours,), (len(ours), len(theirs))
    fewest = min(map(len, sides))
    if fewest < 2 or len(left) < 2:
        what = "one training seed" if fewest < 2 else "one item"
        problem = f"not measurable: with {what} nothing is known about the spread"
        return SeedSpread(None, None, None, num_seeds, problem)
    parts = [((left - right).var(ddof=1) / len(left), len(left) - 1)]
    for side in sides:
        of_seeds = np.array([np.mean(list(part.values.values())) for part in side])
        parts.append((of_seeds.var(ddof=1) / len(side), len(side) - 1))
    variance, difference = sum(part for part, _ in parts), float((left - right).mean())
    if variance == 0:
        return SeedSpread(difference, difference, 0.0, num_seeds)
    freedom = variance**2 / sum(part**2 / degrees for part, degrees in parts)
    half = float(stats.t.ppf(0.5 + CONFIDENCE / 2, freedom)) * math.sqrt(variance)
    share = float(1 - parts[0][0] / variance)
    return SeedSpread(difference - half, difference + half, share, num_seeds)


def holm(p_values: Mapping[str, float]) -> dict[str, float]:
    """Holm's adjusted p-values: below 0.05 they may be called significant together.

    The chance that any of them is a false alarm is then below 0.05, whatever depends on whatever.

    Args:
        p_values: Name of a comparison -> its p-value, in [0, 1].

    Returns:
        The same names in the same order, each with a value from its p-value to 1.

    Raises:
        ValueError: If one is not in [0, 1].
    """
    for name, value in p_values.items():
        if not 0 <= value <= 1:
            raise ValueError(
                f"{name}: {value!r} is no p-value; it must be in [0, 1]. Look at what produced it."
            )
    adjusted, highest = dict(p_values), 0.0
    for place, name in enumerate(sorted(p_values, key=lambda name: p_values[name])):
        highest = max(highest, min(1.0, p_values[name] * (len(p_values) - place)))
        adjusted[name] = highest
    return adjusted


def kappa(a: Sequence[str | bool], b: Sequence[str | bool]) -> Estimate:
    """Cohen's kappa: how far two judges agree beyond what their habits alone would make them.

    The interval is a percentile bootstrap over items. Where a resample holds one verdict only,
    kappa is not defined and the resample is drawn again.

    Args:
        a: One verdict per item.
        b: The other judge's, of the same items in the same order.

    Returns:
        Kappa, in [-1, 1]; 1 = the same verdict everywhere, 0 = no more agreement than by chance.

    Raises:
        ValueError: If there are no items, not as many of both, or all verdicts are the same one.
    """
    if not a or len(a) != len(b):
        raise ValueError(
            f"kappa needs two verdicts on each item; there are {len(a)} and {len(b)}. Give both "
            "judges the same items, at least one."
        )
    words = sorted({str(verdict) for verdict in (*a, *b)})
    if len(words) == 1:
        raise ValueError(
            f"kappa is not defined: both judges say {words[0]} to all {len(a)} items, so that "
            "nothing tells agreement from habit. Compare them on items of more than one kind."
        )
    place = {word: index for index, word in enumerate(words)}
    cells = np.array(
        [place[str(x)] * len(words) + place[str(y)] for x, y in zip(a, b, strict=True)]
    )
    table = np.bincount(cells, minlength=len(words) ** 2).reshape(1, len(words), len(words))
    resampled = _resampled_kappas(table)
    tail = (1 - CONFIDENCE) / 2
    low, high = np.quantile(resampled, [tail, 1 - tail])
    value = float(_kappas(table)[0])
    return Estimate(value=value, low=float(low), high=float(high), n=len(a))


def agreement(a: Mapping[str, str | bool | None], b: Mapping[str, str | bool | None]) -> Agreement:
    """How far two judges agree on the same items, with the items that one of them did not judge.

    Args:
        a: Item id -> verdict of the first judge; None = could not be judged.
        b: Of the second judge, on the same items.

    Raises:
        ValueError: If they are not of the same items.
    """
    odd = a.keys() ^ b.keys()
    if odd:
        raise ValueError(
            f"two judges are compared on the same items; {len(odd)} are in one of them only "
            f"(first: {min(odd)}). Let both judge the same responses."
        )
    pairs = [(str(a[key]), str(b[key])) for key in a if a[key] is not None and b[key] is not None]
    counts = {pair: pairs.count(pair) for pair in sorted(set(pairs))}
    found, problem = None, ""
    try:
        found = kappa([first for first, _ in pairs], [second for _, second in pairs])
    except ValueError as error:
        problem = str(error)
    return Agreement(
        n=len(a),
        both=len(pairs),
        agreed=sum(first == second for first, second in pairs),
        counts=tuple((first, second, count) for (first, second), count in counts.items()),
        kappa=found,
        problem=problem,
    )


def _aligned(
    ours: Sequence[Measurement], theirs: Sequence[Measurement]
) -> tuple[np.ndarray, np.ndarray]:
    """Both sides averaged over their seeds, as values of the same items in the same order."""
    left, right = average_seeds(ours), average_seeds(theirs)
    if (left.metric, left.kind) != (right.metric, right.kind):
        raise ValueError(
            f"a comparison is of one metric: ours is {left.metric} ({left.kind}), theirs is "
            f"{right.metric} ({right.kind}). Compare metric by metric."
        )
    odd = left.values.keys() ^ right.values.keys()
    if odd:
        raise ValueError(
            f"{left.metric}: ours and theirs are not of the same items; {len(odd)} are in one of "
            f"them only (first: {min(odd)}). Evaluate both on the same file with the same limit."
        )
    pairs = [(value, right.values[key]) for key, value in left.values.items()]
    assert pairs, "an evaluation without items"
    array = np.array(pairs, dtype=np.float64)
    return array[:, 0], array[:, 1]


def _mcnemar(differences: np.ndarray) -> float:
    better, worse = int((differences > 0).sum()), int((differences < 0).sum())
    return float(stats.binomtest(better, better + worse).pvalue) if better + worse else 1.0


def _sign_flip(differences: np.ndarray) -> tuple[str, float]:
    """The test's name, and its two-sided p-value for a mean difference of zero."""
    moved = differences[differences != 0]  # the others stay 0 whatever their sign
    if len(moved) < 2:  # of one, both signs are as far from 0
        return "exact sign-flip permutation", 1.0
    # Thirds, as three seeds give them, do not sum to the same number in every order; a tie must
    # stay a tie.
    shares = moved / np.abs(moved).sum()
    observed = np.round(abs(shares.sum()), 12)
    if 2 ** len(moved) <= NUM_PERMUTATIONS:
        patterns = np.arange(2 ** len(moved))[:, None] >> np.arange(len(moved)) & 1
        as_far = int((_sums(patterns, shares) >= observed).sum())
        return "exact sign-flip permutation", as_far / len(patterns)
    rng, as_far = np.random.default_rng(SEED), 0
    block = max(1, RESAMPLED_CELLS // len(moved))
    for start in range(0, NUM_PERMUTATIONS, block):
        size = (min(block, NUM_PERMUTATIONS - start), -(-len(moved) // 8))
        bits = np.unpackbits(rng.integers(256, size=size, dtype=np.uint8), axis=1)
        as_far += int((_sums(bits[:, : len(moved)], shares) >= observed).sum())
    name = f"Monte Carlo ({NUM_PERMUTATIONS}) sign-flip permutation"
    return name, (as_far + 1) / (NUM_PERMUTATIONS + 1)


def _sums(is_flipped: np.ndarray, shares: np.ndarray) -> np.ndarray:
    """How far from 0 the (n,) shares sum, for each of (B, n) patterns of signs."""
    return np.round(np.abs(shares.sum() - 2 * (is_flipped.astype(np.float64) @ shares)), 12)


def _kappas(tables: np.ndarray) -> np.ndarray:
    """Kappa of each of (B, K, K) tables of counts; not a number where only one verdict is given."""
    n = tables.sum(axis=(1, 2))
    observed = np.trace(tables, axis1=1, axis2=2) / n
    by_chance = (tables.sum(axis=1) * tables.sum(axis=2)).sum(axis=1) / n**2
    defined = by_chance < 1
    safe = np.where(defined, by_chance, 0.0)
    return np.where(defined, (observed - safe) / (1 - safe), np.nan)


def _resampled_kappas(table: np.ndarray) -> np.ndarray:
    """(NUM_RESAMPLES,) kappas of tables drawn as if the items were drawn again, all defined."""
    rng, n = np.random.default_rng(SEED), int(table.sum())
    found: list[np.ndarray] = []
    while sum(map(len, found)) < NUM_RESAMPLES:
        drawn = rng.multinomial(n, table.ravel() / n, size=NUM_RESAMPLES)
        values = _kappas(drawn.reshape(-1, *table.shape[1:]))
        found.append(values[np.isfinite(values)])
    return np.concatenate(found)[:NUM_RESAMPLES]
