"""bench.json as one figure: AUROC with its interval, a row per ranker."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from xml.sax.saxutils import escape

from seal.stages.bench.settings import DEFAULT_SAFE
from seal.stages.report_page.charts import nice_ticks
from seal.stages.report_page.visible import shortened, visible

_ROW, _TOP, _BOTTOM = 26, 48, 52  # pixels, as all that follows
_PLOT, _VALUES, _MARGIN = 420, 170, 16
_CHARACTER = 7.4  # the width of one at 13 pixels, on the generous side
_NAME_LENGTH = 48
_CHANCE = 0.5

# A picture has a background of its own, so that it can be read on whatever page it stands.
_STYLE = """\
  .paper { fill: #fbfbf9 } .ink { fill: #1c2126 } .muted { fill: #59626c }
  .grid { stroke: #e2e1db } .chance { stroke: #59626c; stroke-dasharray: 3 3 }
  .span { stroke: #17678a; stroke-width: 2 } .dot { fill: #17678a }
  text { font: 13px system-ui, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif }
  .title { font-weight: 600 }
  @media (prefers-color-scheme: dark) {
    .paper { fill: #14171a } .ink { fill: #e7e6e2 } .muted { fill: #a0a9b2 }
    .grid { stroke: #30363c } .chance { stroke: #a0a9b2 }
    .span { stroke: #6dbfdc } .dot { fill: #6dbfdc }
  }
"""


def figure(document: dict[str, Any]) -> str:
    """The SVG; `document` is the content of bench.json. Rows without a number are left out."""
    rows = [row for row in document["rows"] if row["auroc"] is not None]
    names = [_name(row) for row in rows]
    left = _MARGIN + max((len(name) for name in names), default=10) * _CHARACTER + 12
    width = left + _PLOT + _VALUES
    height = _TOP + _ROW * max(1, len(rows)) + _BOTTOM
    ticks = _ticks([row["auroc"] for row in rows])

    def across(value: float) -> float:
        return left + _PLOT * (value - ticks[0]) / (ticks[-1] - ticks[0])

    title = f"AUROC of {len(rows)} ranking methods with 95 % intervals"
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:.0f} {height}" '
        f'width="{width:.0f}" height="{height}" role="img">',
        f"<title>{title}</title>",
        f"<style>\n{_STYLE}</style>",
        f'<rect class="paper" width="{width:.0f}" height="{height}"/>',
        f'<text class="ink title" x="{_MARGIN}" y="26">'
        "AUROC: not unsafe above unsafe; 95 % intervals</text>",
    ]
    low, high = _TOP - 6, height - _BOTTOM + 6
    for tick in ticks:
        parts += [
            _line("grid", across(tick), low, across(tick), high),
            _text("muted", across(tick), high + 18, f"{tick:.10g}", "middle"),
        ]
    if ticks[0] <= _CHANCE <= ticks[-1]:
        x = across(_CHANCE)
        parts += [
            _line("chance", x, low, x, high),
            _text("muted", x, high + 36, "chance", "middle"),
        ]
    for place, (name, row) in enumerate(zip(names, rows, strict=True)):
        y = _TOP + _ROW * (place + 0.5)
        one = row["auroc"]
        parts += [
            _text("ink", left - 12, y + 4.5, name, "end"),
            _line("span", across(one["low"]), y, across(one["high"]), y),
            f'<circle class="dot" cx="{across(one["value"]):.1f}" cy="{y:.1f}" r="4.5"/>',
            _text("ink", left + _PLOT + 14, y + 4.5, _numbers(one), "start"),
        ]
    return "\n".join([*parts, "</svg>", ""])


def _name(row: dict[str, Any]) -> str:
    safe = "" if row["safe_set"] == DEFAULT_SAFE else f" ({row['safe_set']})"
    text = " ".join(visible(f"{row['ranker']}{safe}").split())
    kept, more = shortened(text, _NAME_LENGTH)
    return f"{kept}\u2026" if more else kept


def _numbers(one: dict[str, Any]) -> str:
    return f"{one['value']:.3f} [{one['low']:.3f}, {one['high']:.3f}]"


def _ticks(estimates: Sequence[dict[str, Any]]) -> list[float]:
    """Round numbers in [0, 1] around every interval and the level of chance."""
    low = min([_CHANCE, *(one["low"] for one in estimates)])
    high = max([_CHANCE + 0.1, *(one["high"] for one in estimates)])
    return [tick for tick in nice_ticks(low, high, 5) if -1e-9 <= tick <= 1 + 1e-9]


def _line(kind: str, x1: float, y1: float, x2: float, y2: float) -> str:
    places = f'x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}"'
    return f'<line class="{kind}" {places}/>'


def _text(kind: str, x: float, y: float, text: str, anchor: str) -> str:
    place = f'x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}"'
    return f'<text class="{kind}" {place}>{escape(text)}</text>'
