"""Training that a signal stops at a known step: what is there then, and what becomes of it."""

import os
import signal
from pathlib import Path

import pytest

from faults.conftest import write_experiment
from seal import interrupts
from seal.checkpoint import Checkpoints
from seal.stages.trainer import WatchedTrainer

NUM_STEPS = 6  # two epochs of twelve samples, four per step in two passes


@pytest.fixture(autouse=True)
def interruptible():
    """A shell that starts the suite in the background has it ignore Ctrl-C; not here."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture
def signalled(monkeypatch):
    """Sends this process a signal in the n-th pass from now; returns the list of passes."""

    def arm(at: int | None, number: signal.Signals = signal.SIGTERM) -> list[int]:
        passes: list[int] = []
        real = WatchedTrainer.compute_loss

        def compute_loss(self, *args, **kwargs):
            passes.append(self.state.global_step)
            if len(passes) == at:
                os.kill(os.getpid(), number)
            return real(self, *args, **kwargs)

        monkeypatch.setattr(WatchedTrainer, "compute_loss", compute_loss)
        return passes

    return arm


def experiment(folder: Path, model: Path, run: Path) -> str:
    args = {
        "learning_rate": 1e-2,
        "num_train_epochs": 2,
        "per_device_train_batch_size": 2,
        "gradient_accumulation_steps": 2,
    }
    train = {"args": args, "lora": {"r": 2, "dropout": 0.2}}
    return str(write_experiment(folder, model, run, train=train, arms=["all"]))


def adapter(run: Path) -> bytes:
    return (run / "train/all/seed-0/adapter/adapter_model.safetensors").read_bytes()


def checkpoints(run: Path) -> list[str]:
    return sorted(path.name for path in (run / "checkpoints/train/all/seed-0").glob("step-*"))


def test_the_step_is_finished_and_saved(seal, tmp_path, tiny_model_dir, signalled):
    whole, run = tmp_path / "whole", tmp_path / "run"
    config = experiment(tmp_path, tiny_model_dir, run)
    assert seal("train", config, f"run_dir={whole}").exit_code == 0
    for number, signum in enumerate((signal.SIGINT, signal.SIGTERM, signal.SIGUSR1), 1):
        passes = signalled(1, signum)
        done = seal("train", config)
        assert done.exit_code == 75, done.said
        assert passes == [number - 1] * 2, "the pass, and the one that makes the step whole"
        assert checkpoints(run)[-1] == f"step-{number:09}"
    assert len(checkpoints(run)) == 2
    passes = signalled(None)
    assert seal("train", config).exit_code == 0
    assert passes == [step for step in range(3, NUM_STEPS) for _ in range(2)]
    assert adapter(run) == adapter(whole)
    assert not (run / "checkpoints").exists()


def test_asked_between_looking_and_saving_it_stops_at_the_next_step(
    seal, tmp_path, tiny_model_dir, monkeypatch
):
    is_due = Checkpoints.due

    def due(self):
        found = is_due(self)
        if not interrupts.asked():
            interrupts.ask()  # the signal comes just after
        return found

    monkeypatch.setattr(Checkpoints, "due", due)
    run = tmp_path / "run"
    assert seal("train", experiment(tmp_path, tiny_model_dir, run)).exit_code == 75
    assert checkpoints(run) == ["step-000000002"]


def test_asked_in_the_last_step_nothing_is_trained_twice(seal, tmp_path, tiny_model_dir, signalled):
    whole, run = tmp_path / "whole", tmp_path / "run"
    config = experiment(tmp_path, tiny_model_dir, run)
    assert seal("train", config, f"run_dir={whole}").exit_code == 0
    signalled(2 * NUM_STEPS)
    assert seal("train", config).exit_code == 75
    assert checkpoints(run) == [f"step-{NUM_STEPS:09}"]
    passes = signalled(None)
    assert seal("train", config).exit_code == 0
    assert passes == []
    assert adapter(run) == adapter(whole)
    log = [(folder / "train/all/seed-0/metrics.jsonl").read_text() for folder in (run, whole)]
    assert len(log[0].splitlines()) == len(log[1].splitlines()) == NUM_STEPS + 1


def test_the_state_of_other_work_is_refused(seal, tmp_path, tiny_model_dir, signalled):
    run = tmp_path / "run"
    config = experiment(tmp_path, tiny_model_dir, run)
    signalled(1)
    assert seal("train", config).exit_code == 75
    done = seal("train", config, "train.args.learning_rate=0.5", "train.lora.r=3")
    assert done.exit_code == 2
    assert "train.args.learning_rate: 0.01 there, 0.5 now" in done.said
    assert "train.lora.r: 2 there, 3 now" in done.said
    assert checkpoints(run) == ["step-000000001"]
    # What decides nothing is no other work.
    assert seal("train", config, "train.max_skipped_steps=3").exit_code == 0


def test_a_damaged_state_is_passed_over(seal, tmp_path, tiny_model_dir, signalled, caplog):
    whole, run = tmp_path / "whole", tmp_path / "run"
    config = experiment(tmp_path, tiny_model_dir, run)
    assert seal("train", config, f"run_dir={whole}").exit_code == 0
    signalled(7)
    assert seal("train", config, "checkpoint.seconds=0").exit_code == 75
    assert checkpoints(run) == ["step-000000003", "step-000000004"]
    file = run / "checkpoints/train/all/seed-0/step-000000004/state.safetensors"
    file.write_bytes(file.read_bytes()[:-1] + b"\xff")
    passes = signalled(None)
    assert seal("train", config).exit_code == 0
    assert "step-000000004: damaged" in caplog.text
    assert passes[0] == 3
    assert adapter(run) == adapter(whole)


def test_nothing_of_a_state_is_pickled(seal, tmp_path, tiny_model_dir, signalled):
    config = experiment(tmp_path, tiny_model_dir, tmp_path / "run")
    signalled(3)
    assert seal("train", config).exit_code == 75
    files = [path for path in (tmp_path / "run").rglob("*") if path.is_file()]
    assert {path.suffix for path in files} == {".json", ".safetensors"}


def test_more_epochs_than_asked_for_are_gone_on_with(seal, tmp_path, tiny_model_dir, signalled):
    """Five samples, two steps in an epoch, for six steps; the stop is in the third epoch."""
    args = {"learning_rate": 1e-2, "num_train_epochs": 2, "per_device_train_batch_size": 4}
    train = {
        "args": args | {"gradient_accumulation_steps": 1, "lr_scheduler_type": "linear"},
        "lora": {"r": 2, "dropout": 0.2},
        "match": "steps",
    }
    changes = {"train": train, "select": {"count": 5}, "rank": {"method": "random"}}
    run, whole = tmp_path / "run", tmp_path / "whole"
    config = str(write_experiment(tmp_path, tiny_model_dir, run, **changes))
    for folder in (run, whole):
        assert seal("rank", config, f"run_dir={folder}").exit_code == 0
        assert seal("select", config, f"run_dir={folder}").exit_code == 0
    assert seal("train", config, f"run_dir={whole}").exit_code == 0
    assert signalled(5) == []
    assert seal("train", config).exit_code == 75
    passes = signalled(None)
    assert seal("train", config).exit_code == 0
    assert passes == [5]
    made = "train/selected/seed-0/adapter/adapter_model.safetensors"
    assert (run / made).read_bytes() == (whole / made).read_bytes()
    record = "train/selected/seed-0/adapter.json"
    assert (run / record).read_bytes() == (whole / record).read_bytes()
