"""A disk without room, a folder without permission: said in one message, and gone on with."""

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from faults.conftest import write_experiment

BLOCK = 4096


@pytest.fixture
def small_disk(tmp_path) -> Iterator[Path]:
    """A file system of 2 MiB in memory."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(folder)]
    try:
        subprocess.run(mount, check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("mounting is not permitted here")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True, capture_output=True)


def fill(disk: Path, left: int) -> Path:
    """Leave so many bytes free on the disk."""
    state = os.statvfs(disk)
    size = state.f_bavail * state.f_frsize - left
    path = disk / "filler"
    with path.open("wb") as file:
        file.write(b"\0" * size)
    return path


def contents(root: Path) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes()
            for path in sorted(root.rglob("*")) if path.is_file()}  # fmt: skip


def test_a_disk_that_fills_up_while_a_ranking_saves_its_state(
    seal, small_disk, tmp_path, tiny_model_dir
):
    """The states before stay, and with room again it ends as if nothing had been."""
    rank = {"method": "seal", "epochs": 3, "batch_size": 4, "learning_rate": 1e-3}
    run = small_disk / "run"
    config = str(
        write_experiment(
            tmp_path / "data", tiny_model_dir, run, rank=rank, checkpoint={"seconds": 0, "keep": 9}
        )
    )
    whole = tmp_path / "whole"
    assert seal("rank", config, f"run_dir={whole}").exit_code == 0
    size = sum(path.stat().st_size for path in (whole / "rank" / "state").iterdir())
    filler = fill(small_disk, 4 * size)
    full = seal("rank", config)
    assert full.exit_code == 2, full.said
    assert "space" in full.said.lower() or "mb are free" in full.said.lower(), full.said
    kept = sorted(path.name for path in (run / "checkpoints" / "rank").glob("step-*"))
    assert kept, "what was saved before is there"
    assert not list(run.rglob("*.partial"))
    filler.unlink()
    again = seal("rank", config)
    assert again.exit_code == 0, again.said
    name = "rank/ranking.parquet"
    assert (run / name).read_bytes() == (whole / name).read_bytes()


@pytest.mark.parametrize(
    "left", [0, *(pytest.param(blocks * BLOCK, marks=pytest.mark.slow) for blocks in (2, 5))]
)
@pytest.mark.parametrize("stage", ["rank", "select", "train", "evaluate"])
def test_a_full_disk(seal, small_disk, tmp_path, tiny_model_dir, stage, left):
    run = small_disk / "run"
    config = str(write_experiment(tmp_path / "data", tiny_model_dir, run))
    stages = ["rank", "select", "train", "evaluate"]
    for earlier in stages[: stages.index(stage)]:
        assert seal(earlier, config).exit_code == 0
    before = contents(run)
    filler = fill(small_disk, left)
    done = seal(stage, config)
    if done.exit_code != 0:  # with some blocks left a small artifact may fit
        assert done.exit_code == 2, done.said
        assert "space" in done.said.lower() or "room" in done.said.lower(), done.said
        after = contents(run)
        assert {name: after.get(name) for name in before} == before
        made = [path for path in run.glob(f"{stage}/**/") if path.name in (stage, "seed-0")]
        for path in made:  # only config.yaml had no room any more, or it is a folder of cells
            assert stage in ("train", "evaluate") or (path / "provenance.json").stat().st_size
    assert left or done.exit_code == 2, "there was no room at all"
    filler.unlink()
    again = seal(stage, config)
    assert again.exit_code == 0, again.said
    assert not list(run.rglob("*.partial")), "nothing half-made is left"


def test_a_read_only_disk(seal, small_disk, tmp_path, tiny_model_dir):
    run = small_disk / "run"
    config = str(write_experiment(tmp_path / "data", tiny_model_dir, run))
    assert seal("rank", config).exit_code == 0
    before = contents(run)
    remount = ["mount", "-o", "remount,ro", str(small_disk)]
    subprocess.run(remount, check=True, capture_output=True)
    done = seal("select", config)
    assert done.exit_code == 2
    assert "Read-only file system" in done.said
    assert str(run) in done.said
    assert contents(run) == before
    subprocess.run(["mount", "-o", "remount,rw", str(small_disk)], check=True, capture_output=True)
    assert seal("select", config).exit_code == 0
