"""Reasoning told from answers: by the marks of many families, and where they come from."""

from __future__ import annotations

import pytest
from pydantic import ValidationError
from transformers import AddedToken

from seal.data.reasoning import Marks, Reasoning, find_reasoning
from seal.data.tokenize import ChatEncoder
from seal.models import ModelSpec, load_encoder, load_tokenizer
from tiny_model import CHAT_TEMPLATE, make_tokenizer

THINK = Marks("<think>", "</think>")


@pytest.mark.parametrize(
    ("response", "answer", "state"),
    [
        ("<think>I cannot.</think>Sure, here.", "Sure, here.", "closed"),
        ("<think>\nhm\n</think>\n\n I am sorry.\n", "I am sorry.", "closed"),
        ("hm</think>Sure.", "Sure.", "closed"),  # opened in the prompt
        ("<think>a</think>one<think>b</think>two", "two", "closed"),
        ("<think>a</think>one<think>b", "one", "closed"),
        ("<think>a</think>", "", "closed"),
        ("<think>I cannot help with that.", "", "unclosed"),
        ("  <think>", "", "unclosed"),
        ("Plain.", "Plain.", "none"),
        (" Plain. ", " Plain. ", "none"),
        ("", "", "none"),
        ("<think>a</think><answer>Sure.</answer>", "Sure.", "closed"),
    ],
)
def test_the_answer_follows_the_last_closing_mark(response, answer, state):
    assert Reasoning((THINK,)).parts(response) == (answer, state)


def test_a_prompt_that_opens_the_reasoning_makes_an_unmarked_response_no_answer():
    opened = Reasoning((THINK,), is_opened=True)
    assert opened.parts("I could refuse") == ("", "unclosed")
    assert opened.parts("") == ("", "unclosed")
    assert opened.parts("I could refuse</think>\n\nSure.") == ("Sure.", "closed")
    assert opened.parts("<think>again</think>Sure.") == ("Sure.", "closed")


def test_published_marks_count_where_a_response_begins_with_them_and_no_setting_forbids_it():
    unknown = Reasoning()
    assert unknown.parts("[THINK]a[/THINK]b") == ("b", "closed")
    assert unknown.parts("a</think>b") == ("b", "closed")  # a server that opened it in the prompt
    assert unknown.parts("Write <think> first.") == ("Write <think> first.", "none")
    assert unknown.parts("End with </thought>.") == ("End with </thought>.", "none")
    assert Reasoning(reads_known=False).parts("<think>a</think>b").state == "none"


@pytest.mark.parametrize(
    ("tokens", "opening", "closing"),
    [
        (["<think>", "</think>"], "<think>", "</think>"),
        (["[THINK]", "[/THINK]"], "[THINK]", "[/THINK]"),
        (["◁think▷", "◁/think▷"], "◁think▷", "◁/think▷"),
        (["<|thinking_start|>", "<|thinking_end|>"], "<|thinking_start|>", "<|thinking_end|>"),
        (["<|begin_of_reason|>", "<|end_of_reason|>"], "<|begin_of_reason|>", "<|end_of_reason|>"),
        (["<my_reasoning>", "</my_reasoning>"], "<my_reasoning>", "</my_reasoning>"),
        (["[BEGIN_THOUGHT]", "[END_THOUGHT]"], "[BEGIN_THOUGHT]", "[END_THOUGHT]"),
    ],
)
def test_tokens_and_templates_tell_the_marks(tokens, opening, closing):
    by_tokens = find_reasoning(tokens, "", "", None)
    by_template = find_reasoning([], " x ".join(tokens), "", None)
    assert by_tokens.own == by_template.own == ((opening, closing),)
    assert by_tokens.parts(f"{opening}no{closing}yes") == ("yes", "closed")


def test_what_only_looks_like_a_mark_is_none():
    tokens = ["<|im_end|>", "<|endoftext|>", "</s>", "<h1>", "</h1>", "[INST]", "[/INST]"]
    assert find_reasoning(tokens, "{{ messages }}</div><end>", "", None).own == ()
    assert find_reasoning(["<|thinking_end|>"], "", "", None).own == ()  # nothing opens it


def test_channels():
    tokens = ["<|channel|>", "<|message|>", "<|start|>", "<|end|>", "<|return|>"]
    found = find_reasoning(tokens, "", "", None)
    whole = (
        "<|channel|>analysis<|message|>No.<|end|><|start|>assistant<|channel|>final<|message|>Yes"
    )
    assert found.parts(whole) == ("Yes", "closed")
    assert found.parts("analysisNo.assistantfinalYes") == ("Yes", "closed")
    assert found.parts("<|channel|>analysis<|message|>No") == ("", "unclosed")
    assert found.parts("<|channel|>final<|message|>Yes") == ("Yes", "closed")


def _encoder(*, special, template=CHAT_TEMPLATE, marks=None):
    tokenizer = make_tokenizer()
    tokenizer.add_tokens([AddedToken(mark, special=special) for mark in THINK])
    return ChatEncoder(tokenizer, template=template, reasoning_marks=marks), tokenizer


@pytest.mark.parametrize("special", [True, False])
def test_an_encoder_tells_marks_and_which_special_tokens_stay(special):
    encoder, _ = _encoder(special=special)
    assert encoder.reasoning == Reasoning((THINK,))
    assert encoder.shown_specials == (frozenset(THINK) if special else frozenset())


def test_an_encoder_tells_a_prompt_that_opens_the_reasoning():
    end = "<|assistant|>{% endif %}"
    opens = CHAT_TEMPLATE[: -len(end)] + "<|assistant|><think>\n{% endif %}"
    assert _encoder(special=False, template=opens)[0].reasoning.is_opened
    closes = opens.replace("<think>\n", "<think>\n\n</think>\n\n")
    assert not _encoder(special=False, template=closes)[0].reasoning.is_opened


def test_a_setting_names_marks_or_says_that_there_are_none(tiny_model_dir):
    spec = ModelSpec(path=str(tiny_model_dir), reasoning_marks=[["<plan>", "</plan>"]])
    reasoning = load_encoder(spec, load_tokenizer(spec)).reasoning
    assert reasoning.parts("<plan>no</plan>yes") == ("yes", "closed")
    assert reasoning.parts("<think>no</think>yes").state == "none"
    none = load_encoder(spec.model_copy(update={"reasoning_marks": ()}), load_tokenizer(spec))
    assert none.reasoning.parts("<think>no</think>yes").state == "none"
    with pytest.raises(ValidationError, match="the closing mark is blank"):
        ModelSpec(path="x", reasoning_marks=[["<plan>", " "]])


def test_blocks_in_a_rendered_response():
    reasoning = Reasoning((THINK,))
    text = "Q<think>x</think>A1 <think>a</think>yes<think>b"
    start = text.index("A1")
    blocks = reasoning.blocks(text, start, len(text))
    assert [text[a:b] for a, b in blocks] == ["<think>a</think>", "<think>b"]
    text = "Q<think>\nwhy</think>yes"
    [(a, b)] = reasoning.blocks(text, 9, len(text))
    assert text[a:b] == "why</think>"
    assert reasoning.blocks("Qyes", 1, 4) == []
