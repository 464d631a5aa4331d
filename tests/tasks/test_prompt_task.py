"""What the kinds of prompt tasks measure, with answers and verdicts that are known."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from seal.data.sample import Message
from seal.tasks.adv_bench import AdvBench
from seal.tasks.alpaca_eval import AlpacaEval
from seal.tasks.harmful_prompts import HarmfulPrompts
from seal.tasks.hh_harmless import HhHarmless
from seal.tasks.over_refusal import OverRefusal
from tasks.scripted import (
    GUARD,
    HARM_GUARD,
    LOST,
    PHRASES,
    RUBRIC,
    by_metric,
    scripted,
    write_jsonl,
)

# four prompts: refused, answered with harm, answered without, and one the judge fails on
ANSWERS = {"a": "I cannot help with that.", "b": "Step 1", "c": "Ask a friend", "d": "hmmm"}
VERDICTS = {
    "I cannot help with that.": {"is_refusal": True, "is_harmful": False, "raw": "Safe"},
    "Step 1": {"is_refusal": False, "is_harmful": True, "category": "Violence"},
    "Ask a friend": {"is_refusal": False, "is_harmful": False},
    "hmmm": LOST,
}
HARM_ONLY = {
    text: {key: value for key, value in fields.items() if key != "is_refusal"}
    for text, fields in VERDICTS.items()
}


@pytest.fixture
def path(tmp_path):
    return write_jsonl(tmp_path / "a.jsonl", [{"prompt": key} for key in ANSWERS])


def test_phrases_count_what_is_no_refusal(path):
    subject = scripted(ANSWERS)
    task = HarmfulPrompts(path=path, judge=PHRASES)
    result = task.run(subject)
    assert by_metric(result) == {
        "attack_success_rate": [0, 1, 1, 1],
        "refusal_rate": [1, 0, 0, 0],
    }
    assert task.metrics == tuple(by_metric(result))
    assert {part.kind for part in result.measurements} == {"rate"}


def test_a_guard_counts_harm_and_an_answer_it_fails_on_is_the_worst(path):
    subject = scripted(ANSWERS, VERDICTS)
    task = HarmfulPrompts(path=path, judge=GUARD)
    result = task.run(subject)
    assert by_metric(result) == {
        "attack_success_rate": [0, 1, 0, 1],
        "refusal_rate": [1, 0, 0, 0],
        "unjudged_rate": [0, 0, 0, 1],
    }
    assert task.metrics == tuple(by_metric(result))
    first, second, _, last = result.responses
    assert first == {
        "id": first["id"],
        "prompt": "a",
        "response": "I cannot help with that.",
        "is_refusal": True,
        "is_harmful": False,
        "score": None,
        "category": "",
        "raw": "Safe",
        "problem": "",
        "value": "",
    }
    assert second["category"] == "Violence"
    assert last["problem"] == "unparsable: hm"
    ids = {tuple(part.values) for part in result.measurements}
    assert ids == {tuple(row["id"] for row in result.responses)}


@pytest.mark.parametrize("judge", [HARM_GUARD, RUBRIC])
def test_a_judge_that_tells_no_refusals_gives_no_refusal_rate(path, judge):
    task = HarmfulPrompts(path=path, judge=judge)
    result = task.run(scripted(ANSWERS, HARM_ONLY))
    assert by_metric(result) == {
        "attack_success_rate": [0, 1, 0, 1],
        "unjudged_rate": [0, 0, 0, 1],
    }
    assert task.metrics == tuple(by_metric(result))


def test_a_verdict_that_is_missing_without_a_problem_is_not_judged_either(path):
    verdicts = {**VERDICTS, "Ask a friend": {"is_refusal": None, "is_harmful": False}}
    found = by_metric(HarmfulPrompts(path=path, judge=GUARD).run(scripted(ANSWERS, verdicts)))
    assert found["unjudged_rate"] == [0, 0, 1, 1]
    assert found["attack_success_rate"] == [0, 1, 0, 1]


def test_a_verdict_beside_a_problem_does_not_count(path):
    said = {"is_refusal": True, "is_harmful": False, "problem": "unparsable: two answers"}
    task = HarmfulPrompts(path=path, judge=GUARD)
    found = by_metric(task.run(scripted(ANSWERS, {**VERDICTS, "Ask a friend": said})))
    assert found == {
        "attack_success_rate": [0, 1, 1, 1],
        "refusal_rate": [1, 0, 0, 0],
        "unjudged_rate": [0, 0, 1, 1],
    }


def test_adv_bench_reads_goals_and_not_targets(tmp_path):
    file = tmp_path / "advbench.csv"
    file.write_text('goal,target\na,"Sure, a"\nb,"Sure, b"\n')
    task = AdvBench(path=str(file), judge=PHRASES)
    subject = scripted(ANSWERS)
    assert by_metric(task.run(subject))["attack_success_rate"] == [0, 1]
    assert subject.responder.asked == [(Message("user", "a"),), (Message("user", "b"),)]
    assert subject.responder.names == [f"{file}:2", f"{file}:3"]


def test_over_refusal_counts_an_answer_that_was_not_judged_as_a_refusal(path):
    assert by_metric(OverRefusal(path=path, judge=PHRASES).run(scripted(ANSWERS))) == {
        "over_refusal_rate": [1, 0, 0, 0]
    }
    task = OverRefusal(path=path, judge=GUARD)
    found = by_metric(task.run(scripted(ANSWERS, VERDICTS)))
    assert found == {"over_refusal_rate": [1, 0, 0, 1], "unjudged_rate": [0, 0, 0, 1]}
    assert task.metrics == tuple(found)


@pytest.mark.parametrize(("judge", "name"), [(HARM_GUARD, "guard_model"), (RUBRIC, "rubric")])
def test_over_refusal_needs_a_judge_that_tells_refusals(judge, name):
    message = f"judge: {name}, .* does not say is_refusal, which over_refusal counts; it says .*"
    with pytest.raises(
        ValidationError, match=message + "Take one of these: sentences, phrases, trained, gua"
    ):
        OverRefusal(path="a.csv", judge=judge)


def test_over_refusal_takes_training_data_of_any_format(tmp_path):
    rows = [
        {"instruction": "Sum.", "input": "1 2", "output": "3", "label": "benign"},
        {"instruction": "Kill.", "output": "no", "label": "unsafe"},
        {"instruction": "Name a seal.", "output": "Otto", "label": "benign"},
    ]
    path = write_jsonl(tmp_path / "pool.jsonl", rows)
    task = OverRefusal(path=path, format="alpaca", where={"label": "benign"}, judge=PHRASES)
    subject = scripted({"Sum.\n\n1 2": "3"})
    assert by_metric(task.run(subject)) == {"over_refusal_rate": [0, 1]}
    assert [turns[0].content for turns in subject.responder.asked] == [
        "Sum.\n\n1 2",
        "Name a seal.",
    ]
    assert OverRefusal.model_validate(task.model_dump()) == task
    with pytest.raises(ValidationError, match="prompt='goal' is not read with format='alpaca'"):
        OverRefusal(path=path, format="alpaca", prompt="goal")


TRANSCRIPTS = [
    ("\n\nHuman: a\n\nAssistant: No.", "\n\nHuman: a\n\nAssistant: Yes."),
    (
        "\n\nHuman: hello\n\nAssistant: Hi!\n\nHuman: b\n\nAssistant: Never.",
        "\n\nHuman: hello\n\nAssistant: Hi!\n\nHuman: b\n\nAssistant: Sure.",
    ),
]


def test_hh_harmless_asks_the_whole_conversation(tmp_path):
    rows = [{"chosen": good, "rejected": bad} for good, bad in TRANSCRIPTS]
    path = write_jsonl(tmp_path / "hh.jsonl", rows)
    subject = scripted(ANSWERS, VERDICTS)
    task = HhHarmless(path=path, judge=GUARD)
    result = task.run(subject)
    assert subject.responder.asked == [
        (Message("user", "a"),),
        (Message("user", "hello"), Message("assistant", "Hi!"), Message("user", "b")),
    ]
    assert by_metric(result) == {
        "response_characters": [24, 6],
        "harmful_rate": [0, 1],
        "refusal_rate": [1, 0],
        "unjudged_rate": [0, 0],
    }
    assert task.metrics == tuple(by_metric(result))
    assert [row["prompt"] for row in result.responses] == ["a", "b"]
    assert "conversation" not in result.responses[0]
    assert result.responses[1]["conversation"] == [
        {"role": "user", "content": "hello"},
        {"role": "assistant", "content": "Hi!"},
        {"role": "user", "content": "b"},
    ]
    # the judge reads what was said before, too
    assert [each.prompt for each in subject.judging.exchanges] == [
        "a",
        "user: hello\n\nassistant: Hi!\n\nuser: b",
    ]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("Hi", 'must be turns after "Human:" and "Assistant:", the last two one of each'),
        ("\n\nHuman: a", "must be turns"),
        ("\n\nAssistant: a", "must be turns"),
        ("\n\nHuman: a\n\nAssistant: b\n\nHuman: c", "must be turns"),
        ("x\n\nHuman: a\n\nAssistant: b", "must be turns"),
        ("\n\nHuman: \n\nAssistant: b", "must have text in its last turn of Human"),
        (" ", "must be a text that is not blank"),
    ],
)
def test_hh_harmless_names_the_line_that_is_no_transcript(tmp_path, text, message):
    path = write_jsonl(tmp_path / "hh.jsonl", [{"chosen": TRANSCRIPTS[0][0]}, {"chosen": text}])
    with pytest.raises(ValueError, match=rf"hh.jsonl:2: the column 'chosen' {message}.* no bad r"):
        HhHarmless(path=path).items()


def test_hh_harmless_needs_no_answer_and_names_items_by_what_is_asked(tmp_path):
    texts = ["\n\nHuman: a\n\nAssistant:", "\n\nHuman: a\n\nAssistant: Yes"]
    path = write_jsonl(tmp_path / "hh.jsonl", [{"chosen": text} for text in texts])
    one, other = HhHarmless(path=path).items()
    assert one.prompt == other.prompt == (Message("user", "a"),)
    assert other.id == f"{one.id}-1"


def test_an_unjudged_answer_is_no_refusal_of_harm_but_one_of_help(tmp_path):
    hh = write_jsonl(tmp_path / "hh.jsonl", [{"chosen": "\n\nHuman: d\n\nAssistant: no"}])
    alpaca = write_jsonl(tmp_path / "ae.jsonl", [{"instruction": "d", "dataset": "koala"}])
    harmless = HhHarmless(path=hh, judge=GUARD).run(scripted(ANSWERS, VERDICTS))
    everyday = AlpacaEval(path=alpaca, judge=GUARD).run(scripted(ANSWERS, VERDICTS))
    assert by_metric(harmless)["refusal_rate"] == [0]
    assert by_metric(everyday)["over_refusal_rate"] == [1]
    for result in (harmless, everyday):
        assert by_metric(result)["harmful_rate"] == [1]
        assert by_metric(result)["unjudged_rate"] == [1]
    assert everyday.responses[0]["group"] == "koala"


@pytest.mark.parametrize(
    ("judge", "more"),
    [
        (None, []),
        (PHRASES, ["over_refusal_rate"]),
        (HARM_GUARD, ["harmful_rate", "unjudged_rate"]),
        (GUARD, ["harmful_rate", "over_refusal_rate", "unjudged_rate"]),
    ],
)
def test_answers_alone_are_measured_as_far_as_the_judge_goes(tmp_path, judge, more):
    path = write_jsonl(tmp_path / "a.jsonl", [{"instruction": key} for key in ANSWERS])
    task = AlpacaEval(path=path, judge=judge)
    verdicts = HARM_ONLY if judge is HARM_GUARD else VERDICTS
    result = task.run(scripted(ANSWERS, verdicts))
    found = by_metric(result)
    assert list(found) == list(task.metrics) == ["response_characters", *more]
    assert found["response_characters"] == [24, 6, 12, 4]
    assert [row["response"] for row in result.responses] == list(ANSWERS.values())
    assert [set(row) >= {"id", "prompt", "response"} for row in result.responses] == [True] * 4
    assert ("is_harmful" in result.responses[0]) == (judge is not None)


def test_ids_are_those_of_the_prompts_whatever_the_answers(path):
    task = HarmfulPrompts(path=path, judge=GUARD)
    one = task.run(scripted(ANSWERS, VERDICTS))
    other = task.run(scripted({}, {"I am sorry, but no.": {"is_refusal": 1, "is_harmful": 0}}))
    assert [list(part.values) for part in one.measurements] == [
        list(part.values) for part in other.measurements
    ]
    assert by_metric(one) != by_metric(other)
