"""Why a sample ranks where it does, in words that claim no more than the ranker's numbers do."""

from __future__ import annotations

import math

import numpy as np

from seal.artifacts.ranking import Ranking
from seal.rankers.ranker import Ranker

_UNDECIDED = 0.5  # log-odds nearer to 0 than this (38 % to 62 %) lean to neither side


class Why:
    """Says it of every sample of a ranking."""

    def __init__(self, method: str, ranker: type[Ranker] | None, ranking: Ranking) -> None:
        """Of one ranking.

        Args:
            method: The ranker's name in a config.
            ranker: The class of the ranker, which words its columns; None words none.
            ranking: Its columns that are no numbers are passed over.
        """
        self._page = f"docs/methods/{method}.md says what it is"
        self._score = (ranker.SCORE if ranker else "") or self._page
        self._words = ranker.COLUMNS if ranker else {}
        self._hidden = ranker.HIDDEN_COLUMNS if ranker else frozenset()
        self._ranking = ranking
        self._places = {key: place for place, key in enumerate(ranking.ids)}
        self._ranks = ranking.ranks
        self._columns = numeric_columns(ranking)
        self._measured = {
            name: np.sort(column[~np.isnan(column)]) for name, column in self._columns.items()
        }

    def sentences(self, key: str) -> tuple[str, ...]:
        """The score first, then each column of the ranker."""
        place = self._places[key]
        num = len(self._places)
        rank = int(self._ranks[place])
        score = shown(float(self._ranking.scores[place]))
        start = (
            f"Rank {rank:,} of {num:,}: {rank - 1:,} samples come before it. Its score is {score}: "
            f"{self._score}."
        )
        columns = (name for name in self._columns if name not in self._hidden)
        return start, *(self._column(name, place) for name in columns)

    def _column(self, name: str, place: int) -> str:
        value = float(self._columns[name][place])
        if math.isnan(value):
            return f"{name}: not measured for this sample."
        ordered = self._measured[name]
        share = float(np.searchsorted(ordered, value)) / len(ordered)
        rank = f"higher than {math.floor(100 * share)}\u00a0% of the pool"
        words = self._words.get(name)
        if words is None:
            return f"{name} = {shown(value)}, {rank}; {self._page}."
        unit = f" {words.unit}" if words.unit and words.unit != "log-odds" else ""
        if not words.low:
            return f"{_capital(words.high)}: {shown(value)}{unit} ({name}; {rank})."
        is_log_odds = words.unit == "log-odds"
        number = _signed(value, ".2f" if is_log_odds else ".4g")
        number = f"log-odds {number}" if is_log_odds else f"{number}{unit}"
        found = f"{name}: {number}, {rank}"
        if value == 0 or (is_log_odds and abs(value) < _UNDECIDED):
            return f"Undecided whether {words.high} ({found})."
        return f"{_capital(words.high if value > 0 else words.low)} ({found})."


def numeric_columns(ranking: Ranking) -> dict[str, np.ndarray]:
    """The ranking's columns that are numbers or yes/no, as float64."""
    return {
        name: column.astype(np.float64)
        for name, column in ranking.columns.items()
        if column.dtype.kind in "fiub"
    }


def shown(value: float) -> str:
    """A number with the digits that matter."""
    if not math.isfinite(value):
        return str(value)
    is_count = value == int(value) and abs(value) < 1e9
    return (f"{int(value):,}" if is_count else f"{value:.4g}").replace("-", "\u2212", 1)


def _signed(value: float, form: str) -> str:
    return f"{value:+{form}}".replace("-", "\u2212", 1)


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]
