"""What the report says of a rate's judge: its agreement with people, and the corrected rate."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from seal.artifacts.evaluation import Estimate
from seal.stages.report_page.compared import MetricSource

_NOT_MEASURED = "kappa not measured"


def about_judge(source: MetricSource | None) -> dict[str, Any]:
    """The judge of a metric, for report.json: name, kappa, and all of it in words."""
    if source is None or not source.judge:
        return {"judge": "", "kappa": None, "judged": ""}
    calibration = source.calibration
    if calibration is None:
        kappa, words = None, _NOT_MEASURED
    elif calibration.kappa is None:
        kappa, words = (
            None,
            f"kappa not defined on {calibration.n} answers of {calibration.labelled}",
        )
    else:
        kappa = calibration.kappa.model_dump()
        one = calibration.kappa
        words = f"kappa {one.value:.2f} [{one.low:.2f}, {one.high:.2f}] on {calibration.n} answers"
        words += f" of {calibration.labelled}"
        words += ", which it was trained on" if calibration.seen_in_training else ""
    return {"judge": source.judge, "kappa": kappa, "judged": f"judge {source.judge}, {words}"}


def corrected_rates(
    arms: Mapping[str, Mapping[str, Any]], sources: Mapping[str, MetricSource]
) -> dict[str, dict[str, Any]]:
    """Arm -> metric -> the rate corrected for its judge's errors, or the problem with that.

    Only what a calibration speaks of is there.
    """
    found: dict[str, dict[str, Any]] = {}
    for arm, measured in arms.items():
        for name, estimate in measured.items():
            errors = sources[name].errors if name in sources else None
            if errors is not None:
                one = errors.corrected(Estimate(**estimate))
                plain = {"problem": one} if isinstance(one, str) else one.model_dump()
                found.setdefault(arm, {})[name] = plain
    return found
