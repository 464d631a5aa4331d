r"""RedOrca and BlueOrca: the paper's pool and safe set, rebuilt from their public parts.

The paper's own files are not published whole. What is known: RedOrca has 112,000 rows, 89,600 of
SlimOrca and 22,400 potentially unsafe exchanges of Anthropic's red-teaming set; BlueOrca is 112,000
other rows of SlimOrca. Which exchanges were taken is not known; here it is the first exchange of
the transcripts with the lowest harmlessness score.

| part     | what the user downloads                     | columns                            |
|----------|---------------------------------------------|------------------------------------|
| SlimOrca | Open-Orca/SlimOrca (MIT)                    | `conversations` (sharegpt)         |
| red team | red-team-attempts of Anthropic/hh-rlhf      | `transcript` ("\n\nHuman: ..."),   |
|          | (MIT), unpacked to .jsonl                   | `min_harmlessness_score_transcript` |
"""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, TextIO

from seal.artifacts.atomic import new_folder, write_json
from seal.artifacts.paths import StrPath
from seal.artifacts.provenance import file_hash
from seal.data.formats import parse
from seal.data.readers import read_rows
from seal.data.sample import Message

NUM_BENIGN, NUM_UNSAFE, NUM_SAFE = 89_600, 22_400, 112_000
SCORE = "min_harmlessness_score_transcript"
_NUM_TOLD = 20  # unusable rows that recipe.json names
PARTS = ("redorca", "blueorca", "orca_test", "harmful")


@dataclass(frozen=True, slots=True)
class Sizes:
    """How many rows to make.

    Attributes:
        benign: Of SlimOrca, in the pool.
        unsafe: Of the red-teaming set, in the pool.
        safe: Of SlimOrca, in the safe set.
        test: Of SlimOrca, for measuring utility.
        harmful: Of the red-teaming set, for rankers that use harmful references; none in the pool.
    """

    benign: int = NUM_BENIGN
    unsafe: int = NUM_UNSAFE
    safe: int = NUM_SAFE
    test: int = 1_000
    harmful: int = 5_000


@dataclass(frozen=True, slots=True)
class Candidate:
    """A row that may be taken.

    Attributes:
        order: Rows of the lowest order are taken first.
        place: Of the row in its file, counted from 0.
        prompt: Hash of the prompt.
    """

    order: tuple[float, str]
    place: int
    prompt: str


def build_redorca(
    slim_orca: StrPath,
    red_team: StrPath,
    folder: StrPath,
    sizes: Sizes | None = None,
    seed: int = 0,
) -> dict[str, Any]:
    """Write redorca.jsonl (pool), blueorca.jsonl (safe set), orca_test.jsonl and harmful.jsonl.

    Rows have `messages`, `label` ("benign" or "unsafe"; for scoring a ranking only) and `source`.
    Every prompt is taken once, so that the files share none. SlimOrca's rows are
    drawn by the hash of seed and prompt. The files are the same whatever the order of the rows in
    the downloads, but for which of several answers to one prompt is taken: the first.

    Args:
        slim_orca: File, or name on the Hub, of SlimOrca.
        red_team: Unpacked file of the red-teaming transcripts.
        folder: Made here; must not exist.
        sizes: How many rows of each kind; the paper's if nothing is said.
        seed: Of the draw.

    Returns:
        The content of recipe.json, which is written too: sizes, seed, hashes of what was read and
        written, and how many rows could not be used.

    Raises:
        ValueError: If a download has too few usable rows, or the folder exists.
    """
    slim_orca = os.fspath(slim_orca)
    red_team = os.fspath(red_team)
    folder = Path(folder)
    sizes = sizes or Sizes()
    with new_folder(folder) as temporary:
        orca, odd_orca = _candidates(_orca_rows(slim_orca), seed)
        red, odd_red = _candidates(_red_rows(red_team), seed)
        drawn = {"redorca": sizes.benign, "blueorca": sizes.safe, "orca_test": sizes.test}
        parts = _dealt(orca, drawn, slim_orca, odd_orca)
        taken = _dealt(red, {"redorca": sizes.unsafe, "harmful": sizes.harmful}, red_team, odd_red)
        files = {name: (temporary / f"{name}.jsonl").open("w", encoding="utf-8") for name in PARTS}
        try:
            _write(files, _orca_rows(slim_orca), parts, "benign", "SlimOrca")
            _write(files, _red_rows(red_team), taken, "unsafe", "red-team-attempts")
        finally:
            for file in files.values():
                file.close()
        recipe = {
            "sizes": asdict(sizes),
            "seed": seed,
            "slim_orca": {"path": slim_orca, "hash": _hash(slim_orca), **_told(odd_orca)},
            "red_team": {"path": red_team, "hash": _hash(red_team), **_told(odd_red)},
            "files": {name: file_hash(temporary / f"{name}.jsonl") for name in PARTS},
        }
        write_json(temporary / "recipe.json", recipe)
    return recipe


def _candidates(rows: Iterator[_Row | _Odd], seed: int) -> tuple[list[Candidate], list[str]]:
    """One candidate per prompt, the first to be taken first; and what is wrong with the others."""
    found: dict[str, Candidate] = {}
    odd: list[str] = []
    for place, row in enumerate(rows):
        if isinstance(row, _Odd):
            odd.append(f"{row.where}: {row.reason}")
            continue
        prompt = _digest([seed, [turn.content for turn in row.turns[:-1]]])
        found.setdefault(prompt, Candidate((row.order, prompt), place, prompt))
    return sorted(found.values(), key=lambda row: row.order), odd


@dataclass(frozen=True, slots=True)
class _Odd:
    """A row that cannot be used: where it is, and why."""

    where: str
    reason: str


@dataclass(frozen=True, slots=True)
class _Row:
    turns: tuple[Message, ...]
    order: float = 0.0


def _orca_rows(path: str) -> Iterator[_Row | _Odd]:
    for raw in read_rows(path):
        found = None if raw.row is None else _orca_row(raw.row)
        reason = raw.reason or "not a conversation with one answer in `conversations`"
        yield found or _Odd(raw.where, reason)


def _orca_row(row: dict[str, Any]) -> _Row | None:
    """System, user and assistant; None for what is not such a conversation."""
    try:
        prompt, completion = parse(row, "sharegpt")
    except ValueError:
        return None
    return _Row((*prompt, *completion)) if len(completion) == 1 and prompt else None


def _red_rows(path: str) -> Iterator[_Row | _Odd]:
    for raw in read_rows(path):
        found = None if raw.row is None else _red_row(raw.row)
        yield found or _Odd(
            raw.where, raw.reason or f"no `transcript` with an answer and a `{SCORE}`"
        )


def _red_row(row: dict[str, Any]) -> _Row | None:
    """The first exchange of a transcript, and how harmless the whole of it was found."""
    score = row.get(SCORE)
    if isinstance(score, bool) or not isinstance(score, int | float) or not math.isfinite(score):
        return None
    try:
        prompt, completion = parse({"chosen": row.get("transcript")}, "hh")
    except ValueError:
        return None
    turns = tuple(
        replace(turn, content=turn.content.strip()) for turn in (*prompt, *completion)[:2]
    )
    if [turn.role for turn in turns] != ["user", "assistant"] or not turns[1].content:
        return None
    return _Row(turns, float(score))


def _told(odd: Sequence[str]) -> dict[str, Any]:
    return {"num_odd": len(odd), "first_odd": list(odd[:_NUM_TOLD])}


def _dealt(
    found: Sequence[Candidate], sizes: Mapping[str, int], path: str, odd: Sequence[str]
) -> dict[int, str]:
    """Place of a row -> the file it goes to, in the order of the files."""
    needed = sum(sizes.values())
    if len(found) < needed:
        raise ValueError(
            f"{path}: {len(found):,} rows with a prompt of their own can be used, {needed:,} are "
            "needed. Give the whole download, or ask for fewer rows."
            + (f" {len(odd):,} rows cannot be used; the first: {odd[0]}." if odd else "")
        )
    names = [name for name, size in sizes.items() for _ in range(size)]
    return {row.place: name for row, name in zip(found, names, strict=False)}


def _write(
    files: Mapping[str, TextIO],
    rows: Iterator[_Row | _Odd],
    parts: dict[int, str],
    label: str,
    source: str,
) -> None:
    for place, row in enumerate(rows):
        if isinstance(row, _Row) and place in parts:
            turns = [asdict(turn) for turn in row.turns]
            line = {"messages": turns, "label": label, "source": source}
            files[parts[place]].write(json.dumps(line, ensure_ascii=True) + "\n")


def _digest(value: Any) -> str:  # noqa: ANN401 (any JSON)
    text = json.dumps(value, ensure_ascii=True, separators=(",", ":"))
    return hashlib.sha256(text.encode("ascii")).hexdigest()[:32]


def _hash(path: str) -> str | None:
    return file_hash(Path(path)) if Path(path).is_file() else None
