"""From report.json to one static HTML file: nothing to fetch, nothing to run."""

from __future__ import annotations

import base64
import hashlib
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from seal.stages.report_page.charts import HISTOGRAM_HEIGHT, histogram, interval_plots
from seal.stages.report_page.metrics import show, show_span
from seal.stages.report_page.visible import visible

_HERE = Path(__file__).parent


def render(document: dict[str, Any]) -> str:
    """The page of a report; `document` is the content of report.json."""
    style = (_HERE / "page.css").read_text(encoding="utf-8")
    digest = base64.b64encode(hashlib.sha256(style.encode("utf-8")).digest()).decode("ascii")
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
    environment.filters["count"] = lambda number: f"{number:,}"
    environment.filters["score"] = lambda number: f"{number:.5g}"
    cut = document["selection"].get("cut_score")
    return environment.get_template("page.html.j2").render(
        document,
        style=Markup(style),
        policy=(
            f"default-src 'none'; style-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'"
        ),
        plots=interval_plots(document),
        chart=histogram(document["histogram"], cut),
        chart_height=HISTOGRAM_HEIGHT,
        settings=list(flattened(document["provenance"])),
    )


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
