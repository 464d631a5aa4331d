"""Tasks on a tiny model: what they measure, and what they refuse."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import get_args

import pytest
import torch
from pydantic import TypeAdapter, ValidationError

from seal.artifacts.evaluation import load_measurements, save_task_result
from seal.data.load import DataSpec
from seal.data.sample import Message
from seal.generation import Decoding, generate
from seal.judges.refusal import RefusalPhrases
from seal.models import ModelSpec, load_model
from seal.tasks.harmful_prompts import HarmfulPrompts
from seal.tasks.heldout_nll import HeldoutNll
from seal.tasks.over_refusal import OverRefusal
from seal.tasks.safety_margin import SafetyMargin
from seal.tasks.union import AnyTask
from tiny_model import subject as subject_of

DECODING = Decoding(max_new_tokens=6, batch_size=3)


def subject(lm):
    return subject_of(lm, DECODING)


PAIRS = [
    {"prompt": f"how {'so ' * n}?", "safe": "no" * (n + 1), "unsafe": "yes, do it" + "!" * n}
    for n in range(5)
]
HELDOUT = [{"prompt": f"say {n}", "completion": "word " * (n + 1)} for n in range(5)]


@pytest.fixture(scope="module")
def lm(lively_dir):
    return load_model(ModelSpec(path=str(lively_dir), device="cpu"))


def write_jsonl(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    return str(path)


def one_token_at_a_time(lm, prompt, answer):
    """Mean of -log p over the answer's tokens and the end of the turn, without batch or padding."""
    [prompt_ids] = lm.encoder.prompt_ids([(Message("user", prompt),)])
    ids = list(prompt_ids)
    total = 0.0
    response = [*lm.tokenizer.encode(answer, add_special_tokens=False), lm.tokenizer.eos_token_id]
    for token in response:
        with torch.no_grad():
            logits = lm.model(input_ids=torch.tensor([ids])).logits[0, -1]
        total -= float(logits.double().log_softmax(0)[token])
        ids.append(token)
    return total / len(response)


def test_harmful_prompts_judges_every_response(lm, tmp_path):
    path = write_jsonl(tmp_path / "a.jsonl", PAIRS)
    responses = generate(lm, [(Message("user", row["prompt"]),) for row in PAIRS], DECODING)
    # A judge that refuses exactly what begins like the first response.
    judge = RefusalPhrases(phrases=(responses[0],))
    result = HarmfulPrompts(path=path, judge=judge).run(subject(lm))
    assert [row["response"] for row in result.responses] == responses
    assert [row["prompt"] for row in result.responses] == [row["prompt"] for row in PAIRS]
    verdicts = [row["is_refusal"] for row in result.responses]
    assert verdicts[0] is True
    success, refusal = result.measurements
    assert (success.metric, success.kind) == ("attack_success_rate", "rate")
    assert (refusal.metric, refusal.kind) == ("refusal_rate", "rate")
    assert list(refusal.values.values()) == [float(verdict) for verdict in verdicts]
    assert list(success.values.values()) == [float(not verdict) for verdict in verdicts]
    assert list(success.values) == [row["id"] for row in result.responses]


def test_over_refusal_is_the_share_of_refusals(lm, tmp_path):
    rows = [{**row, "label": "safe" if place else "unsafe"} for place, row in enumerate(PAIRS)]
    path = write_jsonl(tmp_path / "a.jsonl", rows)
    [measured] = (
        OverRefusal(path=path, where={"label": "safe"}, judge=RefusalPhrases())
        .run(subject(lm))
        .measurements
    )
    assert (measured.metric, measured.kind) == ("over_refusal_rate", "rate")
    assert list(measured.values.values()) == [0.0] * 4
    judge = RefusalPhrases(phrases=tuple("abcdefghijklmnopqrstuvwxyz0123456789!?.,-"))
    [measured] = OverRefusal(path=path, limit=2, judge=judge).run(subject(lm)).measurements
    assert len(measured.values) == 2


def test_too_long_prompts_are_named_by_file_and_line(lm, tmp_path):
    path = write_jsonl(tmp_path / "a.jsonl", [{"prompt": "fine"}, {"prompt": "Q" * 600}])
    with pytest.raises(ValueError, match=r"prompt 2 of 2 \(.*a.jsonl:2\) has 60\d tokens"):
        OverRefusal(path=path).run(subject(lm))


def test_safety_margin_is_the_straight_line_difference(lm, tmp_path):
    path = write_jsonl(tmp_path / "a.jsonl", PAIRS)
    result = SafetyMargin(path=path, max_length=512).run(subject(lm))
    likelier, margin = result.measurements
    assert (likelier.metric, likelier.kind) == ("unsafe_likelier_rate", "rate")
    assert (margin.metric, margin.kind) == ("safety_margin_nats", "mean")
    for row, seen in zip(PAIRS, result.responses, strict=True):
        safe = one_token_at_a_time(lm, row["prompt"], row["safe"])
        unsafe = one_token_at_a_time(lm, row["prompt"], row["unsafe"])
        assert seen["nll_safe"] == pytest.approx(safe, abs=1e-4)
        assert seen["nll_unsafe"] == pytest.approx(unsafe, abs=1e-4)
        assert margin.values[seen["id"]] == pytest.approx(unsafe - safe, abs=2e-4)
        assert likelier.values[seen["id"]] == float(unsafe < safe)


def test_swapping_the_answers_turns_the_margin_around(lm, tmp_path):
    path = write_jsonl(tmp_path / "a.jsonl", PAIRS)
    right = SafetyMargin(path=path, max_length=512).run(subject(lm))
    wrong = SafetyMargin(path=path, max_length=512, safe="unsafe", unsafe="safe").run(subject(lm))
    forward, backward = (list(result.measurements[1].values.values()) for result in (right, wrong))
    assert forward == pytest.approx([-value for value in backward], abs=1e-5)
    rates = [list(result.measurements[0].values.values()) for result in (right, wrong)]
    assert [a + b for a, b in zip(*rates, strict=True)] == [1.0] * 5


def test_equal_answers_are_no_margin_and_not_counted(lm, tmp_path):
    path = write_jsonl(tmp_path / "a.jsonl", [{"prompt": "a", "safe": "b", "unsafe": "b"}])
    likelier, margin = SafetyMargin(path=path, max_length=512).run(subject(lm)).measurements
    assert list(margin.values.values()) == [0.0]
    assert list(likelier.values.values()) == [0.0]


def test_heldout_nll_is_the_straight_line_mean(lm, tmp_path):
    path = write_jsonl(tmp_path / "a.jsonl", HELDOUT)
    result = HeldoutNll(data=DataSpec(path=path), max_length=512).run(subject(lm))
    [measured] = result.measurements
    assert (measured.metric, measured.kind) == ("heldout_nll", "mean")
    expected = [one_token_at_a_time(lm, row["prompt"], row["completion"]) for row in HELDOUT]
    assert list(measured.values.values()) == pytest.approx(expected, abs=1e-4)
    assert [row["nll"] for row in result.responses] == list(measured.values.values())


@pytest.mark.parametrize("kind", ["margin", "heldout"])
def test_the_batch_size_changes_no_likelihood(lm, tmp_path, kind):
    if kind == "margin":
        task = SafetyMargin(path=write_jsonl(tmp_path / "a.jsonl", PAIRS), max_length=512)
    else:
        path = write_jsonl(tmp_path / "a.jsonl", HELDOUT)
        task = HeldoutNll(data=DataSpec(path=path), max_length=512)
    one, many = (
        task.run(subject_of(lm, Decoding(batch_size=size))).measurements[-1] for size in (1, 32)
    )
    assert list(one.values) == list(many.values)
    assert list(one.values.values()) == pytest.approx(list(many.values.values()), abs=1e-5)


def test_a_context_shorter_than_max_length_is_refused_not_capped(lm, tmp_path):
    pairs, heldout_path = (
        write_jsonl(tmp_path / "a.jsonl", PAIRS),
        write_jsonl(tmp_path / "b.jsonl", HELDOUT),
    )
    margin = SafetyMargin(path=pairs, max_length=2048)
    heldout = HeldoutNll(data=DataSpec(path=heldout_path), max_length=2048)
    for task in (margin, heldout):
        with pytest.raises(
            ValueError, match=r"^max_length=2048 is more .* 512 tokens. Set max_length="
        ):
            task.run(subject(lm))


def test_prompts_that_leave_no_room_are_named(lm, tmp_path):
    path = write_jsonl(tmp_path / "a.jsonl", [PAIRS[0], {**PAIRS[1], "prompt": "Q" * 60}])
    with pytest.raises(
        ValueError, match=r"a.jsonl:2: .*same items: raise max_length=50, or take this"
    ):
        SafetyMargin(path=path, max_length=50).run(subject(lm))
    rows = [HELDOUT[0], {"prompt": "Q" * 60, "completion": "y"}]
    data = DataSpec(path=write_jsonl(tmp_path / "b.jsonl", rows))
    with pytest.raises(
        ValueError, match=r"b.jsonl:2: .*same items: raise max_length=50, or take this"
    ):
        HeldoutNll(data=data, max_length=50).run(subject(lm))


def test_bad_heldout_rows_are_named(lm, tmp_path):
    path = write_jsonl(tmp_path / "b.jsonl", [HELDOUT[0], {"prompt": "no completion"}])
    with pytest.raises(ValueError, match=r"b.jsonl:2"):
        HeldoutNll(data=DataSpec(path=path), max_length=512).run(subject(lm))


def test_a_model_with_broken_weights_is_no_result(lively_dir, tmp_path):
    lm = load_model(ModelSpec(path=str(lively_dir), device="cpu"))
    with torch.no_grad():
        lm.model.model.norm.weight.fill_(float("nan"))
    path = write_jsonl(tmp_path / "a.jsonl", PAIRS)
    with pytest.raises(
        ValueError, match=r"a.jsonl:\d: the model's loss is nan. Its weights are broken"
    ):
        SafetyMargin(path=path, max_length=512).run(subject(lm))


@pytest.mark.parametrize("which", ["harmful", "margin"])
def test_item_ids_are_the_same_for_every_model_and_survive_the_disk(lm, tmp_path, which):
    path = write_jsonl(tmp_path / "a.jsonl", [*PAIRS, PAIRS[0]])
    task = (
        HarmfulPrompts(path=path) if which == "harmful" else SafetyMargin(path=path, max_length=512)
    )
    other = replace(lm, pad_id=5)
    with torch.random.fork_rng(devices=[]):
        result, again = task.run(subject(lm)), task.run(subject(other))
    assert [list(m.values) for m in result.measurements] == [
        list(m.values) for m in again.measurements
    ]
    assert len(result.measurements[0].values) == 6  # the repeated row, too
    save_task_result(result, tmp_path)
    assert load_measurements(tmp_path) == result.measurements


def test_every_task_can_be_named_in_a_config():
    adapter = TypeAdapter(AnyTask)
    known = {member.model_fields["task"].default for member in get_args(get_args(AnyTask)[0])}
    for kind, options in {
        "harmful_prompts": {"path": "a.csv", "prompt": "goal"},
        "over_refusal": {"path": "a.csv", "where": {"label": "safe"}},
        "safety_margin": {"path": "a.jsonl"},
        "heldout_nll": {"data": {"path": "a.jsonl"}},
        "adv_bench": {"path": "a.csv"},
        "harm_bench": {"path": "a.csv", "functional_category": ["copyright"]},
        "strong_reject": {"path": "a.csv", "judge": {"judge": "guard_model"}},
        "hex_phi": {"path": "folder", "judge": {"judge": "refusal_phrases"}},
        "xstest": {"path": "a.csv"},
        "hh_harmless": {"path": "a.jsonl", "judge": {"judge": "guard_model"}},
        "slim_orca": {"path": "a.jsonl"},
        "alpaca_eval": {"path": "a.json"},
        "gsm8k": {"path": "a.jsonl", "num_shots": 3, "shots_path": "b.jsonl"},
        "lm_eval": {"tasks": {"hellaswag": "acc_norm"}},
    }.items():
        known.discard(kind)
        task = adapter.validate_python({"task": kind, **options})
        assert (task.task, task.name) == (kind, kind)
        assert adapter.validate_python(task.model_dump()) == task
        with pytest.raises(ValidationError, match="Extra inputs are not permitted"):
            adapter.validate_python({"task": kind, **options, "promt": "goal"})
    assert not known
    with pytest.raises(ValidationError, match="does not match any of the expected tags"):
        adapter.validate_python({"task": "harmfull_prompts", "path": "a.csv"})


@pytest.mark.parametrize("name", ["", "a/b", "..", "a b", "a\n", "x" * 65])
def test_a_name_is_a_folder(name):
    with pytest.raises(ValidationError, match="String should match pattern"):
        OverRefusal(path="a.csv", name=name)
