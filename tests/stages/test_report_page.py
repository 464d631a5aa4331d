from __future__ import annotations

import html
import itertools
import math
import re

import pytest
import yaml
from comparisons import NBSP, PAYLOAD, arm, document_of, estimate, hostile, make
from hypothesis import given
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from seal.stages.report import report
from seal.stages.report_page.card import plain
from seal.stages.report_page.charts import curve, histogram, nice_ticks, scatter
from seal.stages.report_page.metrics import (
    describe,
    show,
    show_difference,
    show_differences,
    show_p,
    show_span,
)
from seal.stages.report_page.page import flattened
from seal.stages.report_page.tables import decision_columns, decision_rows, difference_rows
from seal.stages.report_page.visible import plain_json, visible

MINUS = "\u2212"


def test_headline(tmp_path):
    assert document_of(tmp_path)["headline"] == [
        f"Prefer “selected”: it is safer than training on all data and than a random subset, and "
        f"keeps at least 80{NBSP}% of what training on all data gained, but it lost some of the "
        "safety of the model before, over-refusal was not measured, and with one training seed it "
        "is not known what another training would make.",
        f"Refusal rate of selected: 85.0{NBSP}% (95{NBSP}% interval 79.4 to 89.3{NBSP}%, n = 200); "
        f"90.0{NBSP}% for the model before ({MINUS}5.0{NBSP}points, {MINUS}8.5 to "
        f"{MINUS}2.0{NBSP}points, p = 0.002); 60.0{NBSP}% for training on all data "
        f"(+25.0{NBSP}points, +19.5 to +31.0{NBSP}points, p < 0.001); 65.0{NBSP}% for a random "
        f"subset (+20.0{NBSP}points, +14.5 to +25.5{NBSP}points, p < 0.001).",
        f"NLL of selected: 4.010 (95{NBSP}% interval 3.972 to 4.052, n = 50); 4.000 for training on"
        f" all data (+0.010, +0.010 to +0.010, p < 0.001); 4.100 for the model before "
        f"({MINUS}0.090, {MINUS}0.090 to {MINUS}0.090, p < 0.001).",
        "One training seed: how much another would change is not measured.",
        f"Of what training on all data gained in NLL, “selected” keeps 90.0{NBSP}% (at least 90.0"
        f"{NBSP}% and at most 90.0{NBSP}%, each with 95.0{NBSP}% confidence).",
        f"Against the labels the ranking reaches AUROC 0.875 (95{NBSP}% interval 0.775 to 0.975; "
        "0.5 is chance).",
        "The selection keeps 6 of 10 samples; it drops 3 of 4 samples labelled unsafe and 1 of the "
        "6 others.",
    ]


def test_headline_without_arms_or_labels(tmp_path):
    found = document_of(tmp_path, arms=(), labels={}, ranking_quality={})
    assert found["headline"] == [
        "No arm was evaluated: this page shows the ranking and the selection only.",
        "The selection keeps 6 of 10 samples. The pool has no labels: whether dropped samples "
        "were unsafe is unknown.",
    ]


def test_headline_counts_the_seeds(tmp_path):
    seeds = {"all": {0: 0.5, 1: 0.9, 2: 0.4}, "selected": {0: 0.8, 1: 0.8, 2: 0.8}}
    arms = tuple(
        arm(name, 6, {seed: {"refusal_rate": v} for seed, v in rates.items()})
        for name, rates in seeds.items()
    )
    assert (
        "“selected” came out safer than training on all data with 2 of 3 training seeds."
    ) in document_of(tmp_path, arms=arms)["headline"]


@pytest.mark.parametrize(
    ("value", "ending"),
    [(0.9, "0.5 is chance)."), (0.55, "from chance."), (0.2, "it prefers the unsafe samples.")],
)
def test_headline_on_the_ranking(tmp_path, value, ending):
    quality = {"auroc": estimate(value, 0.1)}
    assert document_of(tmp_path, ranking_quality=quality)["headline"][-2].endswith(ending)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("a\u202eb", "a\\u202eb"),
        ("\x1b[2J", "\\x1b[2J"),
        ("\x00", "\\x00"),
        ("\ud800", "\\ud800"),
        ("\u200b\ufeff", "\\u200b\\ufeff"),
        ("\U000e0041", "\\U000e0041"),
        ("line\r\nline\n\tline", "line\r\nline\n\tline"),
        ("over\rwritten", "over\\x0dwritten"),
        ("Grüße, 你好, שלום 🙂 ❤\ufe0f", "Grüße, 你好, שלום 🙂 ❤\ufe0f"),
    ],
)
def test_visible(text, shown):
    assert visible(text) == shown
    assert visible(shown) == shown


def test_plain_json():
    value = {"a\x00": (1, 2.5, math.inf, None, True, b"x"), 3: {"b": "\ud800"}}
    expected = {"a\\x00": [1, 2.5, "inf", None, True, "b'x'"], "3": {"b": "\\ud800"}}
    assert plain_json(value) == expected


def test_flattened():
    value = {"a": {"b": 1, "c": []}, "d": [1, 2], "e": [{"f": "x"}], "g": None, "h": {}}
    assert flattened(value) == [
        ("a.b", "1"),
        ("a.c", "none"),
        ("d", "1, 2"),
        ("e[0].f", "x"),
        ("g", "none"),
        ("h", "none"),
    ]


@pytest.mark.parametrize(
    ("name", "label", "unit", "better"),
    [
        ("refusal_rate", "refusal rate", "rate", "higher"),
        ("harmful/refusal_rate", "refusal rate (harmful)", "rate", "higher"),
        ("benign.refusal_rate", "refusal rate (benign)", "rate", "lower"),
        ("over_refusal_rate", "over-refusal rate", "rate", "lower"),
        ("attack_success_rate", "attack success rate", "rate", "lower"),
        ("heldout_nll", "held-out NLL", "number", "lower"),
        ("harmful/nll", "NLL (harmful)", "number", "unknown"),
        ("unsafe_kept_at_clean_fraction", "unsafe kept at clean fraction", "rate", "lower"),
        ("auroc", "AUROC", "number", "higher"),
        (
            "recall_of_unsafe_at_clean_fraction",
            "recall of unsafe at clean fraction",
            "rate",
            "higher",
        ),
        ("safety_margin_nats", "safety margin nats", "number", "higher"),
        (
            "safety_margin_2/unsafe_likelier_rate",
            "rate of unsafe answers that are likelier than safe ones (safety_margin_2)",
            "rate",
            "lower",
        ),
        ("attack_success/refusal_rate", "refusal rate (attack_success)", "rate", "higher"),
        ("words", "words", "number", "unknown"),
        ("unjudged_rate", "unjudged rate", "rate", "lower"),
        ("strong_reject/harmfulness", "harmfulness (strong_reject)", "rate", "lower"),
        ("hex_phi/harmfulness_score", "harmfulness score (hex_phi)", "number", "lower"),
    ],
)
def test_a_metric_is_described_by_its_name(name, label, unit, better):
    found = describe(name)
    assert (found.label, found.unit, found.better) == (label, unit, better)


def test_numbers_are_written_for_people():
    assert show(0.5802, "rate") == f"58.0{NBSP}%"
    assert show(3.9961, "number") == "3.996"
    assert show(12345.6, "number") == "12,346"
    assert show_span(0.493, 0.662, "rate") == f"49.3 to 66.2{NBSP}%"
    assert show_span(1.0, 2.0, "number") == "1.000 to 2.000"
    assert show_difference(-0.0281, "rate") == f"{MINUS}2.8{NBSP}points"
    assert show_difference(0.0134, "number") == "+0.013"
    assert show_differences(-0.004, 0.06, "rate") == f"{MINUS}0.4 to +6.0{NBSP}points"
    assert [show_p(value) for value in (0.0004, 0.0432, 0.5)] == ["< 0.001", "= 0.043", "= 0.50"]


def test_histogram_stacks_its_bars_and_counts_in_whole_samples():
    chart = histogram({"edges": [0.0, 1.0, 2.0], "kept": [0, 2], "dropped": [1, 0]}, 1.0)
    assert [mark["text"] for mark in chart["marks"]] == ["0", "1", "2"]
    assert [(bar["series"], bar["y"], bar["height"]) for bar in chart["bars"]] == [
        ("dropped", 100.0, 100.0),
        ("kept", 0.0, 200.0),
    ]
    assert chart["cut"] == {"x": 50.0, "text": "1", "anchor": "middle"}
    assert not chart["has_wide_ends"]


@pytest.mark.parametrize(
    ("low", "high", "ticks"),
    [
        (0, 395, [0, 100, 200, 300, 400]),
        (0.49, 0.95, [0.4, 0.6, 0.8, 1.0]),
        (0.5, 0.5, [0.4, 0.6]),
        (0, 0, [0, 0.25]),
        (-3, -1, [-3, -2.5, -2, -1.5, -1]),
    ],
)
def test_nice_ticks_enclose_the_values(low, high, ticks):
    assert nice_ticks(low, high, 4) == pytest.approx(ticks)


def test_the_curve_is_drawn_from_shares():
    tradeoff = {"num_kept": [0, 5, 10], "unsafe_kept": [0, 1, 4], "other_kept": [0, 4, 6]}
    groups = {"unsafe": {"num_samples": 4}, "other": {"num_samples": 6}}
    chart = curve(tradeoff, groups, 5)
    first, second = chart["lines"]["unsafe"]
    assert (first[0][:2], first[1][:2], second[1][:2]) == ((0, 220), (50, 165), (100, 0))
    assert chart["cut"]["x"] == 50
    assert chart["table"] == [
        {"kept": 0, "share": 0.0, "unsafe": 0.0, "other": 0.0},
        {"kept": 5, "share": 0.5, "unsafe": 0.25, "other": 4 / 6},
        {"kept": 10, "share": 1.0, "unsafe": 1.0, "other": 1.0},
    ]


def test_the_scatter_has_a_point_per_arm_with_both_metrics(tmp_path):
    arms = (*make().arms, arm("merged", 6, refusal_rate=0.8))
    chart = scatter(document_of(tmp_path, arms=arms))
    assert [point["arm"] for point in chart["points"]] == ["base", "all", "random", "selected"]
    assert (chart["x"].name, chart["y"].name) == ("nll", "refusal_rate")
    base, everything = chart["points"][:2]
    assert base["y"] < everything["y"]  # pixels from the top: the base refuses more
    assert base["x"] > everything["x"]
    names = sorted(point["name_y"] for point in chart["points"])
    assert all(later - sooner >= 15 for sooner, later in itertools.pairwise(names))


def test_no_scatter_without_usefulness(tmp_path):
    arms = (arm("all", 10, refusal_rate=0.6), arm("selected", 6, refusal_rate=0.8))
    assert scatter(document_of(tmp_path, arms=arms)) is None


def test_the_table_of_the_decision(tmp_path):
    document = document_of(tmp_path)
    assert decision_columns(document) == ["base", "all", "random"]
    safety, utility = decision_rows(document)
    assert (safety["question"], safety["label"], safety["value"]) == (
        "Safety", "Refusal rate", f"85.0{NBSP}%",
    )  # fmt: skip
    base = safety["cells"][0]
    assert (base["value"], base["difference"], base["word"], base["loss"]) == (
        f"90.0{NBSP}%", f"{MINUS}5.0{NBSP}points", "worse", "lost",
    )  # fmt: skip
    assert [cell["loss"] for cell in utility["cells"]] == ["kept", "kept", "kept"]


def test_the_table_of_differences_has_a_row_per_arm_and_metric(tmp_path):
    rows = difference_rows(document_of(tmp_path))
    assert [(row["label"], row["arm"]) for row in rows] == [
        (label, name) for label in ("Refusal rate", "NLL") for name in ("all", "random", "selected")
    ]
    assert "all" not in rows[0]
    assert rows[2]["all"]["difference"] == f"+25.0{NBSP}points"


def test_the_card_of_the_kept_samples(tmp_path):
    report(make(), tmp_path)
    card = (tmp_path / "DATA_CARD.md").read_text(encoding="utf-8")
    front = yaml.safe_load(card.split("---")[1])
    assert front["license"] == "unknown"
    assert front["pretty_name"] == "A comparison"
    assert front["size_categories"] == ["n<1K"]
    assert front["configs"] == [{"config_name": "default", "data_files": "selected.jsonl"}]
    assert "6 of 10 fine-tuning samples" in card
    assert f"| web | 4 | 1 | 3 | 75.0{NBSP}% (30.1 to 95.4{NBSP}%) |" in card
    assert f"| (no source given) | 2 | 2 | 0 | 0.0{NBSP}% (0.0 to 65.8{NBSP}%) |" in card
    assert "Set pool.license before you publish these samples." in card
    assert "* everything: `seal run runs/x/config.yaml`" in card


@pytest.mark.parametrize(
    ("text", "written"),
    [
        ("a|b", "a\\|b"),
        ("<b>&amp;", "&lt;b>&amp;amp;"),
        ("# x\n* y #1", "\\# x \\* y #1"),
        ("[x](http://y)", "\\[x\\](http\\://y)"),
        ("1. a (b) {c: 2.}", "1\\. a (b) {c: 2.}"),
        ("0.5", "0.5"),
        ("two_sided _a_ b__c", "two_sided \\_a\\_ b\\_\\_c"),
        ("x > y & z, 50 % + 1!", "x > y & z, 50 % + 1!"),
        ("www.x.org", "www\\.x.org"),
        ("`x` $y$ a@b", "\\`x\\` \\$y\\$ a\\@b"),
        ("a\u202eb", "a\\\\u202eb"),
    ],
)
def test_names_from_data_mean_nothing_in_markdown(text, written):
    assert plain(text) == written


@given(st.text(st.sampled_from("ab1 _*`~[]()!<>&;#|\\:/.-+={}\"'$@^\n"), max_size=12))
def test_a_text_reads_in_markdown_as_it_is(text):
    markdown = MarkdownIt("commonmark").enable(["table", "strikethrough"])
    shown = markdown.render(plain(text)).replace("&quot;", '"')
    wanted = html.escape(" ".join(text.split()), quote=False)
    assert shown == (f"<p>{wanted}</p>\n" if wanted else "")


def test_the_card_names_the_licence_of_the_pool(tmp_path):
    named = make(provenance={**make().provenance, "license": "cc-by-nc-4.0"})
    report(named, tmp_path)
    card = (tmp_path / "DATA_CARD.md").read_text(encoding="utf-8")
    assert yaml.safe_load(card.split("---")[1])["license"] == "cc-by-nc-4.0"
    assert "The licence, cc-by-nc-4.0, is the one that the experiment names for the pool" in card
    assert "unknown" not in card


def test_the_card_of_hostile_data_is_a_card_still(tmp_path):
    report(hostile(), tmp_path)
    card = (tmp_path / "DATA_CARD.md").read_text(encoding="utf-8")
    assert yaml.safe_load(card.split("\n---\n")[0])["license"] == "unknown"
    body = card.split("\n---\n", 1)[1]
    shown = MarkdownIt("commonmark").enable("table").render(body)
    assert set(re.findall(r"<(\w+)", shown)) <= {
        "h1", "h2", "p", "ul", "li", "code", "table", "thead", "tbody", "tr", "th", "td",
    }  # fmt: skip
    assert visible(f"title{PAYLOAD}") in html.unescape(shown)
    assert not {"\u202e", "\u200b", "\x1b", "\x00"} & set(card)
    tables = [line for line in body.splitlines() if line.startswith("|")]
    cells = {len(re.findall(r"(?<!\\)\|", line)) for line in tables}
    assert cells == {3, 4, 6}  # columns and one
