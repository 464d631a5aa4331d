"""Estimates: tokens and operations by hand, cost against counted tokens, what is done is 0."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from rankers.conftest import encoded, make_harmful, make_pool, make_safe, make_task
from seal import cells, pipeline, planning
from seal.cli import main
from seal.config.experiment import Experiment, load_experiment
from seal.data.sample import Message, Sample
from seal.inputs import Inputs
from seal.microbatches import MicroBatches
from seal.models import ModelSpec, load_model
from seal.progress import silent
from seal.rankers.loss import Loss
from seal.rankers.ranker import Cost, Ranker
from seal.rankers.seal import Seal
from seal.stages import estimate
from seal.stages.estimate import (
    Cell,
    Enough,
    Shape,
    StepClock,
    Work,
    as_json,
    as_table,
    duration,
    flops,
    mean_context,
    model_shape,
    spread,
    total,
)
from seal.stages.select import SelectSettings
from seal.tables import Tables
from seal.tasks.items import task_items
from tiny_model import make_model, subject

SHAPE = Shape(num_weights=100, num_multiplied=80, weight_bytes=400, num_layers=2, width=4)


# ---- arithmetic


def test_operations_by_hand():
    attention = 4 * 2 * 4 * 10  # 320
    forward = 2 * 80 + attention  # 480
    assert flops(Work(forward=3, generated=2), SHAPE, 10) == 5 * forward
    assert flops(Work(trained=7), SHAPE, 10) == 7 * 3 * forward
    assert flops(Work(trained=7), SHAPE, 10, num_lora=5) == 7 * (4 * 80 + 3 * attention + 6 * 5)


def test_the_shape_of_a_model_with_tied_and_with_own_output_embeddings():
    tied = model_shape(make_model(320))
    # per layer: q and o 16 x 16, k and v 16 x 8, three 16 x 32, two norms of 16
    layer = 2 * 16 * 16 + 2 * 16 * 8 + 3 * 16 * 32 + 2 * 16
    assert tied.num_weights == tied.num_multiplied == 320 * 16 + 2 * layer + 16
    assert (tied.num_layers, tied.width) == (2, 16)
    assert tied.weight_bytes == 4 * tied.num_weights
    model = make_model(320)
    model.lm_head.weight = torch.nn.Parameter(model.lm_head.weight.detach().clone())
    own = model_shape(model)
    assert own.num_weights == tied.num_weights + 320 * 16
    assert own.num_multiplied == tied.num_multiplied


def test_the_context_is_a_mean_over_tokens():
    assert mean_context([1, 3]) == (1 * 1 + 3 * 3) / 4
    assert mean_context([5, 5]) == 5


def test_rows_are_drawn_evenly_and_the_longest_is_one():
    rows = [encoded(f"r{n}", [2], [20] * n) for n in range(1, 13)]
    assert [len(row.input_ids) for row in spread(rows, 4)] == [13, 10, 7, 4]
    assert len(spread(rows, 99)) == 12


def test_the_total_sums_work_and_takes_the_largest_memory():
    cells = [
        Cell("a", False, Work(1, 2, 3), 10.0, 5.0, 700, 1),
        Cell("b", False, Work(10, 20, 30), 20.0, None, None, 2),
        Cell("c", is_done=True),
    ]
    assert total(cells) == Cell("total", False, Work(11, 22, 33), 30.0, 5.0, 700, 3)


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0, "0.0 s"), (9.94, "9.9 s"), (42, "42 s"), (200, "3 min 20 s"), (7500, "2 h 05 min")],
)
def test_durations_are_readable(seconds, words):
    assert duration(seconds) == words


@pytest.mark.parametrize(
    ("settings", "count"),
    [
        ({}, 8),
        ({"fraction": 0.5}, 5),
        ({"count": 3}, 3),
        ({"count": 99}, 10),
        ({"threshold": 0.0}, 10),
        ({"fraction": 0.5, "quotas": {"a": 1.0}}, 7),  # all 4 of a, half of the 6 others
    ],
)
def test_the_size_of_a_selection_that_is_not_there_yet(settings, count):
    samples = [Sample(str(i), (), (), "a" if i < 4 else "b") for i in range(10)]
    assert planning.expected_count(SelectSettings(**settings), samples) == count


# ---- clocks


def test_steps_are_timed_without_the_first(monkeypatch):
    times = iter([100.0, 107.0, 109.0, 111.0, 121.0])  # start, then the ends of steps 1 to 4
    monkeypatch.setattr(estimate.time, "perf_counter", lambda: next(times))
    clock = StepClock(torch.device("cpu"), 4)
    for done in (1, 2, 3):
        clock("steps", done, 9)
    with pytest.raises(Enough):
        clock("steps", 4, 9)
    found = clock.measured()
    assert found.seconds == 2  # the median of 2, 2 and 10
    assert found.start_seconds == 7 - 2
    assert found.memory_bytes > 2**20


def test_a_measurement_ends_at_the_time_limit_with_two_steps(monkeypatch):
    times = iter([0.0, 100.0, 300.0])
    monkeypatch.setattr(estimate.time, "perf_counter", lambda: next(times))
    clock = StepClock(torch.device("cpu"), 20)
    clock("steps", 1, 99)
    with pytest.raises(Enough):
        clock("steps", 2, 99)
    assert clock.measured().seconds == 200


def test_the_speed_of_passes_is_a_median_over_the_tokens(monkeypatch, lm):
    """A pass takes 1 second, but the first one and one other take 50."""
    now, passes = [0.0], [0]

    def slow(*_):
        passes[0] += 1
        now[0] += 50.0 if passes[0] in {1, 4} else 1.0

    lm.model.register_forward_pre_hook(slow)
    monkeypatch.setattr(estimate.time, "perf_counter", lambda: now[0])
    monkeypatch.setattr(estimate, "LIMIT_SECONDS", 1000.0)
    rows = make_pool(16)  # 4 batches of 4 rows with 8 tokens
    found = estimate.measure_forward(lm, rows, MicroBatches(None, 4))
    assert found.seconds == 1 / 32


# ---- the cost of a ranker is what it does


class Counted:
    """Tokens that pass through a model, by whether a graph is kept."""

    def __init__(self, monkeypatch) -> None:
        self.forward, self.trained = 0, 0
        call = torch.nn.Module.__call__

        def counting(module, *args, **kwargs):
            if type(module).__name__ == "LlamaForCausalLM":
                tokens = int(kwargs["attention_mask"].sum())
                if torch.is_grad_enabled():
                    self.trained += tokens
                else:
                    self.forward += tokens
            return call(module, *args, **kwargs)

        monkeypatch.setattr(torch.nn.Module, "__call__", counting)


SMALL = {"epochs": 2, "batch_size": 4, "micro_batch_size": 3, "learning_rate": 1e-2}


@pytest.mark.parametrize(
    ("ranker", "num_pool"),
    [
        (Loss(), 16),
        (Seal(**SMALL), 16),  # the first epoch has gamma 0
        (Seal(**SMALL), 14),  # the last batch of an epoch is smaller
        (Seal(**SMALL, gamma_start=0.5), 14),
        (Seal(**SMALL, gamma_per="step"), 16),
        (Seal(**SMALL, gamma_start=1.0, gamma_step=0.0), 16),  # the safe set is only looked at
        (Seal(**SMALL, gamma_start=1.0, gamma_step=0.0, algorithm="penalty"), 14),
        (Seal(**SMALL, algorithm="penalty", tuning="full"), 16),
        (Seal(**SMALL, algorithm="penalty", update="adam"), 14),
    ],
    ids=str,
)
def test_the_cost_is_the_tokens_that_are_counted(ranker, num_pool, lm, monkeypatch):
    """All rows have 8 tokens, so that it does not matter which safe rows are met more often."""
    pool, safe, harmful = make_pool(num_pool), make_safe(), make_harmful()
    task = make_task(lm, pool, safe, harmful)
    cost = ranker.cost(planning.sizes(pool, safe, harmful))
    Tables().losses(lm, pool[:1])  # what is tried once, before anything is counted
    counted = Counted(monkeypatch)
    ranker.rank(task)
    # A copy of the whole model is tried anew: its head (4 tokens), and its padding: a row of 5
    # alone, beside another of 5, and twice beside one of 12.
    is_copied = getattr(ranker, "algorithm", "") == "penalty" and ranker.tuning == "full"
    tried = 4 + 5 + 2 * 5 + 2 * (12 + 5) if is_copied else 0
    assert counted.forward - tried == pytest.approx(cost.forward)
    assert counted.trained == pytest.approx(cost.trained)
    assert counted.forward > 0


# ---- a whole experiment


def turns(question: str, answer: str) -> list[dict]:
    return [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]


def write_lines(path: Path, rows: list[dict]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


def write_experiment(folder: Path, model: Path) -> Path:
    """A small configuration with its data."""
    pool = [
        {"messages": turns(f"Question {i}?", "The sea is blue. " * (1 + i % 3))} for i in range(20)
    ]
    safe = [{"messages": turns(f"Say {i}.", "Grass is green.")} for i in range(5)]
    harmful = [{"prompt": f"Bad {i}?", "safe": "I am sorry.", "unsafe": "Take it."} for i in (1, 2)]
    harmful_path = write_lines(folder / "harmful.jsonl", harmful)
    pool_path = write_lines(folder / "pool.jsonl", pool)
    config = {
        "run_dir": str(folder / "runs" / "x"),
        "model": {"path": str(model)},
        "pool": {"path": pool_path},
        "safe": {"path": write_lines(folder / "safe.jsonl", safe)},
        "arms": ["base", "all", "selected"],
        "tokenization": {"max_length": 128},
        "rank": {"method": "seal", "epochs": 1, "batch_size": 8, "gamma_start": 0.5},
        "select": {"count": 12},
        "train": {
            "args": {
                "num_train_epochs": 2,
                "per_device_train_batch_size": 4,
                "gradient_accumulation_steps": 2,
            }
        },
        "evaluate": {
            "decoding": {"max_new_tokens": 5},
            "tasks": [
                {"task": "harmful_prompts", "path": harmful_path},
                {"task": "safety_margin", "path": harmful_path, "max_length": 128},
                {"task": "heldout_nll", "data": {"path": pool_path}, "max_length": 128},
            ],
        },
    }
    path = folder / "experiment.yaml"
    path.write_text(yaml.safe_dump(config))
    return path


@pytest.fixture
def config(tmp_path: Path, tiny_model_dir: Path) -> Path:
    return write_experiment(tmp_path, tiny_model_dir)


@pytest.fixture
def experiment(config: Path) -> Experiment:
    return load_experiment(config)


def by_name(document: dict) -> dict[str, dict]:
    return {cell["name"]: cell for cell in document["cells"]}


def test_tokens_of_every_cell(experiment):
    before = torch.get_rng_state()
    found = by_name(pipeline.estimate(experiment))
    assert torch.equal(torch.get_rng_state(), before)
    assert list(found) == [
        "rank",
        "train/all/seed-0",
        "train/selected/seed-0",
        "evaluate/base/seed-0",
        "evaluate/all/seed-0",
        "evaluate/selected/seed-0",
    ]
    assert not experiment.run_dir.exists()
    inputs = Inputs(experiment, silent)
    pool = [len(row.input_ids) for row in inputs.encoded_pool.encoded]
    safe = [len(row.input_ids) for row in inputs.encoded_safe.encoded]
    assert found["rank"]["work"] == {
        "forward": sum(pool),
        "trained": pytest.approx(sum(pool) + 20 * np.mean(safe)),
        "generated": 0.0,
    }
    assert found["train/all/seed-0"]["work"]["trained"] == 2 * sum(pool)
    assert found["train/selected/seed-0"]["work"]["trained"] == pytest.approx(24 * np.mean(pool))
    work = found["evaluate/base/seed-0"]["work"]
    prompts = inputs.encoder.prompt_ids([[Message("user", f"Bad {i}?")] for i in (1, 2)])
    margin = sum(
        len(inputs.encoder.prompt_ids([[Message("user", f"Bad {i}?")]])[0])
        + len(load_tokens(inputs, answer))
        + 1  # <|end|>
        for i in (1, 2)
        for answer in ("I am sorry.", "Take it.")
    )
    assert work["generated"] == 2 * 5
    assert work["forward"] == sum(map(len, prompts)) + margin + sum(pool)
    assert work == found["evaluate/selected/seed-0"]["work"]
    for cell in found.values():
        assert not cell["is_done"]
        assert 0 < cell["seconds"] < 100
        assert cell["flops"] > 0
        assert cell["memory_bytes"] > 2**20
        assert cell["disk_bytes"] > 0


def load_tokens(inputs: Inputs, text: str) -> list[int]:
    tokenizer = load_model(inputs.experiment.model).tokenizer
    return tokenizer(text, add_special_tokens=False)["input_ids"]


def test_rows_of_a_task_are_those_that_it_scores(experiment, lm, monkeypatch):
    margin, nll = experiment.evaluate.tasks[1:]
    Tables().losses(lm, task_items(nll, lm).rows[:1])  # what is tried once
    for task in (margin, nll):
        items = task_items(task, lm)
        with monkeypatch.context() as patch:
            counted = Counted(patch)
            task.run(subject(lm, experiment.evaluate.decoding))
        assert counted.forward == sum(len(row.input_ids) for row in items.rows)


def test_what_is_finished_is_0_and_what_is_selected_is_counted(experiment, monkeypatch):
    pipeline.rank(experiment)
    pipeline.select(experiment)
    document = pipeline.estimate(experiment)
    found = by_name(document)
    assert found["rank"] == as_json([Cell("rank", is_done=True)])["cells"][0]
    inputs = Inputs(experiment, silent)
    kept = set(cells.selected(inputs, experiment.arm("selected"), 0).ids)
    tokens = sum(len(row.input_ids) for row in inputs.encoded_pool.encoded if row.id in kept)
    assert found["train/selected/seed-0"]["work"]["trained"] == 2 * tokens
    pipeline.run(experiment)
    for arm, num in (("all", 20), ("selected", 12)):
        record = json.loads((inputs.run_dir.train(arm, 0) / "adapter.json").read_text())
        assert (record["num_samples"], record["num_steps"]) == (
            num,
            planning.num_steps(experiment.train.args, num),
        )
    monkeypatch.setattr(planning, "load_model", lambda _spec: pytest.fail("nothing is left to do"))
    document = pipeline.estimate(experiment)
    assert all(cell["is_done"] for cell in document["cells"])
    assert document["total"] == {**found["rank"], "name": "total"}


def test_a_ranker_that_does_not_say_has_no_estimate(experiment, monkeypatch):
    monkeypatch.setattr(Loss, "cost", Ranker.cost)
    silent_one = experiment.model_copy(update={"rank": Loss()})
    (cell,) = planning.cells(Inputs(silent_one, silent), "rank")
    assert cell.seconds is None
    assert cell.work == Work(*vars_of(Cost()))
    assert as_table(as_json([cell]))[1][0][5] == "unknown"


def vars_of(cost: Cost) -> tuple[float, float]:
    return cost.forward, cost.trained


def test_the_table_says_what_the_json_says(config, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    assert main(["estimate", str(config), "arms=[base]", "--json", "--quiet"]) == 0
    document = json.loads(capsys.readouterr().out)
    monkeypatch.setattr(pipeline, "estimate", lambda _experiment, _progress: document)
    assert main(["estimate", str(config), "arms=[base]", "--quiet"]) == 0
    shown = capsys.readouterr().out
    header, rows = as_table(document)
    assert [row[0] for row in rows] == ["rank", "evaluate/base/seed-0", "total"]
    for row in rows:
        (line,) = [line for line in shown.splitlines() if f" {row[0]} " in line]
        assert [cell.strip() for cell in line.strip("│ ").split("│")] == row
    assert len(header) == len(rows[0])
    rank, last = document["cells"][0], document["total"]
    assert rows[0][1:4] == [
        f"{rank['work'][name]:,.0f}" for name in ("forward", "trained", "generated")
    ]
    assert rows[-1][5] == duration(last["seconds"])
    assert last["seconds"] == pytest.approx(sum(cell["seconds"] for cell in document["cells"]))


@pytest.fixture
def lm(tiny_model_dir: Path):
    return load_model(ModelSpec(path=str(tiny_model_dir)))
