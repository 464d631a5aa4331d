"""The whole path through the command line on the tiny model: what is done, what lies on disk."""

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import pyarrow.parquet as pq
import pytest
import yaml

from faults.conftest import write_experiment
from seal import cells, pipeline
from seal.cli import main
from seal.config.arms import arms_of_words
from seal.config.experiment import load_experiment
from seal.data.tokenize import ChatEncoder
from seal.inputs import Inputs
from seal.planning import arm_size
from seal.progress import silent
from seal.rankers.seal import Seal

METRICS = {"attack_success_rate", "refusal_rate", "over_refusal_rate", "heldout_nll"}


def write_lines(path: Path, rows: list[dict]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


def turns(question: str, answer: str) -> list[dict]:
    return [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]


@pytest.fixture
def files(tmp_path: Path, tiny_model_dir: Path) -> dict:
    """A configuration as a dict, its data files written."""
    pool = [
        {
            "messages": turns(
                f"Question {i}?", f"Answer {i} is blue." if i % 4 else "Take the key."
            ),
            "source": "web" if i % 2 else "books",
            "label": "benign" if i % 4 else "unsafe",
            "note": i,
        }
        for i in range(20)
    ]
    safe = [
        {"instruction": f"Say {i}.", "input": "", "output": "The sea is blue."} for i in range(5)
    ]
    harmful = [
        {"prompt": f"Bad {i}?", "safe": "I am sorry.", "unsafe": "Take it."} for i in range(4)
    ]
    benign = [{"prompt": f"Good {i}?", "completion": "Grass is green."} for i in range(4)]
    scary = [{"prompt": f"Kill process {i}?"} for i in range(3)]
    (tmp_path / "safe.json").write_text(json.dumps(safe))
    harmful_path = write_lines(tmp_path / "harmful.jsonl", harmful)
    return {
        "run_dir": str(tmp_path / "runs" / "x"),
        "seeds": [0, 1],
        "model": {"path": str(tiny_model_dir)},
        "pool": {"path": write_lines(tmp_path / "pool.jsonl", pool), "label": "label"},
        "safe": {"path": str(tmp_path / "safe.json"), "format": "alpaca"},
        "tokenization": {"max_length": 128},
        "rank": {"method": "seal", "epochs": 1, "batch_size": 8, "learning_rate": 1e-2},
        "select": {"fraction": 0.8},
        "train": {"args": {"learning_rate": 1e-2, "num_train_epochs": 1}},
        "evaluate": {
            "decoding": {"max_new_tokens": 4},
            "tasks": [
                {"task": "harmful_prompts", "path": harmful_path},
                {"task": "over_refusal", "path": write_lines(tmp_path / "scary.jsonl", scary)},
                {"task": "safety_margin", "path": harmful_path, "max_length": 128},
                {
                    "task": "heldout_nll",
                    "data": {"path": write_lines(tmp_path / "benign.jsonl", benign)},
                    "max_length": 128,
                },
            ],
        },
    }


def write_config(files: dict, folder: Path) -> str:
    path = folder / "experiment.yaml"
    path.write_text(yaml.safe_dump(files))
    return str(path)


class Done(NamedTuple):
    exit_code: int
    output: str


@pytest.fixture
def seal(capsys: pytest.CaptureFixture):
    """Runs a command line; what it said, on either stream, has its line breaks folded."""

    def call(*words: str) -> Done:
        code = main([*words])
        said = capsys.readouterr()
        return Done(code, " ".join((said.out + said.err).split()))

    return call


def lines(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]


def tree(root: Path) -> dict[str, int]:
    return {
        str(path.relative_to(root)): path.stat().st_mtime_ns
        for path in sorted(root.rglob("*"))
        if path.is_file() and "report" not in path.parts and path.name != "config.yaml"
    }


def test_run_makes_everything_and_a_second_run_nothing(seal, files, tmp_path):
    config = write_config(files, tmp_path)
    done = seal("run", config)
    assert done.exit_code == 0, done.output
    run = Path(files["run_dir"])

    table = pq.read_table(run / "rank" / "ranking.parquet")
    assert table.column_names[:3] == ["id", "score", "rank"]
    assert sorted(table["rank"].to_pylist()) == list(range(1, 21))
    kept = set(pq.read_table(run / "select" / "selection.parquet")["id"].to_pylist())
    rank_of = dict(zip(table["id"].to_pylist(), table["rank"].to_pylist(), strict=True))
    best = {key for key, rank in rank_of.items() if rank <= 16}
    assert kept == best

    pool_rows = lines(Path(files["pool"]["path"]))
    selected = lines(run / "select" / "selected.jsonl")
    assert len(selected) == 16
    assert all(row in pool_rows for row in selected), "selected.jsonl is in the pool's own format"

    report = json.loads((run / "report" / "report.json").read_text())
    assert set(report["arms"]) == {"base", "all", "random", "selected"}
    for arm in report["arms"].values():
        assert set(arm) >= METRICS
        for name in METRICS:
            assert set(arm[name]) == {"value", "low", "high", "n"}
            assert arm[name]["low"] <= arm[name]["value"] <= arm[name]["high"]
    assert {"auroc", "average_precision", "unsafe_kept_at_clean_fraction"} <= set(report["ranking"])
    assert (run / "report" / "index.html").read_text().lstrip().startswith("<!DOCTYPE html>")

    before = tree(run)
    again = seal("run", str(run / "config.yaml"))
    assert again.exit_code == 0, again.output
    assert tree(run) == before, "a second run recomputed something"


def test_stages_one_by_one_equal_the_run(seal, files, tmp_path):
    config = write_config({**files, "arms": ["selected"], "seeds": [0]}, tmp_path)
    for stage in ("rank", "select", "train", "evaluate", "report"):
        done = seal(stage, config)
        assert done.exit_code == 0, done.output
    whole = seal("run", config, f"run_dir={tmp_path}/runs/y")
    assert whole.exit_code == 0, whole.output
    one, other = tmp_path / "runs" / "x", tmp_path / "runs" / "y"
    for name in ("rank/ranking.parquet", "select/selected.jsonl",
                 "train/selected/seed-0/adapter/adapter_model.safetensors",
                 "evaluate/selected/seed-0/metrics.json"):  # fmt: skip
        assert (one / name).read_bytes() == (other / name).read_bytes(), name


def test_mixing_and_merging(seal, files, tmp_path):
    files["train"]["mix"] = {"data": files["safe"], "share": 0.2}
    config = write_config({**files, "arms": ["selected"], "seeds": [0]}, tmp_path)
    for stage in ("rank", "select", "train", "merge"):
        done = seal(stage, config)
        assert done.exit_code == 0, done.output
    run = Path(files["run_dir"])
    record = json.loads((run / "train" / "selected" / "seed-0" / "adapter.json").read_text())
    assert record["num_samples"] == 20  # 16 selected, and 4 of the safe set make up a fifth
    before = tree(run)
    licences = ("pool.license=mit", "safe.license=mit", "train.mix.data.license=cc-by-4.0")
    assert seal("train", config, *licences).exit_code == 0
    assert tree(run) == before, "a licence is part of no identity"
    merged = run / "merge" / "selected" / "seed-0" / "model"
    again = seal("rank", config, f"model.path={merged}", f"run_dir={tmp_path}/merged")
    assert again.exit_code == 0, again.output


def test_rank_works_without_a_config_file(seal, files, tmp_path):
    done = seal(
        "rank", f"model.path={files['model']['path']}", f"pool.path={files['pool']['path']}",
        f"safe.path={files['safe']['path']}", "safe.format=alpaca", f"run_dir={tmp_path}/r",
        "rank.rounds=1", "tokenization.max_length=128",
    )  # fmt: skip
    assert done.exit_code == 0, done.output
    assert pq.read_table(tmp_path / "r" / "rank" / "ranking.parquet").num_rows == 20


def test_a_run_folder_of_another_run_is_refused_and_left_alone(seal, files, tmp_path):
    config = write_config(files, tmp_path)
    assert seal("rank", config).exit_code == 0
    before = tree(Path(files["run_dir"]))
    refused = seal("rank", config, "rank.batch_size=4")
    assert refused.exit_code == 2
    assert "ranker.batch_size: 8 there, 4 now" in refused.output
    assert "Delete" in refused.output
    assert "or give another run_dir" in refused.output
    assert tree(Path(files["run_dir"])) == before


def test_a_changed_pool_is_refused(seal, files, tmp_path):
    config = write_config(files, tmp_path)
    assert seal("rank", config).exit_code == 0
    path = Path(files["pool"]["path"])
    path.write_text(path.read_text().replace("Question 3?", "Question three?"))
    for stage in ("rank", "select"):
        refused = seal(stage, config)
        assert refused.exit_code == 2, stage
        said = refused.output
        assert "pool:" in said or "1 of 20 samples have no score" in said


def test_stages_out_of_order(seal, files, tmp_path):
    config = write_config(files, tmp_path)
    for stage, needed in [("select", "seal rank"), ("train", "seal select"),
                          ("evaluate", "seal train"), ("report", "seal rank")]:  # fmt: skip
        refused = seal(stage, config, "arms=[selected]")
        assert refused.exit_code == 2
        assert f"Run `{needed}`" in refused.output
    assert not Path(files["run_dir"]).exists(), "a refusal leaves nothing behind"


def test_labels_and_sources_cannot_reach_the_ranker(files, tmp_path):
    experiment = load_experiment(Path(write_config(files, tmp_path)))
    pipeline.rank(experiment)
    path = Path(files["pool"]["path"])
    rows = lines(path)
    for row in rows:
        row["label"] = {"benign": "unsafe", "unsafe": "benign"}[row["label"]]
        row["source"] = "elsewhere"
    write_lines(path, rows)
    second = experiment.model_copy(update={"run_dir": tmp_path / "runs" / "relabelled"})
    pipeline.rank(second)
    one, other = (
        pq.read_table(e.run_dir / "rank" / "ranking.parquet").to_pydict()
        for e in (experiment, second)
    )
    assert one == other


def test_random_arm_has_the_size_of_the_selection_and_changes_with_the_seed(files, tmp_path):
    experiment = load_experiment(Path(write_config(files, tmp_path)))
    pipeline.rank(experiment)
    pipeline.select(experiment)
    inputs = pipeline.Inputs(experiment, pipeline.silent)
    random, everything = arms_of_words("random", "all")
    draws = [set(cells.selected(inputs, random, seed).ids) for seed in (0, 1)]
    assert [len(draw) for draw in draws] == [16, 16]
    assert draws[0] != draws[1]
    assert len(cells.selected(inputs, everything, 0).ids) == 20


def test_oracle_arm_is_all_that_is_not_labelled_unsafe(files, tmp_path):
    experiment = load_experiment(Path(write_config(files, tmp_path)))
    inputs = pipeline.Inputs(experiment, pipeline.silent)
    (arm,) = arms_of_words("oracle")
    oracle = cells.selected(inputs, arm, 0)  # needs no ranking
    labels = inputs.pool.labels
    assert set(oracle.ids) == {key for key, label in labels.items() if label != "unsafe"}
    assert len(oracle.ids) == 15
    assert oracle.num_pool == 20
    assert arm_size(inputs, arm)[0] == 15


def test_oracle_arm_without_labels_is_refused(files, tmp_path):
    del files["pool"]["label"]
    inputs = pipeline.Inputs(load_experiment(Path(write_config(files, tmp_path))), pipeline.silent)
    with pytest.raises(ValueError, match=r"^arms names oracle, .* but pool\.label is not set\. Na"):
        cells.selected(inputs, *arms_of_words("oracle"), 0)


# --- held-out safe rows --------------------------------------------------------------------------


@pytest.fixture
def trusted(files, tmp_path) -> dict:
    """29 safe rows: 28 that are there twice, and one that is a pool row, too."""
    rows = [{"prompt": f"Say {i}.", "completion": f"The sea is blue {i}."} for i in range(28)]
    rows += [*rows, {"messages": turns("Question 1?", "Answer 1 is blue.")}]
    files["safe"] = {"path": write_lines(tmp_path / "safe.jsonl", rows)}
    files["rank"] = {"method": "loss"}
    return files


def test_without_holdout_a_ranking_is_made_from_what_it_was(trusted, tmp_path):
    experiment = load_experiment(Path(write_config(trusted, tmp_path)))
    inputs = pipeline.Inputs(experiment, pipeline.silent)
    assert "holdout" not in inputs.identity_with(experiment.rank)
    assert inputs.reference == ()
    assert inputs.trusted == inputs.encoded_safe.encoded


def test_held_out_safe_rows_are_scored_but_are_not_of_the_pool(seal, trusted, tmp_path):
    trusted |= {"holdout": 0.5, "select": {"reference": "safe", "error_rate": 0.25}}
    config = write_config(trusted, tmp_path)
    assert seal("rank", config).exit_code == 0
    run = Path(trusted["run_dir"])
    pool = pq.read_table(run / "rank" / "ranking.parquet")["id"].to_pylist()
    held = pq.read_table(run / "rank" / "reference.parquet")
    inputs = pipeline.Inputs(load_experiment(Path(config)), pipeline.silent)
    assert sorted(pool) == sorted(row.id for row in inputs.encoded_pool.encoded)
    ids = set(held["id"].to_pylist())
    assert ids == {row.id for row in inputs.reference}
    assert ids.isdisjoint(pool)
    assert not any("-" in key for key in ids), "of copies only the first"
    safe = {row.id.partition("-")[0] for row in inputs.trusted}
    assert safe.isdisjoint(ids), "neither a row nor its copy is on both sides"
    assert len(inputs.held_out) == round(0.5 * 29)  # contents
    assert held.column_names == ["id", "score", "rank", "loss"]

    done = seal("select", config)
    assert done.exit_code == 0, done.output
    cut = json.loads((run / "select" / "cut.json").read_text())
    scores = sorted(held["score"].to_pylist())
    assert cut["threshold"]["value"] == scores[int(0.25 * (len(scores) + 1)) - 1]
    assert cut["num_reference"] == len(ids)
    kept = pq.read_table(run / "select" / "selection.parquet")["id"].to_pylist()
    assert len(kept) == cut["num_kept"]
    assert "select (safe): scores of at least" in done.output
    assert seal("select", config, "select.error_rate=0.5").exit_code == 2, "another selection"

    refused = seal("rank", config, "holdout=0.4")
    assert refused.exit_code == 2
    assert "holdout: 0.5 there, 0.4 now" in refused.output


def test_which_rows_are_held_out_does_not_depend_on_the_files(trusted, tmp_path):
    def held_out() -> frozenset[str]:
        experiment = load_experiment(Path(write_config(trusted, tmp_path)), ["holdout=0.3"])
        return pipeline.Inputs(experiment, pipeline.silent).held_out

    first = held_out()
    path = Path(trusted["safe"]["path"])
    path.write_text("".join(reversed(path.read_text().splitlines(keepends=True))))
    assert held_out() == first
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:-1]))
    assert len(held_out() ^ first) <= 2, "a row less changes at most who replaces it"


def test_holdouts_that_leave_nothing(seal, trusted, tmp_path):
    config = write_config(trusted, tmp_path)
    refused = seal("rank", config, "holdout=0.01")
    assert refused.exit_code == 2
    assert "holdout=0.01 of 29 safe rows is not one row. Raise holdout" in refused.output
    refused = seal("rank", config, "holdout=0.5", f"safe.path={trusted['pool']['path']}")
    assert refused.exit_code == 2
    assert "all 10 held-out safe rows are rows of the pool, too" in refused.output
    assert not Path(trusted["run_dir"]).exists()


def test_auto_is_refused_on_a_small_pool_and_leaves_nothing(seal, trusted, tmp_path):
    config = write_config({**trusted, "select": "auto"}, tmp_path)
    assert seal("rank", config).exit_code == 0
    refused = seal("select", config)
    assert refused.exit_code == 2
    assert "select: auto needs at least 50 different scores" in refused.output
    assert not (Path(trusted["run_dir"]) / "select").exists()


BAD = [
    ({"pool": ""}, "no usable sample"),
    ({"safe": "[]"}, "no usable sample"),
    ({"fraction": 0}, "select.fraction"),
    ({"fraction": 1.5}, "select.fraction"),
    ({"max_length": 8}, "Raise"),
    ({"pool": None}, "no such file"),
]


@pytest.mark.parametrize(("change", "message"), BAD)
def test_bad_input_is_one_message_and_nothing_half_written(seal, files, tmp_path, change, message):
    for key, value in change.items():
        if key == "fraction":
            files["select"]["fraction"] = value
        elif key == "max_length":
            files["tokenization"]["max_length"] = value
        elif value is None:
            files[key]["path"] = str(tmp_path / "nowhere.jsonl")
        else:
            Path(files[key]["path"]).write_text(value)
    refused = seal("run", write_config(files, tmp_path))
    assert refused.exit_code == 2, refused.output
    assert message.lower() in refused.output.lower()
    assert "Traceback" not in refused.output
    assert not Path(files["run_dir"]).exists()


def test_pool_equal_to_safe(seal, files, tmp_path):
    files["safe"] = {"path": files["pool"]["path"]}
    refused = seal("rank", write_config(files, tmp_path))
    assert refused.exit_code == 2
    assert "pool and safe set hold the same 20 samples" in refused.output
    assert not Path(files["run_dir"]).exists()


def test_labels_none_of_which_is_unsafe(seal, files, tmp_path):
    refused = seal("rank", write_config({**files, "unsafe_labels": ["bad"]}, tmp_path))
    assert refused.exit_code == 2
    assert "no sample has a label in unsafe_labels=['bad']" in refused.output
    assert "are benign (15), unsafe (5). Set unsafe_labels" in refused.output


def test_a_folder_that_cannot_be_written(seal, files, tmp_path):
    (tmp_path / "runs").write_text("a file where the folder should be")
    refused = seal("rank", write_config(files, tmp_path))
    assert refused.exit_code == 2
    assert "cannot write into" in refused.output


def test_a_large_pool_is_tokenized_once_and_gives_the_same(seal, files, tmp_path, monkeypatch):
    files = {**files, "holdout": 0.4, "select": {"quotas": {"web": 0.5}}}
    plain, large = (files | {"run_dir": str(tmp_path / name)} for name in ("plain", "large"))
    for command in ("rank", "select"):
        assert seal(command, write_config(plain, tmp_path)).exit_code == 0
    assert not (tmp_path / "plain" / "data").exists()

    monkeypatch.setattr("seal.inputs.KEPT_BYTES", 0)
    assert seal("rank", write_config(large, tmp_path)).exit_code == 0
    # The pool and the safe set, each as samples and as tokens.
    assert len(list((tmp_path / "large" / "data").iterdir())) == 4
    monkeypatch.setattr(ChatEncoder, "locate", lambda *_: pytest.fail("tokenized again"))
    assert seal("select", write_config(large, tmp_path)).exit_code == 0
    for name in ("rank/ranking.parquet", "rank/excluded.jsonl", "select/selected.jsonl"):
        one, other = ((tmp_path / run / name).read_bytes() for run in ("plain", "large"))
        assert one == other

    for path in (tmp_path / "large" / "data").rglob("tokens.arrow"):
        content = path.read_bytes()
        path.unlink()
        path.write_bytes(content[:-1])
    done = seal("select", write_config(large, tmp_path))
    assert done.exit_code == 2
    assert re.search("tokens-[0-9a-f]{16}/tokens.arrow was changed", done.output)
    assert "delete the folder to make it again" in done.output


def test_what_a_large_pool_trains_on_is_what_a_small_one_does(files, tmp_path, monkeypatch):
    experiment = load_experiment(Path(write_config(files, tmp_path)))
    every = arms_of_words("all", "oracle")
    found = []
    for kept_bytes in (2**30, 0):
        monkeypatch.setattr("seal.inputs.KEPT_BYTES", kept_bytes)
        inputs = pipeline.Inputs(experiment, pipeline.silent)
        found.append([cells.selected(inputs, arm, 0) for arm in every])
        assert [arm_size(inputs, arm)[0] for arm in every] == [20, 15]
        assert inputs.rankable_rows is inputs.encoded_pool.encoded
        assert dict(inputs.conversations) == {
            row.id: replace(row, source="") for row in (*inputs.pool.samples, *inputs.safe.samples)
        }
    assert found[0] == found[1]


def test_how_much_memory_a_ranking_takes_is_no_part_of_it(tmp_path, tiny_model_dir):
    """A run that ran out of memory, or was given up, goes on with other numbers."""
    config = write_experiment(tmp_path, tiny_model_dir, tmp_path / "run", rank={"method": "seal"})
    inputs = Inputs(load_experiment(config), silent)
    known = inputs.identity_with(Seal())
    assert inputs.identity_with(Seal(micro_batch_size=3, max_skipped_steps=50)) == known
    assert inputs.identity_with(Seal(epochs=4)) != known
