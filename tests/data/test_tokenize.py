import re

import numpy as np
import pytest
from pydantic import ValidationError

from seal.data.sample import Message, Sample, content_id
from seal.data.tokenize import (
    ChatEncoder,
    Encoded,
    Span,
    Tokenization,
    response_mask,
)

# The prompt ends in a blank, which merges with the response's first word.
BLANK = (
    "{% for m in messages %}{% if m['role'] == 'user' %}Human: {{ m['content'] }}\nAssistant: "
    "{% else %}{{ m['content'] }}</s>{% endif %}{% endfor %}"
)
CHATML = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
TRIMMING = CHATML.replace("{{ m['content'] }}", "{{ m['content'] | trim }}")
# As in Qwen3: the last assistant turn opens with an empty think block, those before it do not.
THINKING = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n"
    "{% if m['role'] == 'assistant' and loop.last %}<think>\n\n</think>\n\n{% endif %}"
    "{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n"
    "{% if no_think is defined %}<think>\n\n</think>\n\n{% endif %}{% endif %}"
)
LLAMA2 = (
    "{% for m in messages %}{% if m['role'] == 'user' %}<s>[INST] {{ m['content'] }} [/INST]"
    "{% else %} {{ m['content'] }} </s>{% endif %}{% endfor %}"
)
# No end-of-turn token: the next special token opens the next turn.
ROLES_ONLY = (
    "{% for m in messages %}<|{{ m['role'] }}|>\n{{ m['content'] }}\n{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>\n{% endif %}"
)
PLAIN = (
    "{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}\n{% endfor %}"
    "{% if add_generation_prompt %}assistant: {% endif %}"
)
QUESTION = "Name a colour."
WIDE = Tokenization()


def sample(*contents, num_prompt=1, system=None):
    """Turns of user and assistant by turns; the completion starts after `num_prompt` of them."""
    roles = ["user", "assistant"] * len(contents)
    turns = tuple(Message(role, content) for role, content in zip(roles, contents, strict=False))
    prompt, completion = turns[:num_prompt], turns[num_prompt:]
    if system is not None:
        prompt = (Message("system", system), *prompt)
    return Sample(content_id(prompt, completion), prompt, completion)


def encode(tokenizer, template, *contents, **kwargs):
    (result,) = ChatEncoder(tokenizer, template=template).encode(
        [sample(*contents, **kwargs)], WIDE
    )
    return result


def split(tokenizer, encoded):
    """The tokens outside and inside the responses, in order."""
    tokens = tokenizer.convert_ids_to_tokens(encoded.input_ids.tolist())
    pairs = list(zip(tokens, encoded.response_mask.tolist(), strict=True))
    return [t for t, inside in pairs if not inside], [t for t, inside in pairs if inside]


def response(tokenizer, template, *contents, **kwargs):
    """The text of the response tokens."""
    encoded = encode(tokenizer, template, *contents, **kwargs)
    return tokenizer.decode(encoded.input_ids[encoded.response_mask].tolist())


# --- the first response token ---


@pytest.mark.parametrize("kind", ["byte_level", "trimmed", "metaspace"])
def test_the_first_token_counts_where_it_merges_with_the_prompts_blank(kind, request):
    tokenizer = request.getfixturevalue(kind)
    encoded = encode(tokenizer, BLANK, QUESTION, "Sure, it is red.")
    outside, inside = split(tokenizer, encoded)
    mark = "\u2581" if kind == "metaspace" else "\u0120"
    assert inside[0].startswith(f"{mark}Sure")
    assert inside[-1] == "</s>"
    assert "".join(inside).replace(mark, " ") == " Sure, it is red.</s>"
    assert "".join(outside).replace(mark, " ").lstrip().endswith("Assistant:")
    # Tokenizing the prompt alone, as the published code does, gives one token more than that.
    alone = tokenizer(f"Human: {QUESTION}\nAssistant: ", add_special_tokens=False)["input_ids"]
    assert len(alone) == len(outside) + 1
    assert not encoded.response_mask[: len(outside)].any()


def test_tokens_of_a_whole_sample(byte_level):
    encoded = encode(byte_level, CHATML, "red", "Sure, it is red.")
    assert split(byte_level, encoded) == (
        [
            *("<|im_start|>", "user", "\u010a", "re", "d", "<|im_end|>", "\u010a"),
            *("<|im_start|>", "a", "ssistant", "\u010a", "\u010a"),
        ],
        ["Sure", ",", "\u0120it", "\u0120is", "\u0120red", ".", "<|im_end|>"],
    )
    assert encoded.input_ids.dtype == np.int32
    assert encoded.response_mask.dtype == bool
    assert encoded.is_truncated is False


@pytest.mark.parametrize("kind", ["byte_level", "trimmed", "metaspace"])
@pytest.mark.parametrize("text", ["\N{SEAL}", "\u00e9t\u00e9 \N{SEAL}", "1", "\u202eabc", "<b>"])
def test_characters_of_many_tokens(kind, request, text):
    tokenizer = request.getfixturevalue(kind)
    encoded = encode(tokenizer, CHATML, "I", text)
    _, inside = split(tokenizer, encoded)
    alone = tokenizer.convert_ids_to_tokens(
        tokenizer(f"<|im_start|>\n{text}<|im_end|>", add_special_tokens=False)["input_ids"]
    )
    assert inside == alone[-len(inside) :]
    assert tokenizer.decode(encoded.input_ids[encoded.response_mask].tolist()).strip() == (
        f"{text}<|im_end|>"
    )


def test_a_word_start_mark_of_its_own_belongs_to_the_response(metaspace):
    # At generation the model gives this token first, right after the prompt's last one.
    template = CHATML.replace("assistant\n", "assistant").replace("}}\n{{", "}}{{")
    encoded = encode(metaspace, template, "I", "\u00e9")
    _, inside = split(metaspace, encoded)
    assert inside == ["<0xC3>", "<0xA9>", "<|im_end|>"]
    encoded = encode(metaspace, ROLES_ONLY.replace("\n", ""), "I", "\u00e9")
    _, inside = split(metaspace, encoded)
    assert inside == ["\u2581", "<0xC3>", "<0xA9>"]


@pytest.mark.parametrize(
    ("offsets", "expected"),  # of "a: xy" or "a::xy", where "xy" is the response
    [
        ([(0, 1), (1, 2), (2, 5)], [False, False, True]),  # merged with the blank
        ([(0, 1), (1, 2), (3, 3), (3, 5)], [False] * 3 + [True]),  # a trimmed blank
        ([(0, 1), (1, 3), (3, 3), (3, 5)], [False] * 2 + [True] * 2),  # a bare mark
        ([(0, 3), (3, 4), (4, 4), (4, 5)], [False] + [True] * 3),
        ([(0, 3), (3, 5), (5, 5)], [False, True, False]),  # after the end
        ([(0, 3), (3, 4), (5, 5)], [False, True, True]),  # a trimmed blank at the end
        ([(0, 3), (3, 6)], [False, True]),  # reaches beyond the end
    ],
)
def test_which_offsets_count(offsets, expected):
    assert response_mask(np.array(offsets), [Span(3, 5)]).tolist() == expected


# --- templates ---


def test_multi_turn_responses_all_count(byte_level):
    turns = ("I", "Sure.", "red", "No.")
    assert response(byte_level, CHATML, *turns) == "Sure.<|im_end|>No.<|im_end|>"
    assert response(byte_level, LLAMA2, *turns) == " Sure. </s> No. </s>"
    assert response(byte_level, CHATML, *turns, num_prompt=3) == "No.<|im_end|>"
    assert response(byte_level, CHATML, "I", "Sure.", system="Sure.") == "Sure.<|im_end|>"


def test_a_response_that_repeats_the_prompt_is_found_after_it(byte_level):
    encoded = encode(byte_level, CHATML, "Sure.", "Sure.", "Sure.", "Sure.", num_prompt=3)
    assert encoded.response_mask.nonzero()[0].min() > len(encoded.input_ids) // 2
    assert response(byte_level, CHATML, "Sure.", "Sure.", "Sure.", "Sure.", num_prompt=3) == (
        "Sure.<|im_end|>"
    )


def test_blanks_and_the_end_token_belong_to_a_llama2_response(byte_level, metaspace):
    assert response(byte_level, LLAMA2, QUESTION, "Sure") == " Sure </s>"
    outside, inside = split(metaspace, encode(metaspace, LLAMA2, QUESTION, "Sure"))
    assert inside[0].startswith("\u2581Sure")
    assert inside[-1] == "</s>"
    assert outside[-1].endswith("]")


@pytest.mark.parametrize("template", [CHATML, TRIMMING])
@pytest.mark.parametrize("content", ["  Sure.", "Sure.\n\n", "\n Sure. \n"])
def test_blanks_around_a_response(byte_level, template, content):
    text = response(byte_level, template, "I", content)
    assert text == f"{content.strip() if template == TRIMMING else content}<|im_end|>"


def test_an_empty_think_block_counts_where_the_model_has_to_write_it(byte_level):
    turns = ("I", "Sure.", "red", "No.")
    block = "<think>\n\n</think>\n\n"
    assert response(byte_level, THINKING, *turns) == f"Sure.<|im_end|>{block}No.<|im_end|>"
    # The generation prompt with a think block is no prefix of the conversation's first turn.
    encoder = ChatEncoder(byte_level, template=THINKING, template_kwargs={"no_think": True})
    (encoded,) = encoder.encode([sample(*turns)], WIDE)
    text = byte_level.decode(encoded.input_ids[encoded.response_mask].tolist())
    assert text == "Sure.<|im_end|>No.<|im_end|>"


@pytest.mark.parametrize("word", ["think", "a", "assistant", "n", ">"])
def test_a_response_that_occurs_in_what_the_template_writes(byte_level, word):
    own = f"<think>\n\n</think>\n\n{word}<|im_end|>"
    assert response(byte_level, THINKING, "I", word) == own
    (encoded,) = ChatEncoder(
        byte_level, template=THINKING, template_kwargs={"no_think": True}
    ).encode([sample("I", word, "red", word)], WIDE)
    text = byte_level.decode(encoded.input_ids[encoded.response_mask].tolist())
    assert text == f"{word}<|im_end|>{word}<|im_end|>"


def test_a_template_that_reorders_the_prompt(byte_level):
    # As in Mistral: the system prompt moves to the last user turn, so no prefix is a prefix.
    template = (
        "{% set users = messages | selectattr('role', 'equalto', 'user') | list %}"
        "{% for m in messages if m['role'] != 'system' %}"
        "{% if m['role'] == 'user' %}[INST] "
        "{% if m is sameas users[-1] %}{{ messages[0]['content'] }}\n{% endif %}"
        "{{ m['content'] }} [/INST]{% else %} {{ m['content'] }}</s>{% endif %}{% endfor %}"
    )
    turns = ("No.", "No.", "red", "Yes.")
    assert response(byte_level, template, *turns, system="I No.") == " No.</s> Yes.</s>"


def test_a_token_that_opens_the_next_turn_does_not_end_this_one(byte_level):
    assert response(byte_level, ROLES_ONLY, "I", "Sure.", "red", "No.") == "Sure.No."
    assert ChatEncoder(byte_level, template=ROLES_ONLY).stop_ids == (byte_level.eos_token_id,)


def test_no_end_token_at_all(byte_level):
    outside, inside = split(byte_level, encode(byte_level, PLAIN, "I", "Sure."))
    assert inside == ["\u0120Sure", "."]
    assert outside[-1] == "\u010a"


def test_a_template_that_changes_the_response(byte_level):
    template = CHATML.replace("m['content']", "m['content'] | upper")
    (first, second) = ChatEncoder(byte_level, template=template).encode(
        [sample("I", "Sure."), sample("I", "42")], WIDE
    )
    assert first == (
        "the chat template changes the text of turn 1 (assistant), so the response cannot be found "
        "in the rendered conversation"
    )
    assert isinstance(second, Encoded)


def test_a_template_that_refuses_a_sample(byte_level):
    template = (
        "{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system role') }}{% endif %}"
        + CHATML
    )
    encoder = ChatEncoder(byte_level, template=template)
    refused, fine = encoder.encode([sample("I", "No.", system="x"), sample("I", "No.")], WIDE)
    assert refused == (
        "the chat template refuses the conversation: TemplateError('no system role')"
    )
    assert isinstance(fine, Encoded)
    text = "prompt 1: the chat template refuses the conversation: TemplateError('no system role')"
    prompts = [sample("I", "No.").prompt, sample("I", "No.", system="x").prompt]
    with pytest.raises(ValueError, match=re.escape(text)):
        encoder.prompt_ids(prompts)


def test_a_template_that_does_not_compile(byte_level):
    with pytest.raises(ValueError, match=r"not valid Jinja: line 1: .*\. Correct it, or give"):
        ChatEncoder(byte_level, template="{% for %}")


def test_a_template_that_refuses_the_probe_still_works(byte_level):
    template = "{% if messages | length < 3 %}{{ raise_exception('short') }}{% endif %}" + CHATML
    encoder = ChatEncoder(byte_level, template=template)
    assert encoder.stop_ids == (byte_level.eos_token_id,)


def test_samples_keep_their_order_across_batches(byte_level):
    samples = [sample("I", f"{i}") for i in range(600)]
    results = ChatEncoder(byte_level, template=CHATML).encode(samples, WIDE)
    assert [row.id for row in results] == [s.id for s in samples]
    inside = byte_level.decode(results[599].input_ids[results[599].response_mask].tolist())
    assert inside == "599<|im_end|>"
    assert ChatEncoder(byte_level, template=CHATML).encode([], WIDE) == []


# --- max_length ---


def test_truncation(byte_level):
    encoder = ChatEncoder(byte_level, template=CHATML)
    (whole,) = encoder.encode([sample("red", "Sure, it is red.")], WIDE)
    assert (len(whole.input_ids), whole.response_mask.sum()) == (19, 7)

    def cut(max_length, truncate="response"):
        tokenization = Tokenization(max_length=max_length, truncate=truncate)
        (result,) = encoder.encode([sample("red", "Sure, it is red.")], tokenization)
        return result

    np.testing.assert_array_equal(cut(19).input_ids, whole.input_ids)
    only_the_line_end = cut(18)
    assert (only_the_line_end.is_truncated, only_the_line_end.response_mask.sum()) == (False, 7)
    short = cut(12)
    assert short.is_truncated
    np.testing.assert_array_equal(short.input_ids, whole.input_ids[:12])
    np.testing.assert_array_equal(short.response_mask, whole.response_mask[:12])
    assert short.response_mask.sum() == 1  # and no end of turn is invented
    assert cut(11) == "the prompt's 11 tokens leave no response token within max_length=11"
    assert cut(18, "drop") == "19 tokens are more than max_length=18"
    np.testing.assert_array_equal(cut(19, "drop").input_ids, whole.input_ids)


def test_cutting_between_turns_keeps_the_earlier_responses(byte_level):
    tokenization = Tokenization(max_length=15)
    encoder = ChatEncoder(byte_level, template=CHATML)
    (cut,) = encoder.encode([sample("I", "Sure.", "red", "No.")], tokenization)
    assert cut.is_truncated
    assert byte_level.decode(cut.input_ids[cut.response_mask].tolist()) == "Sure.<|im_end|>"


def test_max_length_has_a_floor():
    with pytest.raises(ValidationError, match="greater than or equal to 8"):
        Tokenization(max_length=7)
