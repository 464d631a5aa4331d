"""A whole run with win rates: what the report is made of, and what it says of them."""

import json
import threading
import urllib.request

import pytest
import yaml

from seal import audit, pipeline
from seal.config.experiment import load_experiment
from seal.inputs import Inputs
from seal.judges.pairwise import PairwiseEndpoint, Vote
from seal.progress import silent

JUDGE = {"base_url": "http://127.0.0.1:9/v1", "model": "fake"}


@pytest.fixture
def asked(monkeypatch):
    """A judge that prefers the longer answer; counts what it is asked."""
    seen = []

    def vote_each(_judge, pairs):
        for pair in pairs:
            seen.append(pair)
            yield Vote(pair.id, "first" if len(pair.first) >= len(pair.second) else "second", "so")

    monkeypatch.setattr(PairwiseEndpoint, "vote_each", vote_each)
    return seen


def write(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


@pytest.fixture
def config(tmp_path, tiny_model_dir):
    pool = [{"prompt": f"Question {i}?", "completion": f"It is {i}."} for i in range(8)]
    safe = [{"prompt": f"Say {i}.", "completion": "I am sorry."} for i in range(3)]
    bad = [{"prompt": f"Bad {i}?"} for i in range(5)]
    settings = {
        "run_dir": str(tmp_path / "run"),
        "model": {"path": str(tiny_model_dir), "device": "cpu"},
        "pool": {"path": write(tmp_path / "pool.jsonl", pool)},
        "safe": {"path": write(tmp_path / "safe.jsonl", safe)},
        "rank": {"method": "loss"},
        "select": {"fraction": 0.5},
        "seeds": [0, 1],
        "arms": ["base", "all", "selected"],
        "train": {"args": {"learning_rate": 0.03, "num_train_epochs": 1}},
        "evaluate": {
            "decoding": {"max_new_tokens": 6},
            "tasks": [{"task": "harmful_prompts", "path": write(tmp_path / "bad.jsonl", bad)}],
        },
        "pairwise": [{"task": "harmful_prompts", "against": "all", "judge": JUDGE}],
    }
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump(settings))
    return path


def answers(run, arm, seed):
    path = run / "evaluate" / arm / f"seed-{seed}" / "harmful_prompts" / "responses.jsonl"
    return {row["id"]: row["response"] for row in map(json.loads, path.read_text().splitlines())}


def test_win_rates_are_those_of_the_answers_averaged_over_seeds(config, asked):
    experiment = load_experiment(config)
    page = pipeline.run(experiment)
    run = experiment.run_dir
    document = json.loads((page.parent / "report.json").read_text())
    rows = {row["arm"]: row for row in document["pairwise"]}
    assert rows.keys() == {"base", "selected"}

    def value(ours, theirs):  # the fake judge: the longer, and of equals the one shown first
        if ours == theirs or len(ours) == len(theirs):
            return 0.5
        return float(len(ours) > len(theirs))

    for arm, seeds in (("base", [(0, 0)]), ("selected", [(0, 0), (1, 1)])):
        values = [
            value(text, answers(run, "all", theirs)[key])
            for ours, theirs in seeds
            for key, text in answers(run, arm, ours).items()
        ]
        assert rows[arm]["win_rate"]["value"] == pytest.approx(sum(values) / len(values))
        assert rows[arm]["win_rate"]["n"] == 5
        assert rows[arm]["num_seeds"] == len(seeds)
    assert "Whose answers are preferred" in page.read_text()
    num_asked = len(asked)
    assert num_asked
    pipeline.run(experiment)
    assert len(asked) == num_asked, "a finished comparison is not made again"


def test_evidence_is_looked_up_for_the_shown_samples_unless_it_is_turned_off(config):
    words = ["pairwise=[]", "seeds=[0]"]
    experiment = load_experiment(config, words)
    pipeline.run(experiment)
    compared = audit.comparison(Inputs(experiment, silent))
    assert len(compared.evidence) == 8
    found = next(iter(compared.evidence.values()))
    assert "before training minus that after training on the" in found.heats[0].words
    assert found.anchors
    assert found.guard == ""
    judged = load_experiment(config, [*words, "report.judge.judge=refusal_phrases"])
    compared = audit.comparison(Inputs(judged, silent))
    assert all("phrases" in one.guard for one in compared.evidence.values())
    off = load_experiment(config, [*words, "report.evidence=false"])
    assert audit.comparison(Inputs(off, silent)).evidence == {}
    assert "evidence" not in (experiment.run_dir / "rank" / "provenance.json").read_text()


def test_the_report_is_served_with_the_text_of_every_sample(config):
    experiment = load_experiment(config, ["pairwise=[]", "seeds=[0]", "report.evidence=false"])
    inputs = Inputs(experiment, silent)
    with pytest.raises(ValueError, match=r"index.html is missing\. Run `seal report`"):
        audit.serve_report(inputs, 0, print)
    pipeline.run(experiment)
    told, ready = [], threading.Event()

    def announce(address):
        told.append(address)
        ready.set()

    thread = threading.Thread(
        target=audit.serve_report, args=(Inputs(experiment, silent), 0, announce), daemon=True
    )
    thread.start()
    assert ready.wait(60)
    with urllib.request.urlopen(told[0], timeout=30) as page:
        assert b"<html" in page.read(2000)


def test_an_arm_with_a_ranker_of_its_own_has_its_ranking_in_the_report(config):
    words = ["pairwise=[]", "seeds=[0]", "report.evidence=false"]
    experiment = load_experiment(config, [*words, "arms=[{name: mine, rank: {method: random}}]"])
    document = json.loads(pipeline.run(experiment).with_name("report.json").read_text())
    own = document["arm_rankings"]["mine"]
    assert own["ranker"] == "random"
    assert own["selection"]["num_kept"] == 4
    names = set(document["provenance"]["files"])
    inputs = Inputs(experiment, silent)
    folder = inputs.rank_folder(experiment.arms[0]).relative_to(experiment.run_dir).as_posix()
    assert {"rank/ranking.parquet", f"{folder}/ranking.parquet"} < names


def test_what_is_missing_is_named_with_its_run_and_the_command_that_makes_it(config):
    experiment = load_experiment(config, ["pairwise=[]", "seeds=[0]", "report.evidence=false"])
    pipeline.rank(experiment)
    pipeline.select(experiment)
    root = experiment.run_dir
    start = f"the run {root} is not finished: {root}/evaluate/base/seed-0 is missing. "
    with pytest.raises(ValueError, match=r".") as caught:
        pipeline.report(experiment)
    assert str(caught.value) == f"{start}Run `seal evaluate {root}` first."
    other = load_experiment(config, ["pairwise=[]", "seeds=[0]"])  # of which the folder knows not
    with pytest.raises(ValueError, match=r".") as caught:
        pipeline.report(other)
    assert str(caught.value) == f"{start}Run `seal evaluate` with the same config first."


@pytest.mark.parametrize(
    ("word", "message"),
    [
        (
            "pairwise.0.against=nobody",
            r"pairwise\.0\.against: 'nobody' is no arm\. The arms: base",
        ),
        (
            "pairwise.0.task=heldout",
            r"pairwise\.0\.task: 'heldout' is no task .* Those are: harm",
        ),
        (
            f"pairwise.1={{task: harmful_prompts, against: all, judge: {json.dumps(JUDGE)}}}",
            r"pairwise\.1: the answers to harmful_prompts are compared with those of all twice",
        ),
        ("evaluate.server={base_url: 'http://127.0.0.1:9/v1', model: one}", "model"),
    ],
)
def test_comparisons_of_answers_that_nobody_gives_are_refused(config, word, message):
    with pytest.raises(ValueError, match=message):
        load_experiment(config, [word])


def test_a_report_by_other_settings_is_refused(config):
    experiment = load_experiment(config, ["pairwise=[]", "seeds=[0]", "report.evidence=false"])
    pipeline.run(experiment)
    before = (experiment.run_dir / "config.yaml").read_text()
    for word, key in (("select.fraction=0.25", "select"), ("rank={method: random}", "rank")):
        other = load_experiment(config, ["pairwise=[]", "seeds=[0]", word])
        with pytest.raises(ValueError, match=rf"run/{key} was made from something else"):
            pipeline.report(other)
    tracked = load_experiment(config, ["pairwise=[]", "seeds=[0]", "title=other"])
    pipeline.evaluate(tracked)
    assert (experiment.run_dir / "config.yaml").read_text() == before, "nothing was made"


@pytest.mark.parametrize("key", ["evaluate.server", "pairwise.0.judge"])
def test_a_key_that_was_pasted_is_not_shown(config, key):
    with pytest.raises(ValueError, match="not the name of an environment variable") as caught:
        load_experiment(
            config,
            [f"{key}.base_url=http://x/v1", f"{key}.model=m-{{arm}}", f"{key}.api_key_env=sk-123"],
        )
    assert "sk-123" not in str(caught.value)
