"""Cross-fitted logistic probes: what tells two groups of rows apart, judged on rows not fitted."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np
import scipy.sparse as sp
from scipy import optimize
from scipy.special import expit

from seal.data.sample import content_of

Features = np.ndarray | sp.csr_matrix  # (rows, dimensions)

_MAX_STEPS = 200  # of L-BFGS; a probe that has not converged by then ranks the same
_TOLERANCE = 1e-3  # of the largest gradient entry, for weights of mean 1


class Probe:
    """A fitted logistic regression.

    Attributes:
        coefficients: float32 [D].
        intercept: Log-odds at the origin.
    """

    def __init__(self, coefficients: np.ndarray, intercept: float) -> None:
        self.coefficients = coefficients
        self.intercept = intercept

    def log_odds(self, features: Features) -> np.ndarray:
        """float64 [N]: log P(group 1) / P(group 0)."""
        return np.asarray(features @ self.coefficients, dtype=np.float64) + self.intercept


def fit_probe(features: Features, targets: np.ndarray, weights: np.ndarray, ridge: float) -> Probe:
    """The minimiser of sum_i w_i cross-entropy(t_i, sigmoid(b + a . x_i)) + ridge/2 |a|^2.

    Args:
        features: One row per sample.
        targets: Probability of group 1, in [0, 1]; not all 0, not all 1.
        weights: At least 0; only their ratios to each other and to the ridge matter.
        ridge: Strength of the penalty for weights whose mean is 1.
    """
    weights = weights / weights.mean()
    mean = float(weights @ targets / weights.sum())
    _, dimensions = features.shape  # pyright: ignore (a sparse matrix has a shape)
    start = np.zeros(dimensions + 1)
    start[-1] = np.log(mean / (1 - mean))

    def objective(point: np.ndarray) -> tuple[float, np.ndarray]:
        coefficients, intercept = point[:-1], point[-1]
        # fp32 products: the features are fp32, and a cast of the matrix at every step would cost
        # more than the product.
        logits = np.asarray(features @ coefficients.astype(np.float32), dtype=np.float64)
        logits += intercept
        loss = weights @ (np.logaddexp(0, logits) - targets * logits)
        residuals = weights * (expit(logits) - targets)
        slope = np.asarray(residuals.astype(np.float32) @ features, dtype=np.float64)
        return (
            float(loss + ridge / 2 * coefficients @ coefficients),
            np.append(slope + ridge * coefficients, residuals.sum()),
        )

    found = optimize.minimize(
        objective,
        start,
        jac=True,
        method="L-BFGS-B",
        options={"maxiter": _MAX_STEPS, "gtol": _TOLERANCE * len(targets), "ftol": 1e-9},
    )
    return Probe(found.x[:-1].astype(np.float32), float(found.x[-1]))


def fold_of(ids: Sequence[str], num_folds: int, seed: int) -> np.ndarray:
    """int64 [N]: the fold of each row, a function of seed and id alone; copies share theirs."""
    texts = (f"{seed}:fold:{content_of(key)}" for key in ids)
    numbers = (hashlib.sha256(text.encode()).digest()[:8] for text in texts)
    return np.array([int.from_bytes(number, "big") % num_folds for number in numbers])


def cross_fit(
    features: Features,
    targets: np.ndarray,
    weights: np.ndarray,
    folds: np.ndarray,
    ridge: float,
) -> np.ndarray:
    """Log-odds of group 1 of every row, from the probe that was fitted on the other folds.

    A row never helps to judge itself: with more dimensions than rows, a probe would otherwise
    return the target it was given. But where all rows of one group lie in one fold (a safe set of
    one row), they are lent to the fit for that fold, or its other rows would be judged by nothing.
    Where there is one group alone, nothing tells, and all log-odds are 0.

    Args:
        features: One row per sample.
        targets: Probability of group 1, in [0, 1].
        weights: Of each row in the fit; rows of weight 0 are judged all the same.
        folds: The fold of each row.
        ridge: As in `fit_probe`.
    """
    judged = np.zeros(len(targets))
    counts = weights > 0
    if _is_one_group(targets[counts]):
        return judged
    for fold in np.unique(folds):
        fitted = (folds != fold) & counts
        if _is_one_group(targets[fitted]):
            there = targets[fitted].mean() if fitted.any() else 0.5
            fitted |= counts & (targets != there)
        probe = fit_probe(features[fitted], targets[fitted], weights[fitted], ridge)
        out = folds == fold
        judged[out] = probe.log_odds(features[out])
    return judged


def _is_one_group(targets: np.ndarray) -> bool:
    """Whether the rows are surely all of group 0, or all of group 1, or none at all."""
    return bool((targets == 0).all() or (targets == 1).all())


def balanced(targets: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Weights scaled so that both groups weigh the same: log-odds 0 is then the even point."""
    share = float(weights @ targets / weights.sum())
    return weights * (targets / share + (1 - targets) / (1 - share))
