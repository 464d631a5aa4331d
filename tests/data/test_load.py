import json
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from seal.data.exclusions import Tally
from seal.data.load import DataSpec, Excluded, encode_set, load, write_excluded
from seal.data.sample import Message, content_id
from seal.data.tokenize import ChatEncoder, Tokenization


def pair(prompt, completion, **columns):
    return {"prompt": prompt, "completion": completion, **columns}


def write(folder, *rows, name="pool.jsonl"):
    path = folder / name
    lines = [row if isinstance(row, bytes) else json.dumps(row).encode() for row in rows]
    path.write_bytes(b"\n".join(lines) + b"\n")
    return str(path)


def load_rows(folder, *rows, **spec):
    return load([DataSpec(path=write(folder, *rows), **spec)], name="pool")


def key(prompt, completion):
    return content_id((Message("user", prompt),), (Message("assistant", completion),))


def test_a_file_becomes_samples(tmp_path):
    rows = [pair("a", "b", source="web", label="good"), pair("c", "d")]
    pool = load_rows(tmp_path, rows[0], b"", rows[1])
    path = str(tmp_path / "pool.jsonl")
    first, second = pool.samples
    assert first.id == key("a", "b")
    assert first.prompt == (Message("user", "a"),)
    assert first.completion == (Message("assistant", "b"),)
    assert (first.source, second.source) == ("web", "")
    assert pool.rows == {first.id: rows[0], second.id: rows[1]}
    assert pool.where == {first.id: f"{path}:1", second.id: f"{path}:3"}
    assert (pool.num_read, pool.num_duplicates) == (2, 0)
    assert (pool.labels, pool.excluded) == ({}, ())


def test_files_are_concatenated_and_ids_stay_unique(tmp_path):
    first = write(tmp_path, pair("a", "b"), pair("c", "d"), pair("a", "b"))
    second = write(tmp_path, pair("a", "b"), pair("a", "B"), name="more.jsonl")
    pool = load([DataSpec(path=first), DataSpec(path=second)], name="pool")
    ab = key("a", "b")
    ids = [sample.id for sample in pool.samples]
    assert ids == [ab, key("c", "d"), f"{ab}-1", f"{ab}-2", key("a", "B")]
    assert pool.num_duplicates == 2
    assert pool.where[f"{ab}-2"] == f"{second}:1"


@given(st.permutations(range(5)))
def test_order_changes_neither_ids_nor_fingerprint(tmp_path_factory, order):
    rows = [
        pair("a", "b", source="x"),
        pair("c", "d"),
        pair("e", "f"),
        pair("a", "b", source="y"),
        pair("g", "h"),
    ]
    folder = tmp_path_factory.mktemp("order")
    one = load_rows(folder, *rows)
    other = load_rows(folder, *[rows[i] for i in order])
    assert set(one.rows) == set(other.rows)
    assert one.fingerprint == other.fingerprint
    distinct = {sample.id: sample for sample in one.samples if sample.prompt[0].content != "a"}
    assert distinct.items() <= {sample.id: sample for sample in other.samples}.items()


def test_fingerprint_follows_content_and_source_only(tmp_path):
    first = load_rows(tmp_path, pair("a", "b", other=1))
    assert first.fingerprint == load_rows(tmp_path, pair("a", "b"), b"").fingerprint
    row = {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}
    assert first.fingerprint == load_rows(tmp_path, row).fingerprint
    others = [
        load_rows(tmp_path, pair("a", "b", source="web")),
        load_rows(tmp_path, pair("a", "B")),
        load_rows(tmp_path, pair("a", "b"), pair("a", "b")),
    ]
    assert len({first.fingerprint, *(other.fingerprint for other in others)}) == 4
    assert len(first.fingerprint) == 64


# --- sources and labels ---


def test_sources_are_text(tmp_path):
    rows = [pair("a", str(i), origin=value) for i, value in enumerate(["x", 3, True, None])]
    pool = load_rows(tmp_path, *rows, source="origin")
    assert [sample.source for sample in pool.samples] == ["x", "3", "true", ""]
    pool = load_rows(tmp_path, pair("a", "b", source="x"), source=None)
    assert pool.samples[0].source == ""


def test_a_source_that_is_no_text_is_a_bad_row(tmp_path):
    with pytest.raises(ValueError, match="the source column 'source' holds a list or an object"):
        load_rows(tmp_path, pair("a", "b", source=["x"]))


def test_a_source_column_that_is_nowhere_is_refused(tmp_path):
    text = (
        "pool.jsonl: no row has the column 'orign' that source names; the first has the columns "
        '"prompt", "completion", "origin". Correct source, or set source: null.'
    )
    with pytest.raises(ValueError, match=re.escape(text)):
        load_rows(tmp_path, pair("a", "b", origin="x"), source="orign")


def test_labels_stay_out_of_the_samples(tmp_path):
    rows = [pair("a", "b", label="unsafe"), pair("a", "b", label="benign"), pair("c", "d", label=1)]
    pool = load_rows(tmp_path, *rows, label="label")
    assert pool.labels == {
        key("a", "b"): "unsafe",
        f"{key('a', 'b')}-1": "benign",
        key("c", "d"): "1",
    }
    assert "unsafe" not in repr(pool.samples)
    assert (
        pool.samples == load_rows(tmp_path, pair("a", "b"), pair("a", "b"), pair("c", "d")).samples
    )


@pytest.mark.parametrize("on_bad_row", ["error", "skip"])
@pytest.mark.parametrize("columns", [{}, {"label": None}, {"label": ["x"]}])
def test_a_missing_label_is_never_a_row_to_skip(tmp_path, columns, on_bad_row):
    rows = [pair("a", "b", label="x"), pair("c", "d", **columns)]
    text = (
        r"pool\.jsonl:2: the row has no value in the column 'label' that label names; it has the "
    )
    with pytest.raises(ValueError, match=text + 'columns "prompt", "completion"'):
        load_rows(tmp_path, *rows, label="label", on_bad_row=on_bad_row)


# --- bad rows ---

BAD = [b"null", pair("a", " "), b"{"]


def test_one_error_names_the_first_bad_row_and_counts_the_others(tmp_path):
    text = (
        f"{tmp_path}/pool.jsonl:2: a row must be a JSON object; this one is null. 2 more of the 5 "
        "rows of the pool set are bad. Correct them, or set on_bad_row: skip to leave them out; "
        "they are then listed in excluded.jsonl."
    )
    with pytest.raises(ValueError, match=re.escape(text)):
        load_rows(tmp_path, pair("a", "b"), BAD[0], pair("c", "d"), *BAD[1:])


def test_skipped_rows_are_listed(tmp_path):
    pool = load_rows(tmp_path, pair("a", "b"), *BAD, on_bad_row="skip")
    path = tmp_path / "pool.jsonl"
    assert [row.where for row in pool.excluded] == [f"{path}:2", f"{path}:3", f"{path}:4"]
    assert {(row.id, row.stage) for row in pool.excluded} == {(None, "read")}
    assert pool.excluded[1].reason == (
        "completion is empty: the assistant's response must hold text"
    )
    assert (pool.num_read, len(pool.samples)) == (4, 1)


def test_each_file_decides_about_its_own_bad_rows(tmp_path):
    lax = write(tmp_path, *BAD, name="lax.jsonl")
    strict = write(tmp_path, pair("a", "b"), b"[]", name="strict.jsonl")
    specs = [DataSpec(path=lax, on_bad_row="skip"), DataSpec(path=strict)]
    with pytest.raises(ValueError, match=r"strict\.jsonl:2: .* 0 more of the 5 rows"):
        load(specs, name="pool")


def test_no_usable_sample(tmp_path):
    text = (
        f"{tmp_path}/pool.jsonl: no usable sample for the safe set: 3 rows read, 3 excluded "
        f"(first: {tmp_path}/pool.jsonl:1: a row must be a JSON object; this one is null). "
        "Give a file with"
    )
    with pytest.raises(ValueError, match=re.escape(text)):
        load([DataSpec(path=write(tmp_path, *BAD), on_bad_row="skip", source="x")], name="safe")
    with pytest.raises(ValueError, match=re.escape("0 rows read, 0 excluded. Give a file with")):
        load_rows(tmp_path, b"")
    with pytest.raises(
        ValueError, match=re.escape("the safe set has no data file. Give safe.path")
    ):
        load([], name="safe")


def test_spec_is_strict():
    with pytest.raises(ValidationError, match="Extra inputs are not permitted"):
        DataSpec(path="x.jsonl", formt="trl")
    with pytest.raises(ValidationError, match="Input should be 'trl', 'messages'"):
        DataSpec(path="x.jsonl", format="guess")


@given(st.lists(st.one_of(st.binary(max_size=40), st.just(b'{"prompt": "a", "completion": "b"}'))))
def test_kept_and_excluded_rows_are_all_rows(tmp_path_factory, lines):
    good = b'{"prompt": "q", "completion": "r"}'
    content = b"\n".join([good, *lines])
    path = tmp_path_factory.mktemp("any") / "pool.jsonl"
    path.write_bytes(content)
    pool = load([DataSpec(path=str(path), on_bad_row="skip")], name="pool")
    filled = [i + 1 for i, line in enumerate(content.split(b"\n")) if line.strip()]
    assert pool.num_read == len(pool.samples) + len(pool.excluded) == len(filled)
    numbers = [where.rpartition(":")[2] for where in pool.where.values()]
    numbers += [row.where.rpartition(":")[2] for row in pool.excluded]
    assert sorted(map(int, numbers)) == filled
    assert len({sample.id for sample in pool.samples}) == len(pool.samples)
    assert pool.num_duplicates == sum("-" in sample.id for sample in pool.samples)


# The rows of shared/data/bad_rows.jsonl, each with the reason for which it is bad, or None.
RED = b'{"messages": [{"role": "user", "content": "Name a primary colour."}, {"role": "assistant", "content": "Red."}]}'  # noqa: E501


def chat(user, assistant):
    turns = [{"role": "user", "content": user}, {"role": "assistant", "content": assistant}]
    return json.dumps({"messages": turns}, ensure_ascii=False).encode()


HAND_MADE = [
    (RED, None),
    (b"", ""),
    (RED, None),
    (b"null", "this one is null"),
    (b'{"messages": [{"role": "user", "content": "cut off', "not valid JSON: Unterminated string"),
    (chat("Empty answer", ""), "messages[1].content is empty: the assistant's response must hold"),
    (chat("", "Empty question"), "messages[0].content is empty: the user's turn must hold text"),
    (b'{"messages": "not a list"}', '"messages" must be a list of turns; it is str'),
    (b'{"prompt": "no completion"}', 'format "trl" needs "messages", or "prompt" and "completion"'),
    (
        b'{"messages": [{"role": "user", "content": "no assistant turn"}]}',
        '"messages" has no assistant turn',
    ),
    (chat(7, ["a", "b"]), "messages[0].content must be a string or a list of text parts; it is"),
    (
        b'{"messages": [{"role": "user", "content": "latin-1 \xe9"}, '
        b'{"role": "assistant", "content": "caf\xe9"}]}',
        "not valid UTF-8: byte 0xe9 at column 52",
    ),
    (
        chat(
            "</script><script>window.pwned=1</script>", "[/INST] [bold red]x[/] \x1b[2J\x1b]0;t\x07"
        ),
        None,
    ),
    (chat('=HYPERLINK("x")', "@SUM(1)"), None),
    (chat("Long answer, please.", "word " * 20_000), None),
    (chat("Right to left \u202e and zero width \u200b", "\U0001f9ad seal"), None),
    (
        b'{"messages": [{"role": "user", "content": "duplicate key"}], "messages": '
        b'[{"role": "user", "content": "second"}, {"role": "assistant", "content": "wins?"}]}',
        'the key "messages" is given twice',
    ),
    (
        b'{"messages": [{"role": "user", "content": "NaN"}, '
        b'{"role": "assistant", "content": "ok"}], "score": NaN}',
        "NaN is not a JSON value",
    ),
    (b"[1, 2, 3]", "this one is an array"),
    (chat("Last good row.", "Yes."), None),
]


def test_hand_made_rows(tmp_path):
    pool = load_rows(tmp_path, *[line for line, _ in HAND_MADE], on_bad_row="skip")
    lines = {row.where.rpartition(":")[2]: row.reason for row in pool.excluded}
    expected = {str(i + 1): text for i, (_, text) in enumerate(HAND_MADE) if text}
    assert lines.keys() == expected.keys()
    for line, text in expected.items():
        assert text in lines[line]
    kept = [i + 1 for i, (_, text) in enumerate(HAND_MADE) if text is None]
    assert [int(where.rpartition(":")[2]) for where in pool.where.values()] == kept
    assert pool.num_duplicates == 1
    assert pool.num_read == 19


SHARED = Path(__file__).parents[3] / "shared" / "data"


@pytest.mark.real_data
@pytest.mark.skipif(not SHARED.exists(), reason="the shared data is not here")
def test_real_files():
    spec = DataSpec(path=str(SHARED / "bad_rows.jsonl"), on_bad_row="skip")
    bad = load([spec], name="pool")
    lines = [int(row.where.rpartition(":")[2]) for row in bad.excluded]
    assert lines == [4, 5, 6, 7, 8, 9, 10, 11, 12, 17, 18, 19]
    assert (bad.num_read, len(bad.samples), bad.num_duplicates) == (19, 7, 1)
    pool = load([DataSpec(path=str(SHARED / "redmix/pool.jsonl"), label="label")], name="pool")
    assert (len(pool.samples), pool.excluded) == (5288, ())
    assert sum(label == "unsafe" for label in pool.labels.values()) == 1095
    safe = load([DataSpec(path=str(SHARED / "redmix/safe.json"), format="alpaca")], name="safe")
    assert len(safe.samples) == 2499
    chosen = DataSpec(
        path=str(SHARED / "hh_harmless_test_400.jsonl"), format="hh", on_bad_row="skip"
    )
    assert len(load([chosen], name="safe").samples) == 397  # three have an empty earlier answer


# --- excluded.jsonl ---


def test_excluded_rows_are_written_as_json_lines(tmp_path):
    rows = [Excluded("a:1", "caf\xe9 \x1b", None, "read"), Excluded("a:2", "x", "0f-1", "tokenize")]
    path = tmp_path / "excluded.jsonl"
    write_excluded(rows, path)
    assert [json.loads(line) for line in path.read_bytes().split(b"\n")[:-1]] == [
        {"where": "a:1", "reason": "caf\xe9 \x1b", "id": None, "stage": "read"},
        {"where": "a:2", "reason": "x", "id": "0f-1", "stage": "tokenize"},
    ]
    assert path.read_bytes().isascii()
    write_excluded([], path)
    assert path.read_bytes() == b""


# --- encoding a set ---

TEMPLATE = (
    "{% for m in messages %}<|{{ m['role'] }}|>{{ m['content'] }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


def test_samples_without_a_response_token_are_excluded(tmp_path, byte_level):
    pool = load_rows(
        tmp_path, pair("red", "Sure"), pair("red " * 20, "Sure"), pair("I", "red " * 9)
    )
    encoder = ChatEncoder(byte_level, template=TEMPLATE)
    encoded = encode_set(pool, encoder, Tokenization(max_length=10), name="pool")
    assert [row.id for row in encoded.encoded] == [pool.samples[0].id, pool.samples[2].id]
    assert encoded.num_truncated == 1
    assert encoded.num_tokens == 7 + 10
    (excluded,) = encoded.excluded
    assert excluded.where == f"{tmp_path}/pool.jsonl:2"
    assert excluded.id == pool.samples[1].id
    assert excluded.stage == "tokenize"
    assert excluded.reason == (
        "the prompt's 25 tokens leave no response token within max_length=10"
    )


def test_nothing_left_after_encoding(tmp_path, byte_level):
    pool = load_rows(tmp_path, pair("red " * 20, "Sure"), pair("red " * 30, "Sure"))
    encoder = ChatEncoder(byte_level, template=TEMPLATE)
    text = (
        "none of the 2 samples of the safe set can be encoded (first: "
        f"{tmp_path}/pool.jsonl:1: the prompt's 25 tokens leave no response token within "
        "max_length=8). The longest prompt has 35 tokens and max_length is 8: raise max_length."
    )
    with pytest.raises(ValueError, match=re.escape(text)):
        encode_set(pool, encoder, Tokenization(max_length=8), name="safe")


def test_a_template_that_refuses_everything(tmp_path, byte_level):
    pool = load_rows(tmp_path, pair("a", "b"))
    encoder = ChatEncoder(byte_level, template="{{ raise_exception('never') }}")
    with pytest.raises(ValueError, match=r"never.*give another as model\.chat_template") as caught:
        encode_set(pool, encoder, Tokenization(), name="pool")
    assert "max_length" not in str(caught.value)


def test_columns_stand_for_those_the_format_expects(tmp_path):
    rows = [{"question": "a", "good": "b", "bad": "c", "completion": "never"}]
    columns = {"prompt": "question", "completion": "bad"}
    pool = load_rows(tmp_path, *rows, columns=columns)
    assert [row.id for row in pool.samples] == [key("a", "c")]
    assert pool.rows[key("a", "c")] == rows[0]  # as it was read
    message = r"pool.jsonl:1: the row has no column 'answer', which columns names; it has the colu"
    with pytest.raises(ValueError, match=message):
        load_rows(tmp_path, *rows, columns={"completion": "answer"})


def test_skip_and_limit_cut_a_part_out(tmp_path):
    rows = [pair(str(i), "x") for i in range(10)]
    part = load_rows(tmp_path, *rows, skip=3, limit=4)
    assert [row.prompt[0].content for row in part.samples] == ["3", "4", "5", "6"]
    assert part.num_read == 4
    assert part.where[part.samples[0].id].endswith("pool.jsonl:4")
    assert len(load_rows(tmp_path, *rows, skip=8).samples) == 2
    with pytest.raises(ValueError, match=r"no usable sample.*, lower skip=10, or set its format"):
        load_rows(tmp_path, *rows, skip=10)


def test_a_column_that_the_format_does_not_read_is_refused():
    message = r"columns: 'foo' is not a column that format 'alpaca' reads; these are instruction, o"
    with pytest.raises(ValidationError, match=message):
        DataSpec(path="x", format="alpaca", columns={"foo": "completion"})
    assert DataSpec(path="x", format="orca", columns={"system_prompt": "system"}).columns
    assert DataSpec(path="x", columns={"completion": "answer", "messages": "turns"}).columns


# --- what is said of what was left out ---


def _row(reason, where="f:1", stage="tokenize"):
    return Excluded(where, reason, None, stage)


def test_reasons_are_counted_by_kind_the_commonest_first_with_the_advice_that_fits():
    tally = Tally(
        [
            _row("the chat template refuses the conversation: TemplateError('No system')", "f:1"),
            _row("40 tokens are more than max_length=8", "f:2"),
            _row("900 tokens are more than max_length=8", "f:3"),
            _row("the chat template refuses the conversation: TemplateError('Must alternate')"),
            _row("messages[0].role is str 'a'; known roles: user", "f:5", "read"),
            _row("messages[7].role is str 'bc'; known roles: user", "f:6", "read"),
            _row("messages[7].role is str 'bc'; known roles: user", "f:6", "tokenize"),
        ]
    )
    assert [(kind.num_rows, kind.first.where) for kind in tally.kinds()] == [
        (2, "f:2"), (2, "f:5"), (1, "f:1"), (1, "f:1"), (1, "f:6"),
    ]  # fmt: skip
    said = tally.summary()
    assert said.startswith("2 because 40 tokens are more than max_length=8 (first: f:2; raise tok")
    assert "No system') (first: f:1; correct the chat template, or give another" in said
    assert said.endswith("2 for 2 other reasons")


def test_what_is_left_out_is_on_the_screen_with_its_commonest_reason(tmp_path, byte_level, caplog):
    rows = [pair("red " * 20, "Sure")] * 2 + [pair("a", "b"), b"null"]
    pool = load_rows(tmp_path, *rows, on_bad_row="skip")
    where = f"{tmp_path}/pool.jsonl"
    said = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert said == [
        f"pool: 1 of 4 are left out: 1 because a row must be a JSON object; this one is null "
        f"(first: {where}:4)"
    ]
    caplog.clear()
    encoder = ChatEncoder(byte_level, template=TEMPLATE)
    encode_set(pool, encoder, Tokenization(max_length=10), name="safe")
    said = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert said == [
        "safe: 2 of 3 are left out: 2 because the prompt's 25 tokens leave no response token "
        f"within max_length=10 (first: {where}:1; raise tokenization.max_length)"
    ]


def test_where_the_template_is_the_cause_no_length_is_advised(tmp_path, byte_level):
    pool = load_rows(tmp_path, pair("a", "b " * 50), pair("c", "d"), pair("e", "f"))
    template = "{% if messages[0].content != 'a' %}{{ raise_exception('no') }}{% endif %}"
    encoder = ChatEncoder(byte_level, template=template + TEMPLATE)
    with pytest.raises(ValueError, match="Correct the chat template") as caught:
        encode_set(pool, encoder, Tokenization(max_length=8, truncate="drop"), name="pool")
    said = str(caught.value)
    assert "raise max_length" not in said
    assert "By reason: 2 because the chat template refuses" in said
    assert "tokens are more than max_length=8" in said
