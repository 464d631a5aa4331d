"""Reuse, refusal, interruption: what is on disk after each, to the byte."""

import json
import os
import re
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Event

import pytest

from seal.artifacts import run_dir
from seal.artifacts.provenance import Provenance, load_provenance, made_files, save_provenance
from seal.artifacts.run_dir import (
    RunDir,
    build_or_reuse,
    build_or_wait,
    copy_of,
    is_current,
    is_running,
    rebuild,
    twin_of,
)

IDENTITY = {"stage": "rank", "ranker": {"epochs": 3, "betas": (0.9, 0.95)}, "pool": "abc"}


def write(folder: Path) -> None:
    (folder / "result").write_text("made")


def never(_folder: Path) -> None:
    pytest.fail("it was built again")


def state(root: Path) -> dict[str, tuple[bytes, int]]:
    return {
        str(path.relative_to(root)): (path.read_bytes(), path.stat().st_mtime_ns)
        for path in root.rglob("*")
        if path.is_file()
    }


def test_where_things_lie():
    run = RunDir(Path("runs/x"))
    assert [run.config, run.rank, run.select, run.report] == [
        Path("runs/x") / name for name in ("config.yaml", "rank", "select", "report")
    ]
    assert run.train("all", 3) == Path("runs/x/train/all/seed-3")
    assert run.evaluate("base", 0) == Path("runs/x/evaluate/base/seed-0")
    assert run.arm_rank("a") == Path("runs/x/arms/a/rank")
    assert run.arm_select("a") == Path("runs/x/arms/a/select")


def test_what_is_built_says_what_made_it(tmp_path):
    folder = tmp_path / "runs" / "rank"
    assert build_or_reuse(folder, IDENTITY, write) is True
    assert sorted(path.name for path in folder.iterdir()) == ["provenance.json", "result"]
    found = load_provenance(folder)
    assert found.identity == json.loads(json.dumps(IDENTITY))
    assert set(found.environment) == {
        "packages", "python", "platform", "cpu_count", "git_commit", "date", "seconds",
        "cpu_seconds", "peak_memory_bytes",
    }  # fmt: skip
    assert [path.name for path in folder.parent.iterdir()] == ["rank"]


def test_equal_is_reused_without_a_call(tmp_path):
    build_or_reuse(tmp_path / "rank", IDENTITY, write)
    before = state(tmp_path)
    again = dict(reversed(IDENTITY.items()))
    assert build_or_reuse(tmp_path / "rank", again, never) is False
    assert state(tmp_path) == before


def test_only_the_very_same_is_current(tmp_path):
    folder = tmp_path / "rank"
    assert not is_current(folder, IDENTITY)
    build_or_reuse(folder, IDENTITY, write)
    assert is_current(folder, IDENTITY)
    assert not is_current(folder, {**IDENTITY, "pool": "abd"})
    (folder / "provenance.json").write_text("{")
    assert not is_current(folder, IDENTITY)


def test_different_is_refused_with_every_field_and_left_alone(tmp_path):
    folder = tmp_path / "rank"
    build_or_reuse(folder, IDENTITY, write)
    before = state(tmp_path)
    other = {"stage": "rank", "ranker": {"epochs": 5, "betas": (0.9, 0.99)}, "safe": "def"}
    with pytest.raises(ValueError, match="was made from something else") as caught:
        build_or_reuse(folder, other, never)
    assert str(caught.value) == (
        f"{folder} was made from something else:\n"
        "  pool: abc there, (absent) now\n"
        "  ranker.betas: [0.9, 0.95] there, [0.9, 0.99] now\n"
        "  ranker.epochs: 3 there, 5 now\n"
        "  safe: (absent) there, def now\n"
        f"Delete {folder} to make it again, or give another run_dir."
    )
    assert state(tmp_path) == before


@pytest.mark.parametrize(("changed", "more"), [(8, ""), (9, "and 1 more"), (20, "and 12 more")])
def test_many_differences_are_counted(tmp_path, changed, more):
    folder = tmp_path / "rank"
    build_or_reuse(folder, {f"k{i:02}": 0 for i in range(20)}, write)
    with pytest.raises(ValueError, match="k00: 0 there, 1 now") as caught:
        build_or_reuse(folder, {f"k{i:02}": int(i < changed) for i in range(20)}, never)
    lines = str(caught.value).splitlines()
    assert len(lines) == 1 + 8 + bool(more) + 1
    assert lines[8] == "  k07: 0 there, 1 now"
    assert more in lines[9]


def test_a_folder_that_does_not_say_what_made_it(tmp_path):
    folder = tmp_path / "rank"
    folder.mkdir()
    (folder / "mine").write_text("precious")
    with pytest.raises(
        ValueError,
        match=rf"^{re.escape(str(folder))} holds no readable provenance\.json .*so it cannot be "
        "told what made it. Delete the folder to make it again, or give another run_dir",
    ):
        build_or_reuse(folder, IDENTITY, never)
    assert (folder / "mine").read_text() == "precious"


@pytest.mark.parametrize("text", ["", "{", "[]", "null", "{}", '{"identity": {}}', "\ufeff{}"])
def test_a_broken_record(tmp_path, text):
    folder = tmp_path / "rank"
    build_or_reuse(folder, IDENTITY, write)
    (folder / "provenance.json").write_text(text, encoding="utf-8")
    with pytest.raises(ValueError, match=r"holds no readable provenance\.json .*Delete the folder"):
        build_or_reuse(folder, IDENTITY, never)
    assert (folder / "result").read_text() == "made"


def test_a_file_in_place_of_the_folder(tmp_path):
    (tmp_path / "rank").write_text("a file")
    with pytest.raises(ValueError, match=r"rank holds no readable provenance\.json"):
        build_or_reuse(tmp_path / "rank", IDENTITY, never)
    assert (tmp_path / "rank").read_text() == "a file"


@pytest.mark.parametrize("error", [KeyboardInterrupt, ValueError, SystemExit])
def test_an_interrupted_build_leaves_nothing_and_can_be_repeated(tmp_path, error):
    folder = tmp_path / "runs" / "x" / "rank"

    def half(temporary: Path) -> None:
        write(temporary)
        raise error

    with pytest.raises(error):
        build_or_reuse(folder, IDENTITY, half)
    assert list(tmp_path.iterdir()) == []
    assert build_or_reuse(folder, IDENTITY, write) is True
    assert (folder / "result").read_text() == "made"


def test_a_record_that_cannot_be_written_leaves_nothing(tmp_path, monkeypatch):
    def refuse(*_):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("seal.artifacts.run_dir.save_provenance", refuse)
    with pytest.raises(PermissionError):
        build_or_reuse(tmp_path / "runs" / "rank", IDENTITY, write)
    assert list(tmp_path.iterdir()) == []


def test_an_identity_is_json(tmp_path):
    with pytest.raises(ValueError, match="Out of range float"):
        build_or_reuse(tmp_path / "rank", {"a": float("nan")}, never)
    with pytest.raises(TypeError, match="not JSON serializable"):
        build_or_reuse(tmp_path / "rank", {"a": Path("x")}, never)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError, ValueError])
def test_rebuild_keeps_the_old_folder_when_the_build_fails(tmp_path, error):
    folder = tmp_path / "report"
    rebuild(folder, write)
    before = state(tmp_path)

    def half(new: Path) -> None:
        assert (folder / "result").is_file(), "the old one is there while the new one is made"
        (new / "half").write_text("half")
        raise error

    with pytest.raises(error):
        rebuild(folder, half)
    assert state(tmp_path) == before
    assert [path.name for path in tmp_path.iterdir()] == ["report"]


def test_rebuild_replaces_the_whole_folder_and_clears_what_a_killed_process_left(tmp_path):
    left = tmp_path / ".report.new"
    left.mkdir()
    (left / "stale").write_text("stale")
    rebuild(tmp_path / "report", lambda new: (new / "old").write_text("1"))
    rebuild(tmp_path / "report", write)
    assert state(tmp_path).keys() == {"report/result"}
    assert [path.name for path in tmp_path.iterdir()] == ["report"]


# --- other processes, and other arms -------------------------------------------------------------


def partial(folder: Path) -> Path:
    """What an attempt has made so far."""
    (found,) = folder.parent.glob(f".{folder.name}-*.partial")
    return found


def test_an_artifact_is_running_while_it_is_built(tmp_path):
    folder = tmp_path / "train" / "all" / "seed-1"
    seen = []

    def build(temporary: Path) -> None:
        seen.append((is_running(folder), is_running(folder.with_name("seed-10"))))
        assert temporary == partial(folder)
        assert not list(temporary.iterdir()), "it starts empty"

    assert not is_running(folder)
    build_or_reuse(folder, IDENTITY, build)
    assert seen == [(True, False)]
    assert not is_running(folder)


def test_what_a_killed_process_left_is_removed_and_what_a_living_one_makes_is_not(tmp_path):
    folder = tmp_path / "rank"
    left = tmp_path / ".rank-x.partial"
    (left / "adapter").mkdir(parents=True)
    beside = tmp_path / ".rankings-x.partial"
    beside.mkdir()
    assert not is_running(folder)

    def build(temporary: Path) -> None:
        assert not left.exists()
        with pytest.raises(
            ValueError, match=rf"rank is being made by .* process \({os.getpid()}\)"
        ):
            build_or_reuse(folder, IDENTITY, lambda _: pytest.fail("a second writer"))
        assert temporary.exists(), "the other attempt left it alone"

    build_or_reuse(folder, IDENTITY, build)
    assert beside.exists(), "the folder of something else"


def test_without_locks_nothing_is_running_and_nothing_is_removed(tmp_path, monkeypatch):
    left = tmp_path / ".rank-x.partial"
    left.mkdir()
    monkeypatch.setattr(run_dir, "fcntl", None)
    seen = []
    build_or_reuse(
        tmp_path / "rank", IDENTITY, lambda _: seen.append(is_running(tmp_path / "rank"))
    )
    assert seen == [False]
    assert left.exists()


def test_a_twin_is_copied_with_its_origin(tmp_path):
    run = RunDir(tmp_path / "x")
    build_or_reuse(run.train("all", 0), IDENTITY, write)
    (run.train("all", 0) / "sub").mkdir()
    (run.train("all", 0) / "sub" / "provenance.json").write_text("not the record")
    build_or_reuse(run.train("other", 0), {**IDENTITY, "pool": "abd"}, write)
    (run.train("broken", 0)).mkdir(parents=True)
    others = run.like(run.train("new", 0))
    assert others == [run.train(name, 0) for name in ("all", "broken", "other")]
    assert twin_of(others, {**IDENTITY, "pool": "x"}) is None
    twin = twin_of(others, IDENTITY)
    assert twin == run.train("all", 0)
    build_or_reuse(run.train("new", 0), IDENTITY, copy_of(twin, "train/all/seed-0"))
    assert (run.train("new", 0) / "result").read_text() == "made"
    assert (run.train("new", 0) / "sub" / "provenance.json").read_text() == "not the record"
    noted = load_provenance(run.train("new", 0))
    assert noted.environment["copied_from"] == "train/all/seed-0"
    assert "copied_from" not in load_provenance(twin).environment
    assert noted.identity == load_provenance(twin).identity


def test_alike_are_finished_artifacts_of_the_same_kind(tmp_path):
    run = RunDir(tmp_path)
    folders = [run.rank, run.arm_rank("a"), run.arm_rank("b"), run.select, run.arm_select("a"),
               run.train("a", 0), run.train("a", 1), run.evaluate("a", 0)]  # fmt: skip
    for folder in (*folders, tmp_path / "train" / "a" / ".seed-2-x.partial"):
        folder.mkdir(parents=True)
    assert run.like(run.rank) == [run.arm_rank("a"), run.arm_rank("b")]
    assert run.like(run.arm_rank("a")) == [run.arm_rank("b"), run.rank]
    assert run.like(run.select) == [run.arm_select("a")]
    assert run.like(run.train("b", 0)) == [run.train("a", 0), run.train("a", 1)]
    assert run.like(run.evaluate("a", 0)) == []


def test_waiting_for_another_that_makes_the_same(tmp_path):
    folder, started, go_on = tmp_path / "kept", Event(), Event()

    def slow(temporary):
        started.set()
        assert go_on.wait(10)
        write(temporary)

    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(build_or_wait, folder, IDENTITY, slow)
        assert started.wait(10)
        second = pool.submit(build_or_wait, folder, IDENTITY, never)
        with pytest.raises(TimeoutError):
            second.result(timeout=0.3)
        go_on.set()
        assert (first.result(10), second.result(10)) == (True, False)
    assert [path.name for path in tmp_path.iterdir()] == ["kept"]


def test_one_that_was_made_between_look_and_claim_is_reused(tmp_path, monkeypatch):
    folder = tmp_path / "kept"
    remove = run_dir._remove_abandoned

    def made_meanwhile(_folder):
        monkeypatch.setattr(run_dir, "_remove_abandoned", remove)
        build_elsewhere()

    def build_elsewhere():
        folder.mkdir()
        write(folder)
        save_provenance(
            Provenance(json.loads(json.dumps(IDENTITY)), {}, made_files(folder)), folder
        )

    monkeypatch.setattr(run_dir, "_remove_abandoned", made_meanwhile)
    assert build_or_wait(folder, IDENTITY, never) is False
