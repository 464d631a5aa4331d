"""Training that is killed at any moment, and gone on with: the same bytes as without."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from faults.conftest import write_experiment

# Imports once, and forks an attempt at a time: each is killed at the n-th call of a function.
KILLED = """
import hashlib, json, os, random, signal, sys
from pathlib import Path
import torch
torch.set_num_threads(1)
from seal import checkpoint, pipeline
from seal.cli import main
from seal.stages import fitting

config, runs, num_seeds = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3])

def attempt(run, steps, calls):
    \"\"\"Train; end by SIGKILL `calls` calls into the step (or saving) number `steps`.\"\"\"
    seen = [0, 0]

    def count(frame, event, arg):
        seen[1] += event in ("c_call", "call")
        if seen[1] >= calls:
            os.kill(os.getpid(), signal.SIGKILL)

    def counted(function):
        def called(*args, **kwargs):
            seen[0] += 1
            if seen[0] == steps:
                sys.setprofile(count)
            return function(*args, **kwargs)
        return called

    trainer = fitting.WatchedTrainer
    trainer.training_step = counted(trainer.training_step)
    checkpoint.Checkpoints.save_state = counted(checkpoint.Checkpoints.save_state)
    os._exit(main(["train", config, f"run_dir={run}"]))

def child(*words):
    pid = os.fork()
    if not pid:
        sys.stdout = open(os.devnull, "w")
        attempt(*words)
    return os.waitpid(pid, 0)[1]

for seed in range(num_seeds):
    draw = random.Random(seed)
    run = runs / str(seed)
    killed = 0
    while killed < 2:
        status = child(run, draw.randint(1, 12), int(10 ** draw.uniform(0, 4)))
        assert status == 0 or os.WIFSIGNALED(status), status
        if status == 0:
            break
        killed += 1
    assert child(run, 0, 0) == 0
    print(seed, killed, flush=True)
assert child(runs / "whole", 0, 0) == 0
"""

TIMES = ("train_runtime", "train_samples_per_second", "train_steps_per_second")


def result(run: Path, name: str) -> tuple[dict[str, bytes], list[dict]]:
    """Weights and log of a finished training, without what it took."""
    folder = run / "train" / "all" / "seed-0"
    weights = {path.name: path.read_bytes() for path in sorted((folder / name).iterdir())}
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    log = [{key: value for key, value in line.items() if key not in TIMES} for line in lines]
    return weights, log


@pytest.mark.parametrize(
    ("tuning", "num_seeds"),
    [("lora", 20), ("full", 20)]
    if os.environ.get("SEAL_DEEP_FAULTS")
    else [("lora", 1), ("full", 1)],
)
def test_killed_anywhere_it_ends_with_the_same_bytes(tmp_path, tiny_model_dir, tuning, num_seeds):
    adapter = {"lora": {"r": 2, "dropout": 0.3}} if tuning == "lora" else {}
    args = {
        "learning_rate": 1e-2,
        "num_train_epochs": 2,
        "per_device_train_batch_size": 2,
        "gradient_accumulation_steps": 2,
        "lr_scheduler_type": "cosine",
    }
    config = write_experiment(
        tmp_path, tiny_model_dir, tmp_path / "unused",
        train={"tuning": tuning, "args": args, **adapter},
        arms=["all"], checkpoint={"seconds": 0},
    )  # fmt: skip
    command = [sys.executable, "-c", KILLED, str(config), str(tmp_path / "runs"), str(num_seeds)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    ended = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    expected = result(tmp_path / "runs" / "whole", {"lora": "adapter"}.get(tuning, "model"))
    assert [entry["step"] for entry in expected[1]] == [1, 2, 3, 4, 5, 6, 6]
    num_killed = 0
    for line in ended.stdout.splitlines():
        seed, killed = line.split()
        found = result(tmp_path / "runs" / seed, {"lora": "adapter"}.get(tuning, "model"))
        assert found == expected, f"seed {seed}"
        num_killed += int(killed)
        assert not (tmp_path / "runs" / seed / "checkpoints").exists()
    assert num_killed >= num_seeds
