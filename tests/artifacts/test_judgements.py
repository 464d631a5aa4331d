"""The file of judgements: no line that was written is lost, whatever happens to the writers."""

import json
import multiprocessing
import os
import signal
import time

import pytest

from seal.artifacts import judgements
from seal.artifacts.checked_lines import checked_line
from seal.artifacts.judgements import JudgementFile

IDENTITY = {"judge": "rubric", "model": "m"}


def make(root, **more):
    return JudgementFile(root, "rubric", {**IDENTITY, **more})


def test_what_was_added_is_found_by_another_object(tmp_path):
    file = make(tmp_path)
    key = file.key("prompt", "response", "")
    assert file.find(key) is None
    file.add(key, {"score": 3.0, "raw": "\ud800 half a pair \n and a line"})
    expected = {"score": 3.0, "raw": "\ud800 half a pair \n and a line"}
    assert file.find(key) == expected
    assert make(tmp_path).find(key) == expected
    assert len(file.path.read_bytes().splitlines()) == 1


def test_nothing_is_written_before_the_first_judgement(tmp_path):
    make(tmp_path / "absent").find("x")
    assert not (tmp_path / "absent").exists()


def test_the_key_depends_on_the_identity_and_every_text(tmp_path):
    file = make(tmp_path)
    keys = {
        file.key("a", "b", "c"),
        file.key("a", "c", "b"),
        file.key("ab", "", "c"),
        file.key("a", "b", "\ud800"),
        make(tmp_path, model="n").key("a", "b", "c"),
    }
    assert len(keys) == 5
    assert make(tmp_path).key("a", "b", "c") == file.key("a", "b", "c")


def test_each_judge_has_a_file_and_a_page_of_its_own(tmp_path):
    one, two = make(tmp_path), make(tmp_path, model="n")
    one.add("k", {"score": 1})
    two.add("k", {"score": 2})
    assert one.path != two.path
    assert make(tmp_path).find("k") == {"score": 1}
    page = json.loads(two.path.with_suffix(".json").read_text())
    assert page == {"judge": "rubric", "model": "n"}


@pytest.mark.parametrize("cut", range(1, 40, 3))
def test_a_torn_line_costs_only_itself(tmp_path, cut):
    file = make(tmp_path)
    for key in "abc":
        file.add(key, {"score": 1, "raw": "x" * 20})
    whole = file.path.read_bytes()
    file.path.write_bytes(whole[:-cut])
    again = make(tmp_path)
    assert again.find("a") == again.find("b") == {"score": 1, "raw": "x" * 20}
    assert (again.find("c") is None) == (cut > 1)  # the line's end alone is no loss
    again.add("d", {"score": 4})
    third = make(tmp_path)
    assert third.find("d") == {"score": 4}
    assert third.find("b") is not None


@pytest.mark.parametrize("line", [b"\xff\xfe", b"[]", b"3", b"null", b'{"score": 1}'])
def test_foreign_lines_are_refused(tmp_path, line):
    file = make(tmp_path)
    file.add("a", {"score": 1})
    with file.path.open("ab") as out:
        out.write(line + b"\n")
    file.add("b", {"score": 2})
    with pytest.raises(ValueError, match=rf"{file.path.name}:2: this line was changed since"):
        make(tmp_path).find("a")


def test_each_line_is_one_write_that_reaches_the_disk(tmp_path, monkeypatch):
    calls = []
    real_write, real_sync = os.write, os.fsync
    monkeypatch.setattr(
        judgements.os, "write", lambda fd, data: (calls.append(data), real_write(fd, data))[1]
    )
    monkeypatch.setattr(judgements.os, "fsync", lambda fd: (calls.append("sync"), real_sync(fd)))
    file = make(tmp_path)
    file.add("a", {})
    file.add("b", {})
    written = [checked_line({"key": key, "schema": 2}).encode() for key in "ab"]
    assert calls == [written[0], "sync", written[1], "sync"]


def test_a_full_disk_is_said_and_the_rest_is_kept(tmp_path, monkeypatch):
    file = make(tmp_path)
    file.add("a", {"score": 1})
    real = os.write
    monkeypatch.setattr(judgements.os, "write", lambda fd, data: real(fd, data[:5]))
    with pytest.raises(ValueError, match=r"cannot write a judgement into .*disk may be full"):
        file.add("b", {"score": 2})
    monkeypatch.setattr(judgements.os, "write", real)
    again = make(tmp_path)
    assert again.find("b") is None
    again.add("c", {"score": 3})
    assert make(tmp_path).find("a") == {"score": 1}
    assert make(tmp_path).find("c") == {"score": 3}


def _write_many(root, name, start):
    file = make(root)
    start.wait()
    for number in range(150):
        file.add(f"{name}-{number}", {"raw": name * 400})


def test_processes_that_write_at_once_lose_nothing(tmp_path):
    context = multiprocessing.get_context("spawn")
    start = context.Event()
    names = "abc"
    writers = [context.Process(target=_write_many, args=(tmp_path, name, start)) for name in names]
    for writer in writers:
        writer.start()
    start.set()
    for writer in writers:
        writer.join()
    file = make(tmp_path)
    for name in names:
        for number in range(150):
            assert file.find(f"{name}-{number}") == {"raw": name * 400}


def _write_for_ever(root, told):
    file = make(root)
    for number in range(10**6):
        file.add(str(number), {"raw": "y" * 3000})
        told.value = number


def test_a_killed_process_loses_nothing_that_it_was_told_is_there(tmp_path):
    context = multiprocessing.get_context("spawn")
    told = context.Value("i", -1)
    writer = context.Process(target=_write_for_ever, args=(tmp_path, told))
    writer.start()
    while told.value < 20:
        time.sleep(0.001)
    os.kill(writer.pid, signal.SIGKILL)
    writer.join()
    file = make(tmp_path)
    assert all(file.find(str(number)) is not None for number in range(told.value + 1))


def test_a_line_without_a_version_is_of_the_first_and_a_later_one_is_refused(tmp_path):
    file = make(tmp_path)
    file.add("new", {"score": 1})
    old = checked_line({"key": "old", "score": 2})
    later = checked_line({"key": "later", "schema": 3, "score": 3})
    with file.path.open("a") as lines:
        lines.write(old)
    assert make(tmp_path).find("old") == {"score": 2}
    assert make(tmp_path).find("new") == {"score": 1}
    with file.path.open("a") as lines:
        lines.write(later)
    with pytest.raises(ValueError, match=r":3: this judgement is of version 3, and this version"):
        make(tmp_path).find("old")
