"""model.dtype=auto on a CPU: tried once, said, kept with the run, and never a narrower type."""

import json
import logging
import shutil

import pytest
import torch
import yaml
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM

from seal import pipeline, precision
from seal.artifacts.provenance import load_provenance
from seal.cli import main
from seal.config.experiment import load_experiment
from seal.inputs import Inputs
from seal.models import quiet_peft
from seal.precision import _Speeds, recorded, settled
from seal.progress import silent

ROLES = ("user", "assistant")
PENALTY = {"method": "seal", "algorithm": "penalty"}
SLOW_HALF, QUICK_HALF = _Speeds(single=1.0, half=7.0), _Speeds(single=2.5, half=1.0)


@pytest.fixture(scope="module", params=["bfloat16", "float16"])
def half(request, tiny_model_dir, tmp_path_factory):
    """(dtype, folder) of the tiny model in half precision."""
    folder = tmp_path_factory.mktemp(request.param) / "model"
    shutil.copytree(tiny_model_dir, folder)
    model = AutoModelForCausalLM.from_pretrained(
        tiny_model_dir, dtype=getattr(torch, request.param)
    )
    model.save_pretrained(folder)
    return request.param, folder


@pytest.fixture
def experiment(half, tmp_path):
    def make(**sections):
        paths = {}
        for name in ("pool", "safe"):
            lines = [
                {"messages": [{"role": role, "content": f"{name} {i}"} for role in ROLES]}
                for i in range(6)
            ]
            paths[name] = {"path": str(tmp_path / f"{name}.jsonl")}
            text = "".join(json.dumps(line) + "\n" for line in lines)
            (tmp_path / f"{name}.jsonl").write_text(text)
        written = {
            "run_dir": str(tmp_path / "run"),
            "model": {"path": str(half[1]), **sections.pop("model", {})},
            **paths,
            **sections,
        }
        config = tmp_path / "config.yaml"
        config.write_text(yaml.safe_dump(written))
        return load_experiment(config)

    return make


def measured(monkeypatch, speeds):
    calls = []
    monkeypatch.setattr(precision, "measure", lambda *args: calls.append(args) or speeds)
    return calls


def test_the_quicker_one_is_taken_said_and_kept(experiment, half, tmp_path, monkeypatch, caplog):
    calls = measured(monkeypatch, SLOW_HALF)
    with caplog.at_level(logging.INFO):
        found = settled(experiment())
    assert found.model.dtype == "float32"
    assert "model.dtype=auto: float32, " in caplog.text
    assert f"{half[0]} takes 7.0 times as long on this CPU" in caplog.text
    assert json.loads((tmp_path / "run" / "dtype.json").read_text())["dtype"] == "float32"
    assert len(calls) == 1

    measured(monkeypatch, QUICK_HALF)  # another machine
    assert settled(experiment()).model.dtype == "float32"
    assert Inputs(experiment(), silent).experiment.model.dtype == "float32"


def test_half_precision_is_taken_where_it_is_quicker(experiment, half, monkeypatch, caplog):
    measured(monkeypatch, QUICK_HALF)
    with caplog.at_level(logging.INFO):
        assert settled(experiment()).model.dtype == half[0]
    assert "the checkpoint's own; float32 takes 2.5 times as long on this CPU" in caplog.text
    measured(monkeypatch, SLOW_HALF)
    assert settled(experiment()).model.dtype == half[0]


@pytest.mark.parametrize("speeds", [_Speeds(1.0, 1.0), _Speeds(1.1, 1.0)])
def test_at_nearly_equal_speed_more_digits_are_taken(experiment, monkeypatch, speeds):
    measured(monkeypatch, speeds)
    assert settled(experiment()).model.dtype == "float32"


@pytest.mark.parametrize(
    ("sections", "why"),
    [
        ({"rank": PENALTY}, "rank.algorithm=penalty"),
        ({"rank": {"method": "seal", "tuning": "full"}}, "rank.tuning=full"),
        ({"train": {"tuning": "full"}}, "train.tuning=full"),
        ({"arms": ["all", {"name": "p", "rank": PENALTY}]}, "rank.algorithm=penalty"),
    ],
)
def test_what_half_precision_would_spoil_is_never_in_it(
    experiment, monkeypatch, caplog, sections, why
):
    calls = measured(monkeypatch, QUICK_HALF)
    with caplog.at_level(logging.INFO):
        assert settled(experiment(**sections)).model.dtype == "float32"
    assert f"float32, because {why}" in caplog.text
    assert not calls


def test_what_is_set_is_kept(experiment, half, monkeypatch):
    calls = measured(monkeypatch, SLOW_HALF)
    for dtype in (half[0], "float32"):
        one = experiment(model={"dtype": dtype})
        assert settled(one) == one
    settled(experiment())
    one = experiment(model={"dtype": half[0]})
    assert recorded(one) == one  # also over what was chosen before
    assert len(calls) == 1


def test_nothing_is_chosen_where_there_is_nothing_to_choose(
    experiment, tiny_model_dir, tmp_path, monkeypatch
):
    calls = measured(monkeypatch, SLOW_HALF)
    single = experiment(model={"path": str(tiny_model_dir)})  # float32 is never narrowed
    assert settled(single) == single
    monkeypatch.setattr(precision, "resolve_device", lambda name: torch.device("cuda"))  # noqa: ARG005
    one = experiment()
    assert settled(one) == one
    assert not calls
    assert not (tmp_path / "run").exists()


def test_a_run_from_before_goes_on_in_its_own_dtype(experiment, tmp_path, monkeypatch):
    measured(monkeypatch, SLOW_HALF)
    (tmp_path / "run" / "checkpoints" / "rank").mkdir(parents=True)
    one = experiment()
    assert settled(one) == one
    assert not (tmp_path / "run" / "dtype.json").exists()


def test_weights_that_would_not_fit_stay_as_they_are(experiment, half, monkeypatch, caplog):
    measured(monkeypatch, SLOW_HALF)
    monkeypatch.setattr(precision, "_free_bytes", lambda: 1000)
    with caplog.at_level(logging.INFO):
        assert settled(experiment()).model.dtype == half[0]
    assert "GB of free memory" in caplog.text


def test_an_estimate_leaves_nothing(experiment, tmp_path, monkeypatch):
    measured(monkeypatch, SLOW_HALF)
    assert settled(experiment(), keeps=False).model.dtype == "float32"
    assert not (tmp_path / "run").exists()


def test_a_broken_record_is_named(experiment, tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "dtype.json").write_text('{"dtype": "int8"}')
    with pytest.raises(ValueError, match=r"dtype\.json: not readable .*Set model\.dtype"):
        settled(experiment())


def test_another_checkpoint_is_chosen_for_anew(experiment, tiny_model_dir, monkeypatch):
    measured(monkeypatch, SLOW_HALF)
    settled(experiment())
    other = experiment(model={"path": str(tiny_model_dir)})
    assert recorded(other) == other


def test_both_are_really_timed():
    precision.measure.cache_clear()
    found = precision.measure(32, 16, "bfloat16")
    assert found.single > 0
    assert found.half > 0


def test_a_ranking_is_reused_on_a_machine_that_would_choose_otherwise(
    experiment, half, tmp_path, monkeypatch
):
    if half[0] == "float16":
        pytest.skip("one of the two is enough")
    measured(monkeypatch, SLOW_HALF)
    experiment(rank={"method": "loss"})
    config = str(tmp_path / "config.yaml")
    assert main(["rank", config]) == 0
    made = load_provenance(tmp_path / "run" / "rank")
    assert made.identity["model"]["dtype"] == "float32"
    written = yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())
    assert written["model"]["dtype"] == "float32"
    measured(monkeypatch, QUICK_HALF)
    assert main(["rank", config]) == 0  # up to date: else it would be refused
    assert load_provenance(tmp_path / "run" / "rank").environment == made.environment


def test_bad_data_leaves_no_folder(experiment, tmp_path, monkeypatch):
    measured(monkeypatch, SLOW_HALF)
    made = experiment()
    (tmp_path / "safe.jsonl").write_text("[]\n")
    for verb in (pipeline.rank, pipeline.train, pipeline.evaluate, pipeline.run):
        with pytest.raises(ValueError, match=r"safe\.jsonl:1: "):
            verb(made)
    assert not (tmp_path / "run").exists()


def test_an_adapter_is_in_the_precision_of_its_base(experiment, half, tmp_path, monkeypatch):
    model = AutoModelForCausalLM.from_pretrained(half[1])
    adapter = tmp_path / "adapter"
    with quiet_peft():
        get_peft_model(model, LoraConfig(task_type="CAUSAL_LM")).save_pretrained(adapter)
    measured(monkeypatch, SLOW_HALF)
    assert settled(experiment(model={"path": str(adapter)})).model.dtype == "float32"
