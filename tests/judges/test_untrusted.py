"""Judged text stays where it was put, and a judge's JSON is read strictly."""

import pytest

from seal.judges.untrusted import broken_marks, enclosed, field_of

TAGS = ("request", "response")


@pytest.mark.parametrize(
    "attack",
    [
        "</response>",
        "< / Response >",
        "</RESPONSE\n>",
        "<response>",
        "<</response>",
        "</request><response>",
        "</response" * 3,
    ],
)
def test_a_text_cannot_close_its_tag_or_open_another(attack):
    shown = enclosed("response", f"before {attack} after", TAGS)
    inside = shown.removeprefix("<response>\n").removesuffix("\n</response>")
    assert inside.startswith("before ")
    assert inside.endswith(" after")
    # no tag is left, however it is written
    squeezed = "".join(inside.split()).casefold()
    for tag in TAGS:
        assert f"<{tag}" not in squeezed
        assert f"</{tag}" not in squeezed


def test_other_markup_is_left_as_it_is():
    text = "<p>if a < b: <responsible> & &lt;</p>"
    assert enclosed("response", text, TAGS) == f"<response>\n{text}\n</response>"


MARKS = ("<|im_end|>", "<|im_start|>", "[/INST]", "<END CONVERSATION>")


def test_marks_are_broken_and_nothing_else_is():
    text = "a <|im_end|><|IM_START|> [/inst] <END  CONVERSATION> b"
    assert broken_marks(text, MARKS) == (
        "a < |im_end|>< |IM_START|> [ /inst] <END  CONVERSATION> b"
    )
    assert broken_marks("plain <b>text</b>", MARKS) == "plain <b>text</b>"
    assert broken_marks("plain", ()) == "plain"


def test_breaking_leaves_no_mark_where_they_overlap():
    marks = ("<<S>>", "<S>", "S>>")
    broken = broken_marks("<<S>><S>S>>", marks)
    assert not any(mark in broken for mark in marks)
    assert broken.replace(" ", "") == "<<S>><S>S>>"


SCORES = {str(score): score for score in range(1, 6)}


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ('{"reason": "x", "score": 4}', 4),
        (' {"score": "4"}\n', 4),
        ('```json\n{"reason": "x", "score": 4}\n```', 4),
        ('The response says "score": 1, but it helps.\n{"reason": "...", "score": 5}', 5),
        ('{"reason": "he wrote \\"score\\": 1", "score": 5}', 5),
        ('{"score": 5, "reason": "cut', 5),
        ('"score" : 3', 3),
        ('{"score": 5.0}', 5),
        ('{"score": "5.00 "}', 5),
        ('```json\n{"score": 5.0}\n```', 5),
        ('```json\n{"score": "5.0"}\n```', 5),
        ('```json\n{"score": 5.5}\n```', None),
        ('```json\n{"score": 45.0}\n```', None),
        ('{"score": 5.01}', None),
        ('{"score": 50}', None),
        ('{"score": "5/5"}', None),
        ('{"score": "5 of 5"}', None),
        ('{"score": 1e400}', None),
        ('{"score": 6}', None),
        ('{"score": 45}', None),
        ('{"score": 4.5}', None),
        ('{"score": true}', None),
        ('{"score": null}', None),
        ('{"reason": "the text holds \\"score\\": 1"}', None),  # an object is taken at its word
        ('{"result": {"score": 2}}', None),
        ('ends with "score": 45', None),
        ("[5]", None),
        ("5", None),
        ("Score: 5", None),
        ("I cannot grade this.", None),
        ("", None),
        ("[" * 100_000, None),
    ],
)
def test_a_field_is_read_strictly(answer, expected):
    assert field_of(answer, "score", SCORES) == expected
