"""What the rank stage writes, and what it refuses before or instead of writing."""

import json
import math

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from rankers.conftest import make_pool, make_safe
from seal.models import ModelSpec, load_model
from seal.rankers.loss import Loss
from seal.rankers.random import Random
from seal.rankers.ranker import RankingTask
from seal.rankers.seal import Seal
from seal.stages.rank import rank

SAME = (
    r"^pool and safe set hold the same 16 samples, so there is nothing to tell apart\. Give a safe "
    r"set of trusted samples as safe\.path, and the set to choose from as pool\.path\."
)


@pytest.fixture
def lm(tiny_model_dir):
    return load_model(ModelSpec(path=str(tiny_model_dir)))


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_pool_equal_to_safe_is_refused_before_anything_is_written(lm, tmp_path):
    with pytest.raises(ValueError, match=SAME):
        rank(Seal(), RankingTask(lm, make_pool(), make_pool()[::-1]), tmp_path)
    assert names(tmp_path) == []


def test_a_safe_set_inside_the_pool_is_allowed(lm, tmp_path):
    pool = make_pool()
    assert set(rank(Loss(), RankingTask(lm, pool, pool[:4]), tmp_path).ids) == {
        row.id for row in pool
    }
    assert set(rank(Loss(), RankingTask(lm, pool[:4], pool), tmp_path).ids) == {
        row.id for row in pool[:4]
    }


def test_one_json_line_per_step(lm, tmp_path):
    ranker = Seal(epochs=3, batch_size=6, gamma_start=0.2, gamma_step=0.15, gamma_per="step")
    ranking = rank(ranker, RankingTask(lm, make_pool(), make_safe()), tmp_path)
    text = (tmp_path / "metrics.jsonl").read_text()
    steps = [json.loads(line) for line in text.splitlines()]
    assert len(steps) == 9, "ceil(16 / 6) = 3 steps per epoch"
    assert [step["step"] for step in steps] == list(range(9))
    assert [step["gamma"] for step in steps] == pytest.approx([0.2 + 0.05 * k for k in range(9)])
    keys = {"step", "gamma", "safe_loss", "pool_loss", "gap", "grad_norm", "effective_sample_share"}
    for step in steps:
        assert set(step) == keys
        assert all(math.isfinite(value) for value in step.values())
        assert step["gap"] == step["pool_loss"], "Algorithm 2"
    assert names(tmp_path) == ["metrics.jsonl", "ranking.parquet"]
    table = pq.read_table(tmp_path / "ranking.parquet")
    assert table.column_names[:3] == ["id", "score", "rank"]
    assert table["id"].to_pylist() == list(ranking.ids)
    assert table["score"].to_pylist() == ranking.scores.tolist()


def test_a_ranker_without_steps_has_an_empty_log(lm, tmp_path):
    rank(Random(), RankingTask(lm, make_pool(), make_safe()), tmp_path)
    assert (tmp_path / "metrics.jsonl").read_text() == ""
    assert pq.read_table(tmp_path / "ranking.parquet").num_rows == 16


@pytest.mark.parametrize(
    ("ranker", "message"),
    [
        (
            Loss(),
            r"^the loss of 16 samples is not finite: good-00, .* Use model.dtype=float32, or look ",
        ),
        (
            Seal(),
            r"^step 1: the loss of 32 samples is not finite: .* Lower rank\.learning_rate, or use ",
        ),
    ],
)
def test_a_model_that_gives_nan_is_refused_by_name(lm, tmp_path, ranker, message):
    with torch.no_grad():
        next(lm.model.parameters()).fill_(np.nan)
    with pytest.raises(ValueError, match=message):
        rank(ranker, RankingTask(lm, make_pool(), make_safe()), tmp_path)
    assert not (tmp_path / "ranking.parquet").exists()


def test_a_ranker_that_forgets_a_sample_is_a_bug(lm, tmp_path):
    class Forgetful(Random):
        def rank(self, task):
            return self.score([row.id for row in task.pool][1:])

    with pytest.raises(AssertionError):
        rank(Forgetful(), RankingTask(lm, make_pool(), make_safe()), tmp_path)
    assert not (tmp_path / "ranking.parquet").exists()
