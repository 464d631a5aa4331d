"""bench.json as Markdown, and as the table that the terminal shows."""

from __future__ import annotations

import re
from typing import Any

from seal.stages.bench.settings import DEFAULT_SAFE
from seal.stages.report_page.visible import visible

Table = tuple[list[str], list[list[str]]]
"""Header and rows of plain text."""

_STATUS_LENGTH = 160
_NONE = "-"
_NOTES = """\
Every interval is 95 %, over the samples of the pool. With several seeds, value and ends are means
over the seeds: they rank the same samples, so that more seeds do not narrow an interval.

* **AUROC**: probability that a random sample that is not unsafe is ranked above a random unsafe
  one; 0.5 says nothing, higher = better. *AUROC against L* takes only the samples with the label L
  for those that are not unsafe.
* **average precision**: of finding the unsafe samples from the bottom of the ranking; a ranking
  that says nothing has their share of the pool. Higher = better.
* **unsafe kept**: share of the unsafe samples among the best K, where K is the number of samples
  that are not unsafe; a ranking that says nothing keeps K / N of them. Lower = better.
* **stability**: mean rank correlation (Spearman) of the scores of two seeds; - where there is one
  ranking only.
* **seconds**: of loading the model and ranking, in a process of its own that shares nothing with
  the others; mean over seeds. **time**, **CPU time** and **memory** are multiples of those of
  Loss, one plain forward pass over the pool. CPU time is what the process's threads worked, which
  other work on the machine changes little; memory is the most that the process held, without that
  of a GPU.
"""


def markdown(document: dict[str, Any]) -> str:
    """The page; `document` is the content of bench.json."""
    labels = ", ".join(f"{_escaped(label)} {n:,}" for label, n in document["labels"].items())
    parts = [
        f"# {_escaped(document['title'])}",
        f"Pool: {_escaped(document['pool'])}, {document['num_samples']:,} samples, "
        f"{document['num_unsafe']:,} of them unsafe. Labels: {labels}.",
        "![AUROC of every ranker with its 95 % interval](bench.svg)",
        _rendered(main_table(document)),
        _NOTES.rstrip("\n"),
    ]
    if document["attacks"]:
        words = (
            "AUROC where the unsafe samples are rewritten to look benign, and in parentheses the "
            "change from that on the pool as it is."
        )
        parts += ["## Under attack", words, _rendered(attack_table(document))]
    if len(document["agreement"]["rankers"]) > 1:
        words = "Rank correlation (Spearman) of the scores, each ranker at its first seed."
        parts += ["## Agreement", words, _rendered(agreement_table(document))]
    failed = [cell for cell in document["cells"] if cell["error"]]
    if failed:
        lines = [f"* {_escaped(cell['folder'])}: {_escaped(cell['error'])}" for cell in failed]
        parts += ["## What failed", "\n".join(lines)]
    return "\n\n".join(parts) + "\n"


def main_table(document: dict[str, Any], *, brief: bool = False) -> Table:
    """One row per ranker and safe set, in the order of the document.

    Args:
        document: The content of bench.json.
        brief: For a terminal: short names of columns, one interval only, and no messages.
    """
    rows = document["rows"]
    labels = sorted({label for row in rows for label in row["auroc_by_label"]})
    labels = labels if len(labels) > 1 else []
    has_safe = any(row["safe_set"] != DEFAULT_SAFE for row in rows)
    has_failed = any(row["status"] != "done" for row in rows)
    second = _value if brief else _estimate
    header = [
        "ranker",
        *(["safe set"] if has_safe else []),
        "AUROC",
        "AP" if brief else "average precision",
        "kept" if brief else "unsafe kept",
        *(f"{'vs' if brief else 'AUROC against'} {label}" for label in labels),
        "stability",
        "seconds",
        "time",
        "CPU time",
        "memory",
        *(["status"] if has_failed else []),
    ]
    cells = [
        [
            row["ranker"],
            *([row["safe_set"]] if has_safe else []),
            _estimate(row["auroc"]),
            second(row["average_precision"]),
            second(row["unsafe_kept_at_clean_fraction"]),
            *(_value(row["auroc_by_label"].get(label)) for label in labels),
            _number(row["stability"]),
            _number(row["seconds"], ",.1f"),
            _number(row["seconds_relative"], ",.2f", "x"),
            _number(row["cpu_seconds_relative"], ",.2f", "x"),
            _number(row["peak_memory_relative"], ",.2f", "x"),
            *([row["status"].split(":")[0] if brief else _short(row["status"])] * has_failed),
        ]
        for row in rows
    ]
    return header, cells


def attack_table(document: dict[str, Any]) -> Table:
    """One row per attacked ranker, in the order of the main table; one column per attack."""
    found = {(one["ranker"], one["attack"]): one for one in document["attacks"]}
    attacks = list(dict.fromkeys(attack for _, attack in found))
    order = dict.fromkeys(row["ranker"] for row in document["rows"])
    names = [name for name in order if any(ranker == name for ranker, _ in found)]
    rows = [[name, *(_attacked(found.get((name, attack))) for attack in attacks)] for name in names]
    return ["ranker", *attacks], rows


def agreement_table(document: dict[str, Any]) -> Table:
    """Ranker by ranker."""
    names, numbers = document["agreement"]["rankers"], document["agreement"]["spearman"]
    rows = [
        [name, *(_number(value, ".2f") for value in row)]
        for name, row in zip(names, numbers, strict=True)
    ]
    return ["", *names], rows


def _rendered(table: Table) -> str:
    header, rows = table
    right = ["---", *("---:" for _ in header[1:])]
    lines = [[_escaped(cell) for cell in row] for row in (header, *rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in (lines[0], right, *lines[1:]))


def _escaped(text: str) -> str:
    """Text as Markdown that shows it on one line: no markup, no HTML, no hidden character."""
    line = " ".join(visible(text).split())
    return re.sub(r"([\\`*|<>&\[\]#~$])", r"\\\1", line)


def _short(status: str) -> str:
    line = " ".join(status.split())
    return line if len(line) <= _STATUS_LENGTH else f"{line[: _STATUS_LENGTH - 3]}..."


def _attacked(one: dict[str, Any] | None) -> str:
    if one is None:
        return _NONE
    if one["auroc"] is None:
        return _short(one["status"])
    drop = "" if one["drop"] is None else f" ({-one['drop'] + 0.0:+.3f})"
    return f"{one['auroc']['value']:.3f}{drop}"


def _estimate(estimate: dict[str, Any] | None) -> str:
    if estimate is None:
        return _NONE
    return f"{estimate['value']:.3f} [{estimate['low']:.3f}, {estimate['high']:.3f}]"


def _value(estimate: dict[str, Any] | None) -> str:
    return _number(None if estimate is None else estimate["value"])


def _number(value: float | None, style: str = ".3f", unit: str = "") -> str:
    return _NONE if value is None else f"{value:{style}}{unit}"
