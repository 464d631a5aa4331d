"""Tables of forward passes against a straight-line computation, and how often a model is asked."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from rankers.conftest import encoded
from seal import microbatches
from seal.data.tokenize import Encoded
from seal.models import LanguageModel, ModelSpec, load_model
from seal.padding import needs_even_rows
from seal.rankers.representations import BlockStates, FinalStates
from seal.rankers.traces import TraceReading
from seal.stages.score import PooledStates
from seal.tables import Tables, rows_hash


@pytest.fixture
def lm(tiny_model_dir: Path) -> LanguageModel:
    return load_model(ModelSpec(path=str(tiny_model_dir)))


def lengths(rows: list[Encoded]) -> list[int]:
    return [len(row.input_ids) for row in rows]


def make_rows(num: int = 37) -> list[Encoded]:
    """Rows of many lengths; every fourth has response tokens in two pieces."""
    rng = np.random.default_rng(0)
    rows = []
    for i in range(num):
        prompt = rng.integers(5, 200, 1 + i % 7).tolist()
        response = [*rng.integers(5, 200, 2 + i % 5).tolist(), 1]
        row = encoded(f"row-{i:02d}", prompt, response)
        if i % 4 == 0:
            row.response_mask[len(prompt) + 1] = False
        rows.append(row)
    return rows


def by_hand(lm: LanguageModel, row: Encoded) -> dict:
    """One row on its own, from all of its logits."""
    with torch.no_grad():
        logits = lm.model(torch.tensor(row.input_ids[None].astype(np.int64))).logits[0].double()
    log_p = logits - logits.logsumexp(dim=-1, keepdim=True)
    nll, entropy, tokens = [], [], []
    for t in range(1, len(row.input_ids)):
        if row.response_mask[t]:
            token = int(row.input_ids[t])
            tokens.append(token)
            nll.append(-float(log_p[t - 1, token]))
            entropy.append(-float((log_p[t - 1].exp() * log_p[t - 1]).sum()))
    text = lm.tokenizer.decode([token for token in tokens if token > 4])  # 0 to 4 are special
    return {"nll": nll, "entropy": entropy, "num_bytes": len(text.encode())}


class Calls:
    """Counts forward passes and rows of a model."""

    def __init__(self, lm: LanguageModel) -> None:
        needs_even_rows(lm.model)  # tried before, so that its passes are not counted
        self.rows: list[int] = []
        lm.model.register_forward_pre_hook(self._note, with_kwargs=True)

    def _note(self, _model, _args, kwargs) -> None:
        self.rows.append(len(kwargs["input_ids"]))


@pytest.mark.parametrize("on_disk", [True, False])
def test_losses_are_those_of_each_row_on_its_own(lm, tmp_path, on_disk):
    rows = make_rows()
    tables = Tables(tmp_path if on_disk else None)
    table = tables.losses(lm, rows, entropy=True)
    assert table.ids == tuple(row.id for row in rows)
    for place, row in enumerate(rows):
        expected = by_hand(lm, row)
        np.testing.assert_allclose(table.tokens(place), expected["nll"], rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(
            table.token_entropy(place), expected["entropy"], rtol=1e-4, atol=1e-5
        )
        assert table.num_tokens[place] == len(expected["nll"])
        assert table.num_bytes[place] == max(1, expected["num_bytes"])
        total = sum(expected["nll"])
        assert table.sum[place] == pytest.approx(total, rel=1e-4)
        assert table.mean[place] == pytest.approx(total / len(expected["nll"]), rel=1e-4)
        assert table.per_byte[place] == pytest.approx(total / table.num_bytes[place], rel=1e-4)
        assert table.mean_entropy[place] == pytest.approx(np.mean(expected["entropy"]), rel=1e-4)


def test_bytes_are_those_of_the_text_and_at_least_one(lm):
    def row(key: str, text: str) -> Encoded:
        return encoded(key, [2, 60, 1, 3], [*lm.tokenizer(text)["input_ids"], 1])

    rows = [row("ascii", "The sea"), row("wide", "é€"), row("none", "")]
    assert Tables().losses(lm, rows).num_bytes.tolist() == [7, 5, 1]


def test_the_order_of_the_rows_changes_the_order_only(lm, tmp_path):
    rows = make_rows()
    straight = Tables(tmp_path).losses(lm, rows)
    calls = Calls(lm)
    turned = Tables(tmp_path).losses(lm, rows[::-1])
    assert calls.rows == []
    np.testing.assert_array_equal(turned.sum, straight.sum[::-1])
    np.testing.assert_array_equal(turned.num_bytes, straight.num_bytes[::-1])
    fresh = Tables().losses(lm, rows[::-1])
    np.testing.assert_array_equal(fresh.sum, straight.sum[::-1])
    assert rows_hash(rows) == rows_hash(rows[::-1])


@pytest.mark.parametrize("part", ["input_ids", "response_mask", "id"])
def test_other_rows_are_another_table(part):
    rows = make_rows(4)
    before = rows_hash(rows)
    if part == "id":
        rows[2] = replace(rows[2], id="row-xx")
    else:
        array = getattr(rows[2], part).copy()
        array[-1] = 0
        rows[2] = replace(rows[2], **{part: array})
    assert rows_hash(rows) != before


def test_a_table_is_made_once(lm, tmp_path, monkeypatch):
    monkeypatch.setattr(microbatches, "TOKENS_ON_CPU", 16 * max(lengths(make_rows())))
    rows = make_rows()
    Tables().losses(lm, rows[:1])  # what is tried once, before anything is counted
    calls = Calls(lm)
    Tables(tmp_path).losses(lm, rows)
    num_passes = len(calls.rows)
    assert calls.rows[0] == 16, "of the longest"
    assert sum(calls.rows) == 37
    assert num_passes <= 3
    Tables(tmp_path).losses(lm, rows)
    assert len(calls.rows) == num_passes
    Tables(tmp_path).losses(lm, rows, entropy=True)  # other columns: another table
    Tables(tmp_path).losses(lm, rows[1:])
    assert sum(calls.rows) == 37 + 37 + 36
    assert len(list(tmp_path.iterdir())) == 3


def test_another_model_is_another_table(lm, tmp_path):
    rows = make_rows(4)
    straight = Tables(tmp_path).losses(lm, rows).sum
    with torch.no_grad():
        for value in lm.model.parameters():
            value.mul_(1.5)
    changed = replace(lm, identity={"files": {"model.safetensors": "other"}})
    assert not np.allclose(Tables(tmp_path).losses(changed, rows).sum, straight)
    assert len(list(tmp_path.iterdir())) == 2


def test_a_model_without_a_name_is_not_kept_on_disk(lm, tmp_path):
    rows = make_rows(4)
    nameless = replace(lm, identity=None)
    Tables().losses(lm, rows[:1])  # what is tried once, before anything is counted
    calls = Calls(lm)
    first = Tables(tmp_path).losses(nameless, rows).sum
    with torch.no_grad():
        for value in lm.model.parameters():
            value.mul_(1.5)
    second = Tables(tmp_path).losses(nameless, rows).sum
    assert len(calls.rows) == 2
    assert not np.allclose(first, second)
    assert list(tmp_path.iterdir()) == []


def test_a_loss_that_is_not_finite_is_refused_by_name(lm, tmp_path):
    rows = [*make_rows(4), encoded("poisoned", [2, 250, 1, 3], [20, 1])]

    def spoil(_module, args, output):
        return torch.where((args[0] == 250)[..., None], torch.nan, output)

    # not in the weights, which are tied: an output row of NaN would spoil every sample
    hook = lm.model.get_input_embeddings().register_forward_hook(spoil)
    with pytest.raises(ValueError, match=r"the loss of 1 samples is not finite: poisoned\. Use"):
        Tables(tmp_path).losses(lm, rows)
    assert list(tmp_path.rglob("*.arrow")) == []
    hook.remove()
    assert np.isfinite(Tables(tmp_path).losses(lm, rows).sum).all()


@pytest.mark.parametrize(
    ("reading", "noun"),
    [
        (FinalStates(), "hidden state"),
        (BlockStates(blocks=(1,)), "hidden state"),
        (TraceReading(refusal_ids=(20,)), "hidden state or loss"),
        (PooledStates(), "hidden state or loss"),
    ],
    ids=str,
)
def test_the_message_says_what_is_not_finite(lm, reading, noun):
    def spoil(_module, args, output):
        return output.masked_fill((args[0] == 250)[..., None], torch.nan)

    lm.model.get_input_embeddings().register_forward_hook(spoil)
    rows = [*make_rows(2), encoded("poisoned", [2, 250, 1, 3], [20, 1])]
    with pytest.raises(ValueError, match=rf"^the {noun} of 1 samples is not finite: poisoned\. "):
        Tables().read(reading, lm, rows, what="reading")


def test_progress_counts_rows_to_the_end(lm, monkeypatch):
    monkeypatch.setattr(microbatches, "TOKENS_ON_CPU", 16 * max(lengths(make_rows())))
    told: list[tuple[str, int, int]] = []
    Tables(progress=lambda *words: told.append(words)).losses(lm, make_rows(), what="reading")
    assert told[0] == ("reading", 16, 37)
    assert told[-1] == ("reading", 37, 37)
    assert 2 <= len(told) <= 3
