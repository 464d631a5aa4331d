"""The data card of the kept set: Markdown with the front matter that the Hub reads.

Names in it come from data: they are spelled out, kept on one line, and none of their characters
means anything to Markdown.
"""

from __future__ import annotations

import html
import json
import re
from collections.abc import Iterable, Mapping
from typing import Any

from seal.stages.report_page.metrics import describe, show, show_span
from seal.stages.report_page.visible import visible

Numbers = Mapping[str, Any]

_SIZES = (
    (1_000, "n<1K"),
    (10_000, "1K<n<10K"),
    (100_000, "10K<n<100K"),
    (1_000_000, "100K<n<1M"),
    (10_000_000, "1M<n<10M"),
)
# What CommonMark, its tables, struck out text and bare addresses, and mathematics on the Hub read;
# nothing more, so that the source can be read too. An underscore inside a word marks nothing.
_MARKED = re.compile(
    r"[\\`*\[\]|~@$]|(?<![^\W_])_|_(?![^\W_])|:(?=//)|(?<=mailto):|(?<=xmpp):|(?<=www)\."
    r"|^[#+>-]",
    re.IGNORECASE,
)
_NUMBERED = re.compile(r"^(\d+)([.)])(?=\s|$)")
_READ_BY_HTML = re.compile(r"<|&(?=#?\w)")


def data_card(document: Numbers) -> str:
    """The card of the samples that were kept; `document` is the content of report.json."""
    counts = document["selection"]
    parts = [
        _front_matter(document),
        f"# {plain(document['title'])}: the kept samples",
        f"{counts['num_kept']:,} of {counts['num_samples']:,} fine-tuning samples, kept by seal "
        f"with the ranker {plain(document['ranker'])}. A higher score means keep; "
        f"{counts['num_dropped']:,} samples ({show(counts['drop_rate'], 'rate')}) were dropped.",
        "## How it was made",
        _table(("What", "Value"), _origin(document)),
        "## What was kept, by source",
        _groups(document["sources"], "Source", "(no source given)"),
    ]
    if "labels" in document:
        parts += [
            "## What was kept, by label",
            "Labels were never shown to the ranker. These count as unsafe: "
            + ", ".join(plain(label) for label in document["unsafe_labels"])
            + ".",
            _groups(document["labels"], "Label", "(no label)"),
        ]
    parts += [
        "## Evaluation of models trained on it",
        *(plain(sentence) for sentence in document["headline"]),
        _measured(document),
        "## Limits",
        _list(
            [
                "A score is a learned correlation, not a proof of harm. Harmless samples can have "
                "been dropped and harmful ones kept.",
                _licence(document),
                "Text is as it was in the pool: it was not rewritten, and personal data was not "
                "looked for.",
                *document["reservations"],
            ]
        ),
        "## How to make it again",
        _list(f"{what}: {_code(command)}" for what, command in document["replay"].items())
        or "The command was not recorded.",
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def plain(text: str) -> str:
    r"""Text on one line, of which Markdown and HTML take nothing as their own.

    Newlines become blanks, hidden characters are spelled out, what could mark anything where it
    stands (also the :// of an address) is escaped with a backslash, and what HTML reads becomes an
    entity.
    """
    marked = _MARKED.sub(lambda found: "\\" + found.group(), " ".join(visible(text).split()))
    marked = _NUMBERED.sub(r"\1\\\2", marked)
    return _READ_BY_HTML.sub(lambda found: html.escape(found.group()), marked)


def _front_matter(document: Numbers) -> str:
    num = document["selection"]["num_kept"]
    size = next((name for limit, name in _SIZES if num < limit), "n>10M")
    # JSON strings are YAML, and leave nothing for YAML to read otherwise.
    return "\n".join(
        [
            "---",
            f"license: {json.dumps(document['provenance'].get('license') or 'unknown')}",
            f"pretty_name: {json.dumps(document['title'])}",
            f"size_categories: [{json.dumps(size)}]",
            "tags: [data-selection, safety, fine-tuning, seal]",
            "configs:",
            "- config_name: default",
            "  data_files: selected.jsonl",
            "---",
        ]
    )


def _licence(document: Numbers) -> str:
    named = document["provenance"].get("license")
    if named:
        return (
            f"The licence, {plain(named)}, is the one that the experiment names for the pool; seal "
            "has not checked it."
        )
    return (
        "The licence is that of the pool, which the experiment does not name: the front matter "
        "says unknown. Set pool.license before you publish these samples."
    )


def _origin(document: Numbers) -> list[tuple[str, str]]:
    origin = document["provenance"]
    identity = origin.get("rank", {})
    counts, excluded = document["selection"], document["excluded"]
    rows: list[tuple[str, Any]] = [
        ("Pool", origin.get("pool")),
        ("Pool, SHA-256 of its content", identity.get("pool")),
        ("Safe set", origin.get("safe")),
        ("Model that ranked", origin.get("model")),
        ("Ranker and settings", identity.get("ranker", document["ranker"])),
        ("Rule of selection", origin.get("select")),
        ("Cut at score", counts.get("cut_score")),
        ("Rows read", excluded["num_read"]),
        ("Rows excluded before ranking", excluded["num_excluded"]),
        ("Samples kept", counts["num_kept"]),
        ("Samples dropped", counts["num_dropped"]),
        ("seal", origin.get("environment", {}).get("packages", {}).get("seal")),
        ("Made", origin.get("environment", {}).get("date")),
    ]
    return [(name, plain(_value(value))) for name, value in rows if value is not None]


def _value(value: Any) -> str:  # noqa: ANN401 (any JSON value)
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _groups(groups: Numbers, heading: str, none_given: str) -> str:
    def cells(name: str, row: Numbers) -> tuple[str, ...]:
        return (
            plain(name),
            f"{row['num_samples']:,}",
            f"{row['num_kept']:,}",
            f"{row['num_dropped']:,}",
            f"{show(row['drop_rate'], 'rate')} ({show_span(row['low'], row['high'], 'rate')})",
        )

    rows = [cells(row["name"] or none_given, row) for row in groups["top"]]
    if "rest" in groups:
        rows.append(cells(f"{groups['rest']['num_groups']:,} others together", groups["rest"]))
    return _table((heading, "Samples", "Kept", "Dropped", "Share dropped (95 % interval)"), rows)


def _measured(document: Numbers) -> str:
    arms = {name: found for name, found in document["arms"].items() if found}
    if not arms:
        return ""
    names = dict.fromkeys(name for found in arms.values() for name in found)
    rows = []
    for name in names:
        metric = describe(name)
        cells = [
            f"{metric.show(found[name]['value'])} "
            f"({show_span(found[name]['low'], found[name]['high'], metric.unit)})"
            f"{_corrected(document, arm, name)}"
            if name in found
            else "not measured"
            for arm, found in arms.items()
        ]
        judged = document["metrics"].get(name, {}).get("judged", "")
        about = f"; {judged}" if judged else ""
        rows.append((plain(f"{metric.label}, n = {_count(name, arms)}{about}"), *cells))
    sizes = ("training samples", *(f"{document['num_samples'][name]:,}" for name in arms))
    return _table(("Metric (95 % interval)", *(plain(name) for name in arms)), [sizes, *rows])


def _corrected(document: Numbers, arm: str, name: str) -> str:
    """The rate without its judge's errors, where those were measured."""
    found = document.get("corrected", {}).get(arm, {}).get(name)
    if found is None:
        return ""
    if "problem" in found:
        return f"; {plain(found['problem'])}"
    metric = describe(name)
    span = show_span(found["low"], found["high"], metric.unit)
    return f"; corrected {metric.show(found['value'])} ({span})"


def _count(name: str, arms: Numbers) -> str:
    return next(f"{found[name]['n']:,}" for found in arms.values() if name in found)


def _table(header: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    line = " | ".join
    ruled = [f"| {line(header)} |", f"|{'|'.join(' --- ' for _ in header)}|"]
    return "\n".join([*ruled, *(f"| {line(row)} |" for row in rows)])


def _list(lines: Iterable[str]) -> str:
    return "\n".join(f"* {line}" for line in lines)


def _code(text: str) -> str:
    """Text as code on one line, whatever backticks it holds."""
    clean = " ".join(visible(text).split())
    fence = "`" * (1 + max((len(run) for run in re.findall("`+", clean)), default=0))
    blank = " " if clean.startswith("`") or clean.endswith("`") else ""
    return f"{fence}{blank}{clean}{blank}{fence}"
