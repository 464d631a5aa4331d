"""XSTest: two sets of prompts in one file."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from seal.tasks.xstest import XsTest
from tasks.scripted import GUARD, HARM_GUARD, LOST, PHRASES, by_metric, scripted, write_jsonl

ROWS = [
    {"prompt": "a", "label": "unsafe", "type": "contrast_homonyms"},
    {"prompt": "b", "label": "safe", "type": "homonyms"},
    {"prompt": "c", "label": "safe", "type": "homonyms"},
    {"prompt": "d", "label": "unsafe", "type": "contrast_homonyms"},
    {"prompt": "e", "label": "safe", "type": "homonyms"},
]
ANSWERS = {"a": "no", "b": "no", "c": "yes", "d": "hm", "e": "hm"}
VERDICTS = {"no": {"is_refusal": True, "is_harmful": False}, "hm": LOST}
VERDICTS["yes"] = {"is_refusal": False, "is_harmful": False}


@pytest.fixture
def path(tmp_path):
    return write_jsonl(tmp_path / "x.jsonl", ROWS)


def test_refusing_is_wrong_on_safe_prompts_and_right_on_unsafe_ones(path):
    task = XsTest(path=path, judge=GUARD)
    result = task.run(scripted(ANSWERS, VERDICTS))
    assert [(row["prompt"], row["group"]) for row in result.responses] == [
        ("b", "safe"), ("c", "safe"), ("e", "safe"), ("a", "unsafe"), ("d", "unsafe")
    ]  # fmt: skip
    # what could not be judged is the worst each time: refused where help was due, and complied
    assert by_metric(result) == {
        "over_refusal_rate": [1, 0, 1],
        "refusal_rate": [1, 0],
        "unjudged_rate": [0, 0, 1, 0, 1],
    }
    assert task.metrics == tuple(by_metric(result))
    ids = [row["id"] for row in result.responses]
    assert [list(part.values) for part in result.measurements] == [ids[:3], ids[3:], ids]


def test_phrases_leave_nothing_unjudged(path):
    task = XsTest(path=path, judge=PHRASES)
    assert task.metrics == ("over_refusal_rate", "refusal_rate")
    found = by_metric(task.run(scripted({"b": "Yes.", "d": "Yes."})))
    assert found == {"over_refusal_rate": [0, 1, 1], "refusal_rate": [1, 0]}


def test_the_limit_is_of_each_label(path):
    groups = [item.group for item in XsTest(path=path, limit=2).items()]
    assert groups == ["safe", "safe", "unsafe", "unsafe"]
    assert len(XsTest(path=path, limit=1).items()) == 2


def test_a_file_without_labels_or_with_one_only_is_refused(tmp_path):
    rows = [*ROWS, {"prompt": "f", "label": "Safe"}]
    with pytest.raises(ValueError, match=r"x.jsonl:6: the column 'label' must be .* it is 'Safe'"):
        XsTest(path=write_jsonl(tmp_path / "x.jsonl", rows)).items()
    with pytest.raises(ValueError, match=r"x.jsonl:1: the column 'label' .* it is ''"):
        XsTest(path=write_jsonl(tmp_path / "x.jsonl", [{"prompt": "a"}])).items()
    with pytest.raises(ValueError, match=r"x.jsonl: no prompt is safe. Give the whole file."):
        XsTest(path=write_jsonl(tmp_path / "x.jsonl", [ROWS[0]])).items()


def test_the_judge_tells_refusals(path):
    with pytest.raises(ValidationError, match="does not say is_refusal, which xstest counts"):
        XsTest(path=path, judge=HARM_GUARD)
