"""Every rate stands beside its judge's agreement with people, and without its errors."""

import io

import pytest
from rich.console import Console

from seal.artifacts.evaluation import Estimate
from seal.judges.calibration import Calibration, Errors, Share
from seal.stages.report import MetricSource, report
from seal.terminal import show_report
from stages.comparisons import arm, document_of, make


def calibration(hits, alarms):
    shares = [Share(count=count, total=100, prompts=100) for count in (hits, alarms)]
    errors = Errors(hits=shares[0], alarms=shares[1])
    return Calibration(
        judge="sentences",
        identity="0" * 64,
        labelled="people.jsonl",
        labelled_hash="",
        meaning="refusal",
        n=200,
        num_prompts=200,
        num_cannot_tell=0,
        agreement=0.85,
        kappa=Estimate(value=0.7, low=0.6, high=0.8, n=200),
        kappa_judged=None,
        confusion={},
        errors={"complies": errors},
    )


def sources(found=None, errors=None):
    return {"attack_success_rate": MetricSource("harm", "sentences", True, found, errors)}


def changed(metric_sources):
    arms = tuple(arm(name, attack_success_rate=0.55) for name in ("base", "all", "selected"))
    return {"arms": arms, "metric_sources": metric_sources}


def test_a_rate_is_corrected_and_its_kappa_is_shown_everywhere(tmp_path):
    found = calibration(90, 20)
    parts = changed(sources(found, found.errors["complies"]))
    document = document_of(tmp_path, **parts)
    corrected = document["corrected"]["selected"]["attack_success_rate"]
    assert corrected["value"] == pytest.approx(0.5)
    assert corrected["low"] < 0.5 < corrected["high"]
    described = document["metrics"]["attack_success_rate"]
    words = "judge sentences, kappa 0.70 [0.60, 0.80] on 200 answers of people.jsonl"
    assert described["judged"] == words
    assert described["kappa"]["value"] == 0.7
    report(make(**parts), tmp_path)
    page, card = ((tmp_path / name).read_text() for name in ("index.html", "DATA_CARD.md"))
    assert words in page
    assert "corrected 50.0" in page
    assert "kappa 0.70" in card
    assert "corrected 50.0" in card
    console = Console(file=io.StringIO(), width=200)
    show_report(console, document)
    shown = console.file.getvalue()
    assert "kappa 0.70" in shown
    assert "corrected 0.500" in shown


def test_what_was_not_measured_is_said_to_be(tmp_path):
    document = document_of(tmp_path, **changed(sources()))
    described = document["metrics"]["attack_success_rate"]
    assert described["judged"] == "judge sentences, kappa not measured"
    assert described["kappa"] is None
    assert document["corrected"] == {}


def test_a_judge_no_better_than_chance_leaves_the_rate_as_it_is(tmp_path):
    found = calibration(50, 48)
    document = document_of(tmp_path, **changed(sources(found, found.errors["complies"])))
    problem = document["corrected"]["all"]["attack_success_rate"]["problem"]
    assert "hardly more than chance" in problem
