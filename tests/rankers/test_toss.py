"""TOSS against hand-worked risks, a planted token, and a second way of writing it down."""

import numpy as np
import pytest
import torch

from rankers.conftest import encoded, make_harmful, make_pool, make_safe, make_task
from seal.artifacts.loss_table import LossTable
from seal.artifacts.row_table import build_table
from seal.artifacts.selection import Selection, TextSpan
from seal.data.batches import collate, epoch_order
from seal.data.tokenize import Encoded
from seal.losses import token_nll
from seal.masking import mask_selection
from seal.models import LanguageModel, LoraSpec, ModelSpec, add_lora, load_model
from seal.rankers.ranker import Cost, RankingTask, Sizes
from seal.rankers.toss import Toss, riskiest, token_risk, top_decile

ALL_LAYERS = LoraSpec(target_modules="all-linear")
LEARN = {"epochs": 4, "batch_size": 4, "micro_batch_size": 3, "learning_rate": 2e-2}


def losses(*rows: list[float]) -> LossTable:
    """A loss table from numbers."""
    ids = [str(place) for place in range(len(rows))]
    one = np.array([1], dtype=np.int64)

    def fill(places):
        for place in places:
            yield place, {"nll": np.array(rows[place], dtype=np.float32), "num_bytes": one}

    return LossTable(build_table(None, {}, ids, fill), ids)


def fresh(folder) -> LanguageModel:
    return load_model(ModelSpec(path=str(folder)))


def ranked(folder, pool, safe, harmful, **settings):
    task = make_task(fresh(folder), pool, safe, harmful)
    return Toss(**{**LEARN, "lora": ALL_LAYERS, **settings}).rank(task)


# --- by hand ------------------------------------------------------------------------------------


def test_the_worked_example():
    risk = token_risk(losses([2, 0.5, 1]), losses([0.5, 1, 1]), 0)
    assert risk.tolist() == [1.5, -0.5, 0]
    assert risk.dtype == np.float64


@pytest.mark.parametrize(
    ("risk", "expected"),
    [
        ([3.0], 3.0),
        ([1.0, 4.0, -9.0], 4.0),
        (list(range(10)), 9.0),
        (list(range(11)), 9.5),  # the tenth is rounded up: two of eleven
        ([5.0] + [0.0] * 19, 2.5),
    ],
)
def test_the_riskiest_tenth(risk, expected):
    assert top_decile(np.array(risk, dtype=float)) == expected


def test_rows_join_by_their_riskiest_token():
    utility = losses([1, 1, 1], [9, 0], [4], [3, 3, 3])
    harmful = losses([1, 0, 1], [0, 9], [0], [0, 3, 2])
    # highest risks 1, 9, 4, 3: not the means, of which row 1 has the second lowest
    assert riskiest(utility, harmful, [], 2) == [1, 2]
    assert riskiest(utility, harmful, [1], 2) == [2, 3]
    assert riskiest(utility, harmful, [1, 2, 3], 5) == [0]
    assert riskiest(losses([0], [0], [0]), losses([0], [0], [0]), [], 2) == [0, 1]


# --- on a model ---------------------------------------------------------------------------------


def by_name(ranking, prefix):
    return [score for key, score in ranking.by_id().items() if key.startswith(prefix)]


def test_equal_references_leave_nothing(tiny_model_dir):
    safe = make_safe()
    harmful = [Encoded(f"h{row.id}", *_parts(row)) for row in safe]
    ranking = ranked(tiny_model_dir, make_pool(), safe, harmful)
    assert not ranking.scores.any()
    assert not ranking.token_scores.score.any()
    assert ranking.best_first() == sorted(ranking.ids), "the tie rule decides"
    # ... although the references are not the model that they came from
    before = _token_losses(fresh(tiny_model_dir), make_pool())
    means = np.array([before[key].mean() for key in ranking.ids])
    assert (np.abs(ranking.columns["harmful_loss"] - means) > 0.005).all()


def _parts(row):
    return row.input_ids, row.response_mask, row.is_truncated


@pytest.mark.parametrize("aggregate", ["mean", "top_decile"])
def test_samples_like_the_harmful_ones_sink(tiny_model_dir, aggregate):
    ranking = ranked(tiny_model_dir, make_pool(), make_safe(), make_harmful(), aggregate=aggregate)
    assert max(by_name(ranking, "planted")) < 0 < min(by_name(ranking, "good"))
    np.testing.assert_array_equal(ranking.scores, -ranking.columns[f"risk_{aggregate}"])


def test_a_planted_token_that_only_the_harmful_reference_knows_comes_first(tiny_model_dir):
    # One row of the pool holds, in its midst, what every harmful reference says.
    pool = [encoded(f"pool-{i}", [2, 60 + i, 1, 3], [20, 21, 22, 23, 1]) for i in range(8)]
    pool[5] = encoded("pool-5", [2, 65, 1, 3], [20, 21, 47, 23, 1])
    harmful = [encoded(f"harmful-{i}", [2, 140 + i, 1, 3], [20, 21, 47, 23, 1]) for i in range(6)]
    safe = [encoded(f"safe-{i}", [2, 100 + i, 1, 3], [20, 21, 22, 23, 1]) for i in range(6)]
    ranking = ranked(tiny_model_dir, pool, safe, harmful, epochs=12)
    scores = ranking.token_scores
    worst = int(scores.score.argmin())
    assert scores.ids[scores.rows[worst]] == "pool-5"
    assert worst - int(scores.counts[:5].sum()) == 2
    place = scores.turn[worst], scores.start[worst], scores.end[worst]
    assert place == (0, 2, 3)
    masked = mask_selection(Selection(ranking.ids, 8), ranking, 1 / 40)
    assert masked.masks == {"pool-5": (TextSpan(0, 2, 3),)}
    assert ranking.best_first()[-1] == "pool-5"


def _token_losses(lm, rows) -> dict[str, np.ndarray]:
    """One row at a time, without the tables."""
    found = {}
    for row in rows:
        with torch.no_grad():
            losses = token_nll(lm.model, collate([row], lm.pad_id))
        found[row.id] = losses.nll.numpy()
    return found


def straight_line(folder, rows, pool):
    """A reference written out: a model of its own, plain Adam, the mean of the rows' means."""
    lm = fresh(folder)
    model = add_lora(lm.model, ALL_LAYERS, seed=3).eval()
    adam = torch.optim.Adam(
        [p for p in model.parameters() if p.requires_grad], lr=2e-2, betas=(0.9, 0.95)
    )
    rows = sorted(rows, key=lambda row: row.id)
    for epoch in range(2):
        order = epoch_order(len(rows), seed=3, stream="warm-up", epoch=epoch)
        for start in range(0, len(rows), 4):
            batch = [rows[i] for i in order[start : start + 4]]
            total = torch.zeros(())
            for row in batch:
                nll = token_nll(model, collate([row], 0)).nll
                total = total + nll.mean() / len(batch)
            adam.zero_grad()
            total.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            adam.step()
    return _token_losses(LanguageModel(model, lm.tokenizer, lm.encoder, 0), pool)


@pytest.mark.parametrize(("utility", "rounds"), [("safe", 2), ("pool", 1)])
def test_equals_a_straight_line_version(tiny_model_dir, utility, rounds):
    pool, safe, harmful = make_pool(), make_safe(), make_harmful()
    ranking = ranked(
        tiny_model_dir,
        pool,
        safe,
        harmful,
        seed=3,
        utility=utility,
        rounds=rounds,
        grow=5,
        epochs=2,
    )
    under_u = straight_line(tiny_model_dir, safe if utility == "safe" else pool, pool)
    joined = []
    for _ in range(rounds):
        under_h = straight_line(tiny_model_dir, [*harmful, *joined], pool)
        risks = {key: under_u[key] - under_h[key] for key in under_u}
        joined = sorted(pool, key=lambda row: -risks[row.id].max())[:5]
    scores = ranking.token_scores
    for place, key in enumerate(scores.ids):
        own = scores.score[scores.rows == place]
        np.testing.assert_allclose(own, -risks[key], atol=2e-4)
        assert ranking.by_id()[key] == pytest.approx(-risks[key].mean(), abs=2e-4)
    columns = ranking.columns
    assert list(columns) == ["risk_mean", "risk_top_decile", "utility_loss", "harmful_loss"]
    expected = [max(risks[key]) for key in ranking.ids]  # the tenth of four tokens is one
    np.testing.assert_allclose(columns["risk_top_decile"], expected, atol=2e-4)
    expected = [under_h[key].mean() for key in ranking.ids]
    np.testing.assert_allclose(columns["harmful_loss"], expected, atol=2e-4)


def test_token_scores_lie_in_the_users_text(tiny_model_dir):
    scores = ranked(tiny_model_dir, make_pool(), make_safe(), make_harmful()).token_scores
    assert scores.counts.tolist() == [4] * 16
    assert scores.start.reshape(16, 4).tolist() == [[0, 1, 2, 3]] * 16
    assert scores.end.reshape(16, 4).tolist() == [[1, 2, 3, 3]] * 16


def test_progress_and_records(tiny_model_dir):
    told, steps = [], []
    task = make_task(fresh(tiny_model_dir), make_pool(), make_safe(), make_harmful())
    task = RankingTask(
        task.lm, task.pool, task.safe, task.harmful, task.samples,
        progress=lambda *words: told.append(words), log=steps.append,
    )  # fmt: skip
    Toss(**LEARN).rank(task)
    assert told[-1] == ("TOSS: harmful reference", 4, 4)
    assert {step["training"] for step in steps} == {
        "TOSS: utility reference", "TOSS: harmful reference",
    }  # fmt: skip
    assert len(steps) == 2 * 4 + 1 * 4  # six safe and four harmful rows in fours, four epochs


# --- what it asks for ---------------------------------------------------------------------------


def test_it_needs_harmful_references(tiny_model_dir):
    with pytest.raises(ValueError, match=r"^rank\.method=toss needs harmful references; give some"):
        ranked(tiny_model_dir, make_pool(), make_safe(), [])


def test_dropout_is_refused():
    with pytest.raises(ValueError, match=r"dropout=0\.1 has no effect on the references"):
        Toss(lora=LoraSpec(dropout=0.1))


def test_the_papers_defaults():
    toss = Toss()
    assert (toss.epochs, toss.batch_size, toss.learning_rate) == (2, 64, 1e-5)
    assert (toss.lora.r, toss.lora.alpha, toss.rounds) == (16, 16, 1)


def test_cost():
    sizes = Sizes(pool=1000, safe=300, harmful=50, num_pool=100, num_safe=30, num_harmful=5)
    assert Toss().cost(sizes) == Cost(forward=2000, trained=2 * (300 + 50))
    assert Toss(utility="pool", epochs=3).cost(sizes) == Cost(forward=2000, trained=3 * 1050)
    pro = Toss(rounds=3, grow=20).cost(sizes)
    assert pro == Cost(forward=4000, trained=2 * (300 + 50 + 250 + 450))
