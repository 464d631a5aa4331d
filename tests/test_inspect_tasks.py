"""seal's tasks on inspect_ai: the same items, the same values item by item; offline."""

from __future__ import annotations

import inspect
import math
import threading
from typing import get_args

import pytest

pytest.importorskip("inspect_ai", reason="inspect-ai is not installed")

import anyio
from inspect_ai import eval as inspect_eval
from inspect_ai import score as inspect_score
from inspect_ai.log import read_eval_log
from inspect_ai.model import ModelOutput, ModelUsage, get_model

from judges.fake_endpoint import endpoint as server  # noqa: F401 (a fixture)
from judges.fake_endpoint import says
from seal import inspect_tasks
from seal.tasks.prompt_task import AnswersTask, PromptTask
from seal.tasks.slim_orca import SlimOrca
from seal.tasks.union import AnyTask
from tasks.scripted import LOST, ScriptedJudging, scripted, write_jsonl

# inspect_ai's own warnings are not ours to fix
pytestmark = pytest.mark.filterwarnings("ignore")

KINDS = {kind.model_fields["task"].default: kind for kind in get_args(get_args(AnyTask)[0])}
PROMPT_KINDS = {name: kind for name, kind in KINDS.items() if issubclass(kind, PromptTask)}

# asked last -> answered; everything else is answered "hm", which the judge fails on
ANSWERS = {
    "a": "I cannot help with that.",
    "b": "Step 1",
    "c": "Ask a friend. #### 1,200",
    "the place\n\n---\n\nb": "Step 1",
}
HM = "hm"
VERDICTS = {
    ANSWERS["a"]: {"is_refusal": True, "is_harmful": False, "score": 1, "raw": "Safe\nNo"},
    ANSWERS["b"]: {"is_refusal": False, "is_harmful": True, "score": 4, "category": "Violence"},
    ANSWERS["c"]: {"is_refusal": False, "is_harmful": False, "score": 5},
    HM: {**LOST, "raw": "hm?"},
}
GUARD = {"judge": "guard_model"}
RUBRIC = {"judge": "rubric", "base_url": "http://127.0.0.1:9/v1", "model": "judge"}
PROMPTS = [{"prompt": key, "kind": "x", "label": "safe"} for key in "abcd"]
LABELLED = [*PROMPTS, *({**row, "label": "unsafe", "n": 1} for row in PROMPTS)]
BEHAVIOURS = [
    {"Behavior": "a", "ContextString": "", "FunctionalCategory": "standard"},
    {"Behavior": "b", "ContextString": "the place", "FunctionalCategory": "contextual"},
    {"Behavior": "d", "ContextString": "", "FunctionalCategory": "standard"},
]
TALKS = [f"\n\nHuman: hi\n\nAssistant: hello\n\nHuman: {key}\n\nAssistant: no" for key in "abcd"]
SHARED = [
    {
        "conversations": [
            {"from": "system", "value": "Be brief."},
            {"from": "human", "value": key},
            {"from": "gpt", "value": "the reference"},
        ]
    }
    for key in "abd"
]
SUMS = [
    {"question": key, "answer": f"#### {n}"} for key, n in zip("abc", (7, 2, 1200), strict=True)
]
PLAIN = {"instruction": ""}
CASES = {
    "harmful_prompts": (PROMPTS, {"where": {"kind": "x"}}),
    "harmful_prompts guard": (PROMPTS, {"judge": GUARD, "limit": 3}),
    "over_refusal": (PROMPTS, {"prompt": "prompt"}),
    "over_refusal guard": ([{"messages": [{"role": "user", "content": key},
                                          {"role": "assistant", "content": "yes"}]}
                            for key in "abd"], {"format": "messages", "judge": GUARD}),
    "adv_bench": ([{"goal": key} for key in "abcd"], {"judge": GUARD}),
    "harm_bench": (BEHAVIOURS, {"judge": GUARD}),
    "strong_reject": ([{"forbidden_prompt": key, "category": key} for key in "abcd"],
                      {"judge": RUBRIC}),
    "hex_phi": (PROMPTS, {"judge": RUBRIC, "category": "kind"}),
    "hex_phi guard": (PROMPTS, {"judge": GUARD}),
    "xstest": (LABELLED, {}),
    "xstest guard": (LABELLED, {"judge": GUARD, "limit": 3}),
    "hh_harmless": ([{"chosen": talk} for talk in TALKS], {"judge": GUARD}),
    "slim_orca": (SHARED, {"judge": GUARD}),
    "alpaca_eval": ([{"instruction": key, "dataset": "x"} for key in "abd"], {}),
    "alpaca_eval guard": ([{"instruction": key} for key in "abd"], {"judge": GUARD}),
    "gsm8k": (SUMS, {"instruction": " "}),
}  # fmt: skip


class Model:
    """inspect_ai's mock model with our script; it keeps what it was asked."""

    def __init__(self, answers=ANSWERS):
        self.answers, self.asked = answers, []

    def __call__(self, turns, *_):
        self.asked.append(tuple((turn.role, turn.text) for turn in turns))
        said = self.answers.get(turns[-1].text, HM)
        made = ModelOutput.from_content("mockllm", said if isinstance(said, str) else said.pop())
        # given, because it would be counted with a vocabulary from the network
        made.usage = ModelUsage()
        return made


@pytest.fixture
def run(tmp_path, monkeypatch):
    """Runs a task of inspect_ai by its name, as the command line does."""

    def made(name, settings, *, answers=ANSWERS, verdicts=VERDICTS, **more):
        script = Model(answers)
        script.judging = ScriptedJudging(verdicts)
        monkeypatch.setattr(inspect_tasks, "Judging", lambda: script.judging)
        model = get_model("mockllm/model", custom_outputs=script, memoize=False)
        folder = str(tmp_path / "logs")
        logs = inspect_eval(
            f"seal/{name}", model, task_args=settings, log_dir=folder, display="none", **more
        )
        return read_eval_log(logs[0].location), script

    return made


def judged(subject):
    """What the judge was shown, in any order."""
    shown = subject.judging.exchanges
    return sorted((each.prompt, each.response, each.behaviour) for each in shown)


@pytest.mark.parametrize("case", CASES)
def test_every_item_has_the_value_that_our_own_run_gives_it(run, tmp_path, case):
    rows, settings = CASES[case]
    name = case.split()[0]
    settings = {"path": write_jsonl(tmp_path / "x.jsonl", rows), **settings}
    task = PROMPT_KINDS[name](**settings)
    subject = scripted(ANSWERS, VERDICTS)
    subject.responder.other = HM
    # the likelihood of SlimOrca's references needs the model itself
    ours = AnswersTask.run(task, subject) if name == "slim_orca" else task.run(subject)

    log, model = run(name, settings)

    assert log.status == "success", log.error
    assert len(log.samples) == len(ours.responses) > 1
    asked = [
        tuple((turn.role, turn.content) for turn in turns) for turns in subject.responder.asked
    ]
    assert sorted(model.asked) == sorted(asked)
    assert judged(model) == judged(subject)
    values = {sample.id: sample.scores["measured"].value for sample in log.samples}
    theirs = {
        metric: {
            key: found[metric] for key, found in values.items() if found[metric] == found[metric]
        }
        for metric in next(iter(values.values()))
    }
    assert theirs == {part.metric: part.values for part in ours.measurements}
    means = {each.name: each.metrics["mean"].value for each in log.results.scores}
    assert means == pytest.approx(
        {part.metric: sum(part.values.values()) / len(part.values) for part in ours.measurements}
    )
    assert {"mean", "stderr"} == {key for each in log.results.scores for key in each.metrics}
    said = {sample.id: sample.scores["measured"] for sample in log.samples}
    assert {key: each.answer for key, each in said.items()} == {
        row["id"]: row["response"] for row in ours.responses
    }
    assert {key: each.explanation or "" for key, each in said.items()} == {
        row["id"]: row.get("raw", "") for row in ours.responses
    }


def test_there_is_a_task_for_every_set_of_prompts_with_all_its_settings():
    left_out = {"task", "name"}
    for name, kind in PROMPT_KINDS.items():
        given = set(inspect.signature(getattr(inspect_tasks, name)).parameters)
        # SlimOrca's longest reference matters to its likelihood alone
        without = left_out | ({"max_length"} if kind is SlimOrca else set())
        assert given == set(kind.model_fields) - without, name
    assert {case.split()[0] for case in CASES} == set(PROMPT_KINDS)


def test_what_could_not_be_judged_is_the_worst_and_says_so(run, tmp_path):
    path = write_jsonl(tmp_path / "x.jsonl", PROMPTS)
    log, _ = run("harmful_prompts", {"path": path, "judge": GUARD})
    by_prompt = {sample.input[0].text: sample.scores["measured"] for sample in log.samples}
    lost = by_prompt["d"]
    assert lost.value == {"attack_success_rate": 1, "refusal_rate": 0, "unjudged_rate": 1}
    assert lost.explanation == "hm?"
    assert lost.metadata["problem"] == "unparsable: hm"
    assert "counts as the worst" in lost.metadata["note"]
    assert by_prompt["a"].metadata == {"is_refusal": True, "is_harmful": False, "score": 1}
    assert by_prompt["b"].metadata["category"] == "Violence"


def test_a_metric_that_does_not_count_an_item_leaves_it_out(run, tmp_path):
    path = write_jsonl(tmp_path / "x.jsonl", LABELLED[:5])
    log, _ = run("xstest", {"path": path, "judge": {"judge": "phrases"}})
    counted = {each.name: each.scored_samples for each in log.results.scores}
    assert counted == {"over_refusal_rate": 4, "refusal_rate": 1}
    (unsafe,) = (each for each in log.samples if each.metadata["group"] == "unsafe")
    assert math.isnan(unsafe.scores["measured"].value["over_refusal_rate"])


def test_gsm8k_shows_both_numbers(run, tmp_path):
    log, _ = run("gsm8k", {"path": write_jsonl(tmp_path / "x.jsonl", SUMS), "instruction": " "})
    seen = {sample.input[0].text: sample.scores["measured"].metadata for sample in log.samples}
    assert seen["c"] == {"wanted": "1200", "got": "1200"}
    assert seen["a"] == {"wanted": "7"}  # the answer has no number


def test_several_answers_to_one_item_are_scored_each_by_itself(run, tmp_path):
    path = write_jsonl(tmp_path / "x.jsonl", [{"prompt": "a"}])
    answers = {"a": [ANSWERS["a"], ANSWERS["b"], ANSWERS["b"]]}
    log, _ = run("harmful_prompts", {"path": path, "judge": GUARD}, answers=answers, epochs=3)
    found = [sample.scores["measured"] for sample in log.samples]
    assert sorted(each.value["attack_success_rate"] for each in found) == [0, 1, 1]
    assert {each.answer: each.value["refusal_rate"] for each in found} == {
        ANSWERS["a"]: 1, ANSWERS["b"]: 0
    }  # fmt: skip


def test_a_judge_may_be_given_by_its_name(run, tmp_path):
    path = write_jsonl(tmp_path / "x.jsonl", PROMPTS)
    log, _ = run("harmful_prompts", {"path": path, "judge": "guard_model"})
    assert "unjudged_rate" in log.samples[0].scores["measured"].value
    log, _ = run("harmful_prompts", {"path": path, "judge": "refusal_phrases"})
    assert "unjudged_rate" not in log.samples[0].scores["measured"].value


class NoJudging:
    def __init__(self, _):
        pass

    def judge(self, *_):
        raise ValueError("the guard model cannot be had: out of order")


def test_a_judge_that_cannot_be_had_ends_the_evaluation_with_its_message(
    run, tmp_path, monkeypatch
):
    path = write_jsonl(tmp_path / "x.jsonl", PROMPTS)
    monkeypatch.setattr(f"{__name__}.ScriptedJudging", NoJudging)
    log, _ = run("harmful_prompts", {"path": path, "judge": GUARD})
    assert log.status == "error"
    assert "the guard model cannot be had: out of order" in log.error.message


def test_a_log_can_be_scored_again(run, tmp_path):
    path = write_jsonl(tmp_path / "x.jsonl", PROMPTS)
    log, _ = run("harmful_prompts", {"path": path, "judge": GUARD})
    other = {"task": "harmful_prompts", "path": path, "judge": {"judge": "phrases"}}
    again = inspect_score(log, inspect_tasks.measured(other), action="overwrite", display="none")
    found = {each.input[0].text: each.scores["measured"].value for each in again.samples}
    assert {key: each["attack_success_rate"] for key, each in found.items()} == {
        "a": 0, "b": 1, "c": 1, "d": 1
    }  # fmt: skip
    assert all(set(each) == {"attack_success_rate", "refusal_rate"} for each in found.values())

    write_jsonl(tmp_path / "x.jsonl", PROMPTS[:3])
    with pytest.raises(ValueError, match=r"x.jsonl: there is no item \w+; the file is not the one"):
        inspect_score(log, inspect_tasks.measured(other), action="overwrite", display="none")


def test_the_rubric_judges_over_its_own_connection(tmp_path, server):  # noqa: F811
    server.answer = lambda *_: says('{"reason": "", "score": 4}')
    path = write_jsonl(tmp_path / "x.jsonl", [{"forbidden_prompt": key} for key in "abcd"])
    judge = {"judge": "rubric", "base_url": server.url, "model": "judge", "canaries": False}
    task = inspect_tasks.strong_reject(path=path, judge=judge)
    model = get_model("mockllm/model", custom_outputs=Model(), memoize=False)
    (log,) = inspect_eval(task, model, log_dir=str(tmp_path / "logs"), display="none")
    assert log.status == "success", log.error
    assert [each.scores["measured"].value["harmfulness"] for each in log.samples] == [0.75] * 4


def test_answers_that_wait_are_judged_together(tmp_path, monkeypatch):
    path = write_jsonl(tmp_path / "x.jsonl", [{"prompt": str(number)} for number in range(8)])
    judging, batches, threads = ScriptedJudging(VERDICTS), [], set()

    class Counting:
        def judge(self, judge, exchanges):
            batches.append(len(exchanges))
            threads.add(threading.get_ident())
            return judging.judge(judge, exchanges)

    monkeypatch.setattr(inspect_tasks, "Judging", Counting)
    scoring = inspect_tasks._Scoring(KINDS["harmful_prompts"](path=path, judge=GUARD))
    found = {}

    async def one(item):
        found[item] = await scoring.score(item, HM)

    async def everything():
        async with anyio.create_task_group() as group:
            for item in scoring._items:
                group.start_soon(one, item)

    anyio.run(everything)
    assert sum(batches) == len(found) == 8
    assert len(batches) <= 2
    assert threading.get_ident() not in threads  # inspect_ai's own requests go on
    assert len({id(each) for each in found.values()}) == 8


def test_bad_settings_are_refused_in_one_message(tmp_path):
    path = write_jsonl(tmp_path / "x.jsonl", PROMPTS)
    with pytest.raises(ValueError, match=r"^harmful_prompts: judge: Input tag 'nope' .*'guard_mod"):
        inspect_tasks.harmful_prompts(path=path, judge="nope")
    with pytest.raises(ValueError, match=r"^xstest: limit: Input should be greater than or equal"):
        inspect_tasks.xstest(path=path, limit=0)
    with pytest.raises(ValueError, match=r"x.jsonl:1: there is no column 'goal'"):
        inspect_tasks.adv_bench(path=path)
    with pytest.raises(ValueError, match="heldout_nll reads a model's likelihoods"):
        inspect_tasks.measured({"task": "heldout_nll", "data": {"path": path}})


def test_one_category_needs_no_list(tmp_path):
    path = write_jsonl(tmp_path / "x.jsonl", BEHAVIOURS)
    task = inspect_tasks.harm_bench(path=path, functional_category="contextual")
    assert [sample.input[0].text for sample in task.dataset] == ["the place\n\n---\n\nb"]
