import re

import pytest
from transformers import ByT5Tokenizer

from seal.data.sample import Message, Sample, content_id
from seal.data.tokenize import FALLBACK_TEMPLATE, ChatEncoder, Tokenization

BLANK = (
    "{% for m in messages %}{% if m['role'] == 'user' %}Human: {{ m['content'] }}\nAssistant: "
    "{% else %}{{ m['content'] }}</s>{% endif %}{% endfor %}"
)
CHATML = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
LLAMA2 = (
    "{% for m in messages %}{% if m['role'] == 'user' %}<s>[INST] {{ m['content'] }} [/INST]"
    "{% else %} {{ m['content'] }} </s>{% endif %}{% endfor %}"
)
PLAIN = (
    "{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}\n{% endfor %}"
    "{% if add_generation_prompt %}assistant: {% endif %}"
)
WIDE = Tokenization()


def sample(*contents, num_prompt=1, system=None):
    """Turns of user and assistant by turns; the completion starts after `num_prompt` of them."""
    roles = ["user", "assistant"] * len(contents)
    turns = tuple(Message(role, content) for role, content in zip(roles, contents, strict=False))
    prompt, completion = turns[:num_prompt], turns[num_prompt:]
    if system is not None:
        prompt = (Message("system", system), *prompt)
    return Sample(content_id(prompt, completion), prompt, completion)


# --- the fallback template ---


def test_fallback_template(byte_level):
    encoder = ChatEncoder(byte_level)
    assert encoder.template == FALLBACK_TEMPLATE
    turns = sample("red", " Sure. ", "I", "No.", system="Be brief.")
    (encoded,) = encoder.encode([turns], WIDE)
    assert byte_level.decode(encoded.input_ids.tolist()) == (
        "Be brief.\n\nHuman: red\n\nAssistant: Sure.</s>\n\nHuman: I\n\nAssistant: No.</s>"
    )
    inside = byte_level.decode(encoded.input_ids[encoded.response_mask].tolist())
    assert inside == " Sure.</s> No.</s>"
    assert encoder.stop_ids == (byte_level.eos_token_id,)
    (prompt,) = encoder.prompt_ids([sample("red", "Sure.").prompt])
    (encoded,) = encoder.encode([sample("red", "Sure.")], WIDE)
    assert prompt == encoded.input_ids[~encoded.response_mask].tolist()


def test_fallback_template_writes_bos_where_the_tokenizer_does(bos_adding, byte_level):
    def first_token(tokenizer):
        (encoded,) = ChatEncoder(tokenizer).encode([sample("red", "Sure.")], WIDE)
        assert (encoded.input_ids == tokenizer.bos_token_id).sum() <= 1
        return tokenizer.convert_ids_to_tokens([int(encoded.input_ids[0])])

    assert first_token(bos_adding) == ["<s>"]
    assert first_token(byte_level) != ["<s>"]


def test_fallback_template_marks_the_same_tokens_for_trl(byte_level):
    turns = [{"role": "user", "content": "red"}, {"role": "assistant", "content": "Sure."}]
    out = byte_level.apply_chat_template(
        turns,
        chat_template=FALLBACK_TEMPLATE,
        return_assistant_tokens_mask=True,
        return_dict=True,
        bos_token="",
    )
    (encoded,) = ChatEncoder(byte_level).encode([sample("red", "Sure.")], WIDE)
    assert out["input_ids"] == encoded.input_ids.tolist()
    assert out["assistant_masks"] == encoded.response_mask.astype(int).tolist()


# --- the encoder ---


def test_the_tokenizers_own_template_comes_before_the_fallback(byte_level):
    try:
        byte_level.chat_template = {"default": CHATML, "tool_use": PLAIN}
        assert ChatEncoder(byte_level).template == CHATML
        assert ChatEncoder(byte_level, template=PLAIN).template == PLAIN
    finally:
        byte_level.chat_template = None


def test_stop_ids_are_eos_and_end_of_turn(byte_level):
    ids = [byte_level.convert_tokens_to_ids(name) for name in ("</s>", "<|im_end|>")]
    assert ChatEncoder(byte_level, template=CHATML).stop_ids == tuple(ids)
    assert ChatEncoder(byte_level, template=LLAMA2).stop_ids == tuple(ids[:1])


@pytest.mark.parametrize("template", [CHATML, BLANK, LLAMA2, PLAIN])
def test_prompts_to_generate_from_are_the_prompts_of_training(byte_level, template):
    encoder = ChatEncoder(byte_level, template=template)
    (encoded,) = encoder.encode([sample("red", "Sure.")], WIDE)
    first = int(encoded.response_mask.argmax())
    assert (
        encoder.prompt_ids([sample("red", "Sure.").prompt] * 2)
        == [encoded.input_ids[:first].tolist()] * 2
    )
    assert encoder.prompt_ids([]) == []


def test_template_hash_follows_template_and_variables(byte_level):
    def hash_of(**kwargs):
        return ChatEncoder(byte_level, **kwargs).template_hash

    first = hash_of(template=CHATML, template_kwargs={"a": 1, "b": 2})
    assert first == hash_of(template=CHATML, template_kwargs={"b": 2, "a": 1})
    others = {
        hash_of(template=CHATML),
        hash_of(template=CHATML, template_kwargs={"a": 1}),
        hash_of(template=PLAIN),
    }
    assert len({first, *others}) == 4
    assert re.fullmatch("[0-9a-f]{64}", first)


def test_slow_tokenizers_are_refused():
    with pytest.raises(
        ValueError, match=r"ByT5Tokenizer of '.*' is a slow tokenizer.*Use one with"
    ):
        ChatEncoder(ByT5Tokenizer())


def test_variables_of_seal_are_taken(byte_level):
    text = "chat_template_kwargs names messages, tokenize, which is set by seal. Remove it."
    with pytest.raises(ValueError, match=re.escape(text)):
        ChatEncoder(byte_level, template_kwargs={"tokenize": True, "messages": [], "a": 1})


def test_the_fallback_needs_an_end_of_sequence(byte_level):
    eos = byte_level.eos_token
    try:
        byte_level.eos_token = None
        text = (
            "has neither a chat template nor an end-of-sequence token, so a response could not end"
        )
        with pytest.raises(ValueError, match=re.escape(text)):
            ChatEncoder(byte_level)
        ids = ChatEncoder(byte_level, template=CHATML).stop_ids
        assert ids == (byte_level.convert_tokens_to_ids("<|im_end|>"),)
    finally:
        byte_level.eos_token = eos
