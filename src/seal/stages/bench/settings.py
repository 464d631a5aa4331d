"""What a benchmark compares, and the rankings ("cells") that this takes."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, field_validator

from seal.artifacts.settings import Settings, error_at
from seal.data.load import DataSpec
from seal.data.rewrite import Attack
from seal.rankers.loss import Loss
from seal.rankers.random import Random
from seal.rankers.union import AnyRanker

DEFAULT_SAFE = "default"
"""What the safe set of the experiment itself is called."""
_DATA = "data"  # the folder of the attacked pools, beside those of the rankers


@dataclass(frozen=True, slots=True)
class Cell:
    """One ranking of the benchmark.

    Attributes:
        name: Of the ranker, in the user's words.
        ranker: The method with its hyperparameters, this cell's seed among them.
        seed: None for a ranker without one.
        attack: What was done to the unsafe samples of the pool; None for the pool as it is.
        safe_set: Which safe set it is given.
        with_harmful: Whether it is given the harmful references.
    """

    name: str
    ranker: AnyRanker
    seed: int | None
    attack: Attack | None
    safe_set: str
    with_harmful: bool

    @property
    def folder(self) -> Path:
        """Where its run lies, from the folder of the benchmark on."""
        words = [
            "unseeded" if self.seed is None else f"seed-{self.seed}",
            *([self.attack] if self.attack else []),
            *([f"safe-{slug(self.safe_set)}"] if self.safe_set != DEFAULT_SAFE else []),
        ]
        return Path(slug(self.name)) / "--".join(words)

    @property
    def title(self) -> str:
        """What it is called in messages."""
        words = [
            self.name,
            "" if self.seed is None else f"seed {self.seed}",
            self.attack or "",
            f"safe set {self.safe_set}" if self.safe_set != DEFAULT_SAFE else "",
        ]
        return ", ".join(word for word in words if word)


class BenchSettings(Settings):
    """What `seal bench` compares: rankers and seeds, on the pool as it is and under attacks.

    Attributes:
        rankers: Name in the table -> a ranker, with the keys of `rank`. Random and Loss are always
            in the table. Empty: these two, and the ranker of `rank` under its method's name.
        seeds: Each ranker that has a seed runs once with each; the others run once.
        attacks: Ways of making the unsafe samples look benign; for each, the pool is rewritten and
            ranked anew.
        attacked: Names of the rankers that are run on the rewritten pools; empty for all.
        benign_labels: Labels of the samples from which attacks borrow texts; empty for every label
            that does not count as unsafe.
        safe_sets: Name in the table -> a further safe set, to be given to rankers instead of
            `safe`: a mapping, or a list of mappings.
        safe_set_rankers: Names of the rankers that are run with the further safe sets; empty for
            all.
        without_harmful: Names of the rankers that are not given the harmful references.
    """

    rankers: dict[str, AnyRanker] = {}
    seeds: tuple[Annotated[int, Field(ge=0, lt=2**32)], ...] = (0, 1, 2)
    attacks: tuple[Attack, ...] = ()
    attacked: tuple[str, ...] = ()
    benign_labels: tuple[str, ...] = ()
    safe_sets: dict[str, tuple[DataSpec, ...]] = {}
    safe_set_rankers: tuple[str, ...] = ()
    without_harmful: tuple[str, ...] = ()

    @field_validator("safe_sets", mode="before")
    @classmethod
    def _one_is_a_list_of_one(cls, value: Any) -> Any:  # noqa: ANN401 (whatever the user gave)
        if not isinstance(value, dict):
            return value
        return {
            name: [part] if isinstance(part, dict | DataSpec) else part
            for name, part in value.items()
        }

    @field_validator("seeds", "attacks")
    @classmethod
    def _no_repetition(cls, items: tuple[Any, ...]) -> tuple[Any, ...]:
        twice = [item for item, count in Counter(items).items() if count > 1]
        if twice:
            raise ValueError(f"{twice[0]!r} is given twice. Remove one of them.")
        return items

    @field_validator("seeds")
    @classmethod
    def _at_least_one(cls, items: tuple[int, ...]) -> tuple[int, ...]:
        if not items:
            raise ValueError("an empty list. Give at least one.")
        return items

    @field_validator("rankers", "safe_sets")
    @classmethod
    def _names_make_folders(cls, named: dict[str, Any]) -> dict[str, Any]:
        check_names(list(named))
        return named

    @field_validator("safe_sets")
    @classmethod
    def _safe_sets_hold_files(cls, named: dict[str, Any]) -> dict[str, Any]:
        for name, specs in named.items():
            if not specs:
                raise ValueError(f"{name!r} is an empty list. Give at least one file, or leave it.")
            if slug(name) == DEFAULT_SAFE:
                raise ValueError(
                    f"{name!r} is what the set given as `safe` is called. Choose another name."
                )
        return named

    def entries(self, rank: AnyRanker) -> dict[str, AnyRanker]:
        """Name -> ranker of every row of the table, Random and Loss first.

        Args:
            rank: The ranker of the experiment, taken where `rankers` names none.

        Raises:
            ValueError: If one of the key lists names no ranker, or "Random" or "Loss" is the name
                of another method.
        """
        named = self.rankers or {rank.method: rank}
        given = {type(ranker) for ranker in named.values()}
        always = {"Random": Random(), "Loss": Loss()}
        added = {name: one for name, one in always.items() if type(one) not in given}
        for name in named:
            if slug(name) in map(slug, added):
                raise error_at(
                    ("bench", "rankers", name),
                    name,
                    f"{name!r} is always the ranker of that name, and here it is method "
                    f"{named[name].method}. Choose another name.",
                )
        entries = {**added, **named}
        for key in ("attacked", "safe_set_rankers", "without_harmful"):
            unknown = [name for name in getattr(self, key) if name not in entries]
            if unknown:
                raise error_at(
                    ("bench", key),
                    unknown[0],
                    f"there is no ranker {unknown[0]!r}. The names are "
                    f"{', '.join(map(repr, entries))}.",
                )
        return entries

    def cells(self, rank: AnyRanker) -> tuple[Cell, ...]:
        """Every ranking that is made, in the order in which it is made."""
        entries = self.entries(rank)
        return (
            *self._cells(entries, [None], [DEFAULT_SAFE]),
            *self._cells(_chosen(entries, self.safe_set_rankers), [None], list(self.safe_sets)),
            *self._cells(_chosen(entries, self.attacked), self.attacks, [DEFAULT_SAFE]),
        )

    def _cells(
        self,
        entries: Mapping[str, AnyRanker],
        attacks: Sequence[Attack | None],
        safe_sets: Sequence[str],
    ) -> list[Cell]:
        return [
            Cell(name, seeded, seed, attack, safe_set, name not in self.without_harmful)
            for safe_set in safe_sets
            for attack in attacks
            for name, ranker in entries.items()
            for seed, seeded in _with_seeds(ranker, self.seeds)
        ]


def slug(name: str) -> str:
    """A name as the name of a folder: small letters, digits and dashes."""
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")


def check_names(names: Sequence[str]) -> None:
    """Refuse names that would share a folder.

    Raises:
        ValueError: Naming the first one.
    """
    taken: dict[str, str] = {}
    for name in names:
        short = slug(name)
        if not short or short == _DATA:
            why = "is taken by the rewritten pools" if short else "holds no letter or digit"
            raise ValueError(f"the name {name!r} {why}. Choose another.")
        if short in taken:
            raise ValueError(
                f"the names {taken[short]!r} and {name!r} would share the folder {short}: letters "
                "and digits must tell them apart. Choose another for one of them."
            )
        taken[short] = name


def _chosen(entries: Mapping[str, AnyRanker], names: Sequence[str]) -> dict[str, AnyRanker]:
    return {name: one for name, one in entries.items() if not names or name in names}


def _with_seeds(ranker: AnyRanker, seeds: Sequence[int]) -> list[tuple[int | None, AnyRanker]]:
    if "seed" not in type(ranker).model_fields:
        return [(None, ranker)]
    return [(seed, ranker.model_copy(update={"seed": seed})) for seed in seeds]
