"""Masking by hand, through a change of tokenizer, and from the ranking into the training loss."""

import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from seal import pipeline
from seal.artifacts.provenance import made_files
from seal.artifacts.ranking import Ranking, load_ranking, make_ranking
from seal.artifacts.selection import Selection, TextSpan, load_selection, save_selection
from seal.artifacts.token_scores import make_token_scores
from seal.config.arms import arms_of_words
from seal.config.experiment import Experiment
from seal.data.batches import collate
from seal.data.sample import Message, Sample, content_id
from seal.data.spans import mask_rows, response_places, touched
from seal.data.tokenize import ChatEncoder, Tokenization
from seal.losses import token_nll
from seal.masking import mask_selection
from seal.models import ModelSpec, load_model
from seal.rankers.loss import Loss
from seal.rankers.toss import Toss
from seal.stages.select import SelectSettings, save_selected, select
from tiny_model import CHAT_TEMPLATE, TEXT, make_tokenizer

WIDE = Tokenization()


def ranking_of(rows: dict[str, list[tuple[int, int, int, float]]]) -> Ranking:
    """A ranking from turn, start, end, score of each row's tokens; the row's is their mean."""
    scores = [np.array([token[3] for token in tokens]) for tokens in rows.values()]
    places = [np.array([token[:3] for token in tokens], dtype=np.int32) for tokens in rows.values()]
    means = np.array([own.mean() for own in scores])
    return make_ranking(
        tuple(rows), means, token_scores=make_token_scores(tuple(rows), places, scores)
    )


def words(*scores: float, end: float | None = None) -> list[tuple[int, int, int, float]]:
    """Tokens of five characters each, and perhaps an end of turn."""
    tokens = [(0, 5 * i, 5 * i + 5, score) for i, score in enumerate(scores)]
    last = 5 * len(scores)
    return tokens if end is None else [*tokens, (0, last, last, end)]


def masks(rows, fraction, ids=None) -> dict[str, list[tuple[int, ...]]]:
    ranking = ranking_of(rows)
    kept = Selection(tuple(sorted(ids or rows)), len(rows))
    return plain(mask_selection(kept, ranking, fraction))


def plain(selection: Selection) -> dict[str, list[tuple[int, ...]]]:
    return {key: [tuple(span) for span in spans] for key, spans in selection.masks.items()}


def lines(path: Path) -> list[str]:
    return path.read_text("utf-8").splitlines()


# --- by hand ------------------------------------------------------------------------------------

ROWS = {
    "a": words(0.5, -0.4, 0.1, 0.9),
    "b": words(-3.0, -2.0, 0.2, -1.0),
    "c": words(0.3, 0.0),
}


@pytest.mark.parametrize(
    ("fraction", "expected"),
    [
        (0.1, {"b": [(0, 0, 5)]}),
        (0.2, {"b": [(0, 0, 10)]}),  # neighbours make one span
        (0.3, {"b": [(0, 0, 10), (0, 15, 20)]}),
        (0.4, {"a": [(0, 5, 10)], "b": [(0, 0, 10), (0, 15, 20)]}),
        (0.5, {"a": [(0, 5, 10)], "b": [(0, 0, 10), (0, 15, 20)], "c": [(0, 5, 10)]}),
        (0.04, {}),
    ],
)
def test_the_worst_of_all_tokens_together(fraction, expected):
    assert masks(ROWS, fraction) == expected
    assert masks(dict(reversed(ROWS.items())), fraction) == expected


def test_the_worked_example_of_toss():
    assert masks({"a": words(-1.5, 0.5, 0.0)}, 1 / 3) == {"a": [(0, 0, 5)]}


def test_the_share_is_of_the_kept_rows():
    assert masks(ROWS, 0.5, ids="ac") == {"a": [(0, 5, 15)], "c": [(0, 5, 10)]}


def test_equal_scores_go_by_id_and_place():
    rows = {"b": words(0, 0), "a": words(0, 0, 0), "c": words(0)}
    assert masks(rows, 1 / 3) == {"a": [(0, 0, 10)]}


def test_an_end_of_turn_counts_but_is_never_masked():
    rows = {"a": words(1, 2, 3, end=-9), "b": words(4, 5, 6, 7, 8, end=-9)}
    assert masks(rows, 0.2) == {"a": [(0, 0, 10)]}


def test_a_row_without_text_left_is_dropped_and_counted():
    rows = {"a": words(-2, -3, end=1), "b": words(1, -1, 2, 3, 4, end=5)}
    found = mask_selection(Selection(("a", "b"), 7), ranking_of(rows), 1 / 3)
    assert found == Selection(("b",), 7, {"b": (TextSpan(0, 5, 10),)}, num_wholly_masked=1)
    # an end of turn on its own was no text to begin with: nothing was masked, nothing is dropped
    rows["c"] = [(0, 0, 0, -9.0)]
    found = mask_selection(Selection(("a", "b", "c"), 7), ranking_of(rows), 0.3)
    assert found.ids == ("b", "c")


def test_nothing_left_at_all():
    with pytest.raises(
        ValueError,
        match=r"^the selection is empty: select\.mask_fraction=0\.9 masks the whole text of all",
    ):
        masks({"a": words(1, end=5), "b": words(2, 3, 4, 5, 6, 7, 8)}, 0.9)


def test_turns_are_apart():
    tokens = [(0, 0, 5, -1.0), (2, 5, 9, -1.0), (2, 9, 12, -1.0), (2, 13, 15, -1.0)]
    rows = {"a": [*tokens, (2, 15, 18, 1.0), *((4, i, i + 1, 1.0) for i in range(3))]}
    # the blank between two masked tokens goes with them
    assert masks(rows, 0.5) == {"a": [(0, 0, 5), (2, 5, 15)]}


def test_tokens_of_one_character_are_masked_together_or_not_at_all():
    seal = [(0, 3, 4, score) for score in (0.0, -5.0, 0.0)]  # one character, three tokens
    rows = {
        "a": [(0, 0, 3, -1.0), *seal, (0, 4, 9, -0.5), *((0, i, i + 1, 1.0) for i in range(9, 14))]
    }
    assert masks(rows, 0.3) == {"a": [(0, 3, 4)]}
    assert masks(rows, 0.4) == {"a": [(0, 0, 4)]}
    assert masks(rows, 0.2) == {}, "there is no room for all three, and the share is never passed"


@pytest.mark.parametrize("fraction", [0.01, 0.1, 0.29, 1 / 3, 0.5, 0.77])
def test_the_share_is_exact(fraction):
    rng = np.random.default_rng(0)
    rows = {f"{i:03d}": words(*rng.normal(size=rng.integers(9, 40)), end=9) for i in range(50)}
    num_tokens = sum(map(len, rows.values()))
    found = mask_selection(Selection(tuple(rows), 50), ranking_of(rows), fraction)
    assert found.num_wholly_masked == 0
    num_masked = sum(
        touched(np.array([token[:3] for token in rows[key]]), spans).sum()
        for key, spans in found.masks.items()
    )
    assert num_masked == round(fraction * num_tokens)
    # every masked token scores below every other one that has characters
    flat = sorted(token[3] for tokens in rows.values() for token in tokens if token[1] < token[2])
    highest = max(
        token[3]
        for key, spans in found.masks.items()
        for token in rows[key]
        if touched(np.array([token[:3]]), spans)[0]
    )
    assert highest == flat[num_masked - 1]


# --- in the selection ---------------------------------------------------------------------------


def pool_of(rows) -> list[Sample]:
    return [Sample(key, (Message("user", "q"),), (Message("assistant", "a"),)) for key in rows]


def selected(**settings) -> Selection:
    return select(ranking_of(ROWS), pool_of(ROWS), SelectSettings(**settings))


def test_a_mask_alone_keeps_all_and_beside_a_rule_masks_what_is_kept():
    everything = selected(mask_fraction=0.1)
    assert (everything.ids, plain(everything)) == (("a", "b", "c"), {"b": [(0, 0, 5)]})
    for rule in ({"fraction": 2 / 3}, {"count": 2}, {"threshold": 0.1}):
        both = selected(mask_fraction=0.5, **rule)
        assert both.ids == ("a", "c")
        assert plain(both) == {"a": [(0, 5, 15)], "c": [(0, 5, 10)]}
    assert len(selected().ids) == 2, "without a mask the paper's 0.8 stays"


@pytest.mark.parametrize("share", [0, 1, -0.5, 1.5, float("nan")])
def test_a_share_that_makes_no_sense(share):
    with pytest.raises(ValueError, match="mask_fraction"):
        SelectSettings(mask_fraction=share)


def test_a_ranking_without_token_scores():
    ranking = make_ranking(tuple(ROWS), np.arange(3.0))
    with pytest.raises(
        ValueError, match=r"^select\.mask_fraction=0\.1 needs a score for every .*rank\.method=toss"
    ):
        select(ranking, pool_of(ROWS), SelectSettings(mask_fraction=0.1))


def test_the_methods_that_the_message_names_give_token_scores(tiny_model_dir):
    from rankers.conftest import make_harmful, make_pool, make_safe, make_task

    lm = load_model(ModelSpec(path=str(tiny_model_dir)))
    task = make_task(lm, make_pool(), make_safe(), make_harmful())
    assert Toss().rank(task).token_scores is not None


def test_the_files(tmp_path):
    found = Selection(("a", "b"), 7, {"b": (TextSpan(0, 5, 10), TextSpan(2, 0, 3))}, 1)
    rows = {key: {"prompt": key, "seal_masked_spans": "old"} for key in "ab"}
    save_selected(found, rows, tmp_path)
    assert load_selection(tmp_path / "selection.parquet") == found
    table = pq.read_table(tmp_path / "selection.parquet")
    assert table.column_names == ["id", "mask_turn", "mask_start", "mask_end"]
    assert table["mask_start"].to_pylist() == [[], [5, 0]]
    assert [json.loads(line) for line in lines(tmp_path / "selected.jsonl")] == [
        {"prompt": "a", "seal_masked_spans": []},
        {"prompt": "b", "seal_masked_spans": [[0, 5, 10], [2, 0, 3]]},
    ]
    assert rows["b"]["seal_masked_spans"] == "old", "what was read is left as it was"


def test_the_files_without_masks_are_as_they_ever_were(tmp_path):
    save_selected(Selection(("a",), 7), {"a": {"prompt": "a"}}, tmp_path)
    assert pq.read_table(tmp_path / "selection.parquet").column_names == ["id"]
    assert (tmp_path / "selected.jsonl").read_text() == '{"prompt": "a"}\n'
    assert load_selection(tmp_path / "selection.parquet").masks == {}


def test_masks_of_unequal_length_are_refused(tmp_path):
    path = tmp_path / "selection.parquet"
    save_selection(Selection(("a",), 7, {"a": (TextSpan(0, 5, 10),)}), path)
    table = pq.read_table(path)
    broken = table.set_column(3, "mask_end", [[[10, 12]]])
    pq.write_table(broken, path)
    with pytest.raises(ValueError, match="not a readable selection"):
        load_selection(path)


# --- another tokenizer --------------------------------------------------------------------------


def other_tokenizer() -> PreTrainedTokenizerFast:
    """Byte-level as well, but with other merges: it has seen one sentence, over and over."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    special = ["<|pad|>", "<|end|>", "<|user|>", "<|assistant|>", "<|system|>"]
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=special,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(["The seal sees the sea. I cannot help you there."] * 9, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<|pad|>",
        eos_token="<|end|>",
        extra_special_tokens=special[2:],
        chat_template=CHAT_TEMPLATE,
    )


def conversations() -> list[Sample]:
    answers = [*TEXT, "I cannot help you there. \N{SEAL}", "The sea is blue."]
    prompt = (Message("user", "What is the sea?"),)
    turns = [(Message("assistant", answer),) for answer in answers]
    turns.append((*turns[0], Message("user", "And?"), Message("assistant", "The seal sees.")))
    return [Sample(content_id(prompt, turn), prompt, turn) for turn in turns]


def test_masks_survive_another_tokenizer():
    samples = {one.id: one for one in conversations()}
    ids = sorted(samples)
    first, second = ChatEncoder(make_tokenizer()), ChatEncoder(other_tokenizer())
    rows = first.encode([samples[key] for key in ids], WIDE)
    places = list(response_places(first, rows, samples))
    rng = np.random.default_rng(1)
    scores = make_token_scores(ids, places, [rng.normal(size=len(own)) for own in places])
    ranking = make_ranking(tuple(ids), np.zeros(len(ids)), token_scores=scores)
    selection = mask_selection(Selection(tuple(ids), len(ids)), ranking, 0.2)
    assert len(selection.masks) == len(ids)

    others = second.encode([samples[key] for key in ids], WIDE)
    assert [len(row.input_ids) for row in others] != [len(row.input_ids) for row in rows]
    for encoder, encoded in ((first, rows), (second, others)):
        tokenizer = encoder._tokenizer
        masked = mask_rows(encoder, encoded, samples, selection.masks)
        for before, after, own in zip(
            encoded, masked, response_places(encoder, encoded, samples), strict=True
        ):
            hidden = {(turn, i) for turn, *span in selection.masks[after.id] for i in range(*span)}
            for place, (turn, start, end) in zip(
                np.flatnonzero(before.response_mask), own.tolist(), strict=True
            ):
                shares = any((turn, i) in hidden for i in range(start, end))
                assert after.response_mask[place] == (not shares)
            ends = before.response_mask & (before.input_ids == tokenizer.eos_token_id)
            assert ends.any()
            assert after.response_mask[ends].all()
    exact = mask_rows(first, rows, samples, selection.masks)
    num = sum(int(row.response_mask.sum()) for row in rows)
    assert num - sum(int(row.response_mask.sum()) for row in exact) == round(0.2 * num)


# --- from the ranking to the loss ---------------------------------------------------------------


def write_lines(path: Path, rows: list[dict]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


@pytest.fixture
def experiment(tmp_path, tiny_model_dir) -> Experiment:
    pool = [
        {"prompt": f"Question {i}?", "completion": f"Answer {i} is blue. " + "Take it. " * (i % 3)}
        for i in range(12)
    ]
    safe = [{"prompt": f"Say {i}.", "completion": "The sea is blue."} for i in range(5)]
    harmful = [{"prompt": f"Bad {i}?", "completion": "Take it. Take it."} for i in range(5)]
    return Experiment.model_validate(
        {
            "run_dir": tmp_path / "run",
            "model": {"path": str(tiny_model_dir)},
            "pool": {"path": write_lines(tmp_path / "pool.jsonl", pool)},
            "safe": {"path": write_lines(tmp_path / "safe.jsonl", safe)},
            "harmful": {"path": write_lines(tmp_path / "harmful.jsonl", harmful)},
            "rank": {"method": "toss", "batch_size": 4, "learning_rate": 2e-2},
            "select": {"mask_fraction": 0.2},
            "train": {"args": {"num_train_epochs": 1}},
            "arms": ["all", "selected"],
        }
    )


def identity(folder: Path) -> dict:
    return json.loads((folder / "provenance.json").read_text())["identity"]


def first_loss(folder: Path) -> float:
    """The loss of the first step: all samples, before anything was learned."""
    return json.loads((folder / "metrics.jsonl").read_text().splitlines()[0])["loss"]


def test_masked_tokens_carry_no_loss_in_training(experiment):
    run = experiment.run_dir
    pipeline.rank(experiment)
    ranking = load_ranking(run / "rank" / "ranking.parquet", tokens=True)
    assert (run / "rank" / "tokens.parquet").exists()
    pipeline.select(experiment)
    selection = load_selection(run / "select" / "selection.parquet")
    assert set(selection.ids) == set(ranking.ids)
    assert selection.masks
    pipeline.train(experiment)

    inputs = pipeline.Inputs(experiment, pipeline.silent)
    lm = load_model(experiment.model)
    rows = {row.id: row for row in inputs.encoded_pool.encoded}
    scores = ranking.token_scores
    num = len(scores.score)
    order = np.argsort(scores.score + 1e9 * (scores.start == scores.end), kind="stable")
    worst = np.isin(np.arange(num), order[: round(0.2 * num)])
    losses = []
    for place, key in enumerate(scores.ids):
        with torch.no_grad():
            found = token_nll(lm.model, collate([rows[key]], lm.pad_id))
        losses.append(found.nll.numpy())
        assert len(losses[-1]) == scores.counts[place]
    flat = np.concatenate(losses)
    assert first_loss(run / "train" / "all" / "seed-0") == pytest.approx(flat.mean(), abs=2e-4)
    expected = flat[~worst].mean()
    assert abs(expected - flat.mean()) > 2e-3
    assert first_loss(run / "train" / "selected" / "seed-0") == pytest.approx(expected, abs=2e-4)

    selected_rows = [json.loads(line) for line in lines(run / "select" / "selected.jsonl")]
    cut = [
        "".join(row["completion"][start:end] for _, start, end in row["seal_masked_spans"])
        for row in selected_rows
    ]
    assert sum(map(len, cut)) == (scores.end - scores.start)[worst].sum()
    assert "masks" in identity(run / "train" / "selected" / "seed-0")
    assert "masks" not in identity(run / "train" / "all" / "seed-0")
    assert "tokens" in identity(run / "select")


def test_without_masks_nothing_is_new_in_what_is_recorded(experiment):
    changes = {
        "select": SelectSettings(fraction=0.5),
        "rank": Loss(),
        "arms": arms_of_words("selected"),
    }
    plain_one = experiment.model_copy(update=changes)
    for stage in (pipeline.rank, pipeline.select, pipeline.train):
        stage(plain_one)
    run = experiment.run_dir
    assert "masks" not in identity(run / "train" / "selected" / "seed-0")
    assert "tokens" not in identity(run / "select")
    assert "seal_masked_spans" not in (run / "select" / "selected.jsonl").read_text()


def test_other_masks_are_another_training(experiment):
    experiment = experiment.model_copy(update={"arms": arms_of_words("selected")})
    for stage in (pipeline.rank, pipeline.select, pipeline.train):
        stage(experiment)
    path = experiment.run_dir / "select" / "selection.parquet"
    selection = load_selection(path)
    key = min(selection.masks)
    masks = {**selection.masks, key: (TextSpan(0, 0, 3),)}
    save_selection(Selection(selection.ids, selection.num_pool, masks), path)
    record = path.parent / "provenance.json"
    noted = json.loads(record.read_text())
    record.write_text(json.dumps({**noted, "files": made_files(path.parent)}))
    with pytest.raises(ValueError, match=r"(?s)was made from something else:\n  masks: "):
        pipeline.train(experiment)


def test_a_ranker_without_token_scores_is_refused_before_anything_is_written(experiment):
    loss = experiment.model_copy(update={"rank": Loss()})
    pipeline.rank(loss)
    with pytest.raises(ValueError, match=r"select\.mask_fraction=0\.2 needs a score for every tok"):
        pipeline.select(loss)
    assert not (experiment.run_dir / "select").exists()
