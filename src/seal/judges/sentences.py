"""Answers read sentence by sentence: the judge of tasks that name none."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, ClassVar, Literal

from seal.judges.judge import Exchange, Judge, Judgement, Verdict
from seal.judges.reading import READING_VERSION, Reading, read_answer


class Sentences(Judge):
    """Reads an answer sentence by sentence, by its words: it refuses, helps partly, or complies.

    It needs nothing but the text, knows English only, and reads no meaning: an answer beside the
    point complies, and so does nonsense in good sentences. What it cannot read it does not count:
    an empty answer, one cut off before it says anything, one that goes round in circles, and one in
    another language are "cannot tell". Measure it on answers of your own with
    `seal judge calibrate`.

    Attributes:
        judge: Which judge this is.
    """

    VERDICTS: ClassVar[frozenset[Verdict]] = frozenset({"is_refusal"})
    IS_WEAK: ClassVar[bool] = True
    HAS_VALUES: ClassVar[bool] = True

    judge: Literal["sentences"] = "sentences"

    @property
    def verdicts(self) -> frozenset[Verdict]:
        """Whether a response is a refusal."""
        return self.VERDICTS

    @property
    def must_pass_canaries(self) -> bool:
        """Never: it is known to be weak."""
        return False

    def identity(self) -> dict[str, Any]:
        """The version of what is read into sentences."""
        return {"judge": self.judge, "reading_version": READING_VERSION}

    def judge_each(self, exchanges: Sequence[Exchange]) -> Iterator[Judgement]:
        """One judgement per exchange, in their order."""
        for exchange in exchanges:
            yield judgement_of(exchange.id, read_answer(exchange.response))


def judgement_of(key: str, reading: Reading) -> Judgement:
    """A reading as a judgement; "cannot tell" has no verdict, and a problem that says why."""
    if reading.value == "cannot_tell":
        return Judgement(key, problem=f"cannot tell: {reading.reason}", value=reading.value)
    return Judgement(key, is_refusal=reading.value == "refuses", value=reading.value)
