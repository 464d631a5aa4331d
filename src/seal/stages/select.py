"""Select: which samples of a ranked pool are kept."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import Field, model_validator

from seal.artifacts.ids import ids_of
from seal.artifacts.paths import StrPath
from seal.artifacts.ranking import Ranking
from seal.artifacts.selection import Selection, save_selection
from seal.artifacts.settings import Settings
from seal.cut import Cut, log_odds_cut, mixture_cut, normals_cut, trusted_cut
from seal.data.sample import Sample
from seal.data.sample_store import sources_of
from seal.masking import mask_selection


class SelectSettings(Settings):
    """How many of the best samples are kept; one rule at most, by default the paper's 80 %.

    Attributes:
        fraction: Share of the ranked samples, in (0, 1].
        count: Number of samples.
        threshold: Keep every sample whose score is at least this.
        auto: Find the threshold in the scores. "log_odds": at even odds, for rankers whose scores
            are log-odds; "mixture": between two groups of scores, refused where there are no two;
            "grad_shield": as GradShield does. True takes "log_odds" where the ranker says that its
            scores are that, else "mixture"; `select: auto` says the same.
        reference: "safe" sets the threshold by the held-out safe rows' scores; it needs `holdout`.
        error_rate: Share of trusted rows that `reference` may lose, in (0, 1).
        quotas: Source -> share of that source's samples, in [0, 1]; a source that is not named
            falls under the rule above.
        mask_fraction: Share of the kept samples' response tokens that carry no loss in training,
            the worst of them, in (0, 1). Given without a rule, it lets every sample be kept. Needs
            a ranker that scores tokens.
    """

    fraction: float | None = Field(default=None, gt=0, le=1)
    count: int | None = Field(default=None, ge=1)
    threshold: float | None = Field(default=None, allow_inf_nan=False)
    auto: bool | Literal["log_odds", "mixture", "grad_shield"] = False
    reference: Literal["safe"] | None = None
    error_rate: float = Field(default=0.05, gt=0, lt=1)
    quotas: dict[str, float] = {}
    mask_fraction: float | None = Field(default=None, gt=0, lt=1)

    @model_validator(mode="before")
    @classmethod
    def _auto_is_a_word(cls, value: Any) -> Any:  # noqa: ANN401 (whatever the user gave)
        if isinstance(value, str) and value != "auto":
            raise ValueError(f"{value!r} is no rule. Give auto, or keys such as fraction: 0.8.")
        return {"auto": True} if value == "auto" else value

    @model_validator(mode="after")
    def _check(self) -> SelectSettings:
        given = self._rules()
        if len(given) > 1:
            raise ValueError(f"{' and '.join(given)} exclude each other. Give one of them.")
        if self.error_rate != 0.05 and self.reference is None:
            raise ValueError(
                f"error_rate={self.error_rate:g} belongs to reference: safe, which is not set. Set "
                "it, or remove error_rate."
            )
        for source, share in self.quotas.items():
            if not 0 <= share <= 1:
                raise ValueError(f"quotas.{source}={share} must lie in [0, 1].")
        return self

    def effective_fraction(self) -> float | None:
        """The fraction in force: the given one; without a rule 0.8 (the paper's), 1 if masking."""
        default = 0.8 if self.mask_fraction is None else 1.0
        return self.fraction if self._rules() else default

    def identity(self) -> dict[str, Any]:
        """All that decides a selection; keys that came later only where they are used."""
        first = {"fraction", "count", "threshold", "quotas"}
        used = self.model_dump(mode="json", exclude_defaults=True)
        return {**self.model_dump(mode="json", include=first), **used}

    def _rules(self) -> list[str]:
        rules = ("fraction", "count", "threshold", "auto", "reference")
        unset = (None, False)  # compared by identity: a threshold of 0 is set
        return [name for name in rules if not any(getattr(self, name) is no for no in unset)]


def find_cut(
    ranking: Ranking, settings: SelectSettings, reference: Ranking | None = None
) -> Cut | None:
    """The threshold that scores decide; None where the settings give the number.

    Args:
        ranking: Scores of the pool; quotas do not matter here.
        settings: With `auto` or `reference`.
        reference: Scores of held-out safe rows, for the rule `reference`.

    Raises:
        ValueError: If the scores are not what the rule needs (`auto`), or there are no or too few
            held-out safe rows (`reference`).
    """
    if settings.auto:
        return _auto_cut(ranking, settings.auto)
    if settings.reference is None:
        return None
    if reference is None:
        raise ValueError(
            "select.reference=safe needs the scores of held-out safe rows, and this ranking has "
            "none. Set holdout (such as holdout=0.2) and rank again."
        )
    return trusted_cut(ranking.scores, reference.scores, settings.error_rate)


def select(
    ranking: Ranking,
    pool: Sequence[Sample],
    settings: SelectSettings,
    cut: Cut | None = None,
) -> Selection:
    """The best samples of a ranking; equal scores are ordered by id.

    Args:
        ranking: Scores of exactly the samples of `pool`.
        pool: The ranked samples.
        settings: How many to keep.
        cut: What `find_cut` found; None finds it here, where the settings ask for one.

    Raises:
        ValueError: If ranking and pool are not of the same samples, a quota names an unknown
            source, the scores decide no threshold, tokens are to be masked that have no scores, or
            nothing is selected.
    """
    check_same_samples(ranking, pool)
    found = cut or find_cut(ranking, settings)
    if found is not None:
        rule = {"threshold": found.threshold.value, "auto": False, "reference": None}
        settings = settings.model_copy(update=rule)
    # Places in the ranking, the best first.
    best_first = ranking.order()
    sources = _sources(pool, settings.quotas) if settings.quotas else None
    parts: list[np.ndarray] = []
    rest = best_first
    if sources is not None:
        own_sources = sources[best_first]
        for number, share in enumerate(settings.quotas.values()):
            own = best_first[own_sources == number]
            parts.append(own[: round(share * len(own))])
        rest = best_first[own_sources == len(settings.quotas)]
    parts.append(rest[: _num_kept(ranking.scores[rest], settings)])
    kept = np.sort(np.concatenate(parts))
    if not len(kept):
        given = settings.model_dump(exclude_none=True, exclude={"auto", "error_rate"})
        raise ValueError(
            f"the selection is empty: none of {len(best_first)} samples passes select="
            f"{given}. The best score is "
            f"{ranking.scores.max():.4g}."
        )
    selection = Selection(ranking.ids.take(kept), len(best_first))
    share = settings.mask_fraction
    return selection if share is None else mask_selection(selection, ranking, share)


def save_selected(
    selection: Selection, rows: Mapping[str, Mapping[str, Any]], folder: StrPath
) -> None:
    """Write `selection.parquet` and `selected.jsonl`: the kept rows, as they were read, by id.

    Where text is masked, every row gets the key `seal_masked_spans`: a list of [turn, start, end].
    """
    folder = Path(folder)
    save_selection(selection, folder / "selection.parquet")
    with (folder / "selected.jsonl").open("w", encoding="utf-8") as file:
        for key in selection.ids:
            row = rows[key]
            if selection.masks:
                row = {**row, "seal_masked_spans": selection.masks.get(key, ())}
            file.write(json.dumps(row, ensure_ascii=True) + "\n")


def check_same_samples(ranking: Ranking, pool: Sequence[Sample]) -> None:
    """Refuse a ranking that was made from another pool.

    Raises:
        ValueError: If the ids differ, with the counts.
    """
    ranked, present = ranking.ids, ids_of(pool).ascending()
    if ranked == present:
        return
    without, gone = (
        ours.take(np.flatnonzero(~ours.is_in(theirs)))
        for ours, theirs in ((present, ranked), (ranked, present))
    )
    first = without[0] if without else gone[0]
    raise ValueError(
        f"this ranking was made from another pool: {len(without)} of {len(present)} samples have "
        f"no score in it, and {len(gone)} of its {len(ranked)} scores belong to no sample (first: "
        f"{first}). Rank this pool, or select from the pool it was made from."
    )


def _sources(pool: Sequence[Sample], quotas: Mapping[str, float]) -> np.ndarray:
    """int64 [N]: the number of each sample's quota, in the order of ids; of no quota the last.

    Raises:
        ValueError: If a quota names a source that no sample has.
    """
    column = sources_of(pool)
    found = set(column.unique().to_pylist())
    unknown = sorted(quotas.keys() - found)
    if unknown:
        raise ValueError(
            f"select.quotas names the source {unknown[0]!r}, which no sample has. The pool's "
            f"sources: {', '.join(sorted(found)[:20])}."
        )
    names = pc.SetLookupOptions(value_set=pa.array(list(quotas), pa.large_string()))
    numbers = pc.call_function("index_in", [column], names).fill_null(len(quotas))
    return numbers.to_numpy()[ids_of(pool).order()]


def _auto_cut(ranking: Ranking, rule: bool | str) -> Cut:
    if rule is True:
        rule = "log_odds" if ranking.is_log_odds else "mixture"
    if rule == "mixture":
        return mixture_cut(ranking.scores)
    if rule == "grad_shield":
        return normals_cut(ranking.scores)
    if not ranking.is_log_odds:
        raise ValueError(
            "select.auto=log_odds needs a ranking whose scores are log-odds, and this one's are "
            "not, or were made before seal took note of it. Rank with rank.method=two_sided, or "
            "set select.auto to mixture."
        )
    return log_odds_cut(ranking.scores)


def _num_kept(scores: np.ndarray, settings: SelectSettings) -> int:
    """How many of samples are kept, of which the scores are given."""
    fraction = settings.effective_fraction()
    if fraction is not None:
        return round(fraction * len(scores))
    if settings.count is not None:
        if settings.count > len(scores):
            raise ValueError(
                f"select.count={settings.count} is more than the {len(scores)} samples there "
                "are to choose from. Lower it."
            )
        return settings.count
    assert settings.threshold is not None
    return int((scores >= settings.threshold).sum())
