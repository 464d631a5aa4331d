"""Two processes come to what one comes to: ranking, scoring, evaluation; nothing is made twice."""

import fcntl
import json
import os
import socket
import subprocess
import sys
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace

import accelerate
import numpy as np
import pytest

from faults.conftest import write_experiment, write_lines
from seal.artifacts.ranking import load_ranking
from seal.processes import Processes, processes

# What a launch does, in one start of the interpreter: `seal WORDS` for each line of words.
COMMANDS = """
import json, sys
import torch
torch.set_num_threads(1)
from seal.cli import main
for words in json.loads(sys.argv[1]):
    code = main(words)
    if code:
        sys.exit(code)
"""


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


SHARDED = {"ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "2"}  # as accelerate launch sets them


def launch(
    commands: list[list[str]], num_processes: int, **more: str
) -> list[subprocess.CompletedProcess[str]]:
    """What torchrun does: the same command several times, each told who it is."""
    port = str(free_port())
    base = {**os.environ, "OMP_NUM_THREADS": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    base |= more
    started = []
    for rank in range(num_processes):
        environment = dict(base)
        if num_processes > 1:
            words = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": num_processes}
            environment |= {name: str(value) for name, value in words.items()}
        command = [sys.executable, "-c", COMMANDS, json.dumps(commands)]
        started.append(
            subprocess.Popen(
                command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
            )
        )
    ended = []
    for process in started:
        out, err = process.communicate(timeout=300)
        ended.append(subprocess.CompletedProcess("", process.returncode, out, err))
    return ended


@pytest.fixture(scope="module")
def both(tmp_path_factory, tiny_model_dir) -> dict[object, Path]:
    """Number of processes -> the folder of the same runs: SEAL, the losses, scores, the base.

    "sharded" is two processes again, each with a part of the weights, which only rank.
    """
    folder = tmp_path_factory.mktemp("launches")
    new = write_lines(
        folder / "new.jsonl",
        [{"prompt": f"New {n}?", "completion": f"Blue {n}."} for n in range(7)],
    )
    # 24 samples: a scorer needs 20; batches of 5 leave a ragged one of 4.
    pool = write_lines(
        folder / "pool.jsonl",
        [
            {"prompt": f"Question {n}?", "completion": "blue " * (n % 5 + 1) + str(n)}
            for n in range(24)
        ],
    )
    ranks = {
        "penalty": {
            "method": "seal", "algorithm": "penalty", "epochs": 2, "batch_size": 5,
            "learning_rate": 1e-3, "gamma_start": 0.2,
        },
        "loss": {"method": "loss"},
        "two_sided": {"method": "two_sided"},
    }  # fmt: skip
    made = {}
    for size in (1, 2, "sharded"):
        commands = []
        for name, rank in ranks.items():
            run = folder / str(size) / name
            config = write_experiment(
                folder / f"{size}-{name}", tiny_model_dir, run, rank=rank,
                pool={"path": pool}, arms=["base"],
            )  # fmt: skip
            commands.append(["rank", str(config)])
        run = folder / str(size) / "loss"
        if size != "sharded":
            commands.append(["evaluate", str(folder / f"{size}-loss" / "experiment.yaml")])
            commands.append(["score", new, "--scorer", str(run), "--floor", "-1"])
        for ended in launch(
            commands, 1 if size == 1 else 2, **SHARDED if size == "sharded" else {}
        ):
            assert ended.returncode == 0, ended.stderr
        made[size] = folder / str(size)
    return made


@pytest.mark.parametrize("size", [2, "sharded"])
@pytest.mark.parametrize("name", ["penalty", "loss", "two_sided"])
def test_a_ranking_of_two_is_that_of_one(both, name, size):
    one, two = (
        load_ranking(both[which] / name / "rank" / "ranking.parquet") for which in (1, size)
    )
    assert two.ids == one.ids
    np.testing.assert_allclose(two.scores, one.scores, atol=1e-5)
    assert two.columns.keys() == one.columns.keys()
    for column in one.columns:
        np.testing.assert_allclose(two.columns[column], one.columns[column], atol=1e-5)


def test_every_sample_is_visited_once_per_epoch(both):
    ranking = load_ranking(both[2] / "penalty" / "rank" / "ranking.parquet")
    assert ranking.columns["num_visits"].tolist() == [2] * 24


def test_an_evaluation_of_two_is_that_of_one(both):
    folders = {size: both[size] / "loss" / "evaluate" / "base" / "seed-0" for size in (1, 2)}
    for task in ("harmful_prompts", "safety_margin"):
        one, two = (
            [json.loads(line) for line in (folder / task / "scores.jsonl").read_text().splitlines()]
            for folder in folders.values()
        )
        assert [row["id"] for row in two] == [row["id"] for row in one]
        for left, right in zip(one, two, strict=True):
            for name, value in left.items():
                assert right[name] == (pytest.approx(value, abs=1e-5) if name != "id" else value)
    responses = {
        size: folder / "harmful_prompts" / "responses.jsonl" for size, folder in folders.items()
    }
    assert responses[2].read_bytes() == responses[1].read_bytes()


def test_scores_of_two_are_those_of_one(both):
    one, two = (
        [
            json.loads(line)
            for line in (both[size] / "loss/scored/new.jsonl").read_text().splitlines()
        ]
        for size in (1, 2)
    )
    assert [row["id"] for row in two] == [row["id"] for row in one]
    for left, right in zip(one, two, strict=True):
        assert right["score"] == pytest.approx(left["score"], abs=1e-5)


def test_only_the_first_writes(both):
    """As many files as one process makes, and none left over; the record says how many ran."""
    one, two = ([path for path in both[size].rglob("*") if path.is_file()] for size in (1, 2))
    assert len(two) == len(one)
    assert not [path for path in two if "partial" in str(path) or "checkpoints" in path.parts]
    record = json.loads((both[2] / "penalty/rank/provenance.json").read_text())
    assert record["environment"]["num_processes"] == 2
    lines = (both[2] / "penalty/rank/metrics.jsonl").read_text().splitlines()
    assert len(lines) == 10


def test_what_cannot_be_done_in_shards_is_refused(tmp_path, tiny_model_dir):
    full = {"method": "seal", "tuning": "full"}
    config = str(write_experiment(tmp_path, tiny_model_dir, tmp_path / "run", rank=full))
    ended = launch([["rank", config]], 2, **SHARDED)
    assert [process.returncode for process in ended] == [2, 2]
    assert "rank.tuning=full needs the whole model in each process" in ended[0].stderr


def test_bad_input_ends_all_with_a_message(tmp_path, tiny_model_dir):
    """And none of them is left waiting for the others."""
    absent = {"path": str(tmp_path / "absent.jsonl")}
    config = write_experiment(tmp_path, tiny_model_dir, tmp_path / "run", safe=absent)
    ended = launch([["rank", str(config)]], 2)
    assert [process.returncode for process in ended] == [2, 2]
    assert "absent.jsonl" in ended[0].stderr
    assert ended[1].stderr.startswith("process 1: ")
    assert "Traceback" not in ended[0].stderr + ended[1].stderr


def test_what_only_the_first_finds_out_ends_all_with_a_message(tmp_path, tiny_model_dir):
    """Another command is making the ranking: the others do not begin to compute it."""
    run = tmp_path / "run"
    config = write_experiment(tmp_path, tiny_model_dir, run)
    (run / ".rank-123-x.partial").mkdir(parents=True)
    handle = os.open(run / ".rank-123-x.partial", os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        ended = launch([["rank", str(config)]], 2)
    finally:
        os.close(handle)
    assert [process.returncode for process in ended] == [2, 2]
    for process in ended:
        assert "is being made by another process (123)" in " ".join(process.stderr.split())


def test_a_launch_of_one_is_nothing():
    alone = Processes()
    assert alone.is_first
    assert alone.share_of([1, 2, 3]) == [1, 2, 3]
    assert alone.gather("x") == ["x"]
    assert alone.first_does(lambda: 7) == 7
    assert alone.any(True)
    assert not alone.any(False)
    assert processes() == alone


@pytest.mark.parametrize(("num_items", "size"), [(7, 2), (1, 3), (0, 2), (12, 5)])
def test_every_item_is_in_one_share(num_items, size):
    shares = [Processes(rank, size).share_of(range(num_items)) for rank in range(size)]
    assert sorted(item for share in shares for item in share) == list(range(num_items))
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


def test_the_others_wait_for_the_first_for_hours(monkeypatch):
    """It may ask a server for all answers meanwhile; torch gives up after 10 minutes, or 30."""
    seen = {}

    def join(**settings: object):
        seen.update(settings)
        return SimpleNamespace(process_index=1, num_processes=2)

    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setattr(accelerate, "PartialState", join)
    assert processes.__wrapped__() == Processes(1, 2)
    assert seen["timeout"] >= timedelta(hours=24)
