"""What every ranker promises, tested on each of them."""

from pathlib import Path

import numpy as np
import pytest

from rankers.conftest import make_harmful, make_pool, make_safe, make_task
from seal.artifacts.ranking import load_ranking, save_ranking
from seal.models import ModelSpec, load_model
from seal.rankers.loss import Loss
from seal.rankers.random import Random
from seal.rankers.ranker import Ranker
from seal.rankers.seal import Seal

SMALL = {"epochs": 2, "batch_size": 4, "micro_batch_size": 3, "learning_rate": 1e-2}
RANKERS = [
    pytest.param(Random(), id="random"),
    pytest.param(Loss(), id="loss"),
    *(
        pytest.param(
            Seal(**SMALL, algorithm=algorithm, tuning=tuning, weights=weights, update=update),
            id=f"seal-{algorithm}-{tuning}-{weights}-{update}",
        )
        for algorithm, tuning, weights, update in [
            ("memory_efficient", "lora", "softmax", "sgd"),
            ("memory_efficient", "full", "sigmoid", "adam"),
            ("penalty", "lora", "softmax", "sgd"),
            ("penalty", "lora", "sigmoid", "sgd"),
            ("penalty", "full", "softmax", "sgd"),
        ]
    ),
]


@pytest.fixture(params=RANKERS)
def ranker(request):
    return request.param


def ranked(ranker: Ranker, folder: Path, pool, safe=None):
    lm = load_model(ModelSpec(path=str(folder)))
    task = make_task(lm, pool, make_safe() if safe is None else safe, make_harmful())
    return ranker.rank(task)


def test_every_sample_has_one_finite_score(ranker, tiny_model_dir):
    pool = make_pool()
    ranking = ranked(ranker, tiny_model_dir, pool)
    assert sorted(ranking.ids) == sorted(row.id for row in pool)
    assert np.isfinite(ranking.scores).all()
    assert len(np.unique(ranking.scores)) > len(pool) // 2


def test_same_seed_same_scores_bit_for_bit(ranker, tiny_model_dir):
    first, second = (ranked(ranker, tiny_model_dir, make_pool()) for _ in range(2))
    np.testing.assert_array_equal(first.scores, second.scores)


def test_reordering_the_files_changes_nothing(ranker, tiny_model_dir):
    pool, safe = make_pool(), make_safe()
    straight = ranked(ranker, tiny_model_dir, pool, safe)
    shuffled = ranked(ranker, tiny_model_dir, pool[::-1], safe[3:] + safe[:3])
    assert straight.ids == shuffled.ids
    np.testing.assert_allclose(straight.scores, shuffled.scores, atol=1e-6)


def test_inputs_are_left_as_they_were(ranker, tiny_model_dir):
    pool = make_pool()
    before = [(row.input_ids.copy(), row.response_mask.copy()) for row in pool]
    ranked(ranker, tiny_model_dir, pool)
    for row, (ids, mask) in zip(pool, before, strict=True):
        np.testing.assert_array_equal(row.input_ids, ids)
        np.testing.assert_array_equal(row.response_mask, mask)


def test_ranking_survives_the_disk(ranker, tiny_model_dir, tmp_path):
    ranking = ranked(ranker, tiny_model_dir, make_pool())
    save_ranking(ranking, tmp_path / "ranking.parquet")
    again = load_ranking(tmp_path / "ranking.parquet")
    assert again.ids == ranking.ids
    np.testing.assert_array_equal(again.scores, ranking.scores)
    np.testing.assert_array_equal(again.ranks, ranking.ranks)
    assert again.columns.keys() == ranking.columns.keys()
