from __future__ import annotations

import json
import math

import numpy as np
import pyarrow.parquet as pq
import pytest
from comparisons import arm, document_of, estimate, hostile, make, make_sample, measurement

from seal.artifacts.evaluation import Measurement
from seal.artifacts.ranking import make_ranking
from seal.artifacts.selection import Selection
from seal.cut import Cut
from seal.data.sample import Message, Sample
from seal.stages.report import ArmRanking, ArmResult, report
from seal.stages.report_page.page import render


def test_the_json_holds_the_numbers_by_name(tmp_path):
    found = document_of(tmp_path)
    # Wilson's interval of 120 of 200, by hand.
    assert found["arms"]["all"]["refusal_rate"] == {
        "value": 0.6,
        "low": pytest.approx(0.530837, abs=1e-6),
        "high": pytest.approx(0.665394, abs=1e-6),
        "n": 200,
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
    assert found["metrics"]["nll"] == {
        "label": "NLL",
        "unit": "number",
        "better": "lower",
        "purpose": "utility",
        "question": "utility",
        "task": "",
        "judge": "",
        "kappa": None,
        "judged": "",
        "has_weak_judge": False,
    }
    assert found["roles"] == {
        "base": "base", "all": "all", "random": "random", "selected": "candidate",
    }  # fmt: skip


def test_the_page_is_a_function_of_the_json_and_the_explorer(tmp_path):
    page = report(make(), tmp_path)
    assert page == tmp_path / "index.html"
    document = json.loads((tmp_path / "report.json").read_text(encoding="utf-8"))
    whole, bare = page.read_text(encoding="utf-8"), render(document)
    start = whole.index('<section class="explorer"')
    end = whole.index('<section aria-labelledby="samples">')
    assert "<script" not in bare
    # Line by line: what is left of the page without the explorer, its style, script and hashes.
    assert set(bare.splitlines()) - set(whole.splitlines()) == {
        line for line in bare.splitlines() if "Content-Security-Policy" in line
    }
    assert '<section class="explorer"' not in whole[end:]
    assert start < end


def test_the_page_hides_nothing_that_the_json_says(tmp_path):
    document = document_of(tmp_path)
    document["title"] = "a\u202eb<i>"
    assert "<h1>a\\u202eb&lt;i&gt;</h1>" in render(document)


def test_values_per_seed_are_kept_with_their_range(tmp_path):
    arms = (arm("all", 10, {1: {"refusal_rate": 0.5}, 0: {"refusal_rate": 0.7}}),)
    found = document_of(tmp_path, arms=arms)
    assert found["arms_per_seed"] == {
        "all": {"0": {"refusal_rate": 0.7}, "1": {"refusal_rate": 0.5}}
    }
    assert found["seed_range"] == {"all": {"refusal_rate": pytest.approx(0.2)}}
    assert found["arms"]["all"]["refusal_rate"]["value"] == pytest.approx(0.6)
    assert "20.0\u00a0points" in (tmp_path / "index.html").read_text(encoding="utf-8")


def test_one_seed_has_no_range(tmp_path):
    found = document_of(tmp_path)
    assert found["seed_range"] == {"base": {}, "all": {}, "random": {}, "selected": {}}
    page = (tmp_path / "index.html").read_text(encoding="utf-8")
    assert "Every arm was trained with one seed only" in page
    assert "How far the ranking itself would change" in page


def test_rank_stability_is_shown_where_it_was_measured(tmp_path):
    row = {"ranker": "larf", "method": "larf", "num_seeds": 3, "spearman": 0.912}
    assert document_of(tmp_path, rank_stability=(row,))["rank_stability"] == [row]
    page = (tmp_path / "index.html").read_text(encoding="utf-8")
    assert "<bdi>larf</bdi> 0.912 over 3 seeds." in page


def test_drop_rates_by_source_and_label(tmp_path):
    found = document_of(tmp_path)
    # book: a3 dropped, a5 a6 a7 kept; web: a0 a1 a2 dropped, a4 kept; no source: a8 a9 kept.
    # Overall 4 of 10: |z| is .35 / .245 = 1.43 for web, .4 / .346 = 1.15 without a source, and
    # .15 / .245 = 0.61 for book.
    assert [row["name"] for row in found["sources"]["top"]] == ["web", "", "book"]
    assert found["sources"]["top"][2] == {
        "name": "book",
        "num_samples": 4,
        "num_kept": 3,
        "num_dropped": 1,
        "drop_rate": 0.25,
        "low": pytest.approx(0.045587, abs=1e-6),
        "high": pytest.approx(0.699358, abs=1e-6),
    }
    assert (found["sources"]["num_groups"], found["sources"]["num_standing_out"]) == (3, 0)
    assert [(row["name"], row["num_dropped"]) for row in found["labels"]["top"]] == [
        ("bad", 3), ("good", 1),
    ]  # fmt: skip
    assert found["groups"]["unsafe"]["num_dropped"] == 3
    assert found["groups"]["other"]["num_samples"] == 6


def test_a_group_stands_out_exactly_where_its_interval_leaves_the_whole_out(tmp_path):
    ids = tuple(f"b{place:04}" for place in range(1000))
    rng = np.random.default_rng(0)
    names = [f"s{int(n)}" for n in rng.integers(40, size=1000)]
    found = document_of(
        tmp_path,
        ranking=make_ranking(ids, rng.normal(size=1000)),
        selection=Selection(tuple(sorted(ids[:700])), 1000),
        samples=tuple(make_sample(k, n) for k, n in zip(ids, names, strict=True)),
        labels={},
    )["sources"]
    outside = [row for row in found["top"] if not row["low"] <= 0.3 <= row["high"]]
    assert outside == found["top"][: found["num_standing_out"]]


def test_thousands_of_sources_are_summed_after_the_thirtieth(tmp_path):
    ids = tuple(f"b{place:04}" for place in range(4000))
    # Source "bad" has 40 rows and loses all; every other row is its own source.
    found = document_of(
        tmp_path,
        ranking=make_ranking(ids, np.arange(4000.0)),
        selection=Selection(ids[2000:], 4000),
        samples=tuple(
            make_sample(key, "bad" if place < 40 else f"source {key}")
            for place, key in enumerate(ids)
        ),
        labels={},
    )["sources"]
    assert found["top"][0]["name"] == "bad"
    assert [row["name"] for row in found["top"][1:3]] == ["source b0040", "source b0041"]
    assert (len(found["top"]), found["num_groups"], found["num_standing_out"]) == (30, 3961, 1)
    assert found["rest"]["num_groups"] == 3931
    assert found["rest"]["num_samples"] == 4000 - 40 - 29
    assert found["rest"]["num_kept"] == 2000
    assert found["rest"]["low"] < found["rest"]["drop_rate"] < found["rest"]["high"]


def test_the_curve_counts_what_every_cut_would_keep(tmp_path):
    found = document_of(tmp_path)["tradeoff"]
    # From rank 1 on: a9 a8 a7 a6* a5 a4 a3 a2* a1* a0*
    assert found == {
        "num_kept": [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10],
        "unsafe_kept": [0, 0, 0, 0, 1, 1, 1, 1, 2, 3, 4],
        "other_kept": [0, 1, 2, 3, 3, 4, 5, 6, 6, 6, 6],
    }


def test_without_labels_the_page_says_that_no_cut_can_be_counted(tmp_path):
    document = document_of(tmp_path, labels={}, ranking_quality={})
    assert "tradeoff" not in document
    assert "cannot be counted" in render(document)


def test_the_automatic_cut_is_shown_or_its_refusal_quoted(tmp_path):
    values = {"num_pool": 10, "num_kept": 6, "num_resamples": 200}
    five, share = estimate(5.0, 0.5), estimate(0.6)
    cut = Cut(rule="mixture", threshold=five, share_kept=share, **values)
    document = document_of(tmp_path, auto=cut)
    assert document["auto"]["threshold"]["value"] == 5.0
    assert "would be at 5 (4.5 to 5.5) and keep 6 samples" in render(document)
    document = document_of(tmp_path, auto="select: auto sees no <two> groups.")
    assert document["auto"] == {"refusal": "select: auto sees no <two> groups."}
    assert "“select: auto sees no &lt;two&gt; groups.”" in render(document)
    assert "An automatic cut" not in render(document_of(tmp_path))


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
    assert [row["id"] for row in shown["last_kept"]] == ["a8", "a7", "a6", "a5", "a4"]
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


def test_a_metric_with_a_value_that_is_no_number_is_set_apart_with_all_its_seeds(tmp_path):
    fine, broken = measurement("nll", 4.0), Measurement("nll", "mean", {"i0000": math.inf})
    rate = measurement("refusal_rate", 0.5)
    both = ArmResult("all", 10, {0: (fine, rate), 1: (broken, rate)})
    document = document_of(tmp_path, arms=(both,))
    assert list(document["arms"]["all"]) == ["refusal_rate"]
    assert document["arms_per_seed"]["all"]["0"] == {"refusal_rate": 0.5}
    assert document["not_finite"] == ["all, seed 1, nll"]
    assert "all, seed 1, nll" in render(document)


def test_the_samples_file_has_the_numbers_of_every_sample_and_no_text(tmp_path):
    ids = tuple(f"a{place}" for place in range(10))
    columns = {"prompt": np.arange(10.0), "score_2": np.ones(10), "kept": np.zeros(10)}
    comparison = make(
        ranking=make_ranking(ids, np.arange(10.0), columns),
        num_tokens={key: 20 + place for place, key in enumerate(ids)},
        num_response_tokens=dict.fromkeys(ids, 5),
    )
    report(comparison, tmp_path)
    table = pq.read_table(tmp_path / "samples.parquet").to_pylist()
    assert len(table) == 10
    assert table[6] == {
        "id": "a6",
        "source": "book",
        "score": 6.0,
        "rank": 4,
        "kept": True,
        "label": "bad",
        "is_unsafe": True,
        "num_tokens": 26,
        "num_response_tokens": 5,
        "prompt": 6.0,
        "score_2": 1.0,
        "ranker_kept": 0.0,
    }


def test_the_samples_file_takes_hostile_names(tmp_path):
    report(hostile(), tmp_path)
    table = pq.read_table(tmp_path / "samples.parquet")
    assert set(table["source"].to_pylist()) == {table["source"][0].as_py()}
    assert "\\ud800" in table["source"][0].as_py()
    assert "\x1b" not in table["label"][0].as_py()


def test_judges_of_the_same_answers_are_held_against_each_other(tmp_path):
    def judged(metric, harmful):
        values = {f"i{place}": float(place in harmful) for place in range(10)}
        return Measurement(metric, "rate", values)

    # Of 10 answers both call i0-i3 harmful, the first also i4, the second cannot judge i9.
    parts = (
        judged("one/attack_success_rate", {0, 1, 2, 3, 4}),
        judged("two/attack_success_rate", {0, 1, 2, 3, 9}),
        judged("two/unjudged_rate", {9}),
        judged("two/refusal_rate", {5}),
    )
    arms = (ArmResult("base", 0, {0: parts}),)
    (found,) = document_of(tmp_path, arms=arms)["agreement"]
    # 8 of 9 agree; by chance (5 * 4 + 4 * 5) / 81 would: (8/9 - 40/81) / (1 - 40/81) = 32/41.
    assert (found["first"], found["second"]) == (parts[0].metric, parts[1].metric)
    assert (found["n"], found["num_judged_by_both"], found["num_agreed"]) == (10, 9, 8)
    assert found["kappa"]["value"] == pytest.approx(32 / 41)


def test_metrics_of_other_items_are_no_second_judge(tmp_path):
    one = Measurement("one/attack_success_rate", "rate", {"a": 1.0, "b": 0.0})
    other = Measurement("two/attack_success_rate", "rate", {"a": 1.0, "c": 0.0})
    assert document_of(tmp_path, arms=(ArmResult("all", 1, {0: (one, other)}),))["agreement"] == []


def test_unjudged_answers_are_shown_where_there_are_some(tmp_path):
    def page(share):
        document = document_of(tmp_path, arms=(arm("all", 1, unjudged_rate=share, nll=1.0),))
        return render(document)

    assert "Unjudged rate" in page(0.1).split('<h2 id="seeds">')[0]
    assert "<bdi>Unjudged rate</bdi><br>" not in page(0.0)


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


def own_ranking(num=10):
    """Of an arm: the opposite of the shared one, of which it keeps three."""
    ids = tuple(f"a{place}" for place in range(num))
    quality = {"auroc": estimate(0.125, 0.1, 10)}
    return ArmRanking(
        "loss", make_ranking(ids, -np.arange(float(num))), Selection(ids[:3], num), quality
    )


def test_the_ranking_of_an_arm_is_shown_beside_the_shared_one(tmp_path):
    document = document_of(tmp_path, arm_rankings={"mine": own_ranking()})
    own = document["arm_rankings"]["mine"]
    assert own["ranker"] == "loss"
    assert own["ranking"]["auroc"]["value"] == 0.125
    assert own["selection"]["num_kept"] == 3
    assert own["selection"]["cut_score"] == -2.5
    assert sum(own["histogram"]["unsafe"]) == 4
    assert own["histogram"]["kept"][-1] == 1  # of score 0
    assert document["selection"]["num_kept"] == 6
    page = (tmp_path / "index.html").read_text(encoding="utf-8")
    assert page.count("<h3>The arm <bdi>mine</bdi>, ranked by <bdi>loss</bdi></h3>") == 2
    assert page.count("the one that the arms share, by seal") == 2
    assert "Histogram of the scores of 10 samples for the arm mine, cut at -2.5" in page


def test_without_rankings_of_their_own_nothing_is_said_of_them(tmp_path):
    assert document_of(tmp_path)["arm_rankings"] == {}
    assert "the arms share" not in (tmp_path / "index.html").read_text(encoding="utf-8")


def test_the_ranking_of_an_arm_is_of_the_same_pool(tmp_path):
    with pytest.raises(ValueError, match="the ranking of the arm mine and the one that the arms"):
        document_of(tmp_path, arm_rankings={"mine": own_ranking(9)})
