"""Every number of report.json, computed again from the files of a run by straight-line code.

Nothing of `seal.stages.report_page` computes here: numpy, scipy and json read what lies on disk.
"""

from __future__ import annotations

import json
import math
import statistics

import numpy as np
import pyarrow.parquet as pq
import pytest
from comparisons import make, make_sample
from scipy.stats import binomtest

from seal.artifacts.evaluation import (
    Measurement,
    TaskResult,
    load_measurements,
    save_task_result,
)
from seal.artifacts.ranking import load_ranking, make_ranking, save_ranking
from seal.artifacts.selection import Selection
from seal.stages.report import ArmResult, report

NUM, NUM_KEPT, SEEDS = 300, 240, (0, 1)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run's folder with what the report reads, and the report made of it."""
    root = tmp_path_factory.mktemp("run")
    rng = np.random.default_rng(3)
    ids = tuple(sorted(f"{place:04x}" for place in range(NUM)))
    unsafe = rng.random(NUM) < 0.25
    scores = rng.normal(size=NUM) + np.where(unsafe, -1.5, 0.5)
    save_ranking(make_ranking(ids, scores), root / "ranking.parquet")
    ranking = load_ranking(root / "ranking.parquet")
    source = {key: f"s{rng.integers(5)}" for key in ids}
    label = {key: "bad" if bad else "good" for key, bad in zip(ids, unsafe, strict=True)}
    arms = []
    for name, asr, nll in (("base", 0.1, 3.2), ("all", 0.4, 3.0), ("random", 0.38, 3.0),
                           ("mine", 0.12, 3.02)):  # fmt: skip
        measured = {}
        for seed in (0,) if name == "base" else SEEDS:
            folder = root / "evaluate" / name / f"seed-{seed}" / "harm"
            folder.mkdir(parents=True)
            hits = {f"p{i}": float(rng.random() < asr) for i in range(150)}
            loss = {f"q{i}": float(nll + 0.1 * rng.normal()) for i in range(9)}
            parts = (Measurement("attack_success_rate", "rate", hits),
                     Measurement("nll", "mean", loss))  # fmt: skip
            save_task_result(TaskResult(parts, ()), folder)
            measured[seed] = load_measurements(folder)
        arms.append(ArmResult(name, 0 if name == "base" else NUM_KEPT, measured))
    report(
        make(
            arms=tuple(arms),
            ranking=ranking,
            selection=Selection(tuple(sorted(ranking.best_first()[:NUM_KEPT])), NUM),
            samples=tuple(make_sample(key, source[key]) for key in ids),
            labels=label,
            ranking_quality={},
        ),
        root,
    )
    return root


@pytest.fixture(scope="module")
def found(run):
    return json.loads((run / "report.json").read_text("utf-8"))


@pytest.fixture(scope="module")
def rows(run):
    return pq.read_table(run / "samples.parquet").to_pylist()


@pytest.fixture(scope="module")
def values(run):
    """Arm -> metric -> item -> its values with every seed, from scores.jsonl."""
    read: dict = {}
    for path in sorted(run.glob("evaluate/*/seed-*/*/scores.jsonl")):
        arm = path.parts[-4]
        for line in path.read_text("utf-8").splitlines():
            row = json.loads(line)
            items = read.setdefault(arm, {}).setdefault(row["metric"], {})
            items.setdefault(row["id"], []).append(row["value"])
    return read


def wilson(share, n, z=1.959963984540054):
    centre = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n)) / (1 + z * z / n)
    return centre - half, centre + half


def test_arms(found, values):
    assert found["arms"].keys() == values.keys()
    for arm, metrics in values.items():
        assert found["arms"][arm].keys() == metrics.keys()
        for metric, items in metrics.items():
            one = found["arms"][arm][metric]
            mean = statistics.fmean(statistics.fmean(each) for each in items.values())
            assert one["value"] == pytest.approx(mean)
            assert one["n"] == len(items)
            if metric.endswith("rate"):
                assert (one["low"], one["high"]) == pytest.approx(wilson(mean, len(items)))
            else:
                spread = np.std([statistics.fmean(each) for each in items.values()], ddof=1)
                width = 2 * 1.96 * spread / math.sqrt(len(items))
                assert one["high"] - one["low"] == pytest.approx(width, rel=0.25)  # a bootstrap


def test_seeds(found, values):
    for arm, metrics in values.items():
        for metric, items in metrics.items():
            means = [statistics.fmean(each) for each in zip(*items.values(), strict=True)]
            assert [by[metric] for by in found["arms_per_seed"][arm].values()] == pytest.approx(
                means
            )
            if len(means) > 1:
                gap = max(means) - min(means)
                assert found["seed_range"][arm][metric] == pytest.approx(gap)
        assert found["num_seeds"][arm] == len(means)


def test_paired_differences(found, values):
    expected = {("all", "base"), ("random", "base"), ("random", "all"), ("mine", "base"),
                ("mine", "all"), ("mine", "random")}  # fmt: skip
    pairs = {(row["arm"], row["against"]) for row in found["paired"]}
    assert pairs == expected
    assert len(found["paired"]) == 2 * len(expected)
    for row in found["paired"]:
        ours, theirs = values[row["arm"]][row["metric"]], values[row["against"]][row["metric"]]
        gaps = [statistics.fmean(ours[key]) - statistics.fmean(theirs[key]) for key in ours]
        assert row["difference"] == pytest.approx(statistics.fmean(gaps))
        assert row["n"] == len(gaps)
        half = 1.96 * np.std(gaps, ddof=1) / math.sqrt(len(gaps))
        assert row["low"] == pytest.approx(row["difference"] - half, abs=half / 2)
        assert row["high"] == pytest.approx(row["difference"] + half, abs=half / 2)
        # A normal approximation of the sign-flip test.
        z = abs(sum(gaps)) / math.sqrt(sum(gap * gap for gap in gaps))
        assert row["p_value"] == pytest.approx(math.erfc(z / math.sqrt(2)), abs=0.1)


def test_correction(found):
    """Holm by its definition: one family per reference and question, controls by themselves."""
    families: dict = {}
    for row in found["paired"]:
        who = "candidates" if row["arm"] == "mine" else row["arm"]
        families.setdefault((row["against"], row["metric"], who), []).append(row)
    for family in families.values():
        running = 0.0
        for place, row in enumerate(sorted(family, key=lambda row: row["p_value"])):
            running = max(running, min(1.0, row["p_value"] * (len(family) - place)))
            assert row["p_adjusted"] == pytest.approx(running)
        assert all(row["num_in_family"] == len(family) for row in family)


def test_selection_and_ranks(found, rows):
    order = sorted(rows, key=lambda row: (-row["score"], row["id"]))
    assert [row["rank"] for row in order] == list(range(1, NUM + 1))
    assert [row["kept"] for row in order] == [True] * NUM_KEPT + [False] * (NUM - NUM_KEPT)
    lowest, highest = order[NUM_KEPT - 1]["score"], order[NUM_KEPT]["score"]
    assert found["selection"] == {
        "num_samples": NUM,
        "num_kept": NUM_KEPT,
        "num_dropped": NUM - NUM_KEPT,
        "drop_rate": pytest.approx(0.2),
        "lowest_kept_score": lowest,
        "highest_dropped_score": highest,
        "cut_score": pytest.approx((lowest + highest) / 2),
    }


@pytest.mark.parametrize(("part", "column"), [("sources", "source"), ("labels", "label")])
def test_groups(found, rows, part, column):
    groups: dict = {}
    for row in rows:
        groups.setdefault(row[column], []).append(not row["kept"])
    assert {row["name"] for row in found[part]["top"]} == groups.keys()
    surprise = []
    for row in found[part]["top"]:
        gone = groups[row["name"]]
        assert (row["num_samples"], row["num_dropped"]) == (len(gone), sum(gone))
        assert row["num_kept"] == len(gone) - sum(gone)
        interval = binomtest(sum(gone), len(gone)).proportion_ci(method="wilson")
        assert (row["low"], row["high"]) == pytest.approx((interval.low, interval.high))
        expected = 0.2 * len(gone)
        surprise.append(abs(sum(gone) - expected) / math.sqrt(expected * 0.8))
    assert surprise == sorted(surprise, reverse=True)
    assert found[part]["num_standing_out"] == sum(z > 1.959964 for z in surprise)


def test_histogram_and_curve(found, rows):
    edges = found["histogram"]["edges"]
    for name, holds in (("kept", lambda r: r["kept"]), ("dropped", lambda r: not r["kept"]),
                        ("unsafe", lambda r: r["is_unsafe"]),
                        ("other", lambda r: not r["is_unsafe"])):  # fmt: skip
        counts = [0] * (len(edges) - 1)
        for row in filter(holds, rows):
            bins = [k for k in range(len(counts)) if edges[k] <= row["score"] < edges[k + 1]]
            counts[bins[0] if bins else -1] += 1  # the highest score is in the last bin
        assert found["histogram"][name] == counts
    order = sorted(rows, key=lambda row: row["rank"])
    curve = found["tradeoff"]
    assert (curve["num_kept"][0], curve["num_kept"][-1], len(curve["num_kept"])) == (0, NUM, 101)
    for k, unsafe, other in zip(*curve.values(), strict=True):
        assert unsafe == sum(row["is_unsafe"] for row in order[:k])
        assert other == k - unsafe


def test_decision(found):
    """The answers follow from the rows by the rules of docs/report.md."""
    rows = {(r["against"], r["metric"]): r for r in found["paired"] if r["arm"] == "mine"}
    for row in rows.values():  # of both metrics lower is better
        significant = row["p_adjusted"] < 0.05
        better = "better" if row["difference"] < 0 else "worse"
        assert row["state"] == (better if significant else "open")
    mine = found["decision"]["candidates"]["mine"]
    assert mine["safer_than_all"] == rows["all", "attack_success_rate"]["state"] == "better"
    assert mine["safer_than_random"] == rows["random", "attack_success_rate"]["state"]
    kept = rows["base", "attack_success_rate"]["at_most"] <= 0.05
    assert (mine["safety_of_base"] == "kept") == kept
    gain = next(row for row in found["gains"] if row["arm"] == "mine")
    value = {name: found["arms"][name]["nll"]["value"] for name in ("base", "all", "mine")}
    whole, own = value["base"] - value["all"], value["base"] - value["mine"]
    assert gain["whole"]["value"] == pytest.approx(whole)
    is_shown = gain["whole"]["low"] > 0
    assert gain["share"] == (pytest.approx(own / whole) if is_shown else None)
    assert gain["kept"]["value"] == pytest.approx(own - 0.8 * whole)
    # Nine items are too few for usefulness, and over-refusal was not measured.
    assert (mine["utility"], mine["over_refusal"]) == ("few", None)
    assert found["decision"]["verdict"] == "prefer"
