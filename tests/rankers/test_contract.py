"""What every ranker promises, tested on each of them."""

from pathlib import Path
from typing import get_args

import numpy as np
import pytest

from rankers.conftest import make_harmful, make_pool, make_safe, make_task
from rankers.second_model import save_second_model
from seal.artifacts.ranking import load_ranking, make_ranking, save_ranking
from seal.models import LoraSpec, ModelSpec, load_model
from seal.rankers.bi_anchor import BiAnchor
from seal.rankers.bi_anchor_gradient import BiAnchorGradient
from seal.rankers.density_ratio import DensityRatio
from seal.rankers.dsir import Dsir
from seal.rankers.dual_ifd import DualIfd
from seal.rankers.from_file import FromFile
from seal.rankers.grad_shield import GradShield
from seal.rankers.ifd import Ifd
from seal.rankers.larf import Larf
from seal.rankers.less import Less
from seal.rankers.loss import Loss
from seal.rankers.random import Random
from seal.rankers.ranker import Ranker
from seal.rankers.rds import Rds
from seal.rankers.seal import Seal
from seal.rankers.sqsd import Sqsd
from seal.rankers.toss import Toss
from seal.rankers.two_sided import TwoSided
from seal.rankers.union import AnyRanker

SMALL = {"epochs": 2, "batch_size": 4, "micro_batch_size": 3, "learning_rate": 1e-2}
SMALL_LESS = {"warmup_epochs": 2, "batch_size": 4, "learning_rate": 1e-2, "lora": LoraSpec(r=4)}
RANKERS = [
    pytest.param(Random(), id="random"),
    pytest.param(Loss(), id="loss"),
    pytest.param(TwoSided(folds=3), id="two_sided"),
    pytest.param(Larf(), id="larf-auto"),
    pytest.param(Larf(layer=0, max_anchors=3), id="larf-0"),
    pytest.param(BiAnchor(), id="bi_anchor"),
    pytest.param(BiAnchor(avg=2, safe_weight=1.0), id="bi_anchor-both"),
    pytest.param(BiAnchorGradient(micro_batch_size=3), id="bi_anchor_gradient"),
    pytest.param(BiAnchorGradient(weights="all", max_anchors=2), id="bi_anchor_gradient-all"),
    pytest.param(Rds(), id="rds"),
    pytest.param(Rds(pick="round_robin", max_anchors=3), id="rds-round-robin"),
    # In 10,000 buckets the prompts of this pool, each a word of its own, would all weigh the same.
    pytest.param(Dsir(num_buckets=16), id="dsir"),
    pytest.param(Dsir(length_normalised=True, noise="gumbel"), id="dsir-mean-gumbel"),
    pytest.param(Ifd(), id="ifd"),
    pytest.param(Ifd(form="ppl"), id="ifd-ppl"),
    # These are made from the folder of a second model.
    pytest.param(lambda second: DensityRatio(weak=second), id="density_ratio"),
    pytest.param(lambda second: DensityRatio(strong=second, per="byte"), id="density_ratio-byte"),
    pytest.param(lambda second: DualIfd(large=second), id="dual_ifd"),
    pytest.param(lambda second: DualIfd(large=second, form="loss", log=True), id="dual_ifd-log"),
    pytest.param(lambda second: FromFile(path=save_scores(second, 0)), id="from_file"),
    pytest.param(
        lambda second: FromFile(path=save_scores(second, 4), missing="last"), id="from_file-last"
    ),
    pytest.param(Toss(**SMALL), id="toss"),
    pytest.param(
        Toss(**SMALL, utility="pool", aggregate="top_decile", rounds=2, grow=3), id="toss-pro"
    ),
    pytest.param(Less(**SMALL_LESS), id="less"),
    pytest.param(Less(**SMALL_LESS, targets="both", dim=64), id="less-both-projected"),
    pytest.param(GradShield(num_probes=4, micro_batch_size=3), id="grad_shield"),
    pytest.param(GradShield(probe="tokens", init_scale=0.1), id="grad_shield-tokens"),
    pytest.param(Sqsd(**SMALL), id="sqsd"),
    pytest.param(Sqsd(**SMALL, danger_state="danger", safety_scaling=None), id="sqsd-danger"),
    pytest.param(Seal(**SMALL, num_seeds=2), id="seal-seeds"),
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


@pytest.fixture(scope="module")
def second_model(tmp_path_factory) -> ModelSpec:
    return ModelSpec(path=str(save_second_model(tmp_path_factory.mktemp("second"))))


def save_scores(second: ModelSpec, num_missing: int) -> Path:
    """A ranking of the pool that another tool could have made, beside the second model."""
    ids = tuple(row.id for row in make_pool())[num_missing:]
    path = Path(second.path).with_name(f"scores-{num_missing}.parquet")
    save_ranking(make_ranking(ids, np.sin(np.arange(len(ids)))), path)
    return path


@pytest.fixture(params=RANKERS)
def ranker(request, second_model):
    return request.param if isinstance(request.param, Ranker) else request.param(second_model)


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
    assert again.is_log_odds == isinstance(ranker, TwoSided)


def test_each_registered_ranker_keeps_these_promises(second_model):
    made = {
        type(p.values[0](second_model) if callable(p.values[0]) else p.values[0]) for p in RANKERS
    }
    assert made == set(get_args(get_args(AnyRanker)[0]))


def test_it_says_whether_it_needs_harmful_references(ranker, tiny_model_dir):
    """And is right: those that do refuse before they begin, the others do without."""
    lm = load_model(ModelSpec(path=str(tiny_model_dir)))
    task = make_task(lm, make_pool(), make_safe(), [])
    if ranker.needs_harmful:
        with pytest.raises(ValueError, match="needs harmful references; give some"):
            ranker.rank(task)
    else:
        assert len(ranker.rank(task).ids) == len(task.pool)
