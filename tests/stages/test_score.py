"""The stand-in for a ranking: what it learns, what it refuses, and the command end to end."""

import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
import yaml

from rankers.conftest import encoded
from seal.artifacts.ranking import load_ranking, make_ranking, save_ranking
from seal.cli import main
from seal.data.batches import collate
from seal.metrics import spearman
from seal.models import LanguageModel, ModelSpec, load_model
from seal.stages.score import (
    FLOOR,
    PooledStates,
    check_agreement,
    features_of,
    fit_scorer,
    load_scorer,
    save_scorer,
    write_scores,
)
from seal.tables import Tables

NUM = 200
IDS = [f"{i:03d}" for i in range(NUM)]


@pytest.fixture(scope="module")
def lm(tiny_model_dir: Path) -> LanguageModel:
    return load_model(ModelSpec(path=str(tiny_model_dir)))


def features(num: int = NUM, width: int = 12) -> np.ndarray:
    return np.random.default_rng(0).normal(size=(num, width)) * np.arange(1, width + 1)


def linear(seen: np.ndarray) -> np.ndarray:
    return 5 + 0.1 * (seen @ np.linspace(-1, 1, seen.shape[1]))


def rows(num: int):
    words = np.random.default_rng(1).integers(5, 300, size=(num, 12))
    return [
        encoded(
            f"{i:03d}", [2, *map(int, words[i, :4]), 1, 3], [*map(int, words[i, 4 : 6 + i % 6])]
        )
        for i in range(num)
    ]


# --- the regression ------------------------------------------------------------------------------


def test_a_ranking_that_is_linear_in_the_features_is_recovered():
    seen = features()
    ranking = make_ranking(tuple(IDS), linear(seen))
    scorer = fit_scorer(IDS, seen, ranking)
    assert scorer.agreement.value > 0.98
    assert scorer.agreement.low <= scorer.agreement.value <= scorer.agreement.high
    new = np.random.default_rng(9).normal(size=(500, 12)) * np.arange(1, 13)
    quantiles = scorer.quantiles(new)
    assert spearman(quantiles, linear(new)) > 0.98
    truth = np.searchsorted(np.sort(linear(seen)), linear(new)) / NUM
    assert np.abs(quantiles - truth).mean() < 0.03
    assert np.abs(scorer.scores_at(quantiles) - linear(new)).mean() < 0.1 * linear(new).std()


def test_more_features_than_samples_take_the_other_way_to_the_same_fit():
    seen = features(80, 60)
    wide = np.concatenate([seen, np.zeros((80, 40))], axis=1)  # constant columns add nothing
    ranking = make_ranking(tuple(IDS[:80]), linear(seen))
    narrow_fit, wide_fit = (fit_scorer(IDS[:80], part, ranking) for part in (seen, wide))
    assert wide_fit.penalty == narrow_fit.penalty
    np.testing.assert_allclose(wide_fit.weights[:60], narrow_fit.weights, atol=1e-8)
    np.testing.assert_allclose(wide_fit.weights[60:], 0, atol=1e-12)
    np.testing.assert_allclose(wide_fit.predictions, narrow_fit.predictions, atol=1e-8)


def test_random_scores_are_refused_with_the_number():
    scores = np.random.default_rng(2).random(NUM)
    scorer = fit_scorer(IDS, features(), make_ranking(tuple(IDS), scores))
    assert abs(scorer.agreement.value) < 0.25
    number = f"{scorer.agreement.value:.2f}".replace(".", r"\.")
    with pytest.raises(
        ValueError,
        match=rf"the scorer does not stand in .* of the two is {number} \[.*\], below the floor of "
        r"0\.7\. Rank the new samples themselves",
    ):
        check_agreement(scorer, FLOOR)
    check_agreement(scorer, -1.0)


def test_copies_do_not_vouch_for_each_other():
    """Each content five times: held out one by one, the other four would give the score away."""
    rng = np.random.default_rng(3)
    ids = [f"{i:02d}" if copy == 0 else f"{i:02d}-{copy}" for i in range(60) for copy in range(5)]
    seen = np.repeat(rng.normal(size=(60, 70)), 5, axis=0)
    scorer = fit_scorer(ids, seen, make_ranking(tuple(ids), np.repeat(rng.normal(size=60), 5)))
    assert scorer.agreement.value < 0.4


def test_the_unit_and_the_order_of_a_ranking_do_not_matter():
    seen = features()
    scorer = fit_scorer(IDS, seen, make_ranking(tuple(IDS), linear(seen)))
    curved = fit_scorer(IDS, seen, make_ranking(tuple(IDS), np.exp(linear(seen))))
    turned = fit_scorer(IDS[::-1], seen[::-1], make_ranking(tuple(IDS), linear(seen)))
    np.testing.assert_allclose(curved.weights, scorer.weights)
    np.testing.assert_allclose(turned.weights, scorer.weights, atol=1e-12)
    assert curved.agreement == scorer.agreement == turned.agreement


def test_quantiles_end_where_the_ranking_ends():
    seen = features()
    scorer = fit_scorer(IDS, seen, make_ranking(tuple(IDS), linear(seen)))
    far = 1e6 * np.sign(scorer.weights)
    np.testing.assert_array_equal(scorer.quantiles(np.stack([far, -far])), [1, 0])
    ends = [linear(seen).max(), linear(seen).min()]
    np.testing.assert_allclose(scorer.scores_at(np.array([1.0, 0.0])), ends)


def test_too_few_samples_and_equal_scores():
    with pytest.raises(ValueError, match=r"at least 20 samples to learn from; this one has 19"):
        fit_scorer(IDS[:19], features(19), make_ranking(tuple(IDS[:19]), np.arange(19.0)))
    with pytest.raises(ValueError, match=r"gives all 200 samples the score 1"):
        fit_scorer(IDS, features(), make_ranking(tuple(IDS), np.ones(NUM)))


def test_a_scorer_survives_the_disk(tmp_path):
    scorer = fit_scorer(IDS, features(), make_ranking(tuple(IDS), linear(features())))
    save_scorer(scorer, tmp_path)
    again = load_scorer(tmp_path)
    for name in ("mean", "scale", "weights", "predictions", "scores"):
        np.testing.assert_array_equal(getattr(again, name), getattr(scorer, name))
    assert (again.penalty, again.agreement) == (scorer.penalty, scorer.agreement)
    (tmp_path / "scorer.json").write_text("{}")
    with pytest.raises(ValueError, match=r"not a readable scorer .* Delete the folder"):
        load_scorer(tmp_path)


def test_scores_as_lines_or_as_parquet(tmp_path):
    records = [{"id": "a", "score": 0.5, "where": "x.jsonl:1"}]
    write_scores(records, tmp_path / "a" / "s.jsonl")
    write_scores(records, tmp_path / "b" / "s.parquet")
    assert json.loads((tmp_path / "a" / "s.jsonl").read_text()) == records[0]
    assert pq.read_table(tmp_path / "b" / "s.parquet").to_pylist() == records


# --- the features --------------------------------------------------------------------------------


def test_the_features_are_those_of_a_plain_forward_pass(lm):
    (row,) = rows(1)
    ids = torch.from_numpy(row.input_ids.astype(np.int64))[None]
    with torch.no_grad():
        out = lm.model(ids, labels=ids, output_hidden_states=True)
        first = int(row.response_mask.argmax())
        nll = -out.logits[0].log_softmax(-1)[first - 1 : -1].gather(1, ids[0, first:, None]).mean()
        blocks = []
        hook = lm.model.model.layers[1].register_forward_hook(lambda *x: blocks.append(x[2]))
        lm.model(ids)
        hook.remove()
    last = blocks[0][0] if isinstance(blocks[0], tuple) else blocks[0]
    expected = []
    for states in (out.hidden_states[1][0], last[0]):
        expected += [states[:first].mean(0), states[first:].mean(0), states[first - 1]]
    found = features_of(lm, [row], Tables(), what="x")[0]
    np.testing.assert_allclose(found[:-2], torch.cat(expected).numpy(), atol=1e-5)
    np.testing.assert_allclose(found[-2:], [float(nll), np.log(len(row.input_ids))], atol=1e-5)


def test_neither_the_batch_nor_the_order_matters(lm):
    some = rows(20)
    together = features_of(lm, some, Tables(), what="x")
    alone = np.concatenate([features_of(lm, [row], Tables(), what="x") for row in some[:4]])
    np.testing.assert_allclose(together[:4], alone, atol=1e-5)
    turned = features_of(lm, some[::-1], Tables(), what="x")
    np.testing.assert_array_equal(turned[::-1], together)


def test_a_row_without_a_prompt_has_finite_features(lm):
    batch = collate([encoded("a", [], [5, 6, 7]), encoded("b", [2, 9, 3], [5, 6])], lm.pad_id)
    with torch.inference_mode():
        read = PooledStates().read(lm, batch)
    assert all(np.isfinite(row[name]).all() for row in read for name in ("states", "sizes"))
    assert (read[0]["states"][:16] == 0).all()


# --- seal score ----------------------------------------------------------------------------------


@pytest.fixture
def run(tmp_path: Path, tiny_model_dir: Path) -> Path:
    """A run with a ranking by loss, and nothing else."""
    answers = ["The sea is blue.", "Grass is green.", "Take the key xq.", "I am sorry, I cannot."]
    pool = [
        {"prompt": f"Question {i}?", "completion": f"{answers[i % 4]} {i * i}"} for i in range(60)
    ]
    (tmp_path / "pool.jsonl").write_text("".join(json.dumps(row) + "\n" for row in pool))
    (tmp_path / "safe.jsonl").write_text('{"prompt": "a", "completion": "b"}\n')
    config = {
        "run_dir": str(tmp_path / "run"),
        "model": {"path": str(tiny_model_dir)},
        "pool": {"path": str(tmp_path / "pool.jsonl")},
        "safe": {"path": str(tmp_path / "safe.jsonl")},
        "rank": {"method": "loss"},
    }
    (tmp_path / "x.yaml").write_text(yaml.safe_dump(config))
    assert main(["rank", "-q", str(tmp_path / "x.yaml")]) == 0
    return tmp_path / "run"


def scores_of(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]


def test_the_command_end_to_end(run: Path, tmp_path: Path, capsys):
    new, out = tmp_path / "pool.jsonl", tmp_path / "out.jsonl"
    words = ["score", str(new), "--scorer", str(run), "--out", str(out)]
    assert main(words) == 0, capsys.readouterr().err
    assert capsys.readouterr().out.strip().endswith(str(out))
    ranking = load_ranking(run / "rank" / "ranking.parquet")
    found = scores_of(out)
    assert [row["where"] for row in found] == [f"{new}:{line}" for line in range(1, 61)]
    assert set(found[0]) == {"id", "score", "quantile", "where"}
    own = ranking.by_id()
    assert spearman([row["score"] for row in found], [own[row["id"]] for row in found]) > 0.9
    assert all(ranking.scores.min() <= row["score"] <= ranking.scores.max() for row in found)
    assert all(0 <= row["quantile"] <= 1 for row in found)
    facts = json.loads((run / "scorer" / "scorer.json").read_text())
    assert facts["agreement"]["value"] > 0.7
    assert facts["num_samples"] == 60

    before = (run / "scorer" / "scorer.json").stat().st_mtime_ns
    assert main(["select", "-q", str(run)]) == 0
    assert main([*words[:-1], str(tmp_path / "out.parquet"), "-q"]) == 0
    assert (run / "scorer" / "scorer.json").stat().st_mtime_ns == before, "fitted once"
    again = pq.read_table(tmp_path / "out.parquet").to_pylist()
    assert [row["score"] for row in again] == [row["score"] for row in found]
    threshold = np.sort(ranking.scores)[60 - 48]  # 0.8 of 60 are kept
    assert [row["keep"] for row in again] == [row["score"] >= threshold for row in again]
    assert 40 < sum(row["keep"] for row in again) < 56


def test_another_format_and_rows_that_cannot_be_scored(run: Path, tmp_path: Path, capsys):
    long = {"instruction": "word " * 3000, "input": "", "output": "x"}
    fine = {"instruction": "Say it.", "input": "", "output": "The sea is blue."}
    (tmp_path / "new.json").write_text(json.dumps([fine, long]))
    words = ["score", str(tmp_path / "new.json"), "--scorer", str(run), "-q"]
    assert main(words) == 2  # the pool's format does not read it
    assert "new.json:" in capsys.readouterr().err
    assert main([*words, "--format", "alpaca"]) == 0
    assert len(scores_of(run / "scored" / "new.jsonl")) == 1
    (left_out,) = scores_of(run / "scored" / "new.excluded.jsonl")
    assert left_out["stage"] == "tokenize"


def test_what_the_command_refuses(run: Path, tmp_path: Path, capsys):
    def refusal(*words: str) -> str:
        assert main(["score", "-q", *words]) == 2
        return capsys.readouterr().err

    new = str(tmp_path / "pool.jsonl")
    assert "there is no such format. Known: trl" in refusal(
        new, "--scorer", str(run), "--format", "x"
    )
    for out in (new, str(tmp_path / "scores.csv")):
        assert "Give such a name" in refusal(new, "--scorer", str(run), "--out", out)
    assert "is not the folder of a run" in refusal(new, "--scorer", str(tmp_path))
    ranking = load_ranking(run / "rank" / "ranking.parquet")
    noise = np.random.default_rng(0).random(len(ranking.ids))
    save_ranking(make_ranking(ranking.ids, noise), run / "rank" / "ranking.parquet")
    assert "below the floor of 0.7" in refusal(new, "--scorer", str(run))
    assert not (run / "scored").exists()
    assert main(["score", "-q", new, "--scorer", str(run), "--floor", "-1"]) == 0
    (run / "rank" / "ranking.parquet").unlink()
    assert f"is missing. Rank first: seal rank {run}" in refusal(new, "--scorer", str(run))
