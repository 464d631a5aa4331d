"""Two-sided on the lab's world, whose unsafe rows are known, with the lab's aligned model."""

import json
from dataclasses import replace

import numpy as np
import pytest

from seal.data.load import DataSpec, encode_set, load
from seal.data.sample import Message
from seal.data.tokenize import Tokenization
from seal.lab.build import shipped_model
from seal.lab.world import write_world
from seal.metrics import auroc
from seal.models import ModelSpec, load_model
from seal.rankers.ranker import RankingTask, Sizes
from seal.rankers.traces import read_traces
from seal.rankers.two_sided import TwoSided
from seal.tables import Tables

TOKENIZATION = Tokenization(max_length=256)


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A task with a mixed safe set, and the labels of its pool."""
    folder = tmp_path_factory.mktemp("world")
    files = write_world(folder, seed=3, num_pool=240)
    lm = load_model(ModelSpec(path=str(shipped_model())))
    pool = load([DataSpec(path=str(files.pool), label="label")], name="pool")
    safe = load([DataSpec(path=str(files.safe))], name="safe")
    encoded = [
        encode_set(part, lm.encoder, TOKENIZATION, name="set").encoded for part in (pool, safe)
    ]
    samples = {row.id: row for part in (pool, safe) for row in part.samples}
    task = RankingTask(lm, *encoded, (), samples, TOKENIZATION, Tables(folder / "tables"))
    return task, pool.labels


@pytest.fixture(scope="module")
def ranked(world):
    """The ranking of that task and the record it logged."""
    return log_of(TwoSided(), world[0])


def quality(ranking, labels) -> float:
    return auroc(ranking.scores, [labels[key] == "unsafe" for key in ranking.ids]).value


def log_of(ranker, task):
    records = []
    ranking = ranker.rank(replace(task, log=records.append))
    return ranking, records[-1]


@pytest.fixture(scope="module")
def halves(world):
    """The refusals of the lab's safe set, and its other half: its model knows which is which."""
    task, _ = world
    urge = read_traces(task.lm, task.safe, task.tables, seed=0, what="reading").refusal
    refusals = [row for row, odds in zip(task.safe, urge, strict=True) if odds > 0]
    assert len(refusals) == len(task.safe) // 2
    return refusals, [row for row in task.safe if row not in refusals]


def test_a_mixed_safe_set_is_taken_apart_and_finds_the_unsafe(world, ranked):
    task, labels = world
    ranking, record = ranked
    assert quality(ranking, labels) > 0.98
    half = len(task.safe) // 2
    assert record["num_safe_taken_as_safety"] == pytest.approx(half, abs=3)
    unsafe_share = np.mean([label == "unsafe" for label in labels.values()])
    assert record["expected_unsafe_share"] == pytest.approx(unsafe_share, abs=0.08)


def test_each_kind_of_safe_set_alone_is_enough(world, halves):
    task, labels = world
    for safe, kind in zip(halves, ("safety", "ordinary"), strict=True):
        ranking, record = log_of(TwoSided(), replace(task, safe=safe))
        assert record[f"num_safe_taken_as_{kind}"] == len(safe) > 50
        assert quality(ranking, labels) > 0.9, kind


def test_neither_side_alone_is_enough(world, ranked):
    _, labels = world
    ranking, _ = ranked
    unsafe = np.array([labels[key] == "unsafe" for key in ranking.ids])
    both = quality(ranking, labels)
    assert auroc(-ranking.columns["prompt"], unsafe).value < both - 0.02
    assert auroc(ranking.columns["response"], unsafe).value < both - 0.02


def test_without_rounds_the_score_is_the_product_of_the_sides(world, ranked):
    task, labels = world
    ranking, record = log_of(TwoSided(rounds=0), task)
    a, b = ranking.columns["prompt"], ranking.columns["response"]
    belief = 1 / (1 + np.exp(-a)) / (1 + np.exp(b))
    np.testing.assert_allclose(ranking.scores, np.log1p(-belief) - np.log(belief), rtol=1e-6)
    assert quality(ranked[0], labels) >= quality(ranking, labels) - 0.002
    json.dumps(record, allow_nan=False)


def test_harmless_text_around_the_request_hides_nothing(world, ranked):
    task, labels = world
    harmless = [task.samples[row.id] for row in task.pool if labels[row.id] == "benign"]
    samples, changed = dict(task.samples), []
    for place, row in enumerate(row for row in task.pool if labels[row.id] == "unsafe"):
        sample, cover = samples[row.id], harmless[place % len(harmless)]
        prompt = f"{cover.prompt[-1].content}\n\n{sample.prompt[-1].content}"
        response = f"{cover.completion[0].content}\n\n{sample.completion[0].content}"
        samples[row.id] = replace(
            sample,
            prompt=(Message("user", prompt),),
            completion=(Message("assistant", response),),
        )
        changed.append(samples[row.id])
    rows = {row.id: row for row in task.lm.encoder.encode(changed, TOKENIZATION)}
    pool = [rows.get(row.id, row) for row in task.pool]
    hidden = TwoSided().rank(replace(task, pool=pool, samples=samples))
    assert quality(hidden, labels) > quality(ranked[0], labels) - 0.05


def test_harmful_references_help_where_the_safe_set_is_ordinary(world, halves):
    task, labels = world
    unsafe = [row for row in task.pool if labels[row.id] == "unsafe"][:20]
    pool = [row for row in task.pool if row not in unsafe]
    without, with_them = (
        quality(TwoSided().rank(replace(task, pool=pool, safe=halves[1], harmful=rows)), labels)
        for rows in ((), unsafe)
    )
    assert with_them >= without - 0.005
    assert with_them > 0.97


def test_seeds_agree(world, ranked):
    second = TwoSided(seed=1).rank(world[0])
    assert np.corrcoef(ranked[0].ranks, second.ranks)[0, 1] > 0.95
    assert (ranked[0].scores != second.scores).any()


def test_a_large_safe_set_is_drawn_from(world):
    task, labels = world
    ranking, record = log_of(TwoSided(max_safe=100), task)
    assert record["num_safe"] == 100
    assert quality(ranking, labels) > 0.9


def test_trusted_rows_that_stand_in_the_pool_are_judged_as_the_pools(world):
    task, _ = world
    inside = [*task.pool, *task.safe[:10]]
    ranking, record = log_of(TwoSided(rounds=0), replace(task, pool=inside))
    assert set(ranking.ids) == {row.id for row in inside}
    assert record["num_safe"] == len(task.safe) - 10


def test_cost_is_one_pass_over_what_is_read():
    sizes = Sizes(pool=1000, safe=600, harmful=50, num_pool=10, num_safe=8, num_harmful=1)
    assert TwoSided(max_safe=4).cost(sizes).forward == 1000 + 300 + 50
    assert TwoSided().cost(sizes).trained == 0
