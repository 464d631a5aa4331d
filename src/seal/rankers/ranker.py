"""What every ranker is: hyperparameters, and one method from a pool to a ranking."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from seal.artifacts.ranking import Ranking
from seal.artifacts.settings import Settings
from seal.data.tokenize import Encoded
from seal.models import LanguageModel
from seal.progress import Progress, silent


def forget(record: dict[str, Any]) -> None:
    """Keep no record."""


@dataclass(frozen=True, slots=True, eq=False)
class RankingTask:
    """What a ranker is given.

    Attributes:
        lm: The aligned model. It is the ranker's to change: nobody uses it afterwards.
        pool: The samples to score, each with at least one response token. They carry no label and
            no source: a ranker cannot see what it will be judged by.
        safe: The trusted samples, likewise.
        progress: Told how far the work is.
        log: Given one flat record per step; lands in metrics.jsonl.
    """

    lm: LanguageModel
    pool: Sequence[Encoded]
    safe: Sequence[Encoded]
    progress: Progress = silent
    log: Callable[[dict[str, Any]], None] = forget


class Ranker(Settings):
    """A method of scoring the samples of a pool; abstract.

    A ranker gives every pool sample exactly one finite score, higher = keep; the same seed gives
    the same scores, and reordering the pool reorders the scores with it.
    """

    @abstractmethod
    def rank(self, task: RankingTask) -> Ranking:
        """Score the pool."""
