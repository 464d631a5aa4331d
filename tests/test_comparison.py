from __future__ import annotations

import json

import numpy as np
import pytest

from seal.artifacts.ranking import make_ranking
from seal.artifacts.run_dir import RunDir
from seal.comparison import _auto, _metric_sources, _rank_stability
from seal.stages.report import MetricSource
from seal.tasks.harmful_prompts import HarmfulPrompts
from seal.tasks.safety_margin import SafetyMargin


def test_metrics_know_their_task_and_judge():
    tasks = (HarmfulPrompts(path="x.jsonl"), SafetyMargin(path="x.jsonl", name="margin-2"))
    sentences = MetricSource("harmful_prompts", judge="sentences", has_weak_judge=True)
    assert _metric_sources(tasks) == {
        "attack_success_rate": sentences,
        "partly_rate": sentences,
        "refusal_rate": sentences,
        "unjudged_rate": sentences,
        "margin-2/unsafe_likelier_rate": MetricSource("margin-2"),
        "margin-2/safety_margin_nats": MetricSource("margin-2"),
    }


def test_the_stability_of_rankings_is_read_from_the_bench(tmp_path):
    assert _rank_stability(RunDir(tmp_path)) == ()
    rows = [
        {"ranker": "a", "method": "larf", "seeds": [0, 1, 2], "stability": 0.75, "auroc": None},
        {"ranker": "b", "method": "dsir", "seeds": [0], "stability": None, "auroc": None},
    ]
    (tmp_path / "bench").mkdir()
    path = tmp_path / "bench" / "bench.json"
    path.write_text(json.dumps({"rows": rows}), encoding="utf-8")
    assert _rank_stability(RunDir(tmp_path)) == (
        {"ranker": "a", "method": "larf", "num_seeds": 3, "spearman": 0.75},
    )
    path.write_text("{}", encoding="utf-8")
    with pytest.raises(ValueError, match=r"bench\.json: not a readable benchmark \(KeyError"):
        _rank_stability(RunDir(tmp_path))


def test_an_automatic_cut_that_is_refused_is_its_words():
    ids = tuple(f"{place:03}" for place in range(100))
    flat = make_ranking(ids, np.linspace(0, 1, 100))
    assert "no two groups" in str(_auto(flat))
    two = np.concatenate([np.linspace(-5, -4, 30), np.linspace(4, 5, 70)])
    cut = _auto(make_ranking(ids, two))
    assert not isinstance(cut, str)
    assert cut.num_kept == 70
