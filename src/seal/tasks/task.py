"""The abstract class of all tasks."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Annotated, ClassVar

from pydantic import Field

from seal.artifacts.evaluation import TaskResult
from seal.artifacts.settings import Settings
from seal.data.reasoning import Reasoning
from seal.generation import Decoding
from seal.judges.judging import Judging
from seal.models import LanguageModel
from seal.responders import Responder

TaskName = Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]{1,64}$")]


@dataclass(frozen=True, slots=True)
class Subject:
    """The model that is measured, and what is needed to measure it.

    Attributes:
        model: The model, for tasks that read its likelihoods; None where only its answers can be
            had, and only tasks that measure those are run.
        decoding: How it answers.
        responder: What answers for it.
        judging: Where the answers are judged.
    """

    model: LanguageModel | None
    decoding: Decoding
    responder: Responder
    judging: Judging

    @property
    def reasoning(self) -> Reasoning:
        """How the model's reasoning is told from its answers."""
        return Reasoning() if self.model is None else self.model.encoder.reasoning

    @property
    def lm(self) -> LanguageModel:
        """The model, where there is one."""
        assert self.model is not None, "only the answers of this model can be had"
        return self.model


class Task(Settings, ABC):
    """An evaluation set and how a model is measured on it; abstract.

    A member also has the field `task`, a literal that says in a config which task is meant.

    Attributes:
        name: Of its folder, unique among the tasks of an evaluation; letters, digits, `_` and `-`.
            Give one to run the same task on a second file: its metrics are then reported as
            `<name>/<metric>`.
        IS_BENCHMARK: Whether it is one published set. Its metrics are always reported as
            `<name>/<metric>`, because several such sets share theirs.
    """

    IS_BENCHMARK: ClassVar[bool] = False

    name: TaskName

    @property
    @abstractmethod
    def metrics(self) -> tuple[str, ...]:
        """The metrics that `run` returns, in this order."""

    @property
    @abstractmethod
    def data_path(self) -> str:
        """The file or folder that the task reads, or the Hub name of its data set."""

    @property
    def data_paths(self) -> tuple[str, ...]:
        """Every file that decides what is measured, or the Hub name of the data set."""
        return (self.data_path,)

    @abstractmethod
    def run(self, subject: Subject) -> TaskResult:
        """Measure a model; the ids of the items are made from their content alone.

        Raises:
            ValueError: If the task's file has a bad row, or an item does not fit into the model.
        """
