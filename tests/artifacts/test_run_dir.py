"""Existence means completeness, and reuse asks what an artifact was made from."""

import errno
import os
from pathlib import Path

import pytest

from seal.artifacts.atomic import new_folder, write_json, write_text
from seal.artifacts.provenance import content_hash, differences, load_provenance, model_identity
from seal.artifacts.run_dir import build_or_reuse, rebuild


def put(text: str):
    return lambda folder: (folder / "x.txt").write_text(text)


def fail(error: BaseException):
    def build(folder: Path) -> None:
        (folder / "half.txt").write_text("half")
        raise error

    return build


def files(root: Path) -> list[str]:
    return sorted(str(path.relative_to(root)) for path in root.rglob("*"))


def test_absent_is_built_and_equal_is_reused(tmp_path):
    folder = tmp_path / "runs" / "rank"
    assert build_or_reuse(folder, {"seed": 1, "files": ("a", "b")}, put("one"))
    assert not build_or_reuse(folder, {"seed": 1, "files": ["a", "b"]}, fail(AssertionError()))
    assert (folder / "x.txt").read_text() == "one"
    assert load_provenance(folder).identity == {"seed": 1, "files": ["a", "b"]}
    assert load_provenance(folder).environment["seconds"] >= 0


def test_different_is_refused_naming_every_field(tmp_path):
    folder = tmp_path / "rank"
    build_or_reuse(folder, {"ranker": {"epochs": 3, "seed": 0}, "pool": "aa"}, put("one"))
    with pytest.raises(ValueError, match="was made from something else") as refused:
        build_or_reuse(folder, {"ranker": {"epochs": 5, "seed": 0}, "pool": "bb"}, put("two"))
    said = str(refused.value)
    assert "ranker.epochs: 3 there, 5 now" in said
    assert "pool: aa there, bb now" in said
    assert f"Delete {folder} to make it again, or give another run_dir." in said
    assert (folder / "x.txt").read_text() == "one"


@pytest.mark.parametrize(
    "error", [ValueError("bad"), KeyboardInterrupt(), OSError(errno.ENOSPC, "No space left")]
)
def test_a_failed_build_leaves_nothing(tmp_path, error):
    with pytest.raises(type(error)):
        build_or_reuse(tmp_path / "runs" / "x" / "rank", {}, fail(error))
    assert files(tmp_path) == []


def test_a_failed_rebuild_keeps_the_old(tmp_path):
    folder = tmp_path / "report"
    rebuild(folder, put("old"))
    with pytest.raises(ValueError, match="bad"):
        rebuild(folder, fail(ValueError("bad")))
    assert files(tmp_path) == ["report", "report/x.txt"]
    rebuild(folder, put("new"))
    assert (folder / "x.txt").read_text() == "new"


def test_a_folder_without_provenance_is_not_reused(tmp_path):
    (tmp_path / "rank").mkdir()
    with pytest.raises(ValueError, match=r"rank holds no readable provenance.json .*Delete"):
        build_or_reuse(tmp_path / "rank", {}, put("one"))


def test_a_folder_that_is_there_is_never_overwritten(tmp_path):
    with pytest.raises(ValueError, match="exists already"), new_folder(tmp_path):
        pass


def test_no_place_to_write(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(ValueError, match=r"cannot write into .*file.* Give a run_dir"):
        build_or_reuse(tmp_path / "file" / "rank", {}, put("one"))

    def read_only(*_args, **_kwargs):
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr("tempfile.TemporaryFile", read_only)
    with pytest.raises(ValueError, match=r"cannot write into .*Permission denied"):
        build_or_reuse(tmp_path / "runs" / "rank", {}, put("one"))


def test_a_write_that_breaks_off_keeps_the_old_text(tmp_path, monkeypatch):
    path = tmp_path / "config.yaml"
    write_text(path, "old")

    def full(*_args):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "replace", full)
    with pytest.raises(OSError, match="No space"):
        write_text(path, "new")
    assert files(tmp_path) == ["config.yaml"]
    assert path.read_text() == "old"


def test_json_has_no_nan(tmp_path):
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(tmp_path / "x.json", {"loss": float("nan")})
    assert files(tmp_path) == []


def test_files_are_readable_by_others(tmp_path):
    build_or_reuse(tmp_path / "rank", {}, put("one"))
    write_text(tmp_path / "config.yaml", "x")
    assert os.stat(tmp_path / "rank").st_mode & 0o755 == 0o755  # noqa: PTH116
    assert os.stat(tmp_path / "config.yaml").st_mode & 0o644 == 0o644  # noqa: PTH116


def test_differences_by_hand():
    old = {"a": 1, "b": {"c": 2, "d": 3}, "gone": True}
    new = {"a": 1, "b": {"c": 5, "d": 3}, "fresh": None}
    assert differences(old, new) == [
        "b.c: 2 there, 5 now",
        "fresh: (absent) there, null now",
        "gone: true there, (absent) now",
    ]
    assert differences(old, old) == []


def test_content_hash_ignores_order_but_not_repetition():
    assert content_hash(["b", "a"]) == content_hash(["a", "b"])
    assert content_hash(["a", "a"]) != content_hash(["a"])
    assert content_hash(["ab", "c"]) != content_hash(["a", "bc"])


def test_model_identity_changes_with_a_byte(tmp_path):
    weights = tmp_path / "model.safetensors"
    weights.write_bytes(b"0" * 100)
    before = model_identity(str(tmp_path), None)
    weights.write_bytes(b"0" * 99 + b"1")
    assert model_identity(str(tmp_path), None) != before
    assert model_identity("owner/name", "abc") == {"path": "owner/name", "revision": "abc"}
