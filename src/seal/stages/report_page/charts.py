"""The geometry of the page's charts; the template draws it.

Across, positions are per cent of the chart's width, so that a chart fits a phone and a sheet of
paper with its text at full size; down, they are pixels.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from seal.stages.report_page.metrics import describe, show_span

HISTOGRAM_HEIGHT = 200
_MAX_PLOTS = 8


def interval_plots(document: dict[str, Any]) -> list[dict[str, Any]]:
    """One dot plot per metric: a row per arm with its value and 95 % interval."""
    measured = {name for arm in document["arms"].values() for name in arm}
    names = [name for name in document["metrics"] if name in measured]
    names.sort(key=lambda name: document["metrics"][name]["better"] == "unknown")
    return [_interval_plot(name, document["arms"]) for name in names[:_MAX_PLOTS]]


def histogram(numbers: dict[str, Any], cut: float | None) -> dict[str, Any]:
    """Stacked bars of equal width, the y axis from 0, and where the cut falls."""
    edges = numbers["edges"]
    inner, outer = np.diff(edges)[1:-1], np.diff(edges)[[0, -1]]
    series = [name for name in ("unsafe", "other") if name in numbers] or ["dropped", "kept"]
    totals = np.sum([numbers[name] for name in series], axis=0)
    marks = nice_ticks(0, float(totals.max()), 4)
    scale = HISTOGRAM_HEIGHT / marks[-1]
    width = 100 / len(totals)
    bars = []
    base = np.zeros(len(totals))
    for name in series:
        for place, count in enumerate(numbers[name]):
            height = count * scale
            y = HISTOGRAM_HEIGHT - base[place] - height
            if count:
                bars.append(
                    {
                        "series": name,
                        "x": _round(place * width + width * 0.06),
                        "width": _round(width * 0.88),
                        "y": _round(y),
                        "height": _round(height),
                    }
                )
            base[place] += height
    every = max(1, len(totals) // 4)
    return {
        "series": series,
        "bars": bars,
        "marks": [
            {"y": _round(HISTOGRAM_HEIGHT - m * scale), "text": f"{m:,.0f}"}
            for m in marks
            if m == int(m)
        ],
        "ticks": [
            _tick(100 * place / len(totals), _rounded(edges[place], edges[-1] - edges[0]))
            for place in range(0, len(edges), every)
        ],
        "has_wide_ends": bool(len(inner) and outer.max() > 1.01 * inner.max()),
        "cut": None if cut is None else _tick(_position(cut, edges), f"{cut:.4g}"),
    }


def nice_ticks(low: float, high: float, about: int) -> list[float]:
    """Round numbers from at or below `low` to at or above `high`."""
    span = (high - low) or abs(high) or 1.0
    power = 10.0 ** math.floor(math.log10(span / about))
    step = next(power * m for m in (1, 2, 2.5, 5, 10) if power * m * about >= span * 0.999)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [step * place for place in range(first, max(last, first + 1) + 1)]


def _interval_plot(name: str, arms: dict[str, Any]) -> dict[str, Any]:
    metric = describe(name)
    found = {arm: numbers[name] for arm, numbers in arms.items() if name in numbers}
    low = min(min(one["low"], one["value"]) for one in found.values())
    high = max(max(one["high"], one["value"]) for one in found.values())
    ticks = nice_ticks(low, high, 4)

    def across(value: float) -> float:
        return _round(100 * (value - ticks[0]) / (ticks[-1] - ticks[0]))

    return {
        "label": metric.label,
        "better": metric.better,
        "grid": [across(value) for value in ticks],
        "ticks": [
            _tick(across(value), _short(value, metric.unit)) for value in ticks[:: _every(ticks)]
        ],
        "base": across(found["base"]["value"]) if "base" in found else None,
        "rows": [
            {
                "arm": arm,
                "x": across(one["value"]),
                "low": across(one["low"]),
                "high": across(one["high"]),
                "value": metric.show(one["value"]),
                "interval": show_span(one["low"], one["high"], metric.unit),
            }
            for arm, one in found.items()
        ],
    }


def _position(score: float, edges: Sequence[float]) -> float:
    """Where a score falls between bars of equal width; the outer bars may be wider in score."""
    return float(np.interp(score, edges, np.linspace(0, 100, len(edges))))


def _tick(x: float, text: str) -> dict[str, Any]:
    anchor = "start" if x < 8 else "end" if x > 92 else "middle"
    return {"x": _round(x), "text": text, "anchor": anchor}


def _every(ticks: Sequence[float]) -> int:
    """Of how many ticks one is named: the ends, and what divides them, three at most on a phone."""
    gaps = len(ticks) - 1
    return next(every for every in range(1, gaps + 1) if gaps % every == 0 and gaps // every <= 2)


def _rounded(value: float, span: float) -> str:
    """A number with the digits that matter on an axis of this span."""
    digits = 1 - math.floor(math.log10(span))
    return f"{round(value, digits) + 0.0:.{max(0, digits)}f}" if digits <= 6 else f"{value:.3g}"


def _short(value: float, unit: str) -> str:
    return f"{100 * value:.4g}\u00a0%" if unit == "rate" else f"{value:,.4g}"


def _round(value: float) -> float:
    return round(float(value), 3)
