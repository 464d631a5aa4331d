"""One-sided bounds of what arms differ by, of prompts and training seeds together.

A decision asks "is it at least so much?", never "is it different?". Each bound here is one-sided
and holds with the confidence that is asked for, whatever the true values are, with few items and
with few seeds too; seeds are taken to scatter evenly round their mean. docs/report.md has the
formulas.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import betaincinv, gammaincinv, ndtri, stdtrit

from seal.artifacts.evaluation import Measurement
from seal.metrics import ROUNDING

_MOST_SHARE = 10.0  # a share of a gain beyond it, either way, is not told apart from it
_STEPS = 40  # of a bisection over twice that range: far below what is shown


@dataclass(frozen=True, slots=True)
class Bounds:
    """A number and how far it is known, to either side by itself.

    Attributes:
        value: The estimate.
        low: It is at least so much, with the confidence that was asked for.
        high: It is at most so much, with that confidence; both together hold with less.
        n: Number of items.
    """

    value: float
    low: float
    high: float
    n: int


@dataclass(frozen=True, slots=True)
class Gain:
    """How much of what another training gained an arm gained, too.

    Attributes:
        whole: What that training gained over the model before, in the metric's unit; positive =
            better.
        kept: What the arm gained less the share that was asked about of `whole`; at least 0 means
            that it keeps that share.
        share: The share that it keeps; None where `whole` is not shown to be positive, for a share
            of nothing is no number.
        low: The share is at least so much (Fieller's bound); None where there is no share.
        high: It is at most so much; likewise.
    """

    whole: Bounds
    kept: Bounds
    share: float | None
    low: float | None
    high: float | None


@dataclass(frozen=True, slots=True, eq=False)
class _Side:
    """One arm.

    Attributes:
        values: Each item, averaged over the seeds.
        is_share: Whether all values are in [0, 1].
        of_seeds: The square of how far seeds may move the mean; 0 where they were not measured.
    """

    values: np.ndarray
    is_share: bool
    of_seeds: float


def difference(
    ours: Sequence[Measurement],
    theirs: Sequence[Measurement],
    *,
    is_share: bool,
    alpha: float,
    theirs_trained: bool = True,
) -> Bounds:
    """Ours minus theirs, and how far it is known.

    With one training seed on a trained side nothing is known about seeds: the bound is then about
    the models that were trained, and says nothing of the next training.

    Args:
        ours: One measurement per training seed, at least one.
        theirs: Likewise, on the same items.
        is_share: Whether every value is in [0, 1] by its nature.
        alpha: Chance that a bound is wrong, of each by itself; in (0, 0.5).
        theirs_trained: False for the model before, which has no training seeds.
    """
    sides = _sides((ours, theirs), (True, theirs_trained), alpha)
    return _combined(sides, (1.0, -1.0), is_share, alpha)


def gain(
    ours: Sequence[Measurement],
    whole: Sequence[Measurement],
    before: Sequence[Measurement],
    *,
    is_share: bool,
    is_higher_better: bool,
    alpha: float,
    share: float,
) -> Gain:
    """How much of the gain of `whole` over the model before `ours` keeps.

    A share is a ratio of two noisy numbers, whose interval can be anything where the lower one may
    be 0. So no ratio is taken: to keep a share q is to have ours - before - q (whole - before) >= 0
    and that is a mean over items, with a bound as any other. The bounds of the share are the q for
    which this bound is 0, which is Fieller's interval.

    Args:
        ours: One measurement per training seed.
        whole: Of the training whose gain is the measure; likewise, on the same items.
        before: Of the model before.
        is_share: Whether every value is in [0, 1] by its nature.
        is_higher_better: Which direction is a gain.
        alpha: Chance that a bound is wrong, of each by itself.
        share: The share that `kept` is about.
    """
    sides = _sides((ours, whole, before), (True, True, False), alpha)
    sign = 1.0 if is_higher_better else -1.0

    def kept(q: float) -> Bounds:
        return _combined(sides, (sign, -q * sign, (q - 1) * sign), is_share, alpha)

    total = _combined(sides[1:], (sign, -sign), is_share, alpha)
    if total.low <= 0:
        return Gain(total, kept(share), None, None, None)
    low = _root(lambda q: kept(q).low)
    high = _root(lambda q: kept(q).high)
    return Gain(total, kept(share), kept(0).value / total.value, low, high)


def share_bounds(num: float, n: int, alpha: float) -> tuple[float, float]:
    """Clopper and Pearson's bounds of a share, each one-sided.

    Args:
        num: How many of the items have it; a fraction where items were averaged.
        n: How many items there are.
        alpha: Chance that a bound is wrong, of each by itself.
    """
    low = float(betaincinv(num, n - num + 1, alpha)) if num > 0 else 0.0
    high = float(betaincinv(num + 1, n - num, 1 - alpha)) if num < n else 1.0
    return low, high


def _sides(
    arms: Sequence[Sequence[Measurement]], trained: Sequence[bool], alpha: float
) -> list[_Side]:
    """The arms, their items in one order."""
    keys = list(arms[0][0].values)
    assert all(part.values.keys() == arms[0][0].values.keys() for arm in arms for part in arm)
    found = []
    for arm, has_seeds in zip(arms, trained, strict=True):
        table = np.array([[part.values[key] for key in keys] for part in arm], dtype=np.float64)
        found.append(
            _Side(
                values=table.mean(axis=0),
                is_share=bool((table >= 0).all() and (table <= 1).all()),
                of_seeds=_spread(table, alpha) if has_seeds and len(table) > 1 else 0.0,
            )
        )
    return found


def _spread(table: np.ndarray, alpha: float) -> float:
    """The square of how far seeds may move the mean, beyond what the width over items holds.

    Means of seeds differ by the seeds, and by chance in the answers. That chance is in the width
    over items already, with the quantile of many degrees of freedom; so much is taken off.

    Args:
        table: A row per seed, a column per item.
        alpha: As for `difference`.
    """
    num, n = table.shape
    means = table.mean(axis=1, keepdims=True)
    rest = table - means - table.mean(axis=0) + table.mean()
    by_chance = float((rest**2).sum()) / max(1, (n - 1) * (num - 1)) / n
    few, many = float(stdtrit(num - 1, 1 - alpha)), float(ndtri(1 - alpha))
    return max(0.0, few**2 * float(means.var(ddof=1)) - many**2 * by_chance) / num


def _combined(
    sides: Sequence[_Side], weights: Sequence[float], is_share: bool, alpha: float
) -> Bounds:
    """Bounds of a weighted sum of arms: items and the seeds of each arm, their widths squared."""
    parts = np.array(weights)[:, None] * np.array([side.values for side in sides])
    values = parts.sum(axis=0)
    values[np.abs(values) <= ROUNDING * np.abs(parts).sum(axis=0)] = 0.0
    n, value = len(values), float(values.mean())
    if is_share and all(side.is_share for side in sides):
        below, above = _width_of_shares(values, weights, alpha)
    else:
        below = above = _width_of_numbers(values, alpha)
    pairs = zip(weights, sides, strict=True)
    of_seeds = sum(weight**2 * side.of_seeds for weight, side in pairs)
    low, high = value - math.sqrt(below**2 + of_seeds), value + math.sqrt(above**2 + of_seeds)
    return Bounds(value, low, high, n)


def _width_of_numbers(values: np.ndarray, alpha: float) -> float:
    """Student's; infinite with one item, of whose spread nothing is known."""
    n = len(values)
    if n < 2:
        return math.inf
    return float(stdtrit(n - 1, 1 - alpha)) * math.sqrt(float(values.var(ddof=1)) / n)


def _width_of_shares(
    values: np.ndarray, weights: Sequence[float], alpha: float
) -> tuple[float, float]:
    """How far the mean may lie below and above, of values that are bounded by the weights.

    What speaks for and what speaks against are sums of rare events, each with its exact (Poisson)
    bounds; so 0 of 20 is not taken for "never". As in MOVER (Zou and Donner 2008), the widths of
    the two add as squares.
    """
    n = len(values)
    largest = sum(max(weight, 0.0) for weight in weights)
    least = sum(max(-weight, 0.0) for weight in weights)
    for_low, for_high = _event_widths(np.maximum(values, 0), largest, alpha)
    against_low, against_high = _event_widths(np.maximum(-values, 0), least, alpha)
    return math.hypot(for_low, against_high) / n, math.hypot(for_high, against_low) / n


def _event_widths(values: np.ndarray, most: float, alpha: float) -> tuple[float, float]:
    """How far the expected sum may lie below and above the sum of values in [0, most].

    The gamma bounds of Fay and Feuer (1997) for a weighted sum of Poisson counts; of values that
    are 0 or `most` they are the exact bounds of a Poisson count.
    """
    total, squares = float(values.sum()), float((values**2).sum())
    low = 0.0
    if squares:
        low = squares / total * float(gammaincinv(total**2 / squares, alpha))
    more, more_squares = total + most, squares + most**2
    high = 0.0
    if more_squares:
        high = more_squares / more * float(gammaincinv(more**2 / more_squares, 1 - alpha))
    return total - low, high - total


def _root(function: Callable[[float], float]) -> float:
    """Where a function that falls with the share crosses 0; an end of the range if it does not."""
    low, high = -_MOST_SHARE, _MOST_SHARE
    for _ in range(_STEPS):
        middle = (low + high) / 2
        low, high = (middle, high) if function(middle) >= 0 else (low, middle)
    return (low + high) / 2
