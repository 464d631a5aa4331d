"""Report a comparison: one static page for people, and the same numbers in files for machines.

`report.json` holds every number and every text of `index.html`, but for the explorer's samples; the
page is a function of it. `samples.parquet` holds the numbers of every sample, and `DATA_CARD.md`
describes the kept set.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import model_validator

from seal.artifacts.paths import StrPath
from seal.artifacts.settings import Settings, error_at
from seal.data.sample import Message, transcript
from seal.judges.union import AnyJudge
from seal.stages.report_page.answer_counts import answer_notes
from seal.stages.report_page.arms import measured_arms
from seal.stages.report_page.card import data_card
from seal.stages.report_page.compared import ArmRanking, ArmResult, Comparison, MetricSource
from seal.stages.report_page.decision import decide
from seal.stages.report_page.explorer import (
    ExplorerData,
    choose_texts,
    explorer_section,
)
from seal.stages.report_page.headline import headline, reservations
from seal.stages.report_page.page import render
from seal.stages.report_page.pool import arm_rankings, pool_numbers, short_name
from seal.stages.report_page.visible import plain_json, shortened, visible

__all__ = [
    "ArmRanking",
    "ArmResult",
    "Comparison",
    "MetricSource",
    "ReportSettings",
    "explorer_data",
    "report",
]

_NUM_ENDS = 10  # samples shown at the top and at the bottom of the ranking
_NUM_AT_CUT = 5  # samples shown on either side of the cut
_TEXT_LENGTH = 600


class ReportSettings(Settings):
    """What the report looks up besides what the stages have written.

    Attributes:
        evidence: For the samples whose text the page carries: the loss of each token before and
            after training, the nearest safe and harmful samples, and duplicates. It loads two
            models; off, the report is made of the files alone.
        judge: With evidence: who judges these samples. Its word stands beside each, a second
            opinion to the ranking's. None asks nobody.
    """

    evidence: bool = True
    judge: AnyJudge | None = None

    @model_validator(mode="after")
    def _a_judge_gives_evidence(self) -> ReportSettings:
        if self.judge is not None and not self.evidence:
            raise error_at(
                ("evidence",),
                self.evidence,
                "report.judge judges the samples that evidence is looked up for, but evidence is "
                "off. Set evidence: true, or remove the judge.",
            )
        return self


def report(comparison: Comparison, folder: StrPath) -> Path:
    """Write report.json, index.html, samples.parquet and DATA_CARD.md; returns the page's path.

    Args:
        comparison: What the report is about.
        folder: Exists.

    Raises:
        ValueError: If ranking, selection and samples are not of the same pool, two arms share a
            name, or a metric was measured on different items.
    """
    folder = Path(folder)
    document = _document(comparison)
    text = json.dumps(document, indent=1, ensure_ascii=False, allow_nan=False)
    (folder / "report.json").write_text(text + "\n", encoding="utf-8")
    (folder / "DATA_CARD.md").write_text(data_card(document), encoding="utf-8")
    pq.write_table(_sample_table(comparison), folder / "samples.parquet")
    page = folder / "index.html"
    page.write_text(render(document, explorer_section(explorer_data(comparison))), encoding="utf-8")
    return page


def _document(comparison: Comparison) -> dict[str, Any]:
    """The content of report.json."""
    _check(comparison)
    numbers = {
        "title": comparison.title,
        "ranker": comparison.ranker,
        **measured_arms(comparison),
        "answers": comparison.answers,
        "answer_notes": answer_notes(comparison.answers),
        **pool_numbers(comparison),
        "arm_rankings": arm_rankings(comparison),
        "pairwise": list(comparison.pairwise),
        "rank_stability": list(comparison.rank_stability),
        "samples": _shown(comparison),
        "replay": dict(comparison.replay),
        "provenance": comparison.provenance,
    }
    clean = plain_json(numbers)
    decided = clean | {"decision": decide(clean)}
    said = {"headline": headline(decided), "reservations": reservations(decided)}
    first = {"title": clean["title"], **said, "decision": decided["decision"]}
    return first | clean


def _check(comparison: Comparison) -> None:
    ranked = set(comparison.ranking.ids)
    if not ranked:
        raise ValueError("the ranking is empty: there is nothing to report. Rank a pool first.")
    for what, ids in (
        ("the pool", {sample.id for sample in comparison.samples}),
        ("the selection", set(comparison.selection.ids)),
        ("the labels", set(comparison.labels)),
    ):
        foreign = sorted(ids - ranked)
        if foreign:
            raise ValueError(
                f"{len(foreign)} of {len(ids)} samples of {what} are not in the ranking (first: "
                f"{foreign[0]}). They are of different pools; report the ranking of this pool."
            )
    for arm, own in comparison.arm_rankings.items():
        if set(own.ranking.ids) != ranked:
            raise ValueError(
                f"the ranking of the arm {arm} and the one that the arms share are of different "
                "pools. Rank the pool again for both, in another run_dir."
            )
    if len(comparison.samples) != len(ranked):
        raise ValueError(
            f"the ranking has {len(ranked)} samples and the pool {len(comparison.samples)}. They "
            "are of different pools; report the ranking of this pool."
        )


def explorer_data(comparison: Comparison) -> ExplorerData:
    """What the page's sample explorer shows."""
    kept = frozenset(comparison.selection.ids)
    sources = {sample.id: sample.source for sample in comparison.samples}
    return ExplorerData(
        ranker=comparison.ranker,
        ranker_class=comparison.ranker_class,
        ranking=comparison.ranking,
        kept=kept,
        samples={sample.id: sample for sample in comparison.samples},
        labels=comparison.labels,
        unsafe_labels=comparison.unsafe_labels,
        chosen=choose_texts(comparison.ranking, kept, sources),
        evidence=comparison.evidence,
    )


def _sample_table(comparison: Comparison) -> pa.Table:
    """The numbers of every sample, by id; its text stays in the pool."""
    ranking = comparison.ranking
    by_id = {sample.id: sample for sample in comparison.samples}
    chosen = set(comparison.selection.ids)
    table: dict[str, Any] = {
        "id": list(ranking.ids),
        "source": _names([by_id[key].source for key in ranking.ids]),
        "score": ranking.scores,
        "rank": ranking.ranks,
        "kept": [key in chosen for key in ranking.ids],
    }
    if comparison.labels:
        named = [comparison.labels.get(key) for key in ranking.ids]
        table["label"] = _names(named)
        table["is_unsafe"] = [label in comparison.unsafe_labels for label in named]
    for name, counts in (
        ("num_tokens", comparison.num_tokens),
        ("num_response_tokens", comparison.num_response_tokens),
    ):
        if counts:
            table[name] = np.array([counts[key] for key in ranking.ids], dtype=np.int64)
    # A method's own column may carry one of the names above.
    own = {
        (f"ranker_{name}" if name in table else name): values
        for name, values in ranking.columns.items()
    }
    return pa.table({**table, **own})


def _names(names: Sequence[str | None]) -> pa.DictionaryArray:
    """Names from data, each spelled out once, however many samples have it."""
    different = list(dict.fromkeys(name for name in names if name is not None))
    place = {name: index for index, name in enumerate(different)}
    places = pa.array([None if name is None else place[name] for name in names], pa.int32())
    return pa.DictionaryArray.from_arrays(
        places, pa.array([visible(name) for name in different], pa.string())
    )


def _shown(comparison: Comparison) -> dict[str, Any]:
    """The samples that the page spells out: the ends of the ranking, and both sides of the cut."""
    best_first = comparison.ranking.best_first()
    by_id = {sample.id: sample for sample in comparison.samples}
    chosen, scores = set(comparison.selection.ids), comparison.ranking.by_id()
    rank_of = {key: place for place, key in enumerate(best_first, start=1)}
    last_kept = [key for key in best_first if key in chosen][-_NUM_AT_CUT:]
    first_dropped = [key for key in best_first if key not in chosen][:_NUM_AT_CUT]
    start_of_bottom = max(_NUM_ENDS, len(best_first) - _NUM_ENDS)

    def entry(key: str) -> dict[str, Any]:
        sample = by_id[key]
        shown: dict[str, Any] = {
            "id": key,
            "rank": rank_of[key],
            "score": scores[key],
            "kept": key in chosen,
            "source": short_name(sample.source),
            "prompt": _text(sample.prompt, "user"),
            "response": _text(sample.completion, "assistant"),
        }
        if key in comparison.labels:
            label = comparison.labels[key]
            shown["label"] = short_name(label)
            shown["unsafe"] = label in comparison.unsafe_labels
        return shown

    return {
        "bottom": [entry(key) for key in reversed(best_first[start_of_bottom:])],
        "top": [entry(key) for key in best_first[:_NUM_ENDS]],
        "last_kept": [entry(key) for key in last_kept],
        "first_dropped": [entry(key) for key in first_dropped],
    }


def _text(turns: Sequence[Message], role: str) -> dict[str, Any]:
    """The start of some turns; roles are named unless there is one turn, of the usual role."""
    text, num_more = shortened(transcript(turns, usual=role), _TEXT_LENGTH)
    return {"text": text, "num_more": num_more}
