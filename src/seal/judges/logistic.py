"""Multinomial logistic regression with a penalty on the weights, fitted by scipy's L-BFGS."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float, Int
from scipy.optimize import minimize
from scipy.special import log_softmax, softmax

_TOLERANCE = 1e-7
_MOST_STEPS = 2000


def fit(
    rows: Float[np.ndarray, "N D"],
    classes: Int[np.ndarray, " N"],
    num_classes: int,
    strength: float,
) -> tuple[Float[np.ndarray, "D K"], Float[np.ndarray, " K"]]:
    """Weights and intercepts of the least log loss plus `strength` / 2 times the squared weights.

    The loss is summed over the rows, as in scikit-learn with C = 1 / strength. The problem is
    convex: the answer does not depend on where it starts.

    Args:
        rows: One answer each.
        classes: Of each row, from 0 to `num_classes` - 1.
        num_classes: At least 2; each occurs.
        strength: Of the penalty, above 0; intercepts are free.
    """
    if rows.shape[1] > len(rows):
        # The best weights are a mixture of the rows: found among as many numbers as there are rows.
        basis, triangle = np.linalg.qr(rows.T)
        weights, intercepts = fit(triangle.T, classes, num_classes, strength)
        return basis @ weights, intercepts
    num_features = rows.shape[1]
    wanted = np.eye(num_classes)[classes]

    def loss(flat: np.ndarray) -> tuple[float, np.ndarray]:
        weights, intercepts = _split(flat, num_features, num_classes)
        logits = rows @ weights + intercepts
        value = -(wanted * log_softmax(logits, axis=1)).sum() + strength / 2 * (weights**2).sum()
        error = softmax(logits, axis=1) - wanted
        slope = np.concatenate([(rows.T @ error + strength * weights).ravel(), error.sum(axis=0)])
        return float(value), slope

    start = np.zeros((num_features + 1) * num_classes)
    options = {"maxiter": _MOST_STEPS, "gtol": _TOLERANCE * len(rows), "ftol": 1e-12}
    found = minimize(loss, start, jac=True, method="L-BFGS-B", options=options)
    return _split(found.x, num_features, num_classes)


def probabilities(
    rows: Float[np.ndarray, "N D"],
    weights: Float[np.ndarray, "D K"],
    intercepts: Float[np.ndarray, " K"],
) -> Float[np.ndarray, "N K"]:
    """The probability of each class for each row; each row sums to 1."""
    return softmax(rows @ weights + intercepts, axis=1)


def _split(flat: np.ndarray, num_features: int, num_classes: int) -> tuple[np.ndarray, np.ndarray]:
    weights = flat[: num_features * num_classes].reshape(num_features, num_classes)
    return weights, flat[num_features * num_classes :]
