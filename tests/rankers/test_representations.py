import numpy as np
import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from rankers.conftest import encoded
from reference.representation_rankers import hidden_states, last_block_output
from seal.blocks import decoder_blocks
from seal.data.batches import collate
from seal.models import LanguageModel, LoraSpec, add_lora
from seal.padding import needs_even_rows
from seal.rankers.ranker import RankingTask
from seal.rankers.representations import (
    BlockStates,
    FinalStates,
    block_states,
    cosines,
    final_states,
    pool_tokens,
    token_weights,
    top_mean,
)
from seal.tables import Tables

# Of unequal lengths, so that two of them are padded in a batch.
RAGGED = [
    encoded("b", [2, 60, 1, 3], [20, 21, 22, 1]),
    encoded("a", [2, 60, 61, 62, 63, 64, 1, 3], [30, 1]),
    encoded("c", [2, 3], [9] * 17),
]
SMALL = {"hidden_size": 16, "num_hidden_layers": 4, "num_attention_heads": 2, "vocab_size": 128}
GROUPED = {**SMALL, "num_key_value_heads": 1, "intermediate_size": 32}
EXPERTS = {"num_local_experts": 4, "num_experts": 4, "num_experts_per_tok": 2}
ARCHITECTURES = {
    "llama": GROUPED,
    "qwen2": GROUPED,
    "qwen3": GROUPED,
    "gemma": {**GROUPED, "head_dim": 8},
    "gemma2": {**GROUPED, "head_dim": 8},
    "gemma3_text": {**GROUPED, "head_dim": 8},
    "mistral": GROUPED,
    "mixtral": {**GROUPED, **EXPERTS},
    "phi3": {**GROUPED, "pad_token_id": 0},
    "gpt2": {"n_embd": 16, "n_layer": 4, "n_head": 2, "vocab_size": 128},
    "gpt_neox": {**SMALL, "intermediate_size": 32},
    "bloom": {"hidden_size": 16, "n_layer": 4, "n_head": 2, "vocab_size": 128},
}


def make_lm(kind="llama"):
    """A random model with weights so large that every block changes its input."""
    special = {"bos_token_id": 1, "eos_token_id": 1}
    config = AutoConfig.for_model(
        kind, **{"initializer_range": 0.3, **special, **ARCHITECTURES[kind]}
    )
    torch.manual_seed(0)
    return LanguageModel(AutoModelForCausalLM.from_config(config).eval(), None, None, pad_id=0)


def make_task(lm, tables=None):
    return RankingTask(lm, RAGGED, [], tables=tables or Tables())


@pytest.mark.parametrize("kind", ARCHITECTURES)
def test_states_are_those_of_the_full_forward(kind):
    lm = make_lm(kind)
    found = block_states(make_task(lm), RAGGED, range(4), what="")
    final = final_states(make_task(lm), RAGGED, what="")
    for place, row in enumerate(RAGGED):
        full = hidden_states(lm.model, row)
        for block in range(3):  # the last one's output is not in hidden_states
            np.testing.assert_allclose(found[block][place], full[block + 1][-1], atol=1e-5)
        np.testing.assert_allclose(final[place], full[-1][-1], atol=1e-5)
        assert not np.allclose(found[1][place], full[1][-1], atol=1e-3)  # blocks do differ


def test_equal_to_the_full_forward_to_1e_6():
    """The same batch, so that not even the order of summation differs."""
    lm = make_lm()
    batch = collate(RAGGED, 0)
    with torch.no_grad():
        full = lm.model(
            input_ids=batch.input_ids,
            attention_mask=batch.attention_mask,
            position_ids=batch.position_ids,
            output_hidden_states=True,
        ).hidden_states
        rows = BlockStates(blocks=(0, 2)).read(lm, batch)
        final = FinalStates().read(lm, batch)
    for place in range(3):
        assert rows[place].keys() == {"0", "2"}
        for block in (0, 2):
            np.testing.assert_allclose(
                rows[place][str(block)], full[block + 1][place, -1], atol=1e-6
            )
        np.testing.assert_allclose(final[place]["final"], full[4][place, -1], atol=1e-6)


def test_the_last_block_is_read_before_the_final_norm():
    lm = make_lm()
    found = block_states(make_task(lm), RAGGED, [3], what="")[3]
    final = final_states(make_task(lm), RAGGED, what="")
    for place, row in enumerate(RAGGED):
        expected = last_block_output(lm.model, row)[-1]
        np.testing.assert_allclose(found[place], expected, atol=1e-5)
    assert not np.allclose(found, final, atol=1e-2)


def count_runs(modules):
    """How often each module is run from now on."""
    runs = [0] * len(modules)

    def count(place):
        def hook(*_):
            runs[place] += 1

        modules[place].register_forward_pre_hook(hook)

    for place in range(len(modules)):
        count(place)
    return runs


@pytest.mark.parametrize("block", range(4))
def test_no_block_after_the_deepest_is_run(block):
    lm = make_lm()
    needs_even_rows(lm.model)  # tried once, before anything is counted
    runs = count_runs([*lm.model.model.layers, lm.model.model.norm, lm.model.lm_head])
    block_states(make_task(lm), RAGGED, {0, block}, what="")
    assert runs == [1] * (block + 1) + [0] * (5 - block)


def test_the_head_is_not_run():
    lm = make_lm()
    needs_even_rows(lm.model)
    runs = count_runs([*lm.model.model.layers, lm.model.model.norm])
    lm.model.lm_head.forward = None  # would raise
    final_states(make_task(lm), RAGGED, what="")
    assert runs == [1] * 5


def test_an_adapter_counts_and_the_pass_ends_as_early():
    lm = make_lm()
    plain = block_states(make_task(lm), RAGGED, [1], what="")[1]
    merged = add_lora(lm.model, LoraSpec(r=2), seed=0)
    for name, weight in merged.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight, std=0.5)
    lm = LanguageModel(merged.eval(), None, None, pad_id=0)
    runs = count_runs(list(decoder_blocks(merged)))
    adapted = block_states(make_task(lm), RAGGED, [1], what="")[1]
    assert runs == [1, 1, 0, 0]
    assert not np.allclose(plain, adapted, atol=1e-2)
    final = final_states(make_task(lm), RAGGED, what="")
    for place, row in enumerate(RAGGED):
        full = hidden_states(merged, row)
        np.testing.assert_allclose(adapted[place], full[2][-1], atol=1e-5)
        np.testing.assert_allclose(final[place], full[-1][-1], atol=1e-5)


def test_no_hook_is_left_behind():
    lm = make_lm()
    block_states(make_task(lm), RAGGED, [0, 2], what="")
    final_states(make_task(lm), RAGGED, what="")
    batch = collate(RAGGED, 0)
    assert lm.model(input_ids=batch.input_ids).logits.shape == (3, 19, 128)


def test_no_hook_is_left_behind_by_a_pass_that_fails():
    lm = make_lm()
    beyond = encoded("x", [2, 5000], [1])  # no such token
    for read in (lambda: block_states(make_task(lm), [beyond], [0], what=""),
                 lambda: final_states(make_task(lm), [beyond], what="")):  # fmt: skip
        with pytest.raises(IndexError):
            read()
    assert lm.model(input_ids=torch.tensor([[2, 3]])).logits.shape == (1, 2, 128)


@pytest.mark.parametrize("position", ["last", "first_response", "response_mean", "weighted_mean"])
def test_every_position_by_hand_whatever_the_padding(position):
    lm = make_lm()
    found = block_states(make_task(lm), RAGGED, [1], position, what="")[1]
    final = final_states(make_task(lm), RAGGED, position, what="")
    for place, row in enumerate(RAGGED):
        full = hidden_states(lm.model, row)
        start = int(row.response_mask.argmax())
        ranks = np.arange(1, len(row.input_ids) + 1)
        for vectors, states in ((found, full[2]), (final, full[-1])):
            expected = {
                "last": states[-1],
                "first_response": states[start - 1],
                "response_mean": states[start:].mean(axis=0),
                "weighted_mean": (ranks[:, None] * states).sum(axis=0) / ranks.sum(),
            }
            np.testing.assert_allclose(vectors[place], expected[position], atol=1e-5)


def test_weights_by_hand():
    batch = collate([encoded("a", [5], [6, 7]), encoded("b", [5, 6, 7], [8])], 0)
    by_position = {
        "last": [[0, 0, 0, 1], [0, 0, 0, 1]],
        "first_response": [[0, 1, 0, 0], [0, 0, 1, 0]],
        "response_mean": [[0, 0, 0.5, 0.5], [0, 0, 0, 1]],
        "weighted_mean": [[0, 1 / 6, 2 / 6, 3 / 6], [0.1, 0.2, 0.3, 0.4]],
    }
    for position, expected in by_position.items():
        np.testing.assert_allclose(token_weights(batch, position), expected, atol=1e-7)


def test_a_row_without_prompt_has_its_first_token_for_the_prompts_last():
    batch = collate([encoded("a", [], [6, 7]), encoded("b", [5, 6, 7], [8])], 0)
    assert token_weights(batch, "first_response")[0].tolist() == [0, 0, 1, 0]


def test_worked_example_of_rds():
    """Of (1, 0), (0, 1), (0, 1), with weights 1/6, 2/6, 3/6; .1961 and .9806 of unit length."""
    states = torch.tensor([[[1.0, 0.0], [0.0, 1.0], [0.0, 1.0]]])
    batch = collate([encoded("a", [5], [6, 7])], 0)
    vector = pool_tokens(states, token_weights(batch, "weighted_mean"))
    np.testing.assert_allclose(vector, [[1 / 6, 5 / 6]], atol=1e-6)
    np.testing.assert_allclose(cosines(vector, np.eye(2)), [[0.1961, 0.9806]], atol=1e-4)


def test_what_padding_holds_does_not_matter():
    states = torch.ones(2, 4, 3, dtype=torch.bfloat16)
    states[0, 0] = float("nan")
    batch = collate([encoded("a", [5], [6, 7]), encoded("b", [5, 6, 7], [8])], 0)
    pooled = pool_tokens(states, token_weights(batch, "weighted_mean"))
    assert pooled.dtype == np.float32
    np.testing.assert_allclose(pooled, np.ones((2, 3)), atol=1e-6)


def test_rows_are_in_the_order_asked_for_and_kept_on_disk(tmp_path):
    lm = make_lm()
    named = LanguageModel(lm.model, None, None, 0, identity={"name": "tiny"})
    first = block_states(make_task(named, Tables(tmp_path)), RAGGED, [1], what="")[1]
    np.testing.assert_array_equal(first, block_states(make_task(lm), RAGGED, [1], what="")[1])
    lm.model.model.layers[0].forward = None  # the second time nothing is run
    again = block_states(make_task(named, Tables(tmp_path)), RAGGED[::-1], [1], what="")[1]
    np.testing.assert_array_equal(again, first[::-1])


def test_a_model_without_a_list_of_blocks_is_refused():
    lm = make_lm()
    lm.model.config.num_hidden_layers = 7
    with pytest.raises(ValueError, match="LlamaForCausalLM has no list of 7 blocks"):
        decoder_blocks(lm.model)


def test_experts_are_not_taken_for_blocks():
    lm = make_lm()
    blocks = lm.model.model.layers
    for block in blocks:
        block.experts = torch.nn.ModuleList(torch.nn.Linear(8, 8) for _ in blocks)
    lm.model.tower = torch.nn.ModuleList(torch.nn.Linear(2, 2) for _ in blocks)
    assert decoder_blocks(lm.model) is blocks


def test_cosines_by_hand():
    vectors = np.array([[3, 4], [0, 2], [0, 0]], dtype=np.float32)
    expected = [[0.6, 0.8, -0.6], [0, 1, 0], [0, 0, 0]]
    anchors = np.array([[9, 0], [0, 1], [-1, 0]], dtype=np.float32)
    np.testing.assert_allclose(cosines(vectors, anchors), expected, atol=1e-12)
    assert cosines(vectors, anchors).dtype == np.float64


def test_cosines_of_many_rows_are_those_of_each():
    vectors = np.random.default_rng(0).normal(size=(9001, 3)).astype(np.float32)
    found = cosines(vectors, vectors[:2])
    assert found.shape == (9001, 2)
    for place in (0, 4095, 4096, 9000):
        np.testing.assert_allclose(found[place], cosines(vectors[[place]], vectors[:2])[0])


def test_top_mean_by_hand():
    values = np.array([[0.9, 0.1, 0.2], [0.6, 0.6, 0.0]])
    np.testing.assert_allclose(top_mean(values, 1), [0.9, 0.6])
    np.testing.assert_allclose(top_mean(values, 2), [0.55, 0.6])
    np.testing.assert_allclose(top_mean(values, 3), values.mean(axis=1))
