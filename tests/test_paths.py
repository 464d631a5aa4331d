"""Where a path is taken, text and whatever is path-like will do."""

import importlib
import inspect
import json
from pathlib import Path

import numpy as np
import pytest

import seal
from seal.artifacts.provenance import file_hash, folder_hashes
from seal.artifacts.ranking import load_ranking, make_ranking, save_ranking
from seal.artifacts.selection import Selection, load_selection, save_selection
from seal.config.experiment import load_experiment
from seal.data.load import DataSpec, Excluded, load, write_excluded
from seal.data.readers import read_rows
from seal.data.redorca import build_redorca
from seal.pipeline import demo
from seal.tasks.prompts import read_items

ROW = {"prompt": "a", "completion": "b"}
MODULES = [
    "artifacts.adapter", "artifacts.evaluation", "artifacts.provenance", "artifacts.ranking",
    "artifacts.selection", "artifacts.token_scores", "benchmark", "config.experiment", "data.load",
    "data.readers", "data.redorca", "lab.build", "models", "pipeline", "stages.evaluate",
    "stages.export", "stages.merge", "stages.pairwise", "stages.rank", "stages.report",
    "stages.score", "stages.select", "stages.train", "tasks.prompts",
]  # fmt: skip


class Named:
    """Whatever says of itself which path it stands for."""

    def __init__(self, path):
        self.path = path

    def __fspath__(self):
        return str(self.path)


@pytest.fixture(params=[str, Path, Named])
def given(request, tmp_path):
    """A name in the test's folder -> that path in one of the ways to give it."""
    return lambda name: request.param(tmp_path / name)


def test_experiments_and_rows(given, tmp_path):
    (tmp_path / "pool.jsonl").write_text(json.dumps(ROW))
    words = ["run_dir=r", "model.path=m", f"pool.path={tmp_path}/pool.jsonl", "safe.path=s.jsonl"]
    (tmp_path / "x.yaml").write_text("title: Mine\n")
    assert load_experiment(given("x.yaml"), words).title == "Mine"
    with pytest.raises(FileNotFoundError, match="no such file"):
        load_experiment(given("y.yaml"))
    assert [raw.row for raw in read_rows(given("pool.jsonl"))] == [ROW]
    assert len(read_items(given("pool.jsonl"), ["prompt"])) == 1
    spec = DataSpec(path=given("pool.jsonl"))
    assert len(load([spec], name="pool", cache=given("kept")).samples) == 1
    assert len(list((tmp_path / "kept").iterdir())) == 1


def test_artifacts(given):
    ranking = make_ranking(("0" * 16, "1" * 16), np.array([1.0, 2.0]))
    save_ranking(ranking, given("ranking.parquet"))
    assert load_ranking(given("ranking.parquet")).scores.tolist() == [1.0, 2.0]
    save_selection(Selection(ranking.ids, 2), given("selection.parquet"))
    assert load_selection(given("selection.parquet")) == Selection(ranking.ids, 2)
    write_excluded([Excluded("x:1", "no", None, "read")], given("excluded.jsonl"))
    assert file_hash(given("excluded.jsonl")) == folder_hashes(given(""))["excluded.jsonl"]


def test_what_makes_folders(given, tmp_path, monkeypatch):
    with pytest.raises(ValueError, match=r"none\.jsonl: there is no such file"):
        build_redorca(given("none.jsonl"), given("none.jsonl"), given("made"))
    asked = []
    monkeypatch.setattr("seal.pipeline.build_or_reuse", lambda folder, *_: asked.append(folder))
    monkeypatch.setattr("seal.pipeline.run", lambda experiment, _: experiment.run_dir)
    assert demo(given("demo")) == tmp_path / "demo"
    assert asked == [tmp_path / "demo" / "data"]


def test_no_public_function_asks_for_a_path_alone():
    public = [getattr(seal, name) for name in seal.__all__]
    for module in (importlib.import_module(f"seal.{name}") for name in MODULES):
        found = [value for name, value in vars(module).items() if not name.startswith("_")]
        public += [value for value in found if getattr(value, "__module__", "") == module.__name__]
    asking = {
        f"{function.__module__}.{function.__name__}({name})"
        for function in filter(inspect.isfunction, public)
        for name, parameter in inspect.signature(function).parameters.items()
        if str(parameter.annotation) in ("Path", "Path | None")
    }
    assert asking == set()
