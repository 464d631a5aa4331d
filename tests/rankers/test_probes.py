import numpy as np
import pytest
import scipy.sparse as sp
from sklearn.linear_model import LogisticRegression

from seal.metrics import auroc
from seal.rankers.probes import balanced, cross_fit, fit_probe, fold_of


def draw(num: int, dimensions: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Features of which the first one tells the groups apart, and the groups."""
    random = np.random.default_rng(seed)
    groups = random.integers(0, 2, num).astype(float)
    features = random.normal(size=(num, dimensions)).astype(np.float32)
    features[:, 0] += 2 * groups
    return features, groups


def test_a_probe_is_the_logistic_regression_of_the_textbook():
    features, groups = draw(200, 5)
    weights = np.random.default_rng(1).uniform(0.5, 2, 200)
    ours = fit_probe(features, groups, weights, ridge=3.0)
    theirs = LogisticRegression(C=1 / 3.0, tol=1e-8).fit(
        features.astype(np.float64), groups, sample_weight=weights / weights.mean()
    )
    np.testing.assert_allclose(ours.coefficients, theirs.coef_[0], atol=1e-2)
    assert ours.intercept == pytest.approx(theirs.intercept_[0], abs=1e-2)
    np.testing.assert_allclose(
        ours.log_odds(features), theirs.decision_function(features), atol=5e-2
    )


def test_a_soft_target_is_a_row_in_both_groups():
    features, groups = draw(60, 3)
    soft = np.where(groups > 0, 0.8, 0.3)
    once = fit_probe(features, soft, np.ones(60), ridge=1.0)
    twice = fit_probe(
        np.concatenate([features, features]),
        np.repeat([1.0, 0.0], 60),
        np.concatenate([soft, 1 - soft]),
        ridge=2.0,  # 120 rows of mean weight 1 carry twice the loss
    )
    np.testing.assert_allclose(once.coefficients, twice.coefficients, atol=1e-2)


def test_sparse_and_dense_features_give_the_same_probe():
    features, groups = draw(80, 6)
    features[np.abs(features) < 0.7] = 0
    dense = fit_probe(features, groups, np.ones(80), ridge=1.0)
    sparse = fit_probe(sp.csr_matrix(features), groups, np.ones(80), ridge=1.0)
    np.testing.assert_allclose(dense.coefficients, sparse.coefficients, atol=1e-4)


def test_no_row_judges_itself():
    random = np.random.default_rng(0)
    features = random.normal(size=(120, 400)).astype(np.float32)
    groups = random.integers(0, 2, 120).astype(float)  # nothing to find
    folds = np.arange(120) % 4
    inside = fit_probe(features, groups, np.ones(120), ridge=1.0).log_odds(features)
    outside = cross_fit(features, groups, np.ones(120), folds, ridge=1.0)
    assert auroc(inside, groups < 0.5).value > 0.99
    assert auroc(outside, groups < 0.5).value == pytest.approx(0.5, abs=0.13)


def test_cross_fitting_finds_what_is_there_and_judges_rows_of_weight_zero():
    features, groups = draw(300, 4)
    weights = np.where(np.arange(300) < 30, 0.0, 1.0)
    judged = cross_fit(features, groups, weights, np.arange(300) % 5, ridge=1.0)
    assert auroc(judged, groups < 0.5).value > 0.85
    assert auroc(judged[:30], groups[:30] < 0.5).value > 0.75


def test_balanced_groups_weigh_the_same():
    targets = np.array([1.0, 0.0, 0.0, 0.0])
    weights = balanced(targets, np.array([1.0, 2.0, 1.0, 3.0]))
    assert weights[0] == pytest.approx(weights[1:].sum())
    np.testing.assert_allclose(weights[1:] / weights[2], [2, 1, 3])  # as before among themselves


def test_a_fold_is_a_function_of_seed_and_id():
    ids = [f"row-{i}" for i in range(500)]
    folds = fold_of(ids, 5, seed=1)
    np.testing.assert_array_equal(fold_of(ids[::-1], 5, seed=1)[::-1], folds)
    assert (fold_of(ids, 5, seed=2) != folds).any()
    assert np.bincount(folds).min() > 70


def test_rows_that_other_folds_lack_are_lent_to_the_fit():
    features, groups = draw(80, 4)
    (ones,) = np.nonzero(groups > 0.5)
    lone = np.zeros(80)
    lone[ones[features[ones, 0].argmax()]] = 1  # one row of group 1, so four of five folds have it
    folds = np.arange(80) % 5
    judged = cross_fit(features, lone, balanced(lone, np.ones(80)), folds, ridge=1.0)
    assert np.isfinite(judged).all()
    assert np.abs(judged).max() < 20
    assert auroc(judged, groups < 0.5).value > 0.7
    without = folds == folds[lone.argmax()]  # their probe was lent the row, or knew one group only
    assert np.ptp(judged[without]) > 0.5
    gap = judged[without].mean() - judged[~without].mean()
    assert abs(gap) < 0.5  # rows of all folds stay comparable


@pytest.mark.parametrize("target", [0.0, 1.0])
@pytest.mark.parametrize("num", [1, 7])
def test_where_there_is_one_group_alone_nothing_is_said(target, num):
    features = draw(num, 3)[0]
    targets = np.full(num, target)
    judged = cross_fit(features, targets, np.ones(num), np.arange(num) % 3, ridge=1.0)
    np.testing.assert_array_equal(judged, np.zeros(num))


def test_copies_of_a_sample_share_a_fold():
    ids = [f"{i:016x}" for i in range(50)]
    copies = [f"{key}-2" for key in ids]
    np.testing.assert_array_equal(fold_of(ids, 5, seed=0), fold_of(copies, 5, seed=0))


def test_features_without_a_column_leave_the_shares():
    targets = np.array([1.0, 0.0, 0.0, 0.0] * 6)
    judged = cross_fit(
        sp.csr_matrix((24, 0), dtype=np.float32), targets, np.ones(24), np.arange(24) // 8, 1.0
    )
    np.testing.assert_allclose(judged, np.log(1 / 3), atol=1e-3)
