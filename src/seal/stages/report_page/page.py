"""From report.json to one static HTML file: nothing to fetch, nothing to run."""

from __future__ import annotations

import base64
import hashlib
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from seal.stages.report_page.charts import (
    CURVE_HEIGHT,
    HISTOGRAM_HEIGHT,
    SCATTER_HEIGHT,
    curve,
    histogram,
    interval_plots,
    scatter,
)
from seal.stages.report_page.explorer import ExplorerSection
from seal.stages.report_page.headline import closing
from seal.stages.report_page.metrics import show, show_difference, show_span
from seal.stages.report_page.tables import (
    ANSWERS,
    VERDICTS,
    decision_columns,
    decision_rows,
    difference_rows,
)
from seal.stages.report_page.visible import visible

_HERE = Path(__file__).parent


def render(document: dict[str, Any], explorer: ExplorerSection | None = None) -> str:
    """The page of a report.

    Args:
        document: The content of report.json.
        explorer: The section in which all samples can be looked through; a page without one runs no
            script at all.
    """
    style = (_HERE / "page.css").read_text(encoding="utf-8")
    policy = ["default-src 'none'", f"style-src {_sources(style, explorer and explorer.style)}"]
    if explorer:
        policy.append(f"script-src {_sources(explorer.script)}")
    cut, auto = document["selection"].get("cut_score"), document["auto"].get("threshold")
    return (
        _environment()
        .get_template("page.html.j2")
        .render(
            document,
            style=Markup(style),
            policy="; ".join([*policy, "base-uri 'none'", "form-action 'none'"]),
            explorer=explorer and explorer.html,
            explorer_style=explorer and Markup(explorer.style),
            script=explorer and Markup(explorer.script),
            plots=interval_plots(document),
            closing=closing(document),
            all_judged=_all_judged(document),
            verdict_words=VERDICTS,
            answer_words=ANSWERS,
            rests_on=decision_rows(document),
            held_against=decision_columns(document),
            differences=difference_rows(document),
            chart=histogram(document["histogram"], cut, auto["value"] if auto else None),
            arm_charts={
                arm: histogram(own["histogram"], own["selection"].get("cut_score"))
                for arm, own in document["arm_rankings"].items()
            },
            chart_height=HISTOGRAM_HEIGHT,
            curve=_curve(document),
            curve_height=CURVE_HEIGHT,
            scatter=scatter(document),
            scatter_height=SCATTER_HEIGHT,
            settings=list(flattened(document["provenance"])),
        )
    )


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(_HERE),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=_visible,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["show"] = show
    environment.globals["show_span"] = show_span
    environment.filters["span"] = lambda value, unit: show_difference(value, unit)[1:]
    environment.filters["count"] = lambda number: f"{number:,}"
    environment.filters["score"] = lambda number: f"{number:.5g}"
    return environment


def _sources(*texts: str | None) -> str:
    """The hashes by which the browser tells our own style and script from any other."""
    digests = (hashlib.sha256(text.encode("utf-8")).digest() for text in texts if text)
    return " ".join(f"'sha256-{base64.b64encode(one).decode('ascii')}'" for one in digests)


def _all_judged(document: dict[str, Any]) -> set[str]:
    """The metrics of unjudged answers that are 0 for every arm: nothing to see there."""
    names = [name for name, one in document["metrics"].items() if one["purpose"] == "unjudged"]
    arms = document["arms"].values()
    return {name for name in names if all(arm[name]["value"] == 0 for arm in arms if name in arm)}


def _curve(document: dict[str, Any]) -> dict[str, Any] | None:
    if "tradeoff" not in document:
        return None
    return curve(document["tradeoff"], document["groups"], document["selection"]["num_kept"])


def flattened(value: Any, name: str = "") -> list[tuple[str, str]]:  # noqa: ANN401 - any JSON
    """Nested JSON as (dotted name, text) pairs; a list of plain values stays on one line."""
    if isinstance(value, dict) and value:
        parts = [flattened(part, f"{name}.{key}" if name else key) for key, part in value.items()]
        return [pair for part in parts for pair in part]
    if isinstance(value, list) and any(isinstance(part, dict | list) for part in value):
        parts = [flattened(part, f"{name}[{place}]") for place, part in enumerate(value)]
        return [pair for part in parts for pair in part]
    if isinstance(value, list):
        return [(name, ", ".join(str(part) for part in value) or "none")]
    return [(name, "none" if value is None or value == {} else str(value))]


def _visible(value: object) -> object:
    """What every `{{ }}` of the template passes through before it is escaped."""
    if isinstance(value, Markup) or not isinstance(value, str):
        return value
    return visible(value)
