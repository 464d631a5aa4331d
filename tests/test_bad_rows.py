"""A file of broken and hostile rows, all the way through `seal rank`."""

import json
import re
from pathlib import Path
from typing import NamedTuple

import pyarrow.parquet as pq
import pytest

from seal.cli import main

REAL = Path(__file__).parents[2] / "shared" / "data" / "bad_rows.jsonl"

GOOD = ""
LONG = b"word " * 5000


def chat(question: bytes, answer: bytes, more: bytes = b"") -> bytes:
    return (
        b'{"messages": [{"role": "user", "content": "' + question + b'"}, '
        b'{"role": "assistant", "content": "' + answer + b'"}]' + more + b"}"
    )


# Line 1, 2, ... of the file, and how the reason begins; None for a line that is no row.
LINES = [
    (chat(b"Name a primary colour.", b"Red."), GOOD),
    (b"   ", None),
    (chat(b"Name a primary colour.", b"Red."), GOOD),
    (b"null", "a row must be a JSON object; this one is null"),
    (
        b'{"messages": [{"role": "user", "content": "cut off',
        "not valid JSON: Unterminated string starting at (column 43)",
    ),
    (
        chat(b"Empty answer", b""),
        "messages[1].content is empty: the assistant's response must hold text",
    ),
    (
        chat(b"", b"Empty question"),
        "messages[0].content is empty: the user's turn must hold text",
    ),
    (
        b'{"messages": "not a list"}',
        "\"messages\" must be a list of turns; it is str 'not a list'",
    ),
    (
        b'{"prompt": "no completion"}',
        'format "trl" needs "messages", or "prompt" and "completion"; this row has the columns '
        '"prompt"; known formats: trl, messages,',
    ),
    (
        b'{"messages": [{"role": "user", "content": "no assistant turn"}]}',
        '"messages" has no assistant turn',
    ),
    (
        b'{"messages": [{"role": "user", "content": 7}, {"role": "assistant", "content": ["a"]}]}',
        "messages[0].content must be a string or a list of text parts; it is int 7",
    ),
    (chat(b"latin-1", b"caf\xe9"), "not valid UTF-8: byte 0xe9 at column"),
    (
        chat(
            b"</script><script>window.pwned=1</script><img src=x onerror=window.pwned=1>",
            rb"[/INST] [bold red]not markup[/] \u001b[2J\u001b]0;title\u0007",
        ),
        GOOD,
    ),
    (chat(rb"=HYPERLINK(\"x\")", b"@SUM(1)"), GOOD),
    (chat(b"Long answer, please.", LONG), GOOD),
    (chat("Right to left \u202e, zero width \u200b".encode(), "🦭 seal".encode()), GOOD),
    (
        b'{"messages": [{"role": "user", "content": "first"}], '
        + chat(b"second", b"wins?").removeprefix(b"{"),
        'the key "messages" is given twice',
    ),
    (chat(b"NaN", b"ok", b', "score": NaN'), "NaN is not a JSON value"),
    (b"[1, 2, 3]", "a row must be a JSON object; this one is an array"),
    (
        rb'{"\u001b[2Jcolumn\u0007": 1}',
        'format "trl" needs "messages", or "prompt" and "completion"; this row has the columns '
        r'"\u001b[2Jcolumn\u0007"',
    ),
    (
        rb'{"messages": [{"role": "\u001b[31muser", "content": "x"}]}',
        r"messages[0].role is str '\x1b[31muser'; known roles: system, user, assistant, tool",
    ),
    (
        chat(b"raw \x1b[2J escape", b"ok"),
        "not valid JSON: Invalid control character at (column",
    ),
    (chat(rb"\ud83e", b"half a pair"), "half a surrogate pair, which is no character"),
    (chat(LONG, b"Long question"), "the prompt's "),  # found while tokenizing
    (chat(b"Last good row.", b"Yes."), GOOD),
]
TOKENIZED = 24  # the line that leaves while tokenizing

EXPECTED = {
    number: reason
    for number, (_, reason) in enumerate(LINES, start=1)
    if reason not in (None, GOOD)
}


class Done(NamedTuple):
    exit_code: int
    said: str


@pytest.fixture
def rank(tmp_path, tiny_model_dir, capsys):
    """Runs `seal rank` on a pool; nothing it says may hold an escape character."""
    safe = tmp_path / "safe.jsonl"
    safe.write_text('{"prompt": "Is the sea blue?", "completion": "The sea is blue."}\n')

    def call(pool: Path, *words: str) -> Done:
        code = main(
            ["rank", f"model.path={tiny_model_dir}", f"pool.path={json.dumps(str(pool))}",
             f"safe.path={safe}", f"run_dir={tmp_path}/run", "tokenization.max_length=128",
             "rank.method=seal", "rank.epochs=1", "rank.batch_size=4", *words]
        )  # fmt: skip
        said = capsys.readouterr()
        printed = said.out + said.err
        assert "Traceback" not in printed
        for char in "\x1b\x07\u202e":
            assert char not in printed, "raw data reached the terminal"
        return Done(code, " ".join(printed.split()))

    return call


@pytest.fixture
def pool(tmp_path) -> Path:
    path = tmp_path / "pool.jsonl"
    path.write_bytes(b"\n".join(line for line, _ in LINES) + b"\n")
    return path


def excluded_in(folder: Path) -> list[dict]:
    content = (folder / "run" / "rank" / "excluded.jsonl").read_bytes()
    assert content.isascii(), "a terminal may show this file"
    assert b"\x1b" not in content
    return [json.loads(line) for line in content.splitlines()]


def kept_in(folder: Path) -> list[str]:
    return pq.read_table(folder / "run" / "rank" / "ranking.parquet")["id"].to_pylist()


def test_by_default_the_file_is_refused_in_one_message(rank, pool, tmp_path):
    done = rank(pool)
    assert done.exit_code == 2
    num_read = len(LINES) - 1  # but the blank line
    num_bad = len(EXPECTED) - 1  # but the one that is only found while tokenizing
    assert done.said.startswith(
        f"{pool}:4: a row must be a JSON object; this one is null. {num_bad - 1} more of the "
        f"{num_read} rows of the pool set are bad. Correct them, or set on_bad_row: skip to leave "
        "them out; they are then listed in excluded.jsonl. By reason: 2 because a row must be a "
        f"JSON object; this one is null (first: {pool}:4); 2 because "
    )
    assert (num_read, num_bad) == (24, 16)
    assert not (tmp_path / "run").exists()


def test_skip_lists_every_row_that_is_left_out(rank, pool, tmp_path):
    done = rank(pool, "pool.on_bad_row=skip")
    assert done.exit_code == 0, done.said
    excluded = excluded_in(tmp_path)
    found = {row["where"]: row for row in excluded}
    assert len(found) == len(excluded)
    assert list(found) == [f"{pool}:{number}" for number in EXPECTED]
    for number, reason in EXPECTED.items():
        row = found[f"{pool}:{number}"]
        assert row["reason"].startswith(reason), number
        assert row["stage"] == ("tokenize" if number == TOKENIZED else "read")
        assert (row["id"] is None) == (row["stage"] == "read")
    kept = kept_in(tmp_path)
    assert len(kept) == 7
    assert len(kept) + len(excluded) == 24
    twin = [key for key in kept if key.endswith("-1")]
    assert len(twin) == 1, "the repetition of line 1"
    assert twin[0].removesuffix("-1") in kept
    assert "pool: kept 8 of 24 rows; 16 excluded, 1 duplicates" in done.said
    assert "pool: encoded 7 of 8 samples; 1 excluded, 1 responses cut at 128 tokens" in done.said


def test_only_the_broken_file_is_skipped(rank, pool, tmp_path):
    done = rank(pool, "pool.on_bad_row=skip", f"safe.path={pool}")
    assert done.exit_code == 2
    assert "rows of the safe set are bad" in done.said
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("number", [20, 21, 22])
def test_a_hostile_row_cannot_steer_the_terminal(rank, tmp_path, number):
    line, reason = LINES[number - 1]
    path = tmp_path / "hostile.jsonl"
    path.write_bytes(line + b"\n")
    done = rank(path)
    assert done.exit_code == 2
    assert f"{path}:1: {reason}" in done.said
    assert "0 more of the 1 rows of the pool set are bad" in done.said


def test_nor_can_the_name_of_a_file(rank, tmp_path):
    path = tmp_path / "po\x1b[31mol\x07.jsonl"
    path.write_bytes(b"null\n" + LINES[0][0] + b"\n")
    done = rank(path)
    assert done.exit_code == 2
    assert r"po\x1b[31mol\x07.jsonl:1: a row must be a JSON object" in done.said
    done = rank(path, "pool.on_bad_row=skip", "rank.method=loss", "rank.epochs=null")
    assert done.exit_code == 2, "loss has no epochs"
    done = rank(path, "pool.on_bad_row=skip")
    assert done.exit_code == 0, done.said
    assert [row["where"] for row in excluded_in(tmp_path)] == [f"{path}:1"]


def test_nothing_but_bad_rows(rank, tmp_path):
    path = tmp_path / "bad.jsonl"
    path.write_bytes(b"null\n\n[1]\n")
    done = rank(path, "pool.on_bad_row=skip")
    assert done.exit_code == 2
    assert done.said == (
        f"{path}: no usable sample for the pool set: 2 rows read, 2 excluded (first: {path}:1: a "
        "row must be a JSON object; this one is null). Give a file with samples, or set its format."
    )
    assert not (tmp_path / "run").exists()


@pytest.mark.real_data
@pytest.mark.skipif(not REAL.is_file(), reason=f"no {REAL.name} beside the checkout")
def test_the_file_beside_the_checkout(rank, tmp_path):
    refused = rank(REAL)
    assert refused.exit_code == 2
    assert f"{REAL}:4: a row must be a JSON object; this one is null." in refused.said
    assert "11 more of the 19 rows of the pool set are bad" in refused.said
    assert "on_bad_row: skip" in refused.said
    assert not (tmp_path / "run").exists()

    done = rank(REAL, "pool.on_bad_row=skip")
    assert done.exit_code == 0, done.said
    excluded = excluded_in(tmp_path)
    numbers = [4, 5, 6, 7, 8, 9, 10, 11, 12, 17, 18, 19]
    assert [row["where"] for row in excluded] == [f"{REAL}:{number}" for number in numbers]
    for row, number in zip(excluded, numbers, strict=True):
        same = EXPECTED[number].partition("(column")[0].partition(": byte")[0]
        assert re.match(re.escape(same), row["reason"]), number
    assert len(kept_in(tmp_path)) == 7
    assert len(kept_in(tmp_path)) + len(excluded) == 19
