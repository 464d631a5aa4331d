"""One or two normals fitted to weighted points, many sets of weights at a time.

Why not scikit-learn's GaussianMixture: it takes no weights, and a bootstrap needs some hundred fits
of the same points. The tests hold the two side by side.

Dimension key: G points, B sets of weights, K normals.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from scipy.special import expit

_LINEAR_WIDTH = 3.0  # robust standard deviations around the median that stay linear
_LEAST_SD = 0.01  # of a normal, in standard deviations of all points: no spike of ties
_MAX_STEPS = 500
_TOLERANCE = 1e-6  # nats per point that a step must gain
_LOG_ROOT_TWO_PI = 0.5 * float(np.log(2 * np.pi))
_STARTS = (0.03, 0.1, 0.25, 0.5, 0.75, 0.9, 0.97)  # shares of the points below the first guess


@dataclass(frozen=True, slots=True, eq=False)
class Mixture:
    """Normals fitted to B sets of weights.

    Attributes:
        shares: [B, K], positive, sum to 1.
        means: [B, K], ascending.
        sds: [B, K].
        log_likelihood: [B], nats per point.
    """

    shares: np.ndarray
    means: np.ndarray
    sds: np.ndarray
    log_likelihood: np.ndarray

    def only(self, chosen: np.ndarray) -> Mixture:
        """The fits of some of the sets of weights."""
        return Mixture(
            self.shares[chosen], self.means[chosen], self.sds[chosen], self.log_likelihood[chosen]
        )

    def separation(self) -> float:
        """Ashman's D of the first set's two: |m1 - m2| / sqrt((s1^2 + s2^2) / 2)."""
        (m1, m2), (s1, s2) = self.means[0], self.sds[0]
        return float(abs(m2 - m1) / np.sqrt((s1**2 + s2**2) / 2))


@dataclass(frozen=True, slots=True)
class Squeeze:
    """A scale that is linear around a centre and logarithmic far from it; strictly increasing.

    Attributes:
        centre: Zero of the scale.
        width: How far around the centre it is about linear.
    """

    centre: float
    width: float

    def squeezed(self, scores: np.ndarray) -> np.ndarray:
        """asinh((score - centre) / width)."""
        return np.arcsinh((scores - self.centre) / self.width)

    def raw(self, points: np.ndarray) -> np.ndarray:
        """The scores that are squeezed to these points."""
        return self.centre + self.width * np.sinh(points)


def squeeze(scores: np.ndarray) -> Squeeze:
    """The scale of some scores: median, and 3 standard deviations as the quartiles tell them.

    Where half of the scores are one value the quartiles tell nothing, and the standard deviation
    stands in.
    """
    first, median, third = np.quantile(scores, [0.25, 0.5, 0.75])
    sd = float(third - first) / 1.349 or float(scores.std())
    return Squeeze(float(median), _LINEAR_WIDTH * sd)


def fit_mixture(points: np.ndarray, weights: np.ndarray, *, num: int) -> Mixture:
    """Maximum likelihood by expectation maximisation, the best of several beginnings.

    Args:
        points: [G], ascending, not all equal.
        weights: [G], at least 0; how often each point counts.
        num: K, 1 or 2.

    Returns:
        B = 1.
    """
    below = np.array(_STARTS if num == 2 else (1.0,))[:, None]
    shares = (np.arange(len(points)) + 0.5) / len(points)
    first = np.stack([shares < below, shares >= below][:num], axis=2).astype(np.float64)
    each = np.repeat(weights[None], len(below), axis=0)
    found = _climb(points, each, _maximised(points, each, first))
    best = np.array([found.log_likelihood.argmax()])
    return found.only(best)


def refit(points: np.ndarray, weights: np.ndarray, start: Mixture) -> Mixture:
    """The same for many sets of weights [B, G], from the fit of another one."""
    first = _Normals(*(np.repeat(x, len(weights), axis=0) for x in _normals(start)))
    return _climb(points, weights, first)


def low_share(mixture: Mixture, points: np.ndarray) -> np.ndarray:
    """[B, G]: probability that a point is of the lower of two normals; falls as points rise.

    Of two normals of unequal spread, the wider claims what is far out on either side. Past the
    place where that begins, the probability stays what it was there.
    """
    (m1, m2), (s1, s2) = mixture.means.T[:, :, None], mixture.sds.T[:, :, None]
    tightness = s1**-2 - s2**-2
    with np.errstate(divide="ignore", invalid="ignore"):
        turn = (m1 / s1**2 - m2 / s2**2) / tightness  # where the odds stop falling
    held = np.broadcast_to(points, (len(mixture.means), len(points)))
    held = np.where(tightness < 0, np.minimum(held, turn), held)
    held = np.where(tightness > 0, np.maximum(held, turn), held)
    return expit(_log_odds(mixture, held))


def crossing(mixture: Mixture) -> np.ndarray:
    """[B]: where a point between the two means is as likely of either normal; nan if nowhere."""
    low, high = mixture.means[:, :1].copy(), mixture.means[:, 1:].copy()
    exists = (_log_odds(mixture, low) > 0) & (_log_odds(mixture, high) < 0)
    for _ in range(60):  # halves the distance: exact in float64
        middle = (low + high) / 2
        is_low = _log_odds(mixture, middle) > 0
        low, high = np.where(is_low, middle, low), np.where(is_low, high, middle)
    return np.where(exists, low, np.nan)[:, 0]


class _Normals(NamedTuple):
    shares: np.ndarray  # [B, K]
    means: np.ndarray
    sds: np.ndarray


def _normals(mixture: Mixture) -> _Normals:
    return _Normals(mixture.shares, mixture.means, mixture.sds)


def _climb(points: np.ndarray, weights: np.ndarray, normals: _Normals) -> Mixture:
    """Expectation and maximisation in turn, until no set of weights gains."""
    total = weights.sum(axis=1)
    likelihood = np.full(len(weights), -np.inf)
    for _ in range(_MAX_STEPS):
        log_p = _log_densities(points, normals)  # [B, G, K]
        log_all = np.logaddexp.reduce(log_p, axis=2)
        before, likelihood = likelihood, (weights * log_all).sum(axis=1) / total
        if (likelihood - before < _TOLERANCE).all():
            break
        normals = _maximised(points, weights, np.exp(log_p - log_all[:, :, None]))
    order = np.argsort(normals.means, axis=1)
    shares, means, sds = (np.take_along_axis(x, order, axis=1) for x in normals)
    return Mixture(shares, means, sds, likelihood)


def _maximised(points: np.ndarray, weights: np.ndarray, members: np.ndarray) -> _Normals:
    """The normals of points that belong to them in these shares, [B, G, K]."""
    counts = np.einsum("bg,bgk->bk", weights, members) + 1e-9
    means = np.einsum("bg,bgk,g->bk", weights, members, points) / counts
    squares = np.einsum("bg,bgk,g->bk", weights, members, points**2) / counts
    least = _LEAST_SD * points.std()
    sds = np.sqrt(np.maximum(squares - means**2, least**2))
    return _Normals(counts / counts.sum(axis=1, keepdims=True), means, sds)


def _log_densities(points: np.ndarray, normals: _Normals) -> np.ndarray:
    """[B, G, K]: log of share times density."""
    shares, means, sds = (x[:, None, :] for x in normals)
    z = (points[None, :, None] - means) / sds
    return np.log(shares / sds) - 0.5 * z**2 - _LOG_ROOT_TWO_PI


def _log_odds(mixture: Mixture, points: np.ndarray) -> np.ndarray:
    """[B, G]: log odds of the lower normal at points that may differ from set to set."""
    sides = [
        np.log(mixture.shares[:, k, None] / mixture.sds[:, k, None])
        - 0.5 * ((points - mixture.means[:, k, None]) / mixture.sds[:, k, None]) ** 2
        for k in (0, 1)
    ]
    return sides[0] - sides[1]
