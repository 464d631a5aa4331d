"""Any JSON value in any format: a sample or a ValueError in plain words."""

import json
import re
from datetime import timedelta
from typing import get_args

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fuzz.outcome import only_when_asked, outcome
from seal.data.formats import Format, describe_columns, parse
from seal.data.sample import Message, content_id

FORMATS = get_args(Format)
CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u200b-\u202e\ud800-\udfff]")
NAMES = ["messages", "prompt", "completion", "instruction", "input", "output", "conversations",
         "question", "response", "system_prompt", "chosen", "tools", "system", "history", "role",
         "content", "from", "value", "weight", "train", "name", "type", "text", "tool_calls",
         "\x1b[2J", ""]  # fmt: skip
TEXTS = ["user", "assistant", "system", "tool", "human", "gpt", "text", "", " ", "\x1b]0;x\x07",
         "\n\nHuman: a\n\nAssistant: b", "\n\nHuman:\n\nAssistant:", "\u202e", "Sure."]  # fmt: skip

texts = st.sampled_from(TEXTS) | st.text(max_size=8)
scalars = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | texts
names = st.sampled_from(NAMES)
values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(names, inner, max_size=5),
    max_leaves=12,
)
turns = st.fixed_dictionaries(
    {"role": texts, "content": texts},
    optional={"weight": scalars, "train": scalars, "name": scalars, "tool_calls": values},
)
rows = st.dictionaries(names | st.text(max_size=4), values, max_size=6) | st.fixed_dictionaries(
    {"messages": st.lists(turns | values, max_size=4)}, optional={"tools": values}
)
quick = settings(max_examples=200, deadline=timedelta(seconds=1))
deep = settings(max_examples=3_000, deadline=timedelta(seconds=1),
                suppress_health_check=list(HealthCheck))  # fmt: skip


def check(row: dict, format: Format) -> None:
    before = json.dumps(row)
    found, message = outcome(lambda: parse(row, format))
    assert json.dumps(row) == before, "the row itself was changed"
    if found is None:
        assert message
        assert not CONTROL.search(message), "raw data in a message"
        assert len(message) < 3000
        return
    prompt, completion = found
    for turn in (*prompt, *completion):
        assert isinstance(turn, Message)
        assert isinstance(turn.content, str)
        assert turn.role in ("system", "user", "assistant", "tool")
        assert turn.content.strip() or turn.role in ("system", "tool")
    assert any(turn.role == "user" for turn in prompt)
    assert prompt[-1].role != "assistant"
    assert completion[0].role == completion[-1].role == "assistant"
    assert content_id(prompt, completion) == content_id(*parse(row, format))


@pytest.mark.parametrize("format", FORMATS)
@quick
@given(rows)
def test_any_row(format, row):
    check(row, format)


@pytest.mark.slow
@only_when_asked
@pytest.mark.parametrize("format", FORMATS)
@deep
@given(rows)
def test_any_row_many_times(format, row):
    check(row, format)


@given(st.dictionaries(st.text(max_size=100), st.none() | st.integers(), max_size=40))
def test_columns_are_described_shortly_and_without_raw_data(row):
    text = describe_columns(row)
    assert not CONTROL.search(text)
    assert len(text) < 6500


@given(st.integers(0, 300), st.sampled_from(FORMATS))
def test_deep_values_are_refused_in_a_few_words(depth, format):
    value: object = "x"
    for place in range(depth):
        value = [value] if place % 2 else {"messages": value}
    check(dict.fromkeys(NAMES[:11], value), format)
