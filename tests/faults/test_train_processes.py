"""Training over two processes: what one would give, through a kill, a signal and a bad sample."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from faults.conftest import write_experiment

pytestmark = pytest.mark.slow

# Imports once, and forks the processes of a launch as torchrun would start them.
LAUNCHES = """
import os, signal, socket, sys
from pathlib import Path
import torch
torch.set_num_threads(1)
from seal import pipeline
from seal.cli import main
from seal.stages import fitting

config, runs = sys.argv[1], Path(sys.argv[2])

class Trainer(fitting.WatchedTrainer):
    fault = ""
    steps = 0

    def compute_loss(self, model, inputs, *args, **kwargs):
        loss = super().compute_loss(model, inputs, *args, **kwargs)
        is_bad = self.fault == "nan" and 62 in inputs["input_ids"]  # the token Z
        return loss * float("nan") if is_bad else loss

    def training_step(self, *args, **kwargs):
        Trainer.steps += 1
        if self.steps == 4 and self.fault == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        if self.steps == 4 and self.fault == "signal" and os.environ["RANK"] == "1":
            os.kill(os.getpid(), signal.SIGTERM)
        return super().training_step(*args, **kwargs)

fitting.WatchedTrainer = Trainer

def launch(name, size, fault=""):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    children = []
    for rank in range(size):
        pid = os.fork()
        if pid:
            children.append(pid)
            continue
        if size > 1:
            os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(size),
                              MASTER_ADDR="127.0.0.1", MASTER_PORT=port)
        Trainer.fault = fault
        signal.alarm(60)  # a launch that hangs is a failure
        os._exit(main(["train", config, f"run_dir={runs / name}"]))
    ended = [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in children]
    print("ENDED", name, size, fault or "-", *ended, flush=True)

launch("one", 1)
launch("two", 2)
launch("killed", 2, "kill")
launch("killed", 2)
launch("signal", 2, "signal")
launch("signal", 1)
launch("bad-one", 1, "nan")
launch("bad-two", 2, "nan")
"""


@pytest.fixture(scope="module")
def runs(tmp_path_factory, tiny_model_dir) -> tuple[Path, list[str]]:
    """The folder of the runs, and how each process of each launch ended."""
    folder = tmp_path_factory.mktemp("processes")
    args = {
        "learning_rate": 1e-2,
        "num_train_epochs": 2,
        "per_device_train_batch_size": 2,
        "gradient_accumulation_steps": 2,
    }
    config = write_experiment(
        folder, tiny_model_dir, folder / "unused",
        train={"args": args}, arms=["all"], checkpoint={"seconds": 0},
    )  # fmt: skip
    pool = folder / "pool.jsonl"
    lines = pool.read_text().splitlines()[:11]  # the last batch is for one process, and ragged
    lines[4] = json.dumps({"prompt": "Question 4?", "completion": "ZZZZ"})
    pool.write_text("\n".join(lines) + "\n")
    ended = subprocess.run(
        [sys.executable, "-c", LAUNCHES, str(config), str(folder)],
        capture_output=True, text=True, check=False, env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert ended.returncode == 0, ended.stderr
    said = [line for line in ended.stdout.splitlines() if line.startswith("ENDED")]
    return folder, [line.removeprefix("ENDED ") for line in said]


def log_of(run: Path) -> list[dict]:
    text = (run / "train" / "all" / "seed-0" / "metrics.jsonl").read_text()
    return [json.loads(line) for line in text.splitlines()]


def check_equal(run: Path, other: Path) -> None:
    for found, expected in zip(log_of(run), log_of(other), strict=True):
        for name in ("step", "loss", "grad_norm", "learning_rate", "train_loss"):
            assert found.get(name) == pytest.approx(expected.get(name), abs=1e-5), name
        assert found.get("samples") == expected.get("samples")
    file = "train/all/seed-0/adapter/adapter_model.safetensors"
    expected = load_file(other / file)
    for name, value in load_file(run / file).items():
        assert torch.allclose(value, expected[name], atol=1e-5), name


def test_every_process_ends_as_it_should(runs):
    assert runs[1] == [
        "one 1 - 0",
        "two 2 - 0 0",
        "killed 2 kill -9 -9",
        "killed 2 - 0 0",
        "signal 2 signal 75 75",
        "signal 1 - 0",
        "bad-one 1 nan 0",
        "bad-two 2 nan 0 0",
    ]


@pytest.mark.parametrize("name", ["two", "killed", "signal"])
def test_two_processes_are_as_one(runs, name):
    check_equal(runs[0] / name, runs[0] / "one")


def test_a_bad_sample_on_one_process_is_left_out_on_both(runs):
    check_equal(runs[0] / "bad-two", runs[0] / "bad-one")
    skipped = [entry for entry in log_of(runs[0] / "bad-two") if "skipped" in entry]
    assert len(skipped) == 2  # one in each epoch
    assert all(1 <= len(entry["samples"]) <= 2 for entry in skipped)


def test_the_first_process_alone_has_written(runs):
    names = {path.name for path in (runs[0] / "two" / "train" / "all" / "seed-0").iterdir()}
    assert names == {"adapter", "adapter.json", "metrics.jsonl", "provenance.json"}
    assert not list((runs[0] / "two").rglob("*.partial"))
