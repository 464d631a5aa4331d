"""Hand-made comparisons, the subjects of the tests of the report."""

from __future__ import annotations

import json
import math

import numpy as np

from seal.artifacts.evaluation import Estimate, Measurement
from seal.artifacts.ranking import make_ranking
from seal.artifacts.selection import Selection
from seal.data.sample import Message, Sample
from seal.stages.report import ArmResult, Comparison, MetricSource, report

NBSP = "\u00a0"
PAYLOAD = (
    "</script><script>window.pwned=1</script><img src=x onerror=window.pwned=1>{{7*7}}</style>"
    'javascript:1"onmouseover="window.pwned=1\'\u202eab\u200b\x1b[2J\x00\ud800&lt;-->'
)


def estimate(value, margin=0.02, n=100):
    return Estimate(value=value, low=value - margin, high=value + margin, n=n)


def measurement(metric, value, n=200, kind=None):
    """A rate: the first items are 1. A mean: the items lie evenly around the value."""
    if kind is None:
        kind = "rate" if metric.endswith("rate") else "mean"
    if kind == "rate":
        values = [float(place < round(value * n)) for place in range(n)]
    else:
        # As many as it takes for usefulness to count as measured.
        values = [value + 0.1 * (place % 5 - 2) for place in range(min(n, 50))]
    return Measurement(metric, kind, {f"i{place:04}": v for place, v in enumerate(values)})


def arm(name, num_samples=0, per_seed=None, n=200, **values):
    """An arm with one seed, or with those of `per_seed`: seed -> metric -> value."""
    seeds = per_seed or {0: values}
    measured = {
        seed: tuple(measurement(metric, value, n) for metric, value in by_metric.items())
        for seed, by_metric in seeds.items()
    }
    return ArmResult(name, num_samples, measured)


def make_sample(key, source="", prompt="a question", response="an answer"):
    return Sample(key, (Message("user", prompt),), (Message("assistant", response),), source)


def make(**changes):
    """Ten samples with scores 0..9; the upper six are kept; a0 a1 a2 and a6 are unsafe."""
    ids = tuple(f"a{place}" for place in range(10))
    sources = ["web", "web", "web", "book", "web", "book", "book", "book", "", ""]
    values = {
        "title": "A comparison",
        "ranker": "seal",
        "arms": (
            arm("base", refusal_rate=0.9, nll=4.1),
            arm("all", 10, refusal_rate=0.6, nll=4.0),
            arm("random", 6, refusal_rate=0.65, nll=4.0),
            arm("selected", 6, refusal_rate=0.85, nll=4.01),
        ),
        "ranking": make_ranking(ids, np.arange(10.0)),
        "selection": Selection(ids[4:], 10),
        "samples": tuple(make_sample(k, s) for k, s in zip(ids, sources, strict=True)),
        "labels": {key: "bad" if key in {"a0", "a1", "a2", "a6"} else "good" for key in ids},
        "unsafe_labels": frozenset({"bad"}),
        "ranking_quality": {"auroc": estimate(0.875, 0.1, 10)},
        "excluded": (
            {"where": "pool.jsonl:7", "reason": "empty response", "stage": "read"},
            {"where": "pool.jsonl:9", "reason": "too long", "stage": "tokenize"},
            {"where": "pool.jsonl:12", "reason": "empty response", "stage": "read"},
        ),
        "num_read": 13,
        "num_duplicates": 1,
        "num_truncated": 2,
        "provenance": {"model": {"id": "pup"}, "seeds": [0, 1], "loss": math.nan, "gpu": None},
        "replay": {"everything": "seal run runs/x/config.yaml"},
    }
    return Comparison(**{**values, **changes})


def document_of(folder, **changes):
    report(make(**changes), folder)
    return json.loads((folder / "report.json").read_text(encoding="utf-8"), parse_constant=fail)


def fail(constant):
    raise AssertionError(f"{constant} is not JSON")


def hostile():
    """The payload in every field that can hold a text."""
    ids = tuple(f"a{place}" for place in range(10))
    excluded = {
        "where": f"where{PAYLOAD}",
        "reason": f"reason{PAYLOAD}",
        "stage": f"stage{PAYLOAD}",
    }
    metric, broken = f"metric{PAYLOAD}", f"broken{PAYLOAD}"
    judge = MetricSource(f"task{PAYLOAD}", f"judge{PAYLOAD}", has_weak_judge=True)
    return make(
        title=f"title{PAYLOAD}",
        ranker=f"ranker{PAYLOAD}",
        arms=(
            ArmResult(f"arm{PAYLOAD}", 1, {0: (measurement(metric, 0.5, kind="rate"),)}),
            ArmResult("all", 1, {0: (measurement(metric, 0.7, kind="rate"),)}),
            ArmResult("b", 1, {0: (measurement(broken, math.nan),)}),
        ),
        samples=tuple(
            make_sample(key, f"source{PAYLOAD}", f"prompt{PAYLOAD}", f"response{PAYLOAD}")
            for key in ids
        ),
        labels=dict.fromkeys(ids, f"label{PAYLOAD}"),
        unsafe_labels=frozenset({f"label{PAYLOAD}"}),
        ranking_quality={f"quality{PAYLOAD}": estimate(0.5)},
        excluded=(excluded,),
        provenance={f"key{PAYLOAD}": {"inner": [f"value{PAYLOAD}", {"deep": PAYLOAD}]}},
        metric_sources={metric: judge},
        rank_stability=(
            {"ranker": f"stable{PAYLOAD}", "method": "x", "num_seeds": 2, "spearman": 0.9},
        ),
        replay={"everything": f"replay{PAYLOAD}"},
    )
