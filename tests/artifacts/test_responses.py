"""Kept answers: none is lost, none is taken for another's, whatever a crash leaves behind."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from seal.artifacts.responses import Answer, ResponseStore

HEADER = {"model": {"files": {"a": "1"}}, "decoding": {"max_new_tokens": 4}, "tuple": (1, 2)}


@pytest.fixture
def file(tmp_path):
    return ResponseStore(tmp_path / "responses").open(HEADER)


def test_what_is_appended_is_read_back(file):
    assert file.read() == {}
    first = {"k1": Answer("line\nbreak \u2028 \N{SEAL}")}
    file.append(first)
    file.append({"k2": Answer("", "finish_reason length"), "k3": Answer('{"header": 1}')})
    assert file.read() == {
        **first,
        "k2": Answer("", "finish_reason length"),
        "k3": Answer('{"header": 1}'),
    }


def test_the_first_line_shows_in_clear_what_made_the_answers(file):
    file.append({"k": Answer("a")})
    file.append({"l": Answer("b")})
    lines = [json.loads(line) for line in file.path.read_text().splitlines()]
    assert lines == [
        {"header": {**HEADER, "tuple": [1, 2]}, "checksum": lines[0]["checksum"]},
        {"key": "k", "response": "a", "checksum": lines[1]["checksum"]},
        {"key": "l", "response": "b", "checksum": lines[2]["checksum"]},
    ]
    again = ResponseStore(file.path.parent).open(HEADER)
    again.read()
    again.append({"m": Answer("c")})
    assert file.path.read_text().count('"header"') == 1


def test_another_header_is_another_file_and_the_same_one_in_any_order_the_same(tmp_path):
    store = ResponseStore(tmp_path)
    backwards = dict(reversed(list(HEADER.items())))
    assert store.open(HEADER).path == store.open(backwards).path
    assert store.open(HEADER).path != store.open({**HEADER, "tuple": (1, 3)}).path


def test_a_line_cut_off_at_any_byte_costs_its_own_answer_only(file):
    file.append({"k1": Answer("one")})
    file.append({"k2": Answer("two")})
    whole = file.path.read_bytes()
    start_of_last = whole.rindex(b'{"key": "k2"')
    for end in range(len(whole)):
        file.path.write_bytes(whole[:end])
        file = ResponseStore(file.path.parent).open(HEADER)
        found = file.read()
        assert found.get("k2", Answer("two")) == Answer("two")
        assert ("k1" in found) or end < start_of_last - 1
        assert ("k2" in found) == (end == len(whole) - 1)  # all but the line break
        file.append({"k3": Answer("three")})
        assert file.read() == {**found, "k3": Answer("three")}
        assert b'"header"' in file.path.read_bytes()


def test_of_two_answers_the_first_counts_for_good(file):
    file.append({"k": Answer("first")})
    file.append({"k": Answer("second")})
    assert file.read() == {"k": Answer("first")}


def test_a_file_that_is_another_ones_is_refused(tmp_path, file):
    other = ResponseStore(tmp_path).open({"model": "other"})
    other.append({"k": Answer("a")})
    file.path.parent.mkdir()
    other.path.replace(file.path)
    with pytest.raises(ValueError, match=r"\.jsonl:1: the answers .* another way .* Delete it"):
        file.read()


def test_a_changed_line_is_refused_with_its_number(file):
    file.append({"k1": Answer("one"), "k2": Answer("two")})
    file.path.write_bytes(file.path.read_bytes().replace(b'"one"', b'"ome"'))
    with pytest.raises(ValueError, match=r"\.jsonl:2: this line was changed .* delete the line"):
        file.read()
    lines = file.path.read_bytes().split(b"\n")
    file.path.write_bytes(b"\n".join([lines[0], *lines[2:]]))  # the way out
    assert file.read() == {"k2": Answer("two")}


def test_what_cannot_be_written_or_read_is_said(tmp_path):
    (tmp_path / "taken").write_text("a file")
    with pytest.raises(ValueError, match=r"the answers cannot be kept \(.*run the same command"):
        ResponseStore(tmp_path / "taken").open(HEADER).append({"k": Answer("a")})
    file = ResponseStore(tmp_path).open(HEADER)
    file.path.mkdir()
    with pytest.raises(ValueError, match=r"\.jsonl cannot be read \(Is a directory\)"):
        file.read()


APPENDER = """
import json, sys
from pathlib import Path
from seal.artifacts.responses import Answer, ResponseStore
root, name = sys.argv[1:]
file = ResponseStore(Path(root)).open({"shared": True})
print("ready", flush=True)
sys.stdin.readline()
for i in range(60):
    file.append({f"{name}-{i}": Answer(name * 300), f"both-{i}": Answer(name)})
"""


def test_two_processes_may_write_at_once(tmp_path):
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", APPENDER, str(tmp_path), name],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for name in "ab"
    ]
    for process in processes:
        assert process.stdout.readline() == "ready\n"
    for process in processes:
        process.stdin.write("go\n")
        process.stdin.flush()
    for process in processes:
        process.communicate(timeout=60)
        assert process.returncode == 0
    answers = ResponseStore(tmp_path).open({"shared": True}).read()
    for name in "ab":
        assert all(answers[f"{name}-{i}"] == Answer(name * 300) for i in range(60))
    assert {answers[f"both-{i}"].response for i in range(60)} <= {"a", "b"}
    [path] = Path(tmp_path).iterdir()
    # Who looks at a line that is just being written begins a new one, which may leave one empty.
    lines = [json.loads(line) for line in path.read_text().splitlines() if line]
    # Both may have found no file and written the header.
    assert sum("key" in line for line in lines) == 240
    assert 1 <= sum("header" in line for line in lines) <= 2


def test_a_disk_that_is_full_in_the_middle_of_a_line_loses_no_answer_before(file, monkeypatch):
    file.append({"k1": Answer("one")})
    calls = []

    def nearly_full(handle, data):
        calls.append(data)
        if len(calls) == 1:
            return real(handle, data[:7])
        raise OSError(28, "No space left on device")

    import os

    real = os.write
    with monkeypatch.context() as patch:
        patch.setattr("seal.artifacts.responses.os.write", nearly_full)
        with pytest.raises(ValueError, match=r"cannot be kept \(No space left on device\)"):
            file.append({"k2": Answer("two")})
    assert file.read() == {"k1": Answer("one")}
    file.append({"k2": Answer("two")})
    assert file.read() == {"k1": Answer("one"), "k2": Answer("two")}


def test_answers_are_on_the_disk_before_append_returns(file, monkeypatch):
    import os

    synced = []
    real = os.fsync
    monkeypatch.setattr(
        "seal.artifacts.responses.os.fsync", lambda handle: synced.append(real(handle))
    )
    file.append({"k": Answer("a")})
    assert len(synced) == 1
