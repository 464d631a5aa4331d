"""Damaged files of a finished run: which file it is, never a traceback, never a wrong number."""

import json
import shutil
from pathlib import Path

import pytest

FILES = [
    "rank/ranking.parquet",
    "rank/excluded.jsonl",
    "rank/provenance.json",
    "select/selection.parquet",
    "select/selected.jsonl",
    "select/provenance.json",
    "train/selected/seed-0/adapter.json",
    "train/selected/seed-0/adapter/adapter_model.safetensors",
    "train/selected/seed-0/adapter/adapter_config.json",
    "train/selected/seed-0/provenance.json",
    "evaluate/selected/seed-0/metrics.json",
    "evaluate/selected/seed-0/harmful_prompts/scores.jsonl",
    "evaluate/selected/seed-0/harmful_prompts/responses.jsonl",
    "evaluate/selected/seed-0/safety_margin/scores.jsonl",
    "evaluate/selected/seed-0/provenance.json",
]


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def empty(path: Path) -> None:
    path.write_bytes(b"")


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) * 2 // 3] ^= 1
    path.write_bytes(content)


def delete(path: Path) -> None:
    path.unlink()


def replace_by_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


DAMAGES = [cut, empty, flip, delete, replace_by_folder]


def cell_of(path: Path, root: Path) -> Path:
    """The folder that has the record of a file."""
    return next(up for up in path.parents if (up / "provenance.json").exists() or up == root)


@pytest.mark.slow
@pytest.mark.parametrize("damage", DAMAGES, ids=lambda damage: damage.__name__)
@pytest.mark.parametrize("name", FILES)
def test_a_damaged_file_is_named_by_the_next_command(seal, run, name, damage):
    config, folder = run
    path = folder / name
    before = path.read_bytes()
    if not before and damage is not delete and damage is not replace_by_folder:
        pytest.skip("an empty file has nothing to damage")
    cell = path.parent if path.name == "provenance.json" else cell_of(path, folder)
    damage(path)
    done = seal("run", config, f"run_dir={folder}")
    if path.name == "provenance.json" and damage is flip and done.exit_code == 0:
        return  # a note that decides nothing: a version, the time it took
    assert done.exit_code == 2, done.said
    assert str(cell) in done.said
    if path.name != "provenance.json":
        assert str(path) in done.said
    assert "delete" in done.said.lower()
    if damage is not cut:
        return  # the way out is the same for all
    shutil.rmtree(cell)
    again = seal("run", config, f"run_dir={folder}")
    assert again.exit_code == 0, f"the way out is none: {again.said}"


@pytest.mark.parametrize("place", [0.1, 0.5, 0.9])
def test_a_changed_answer_is_named_with_its_line(seal, run, place):
    config, folder = run
    path = sorted(folder.glob("responses/*.jsonl"))[0]
    content = bytearray(path.read_bytes())
    lines = content.split(b"\n")
    number = int(place * (len(lines) - 1))
    content[len(b"\n".join(lines[:number])) + len(lines[number]) // 2] ^= 1
    path.write_bytes(content)
    shutil.rmtree(folder / "evaluate")
    done = seal("evaluate", config, f"run_dir={folder}")
    assert done.exit_code == 2, done.said
    assert f"{path}:{number + 1}: this line was changed since it was written" in done.said
    changed = path.read_bytes().split(b"\n")
    path.write_bytes(b"\n".join(changed[:number] + changed[number + 1 :]))
    again = seal("evaluate", config, f"run_dir={folder}")
    assert again.exit_code == 0, f"the way out is none: {again.said}"


def test_every_bit_of_an_artifact_counts(seal, run):
    """Also of the logs beside it; without hashes, a flipped bit in most of them went unseen."""
    config, folder = run
    record = json.loads((folder / "train/selected/seed-0/provenance.json").read_text())
    trained = folder / "train/selected/seed-0"
    found = (path for path in trained.rglob("*") if path.is_file())
    made = {path.relative_to(trained).as_posix() for path in found}
    assert set(record["files"]) == made - {"provenance.json"}
    weights = folder / "train/selected/seed-0/adapter/adapter_model.safetensors"
    content = weights.read_bytes()
    for place in (9, len(content) // 2, len(content) - 1):
        changed = bytearray(content)
        changed[place] ^= 0x40
        weights.write_bytes(changed)
        done = seal("run", config, f"run_dir={folder}")
        assert done.exit_code == 2
        assert f"{weights} was changed; provenance.json in" in done.said
    weights.write_bytes(content)
    assert seal("run", config, f"run_dir={folder}").exit_code == 0


def test_a_run_from_before_files_were_hashed_is_still_good(seal, run):
    config, folder = run
    for path in folder.rglob("provenance.json"):
        record = json.loads(path.read_text())
        record.pop("files", None)
        path.write_text(json.dumps(record))
    done = seal("run", config, f"run_dir={folder}")
    assert done.exit_code == 0, done.said


def test_a_damaged_artifact_is_not_copied_for_another_arm(seal, run):
    """Two arms of equal training share one folder's files; a copy would bless the damage."""
    config, folder = run
    flip(folder / "train/selected/seed-0/adapter/adapter_model.safetensors")
    arm = "arms=[{name: twin, train_on: selected}]"
    done = seal("train", config, f"run_dir={folder}", arm)
    assert done.exit_code == 2, done.said
    assert "adapter_model.safetensors was changed" in done.said
    assert not (folder / "train/twin/seed-0").exists()


@pytest.mark.parametrize("stage", ["select", "train", "evaluate"])
def test_a_vanished_folder_is_named_with_the_command_that_makes_it(seal, run, stage):
    config, folder = run
    shutil.rmtree(folder / {"select": "rank", "train": "select", "evaluate": "train"}[stage])
    done = seal(stage, config, f"run_dir={folder}")
    assert done.exit_code == 2
    assert "is missing. Run `seal" in done.said


@pytest.mark.parametrize(
    "damage", [cut, empty, delete, replace_by_folder], ids=lambda damage: damage.__name__
)
def test_a_damaged_table(seal, run, damage):
    """A table is read when the ranking is made again."""
    config, folder = run
    shards = sorted(folder.glob("tables/*/shard-*.arrow"))
    shutil.rmtree(folder / "rank")
    shutil.rmtree(folder / "select")
    for shard in shards:
        damage(shard)
    done = seal("rank", config, f"run_dir={folder}")
    assert done.exit_code == 2, done.said
    assert any(str(shard.parent) in done.said for shard in shards)
    assert "elete" in done.said
