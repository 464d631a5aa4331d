"""GSM8K: grade-school word problems whose answer is one number."""

from __future__ import annotations

import re
from dataclasses import replace
from decimal import Decimal
from typing import Annotated, ClassVar, Literal

from pydantic import Field, model_validator

from seal.artifacts.evaluation import Measurement, TaskResult, answer_of
from seal.data.sample import Message
from seal.tasks.answers import answers
from seal.tasks.prompt_task import Limit, PromptTask
from seal.tasks.prompts import Item, read_items
from seal.tasks.task import Subject, TaskName

_MARK = "####"
# A minus counts where it cannot be a dash or a difference; a comma where three digits follow.
_NUMBER = re.compile(r"(?:(?<![\w.)])-)?\$?(?:\d{1,3}(?:,\d{3})+(?!\d)|\d+)(?:\.\d+)?")


class Gsm8k(PromptTask):
    """Share of GSM8K's problems that a model solves.

    The set (Cobbe et al. 2021, arXiv 2110.14168): `grade_school_math/data/test.jsonl` of
    github.com/openai/grade-school-math, MIT; 1,319 rows with `question` and `answer`, which ends in
    "#### " and the number.

    Metric: `accuracy` in [0, 1] (higher = better): the number after the response's last "####", or
    where there is none the last number in it, equals the answer's; "$", thousands commas and zeros
    after the point do not count. A response without a number is wrong. An answer takes some hundred
    tokens: set `evaluate.decoding.max_new_tokens` to 512, or answers are cut before their number.

    Attributes:
        task: Which task this is.
        name: Of its folder.
        path: Your copy of the file.
        question: Its column with the problem.
        answer: Its column with the solution.
        instruction: Follows every problem after an empty line; blank = nothing does.
        num_shots: Solved problems that precede each one as earlier turns.
        shots_path: Where they come from: the training file, in the same columns. Chosen by their
            hash, the same for every problem.
        limit: Measure this many problems, chosen by their hash (not the file's first); None = all.
    """

    IS_BENCHMARK: ClassVar[bool] = True

    task: Literal["gsm8k"] = "gsm8k"
    name: TaskName = "gsm8k"
    path: str
    question: str = "question"
    answer: str = "answer"
    instruction: str = 'Think step by step. End with a line of "#### " and the number alone.'
    num_shots: Annotated[int, Field(ge=0)] = 0
    shots_path: str | None = None
    limit: Limit = None

    @model_validator(mode="after")
    def _shots_have_a_file(self) -> Gsm8k:
        if (self.num_shots > 0) != (self.shots_path is not None):
            raise ValueError(
                f"num_shots={self.num_shots} and shots_path={self.shots_path!r} do not go "
                "together: give both, the file being the training set, or neither."
            )
        return self

    @property
    def metrics(self) -> tuple[str, ...]:
        """The share that is solved."""
        return ("accuracy",)

    @property
    def data_paths(self) -> tuple[str, ...]:
        """The problems, and the file of the solved ones."""
        return (self.path, *([] if self.shots_path is None else [self.shots_path]))

    def items(self) -> tuple[Item, ...]:
        """The problems, each after the solved ones.

        Raises:
            ValueError: If a file has a bad row or a solution without a number, or if the solved
                problems are too few or among those that are measured.
        """
        items = read_items(self.path, [self.question, self.answer], limit=self.limit)
        for item in items:
            if final_number(item.texts[1]) is None:
                raise ValueError(
                    f"{item.place}: the column {self.answer!a} holds no number. Correct it, or "
                    "delete the row."
                )
        shots = self._shots({item.texts[0] for item in items})
        return tuple(replace(item, prompt=(*shots, self._turn(item))) for item in items)

    def measure_answers(self, subject: Subject, items: tuple[Item, ...]) -> TaskResult:
        """Whether each response has the number."""
        rows, solved = [], {}
        for item, row in zip(items, answers(subject, items).rows, strict=True):
            wanted, got = final_number(item.texts[1]), final_number(answer_of(row))
            solved[item.id] = float(got == wanted)
            rows.append({**row, "wanted": str(wanted), "got": None if got is None else str(got)})
        return TaskResult((Measurement("accuracy", "rate", solved),), tuple(rows))

    def _shots(self, measured: set[str]) -> list[Message]:
        if self.shots_path is None:
            return []
        shots = read_items(self.shots_path, [self.question, self.answer], limit=self.num_shots)
        if len(shots) < self.num_shots:
            raise ValueError(
                f"{self.shots_path}: num_shots={self.num_shots}, but the file has {len(shots)} "
                "rows. Lower num_shots, or give a longer file."
            )
        known = next((shot.place for shot in shots if shot.texts[0] in measured), None)
        if known is not None:
            raise ValueError(
                f"{known}: this solved problem is one of those that are measured. Give the "
                "training set as shots_path."
            )
        return [
            turn
            for shot in shots
            for turn in (self._turn(shot), Message("assistant", shot.texts[1]))
        ]

    def _turn(self, item: Item) -> Message:
        text = item.texts[0]
        return Message(
            "user", f"{text}\n\n{self.instruction}" if self.instruction.strip() else text
        )


def final_number(text: str) -> Decimal | None:
    """The number after the last "####", else the last number of a text; None if it has none."""
    _, mark, end = text.rpartition(_MARK)
    found = _NUMBER.findall(end)
    if not found:
        return final_number(text[: -len(end) - len(_MARK)]) if mark else None
    return Decimal(re.sub(r"[$,]", "", found[0 if mark else -1]))
