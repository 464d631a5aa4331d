"""Select: which samples of a ranked pool are kept."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import Field, model_validator

from seal.artifacts.ranking import Ranking
from seal.artifacts.selection import Selection, save_selection
from seal.artifacts.settings import Settings
from seal.data.sample import Sample


class SelectSettings(Settings):
    """How many of the best samples are kept; exactly one of the three, by default the paper's 80 %.

    Attributes:
        fraction: Share of the ranked samples, in (0, 1].
        count: Number of samples.
        threshold: Keep every sample whose score is at least this.
        quotas: Source -> share of that source's samples, in [0, 1]; a source that is not named
            falls under the rule above.
    """

    fraction: float | None = Field(default=None, gt=0, le=1)
    count: int | None = Field(default=None, ge=1)
    threshold: float | None = Field(default=None, allow_inf_nan=False)
    quotas: dict[str, float] = {}

    @model_validator(mode="after")
    def _check(self) -> SelectSettings:
        rules = ("fraction", "count", "threshold")
        given = [name for name in rules if getattr(self, name) is not None]
        if len(given) > 1:
            raise ValueError(f"{' and '.join(given)} exclude each other. Give one of them.")
        for source, share in self.quotas.items():
            if not 0 <= share <= 1:
                raise ValueError(f"quotas.{source}={share} must lie in [0, 1].")
        return self

    def effective_fraction(self) -> float | None:
        """The fraction in force: the given one, or the paper's 0.8 when no rule is given."""
        no_rule = self.fraction is None and self.count is None and self.threshold is None
        return 0.8 if no_rule else self.fraction


def select(ranking: Ranking, pool: Sequence[Sample], settings: SelectSettings) -> Selection:
    """The best samples of a ranking; equal scores are ordered by id.

    Args:
        ranking: Scores of exactly the samples of `pool`.
        pool: The ranked samples.
        settings: How many to keep.

    Raises:
        ValueError: If ranking and pool are not of the same samples, a quota names an unknown
            source, or nothing is selected.
    """
    check_same_samples(ranking, pool)
    source = {sample.id: sample.source for sample in pool}
    unknown = sorted(settings.quotas.keys() - set(source.values()))
    if unknown:
        raise ValueError(
            f"select.quotas names the source {unknown[0]!r}, which no sample has. The pool's "
            f"sources: {', '.join(sorted(set(source.values()))[:20])}."
        )
    best_first = ranking.best_first()
    kept: list[str] = []
    for name, share in settings.quotas.items():
        own = [key for key in best_first if source[key] == name]
        kept += own[: round(share * len(own))]
    rest = [key for key in best_first if source[key] not in settings.quotas]
    kept += rest[: _num_kept(ranking, rest, settings)]
    if not kept:
        raise ValueError(
            f"the selection is empty: none of {len(best_first)} samples passes select="
            f"{settings.model_dump(exclude_none=True)}. The best score is "
            f"{ranking.scores.max():.4g}."
        )
    return Selection(tuple(sorted(kept)), len(best_first))


def save_selected(
    selection: Selection, rows: Mapping[str, Mapping[str, Any]], folder: Path
) -> None:
    """Write `selection.parquet` and `selected.jsonl`: the kept rows, as they were read, by id."""
    save_selection(selection, folder / "selection.parquet")
    with (folder / "selected.jsonl").open("w", encoding="utf-8") as file:
        for key in selection.ids:
            file.write(json.dumps(rows[key], ensure_ascii=True) + "\n")


def check_same_samples(ranking: Ranking, pool: Sequence[Sample]) -> None:
    """Refuse a ranking that was made from another pool.

    Raises:
        ValueError: If the ids differ, with the counts.
    """
    ranked, present = set(ranking.ids), {sample.id for sample in pool}
    if ranked == present:
        return
    without, gone = sorted(present - ranked), sorted(ranked - present)
    first = without[0] if without else gone[0]
    raise ValueError(
        f"this ranking was made from another pool: {len(without)} of {len(present)} samples have "
        f"no score in it, and {len(gone)} of its {len(ranked)} scores belong to no sample (first: "
        f"{first}). Rank this pool, or select from the pool it was made from."
    )


def _num_kept(ranking: Ranking, best_first: Sequence[str], settings: SelectSettings) -> int:
    fraction = settings.effective_fraction()
    if fraction is not None:
        return round(fraction * len(best_first))
    if settings.count is not None:
        if settings.count > len(best_first):
            raise ValueError(
                f"select.count={settings.count} is more than the {len(best_first)} samples there "
                "are to choose from. Lower it."
            )
        return settings.count
    scores = ranking.by_id()
    assert settings.threshold is not None
    return sum(scores[key] >= settings.threshold for key in best_first)
