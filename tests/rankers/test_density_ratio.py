import dataclasses

import numpy as np
import pytest
import torch

from rankers.conftest import encoded, make_pool, make_safe, make_task
from rankers.second_model import save_second_model
from seal.data.sample import Message, Sample
from seal.data.tokenize import Tokenization
from seal.models import LoraSpec, ModelSpec, add_lora, load_model
from seal.rankers.density_ratio import DensityRatio
from seal.rankers.ranker import RankingTask
from seal.tables import Tables

TALKS = {
    "a": ("What colour is the sea?", "The sea is blue."),
    "b": ("What colour is grass?", "Grass is green, and that is all."),
    "c": ("Name an animal.", "A séal."),
}


@pytest.fixture(scope="module")
def second_dir(tmp_path_factory):
    return save_second_model(tmp_path_factory.mktemp("second"))


@pytest.fixture(scope="module")
def other_dir(tmp_path_factory):
    return save_second_model(tmp_path_factory.mktemp("other"), other_tokenizer=True)


def spec(folder) -> ModelSpec:
    return ModelSpec(path=str(folder))


def talk_task(lm, *, max_length: int = 128, tables: Tables | None = None) -> RankingTask:
    samples = {
        key: Sample(key, (Message("user", ask),), (Message("assistant", answer),))
        for key, (ask, answer) in TALKS.items()
    }
    tokenization = Tokenization(max_length=max_length)
    pool = lm.encoder.encode(list(samples.values()), Tokenization(max_length=128))
    return RankingTask(lm, pool, make_safe(), (), samples, tokenization, tables or Tables())


def log_p(model, row) -> float:
    """log p(response | prompt) of one row, one token at a time."""
    ids = torch.tensor(row.input_ids[None], dtype=torch.int64)
    with torch.no_grad():
        logs = model(input_ids=ids).logits[0].double().log_softmax(dim=-1)
    places = np.flatnonzero(row.response_mask)
    return sum(logs[place - 1, ids[0, place]].item() for place in places)


def test_score_is_the_log_ratio_of_the_response(lm, second_dir):
    weak = load_model(spec(second_dir))
    task = talk_task(lm)
    expected = {row.id: log_p(lm.model, row) - log_p(weak.model, row) for row in task.pool}
    lengths = {row.id: int(row.response_mask.sum()) for row in task.pool}
    num_bytes = {key: len(answer.encode()) for key, (_, answer) in TALKS.items()}
    sizes = {"response": dict.fromkeys(TALKS, 1), "token": lengths, "byte": num_bytes}
    assert num_bytes["c"] == len(TALKS["c"][1]) + 1  # bytes, not characters
    for per, size in sizes.items():
        scores = DensityRatio(weak=spec(second_dir), per=per).rank(task).by_id()
        assert scores == pytest.approx({key: expected[key] / size[key] for key in TALKS}, abs=1e-5)


def test_columns_are_the_losses_in_the_unit_of_the_score(lm, second_dir):
    ranking = DensityRatio(weak=spec(second_dir), per="byte").rank(talk_task(lm))
    columns = ranking.columns
    np.testing.assert_array_equal(columns["weak_loss"] - columns["strong_loss"], ranking.scores)
    assert columns["weak_loss"].min() > 0
    assert columns["strong_loss"].min() > 0


def test_swapping_the_models_flips_the_sign(lm, second_dir):
    task = talk_task(lm)
    forward = DensityRatio(weak=spec(second_dir)).rank(task).scores
    backward = DensityRatio(strong=spec(second_dir)).rank(task).scores
    np.testing.assert_allclose(forward, -backward, atol=1e-12)
    assert np.abs(forward).min() > 0


def test_identical_models_score_zero(lm, tiny_model_dir):
    ranking = DensityRatio(weak=spec(tiny_model_dir)).rank(make_task(lm, make_pool(), [], []))
    np.testing.assert_array_equal(ranking.scores, np.zeros(16))


def test_both_tables_are_kept(lm, second_dir, tmp_path):
    task = talk_task(lm, tables=Tables(tmp_path))
    DensityRatio(weak=spec(second_dir)).rank(task)
    assert len(list(tmp_path.iterdir())) == 2
    # Other units, and the models the other way round, are read off the same two.
    DensityRatio(strong=spec(second_dir), per="byte").rank(task)
    assert len(list(tmp_path.iterdir())) == 2


# --- adapters -----------------------------------------------------------------------------------


@pytest.fixture
def safety_adapter(tiny_model_dir, tmp_path):
    """An adapter that was trained on the good answers of other prompts."""
    lm = load_model(spec(tiny_model_dir))
    model = add_lora(lm.model, LoraSpec(target_modules="all-linear"), seed=0)
    rows = make_safe(12)
    ids = torch.tensor(np.stack([row.input_ids for row in rows]), dtype=torch.int64)
    labels = ids.masked_fill(~torch.tensor(np.stack([row.response_mask for row in rows])), -100)
    optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=2e-2)
    for _ in range(20):
        optimizer.zero_grad()
        model(input_ids=ids, labels=labels).loss.backward()
        optimizer.step()
    model.save_pretrained(tmp_path / "adapter")
    return tmp_path / "adapter"


def test_a_safety_adapter_over_the_own_model_orders_good_above_planted(lm, safety_adapter):
    task = make_task(lm, make_pool(), make_safe(), [])
    scores = DensityRatio(strong_adapter=safety_adapter).rank(task).by_id()
    good = [score for key, score in scores.items() if key.startswith("good")]
    planted = [score for key, score in scores.items() if key.startswith("planted")]
    assert min(good) > max(planted)
    reverse = DensityRatio(weak_adapter=safety_adapter).rank(task).by_id()
    assert reverse == pytest.approx({key: -score for key, score in scores.items()})


def test_an_adapter_is_taken_off_again(lm, safety_adapter):
    task = make_task(lm, make_pool(), make_safe(), [])
    before = task.tables.losses(lm, task.pool).mean
    both = DensityRatio(strong_adapter=safety_adapter, weak_adapter=safety_adapter).rank(task)
    np.testing.assert_array_equal(both.scores, np.zeros(16))
    np.testing.assert_array_equal(task.tables.losses(lm, task.pool).mean, before)
    assert np.abs(both.columns["strong_loss"] - before).max() > 0.1


def test_an_adapter_has_the_table_of_the_model_loaded_with_it(
    tiny_model_dir, safety_adapter, tmp_path
):
    lm = load_model(spec(tiny_model_dir))
    tables = Tables(tmp_path / "tables")
    task = dataclasses.replace(make_task(lm, make_pool(), make_safe(), []), tables=tables)
    DensityRatio(strong_adapter=safety_adapter).rank(task)
    assert len(list((tmp_path / "tables").iterdir())) == 2
    merged = load_model(spec(tiny_model_dir), safety_adapter)
    tables.losses(merged, task.pool)
    assert len(list((tmp_path / "tables").iterdir())) == 2


def test_a_folder_without_an_adapter_is_refused(lm, tiny_model_dir):
    ranker = DensityRatio(weak_adapter=tiny_model_dir)
    with pytest.raises(ValueError, match=r"rank\.weak_adapter=.*: no adapter_config\.json"):
        ranker.rank(talk_task(lm))


def test_an_adapter_of_another_shape_is_refused(lm, safety_adapter):
    file = safety_adapter / "adapter_config.json"
    file.write_text(file.read_text().replace('"r": 16', '"r": 8'))
    with pytest.raises(ValueError, match=r"rank\.strong_adapter=.*cannot lay this adapter"):
        DensityRatio(strong_adapter=safety_adapter).rank(talk_task(lm))


# --- another tokenizer --------------------------------------------------------------------------


def test_another_tokenizer_is_compared_per_byte(lm, other_dir):
    weak = load_model(spec(other_dir))
    task = talk_task(lm)
    again = weak.encoder.encode(list(task.samples.values()), task.tokenization)
    assert all(len(a.input_ids) > len(b.input_ids) for a, b in zip(again, task.pool, strict=True))
    expected = {
        row.id: (log_p(lm.model, row) - log_p(weak.model, new)) / len(TALKS[row.id][1].encode())
        for row, new in zip(task.pool, again, strict=True)
    }
    scores = DensityRatio(weak=spec(other_dir), per="byte").rank(task).by_id()
    assert scores == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("per", ["token", "response"])
def test_another_tokenizer_is_refused_per_token(lm, other_dir, per):
    ranker = DensityRatio(strong=spec(other_dir), per=per)
    with pytest.raises(ValueError, match=rf"rank\.per={per}: .* rank\.strong .*rank\.per=byte"):
        ranker.rank(talk_task(lm))


def test_the_same_words_with_other_merges_are_another_tokenizer(lm, tiny_model_dir, tmp_path):
    """The vocabulary alone does not say how a text is cut."""
    twin = load_model(spec(tiny_model_dir))
    twin.model.save_pretrained(tmp_path)
    twin.tokenizer.save_pretrained(tmp_path)
    file = tmp_path / "tokenizer.json"
    state = twin.tokenizer.backend_tokenizer.to_str()
    start, end = state.index('"merges":['), state.rindex("]]") + 1
    file.write_text(state[:start] + '"merges":[' + state[end:])
    with pytest.raises(ValueError, match=r"cuts the pool's text into other tokens"):
        DensityRatio(weak=spec(tmp_path)).rank(talk_task(lm))


def test_the_same_text_with_other_special_tokens_is_another_tokenizer(lm, tiny_model_dir, tmp_path):
    twin = load_model(spec(tiny_model_dir))
    twin.model.save_pretrained(tmp_path)
    twin.tokenizer.save_pretrained(tmp_path)
    file = tmp_path / "tokenizer.json"
    text = file.read_text().replace("<|assistant|>", "<|x|>")
    file.write_text(text.replace("<|system|>", "<|assistant|>").replace("<|x|>", "<|system|>"))
    with pytest.raises(ValueError, match=r"cuts the pool's text into other tokens"):
        DensityRatio(weak=spec(tmp_path)).rank(talk_task(lm))


def test_another_template_does_not_matter_where_the_tokens_are_the_same(lm, second_dir, tmp_path):
    plain = DensityRatio(weak=spec(second_dir)).rank(talk_task(lm))
    template = tmp_path / "template.jinja"
    template.write_text("{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}{% endfor %}")
    other = spec(second_dir).model_copy(update={"chat_template": template})
    templated = DensityRatio(weak=other).rank(talk_task(lm))
    np.testing.assert_array_equal(templated.scores, plain.scores)


def test_a_row_that_the_other_model_cannot_encode_is_named(lm, other_dir):
    # 10 tokens of the run's tokenizer, 18 of the other one
    task = talk_task(lm, max_length=16)
    with pytest.raises(ValueError, match=r"rank\.weak: .* the first is c: the prompt's 18 tokens"):
        DensityRatio(weak=spec(other_dir), per="byte").rank(task)


def test_a_row_longer_than_the_other_models_context_is_named(lm, second_dir, tmp_path):
    second = load_model(spec(second_dir))
    second.model.config.max_position_embeddings = 8
    second.model.save_pretrained(tmp_path)
    second.tokenizer.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"rank\.weak: 3 of 3 samples are longer .* 8 tokens"):
        DensityRatio(weak=spec(tmp_path)).rank(talk_task(lm))


# --- settings -----------------------------------------------------------------------------------


def test_one_model_alone_is_refused():
    with pytest.raises(ValueError, match="strong and weak are both the run's own model"):
        DensityRatio()


def test_a_model_that_is_not_there_is_named(lm, tmp_path):
    with pytest.raises(ValueError, match=r"^rank\.weak: model\.path=.*: there is no such folder"):
        DensityRatio(weak=spec(tmp_path / "absent")).rank(talk_task(lm))


def test_order_of_the_pool_does_not_matter_with_another_tokenizer(lm, other_dir):
    task = talk_task(lm)
    ranker = DensityRatio(weak=spec(other_dir), per="byte")
    backward = dataclasses.replace(task, pool=task.pool[::-1])
    assert ranker.rank(backward).by_id() == pytest.approx(ranker.rank(task).by_id(), abs=1e-6)


def test_raw_rows_need_no_text_when_both_models_are_the_runs(lm, safety_adapter):
    row = encoded("x", [2, 60, 1, 3], [20, 21])
    ranking = DensityRatio(strong_adapter=safety_adapter).rank(RankingTask(lm, [row], make_safe()))
    assert np.isfinite(ranking.scores).all()
