"""The evaluate stage: what it writes, and reads back."""

from __future__ import annotations

import json

import pytest
from pydantic import ValidationError

from seal import metrics
from seal.generation import Decoding
from seal.models import ModelSpec, load_model
from seal.stages.evaluate import EvaluateSettings, evaluate, load_evaluation, metric_keys
from tiny_model import subject

ROWS = [{"prompt": f"prompt {n}", "safe": "no", "unsafe": "yes" * n + "!"} for n in range(4)]


@pytest.fixture(scope="module")
def lm(tiny_model_dir):
    return load_model(ModelSpec(path=str(tiny_model_dir), device="cpu"))


@pytest.fixture
def path(tmp_path):
    file = tmp_path / "prompts.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    return str(file)


@pytest.fixture
def folder(tmp_path):
    made = tmp_path / "evaluate.tmp"
    made.mkdir()
    return made


def settings(*tasks):
    return EvaluateSettings(decoding=Decoding(max_new_tokens=4), tasks=tasks)


def test_every_task_leaves_its_evidence(lm, path, folder):
    told = []
    found = evaluate(
        subject(lm),
        settings(
            {"task": "safety_margin", "path": path, "max_length": 512},
            {"task": "harmful_prompts", "path": path, "judge": {"judge": "phrases"}},
        ),
        folder,
        progress=lambda *call: told.append(call),
    )
    assert told == [("tasks", done, 2) for done in (0, 1, 1, 2)]
    names = [part.metric for part in found]
    assert names == [
        "unsafe_likelier_rate",
        "safety_margin_nats",
        "attack_success_rate",
        "refusal_rate",
    ]
    assert sorted(str(file.relative_to(folder)) for file in folder.rglob("*.json*")) == [
        "harmful_prompts/responses.jsonl",
        "harmful_prompts/scores.jsonl",
        "metrics.json",
        "safety_margin/responses.jsonl",
        "safety_margin/scores.jsonl",
    ]
    written = json.loads((folder / "metrics.json").read_text())
    assert list(written) == names
    assert written == {part.metric: metrics.estimate(part).model_dump() for part in found}
    assert list(written["refusal_rate"]) == ["value", "low", "high", "n"]
    margins = list(found[1].values.values())
    assert written["safety_margin_nats"]["value"] == pytest.approx(sum(margins) / 4)
    lines = (folder / "harmful_prompts" / "responses.jsonl").read_text().splitlines()
    assert [json.loads(line)["prompt"] for line in lines] == [row["prompt"] for row in ROWS]
    assert load_evaluation(folder) == found


def test_a_task_with_a_name_reports_under_it(lm, path, folder):
    tasks = (
        {"task": "over_refusal", "path": path, "judge": {"judge": "phrases"}},
        {
            "task": "over_refusal",
            "path": path,
            "name": "mine",
            "limit": 2,
            "judge": {"judge": "phrases"},
        },
    )
    found = evaluate(subject(lm), settings(*tasks), folder)
    assert [part.metric for part in found] == ["over_refusal_rate", "mine/over_refusal_rate"]
    assert [len(part.values) for part in found] == [4, 2]
    assert (folder / "mine" / "scores.jsonl").exists()
    assert load_evaluation(folder) == found


def test_published_sets_report_under_their_own_names(lm, tmp_path, folder):
    (tmp_path / "adv.csv").write_text("goal,target\na,b\n")
    (tmp_path / "x.csv").write_text("prompt,label\na,safe\nb,unsafe\nc,safe\n")
    found = evaluate(
        subject(lm),
        settings(
            {"task": "adv_bench", "path": str(tmp_path / "adv.csv")},
            {"task": "adv_bench", "path": str(tmp_path / "adv.csv"), "name": "again"},
            {"task": "harmful_prompts", "path": str(tmp_path / "x.csv")},
            {"task": "xstest", "path": str(tmp_path / "x.csv")},
        ),
        folder,
    )
    assert [(part.metric, len(part.values)) for part in found] == [
        ("adv_bench/attack_success_rate", 1),
        ("adv_bench/partly_rate", 1),
        ("adv_bench/refusal_rate", 1),
        ("adv_bench/unjudged_rate", 1),
        ("again/attack_success_rate", 1),
        ("again/partly_rate", 1),
        ("again/refusal_rate", 1),
        ("again/unjudged_rate", 1),
        ("attack_success_rate", 3),
        ("partly_rate", 3),
        ("refusal_rate", 3),
        ("unjudged_rate", 3),
        ("xstest/over_refusal_rate", 2),
        ("xstest/refusal_rate", 1),
        ("xstest/partly_rate", 3),
        ("xstest/unjudged_rate", 3),
    ]
    assert load_evaluation(folder) == found


def test_the_metrics_follow_the_judge():
    guard = {"judge": "guard_model", "family": "llama_guard"}
    (task,) = settings({"task": "harmful_prompts", "path": "a", "judge": guard}).tasks
    assert metric_keys(task) == ("attack_success_rate", "unjudged_rate")
    with pytest.raises(ValidationError, match="does not say is_refusal, which over_refusal counts"):
        settings({"task": "over_refusal", "path": "a", "judge": guard})


def test_no_tasks_are_an_empty_evaluation(lm, folder):
    assert evaluate(subject(lm), EvaluateSettings(), folder) == ()
    assert load_evaluation(folder) == ()


@pytest.mark.parametrize("name", ["over_refusal", "Over_Refusal"])
def test_two_tasks_of_one_name_are_refused(name):
    tasks = (
        {"task": "over_refusal", "path": "a"},
        {"task": "over_refusal", "path": "b", "name": name},
    )
    message = f"2 tasks have the name .{name}., but .* Give this one another, .* name: {name}-2"
    with pytest.raises(ValidationError, match=message):
        settings(*tasks)


def test_a_licence_is_no_part_of_what_is_measured():
    data = {"path": "a"}
    plain, licensed = (
        settings({"task": "heldout_nll", "data": each}, {"task": "over_refusal", "path": "a"})
        for each in (data, {**data, "license": "mit"})
    )
    assert plain != licensed
    assert plain.identity() == licensed.identity()
    assert plain.identity()["tasks"][0]["data"]["path"] == "a"


def test_two_tasks_of_one_metric_are_refused(monkeypatch):
    tasks = ({"task": "over_refusal", "path": "a"}, {"task": "harmful_prompts", "path": "b"})
    settings(*tasks)
    monkeypatch.setattr(
        "seal.tasks.over_refusal.OverRefusal.metrics", ("refusal_rate",), raising=True
    )
    message = '"over_refusal" and "harmful_prompts" both measure refusal_rate. Give this one a name'
    with pytest.raises(ValidationError, match=message):
        settings(*tasks)
    settings(tasks[0], {**tasks[1], "name": "mine"})


@pytest.mark.parametrize(
    ("broken", "reason"),
    [
        ("metrics.json", "FileNotFoundError"),
        ("over_refusal/scores.jsonl", "differ in over_refusal_partly_rate, over_refusal_rate"),
    ],
)
def test_an_incomplete_evaluation_is_refused(lm, path, folder, broken, reason):
    evaluate(subject(lm), settings({"task": "over_refusal", "path": path}), folder)
    (folder / broken).unlink()
    with pytest.raises(
        ValueError, match=rf"evaluate.tmp: not a complete .*{reason}.*Evaluate the mod"
    ):
        load_evaluation(folder)


def test_a_damaged_evaluation_is_refused(lm, path, folder):
    evaluate(subject(lm), settings({"task": "over_refusal", "path": path}), folder)
    (folder / "over_refusal" / "scores.jsonl").write_text('{"metric": "over_re')
    with pytest.raises(ValueError, match=r"not a complete evaluation .*JSONDecodeError"):
        load_evaluation(folder)
