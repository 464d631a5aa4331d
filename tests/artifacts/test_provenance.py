"""Where an artifact comes from."""

import hashlib
import json
import shutil
import subprocess

import pytest

from seal.artifacts import provenance
from seal.artifacts.provenance import (
    Provenance,
    content_hash,
    differences,
    environment,
    file_hash,
    folder_hashes,
    load_provenance,
    save_provenance,
)
from seal.model_folders import model_identity

DIFFERENCES = [
    ({}, {}, []),
    ({"a": 1, "b": [1]}, {"b": [1], "a": 1}, []),
    ({"a": 1}, {"a": 2}, ["a: 1 there, 2 now"]),
    ({"a": 1}, {}, ["a: 1 there, (absent) now"]),
    ({}, {"a": None}, ["a: (absent) there, null now"]),
    ({"a": "x"}, {"a": None}, ["a: x there, null now"]),
    ({"a": {"b": {"c": 1, "d": 2}}}, {"a": {"b": {"c": 3, "d": 2}}}, ["a.b.c: 1 there, 3 now"]),
    ({"a": [1, 2]}, {"a": [2, 1]}, ["a: [1, 2] there, [2, 1] now"]),
    ({"a": {"b": 1}}, {"a": 1}, ['a: {"b": 1} there, 1 now']),
    ({"b": 1, "a": 1}, {"b": 2, "a": 2}, ["a: 1 there, 2 now", "b: 1 there, 2 now"]),
    ({"a": "x" * 61}, {"a": "y" * 60}, [f"a: {'x' * 57}... there, {'y' * 60} now"]),
]


@pytest.mark.parametrize(("old", "new", "lines"), DIFFERENCES)
def test_differences_by_hand(old, new, lines):
    assert differences(old, new) == lines


def test_content_hash_does_not_depend_on_the_order():
    parts = ["b", "a", "ü", "\ud800"]
    assert content_hash(parts) == content_hash(iter(parts[::-1]))
    assert content_hash(["b", "a"]) == hashlib.sha256(b"a\0b\0").hexdigest()


def test_content_hash_depends_on_the_content():
    all_different = [[], [""], ["a"], ["a", "a"], ["ab"], ["a", "b"], ["aa", "b"]]
    assert len({content_hash(parts) for parts in all_different}) == len(all_different)


def test_file_hash(tmp_path):
    (tmp_path / "a").write_bytes(b"abc")
    assert file_hash(tmp_path / "a") == hashlib.sha256(b"abc").hexdigest()


def test_folder_hashes_leave_logs_and_records_out(tmp_path):
    (tmp_path / "adapter").mkdir()
    for name in ("adapter.json", "adapter/weights", "metrics.jsonl", "provenance.json"):
        (tmp_path / name).write_bytes(name.encode())
    found = folder_hashes(tmp_path)
    assert found == {
        name: hashlib.sha256(name.encode()).hexdigest()
        for name in ("adapter.json", "adapter/weights")
    }
    (tmp_path / "metrics.jsonl").write_text("another time")
    assert folder_hashes(tmp_path) == found


def test_model_identity_changes_with_a_byte_of_any_of_its_files(tiny_model_dir, tmp_path):
    folder = tmp_path / "model"
    shutil.copytree(tiny_model_dir, folder)
    whole = model_identity(str(folder), None)
    assert {"config.json", "model.safetensors", "tokenizer.json", "chat_template.jinja"} <= set(
        whole["files"]
    )
    for name in whole["files"]:
        content = (folder / name).read_bytes()
        (folder / name).write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
        changed = model_identity(str(folder), None)
        assert [key for key in whole["files"] if changed["files"][key] != whole["files"][key]] == [
            name
        ]
        (folder / name).write_bytes(content)
    assert model_identity(str(folder), None) == whole


def test_model_identity_follows_the_files_not_the_place(tiny_model_dir, tmp_path):
    shutil.copytree(tiny_model_dir, tmp_path / "moved")
    (tmp_path / "moved" / "README.md").write_text("a note")
    assert model_identity(str(tmp_path / "moved"), None) == model_identity(
        str(tiny_model_dir), None
    )


def test_model_identity_of_a_name_on_the_hub():
    assert model_identity("owner/name", "abc") == {"path": "owner/name", "revision": "abc"}


def test_what_is_saved_is_loaded(tmp_path):
    made = Provenance({"stage": "rank", "seed": 0}, {"seconds": 1.5})
    save_provenance(made, tmp_path)
    again = load_provenance(tmp_path)
    assert (again.identity, again.environment) == (made.identity, made.environment)
    text = (tmp_path / "provenance.json").read_text()
    assert json.loads(text) == {"identity": made.identity, "environment": made.environment}


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (None, "No such file"),
        (b"{", "Expecting property name"),
        (b"\xff", "can't decode byte"),
        (b'{"environment": {}}', "'identity'"),
        (b'"text"', "string indices"),
    ],
)
def test_a_record_that_is_missing_or_broken(tmp_path, content, reason):
    if content is not None:
        (tmp_path / "provenance.json").write_bytes(content)
    with pytest.raises(ValueError, match=rf"no readable provenance\.json .*{reason}.*Delete the f"):
        load_provenance(tmp_path)


def test_environment_is_json_and_names_the_packages():
    found = environment()
    assert json.loads(json.dumps(found)) == found
    assert set(found["packages"]) == set(provenance.PACKAGES)
    assert found["packages"]["torch"]


@pytest.mark.parametrize("error", [FileNotFoundError("git"), subprocess.TimeoutExpired("git", 10)])
def test_environment_without_git(monkeypatch, error):
    def no_git(*_args, **_kwargs):
        raise error

    monkeypatch.setattr(subprocess, "run", no_git)
    assert environment()["git_commit"] is None


def test_environment_of_a_package_that_is_not_installed(monkeypatch):
    monkeypatch.setattr(provenance, "PACKAGES", ("no-such-package-of-seal",))
    assert environment()["packages"] == {"no-such-package-of-seal": None}
