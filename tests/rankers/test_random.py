import numpy as np

from seal.rankers.random import Random


def test_score_depends_on_seed_and_id_alone():
    alone = Random(seed=3).score(["b"]).by_id()["b"]
    among = Random(seed=3).score(["a", "b", "c"]).by_id()
    assert among["b"] == alone
    assert Random(seed=4).score(["b"]).by_id()["b"] != alone


def test_scores_are_uniform():
    scores = Random().score([str(i) for i in range(20_000)]).scores
    assert scores.min() >= 0
    assert scores.max() < 1
    counts, _ = np.histogram(scores, bins=20, range=(0, 1))
    # 20 bins of expectation 1000: chi-square with 19 degrees of freedom, 99.9 % quantile 43.8
    assert ((counts - 1000) ** 2 / 1000).sum() < 43.8
