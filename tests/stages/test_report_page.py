from __future__ import annotations

import math

import pytest
from comparisons import NBSP, arm, document_of, estimate

from seal.stages.report_page.charts import histogram, nice_ticks
from seal.stages.report_page.metrics import describe, show, show_span
from seal.stages.report_page.page import flattened
from seal.stages.report_page.visible import plain_json, visible


def test_headline_when_all_data_breaks_and_the_selection_keeps(tmp_path):
    assert document_of(tmp_path)["headline"] == [
        f"Training on all data lost 33{NBSP}% of the refusals (from 90.0{NBSP}% to 60.0{NBSP}%).",
        f"Training on the selected samples left the refusal rate at 85.0{NBSP}%, better than "
        "training on all data but worse than the model before, at NLL 4.010 against 4.000 with all "
        "data.",
        "For NLL, the intervals overlap, so a difference is not established.",
        f"A random subset of the same size ended at 65.0{NBSP}%: the selected samples did better, "
        "and the intervals do not overlap.",
        f"Against the labels the ranking reaches AUROC 0.875 (95{NBSP}% interval 0.775 to 0.975; "
        "0.5 is chance).",
        "The selection keeps 6 of 10 samples; it drops 3 of 4 samples labelled unsafe and 1 of the "
        "6 others.",
    ]


def arms_of(**rates):
    return tuple(arm(name, 10, refusal_rate=rate) for name, rate in rates.items())


@pytest.mark.parametrize(
    ("arms", "sentences"),
    [
        (
            arms_of(base=0.9, all=0.6, selected=0.89),
            [
                "Training on all data lost 33 % of the refusals (from 90.0 % to 60.0 %).",
                "Training on the selected samples kept the refusal rate at 89.0 %.",
            ],
        ),
        (
            arms_of(base=0.9, all=0.89, selected=0.895),
            [
                "Training on all data moved the refusal rate from 90.0 % to 89.0 %; the intervals "
                "overlap, so a difference is not established.",
                "Training on the selected samples left the refusal rate at 89.5 %, not "
                "distinguishable from training on all data or the model before as the intervals "
                "overlap.",
            ],
        ),
        (
            arms_of(base=0.9, all=0.6, selected=0.61),
            [
                "Training on all data lost 33 % of the refusals (from 90.0 % to 60.0 %).",
                "Training on the selected samples left the refusal rate at 61.0 %, worse than the "
                "model before, not distinguishable from training on all data as the intervals "
                "overlap.",
            ],
        ),
        (
            arms_of(base=0.6, all=0.8, selected=0.7),
            [
                "Training on all data improved the refusal rate (from 60.0 % to 80.0 %).",
                "Training on the selected samples left the refusal rate at 70.0 %, worse than "
                "training on all data but better than the model before.",
            ],
        ),
        (
            arms_of(base=0.9),
            [
                "The refusal rate was measured on one arm only: base, 90.0 % (95 % interval 88.0 "
                "to 92.0 %, n = 100). There is nothing to compare it with."
            ],
        ),
        (
            arms_of(base=0.5, all=0.5, selected=0.7),
            [
                "Training on all data moved the refusal rate from 50.0 % to 50.0 %; the intervals "
                "overlap, so a difference is not established.",
                "Training on the selected samples left the refusal rate at 70.0 %, better than "
                "training on all data and better than the model before.",
            ],
        ),
        (
            arms_of(base=0.9, random=0.7),
            ["Refusal rate by arm: 90.0 % (base), 70.0 % (random)."],
        ),
        ((), ["No arm was evaluated: this page shows the ranking and the selection only."]),
        (
            (arm("base", nll=4.0), arm("all", 10, nll=3.0)),
            [
                "No refusal rate and no attack success rate was measured, so nothing is "
                "said here about safety after training."
            ],
        ),
        (
            (arm("base", attack_success_rate=0.1), arm("all", 10, attack_success_rate=0.6)),
            ["Training on all data worsened the attack success rate (from 10.0 % to 60.0 %)."],
        ),
        (
            (arm("base", unsafe_likelier_rate=0.1), arm("all", 10, unsafe_likelier_rate=0.6)),
            [
                "Training on all data worsened the rate of unsafe answers that are likelier than "
                "safe ones (from 10.0 % to 60.0 %)."
            ],
        ),
        (
            (
                arm("base", over_refusal_rate=0.05, refusal_rate=0.9),
                arm("selected", 6, over_refusal_rate=0.5, refusal_rate=0.99),
            ),
            [
                "Training on the selected samples left the refusal rate at 99.0 %, better than the "
                "model before.",
                "Over-refusal rate after training on the selected samples: 50.0 %, against 5.0 % "
                "for the model before. That is worse than the model before.",
            ],
        ),
    ],
    ids=[
        "kept",
        "nothing happened",
        "not kept",
        "all data is better",
        "one arm",
        "selected is better than both",
        "without selected",
        "no arm",
        "no safety metric",
        "attack success",
        "without a judge",
        "refuses everything",
    ],
)
def test_headline(tmp_path, arms, sentences):
    found = document_of(tmp_path, arms=arms, labels={}, ranking_quality={})["headline"]
    assert [text.replace(NBSP, " ") for text in found[:-1]] == sentences
    assert found[-1] == (
        "The selection keeps 6 of 10 samples. The pool has no labels: whether dropped samples "
        "were unsafe is unknown."
    )


def test_headline_names_a_random_subset_that_does_as_well(tmp_path):
    arms = (
        arm("random", 5, refusal_rate=0.86),
        arm("selected", 6, refusal_rate=0.85),
    )
    assert document_of(tmp_path, arms=arms)["headline"][1] == (
        f"A random subset of 5 samples ended at 86.0{NBSP}%; its interval overlaps that of the "
        "selected samples, so it is not established that which samples were kept mattered, rather "
        "than how many."
    )


def test_headline_counts_the_seeds(tmp_path):
    seeds = {"all": {0: 0.5, 1: 0.9, 2: 0.4}, "selected": {0: 0.8, 1: 0.8, 2: 0.8}}
    arms = tuple(
        arm(name, 6, {seed: {"refusal_rate": v} for seed, v in rates.items()}, refusal_rate=0.7)
        for name, rates in seeds.items()
    )
    assert (
        "The selected samples ended with the better refusal rate than all data in 2 of 3 training "
        "seeds."
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
