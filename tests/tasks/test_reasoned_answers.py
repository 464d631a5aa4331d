"""What a model thinks before it answers is neither judged nor measured, and no answer is none."""

from __future__ import annotations

import pytest

from seal.artifacts.evaluation import TaskResult, count_answers, save_task_result
from seal.artifacts.responses import CUT, Answer
from seal.data.reasoning import Marks, Reasoning
from seal.generation import Decoding
from seal.judges.judging import Judging
from seal.judges.refusal import RefusalPhrases
from seal.responders import Responder
from seal.stages.evaluate import EvaluateSettings, evaluate, load_answer_counts
from seal.stages.pairwise import PairwiseSettings, _duels
from seal.stages.report_page.answer_counts import answer_notes
from seal.tasks.alpaca_eval import AlpacaEval
from seal.tasks.gsm8k import Gsm8k
from seal.tasks.harmful_prompts import HarmfulPrompts
from seal.tasks.harness import think_end
from seal.tasks.over_refusal import OverRefusal
from seal.tasks.strong_reject import StrongReject
from seal.tasks.task import Subject
from seal.tasks.xstest import XsTest
from tasks.scripted import GUARD, RUBRIC, Script, by_metric, scripted, write_jsonl
from tiny_model import make_tokenizer

NO = "I cannot help with that."
# thinks of refusing and helps; thinks of helping and refuses; never ends; does not think
ANSWERS = {
    "a": f"<think>{NO}</think>Step 1",
    "b": f"<think>Step 1</think>\n\n{NO}",
    "c": f"<think>{NO} {NO}",
    "d": NO,
}


@pytest.fixture
def path(tmp_path):
    return write_jsonl(tmp_path / "a.jsonl", [{"prompt": key} for key in ANSWERS])


def test_phrases_judge_the_answer_and_no_answer_is_neither_refusal_nor_attack(path):
    result = HarmfulPrompts(path=path, judge=RefusalPhrases()).run(scripted(ANSWERS))
    assert by_metric(result) == {
        "attack_success_rate": [1, 0, 0, 0],
        "refusal_rate": [0, 1, 0, 1],
    }
    assert [row["response"] for row in result.responses] == list(ANSWERS.values())
    assert [row.get("answer") for row in result.responses] == ["Step 1", NO, "", None]
    assert [bool(row.get("no_answer")) for row in result.responses] == [False, False, True, False]
    assert count_answers(result.responses) == {
        "num": 4, "num_unclosed": 1, "num_reasoned": 2, "num_empty": 0, "num_cut": 0,
    }  # fmt: skip


def test_harmless_prompts_count_no_answer_as_no_refusal(path):
    result = OverRefusal(path=path, judge=RefusalPhrases()).run(scripted(ANSWERS))
    assert by_metric(result) == {"over_refusal_rate": [0, 1, 0, 1]}


def test_judges_are_shown_answers_alone(path):
    said = {"Step 1": {"is_refusal": False, "is_harmful": True}, NO: {"is_refusal": True}}
    subject = scripted(ANSWERS, said)
    result = HarmfulPrompts(path=path, judge=GUARD).run(subject)
    assert [each.response for each in subject.judging.exchanges] == ["Step 1", NO, NO]
    assert by_metric(result)["unjudged_rate"] == [0, 1, 0, 1]  # NO has no verdict on harm
    assert by_metric(result)["attack_success_rate"] == [1, 1, 0, 1]
    scores = {"Step 1": {"score": 5.0}, NO: {"score": 1.0}}
    result = StrongReject(path=path, prompt="prompt", judge=RUBRIC).run(scripted(ANSWERS, scores))
    assert by_metric(result)["unjudged_rate"] == [0, 0, 0, 0]


def test_both_halves_of_xstest(tmp_path):
    rows = [{"prompt": key, "label": "unsafe" if key == "d" else "safe"} for key in ANSWERS]
    result = XsTest(path=write_jsonl(tmp_path / "x.jsonl", rows), judge=RefusalPhrases()).run(
        scripted(ANSWERS)
    )
    assert by_metric(result) == {"over_refusal_rate": [0, 1, 0], "refusal_rate": [1]}


def test_lengths_and_numbers_are_the_answers(path, tmp_path):
    lengths = by_metric(AlpacaEval(path=path, prompt="prompt").run(scripted(ANSWERS)))
    assert lengths["response_characters"] == [len("Step 1"), len(NO), 0, len(NO)]
    rows = [{"question": key, "answer": "#### 7"} for key in "pqr"]
    said = {"p": "<think>3?</think>#### 7", "q": "<think>#### 7</think>5", "r": "<think>#### 7"}
    task = Gsm8k(path=write_jsonl(tmp_path / "g.jsonl", rows), instruction=" ")
    result = task.run(scripted(said))
    assert by_metric(result) == {"accuracy": [1, 0, 0]}


class Noted(Script):
    """A script whose answers come with what a server says of them."""

    def answer_each(self, prompts, names=None):
        del names
        return [self.answers[prompt[-1].content] for prompt in prompts]


def test_what_a_server_took_apart_is_not_searched_for_marks(path):
    said = {
        "a": Answer("Use </think> to end.", "", "hm"),
        "b": Answer("", CUT, "still at it"),
        "c": Answer(NO, CUT),
        "d": Answer(" Sure. ", "", ""),
    }
    subject = Subject(None, Decoding(), Noted(said), Judging())
    result = HarmfulPrompts(path=path, judge=RefusalPhrases()).run(subject)
    assert [row.get("answer") for row in result.responses] == [
        "Use </think> to end.", "", None, "Sure.",
    ]  # fmt: skip
    assert by_metric(result)["attack_success_rate"] == [1, 0, 0, 1]
    counts = count_answers(result.responses)
    assert (counts["num_unclosed"], counts["num_cut"]) == (1, 2)


def test_win_rates_compare_answers(path, tmp_path):
    sides = []
    for name, more in (("ours", {}), ("theirs", {"a": "Step 1"})):
        result = AlpacaEval(path=path, prompt="prompt").run(scripted({**ANSWERS, **more}))
        folder = tmp_path / name / "alpaca_eval"
        folder.mkdir(parents=True)
        save_task_result(TaskResult(result.measurements, result.responses), folder)
        sides.append(folder.parent)
    judge = {"base_url": "http://127.0.0.1:9/v1", "model": "judge"}
    settings = PairwiseSettings.model_validate({"task": "alpaca_eval", "judge": judge})
    duels = _duels(*sides, settings)
    assert [(duel.ours, duel.theirs) for duel in duels] == [
        ("Step 1", "Step 1"), (NO, NO), ("", ""), (NO, NO),
    ]  # fmt: skip


def test_an_evaluation_warns_and_the_report_has_a_sentence_for_each_arm(path, tmp_path, caplog):
    settings = EvaluateSettings.model_validate(
        {
            "tasks": [{"task": "harmful_prompts", "path": path, "judge": {"judge": "phrases"}}],
            "decoding": {"max_new_tokens": 9},
        }
    )
    evaluate(scripted(ANSWERS), settings, tmp_path)
    assert "harmful_prompts: 1 of 4 answers ended while the model was still reasoning" in (
        caplog.text
    )
    assert "Raise max_new_tokens=9" in caplog.text
    counts = load_answer_counts(tmp_path, settings.tasks)
    assert counts["harmful_prompts"]["num_unclosed"] == 1
    [note] = answer_notes({"base": {}, "all": counts, "best": counts})
    assert note.startswith(
        "harmful_prompts, answers that ended while the model was still reasoning"
    )
    assert "all 1 of 4, best 1 of 4" in note
    (tmp_path / "harmful_prompts" / "responses.jsonl").write_text("[1]\n")
    with pytest.raises(ValueError, match=r"not the responses of a task .* Evaluate the mod"):
        load_answer_counts(tmp_path, settings.tasks)


def test_lm_eval_is_told_the_token_behind_which_the_answer_begins():
    tokenizer = make_tokenizer()
    marks = (Marks("<think>", "</think>"),)
    assert think_end(Reasoning(), tokenizer) is None
    assert think_end(Reasoning(marks), tokenizer) == "</think>"
    tokenizer.add_tokens(["<think>", "</think>"])
    assert think_end(Reasoning(marks), tokenizer) == tokenizer.convert_tokens_to_ids("</think>")


def test_responders_that_only_say_texts_are_understood():
    class Plain(Responder):
        def respond(self, prompts, names=None):
            del names
            return ["x"] * len(prompts)

    assert Plain().answer_each([(), ()]) == [Answer("x"), Answer("x")]
