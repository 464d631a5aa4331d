"""The pairwise stage: which of two arms answers a task's prompts better, in the eyes of a judge."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, ValidationError

from seal.artifacts.evaluation import Estimate, answer_of
from seal.artifacts.paths import StrPath
from seal.artifacts.settings import Settings
from seal.data.sample import Message, transcript
from seal.judges.judging import Judging
from seal.judges.pairwise import Duel, PairwiseEndpoint, Preference
from seal.metrics import rate
from seal.tasks.task import TaskName
from seal.win_rate import length_controlled_win_rate, position_bias, win_rate

_VERDICTS = {"ours": 1.0, "tie": 0.5, "theirs": 0.0}


class PairwiseSettings(Settings):
    """Whose responses are compared, and by which judge.

    Attributes:
        task: Name of an evaluated task whose responses are compared.
        against: The arm that the others are compared with.
        judge: Says which response is better.
        limit: Compare on this many prompts, chosen by their hash (not the file's first); None =
            all.
    """

    task: TaskName
    against: Annotated[str, Field(min_length=1)] = "all"
    judge: PairwiseEndpoint
    limit: Annotated[int, Field(ge=1)] | None = None


class WinRate(Settings):
    """How one arm's responses fare against another's.

    Attributes:
        n: Number of prompts.
        num_identical: On how many of them both responses are the same; a tie that nobody judged.
        ours_length: Mean length of our responses, in characters.
        theirs_length: Mean length of theirs.
        win_rate: How often ours is preferred, a tie counting one half; in [0, 1]. Unjudged prompts
            count as lost.
        length_controlled_win_rate: The same at equal length; None where it cannot be told.
        length_controlled_problem: Why it cannot be told; empty if it can.
        tie_rate: Share of the prompts without a winner over both orders.
        unjudged_rate: Share of the prompts on which the judge gave no usable verdict in an order.
        flip_rate: Share of the prompts judged in both orders on which the winner changed with the
            order; None if there is no such prompt.
        first_shown_win_rate: On the same prompts, the win rate of the response that was shown
            first; 0.5 = the place makes no difference.
    """

    n: int
    num_identical: int
    ours_length: float
    theirs_length: float
    win_rate: Estimate
    length_controlled_win_rate: Estimate | None
    length_controlled_problem: str
    tie_rate: Estimate
    unjudged_rate: Estimate
    flip_rate: Estimate | None
    first_shown_win_rate: Estimate | None


def pairwise(
    ours: StrPath, theirs: StrPath, settings: PairwiseSettings, judging: Judging, folder: StrPath
) -> None:
    """Compare the responses of two models and write `preferences.jsonl` and `win_rate.json`.

    Each pair is judged in both orders; two responses that are the same are a tie and not judged.

    Args:
        ours: The folder that `evaluate` wrote for our model.
        theirs: That of the model it is compared with.
        settings: The task, the judge and how many prompts.
        judging: Where the pairs are judged.
        folder: Exists and is empty; the caller renames it once this returns.

    Raises:
        ValueError: If one side has no responses to the task, they are not to the same prompts, or
            the judge cannot be had.
    """
    ours = Path(ours)
    theirs = Path(theirs)
    folder = Path(folder)
    duels = _duels(ours, theirs, settings)
    judged = [duel for duel in duels if duel.ours != duel.theirs]
    found = {
        duel.id: preference
        for duel, preference in zip(judged, judging.duel(settings.judge, judged), strict=True)
    }
    rows = [_row(duel, found.get(duel.id)) for duel in duels]
    with (folder / "preferences.jsonl").open("w", encoding="utf-8") as file:
        file.writelines(json.dumps(row) + "\n" for row in rows)
    summary = _summary(rows).model_dump_json(indent=2)
    (folder / "win_rate.json").write_text(summary + "\n", encoding="utf-8")


def load_win_rate(folder: StrPath) -> WinRate:
    """The `win_rate.json` in a folder that `pairwise` wrote.

    Raises:
        ValueError: If there is none, or none that can be read.
    """
    folder = Path(folder)
    try:
        return WinRate.model_validate_json((folder / "win_rate.json").read_bytes())
    except OSError as error:
        reason = str(error)
    except ValidationError as error:
        first = error.errors()[0]
        reason = " ".join((*map(str, first["loc"]), first["msg"]))
    raise ValueError(
        f"{folder}: not a complete comparison ({reason}). Delete it and compare the arms again."
    )


@dataclass(frozen=True, slots=True)
class _Response:
    prompt: str
    text: str


def _duels(ours: Path, theirs: Path, settings: PairwiseSettings) -> list[Duel]:
    left, right = (
        _responses(side / settings.task / "responses.jsonl", settings.task)
        for side in (ours, theirs)
    )
    odd = {
        key
        for key in left.keys() | right.keys()
        if key not in left or key not in right or left[key].prompt != right[key].prompt
    }
    if odd:
        raise ValueError(
            f"the responses to {settings.task} in {ours} and {theirs} are not to the same prompts: "
            f"{len(odd)} of {len(left.keys() | right.keys())} differ (first: {min(odd)}). Evaluate "
            "both arms on the same file with the same limit."
        )
    chosen = set(sorted(left)[: settings.limit])
    return [
        Duel(id=key, prompt=response.prompt, ours=response.text, theirs=right[key].text)
        for key, response in left.items()
        if key in chosen
    ]


def _responses(path: Path, task: str) -> dict[str, _Response]:
    """Item id -> what was asked and answered, in the file's order."""
    try:
        lines = path.read_bytes().split(b"\n")
    except OSError as error:
        raise ValueError(
            f'{path} cannot be read ({error}). Evaluate this arm with a task named "{task}" first.'
        ) from error
    found: dict[str, _Response] = {}
    for number, line in enumerate(lines, start=1):
        if not line:  # after the last line
            continue
        try:
            row = json.loads(line)
            found[row["id"]] = _Response(_asked(row), _text(answer_of(row)))
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(
                f"{path}:{number}: no response that could be compared ({type(error).__name__}: "
                f"{error}). Name a task whose model answers prompts, such as harmful_prompts; if "
                "this is one, evaluate the arm again."
            ) from error
    if not found:
        raise ValueError(f"{path} holds no responses to compare. Evaluate this arm again.")
    return found


def _asked(row: Mapping[str, Any]) -> str:
    """The prompt as a judge reads it."""
    if "conversation" not in row:
        return _text(row["prompt"])
    turns = row["conversation"]
    return transcript([Message(_text(turn["role"]), _text(turn["content"])) for turn in turns])


def _text(value: Any) -> str:  # noqa: ANN401 (out of a file)
    if not isinstance(value, str):
        raise TypeError(f"a text is wanted, not {type(value).__name__}")
    return value


def _row(duel: Duel, preference: Preference | None) -> dict[str, Any]:
    """A line of preferences.jsonl; without a preference the responses are identical."""
    identical = preference is None
    return {
        "id": duel.id,
        "ours_length": len(duel.ours),
        "theirs_length": len(duel.theirs),
        "identical": identical,
        "ours_first": None if identical else preference.ours_first,
        "theirs_first": None if identical else preference.theirs_first,
        "value": 0.5 if identical else preference.value,
        "raw": None if identical else preference.raw,
        "problem": "" if identical else preference.problem,
    }


def _summary(rows: Sequence[Mapping[str, Any]]) -> WinRate:
    values = [row["value"] for row in rows]
    lengths = [[row[side] for row in rows] for side in ("ours_length", "theirs_length")]
    controlled, problem = None, ""
    try:
        controlled = length_controlled_win_rate(values, *lengths)
    except ValueError as error:
        problem = str(error)
    orders = [
        (_VERDICTS[row["ours_first"]], _VERDICTS[row["theirs_first"]])
        for row in rows
        if row["ours_first"] is not None and row["theirs_first"] is not None
    ]
    bias = position_bias(*zip(*orders, strict=True)) if orders else None
    return WinRate(
        n=len(rows),
        num_identical=sum(row["identical"] for row in rows),
        ours_length=sum(lengths[0]) / len(rows),
        theirs_length=sum(lengths[1]) / len(rows),
        win_rate=win_rate(values),
        length_controlled_win_rate=controlled,
        length_controlled_problem=problem,
        tie_rate=rate([float(value == 0.5) for value in values]),
        unjudged_rate=rate([float(value is None) for value in values]),
        flip_rate=bias and bias.flip_rate,
        first_shown_win_rate=bias and bias.first_shown_win_rate,
    )
