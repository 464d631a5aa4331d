from __future__ import annotations

import json
import math

import numpy as np
import pytest
from comparisons import arm, document_of, estimate, make, make_sample

from seal.artifacts.evaluation import Estimate
from seal.artifacts.ranking import make_ranking
from seal.artifacts.selection import Selection
from seal.data.sample import Message, Sample
from seal.stages.report import ArmResult, report
from seal.stages.report_page.page import render


def test_the_json_holds_the_numbers_by_name(tmp_path):
    found = document_of(tmp_path)
    assert found["arms"]["all"]["refusal_rate"] == {
        "value": 0.6,
        "low": 0.58,
        "high": 0.62,
        "n": 100,
    }
    assert found["ranking"] == {"auroc": {"value": 0.875, "low": 0.775, "high": 0.975, "n": 10}}
    assert found["num_samples"] == {"base": 0, "all": 10, "random": 6, "selected": 6}
    assert found["selection"] == {
        "num_samples": 10,
        "num_kept": 6,
        "num_dropped": 4,
        "drop_rate": 0.4,
        "lowest_kept_score": 4.0,
        "highest_dropped_score": 3.0,
        "cut_score": 3.5,
    }
    assert found["provenance"] == {
        "model": {"id": "pup"},
        "seeds": [0, 1],
        "loss": "nan",
        "gpu": None,
    }
    assert found["metrics"]["nll"] == {"label": "NLL", "unit": "number", "better": "lower"}


def test_the_page_is_a_function_of_the_json(tmp_path):
    page = report(make(), tmp_path)
    assert page == tmp_path / "index.html"
    document = json.loads((tmp_path / "report.json").read_text(encoding="utf-8"))
    assert render(document) == page.read_text(encoding="utf-8")


def test_the_page_hides_nothing_that_the_json_says(tmp_path):
    document = document_of(tmp_path)
    document["title"] = "a\u202eb<i>"
    assert "<h1>a\\u202eb&lt;i&gt;</h1>" in render(document)


def test_values_per_seed_are_kept(tmp_path):
    arms = (arm("all", 10, {1: {"refusal_rate": 0.5}, 0: {"refusal_rate": 0.7}}, refusal_rate=0.6),)
    found = document_of(tmp_path, arms=arms)
    assert found["arms_per_seed"] == {
        "all": {"0": {"refusal_rate": 0.7}, "1": {"refusal_rate": 0.5}}
    }
    assert "Values of each training seed" in (tmp_path / "index.html").read_text(encoding="utf-8")


def test_drop_rates_by_source_and_label(tmp_path):
    found = document_of(tmp_path)
    # book: a3 dropped, a5 a6 a7 kept; web: a0 a1 a2 dropped, a4 kept; no source: a8 a9 kept.
    assert found["sources"] == {
        "top": [
            {"name": "book", "num_samples": 4, "num_kept": 3, "num_dropped": 1, "drop_rate": 0.25},
            {"name": "web", "num_samples": 4, "num_kept": 1, "num_dropped": 3, "drop_rate": 0.75},
            {"name": "", "num_samples": 2, "num_kept": 2, "num_dropped": 0, "drop_rate": 0.0},
        ]
    }
    assert found["labels"]["top"] == [
        {"name": "good", "num_samples": 6, "num_kept": 5, "num_dropped": 1, "drop_rate": 1 / 6},
        {"name": "bad", "num_samples": 4, "num_kept": 1, "num_dropped": 3, "drop_rate": 0.75},
    ]
    assert found["groups"]["unsafe"]["num_dropped"] == 3
    assert found["groups"]["other"]["num_samples"] == 6


def test_many_sources_are_summed_after_the_thirtieth(tmp_path):
    ids = tuple(f"b{place:03}" for place in range(100))
    found = document_of(
        tmp_path,
        ranking=make_ranking(ids, np.arange(100.0)),
        selection=Selection(ids[50:], 100),
        samples=tuple(make_sample(key, f"source {key}") for key in ids),
        labels={},
    )
    assert [row["name"] for row in found["sources"]["top"]][:2] == ["source b000", "source b001"]
    assert len(found["sources"]["top"]) == 30
    assert found["sources"]["rest"] == {
        "num_groups": 70,
        "num_samples": 70,
        "num_kept": 50,
        "num_dropped": 20,
        "drop_rate": 20 / 70,
    }


def test_histogram_counts_every_sample_once(tmp_path):
    histogram = document_of(tmp_path)["histogram"]
    assert sum(histogram["kept"]) == 6
    assert sum(histogram["dropped"]) == 4
    assert sum(histogram["unsafe"]) == 4
    assert sum(histogram["other"]) == 6
    assert len(histogram["edges"]) == len(histogram["kept"]) + 1 == 41
    assert (histogram["edges"][0], histogram["edges"][-1]) == (0.0, 9.0)


@pytest.mark.parametrize(
    "scores",
    [
        np.zeros(1000),
        np.full(1000, -1e-300),
        np.append(np.linspace(0, 1, 998), [1e6, -1e6]),
        1.0 + np.arange(1000) * np.spacing(1.0),
        np.arange(1000) * 1e-9,
        np.repeat([0.0, 1.0], 500),
    ],
    ids=["equal", "equal and tiny", "far ends", "neighbouring floats", "small", "two values"],
)
def test_histogram_of_unusual_scores(tmp_path, scores):
    ids = tuple(f"{place:04}" for place in range(len(scores)))
    histogram = document_of(
        tmp_path,
        ranking=make_ranking(ids, scores),
        selection=Selection(ids[500:], len(ids)),
        samples=tuple(make_sample(key) for key in ids),
        labels={},
    )["histogram"]
    assert sum(histogram["kept"]) + sum(histogram["dropped"]) == len(ids)
    assert np.all(np.diff(histogram["edges"]) > 0)


def test_far_scores_do_not_squeeze_the_others_into_one_bar(tmp_path):
    ids = tuple(f"{place:04}" for place in range(1000))
    scores = np.append(np.linspace(0, 1, 998), [1e6, -1e6])
    document = document_of(
        tmp_path,
        ranking=make_ranking(ids, scores),
        selection=Selection(ids[:700], 1000),
        samples=tuple(make_sample(key) for key in ids),
        labels={},
    )
    histogram = document["histogram"]
    assert max(np.add(histogram["kept"], histogram["dropped"])) < 50
    assert "The first and the last bar also hold" in render(document)


def test_a_selection_that_is_no_single_cut_is_said_to_be_none(tmp_path):
    document = document_of(tmp_path, selection=Selection(("a1", "a9"), 10))
    assert "cut_score" not in document["selection"]
    assert document["selection"]["lowest_kept_score"] == 1.0
    assert "No single score separates kept from dropped" in render(document)


def test_samples_shown(tmp_path):
    long = make_sample("a9", prompt="x" * 1700)
    samples = (*make().samples[:9], long)
    shown = document_of(tmp_path, samples=samples)["samples"]
    assert [row["id"] for row in shown["top"]] == [f"a{place}" for place in range(9, -1, -1)]
    assert shown["bottom"] == []  # the top already shows the whole pool
    assert [row["id"] for row in shown["last_kept"]] == ["a9", "a8", "a7", "a6", "a5", "a4"]
    assert [row["id"] for row in shown["first_dropped"]] == ["a3", "a2", "a1", "a0"]
    first = shown["top"][0]
    assert (first["rank"], first["score"], first["kept"], first["label"]) == (1, 9.0, True, "good")
    assert first["prompt"] == {"text": "x" * 600, "num_more": 1100}
    assert "… 1,100 more characters" in (tmp_path / "index.html").read_text(encoding="utf-8")


def test_turns_are_named_where_there_are_several(tmp_path):
    turns = (Message("system", "Be brief."), Message("user", "Hello?"))
    sample = Sample("a9", turns, (Message("assistant", "Hello."),))
    shown = document_of(tmp_path, samples=(*make().samples[:9], sample))["samples"]["top"][0]
    assert shown["prompt"]["text"] == "system: Be brief.\n\nuser: Hello?"
    assert shown["response"]["text"] == "Hello."


def test_excluded_rows_are_counted_by_reason(tmp_path):
    found = document_of(tmp_path)["excluded"]
    assert found["by_reason"] == [
        {"stage": "read", "reason": "empty response", "num_rows": 2},
        {"stage": "tokenize", "reason": "too long", "num_rows": 1},
    ]
    assert found["first"][0] == {
        "where": "pool.jsonl:7",
        "stage": "read",
        "reason": "empty response",
    }
    assert (found["num_read"], found["num_excluded"], found["num_truncated"]) == (13, 3, 2)


def test_without_labels_the_page_has_no_empty_section(tmp_path):
    document = document_of(tmp_path, labels={}, ranking_quality={})
    assert document["ranking"] == {}
    assert "labels" not in document
    page = render(document)
    assert "Ranking quality" not in page
    assert "By label" not in page


def test_numbers_that_are_not_finite_are_set_apart(tmp_path):
    broken = ArmResult(
        "all",
        10,
        {"refusal_rate": Estimate(value=math.nan, low=0.0, high=1.0, n=1), "nll": estimate(4.0)},
        {0: {"nll": math.inf}},
    )
    document = document_of(tmp_path, arms=(broken,))
    assert list(document["arms"]["all"]) == ["nll"]
    assert document["not_finite"] == ["all, refusal_rate", "all, seed 0, nll"]
    assert "all, refusal_rate; all, seed 0, nll" in render(document)


@pytest.mark.parametrize("num_kept", [0, 10])
def test_all_or_none_kept(tmp_path, num_kept):
    document = document_of(tmp_path, selection=Selection(make().ranking.ids[:num_kept], 10))
    assert document["selection"]["num_kept"] == num_kept
    assert "There is no cut" in render(document)


def test_one_sample(tmp_path):
    document = document_of(
        tmp_path,
        ranking=make_ranking(("a0",), np.zeros(1)),
        selection=Selection(("a0",), 1),
        samples=(make_sample("a0"),),
        labels={},
    )
    assert document["histogram"] == {"edges": [-0.5, 0.5], "kept": [1], "dropped": [0]}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"samples": (*make().samples, make_sample("zz"))}, "1 of 11 samples of the pool are not"),
        ({"samples": make().samples[1:]}, "the ranking has 10 samples and the pool 9"),
        ({"selection": Selection(("zz",), 1)}, "1 of 1 samples of the selection are not in"),
        ({"labels": {"zz": "bad"}}, "1 of 1 samples of the labels are not in the ranking"),
        ({"arms": (arm("all"), arm("all"))}, 'two arms are named "all"'),
        ({"ranking": make_ranking((), np.zeros(0))}, "the ranking is empty"),
    ],
)
def test_what_does_not_fit_together_is_refused(tmp_path, changes, message):
    with pytest.raises(ValueError, match=message):
        report(make(**changes), tmp_path)
    assert list(tmp_path.iterdir()) == []
