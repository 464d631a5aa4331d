"""Every judge is chosen by its word, and says what the abstract class promises."""

import typing
from pathlib import Path

import numpy as np
import pytest
from pydantic import TypeAdapter, ValidationError

from seal.judges.answer_features import NAMES, NUM_PLACES
from seal.judges.judge import Exchange, Judge
from seal.judges.refusal import RefusalPhrases
from seal.judges.trained import Model, save_model
from seal.judges.union import AnyJudge

ADAPTER = TypeAdapter(AnyJudge)
MEMBERS = typing.get_args(typing.get_args(AnyJudge)[0])
NEEDED = {"rubric": {"base_url": "http://127.0.0.1:8000/v1", "model": "m"}}


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """The folder of a trained judge that knows nothing."""
    sizes = {"centre": (len(NAMES),), "scale": (len(NAMES),), "idf": (NUM_PLACES,)}
    arrays = {name: np.ones(shape) for name, shape in sizes.items()}
    arrays["weights"] = np.zeros((len(NAMES) + NUM_PLACES, 2))
    arrays |= {"intercepts": np.zeros(2), "spread": np.eye(len(NAMES)), "limits": np.ones(2)}
    folder = tmp_path_factory.mktemp("trained")
    save_model(Model(("refuses", "complies"), arrays), {}, folder)
    return str(folder)


def build(member, trained, key="judge"):
    word = member.model_fields["judge"].default
    needed = {"trained": {"path": trained}, **NEEDED}
    return ADAPTER.validate_python({key: word, **needed.get(word, {})})


@pytest.mark.parametrize("member", MEMBERS)
def test_a_judge_is_chosen_by_its_word(member, trained):
    judge = build(member, trained)
    assert build(member, trained, key="kind") == judge
    assert type(judge) is member
    assert isinstance(judge, Judge)
    assert judge.identity()["judge"] == judge.judge
    assert judge.verdicts
    assert judge.verdicts <= member.VERDICTS
    assert judge.must_pass_canaries == (not member.IS_WEAK)
    assert all(Path(file).is_file() for file in judge.files)


OFFLINE = [member for member in MEMBERS if member.IS_WEAK]


@pytest.mark.parametrize("member", OFFLINE)
def test_an_offline_judge_judges_each_exchange_and_never_fails(member, trained):
    judge = build(member, trained)
    texts = ("", "I can't help with that.", "Boil water.", "\ud83e\udd80" * 9, "a" * 20_000, "\x00")
    exchanges = [Exchange(str(place), "How?", text) for place, text in enumerate(texts)]
    found = list(judge.judge_each(exchanges))
    assert [each.id for each in found] == [each.id for each in exchanges]
    for each in found:
        has_verdict = any(getattr(each, verdict) is not None for verdict in judge.verdicts)
        assert has_verdict == (not each.problem)
        assert bool(each.value) == member.HAS_VALUES
        assert (each.value == "cannot_tell") == bool(each.problem)


def test_the_phrases_have_their_old_name_still():
    old = ADAPTER.validate_python({"judge": "refusal_phrases"})
    assert old == ADAPTER.validate_python({"judge": "phrases"}) == RefusalPhrases()
    assert RefusalPhrases.model_validate({"judge": "refusal_phrases"}) == old


def test_kind_and_judge_together_are_refused():
    with pytest.raises(ValidationError, match="kind"):
        ADAPTER.validate_python({"judge": "phrases", "kind": "sentences"})


def test_an_unknown_word_is_refused():
    with pytest.raises(ValidationError, match=r"sentences.*phrases.*trained.*guard_model.*rubric"):
        ADAPTER.validate_python({"judge": "gpt"})
