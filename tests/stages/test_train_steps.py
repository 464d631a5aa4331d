"""Arms of different sizes trained for the same number of optimiser steps."""

import json
from pathlib import Path

import pytest
from pydantic import ValidationError

from faults.conftest import write_experiment
from seal import cells, pipeline, planning
from seal.artifacts.adapter import load_adapter
from seal.artifacts.provenance import load_provenance
from seal.cli import main
from seal.config.arms import ArmSettings
from seal.config.experiment import load_experiment
from seal.inputs import Inputs
from seal.models import ModelSpec
from seal.progress import silent
from seal.stages.train import TrainSettings, matched_steps, train
from stages.test_train import FAST, losses, samples

EPOCH = FAST | {"num_train_epochs": 1, "learning_rate": 1e-3, "lr_scheduler_type": "linear"}


@pytest.fixture
def spec(tiny_model_dir) -> ModelSpec:
    return ModelSpec(path=str(tiny_model_dir))


@pytest.fixture
def seal(capsys):
    """Runs a command line in this process; returns its exit code and what it said."""

    def call(*words: str) -> tuple[int, str]:
        capsys.readouterr()
        code = main([*words])
        said = capsys.readouterr()
        return code, " ".join((said.out + said.err).split())

    return call


@pytest.mark.parametrize(
    ("args", "num", "num_all", "expected"),
    [
        ({}, 100, 640, 20),  # 64 in a step, twice: 4 by itself
        ({}, 600, 640, None),  # 10 steps per epoch both
        ({"num_train_epochs": 1.5}, 64, 192, 5),  # ceil(1.5 * 3)
        (FAST, 3, 9, 6),
    ],
)
def test_the_steps_are_those_on_all_data(args, num, num_all, expected):
    settings = TrainSettings(args=args, match="steps")
    assert matched_steps(settings, num, num_all) == expected
    assert matched_steps(TrainSettings(args=args), num, num_all) is None


def test_what_is_mixed_in_counts(tmp_path):
    mix = {"data": {"path": str(tmp_path / "x.jsonl")}, "share": 0.5}
    settings = TrainSettings(args=FAST, match="steps", mix=mix)
    assert matched_steps(settings, 4, 10) == 10  # 20 samples, 4 in a step, twice


def test_a_fixed_number_of_steps_is_a_contradiction():
    with pytest.raises(ValidationError, match=r"max_steps=4 sets the steps of every arm already"):
        TrainSettings(args={"max_steps": 4}, match="steps")


def test_more_steps_are_more_epochs_and_the_schedule_spans_them(spec, tmp_path):
    rows = samples(7)  # two steps per epoch
    settings = TrainSettings(args=EPOCH | {"warmup_steps": 1}, match="steps")
    adapter = train(spec, rows, settings, tmp_path / "t", seed=0, steps=5)
    assert adapter.num_steps == 5
    lines = map(json.loads, (tmp_path / "t" / "metrics.jsonl").read_text().splitlines())
    rates = [row["learning_rate"] for row in lines if "loss" in row]
    # Up to the rate in one step, then down to 0 over the other four.
    assert rates == pytest.approx([0, 1e-3, 0.75e-3, 0.5e-3, 0.25e-3])
    # Two epochs and the first of two steps of the third, in which four of seven rows are read.
    whole = sum(len(row.input_ids) for row in rows)
    assert 2 * whole < adapter.num_tokens < 3 * whole
    assert load_adapter(tmp_path / "t") == adapter


def test_the_samples_come_in_the_same_order(spec, tmp_path):
    args = EPOCH | {"lr_scheduler_type": "constant"}
    settings = TrainSettings(args=args)
    own = train(spec, samples(7), settings, tmp_path / "own", seed=3)
    train(spec, samples(7), settings, tmp_path / "more", seed=3, steps=4)
    assert losses(tmp_path / "more")[:2] == losses(tmp_path / "own")
    assert own.num_tokens == sum(len(row.input_ids) for row in samples(7))


@pytest.fixture
def config(tmp_path, tiny_model_dir) -> str:
    args = {
        "per_device_train_batch_size": 2,
        "gradient_accumulation_steps": 2,
        "learning_rate": 1e-2,
    }
    settings = {"args": args, "match": "steps", "lora": {"r": 2, "dropout": 0.2}}
    return str(
        write_experiment(
            tmp_path, tiny_model_dir, tmp_path / "run",
            rank={"method": "random"}, select={"count": 5}, train=settings,
            arms=["all", "selected", {"name": "epochs", "match": "epochs"}],
        )
    )  # fmt: skip


def test_a_run(seal, config, tmp_path):
    run = tmp_path / "run"
    experiment = load_experiment(Path(config))
    inputs = Inputs(experiment, silent)
    expected = {"all": 6, "selected": 6, "epochs": 4}  # 12 and 5 samples, 4 in a step, twice
    pipeline.rank(experiment)
    pipeline.select(experiment)
    found = {cell.name: cell for cell in planning.cells(inputs, "train")}
    tokens = {row.id: len(row.input_ids) for row in inputs.encoded_pool.encoded}
    kept = sum(tokens[key] for key in cells.selected(inputs, ArmSettings(name="selected"), 0).ids)
    assert found["train/epochs/seed-0"].work.trained == 2 * kept
    assert found["train/selected/seed-0"].work.trained == pytest.approx(6 * 4 / 5 * kept)
    pipeline.train(experiment)
    folders = {name: run / "train" / name / "seed-0" for name in expected}
    assert {name: load_adapter(at).num_steps for name, at in folders.items()} == expected
    said = {name: load_provenance(at).identity.get("num_steps") for name, at in folders.items()}
    assert said == {"all": None, "selected": 6, "epochs": None}
    code, said = seal("train", config, "train.match=epochs")
    assert code == 2
    assert "num_steps" in said
    assert load_adapter(folders["epochs"]).num_tokens == 2 * kept
    assert seal("export", config, "--to", "trl")[0] == 0
    made = "".join(at.read_text() for at in (run / "export" / "trl").glob("*.y*ml"))
    assert "max_steps: 6" in made
