"""Generation: batching, stopping, and what a checkpoint may not change."""

from __future__ import annotations

import json
import re
import shutil
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from pydantic import ValidationError
from transformers import AddedToken, MambaConfig, MambaForCausalLM

from seal import generation
from seal.data.sample import Message
from seal.data.tokenize import ChatEncoder
from seal.generation import (
    Decoding,
    checked_prompt_ids,
    context_length,
    generate,
    generate_answers,
    generate_batches,
)
from seal.models import LoraSpec, ModelSpec, add_lora, load_model
from tiny_model import make_tokenizer

TEXTS = ["Hi", "What is the capital of France?", "abc " * 20, "Zebra", "x", "How do I boil an egg?"]
PROMPTS = [(Message("user", text),) for text in TEXTS]


@pytest.fixture(scope="module")
def lm(lively_dir):
    return load_model(ModelSpec(path=str(lively_dir), device="cpu"))


def straight_line_ids(lm, prompt, steps):
    """Greedy decoding without cache, batch or padding."""
    [ids] = lm.encoder.prompt_ids([prompt])
    response = []
    for _ in range(steps):
        with torch.no_grad():
            logits = lm.model(input_ids=torch.tensor([ids + response])).logits[0, -1]
        token = int(logits.argmax())
        if token in lm.encoder.stop_ids:
            break
        response.append(token)
    return response


def straight_line(lm, prompt, steps):
    return lm.tokenizer.decode(straight_line_ids(lm, prompt, steps), skip_special_tokens=True)


class StopsAt(ChatEncoder):
    """An encoder that stops elsewhere."""

    def __init__(self, encoder, stop_ids):
        self._encoder, self._stop_ids = encoder, stop_ids

    @property
    def stop_ids(self):
        return self._stop_ids

    def prompt_ids(self, prompts):
        return self._encoder.prompt_ids(prompts)


def test_greedy_is_the_likeliest_token_each_time(lm):
    found = generate(lm, PROMPTS, Decoding(max_new_tokens=12))
    assert found == [straight_line(lm, prompt, 12) for prompt in PROMPTS]
    assert len(set(found)) > 3  # the model tells prompts apart, or this shows nothing


@pytest.mark.parametrize("options", [{}, {"repetition_penalty": 1.5}, {"temperature": 1.0}])
def test_the_batch_size_changes_no_response(lm, options):
    one = generate(lm, PROMPTS, Decoding(max_new_tokens=12, batch_size=1, **options))
    for size in (2, 4, 32):
        assert generate(lm, PROMPTS, Decoding(max_new_tokens=12, batch_size=size, **options)) == one


@pytest.mark.parametrize("options", [{}, {"temperature": 1.0}])
def test_responses_come_in_the_order_of_the_prompts(lm, options):
    decoding = Decoding(max_new_tokens=8, batch_size=2, **options)
    backwards = generate(lm, PROMPTS[::-1], decoding)
    assert backwards[::-1] == generate(lm, PROMPTS, decoding)


def test_no_prompts_give_no_responses(lm):
    assert generate(lm, [], Decoding()) == []


@pytest.mark.parametrize("batch_size", [1, 6])
def test_a_response_ends_before_the_first_stop_token(lm, batch_size):
    whole = generate(lm, PROMPTS, Decoding(max_new_tokens=12))
    stop = straight_line_ids(lm, PROMPTS[0], 12)[3]
    # A response that is done is filled with the pad token: a byte that must not show.
    [pad] = lm.tokenizer.encode("!", add_special_tokens=False)
    other = replace(lm, encoder=StopsAt(lm.encoder, (stop,)), pad_id=pad)
    found = generate(other, PROMPTS, Decoding(max_new_tokens=12, batch_size=batch_size))
    assert found == [straight_line(other, prompt, 12) for prompt in PROMPTS]
    assert len(found[0]) < len(whole[0])


def test_without_stop_tokens_a_response_has_full_length(lm):
    other = replace(lm, encoder=StopsAt(lm.encoder, ()))
    assert generate(other, PROMPTS[:1], Decoding(max_new_tokens=5)) == [
        straight_line(other, PROMPTS[0], 5)
    ]


def hostile_checkpoint(lively_dir, folder):
    """The same model with a generation_config.json that changes what plain `generate` does."""
    shutil.copytree(lively_dir, folder)
    settings = {
        "do_sample": True,
        "temperature": 5.0,
        "top_k": 3,
        "repetition_penalty": 9.0,
        "no_repeat_ngram_size": 1,
        "max_length": 3,
        "min_new_tokens": 11,
        "num_beams": 3,
        "suppress_tokens": list(range(5, 200)),
        "eos_token_id": list(range(200)),
    }
    (folder / "generation_config.json").write_text(json.dumps(settings))
    return load_model(ModelSpec(path=str(folder), device="cpu"))


@pytest.mark.parametrize("options", [{}, {"temperature": 0.7, "top_p": 0.9}])
def test_a_checkpoints_own_generation_settings_change_nothing(lm, lively_dir, tmp_path, options):
    other = hostile_checkpoint(lively_dir, tmp_path / "hostile")
    own = other.model.generation_config
    # What the trap is made of must be there, or this test shows nothing.
    assert (own.repetition_penalty, own.no_repeat_ngram_size, own.max_length) == (9.0, 1, 3)
    other = replace(other, encoder=StopsAt(other.encoder, lm.encoder.stop_ids))
    decoding = Decoding(max_new_tokens=12, **options)
    assert generate(other, PROMPTS, decoding) == generate(lm, PROMPTS, decoding)
    assert other.model.generation_config is own


def test_the_trap_above_would_change_plain_generate(lively_dir, tmp_path):
    other = hostile_checkpoint(lively_dir, tmp_path / "hostile")
    ids = torch.tensor(other.encoder.prompt_ids(PROMPTS[:1]))
    plain = other.model.generate(input_ids=ids, do_sample=False, max_new_tokens=12, pad_token_id=0)
    text = other.tokenizer.decode(plain[0, ids.shape[1] :], skip_special_tokens=True)
    assert text != straight_line(other, PROMPTS[0], 12)


def test_a_checkpoints_own_settings_are_put_back_after_an_error(lm, monkeypatch):
    own = lm.model.generation_config

    def fail(*_args, **_options):
        raise RuntimeError("out of memory")

    monkeypatch.setattr(lm.model, "generate", fail)
    with pytest.raises(RuntimeError, match="out of memory"):
        generate(lm, PROMPTS, Decoding())
    assert lm.model.generation_config is own


@pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing:FutureWarning")  # PEFT 0.21
def test_a_model_with_an_adapter_generates_with_it(lively_dir, tmp_path):
    lm = hostile_checkpoint(lively_dir, tmp_path / "hostile")
    before = generate(lm, PROMPTS, Decoding(max_new_tokens=12))
    adapted = add_lora(lm.model, LoraSpec(r=4), seed=0)
    torch.nn.init.constant_(
        adapted.base_model.model.model.layers[0].self_attn.v_proj.lora_B["default"].weight, 0.5
    )
    other = replace(lm, model=adapted.eval())
    after = generate(other, PROMPTS, Decoding(max_new_tokens=12))
    assert after == [straight_line(other, prompt, 12) for prompt in PROMPTS]
    assert after != before


def test_sampling_depends_on_the_seed_alone_and_leaves_the_global_generators(lm):
    decoding = Decoding(max_new_tokens=12, temperature=1.0)
    torch.manual_seed(1)
    before = torch.get_rng_state(), np.random.get_state()[1].copy()
    first = generate(lm, PROMPTS, decoding)
    assert torch.equal(torch.get_rng_state(), before[0])
    assert np.array_equal(np.random.get_state()[1], before[1])
    torch.manual_seed(2)
    assert generate(lm, PROMPTS, decoding) == first
    assert generate(lm, PROMPTS, decoding.model_copy(update={"seed": 1})) != first
    assert first != generate(lm, PROMPTS, Decoding(max_new_tokens=12))


def first_tokens(lm, num_seeds, **options):
    texts = []
    for seed in range(num_seeds):
        decoding = Decoding(max_new_tokens=1, temperature=1.0, seed=seed, **options)
        texts += generate(lm, PROMPTS[:1], decoding)
    return texts


def test_sampled_tokens_have_the_models_probabilities(lm):
    ids = torch.tensor(lm.encoder.prompt_ids(PROMPTS[:1]))
    with torch.no_grad():
        probabilities = lm.model(input_ids=ids).logits[0, -1].softmax(0)
    # Many tokens of this model are half a character and look alike: compare by text.
    expected = Counter()
    for token, probability in enumerate(probabilities.tolist()):
        expected[lm.tokenizer.decode([token], skip_special_tokens=True)] += probability
    found = Counter(first_tokens(lm, 300))
    assert len(found) > 10
    for text, share in expected.most_common(8):
        error = (share * (1 - share) / 300) ** 0.5
        assert found[text] / 300 == pytest.approx(share, abs=4 * error)


def test_a_small_top_p_leaves_only_the_likeliest(lm):
    assert set(first_tokens(lm, 20, top_p=1e-6)) == {straight_line(lm, PROMPTS[0], 1)}


def test_a_low_temperature_is_nearly_greedy(lm):
    sampled = generate(lm, PROMPTS, Decoding(max_new_tokens=6, temperature=1e-4))
    assert sampled == generate(lm, PROMPTS, Decoding(max_new_tokens=6))


def test_a_repetition_penalty_does_something(lm):
    with_penalty = generate(lm, PROMPTS, Decoding(max_new_tokens=12, repetition_penalty=3.0))
    assert with_penalty != generate(lm, PROMPTS, Decoding(max_new_tokens=12))


def test_prompts_that_do_not_fit_are_named(lm):
    assert context_length(lm) == 512
    [[*prompt]] = lm.encoder.prompt_ids([(Message("user", "Q" * 390),)])
    fits = 512 - len(prompt)
    prompts = [*PROMPTS[:2], (Message("user", "Q" * 390),)]
    generate(lm, prompts, Decoding(max_new_tokens=fits))
    message = (
        rf"^prompt 3 of 3 has {len(prompt)} tokens; with max_new_tokens={fits + 1} the model's "
        rf"context of 512 tokens holds prompts of up to {len(prompt) - 1} tokens. 1 of 3 prompts "
        "are too long: lower max_new_tokens"
    )
    with pytest.raises(ValueError, match=message):
        generate(lm, prompts, Decoding(max_new_tokens=fits + 1))
    names = ["p.csv:2", "p.csv:3", "p.csv:4"]
    with pytest.raises(ValueError, match=r"prompt 3 of 3 \(p.csv:4\) has"):
        generate(lm, prompts, Decoding(max_new_tokens=fits + 1), names=names)


def test_a_model_without_a_limit_has_no_context_length(lm):
    config = MambaConfig(vocab_size=8, hidden_size=8, state_size=2, num_hidden_layers=1)
    with torch.random.fork_rng(devices=[]):
        recurrent = MambaForCausalLM(config)
    assert context_length(replace(lm, model=recurrent)) is None


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"top_p": 0.9}, "top_p=0.9 has no effect with temperature=0.*Set a temperature above 0"),
        ({"temperature": -1.0}, "greater than or equal to 0"),
        ({"temperature": float("inf")}, "finite number"),
        ({"max_new_tokens": 0}, "greater than or equal to 1"),
        ({"top_k": 5}, "Extra inputs are not permitted"),
    ],
)
def test_settings_that_cannot_be(options, message):
    with pytest.raises(ValidationError, match=message):
        Decoding(**options)


def test_the_papers_decoding_in_the_docs_is_one_that_can_be_set():
    page = Path(__file__).parents[1].joinpath("docs", "generation.md").read_text("utf-8")
    [example] = re.findall(r"```yaml\n(evaluate:\n  decoding:.*?)```", page, re.DOTALL)
    decoding = Decoding(**yaml.safe_load(example)["evaluate"]["decoding"])
    # What the paper's generation script sets.
    assert (decoding.temperature, decoding.top_p, decoding.repetition_penalty) == (1.0, 0.9, 1.2)
    assert decoding.max_new_tokens == 2048


def test_leaving_out_the_batches_that_are_done_leaves_the_others_as_they_are(lm, monkeypatch):
    asked = []
    real = generation._generate_batch

    def spy(lm, prompt_ids, decoding):
        asked.append(prompt_ids)
        return real(lm, prompt_ids, decoding)

    monkeypatch.setattr(generation, "_generate_batch", spy)
    decoding = Decoding(max_new_tokens=2, batch_size=2)
    prompt_ids = checked_prompt_ids(lm, PROMPTS, decoding)
    batches = list(generate_batches(lm, prompt_ids, decoding))
    assert sorted(place for places, _ in batches for place in places) == list(range(len(PROMPTS)))
    whole = asked[:]
    del asked[:]
    done = batches[0][0]
    rest = [ids for place, ids in enumerate(prompt_ids) if place not in done]
    texts = [texts for _, texts in generate_batches(lm, rest, decoding)]
    assert asked == whole[1:]
    assert texts == [texts for _, texts in batches[1:]]


def test_a_response_keeps_the_special_tokens_that_mark_its_reasoning(lm):
    """They would vanish with the other special tokens, and the reasoning would be the answer."""
    tokenizer = make_tokenizer()
    tokenizer.add_tokens([AddedToken(mark, special=True) for mark in ("<think>", "</think>")])
    marked = replace(lm, tokenizer=tokenizer, encoder=ChatEncoder(tokenizer))
    text = "<|user|><think>No.</think><|system|>Yes, I do."
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    assert generation._text(marked, ids) == "<think>No.</think>Yes, I do."
    plain = replace(lm, tokenizer=tokenizer, encoder=ChatEncoder(tokenizer, reasoning_marks=()))
    assert generation._text(plain, ids) == tokenizer.decode(ids, skip_special_tokens=True)


def test_an_answer_without_a_stop_token_was_cut(lm):
    prompt_ids = checked_prompt_ids(lm, PROMPTS, Decoding(max_new_tokens=12))
    found = {}
    for places, answers in generate_answers(lm, prompt_ids, Decoding(max_new_tokens=12)):
        found.update(zip(places, answers, strict=True))
    lengths = [len(straight_line_ids(lm, prompt, 12)) for prompt in PROMPTS]
    assert [found[place].is_cut for place in range(len(PROMPTS))] == [n == 12 for n in lengths]


def test_a_response_ends_before_the_text_that_the_template_ends_it_with(lm):
    decoding = Decoding(max_new_tokens=8)
    free = replace(lm, encoder=StopsAt(lm.encoder, ()))
    (whole,) = generate(free, PROMPTS[:1], decoding)
    assert len(whole) > 2
    ending = StopsAt(lm.encoder, ())
    ending.end_text = whole[1:3]
    cut = generate(replace(lm, encoder=ending), PROMPTS[:1], decoding)
    assert cut == [whole[: whole.index(whole[1:3])]]


def drawn(draws, scores, length):
    """The token that is drawn for each row, with prompts of 3 tokens and `length` in all."""
    processor = generation._Draw(torch.tensor(draws, dtype=torch.float64), 3)
    forced = processor(torch.zeros(len(draws), length, dtype=torch.long), torch.tensor(scores))
    assert (forced == 0).sum(dim=1).tolist() == [1] * len(draws)
    return forced.argmax(dim=1).tolist()


def test_each_new_token_takes_a_number_of_its_own():
    quarters = [[0.0] * 4] * 2
    draws = [[0.1, 0.3, 0.6, 0.9], [0.9, 0.6, 0.3, 0.1]]
    found = [drawn(draws, quarters, 3 + step) for step in range(4)]
    assert found == [[0, 3], [1, 2], [2, 1], [3, 0]]


def test_a_token_without_probability_is_never_drawn():
    assert drawn([[0.0]], [[-torch.inf, 0.0, 0.0]], 3) == [1]
    assert drawn([[0.5]], [[0.0, -torch.inf, 0.0]], 3) == [2]
    assert drawn([[1 - 2**-53]], [[0.0, 0.0, -torch.inf]], 3) == [1]


def test_the_numbers_of_a_prompt_are_its_own():
    """Equal ones for all prompts would tie the samples of an evaluation together."""
    decoding = Decoding(max_new_tokens=4, temperature=1.0)
    many = np.array([generation._uniforms([7, place], decoding) for place in range(200)])
    assert np.unique(many).size == many.size
    assert abs(np.corrcoef(many.T)[np.triu_indices(4, 1)]).max() < 0.3
    assert many.mean() == pytest.approx(0.5, abs=0.05)
