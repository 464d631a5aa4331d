"""Two-sided on the lab's world, whose unsafe rows are known, with the lab's aligned model."""

import json
from dataclasses import replace

import numpy as np
import pytest
from scipy.special import expit, logit
from sklearn.linear_model import LogisticRegression

from seal.data.load import DataSpec, encode_set, load
from seal.data.sample import Message
from seal.data.tokenize import Tokenization
from seal.lab.build import shipped_model
from seal.lab.world import write_world
from seal.metrics import auroc
from seal.models import ModelSpec, load_model
from seal.rankers.probes import fold_of
from seal.rankers.ranker import RankingTask, Sizes
from seal.rankers.traces import STATES, Traces, join_traces, read_traces
from seal.rankers.two_sided import (
    Kinds,
    Rows,
    TwoSided,
    View,
    _judged,
    _prompt_view,
    joint,
    log_odds_of_both,
    response_side,
)
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
    return refusals, [row for row, odds in zip(task.safe, urge, strict=True) if odds <= 0]


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
    told = []
    for safe, kind in zip(halves, ("safety", "ordinary"), strict=True):
        listening = replace(task, safe=safe, progress=lambda what, *_: told.append(what))
        ranking, record = log_of(TwoSided(), listening)
        assert record[f"num_safe_taken_as_{kind}"] == len(safe) > 50
        words = {"safety": "harmful questions with good answers", "ordinary": "ordinary samples"}
        assert told[-1].endswith(f"of 160 samples look like safety; taken as {words[kind]}")
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


def test_an_exchange_in_front_hides_the_words_of_no_later_turn(world):
    task, labels = world
    harmless = [task.samples[row.id] for row in task.pool if labels[row.id] == "benign"]
    samples = dict(task.samples)
    for place, row in enumerate(task.pool):
        sample, first = samples[row.id], harmless[(7 * place + 3) % len(harmless)]
        turns = (*first.completion, *sample.prompt, *sample.completion)
        samples[row.id] = replace(sample, prompt=first.prompt, completion=turns)
    longer = task.lm.encoder.encode([samples[row.id] for row in task.pool], TOKENIZATION)
    ranking = TwoSided().rank(replace(task, pool=longer, samples=samples))
    assert quality(ranking, labels) > 0.75  # 0.5, if the first request alone were read
    unsafe = np.array([labels[key] == "unsafe" for key in ranking.ids])
    assert auroc(-ranking.columns["text"], unsafe).value > 0.85


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
    again = replace(task.safe[0], id=f"{task.safe[0].id}-1")  # a copy within the safe set
    samples = {**task.samples, again.id: replace(task.samples[task.safe[0].id], id=again.id)}
    twice = replace(task, pool=inside, safe=[*task.safe, again], samples=samples)
    ranking, record = log_of(TwoSided(rounds=0), twice)
    assert set(ranking.ids) == {row.id for row in inside}
    assert record["num_safe"] == len(task.safe) - 10


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("num_pool", [1, 2, 240])
@pytest.mark.parametrize("num_safe", [1, 2, 5])
@pytest.mark.parametrize("which", [0, 1], ids=["safety", "ordinary"])
@pytest.mark.parametrize("num_harmful", [0, 1])
def test_small_sets_give_finite_numbers(world, halves, num_pool, num_safe, which, num_harmful):
    task, labels = world
    harmful = [row for row in task.pool if labels[row.id] == "unsafe"][:num_harmful]
    pool = [row for row in task.pool if row not in harmful][:num_pool]
    ranking, record = log_of(
        TwoSided(), replace(task, pool=pool, safe=halves[which][:num_safe], harmful=harmful)
    )
    assert all(np.isfinite(column).all() for column in ranking.columns.values())
    json.dumps(record, allow_nan=False)
    if num_pool == 240:
        assert quality(ranking, labels) > 0.6


@pytest.mark.filterwarnings("error")
def test_a_mixed_safe_set_of_two_is_taken_apart(world, halves):
    task, labels = world
    ranking, record = log_of(TwoSided(), replace(task, safe=[halves[0][0], halves[1][0]]))
    assert record["num_safe_taken_as_safety"] == record["num_safe_taken_as_ordinary"] == 1
    assert quality(ranking, labels) > 0.7


@pytest.mark.filterwarnings("error")
def test_a_pool_of_one_text_has_one_score(world, halves):
    task, _ = world
    first = next(iter(task.pool))
    ids = [f"{place:016x}" for place in range(12)]
    pool = [replace(first, id=key) for key in ids]
    samples = {**task.samples, **{key: replace(task.samples[first.id], id=key) for key in ids}}
    for safe in halves:
        ranking = TwoSided().rank(replace(task, pool=pool, safe=safe[:3], samples=samples))
        assert np.isfinite(ranking.scores).all()
        assert np.isfinite(ranking.columns["response"]).all()


def test_log_odds_of_both_by_hand_and_far_out():
    odds = np.log([[1.0, 3.0], [1.0, 0.25]])  # 1/2 and 1/2; 3/4 and 1/5
    np.testing.assert_allclose(log_odds_of_both(*odds), np.log([1 / 3, 3 / 17]))
    far = log_odds_of_both(np.array([900.0, -900, 900]), np.array([900.0, 5, -800]))
    np.testing.assert_allclose(far, [900 - np.log(2), -900 - np.log1p(np.exp(-5)), -800])


def test_cost_is_one_pass_over_what_is_read():
    sizes = Sizes(pool=1000, safe=600, harmful=50, num_pool=10, num_safe=8, num_harmful=1)
    assert TwoSided(max_safe=4).cost(sizes).forward == 1000 + 300 + 50
    assert TwoSided().cost(sizes).trained == 0


# ---- each step against what it is by hand, or written out


def two_folds(kind: str, num_yes: int, num_no: int) -> list[tuple[str, float, int]]:
    """(kind, feature 1 or 0, fold) of that many rows with the feature and without, in each fold."""
    feature = [1.0] * num_yes + [0.0] * num_no
    return [(kind, value, fold) for fold in (0, 1) for value in feature]


def rows_of(parts: list[tuple[str, float, int]]) -> tuple[Rows, Kinds]:
    """Rows whose one feature is their mean loss; "known" is trusted where safety matters."""
    kinds, feature, folds = (np.array(column) for column in zip(*parts, strict=True))
    losses = np.zeros((len(parts), 12), dtype=np.float32)
    losses[:, 0] = feature
    states = np.zeros((len(parts), len(STATES), 2), dtype=np.float32)
    traces = Traces(states, losses, np.zeros(len(parts), dtype=np.float32))
    is_pool = np.char.startswith(kinds, "pool")
    ids = tuple(map(str, range(len(parts))))
    none = np.zeros(len(parts), dtype=bool)
    rows = Rows(ids, is_pool, ~is_pool, none, traces, (), folds.astype(int))
    return rows, Kinds(kinds == "known", kinds == "ordinary", 1.0)


def test_each_round_trusts_the_pool_as_far_as_the_last_one_believed_it_ordinary():
    """With one feature and no ridge a probe's odds are a share of the known over one of the pool.

    Of the known prompts 3/4 have the feature, of the pool's 1/2. Odds with it: 3/4 : 1/2 = 3/2. The
    pool's rows then weigh 1 / (1 + odds): 2/5 with it and 2/3 without it, so 3/8 of the pool has it
    and the odds are 2; then 1/3 and 5/7, 7/22 of the pool, and 33/14. Without it, likewise,
    1/2, 2/5 and 11/30.
    """
    rows, kind = rows_of(two_folds("known", 300, 100) + two_folds("pool", 500, 500))
    feature = rows.traces.losses[:, :1]
    found = _prompt_view(rows, kind, View(feature, None, ridge=1e-6))
    with_it = feature[:, 0] == 1
    np.testing.assert_allclose(found[with_it], np.log(33 / 14), atol=0.02)
    np.testing.assert_allclose(found[~with_it], np.log(11 / 30), atol=0.02)


def test_a_sample_weighs_as_much_as_another_however_many_sentences_it_has():
    """Half of the pool is one sentence with the feature, said three times: still half of it."""
    rows, _ = rows_of(two_folds("known", 300, 100) + two_folds("pool", 500, 500))
    is_pool, has = rows.pool, rows.traces.losses[:, 0]
    counts = np.where(is_pool & (has == 1), 3, 1)
    view = View(np.repeat(has, counts)[:, None], counts, ridge=1e-6)
    targets = (~is_pool).astype(float)
    found = _judged(rows, view, targets, np.where(is_pool, 0.4, 1.0))  # both groups weigh the same
    np.testing.assert_allclose(found[has == 1], np.log(0.75 / 0.5), atol=0.02)
    np.testing.assert_allclose(found[has == 0], np.log(0.25 / 0.5), atol=0.02)


def test_many_trusted_rows_do_not_drown_a_small_pool(monkeypatch):
    """Together they weigh .3 of the pool: 400 rows beside 100 weigh .075 each.

    With the feature: 50 rows of the pool, harmful with .8, and 100 trusted ones; the odds are
    40 : 10 + 7.5. Without it: 50 rows with .2, and 300; 10 : 40 + 22.5.
    """
    monkeypatch.setattr("seal.rankers.two_sided.STATE_RIDGE", 1e-6)
    rows, _ = rows_of(two_folds("pool", 25, 25) + two_folds("known", 50, 150))
    with_it = rows.traces.losses[:, 0] == 1
    found = joint(rows, np.where(with_it, 0.8, 0.2))
    np.testing.assert_allclose(found[with_it], np.log(40 / 17.5), atol=0.03)
    np.testing.assert_allclose(found[~with_it], np.log(10 / 62.5), atol=0.03)


def test_a_response_is_held_against_the_pools_where_safety_matters(monkeypatch):
    """Each row of the pool weighs as much as safety matters at its prompt; ordinary ones nothing.

    Of the trusted responses 3/4 have the feature. In the pool, where safety matters with .8, 1/5
    have it; where with .2, 4/5: by weight .2 * .8 + .8 * .2 = .32 of it.
    """
    monkeypatch.setattr("seal.rankers.two_sided.STATE_RIDGE", 1e-6)
    parts = [
        *two_folds("known", 300, 100),
        *two_folds("pool .8", 100, 400),
        *two_folds("pool .2", 400, 100),
        *two_folds("ordinary", 700, 0),
    ]
    rows, kind = rows_of(parts)
    prompt = logit([float(name[5:]) if name.startswith("pool") else 0.5 for name, *_ in parts])
    found = response_side(rows, kind, prompt)
    with_it = rows.traces.losses[:, 0] == 1
    np.testing.assert_allclose(found[with_it], np.log(0.75 / 0.32), atol=0.03)
    np.testing.assert_allclose(found[~with_it], np.log(0.25 / 0.68), atol=0.03)


def test_a_round_fits_the_joint_probe_to_what_was_believed(world):
    """Two rounds after the product of the sides, written out with scikit-learn."""
    task, _ = world
    pool = sorted(task.pool, key=lambda row: row.id)[:60]
    safe = sorted(task.safe, key=lambda row: row.id)[:40]
    task = replace(task, pool=pool, safe=safe)
    parts = [read_traces(task.lm, rows, task.tables, seed=0, what="") for rows in (pool, safe)]
    ids = [row.id for row in (*pool, *safe)]
    features = join_traces(parts).both().astype(np.float64)
    features = (features - features.mean(axis=0)) / (features.std(axis=0) + 1e-6)
    weights = np.array([1.0] * 60 + [0.3] * 40)  # trusted rows weigh less, and are never harmful
    folds, start = fold_of(ids, 5, 0), TwoSided(rounds=0).rank(task)
    belief = np.append(expit(-start.scores), np.zeros(40))
    for _ in range(2):
        judged = np.zeros(100)
        for fold in range(5):
            ins = folds != fold
            probe = LogisticRegression(C=1 / 300, max_iter=2000).fit(  # the ridge is 300
                np.concatenate([features[ins], features[ins]]),
                np.repeat([1, 0], ins.sum()),
                np.concatenate([belief[ins], 1 - belief[ins]])
                * np.tile(weights[ins] / weights[ins].mean(), 2),
            )
            judged[~ins] = probe.decision_function(features[~ins])
        belief = np.append(expit(judged[:60]), np.zeros(40))
    found = TwoSided(rounds=2).rank(task)
    assert list(found.ids) == ids[:60]
    np.testing.assert_allclose(found.scores, -judged[:60], atol=0.1)
    assert np.abs(found.scores - start.scores).max() > 0.5, "or the rounds would do nothing"
