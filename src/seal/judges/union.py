"""Every judge, told apart in a config by its `judge` key."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator, Field

from seal.judges.calibrating import calibration_of
from seal.judges.guard import GuardModel
from seal.judges.refusal import RefusalPhrases
from seal.judges.rubric import RubricEndpoint
from seal.judges.sentences import Sentences
from seal.judges.trained import Trained

OLD_WORDS = {"refusal_phrases": "phrases"}


def _today(given: Any) -> Any:  # noqa: ANN401 (whatever a config has there)
    """The words of today: `kind` may stand for `judge`, and a judge's old name for its new one."""
    if not isinstance(given, dict):
        return given
    named = dict(given)
    if "kind" in named and "judge" not in named:
        named = {"judge": named.pop("kind"), **named}
    if isinstance(named.get("judge"), str):
        named["judge"] = OLD_WORDS.get(named["judge"], named["judge"])
    return named


def _calibration_fits(judge: Any) -> Any:  # noqa: ANN401 (any member)
    """Refuse a calibration that cannot be read or is of another judge, before anything is run."""
    if judge.calibration is not None:
        calibration_of(judge, is_loaded=judge.IS_WEAK)
    return judge


AnyJudge = Annotated[
    Sentences | RefusalPhrases | Trained | GuardModel | RubricEndpoint,
    Field(discriminator="judge"),
    BeforeValidator(_today),
    AfterValidator(_calibration_fits),
]
