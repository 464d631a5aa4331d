"""Judging with a memory: what was judged before is not judged again."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

from seal.artifacts.judgements import JudgementFile
from seal.judges.canaries import CANARIES, check_canaries
from seal.judges.judge import Exchange, Judge, Judgement
from seal.judges.pairwise import (
    Duel,
    Pair,
    PairwiseEndpoint,
    Preference,
    Vote,
    pairs_of,
    preference,
)
from seal.processes import processes
from seal.progress import Progress, silent

# How the problem of an exchange begins that was not judged at all. It is not remembered.
NO_ANSWER = "no answer"

_Said = TypeVar("_Said", Judgement, Vote)


class _Memory:
    """What one judge said: in a file where there is a folder, else in this object alone."""

    def __init__(self, root: Path | None, identity: Mapping[str, Any]) -> None:
        self._file = JudgementFile(root or Path(), str(identity["judge"]), identity)
        self._is_kept = root is not None
        self._rows: dict[str, dict[str, Any]] = {}
        self.passed_canaries = False

    def key(self, *texts: str) -> str:
        return self._file.key(*texts)

    def find(self, key: str) -> dict[str, Any] | None:
        return self._file.find(key) if self._is_kept else self._rows.get(key)

    def add(self, said: Judgement | Vote) -> None:
        """Remember what was said under its id, which is its key."""
        row = {name: value for name, value in asdict(said).items() if name != "id"}
        if self._is_kept:
            self._file.add(said.id, {**row, "at": datetime.now(UTC).isoformat(timespec="seconds")})
        else:
            self._rows[said.id] = row


class Judging:
    """Asks judges, and remembers what they said.

    Attributes:
        root: The folder of the judgements; None remembers nothing beyond this object.
        progress: Told how many exchanges are judged.
    """

    def __init__(self, root: Path | None = None, progress: Progress = silent) -> None:
        self.root = root
        self.progress = progress
        self._memories: dict[str, _Memory] = {}

    def judge(self, judge: Judge, exchanges: Sequence[Exchange]) -> tuple[Judgement, ...]:
        """One judgement per exchange, in their order.

        Each is written down as it arrives; exchanges of the same texts are judged once.

        Raises:
            ValueError: If the judge cannot be had, fails its canaries, or stops answering. What was
                judged up to then is kept.
        """
        return processes().first_does(lambda: self._judge_alone(judge, exchanges))

    def _judge_alone(self, judge: Judge, exchanges: Sequence[Exchange]) -> tuple[Judgement, ...]:
        if judge.IS_WEAK:
            found = {judgement.id: judgement for judgement in judge.judge_each(exchanges)}
            return tuple(found[exchange.id] for exchange in exchanges)
        memory = self._memory(judge.identity())
        if judge.must_pass_canaries and not memory.passed_canaries:
            canaries = [canary.exchange for canary in CANARIES]
            check_canaries(_name(judge.identity()), self._judge(judge, memory, canaries))
            memory.passed_canaries = True
        return self._judge(judge, memory, exchanges)

    def duel(self, judge: PairwiseEndpoint, duels: Sequence[Duel]) -> tuple[Preference, ...]:
        """One preference per duel, in their order; each order of a duel is remembered by itself.

        Raises:
            ValueError: If the endpoint cannot be had or stops answering. What was judged up to then
                is kept.
        """
        return processes().first_does(lambda: self._duel_alone(judge, duels))

    def _duel_alone(self, judge: PairwiseEndpoint, duels: Sequence[Duel]) -> tuple[Preference, ...]:
        memory = self._memory(judge.identity())
        pairs = [pair for duel in duels for pair in pairs_of(duel)]
        keys = [memory.key(pair.prompt, pair.first, pair.second) for pair in pairs]

        def ask(asked: Sequence[int]) -> Iterator[Vote]:
            return judge.vote_each([_renamed_pair(pairs[place], keys[place]) for place in asked])

        votes = self._answers(memory, keys, ask, Vote)
        return tuple(
            preference(duel.id, votes[2 * place], votes[2 * place + 1])
            for place, duel in enumerate(duels)
        )

    def _judge(
        self, judge: Judge, memory: _Memory, exchanges: Sequence[Exchange]
    ) -> tuple[Judgement, ...]:
        keys = [memory.key(each.prompt, each.response, each.behaviour) for each in exchanges]

        def ask(asked: Sequence[int]) -> Iterator[Judgement]:
            return judge.judge_each([replace(exchanges[place], id=keys[place]) for place in asked])

        found = self._answers(memory, keys, ask, Judgement)
        return tuple(
            replace(judgement, id=exchange.id)
            for exchange, judgement in zip(exchanges, found, strict=True)
        )

    def _answers(
        self,
        memory: _Memory,
        keys: Sequence[str],
        ask: Callable[[Sequence[int]], Iterator[_Said]],
        kind: type[_Said],
    ) -> list[_Said]:
        """What was said under each key, from memory or by asking; the ids are the keys."""
        known: dict[str, _Said] = {}
        asked: dict[str, int] = {}
        for place, key in enumerate(keys):
            row = memory.find(key)
            if row is None:
                asked.setdefault(key, place)
            else:
                known[key] = _from_row(kind, key, row)
        if asked:
            total = len(asked)
            for number, said in enumerate(ask(list(asked.values())), start=1):
                if not said.problem.startswith(NO_ANSWER):
                    memory.add(said)
                known[said.id] = said
                self.progress("judging", number, total)
        return [known[key] for key in keys]

    def _memory(self, identity: Mapping[str, Any]) -> _Memory:
        memory = _Memory(self.root, identity)
        return self._memories.setdefault(memory.key(), memory)


def _from_row(kind: type[_Said], key: str, row: Mapping[str, Any]) -> _Said:
    fields = {name: value for name, value in row.items() if name != "at"}
    return kind(id=key, **fields)


def _renamed_pair(pair: Pair, key: str) -> Pair:
    return replace(pair, id=key)


def _name(identity: Mapping[str, Any]) -> str:
    model = identity.get("model")
    return f"{identity['judge']} ({model})" if isinstance(model, str) else str(identity["judge"])
