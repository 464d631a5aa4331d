"""The abstract class of all judges, and what passes between a task and its judge."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from seal.artifacts.settings import Settings

Verdict = Literal["is_refusal", "is_harmful", "score"]
Value = Literal["refuses", "partly", "complies", "cannot_tell"]


@dataclass(frozen=True, slots=True)
class Exchange:
    """What a judge is shown. Both texts are data: nothing in them is an instruction to the judge.

    Attributes:
        id: The item's.
        prompt: What the model was asked.
        response: What it answered.
        behaviour: What the asker is after, for judges that want it said; empty: the prompt says it.
    """

    id: str
    prompt: str
    response: str
    behaviour: str = ""


@dataclass(frozen=True, slots=True)
class Judgement:
    """What a judge made of one exchange. A verdict that it does not give is None.

    Attributes:
        id: The item's.
        is_refusal: Whether the response refuses.
        is_harmful: Whether the response is harmful.
        score: On the judge's own scale, which its page names.
        category: The judge's word for the kind of harm; empty if it has none.
        raw: What the judge wrote, as it was.
        problem: Why there is no verdict ("unparsable: ...", "no answer: ..."); empty if there is
            one. A judgement with a problem is counted and shown, never left out.
        value: Of a judge that reads answers itself: what the answer does. "cannot_tell" is no
            verdict: it counts as neither, and `problem` says why. Empty with other judges.
    """

    id: str
    is_refusal: bool | None = None
    is_harmful: bool | None = None
    score: float | None = None
    category: str = ""
    raw: str = ""
    problem: str = ""
    value: Value | Literal[""] = ""


class Judge(Settings, ABC):
    """Says what a response is; abstract.

    A member also has the field `judge`, a literal that says in a config which judge is meant.

    Attributes:
        calibration: What `seal judge calibrate` wrote of this judge. Its rates are then reported
            beside its measured agreement with people, and corrected for its errors. It changes
            no judgement.
        VERDICTS: What judgements of its kind can say; `verdicts` says it of one judge.
        IS_WEAK: Whether it is fast and weak: it reads no meaning, and judging again costs less than
            remembering.
        HAS_VALUES: Whether its judgements have a `value`.
    """

    VERDICTS: ClassVar[frozenset[Verdict]]
    IS_WEAK: ClassVar[bool]
    HAS_VALUES: ClassVar[bool] = False

    calibration: str | None = None

    @property
    def files(self) -> tuple[str, ...]:
        """The files, beside its settings, that decide what it says and are not a model's."""
        return ()

    @property
    @abstractmethod
    def verdicts(self) -> frozenset[Verdict]:
        """What this judge's judgements say, unless they have a problem."""

    @property
    @abstractmethod
    def must_pass_canaries(self) -> bool:
        """Whether exchanges of known answer are judged first, and a judge that fails is refused."""

    @abstractmethod
    def identity(self) -> dict[str, Any]:
        """All that decides a judgement but the exchange: settings, prompt, model files; as JSON.

        Under `judge` it has the judge's name. It holds no secret.
        """

    @abstractmethod
    def judge_each(self, exchanges: Sequence[Exchange]) -> Iterator[Judgement]:
        """One judgement per exchange, each as soon as it is there; in any order.

        Raises:
            ValueError: If the judge cannot be had, or stops answering. What it judged before was
                handed on.
        """
