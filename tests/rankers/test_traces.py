from dataclasses import replace

import numpy as np
import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from rankers.conftest import encoded
from seal.data.sample import Message, Sample
from seal.data.tokenize import ChatEncoder, Tokenization
from seal.rankers import traces
from seal.rankers.traces import OPENING, read_traces, refusal_ids
from seal.tables import Tables

ROWS = [
    encoded("short", [2, 60, 61, 1, 3], [20, 21, 1]),
    encoded("long", [2, 60, 61, 62, 63, 64, 1, 3], [30 + i for i in range(OPENING + 6)]),
    encoded("tiny", [2], [40]),
]


def straight(lm, row, refusals):
    """The traces of one row from the whole output of transformers, token by token."""
    ids = torch.tensor(row.input_ids[None].astype(np.int64))
    with torch.no_grad():
        output = lm.model(input_ids=ids, output_hidden_states=True)
    blocks = len(output.hidden_states) - 1
    response = np.flatnonzero(row.response_mask)
    states = []
    for pooled in ("last", "prompt", "response", "opening"):
        parts = []
        for layer in ((blocks - 1) // 2 + 1, blocks):
            values = output.hidden_states[layer][0].numpy()
            parts.append(
                {
                    "last": values[response[0] - 1],
                    "prompt": values[: response[0]].mean(axis=0),
                    "response": values[response].mean(axis=0),
                    "opening": values[response[:OPENING]].mean(axis=0),
                }[pooled]
            )
        states.append(np.concatenate(parts))
    log_p = output.logits[0].log_softmax(dim=-1).numpy()
    nll = -log_p[response - 1, row.input_ids[response]]
    odds = np.exp(log_p[response[0] - 1][list(refusals)]).sum()
    return np.stack(states), nll, np.log(odds / (1 - odds))


def test_traces_equal_the_whole_output_read_by_hand(lm):
    read = read_traces(lm, ROWS, Tables(), seed=0, what="reading")
    for place, row in enumerate(ROWS):
        states, nll, refusal = straight(lm, row, refusal_ids(lm))
        np.testing.assert_allclose(read.states[place], states, atol=2e-3)  # kept in half precision
        assert read.losses[place, 0] == pytest.approx(nll.mean(), abs=1e-4)
        assert read.losses[place, 1] == pytest.approx(nll[0], abs=1e-4)
        assert read.losses[place, 4] == pytest.approx(nll[:16].mean(), abs=1e-4)
        assert read.losses[place, 5] == pytest.approx(nll[-8:].mean(), abs=1e-4)
        assert read.losses[place, 6] == pytest.approx(nll.max(), abs=1e-4)
        assert read.losses[place, -1] == pytest.approx(np.log(len(nll)))
        assert read.refusal[place] == pytest.approx(refusal, abs=1e-4)


def test_traces_follow_the_order_asked_for(lm):
    straight_order = read_traces(lm, ROWS, Tables(), seed=0, what="reading")
    reversed_order = read_traces(lm, ROWS[::-1], Tables(), seed=0, what="reading")
    np.testing.assert_allclose(straight_order.losses, reversed_order.losses[::-1], atol=1e-5)


def test_the_three_looks_have_their_parts(lm):
    read = read_traces(lm, ROWS, Tables(), seed=0, what="reading")
    assert read.prompt().shape == (3, 2 * 2 * 16)  # states x layers x width
    assert read.response().shape == (3, 2 * 16 + 12)
    assert read.both().shape == (3, 4 * 2 * 16 + 12)


def test_wide_states_are_projected_alike_in_every_batch(lm, monkeypatch):
    monkeypatch.setattr(traces, "MOST_DIMENSIONS", 8)
    together = read_traces(lm, ROWS, Tables(), seed=0, what="reading")
    alone = read_traces(lm, ROWS[:1], Tables(), seed=0, what="reading")
    assert together.states.shape == (3, 4, 16)
    np.testing.assert_allclose(together.states[:1], alone.states, atol=2e-3)
    other = read_traces(lm, ROWS, Tables(), seed=1, what="reading")
    assert np.abs(other.states - together.states).max() > 0.1


def test_no_hook_is_left_on_the_model(lm):
    read_traces(lm, ROWS, Tables(), seed=0, what="reading")
    assert not any(module._forward_hooks for module in lm.model.modules())


def test_refusals_begin_with_the_tokens_of_this_tokenizer(lm):
    sample = Sample("x", (Message("user", "Hello."),), (Message("assistant", "I cannot"),))
    (row,) = lm.encoder.encode([sample], Tokenization())
    assert int(row.input_ids[row.response_mask][0]) in refusal_ids(lm)


TINY = {"vocab_size": 320, "hidden_size": 16, "num_hidden_layers": 4, "num_attention_heads": 2}
VISION = {"num_hidden_layers": 6, "image_size": 28, "patch_size": 14, "intermediate_size": 32}
ARCHITECTURES = {
    "gpt2": {"vocab_size": 320, "n_embd": 16, "n_layer": 4, "n_head": 2},
    "gemma2": {**TINY, "head_dim": 8, "num_key_value_heads": 2},
    "qwen3_moe": {**TINY, "num_experts": 8, "moe_intermediate_size": 8, "num_key_value_heads": 2},
    "phi": {**TINY, "intermediate_size": 32},
    # its model runs model.decoder, never model
    "opt": {**TINY, "ffn_dim": 32, "word_embed_proj_dim": 16},
    # its longest list of blocks is the other tower's, which does not run
    "gemma3": {
        "text_config": {**TINY, "head_dim": 8, "num_key_value_heads": 2},
        "vision_config": {**VISION, "hidden_size": 16, "num_attention_heads": 2},
    },
}


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_the_right_blocks_are_read_whatever_the_architecture(lm, name):
    config = AutoConfig.for_model(name, pad_token_id=0, **ARCHITECTURES[name])
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_config(config).eval()
    other = replace(lm, model=model)
    read = read_traces(other, ROWS, Tables(), seed=0, what="reading")
    for place, row in enumerate(ROWS):
        states, nll, _ = straight(other, row, refusal_ids(other))
        np.testing.assert_allclose(read.states[place], states, atol=4e-3)
        assert read.losses[place, 0] == pytest.approx(nll.mean(), abs=1e-3)


def test_states_beyond_half_precision_stay_finite(lm):
    plain = read_traces(lm, ROWS, Tables(), seed=0, what="reading")

    def enlarge(_module, _args, output):
        return output * 1e7

    hook = lm.model.model.layers[0].register_forward_hook(enlarge)
    try:
        large = read_traces(lm, ROWS, Tables(), seed=0, what="reading")
    finally:
        hook.remove()
    middle = large.states[:, :, :16]
    assert np.abs(middle).max() == np.finfo(np.float16).max
    np.testing.assert_array_equal(np.sign(middle), np.sign(plain.states[:, :, :16]))


def test_what_stands_on_the_padding_does_not_matter(lm):
    plain = read_traces(lm, ROWS, Tables(), seed=0, what="reading")

    def poison(_module, _args, output):
        return output.masked_fill(padding[:, :, None], float("nan"))

    longest = max(len(row.input_ids) for row in ROWS)
    width = [longest - len(row.input_ids) for row in sorted(ROWS, key=lambda r: -len(r.input_ids))]
    padding = torch.arange(longest)[None] < torch.tensor(width)[:, None]
    hook = lm.model.model.norm.register_forward_hook(poison)
    try:
        poisoned = read_traces(lm, ROWS, Tables(), seed=0, what="reading")
    finally:
        hook.remove()
    np.testing.assert_array_equal(poisoned.states, plain.states)


def test_a_template_that_refuses_the_question_leaves_the_tokenizers_word(lm):
    strict = "{{ raise_exception('a system prompt is missing') }}"
    other = replace(lm, encoder=ChatEncoder(lm.tokenizer, template=strict))
    found = refusal_ids(other)
    for text in ("I cannot", " Sorry"):
        assert lm.tokenizer(text, add_special_tokens=False)["input_ids"][0] in found
    assert np.isfinite(read_traces(other, ROWS, Tables(), seed=0, what="reading").refusal).all()
