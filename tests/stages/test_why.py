"""Why a sample ranks where it does, in words."""

from typing import get_args

import numpy as np
import pytest

from seal.artifacts.ranking import make_ranking
from seal.rankers.union import AnyRanker
from seal.stages.report_page.why import Why, numeric_columns, shown

CLASSES = {kind.model_fields["method"].default: kind for kind in get_args(get_args(AnyRanker)[0])}


def sentences(ranker, value, others=(0.0, 1.0, 2.0), *, name):
    ids = tuple("abcd")
    column = np.array([value, *others])
    ranking = make_ranking(ids, np.array([3.0, 2.0, 1.0, 0.0]), {name: column})
    return Why(ranker, CLASSES[ranker], ranking).sentences("a")


def test_rank_and_score_come_first():
    first = sentences("loss", 0.5, name="loss")[0]
    assert first == (
        "Rank 1 of 4: 0 samples come before it. Its score is 3: minus the loss of its answer under "
        "the aligned model, nats per token."
    )


@pytest.mark.parametrize(
    ("value", "start"),
    [
        (3.1, "Its prompt looks like one where safety matters (prompt: log-odds +3.10,"),
        (
            -2.2,
            "Its prompt does not look like one where safety matters (prompt: log-odds \u22122.20",
        ),
        (0.3, "Undecided whether its prompt looks like one where safety matters (prompt: log-odds"),
        (-0.3, "Undecided whether its prompt looks"),
    ],
)
def test_the_sign_decides_the_words(value, start):
    assert sentences("two_sided", value, name="prompt")[1].startswith(start)


def test_the_answers_side_is_told_as_a_condition():
    text = sentences("two_sided", -2.2, name="response")[1]
    assert text.startswith("Its answer, if safety matters there, does not look like the answers")


def test_the_share_below_is_counted_by_hand():
    assert "higher than 50\u00a0% of the pool" in sentences("loss", 1.5, name="loss")[1]
    assert "higher than 0\u00a0% of the pool" in sentences("loss", -1.0, name="loss")[1]
    assert "higher than 75\u00a0% of the pool" in sentences("loss", 9.0, name="loss")[1]


def test_nothing_is_leant_to_at_zero():
    assert sentences("dsir", 0.0, name="log_weight")[1].startswith("Undecided whether its words")
    assert sentences("dsir", -1.5, name="log_weight")[1].startswith("Its words are rarer in the")


def test_a_column_without_words_names_the_page_that_has_them():
    text = sentences("sqsd", 0.25, name="danger")[1]
    assert text == (
        "danger = 0.25, higher than 25\u00a0% of the pool; docs/methods/sqsd.md says what it is."
    )


def test_what_was_not_measured_is_told_as_that():
    assert sentences("seal", np.nan, name="gap")[1] == "gap: not measured for this sample."


def test_shares_are_of_what_was_measured():
    text = sentences("loss", 1.5, (np.nan, 1.0, 2.0), name="loss")[1]
    assert "higher than 33\u00a0% of the pool" in text


def test_only_numbers_are_columns():
    ranking = make_ranking(
        ("a", "b"),
        np.zeros(2),
        {"x": np.array([1, 2]), "ok": np.array([True, False]), "text": np.array(["u", "v"])},
    )
    assert {name: list(of) for name, of in numeric_columns(ranking).items()} == {
        "x": [1.0, 2.0],
        "ok": [1.0, 0.0],
    }


def test_a_class_that_is_not_known_words_nothing():
    ranking = make_ranking(("a", "b"), np.array([1.0, 0.0]), {"loss": np.array([0.5, 1.0])})
    score, column = Why("mine", None, ranking).sentences("a")
    assert score.endswith("Its score is 1: docs/methods/mine.md says what it is.")
    assert column.startswith("loss = 0.5, ")


def test_numbers_have_the_digits_that_matter():
    assert [shown(x) for x in (1234.0, -2.0, 0.123456, -0.5, float("inf"))] == [
        "1,234", "\u22122", "0.1235", "\u22120.5", "inf",
    ]  # fmt: skip
