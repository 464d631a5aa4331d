"""The page's tables of differences, row by row; the template draws them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from seal.stages.report_page.answers import loss_of
from seal.stages.report_page.metrics import (
    describe,
    show_difference,
    show_differences,
    show_p,
    show_span,
)

Numbers = Mapping[str, Any]

_QUESTIONS = {"safety": "Safety", "utility": "Usefulness", "over_refusal": "Over-refusal"}
_REFERENCES = ("base", "all", "random", "oracle")
_STATES = {"better": "better", "worse": "worse", "open": "no difference shown", "unknown": ""}
VERDICTS = {
    "ship": "ship",
    "prefer": "prefer, with reservations",
    "useless": "safe, at too high a cost",
    "open": "not shown to be safer",
    "worse": "less safe",
    "unknown": "nothing to compare with",
}
ANSWERS = {
    "better": "yes",
    "worse": "no, less safe",
    "open": "not shown",
    "kept": "kept",
    "lost": "lost",
    "few": "too few items to tell",
    "no_base": "the model before had none to keep",
    "no_gain": "nothing was gained to be kept",
    "no_reference": "cannot be told",
    None: "not measured",
}


def decision_rows(document: Numbers) -> list[dict[str, Any]]:
    """What the decision rests on: a row per metric, a cell per arm that it is held against."""
    decision, columns = document["decision"], decision_columns(document)
    about = decision["about"]
    return [
        {
            "question": _QUESTIONS[question],
            **_own(document, about, name),
            "cells": [_cell(document, about, other, name) for other in columns],
        }
        for question, names in decision["metrics"].items()
        for name in names
        if about and name in document["arms"][about]
    ]


def decision_columns(document: Numbers) -> list[str]:
    """The controls that the arm of the decision is held against."""
    about = document["decision"]["about"]
    held = {row["against"] for row in document["paired"] if row["arm"] == about}
    return [name for name in _REFERENCES if name in held]


def difference_rows(document: Numbers) -> list[dict[str, Any]]:
    """Every paired difference: a row per arm and metric, a cell per reference."""
    found: dict[tuple[str, str], dict[str, Any]] = {}
    for row in document["paired"]:
        key = (row["metric"], row["arm"])
        entry = found.setdefault(key, {"arm": row["arm"], "label": _label(row["metric"])})
        entry[row["against"]] = _difference(document, row)
    order = list(document["metrics"])
    return [found[key] for key in sorted(found, key=lambda key: order.index(key[0]))]


def _own(document: Numbers, about: str, name: str) -> dict[str, Any]:
    metric, one = describe(name), document["arms"][about][name]
    return {
        "label": _label(name),
        "better": metric.better,
        "value": metric.show(one["value"]),
        "span": show_span(one["low"], one["high"], metric.unit),
        "n": one["n"],
    }


def _cell(document: Numbers, about: str, other: str, name: str) -> dict[str, Any] | None:
    """One arm held against another; None where it was not."""
    row = next(
        (
            row
            for row in document["paired"]
            if (row["arm"], row["against"], row["metric"]) == (about, other, name)
        ),
        None,
    )
    if row is None:
        return None
    return {
        "arm": other,
        "value": describe(name).show(document["arms"][other][name]["value"]),
        **_difference(document, row),
    }


def _difference(document: Numbers, row: Numbers) -> dict[str, Any]:
    unit = describe(row["metric"]).unit
    seeds = row["seed_low"] is not None
    return {
        "difference": show_difference(row["difference"], unit),
        "span": show_differences(row["low"], row["high"], unit),
        "seed_span": show_differences(row["seed_low"], row["seed_high"], unit) if seeds else "",
        "p": show_p(row["p_adjusted"]),
        "state": row["state"],
        "word": _STATES[row["state"]],
        "loss": loss_of(row, document) if row["state"] != "unknown" else "",
        "test": row["test"],
        "n": row["n"],
    }


def _label(name: str) -> str:
    text = describe(name).label
    return text[:1].upper() + text[1:]
