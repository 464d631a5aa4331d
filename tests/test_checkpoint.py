import json
import os
import subprocess
import sys
from collections import namedtuple
from pathlib import Path

import pytest
import torch

from seal import checkpoint as checkpoint_module
from seal import interrupts
from seal.checkpoint import Checkpoints, CheckpointSettings, load_state

IDENTITY = {"stage": "rank", "pool": "abc", "epochs": (1, 2)}
ALWAYS = CheckpointSettings(seconds=0)


def made(root: Path, *, settings: CheckpointSettings = ALWAYS) -> Checkpoints:
    return Checkpoints(root, IDENTITY, settings)


def save(checkpoints: Checkpoints, step: int) -> None:
    checkpoints.save_state(step, {"x": torch.full((3,), float(step))}, {"step": step})


def newest(root: Path) -> int | None:
    found = made(root).latest()
    return None if found is None else load_state(found)[1]["step"]


def test_what_is_saved_is_what_is_loaded_bit_for_bit(tmp_path):
    values = {
        "float": torch.tensor([1 / 3, -0.0, 1e-45]),
        "half": torch.tensor([1 / 3], dtype=torch.bfloat16),
        "count": torch.tensor(7),
        "view": torch.arange(12.0).reshape(3, 4).T,
        "shared": torch.arange(12.0)[2:5],
    }
    checkpoints = made(tmp_path / "c")
    checkpoints.save_state(3, values, {"records": [{"loss": 1 / 3}]})
    found = made(tmp_path / "c").latest()
    assert found is not None
    assert found.step == 3
    tensors, facts = load_state(found)
    assert facts == {"records": [{"loss": 1 / 3}]}
    for name, value in values.items():
        assert tensors[name].dtype == value.dtype
        assert torch.equal(tensors[name], value), name


def test_the_newest_of_those_that_are_kept_counts(tmp_path):
    checkpoints = made(tmp_path, settings=CheckpointSettings(seconds=0, keep=2))
    for step in (1, 2, 10, 11):  # as texts, 10 comes before 2
        save(checkpoints, step)
    assert newest(tmp_path) == 11
    assert [path.name for path in sorted(tmp_path.glob("step-*"))] == [
        "step-000000010",
        "step-000000011",
    ]


def flip_a_bit(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(bytes(data))


def cut_off(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-7])


@pytest.mark.parametrize("damage", [flip_a_bit, cut_off, Path.unlink])
@pytest.mark.parametrize("name", ["state.safetensors", "state.json", "manifest.json"])
def test_a_damaged_one_is_passed_over_for_the_one_before(tmp_path, caplog, damage, name):
    for step in (1, 2):
        save(made(tmp_path), step)
    newest_file = tmp_path / "step-000000002" / name
    if damage is flip_a_bit and name == "manifest.json":
        newest_file.write_text("{}")  # the last byte of a JSON file is a line break
    else:
        damage(newest_file)
    assert newest(tmp_path) == 1
    assert "step-000000002: damaged" in caplog.text
    save(made(tmp_path), 2)  # the same step, made again
    assert newest(tmp_path) == 2


def test_other_work_is_refused_by_name(tmp_path):
    save(made(tmp_path), 1)
    with pytest.raises(ValueError, match=r"(?s)unfinished work.*pool: abc there, abd now.*delete"):
        Checkpoints(tmp_path, {**IDENTITY, "pool": "abd"})
    assert newest(tmp_path) == 1


@pytest.mark.parametrize("keep", [1, 2])
def test_what_is_damaged_does_not_count_among_those_that_are_kept(tmp_path, keep):
    """Its number is higher than that of what is saved after going on from the one before."""
    for step in (10, 20):
        save(made(tmp_path), step)
    cut_off(tmp_path / "step-000000020" / "state.json")
    checkpoints = made(tmp_path, settings=CheckpointSettings(seconds=0, keep=keep))
    for step in (11, 12):
        save(checkpoints, step)
        assert newest(tmp_path) == step
    assert len(list(tmp_path.glob("step-*"))) == keep


@pytest.mark.parametrize("damage", [cut_off, Path.unlink])
def test_a_state_of_which_nobody_knows_whose_it_is_is_refused(tmp_path, damage):
    save(made(tmp_path), 1)
    damage(tmp_path / "identity.json")
    with pytest.raises(ValueError, match=r"(?s)identity.json.*cannot be told.*Delete .* anew"):
        made(tmp_path)


def test_other_work_in_parts_is_refused_too(tmp_path):
    """Also where the part that was under way is none of the other work's."""
    save(made(tmp_path).part("seed-0"), 1)
    with pytest.raises(ValueError, match=r"pool: abc there, abd now"):
        Checkpoints(tmp_path, {**IDENTITY, "pool": "abd"})


def test_parts_do_not_mix(tmp_path):
    whole = made(tmp_path)
    save(whole.part("seed-0"), 5)
    assert whole.part("seed-1").latest() is None
    assert whole.part("seed-0").latest().step == 5
    assert whole.latest() is None


def test_it_is_due_after_the_seconds_and_not_before(tmp_path):
    now = [100.0]
    settings = CheckpointSettings(seconds=60)
    checkpoints = Checkpoints(tmp_path, IDENTITY, settings, clock=lambda: now[0])
    now[0] = 159.0
    assert not checkpoints.due()
    now[0] = 160.0
    assert checkpoints.due()
    save(checkpoints, 1)
    assert not checkpoints.due()
    now[0] = 50.0  # the clock was put back
    assert not checkpoints.due()


def test_work_that_polls_stops_where_it_will():
    def work():
        with interrupts.polled():
            assert not interrupts.asked()
            interrupts.ask()
            assert interrupts.asked()
            interrupts.stop()

    with pytest.raises(KeyboardInterrupt):
        work()
    assert not interrupts.asked()


def test_asking_is_an_interrupt_where_nobody_polls():
    with pytest.raises(KeyboardInterrupt):
        interrupts.ask()
    with pytest.raises(KeyboardInterrupt), interrupts.polled():
        interrupts.ask()  # the block ends without having looked

    def broken():
        with interrupts.polled():
            interrupts.ask()
            raise RuntimeError

    with pytest.raises(RuntimeError):
        broken()
    assert not interrupts.asked()


def test_a_full_disk_leaves_the_one_before(tmp_path, monkeypatch):
    save(made(tmp_path), 1)
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(checkpoint_module.shutil, "disk_usage", lambda _: usage(100, 90, 10))
    with pytest.raises(ValueError, match=r"0 MB are free.*The last one is kept"):
        save(made(tmp_path), 2)
    assert newest(tmp_path) == 1


@pytest.mark.parametrize("call", ["save_file", "write_json", "file_hash", "_flush"])
def test_an_error_while_saving_leaves_the_one_before(tmp_path, monkeypatch, call):
    save(made(tmp_path), 1)

    def fail(*_):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint_module, call, fail)
        with pytest.raises(OSError, match="No space left"):
            save(made(tmp_path), 2)
    assert newest(tmp_path) == 1
    assert not list(tmp_path.glob(".*partial"))


KILLED = """
import os, signal, sys
import torch
from pathlib import Path
from seal.checkpoint import Checkpoints

def attempt(root, calls):
    seen = 0

    def count(frame, event, arg):
        nonlocal seen
        seen += event in ("c_call", "call")
        if seen == calls:
            os.kill(os.getpid(), signal.SIGKILL)

    torch.set_num_threads(1)
    checkpoints = Checkpoints(root, {"a": 1})
    sys.setprofile(count)
    checkpoints.save_state(2, {"x": torch.ones(1000)}, {"step": 2})
    sys.setprofile(None)
    os._exit(0)

for calls in [1, 2, 5, *range(20, 3000, 60), 10**9]:
    root = Path(sys.argv[1]) / str(calls)
    Checkpoints(root, {"a": 1}).save_state(1, {"x": torch.zeros(1000)}, {"step": 1})
    child = os.fork() or attempt(root, calls)
    _, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status) or status == 0
    print(calls, status, flush=True)
    if status == 0:
        break
"""


def test_kill_at_any_point_of_a_save_leaves_one_that_is_whole(tmp_path):
    """Killed at the n-th call of a function, in some forty places from begin to end."""
    command = [sys.executable, "-c", KILLED, str(tmp_path)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    ended = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert ended.returncode == 0, ended.stderr
    survivors = []
    for line in ended.stdout.splitlines():
        found = Checkpoints(tmp_path / line.split()[0], {"a": 1}).latest()
        assert found is not None, line
        tensors, facts = load_state(found)
        assert torch.equal(tensors["x"], torch.full((1000,), float(found.step - 1)))
        assert facts == {"step": found.step}
        survivors.append(found.step)
    assert len(survivors) > 10
    assert survivors == sorted(survivors), "the first from some point on"
    assert set(survivors) == {1, 2}


def test_nothing_is_pickled(tmp_path):
    save(made(tmp_path), 1)
    for path in tmp_path.rglob("*"):
        if path.is_file():
            assert path.suffix in {".json", ".safetensors"}
            assert path.suffix != ".json" or json.loads(path.read_text())
    assert os.access(tmp_path / "step-000000001", os.R_OK)


def test_a_part_under_another_name_is_other_work(tmp_path):
    whole = made(tmp_path)
    save(whole.part("seed-0"), 5)
    (tmp_path / "seed-0").rename(tmp_path / "seed-1")
    with pytest.raises(ValueError, match="part: seed-0 there, seed-1 now"):
        whole.part("seed-1")
