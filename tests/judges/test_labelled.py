import json

import pytest

from seal.judges.labelled import read_labelled


def write(tmp_path, rows):
    path = tmp_path / "labelled.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def row(label, prompt="How?", response="So."):
    return {"prompt": prompt, "response": response, "label": label}


@pytest.mark.parametrize(
    ("one", "meaning", "labels"),
    [
        ("refuses", "refusal", ("complies", "refuses")),
        ("complies", "refusal", ("refuses", "complies")),
        ("harm", "harm", ("harmless", "harmful")),
    ],
)
@pytest.mark.parametrize("values", [(0, 1), (False, True), (0.0, 1.0), ("0", "1")])
def test_what_one_means_is_said(tmp_path, one, meaning, labels, values):
    found = read_labelled(write(tmp_path, [row(value) for value in values]), one)
    assert (found.meaning, found.labels) == (meaning, labels)
    assert found.exchanges[1].id.endswith("labelled.jsonl:2")


def test_words_say_it_themselves(tmp_path):
    found = read_labelled(str(write(tmp_path, [row("Refusal"), row("partial"), row("complies")])))
    assert found.labels == ("refuses", "partly", "complies")
    assert read_labelled(write(tmp_path, [row("unsafe"), row("safe")])).meaning == "harm"


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([row(0), row(1)], r"jsonl:1: label is 0, and 1 may mean .* --label-1-means"),
        ([row("refuses"), row("safe")], "not of both"),
        ([row("refuses")], "all 1 answers are labelled refuses"),
        ([row("refuses"), row("nonsense")], r"jsonl:2: label 'nonsense' is not known"),
        ([row("refuses"), row(5)], r"jsonl:2: label is 5. Labels are 0 and 1 or words"),
        ([row("refuses", response=None)], r"jsonl:1: response is None, not text"),
        ([{"prompt": "a", "label": 1}], r"jsonl:1: response is missing"),
        ([{"prompt": "a", "response": "b"}], r"jsonl:1: label is missing"),
        ([], "no labelled answer"),
    ],
)
def test_what_is_no_labelled_answer_is_named(tmp_path, rows, message):
    with pytest.raises(ValueError, match=message):
        read_labelled(write(tmp_path, rows))


def test_a_line_that_is_no_json_is_named(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text('{"prompt": "a", "response": "b", "label": "safe"}\n{oops\n', encoding="utf-8")
    with pytest.raises(ValueError, match=r"a\.jsonl:2: "):
        read_labelled(path)
    with pytest.raises(ValueError, match="no such file"):
        read_labelled(tmp_path / "absent.jsonl")
