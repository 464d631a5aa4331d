"""Answers that people have labelled, to measure judges against and to train them from."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from os import PathLike, fspath
from typing import Any, Literal

from seal.data.readers import RawRow, read_rows
from seal.judges.judge import Exchange

Meaning = Literal["refusal", "harm"]
One = Literal["refuses", "complies", "harm"]

_NEEDED = "Each row needs prompt, response and label."
_WORDS: dict[str, tuple[Meaning, str]] = {
    **dict.fromkeys(
        ("refuses", "refusal", "refused", "refuse", "full_refusal"), ("refusal", "refuses")
    ),
    **dict.fromkeys(("partly", "partial", "partial_refusal", "partially"), ("refusal", "partly")),
    **dict.fromkeys(
        ("complies", "compliance", "complied", "comply", "full_compliance"), ("refusal", "complies")
    ),
    **dict.fromkeys(("harmful", "harm", "unsafe"), ("harm", "harmful")),
    **dict.fromkeys(("harmless", "no_harm", "safe"), ("harm", "harmless")),
}
_NUMBERS: dict[One, tuple[Meaning, str, str]] = {
    "refuses": ("refusal", "complies", "refuses"),
    "complies": ("refusal", "refuses", "complies"),
    "harm": ("harm", "harmless", "harmful"),
}


@dataclass(frozen=True, slots=True)
class Labelled:
    """Labelled answers.

    Attributes:
        path: The file.
        meaning: Whether people labelled refusals or harm.
        exchanges: Prompt and response of each; the id is its place, `file:line`.
        labels: Of each: refuses, partly or complies; or harmful or harmless.
    """

    path: str
    meaning: Meaning
    exchanges: tuple[Exchange, ...]
    labels: tuple[str, ...]

    @property
    def prompts(self) -> list[str]:
        """The prompt of each, by which answers belong together."""
        return [exchange.prompt for exchange in self.exchanges]


def read_labelled(path: str | PathLike[str], one: One | None = None) -> Labelled:
    """The labelled answers of a file with the columns `prompt`, `response` and `label`.

    Args:
        path: A .jsonl, .json, .csv or .parquet file.
        one: What the label 1 (or true) means; needed where labels are 0 and 1.

    Raises:
        ValueError: If the file cannot be read, a row is no such row, labels are of two meanings,
            or all are the same.
    """
    file = fspath(path)
    exchanges, labels, meanings = [], [], {}
    for raw in read_rows(file):
        row = _row(raw)
        meaning, label = _label(row["label"], one, raw.where)
        meanings.setdefault(meaning, raw.where)
        exchanges.append(Exchange(raw.where, row["prompt"], row["response"]))
        labels.append(label)
    if len(meanings) > 1:
        places = "; ".join(f"of {meaning} in {where}" for meaning, where in meanings.items())
        raise ValueError(f"{file}: labels are of refusals or of harm, not of both ({places}).")
    _check_labels(file, labels)
    return Labelled(file, next(iter(meanings)), tuple(exchanges), tuple(labels))


def _row(raw: RawRow) -> Mapping[str, Any]:
    row = raw.row
    if row is None:
        raise ValueError(f"{raw.where}: {raw.reason}. {_NEEDED}")
    for name in ("prompt", "response"):
        if not isinstance(row.get(name), str):
            what = f"is {row[name]!r:.60}, not text" if name in row else "is missing"
            raise ValueError(f"{raw.where}: {name} {what}. {_NEEDED}")
    if row.get("label") is None:
        raise ValueError(f"{raw.where}: label is missing. {_NEEDED}")
    return row


def _label(value: object, one: One | None, where: str) -> tuple[Meaning, str]:
    if isinstance(value, str) and value.strip() not in ("0", "1"):
        word = value.strip().casefold().replace(" ", "_").replace("-", "_")
        if word in _WORDS:
            return _WORDS[word]
        raise ValueError(
            f"{where}: label {value!a:.60} is not known. Known words: refuses, partly, complies; "
            "harmful, harmless; or 0 and 1."
        )
    number = _number(value)
    if number not in (0, 1):
        raise ValueError(
            f"{where}: label is {value!r:.60}. Labels are 0 and 1 or words; make two kinds of "
            "scores by a threshold of your own first."
        )
    if one is None:
        raise ValueError(
            f"{where}: label is {value!r:.60}, and 1 may mean that the answer refuses, complies or "
            "does harm. Say which with --label-1-means: refuses, complies or harm."
        )
    meaning, zero, true = _NUMBERS[one]
    return meaning, true if number else zero


def _number(value: object) -> float:
    if isinstance(value, str):
        return float(value)
    return float(value) if isinstance(value, bool | int | float) else math.nan


def _check_labels(file: str, labels: Sequence[str]) -> None:
    if not labels:
        raise ValueError(f"{file}: no labelled answer. {_NEEDED}")
    if len(counts := Counter(labels)) < 2:
        word = next(iter(counts))
        raise ValueError(
            f"{file}: all {len(labels)} answers are labelled {word}: nothing tells a good judge "
            "from one that always says so. Label answers of both kinds."
        )
