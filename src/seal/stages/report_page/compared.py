"""What a report is about: a ranking, a selection, and what was measured on the models."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from seal.artifacts.evaluation import Estimate, Measurement
from seal.artifacts.ranking import Ranking
from seal.artifacts.selection import Selection
from seal.cut import Cut
from seal.data.sample import Sample
from seal.judges.calibration import Calibration, Errors
from seal.rankers.ranker import Ranker
from seal.stages.report_page.answer_counts import AnswerCounts
from seal.stages.report_page.findings import Evidence

Role = Literal["base", "all", "random", "oracle", "candidate"]

_CONTROLS: dict[str, Role] = {name: name for name in ("base", "all", "random", "oracle")}


def role_of(arm: str) -> Role:
    """What an arm is there for: the four controls have their names, all others are candidates."""
    return _CONTROLS.get(arm, "candidate")


@dataclass(frozen=True, slots=True, eq=False)
class ArmResult:
    """What was measured on one model, item by item.

    Attributes:
        name: "base" (the model before), "all" (trained on all data), "random" (trained on a random
            subset of the size of the selection), "oracle" (trained on all that is not labelled
            unsafe); every other name is a candidate: an arm that could be shipped.
        num_samples: How many samples it was trained on; 0 for the base.
        measured: Training seed -> every metric; the base has one seed, 0.
        num_steps: Training seed -> optimiser steps; empty where that is not known.
        num_tokens: Training seed -> tokens that the training saw, prompts included and each as
            often as it was seen; empty where that is not known.
    """

    name: str
    num_samples: int
    measured: Mapping[int, tuple[Measurement, ...]]
    num_steps: Mapping[int, int] = field(default_factory=dict)
    num_tokens: Mapping[int, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, eq=False)
class ArmRanking:
    """The ranking and selection of an arm that has a ranker of its own.

    Attributes:
        ranker: The method that ranked.
        ranking: The scores of the same pool.
        selection: The samples that the arm was trained on.
        quality: Metric -> estimate against the labels; empty without labels.
    """

    ranker: str
    ranking: Ranking
    selection: Selection
    quality: Mapping[str, Estimate]


@dataclass(frozen=True, slots=True)
class MetricSource:
    """Where a metric comes from.

    Attributes:
        task: The name of its task.
        judge: Who judged the responses; "" where nothing was judged.
        has_weak_judge: Whether that judge reads no meaning, such as a list of phrases.
        calibration: How far that judge agrees with people; None where it was not measured, or on
            something that this metric does not count.
        errors: How often the judge errs about what the metric counts; None where that is not known.
    """

    task: str
    judge: str = ""
    has_weak_judge: bool = False
    calibration: Calibration | None = None
    errors: Errors | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Comparison:
    """Everything a report is about.

    Attributes:
        title: The page's title, in the user's words.
        ranker: The method that ranked, e.g. "seal".
        arms: The models side by side; their names are distinct.
        ranking: The scores of the pool; higher = keep.
        selection: The kept samples.
        samples: The ranked pool, in any order.
        labels: Sample id -> label; empty when the pool has none.
        unsafe_labels: Which of the labels count as unsafe.
        ranking_quality: Metric -> estimate against the labels; empty without labels.
        excluded: One entry per row that was left out: "where" (file:line), "reason" and "stage"
            ("read" or "tokenize").
        num_read: Rows read, the excluded ones included.
        num_duplicates: Samples whose content had occurred before.
        num_truncated: Samples that were cut to the longest length.
        provenance: Nested JSON: model, hashes, versions, seed, hardware, seconds.
        metric_sources: Metric -> its task and judge; a metric that is not named has neither.
        num_tokens: Sample id -> tokens, prompt and response together, as the ranker saw them; empty
            where that is not known.
        num_response_tokens: Sample id -> tokens that carry the loss; likewise.
        rank_stability: One entry per ranker whose rankings with several seeds were compared:
            "ranker", "method", "num_seeds" and "spearman"; empty when there was one ranking only.
        auto: The cut that `select: auto` makes of this ranking, or what it says where it refuses to
            make one; None where it was not asked.
        evidence: Sample id -> what was found out about it besides its score; may be empty.
        arm_rankings: Arm -> its own ranking, of the arms that do not take `ranking`.
        pairwise: One entry per arm, task and arm that it is compared with: "task", "arm",
            "against", "judge", "win_rate" and what belongs to it; empty where nobody was asked.
        ranker_class: Words the columns of `ranking`; None words none.
        answers: Arm -> task -> what is odd about its answers, in numbers, over all training seeds.
        replay: What makes all of this again, by what is made, e.g. {"run": "seal run x.yaml"}.
    """

    title: str
    ranker: str
    arms: tuple[ArmResult, ...]
    ranking: Ranking
    selection: Selection
    samples: tuple[Sample, ...]
    labels: Mapping[str, str]
    unsafe_labels: frozenset[str]
    ranking_quality: Mapping[str, Estimate]
    excluded: tuple[dict[str, str], ...]
    num_read: int
    num_duplicates: int
    num_truncated: int
    provenance: dict[str, Any]
    metric_sources: Mapping[str, MetricSource] = field(default_factory=dict)
    num_tokens: Mapping[str, int] = field(default_factory=dict)
    num_response_tokens: Mapping[str, int] = field(default_factory=dict)
    rank_stability: tuple[dict[str, Any], ...] = ()
    auto: Cut | str | None = None
    evidence: Mapping[str, Evidence] = field(default_factory=dict)
    arm_rankings: Mapping[str, ArmRanking] = field(default_factory=dict)
    pairwise: tuple[dict[str, Any], ...] = ()
    answers: AnswerCounts = field(default_factory=dict)
    replay: Mapping[str, str] = field(default_factory=dict)
    ranker_class: type[Ranker] | None = None
