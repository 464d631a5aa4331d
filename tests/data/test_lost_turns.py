"""Turns that a template leaves out, moves, repeats or changes, and what finding them costs."""

import logging
from dataclasses import replace

import pytest

from data.test_rendered_turns import CHATML, FAMILIES, KEEP, WIDE, asked, conversation, learned
from seal.artifacts.selection import TextSpan
from seal.data.formats import parse
from seal.data.load import DataSpec, encode_set, load
from seal.data.notes import Notes
from seal.data.rendered_turns import find_turns, frame_of, placeholders
from seal.data.sample import Message
from seal.data.spans import mask_rows
from seal.data.tokenize import ChatEncoder, Encoded

BYTES = FAMILIES["byte-level BPE"]
# Like Phi-3's: there is no branch for a system turn, nor for a tool's.
NO_SYSTEM = (
    "{% for m in messages %}{% if m.role in ['user', 'assistant'] %}"
    "{{ '<|' + m.role + '|>\n' + m.content + '<|end|>\n' }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% else %}{{ eos_token }}{% endif %}"
)
# Like Llama 2's: the system turn stands inside the first user's.
MERGED = (
    "{% if messages[0].role == 'system' %}{% set system = messages[0].content %}"
    "{% set messages = messages[1:] %}{% else %}{% set system = '' %}{% endif %}"
    "{% for m in messages %}{% if m.role == 'user' %}{{ bos_token + '[INST] ' }}"
    "{% if loop.first and system %}{{ '<<SYS>>\n' + system + '\n<</SYS>>\n\n' }}{% endif %}"
    "{{ m.content | trim + ' [/INST]' }}"
    "{% else %}{{ ' ' + m.content | trim + ' ' + eos_token }}{% endif %}{% endfor %}"
)
GEMMA = (
    "{{ bos_token }}{% for m in messages %}"
    "{{ '<|im_start|>' + ('model' if m.role == 'assistant' else m.role) + '\n' }}"
    "{{ m.content | trim }}{{ '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>model\n' }}{% endif %}"
)
ZEPHYR = (
    "{% for m in messages %}{{ '<|' + m.role + '|>\n' + m.content + eos_token }}\n"
    "{% if loop.last and add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}{% endfor %}"
)
TOOLS_AS_JSON = (
    "{% for m in messages %}{% if m.role == 'tool' %}"
    "{{ '[RESULT] {\"content\": ' + (m.content | tojson) + '}[/RESULT]' }}"
    "{% elif m.role == 'user' %}{{ '[INST] ' + m.content + '[/INST]' }}"
    "{% else %}{{ ' ' + m.content + eos_token }}{% endif %}{% endfor %}"
)
# Like Qwen 3's: the last answer opens with a think block, its own or an empty one; those before
# lose theirs.
THINKING = (
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' }}"
    "{% if m.role == 'assistant' %}{% set parts = m.content.split('</think>') %}"
    "{% set answer = parts[-1].lstrip('\n') %}{% if loop.last %}"
    "{% set thought = parts[0].split('<think>')[-1].strip('\n') if parts | length > 1 else '' %}"
    "{{ '<think>\n' + thought + '\n</think>\n\n' + answer }}{% else %}{{ answer }}{% endif %}"
    "{% else %}{{ m.content }}{% endif %}{{ '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
# Like DeepSeek R1's: what is before the last </think> is cut off everywhere.
CUTTING = (
    "{{ bos_token }}{% for m in messages %}{% if m.role == 'user' %}{{ '<|user|>' + m.content }}"
    "{% elif m.role == 'assistant' %}"
    "{{ '<|assistant|>' + m.content.split('</think>')[-1] + eos_token }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|><think>\n' }}{% endif %}"
)
PARTS = (
    "{% for m in messages %}{{ '<|' + m.role + '|>' }}{% for part in m.content %}"
    "{% if part.type == 'text' %}{{ part.text }}{% endif %}{% endfor %}{{ '<|end|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)
SYSTEM = ("system", "Be kind.")
RED = ("user", "red")
TURNS = [SYSTEM, RED, ("assistant", "Sure."), ("user", "I"), ("assistant", " No.\n")]


@pytest.mark.parametrize(
    ("template", "expected"),
    [
        (CHATML, "Sure.<|im_end|> No.\n<|im_end|>"),
        (MERGED, " Sure. </s> No. </s>"),
        (GEMMA, "Sure.<|im_end|>No.<|im_end|>"),
        (ZEPHYR, "\nSure.</s>\n No.\n</s>"),
        (THINKING, "Sure.<|im_end|><think>\n\n</think>\n\n No.\n<|im_end|>"),
        (PARTS, "Sure.<|end|> No.\n<|end|>"),
    ],
)
def test_families_that_show_every_turn(template, expected):
    assert learned(BYTES, template, conversation(*TURNS, num_prompt=2)) == expected


@pytest.mark.parametrize("template", [NO_SYSTEM, CUTTING])
def test_a_system_turn_that_is_left_out(template):
    sample = conversation(*TURNS, num_prompt=2)
    assert learned(BYTES, template, sample) == (
        "the chat template leaves out turn 0 (system), so the model would not read it. Use another "
        "template, or set tokenization.dropped_turn=keep"
    )
    notes = Notes()
    encoder = ChatEncoder(BYTES, template=template)
    (kept,) = encoder.encode([sample], KEEP, notes)
    (bare,) = encoder.encode([conversation(*TURNS[1:])], WIDE)
    assert kept.input_ids.tolist() == bare.input_ids.tolist()
    assert kept.response_mask.tolist() == bare.response_mask.tolist()
    assert list(notes) == [("the chat template leaves out turn 0 (system)", 1, "x")]


def test_a_phi_3_like_turn_ends_with_its_own_token_even_where_another_ends_the_text():
    assert learned(BYTES, NO_SYSTEM, conversation(*TURNS[1:])) == "Sure.<|end|> No.\n<|end|>"


@pytest.mark.parametrize("role", ["tool", "system", "user"])
@pytest.mark.parametrize("content", ["Sure.", "a", "<|end|>", "user", "42"])
def test_a_turn_that_is_left_out_is_noticed_even_where_its_text_occurs_elsewhere(role, content):
    template = CHATML.replace("in messages", "in messages[:2] + messages[3:]")
    turns = [("user", "Sure. a 42"), ("assistant", "Sure."), (role, content), ("assistant", "a")]
    found = learned(BYTES, template, conversation(*turns))
    assert found.startswith(f"the chat template leaves out turn 2 ({role}), so")


@pytest.mark.parametrize("place", range(4))
def test_each_turn_is_checked(place):
    template = CHATML.replace("m.content", "(m.content | replace('X', ''))")
    turns = [["system", "aXb"], ["user", "cXd"], ["assistant", "eXf"], ["assistant", "g"]]
    for turn in turns[:place] + turns[place + 1 :]:
        turn[1] = turn[1].replace("X", "")
    found = learned(BYTES, template, conversation(*turns, num_prompt=2))
    if place == 3:
        assert found == "ef<|im_end|>g<|im_end|>"
    else:
        role = turns[place][0]
        assert found.startswith(f"the chat template changes the text of turn {place} ({role}), so")
        assert isinstance(
            ChatEncoder(BYTES, template=template).encode(
                [conversation(*turns, num_prompt=2)], KEEP
            )[0],
            Encoded,
        )


@pytest.mark.parametrize(
    "template",
    [
        CHATML.replace("m.content", "(m.content | replace('\n', ' '))"),
        CHATML.replace("m.content", "(m.content | trim)"),
        CHATML.replace("m.content", "(m.content | indent(4))"),
    ],
)
def test_blanks_of_a_prompt_may_change(template):
    sample = asked("Sure.", question=" red \n\n red\n")
    assert learned(BYTES, template, sample) == "Sure.<|im_end|>"


def test_a_tool_turn_may_be_json():
    turns = [RED, ("assistant", "a"), ("tool", 'a "b"\n\\c \N{SEAL}'), ("assistant", "Sure.")]
    assert learned(BYTES, TOOLS_AS_JSON, conversation(*turns)) == " a</s> Sure.</s>"


def test_a_turn_that_is_written_twice():
    template = CHATML.replace("{% for", "{{ 'Task: ' + messages[0].content + '\n' }}{% for", 1)
    assert learned(BYTES, template, conversation(*TURNS[1:])) == "Sure.<|im_end|> No.\n<|im_end|>"
    template = CHATML.replace("{% for", "{{ 'Ends: ' + messages[-1].content + '\n' }}{% for", 1)
    sample = asked("Sure.", question="Sure.")
    assert learned(BYTES, template, sample) == "Sure.<|im_end|>"
    (row,) = ChatEncoder(BYTES, template=template).encode([sample], WIDE)
    assert row.response_mask.nonzero()[0].min() > len(row.input_ids) // 2


# --- templates that go by what a turn says ------------------------------------------------------


def test_thoughts_that_a_template_recognises():
    own = "<think>\nred\n</think>\n\nSure."
    assert learned(BYTES, THINKING, asked(own)) == f"{own}<|im_end|>"
    before = conversation(RED, ("assistant", own), ("user", "I"), ("assistant", "No."))
    # What it leaves out of a turn of before is reasoning alone: the answer is there, and learned.
    expected = "Sure.<|im_end|><think>\n\n</think>\n\nNo.<|im_end|>"
    assert learned(BYTES, THINKING, before) == expected
    assert learned(BYTES, THINKING, before, KEEP) == expected
    assert learned(BYTES, CUTTING, asked(own)) == "Sure.</s>"


def test_what_the_generation_prompt_gives_is_not_learned():
    template = CUTTING.replace(".split('</think>')[-1]", "")
    assert learned(BYTES, template, asked("<think>\nred</think>Sure.")) == "red</think>Sure.</s>"
    assert learned(BYTES, template, asked("Sure.")) == "Sure.</s>"


def test_a_template_that_refuses_placeholders():
    template = "{% if 'red' not in messages[0].content %}{{ raise_exception('no') }}{% endif %}"
    turns = TURNS[1:]
    assert learned(BYTES, template + CHATML, conversation(*turns)) == (
        "Sure. No.\n"  # how it ends a turn cannot be told, but nothing is lost
    )


# --- prompts to generate from -------------------------------------------------------------------


def test_a_prompt_that_is_shown_in_part_is_said_once(caplog):
    encoder = ChatEncoder(BYTES, template=NO_SYSTEM)
    prompts = [[Message(*RED)], [Message(*SYSTEM), Message(*RED)], [Message(*SYSTEM)]]
    with caplog.at_level(logging.WARNING):
        first = encoder.prompt_ids(prompts)
        assert encoder.prompt_ids(prompts) == first
    assert [record.getMessage() for record in caplog.records] == [
        "the chat template leaves out turn 0 (system) in prompt 1, and a turn in 2 of 3 prompts: "
        "the model answers without it"
    ]
    assert first[0] == first[1]


# --- sets ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("cached", [False, True])
def test_a_set_says_what_was_lost(tmp_path, caplog, cached):
    row = '{"messages": [%s{"role": "user", "content": "red"}, %s]}'
    system = '{"role": "system", "content": "Be kind."}, '
    answer = '{"role": "assistant", "content": "%d"}'
    text = "\n".join(row % (system if i % 2 else "", answer % i) for i in range(6))
    (tmp_path / "pool.jsonl").write_text(text)
    samples = load([DataSpec(path=str(tmp_path / "pool.jsonl"))], name="pool")
    cache = tmp_path / "cache" if cached else None
    encoder = ChatEncoder(BYTES, template=NO_SYSTEM)
    found = encode_set(samples, encoder, WIDE, name="pool", cache=cache)
    assert [row.where.rpartition(":")[2] for row in found.excluded] == ["2", "4", "6"]
    assert all("leaves out turn 0 (system)" in row.reason for row in found.excluded)
    for _ in range(2):
        caplog.clear()
        with caplog.at_level(logging.WARNING):
            found = encode_set(samples, encoder, KEEP, name="pool", cache=cache)
        assert not found.excluded
        assert len(found.encoded) == 6
        (note,) = found.notes
        assert (note.num_samples, samples.where[note.example]) == (
            3, f"{tmp_path / 'pool.jsonl'}:2",
        )  # fmt: skip
        assert "leaves out turn 0 (system) in 3 samples, which are kept (first: " in caplog.text


def test_text_is_masked_where_turns_are_missing():
    sample = replace(conversation(*TURNS, num_prompt=2), id="x")
    encoder = ChatEncoder(BYTES, template=NO_SYSTEM)
    rows = encoder.encode([sample], KEEP)
    (row,) = mask_rows(encoder, rows, {"x": sample}, {"x": [TextSpan(2, 0, 3)]})
    assert BYTES.decode(row.input_ids[row.response_mask].tolist()) == "Sure.<|end|>.\n<|end|>"


# --- cost ---------------------------------------------------------------------------------------


def long(count):
    pairs = [(("user", f"red {i}"), ("assistant", f"Sure. {i}")) for i in range(count)]
    return conversation(*[turn for pair in pairs for turn in pair])


@pytest.mark.parametrize("template", [CHATML, THINKING, MERGED])
def test_the_number_of_renders_does_not_depend_on_the_number_of_turns(template, monkeypatch):
    encoder = ChatEncoder(BYTES, template=template)
    rendered = []
    real = type(BYTES).apply_chat_template

    def count(self, messages, **kwargs):
        rendered.append(len(messages))
        return real(self, messages, **kwargs)

    monkeypatch.setattr(type(BYTES), "apply_chat_template", count)
    for pairs in (50, 400):
        rendered.clear()
        (row,) = encoder.encode([long(pairs)], WIDE)
        assert BYTES.decode(row.input_ids[row.response_mask].tolist()).count("Sure.") == pairs
        assert sum(rendered) <= 2 * 2 * pairs + 4
        rendered.clear()
        encoder.encode([long(pairs)], WIDE)
        assert rendered == [2 * pairs]  # the second time no frame is needed


class Counted(str):
    """A text that counts how many of its characters are looked at, at most."""

    num = 0

    def startswith(self, prefix, start=0):
        self.num += len(prefix)
        return str(self).startswith(prefix, start)

    def find(self, part, start=0, end=None):
        stop = len(self) if end is None else min(end, len(self))
        place = str(self).find(part, start, stop)
        self.num += (stop if place < 0 else place + len(part)) - start
        return place

    def __getitem__(self, where):
        self.num += 1
        return str(self)[where]


@pytest.mark.parametrize("change", ["nothing", "between", "text"])
def test_searching_is_linear_in_the_number_of_turns(change):
    """Counted and not timed: a machine with other work to do takes any time."""

    def looked_at(count):
        turns = [("user", f"red {i % 7} " * 5) for i in range(count)]
        frame = frame_of("".join(f"<{mark}>\n" for mark in placeholders(count)))
        between = "<<" if change == "between" else "<"
        texts = [text.upper() if change == "text" else text for _, text in turns]
        text = Counted("".join(f"{between}{text}>\n" for text in texts))
        found, lost = find_turns(frame, text, turns, frozenset())
        assert (len(found), len(lost)) == ((0, count) if change == "text" else (count, 0))
        return text.num

    few, many = looked_at(500), looked_at(4000)
    assert 500 < few < many < 8.5 * few  # 8 times as many turns; 64 if it were quadratic


def test_blanks_of_a_transcript_are_the_users():
    """One blank after the colon is the format's; the others are the response."""
    row = {"chosen": "\n\nHuman: Add.\n\nAssistant:     return a + b\n"}
    _, (answer,) = parse(row, "hh")
    assert answer.content == "    return a + b\n"
