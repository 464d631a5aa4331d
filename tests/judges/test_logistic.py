import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from seal.judges.logistic import fit, probabilities


@pytest.mark.parametrize(("num_classes", "num_features"), [(2, 4), (3, 4), (2, 90), (3, 90)])
def test_as_scikit_learn_has_it(num_classes, num_features):
    rng = np.random.default_rng(num_classes)
    rows = rng.normal(size=(60, num_features))
    classes = np.arange(60) % num_classes
    rows[:, 0] += classes
    weights, intercepts = fit(rows, classes, num_classes, strength=10.0)
    assert weights.shape == (num_features, num_classes)
    # with two classes scikit-learn has one column of weights; two that are free have half each
    theirs = LogisticRegression(C=0.1 if num_classes > 2 else 0.2, tol=1e-9, max_iter=5000)
    wanted = theirs.fit(rows, classes).predict_proba(rows)
    found = probabilities(rows, weights, intercepts)
    np.testing.assert_allclose(found, wanted, atol=2e-4)
    np.testing.assert_allclose(found.sum(axis=1), 1.0)
