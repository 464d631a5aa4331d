"""Where a message about several keys points to, and what it offers instead."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import get_origin

import pytest

from seal.config.examples import list_example, mapping_example
from seal.config.experiment import Experiment, load_experiment
from seal.config.positions import flow_yaml, parse_yaml
from seal.config.shape import models, shape_of, takes_list
from seal.judges.guard import GuardModel

BASE = """\
run_dir: runs/x
model: {path: m}
pool: {path: p.jsonl}
safe: {path: s.jsonl}
"""


def failure(tmp_path, text, *words):
    """The message about a config, with the name of its file as `c.yaml`."""
    path = tmp_path / "c.yaml"
    path.write_text(BASE + text, encoding="utf-8")
    with pytest.raises(ValueError, match=r".") as caught:
        load_experiment(path, words)
    return str(caught.value).replace(str(path), "c.yaml")


# --- rules that span keys ------------------------------------------------------------------------


SERVER = "evaluate:\n  server:\n    base_url: http://x/v1\n    model: one\n"
TWICE = """\
evaluate:
  tasks:
    - {task: xstest, path: a}
    - task: xstest
      path: b
"""
RULES = [
    (
        SERVER,
        "c.yaml:8: evaluate.server.model: the arms base (seed 0) and all (seed 0) would both be "
        "answered by 'one'. Tell them apart, as model: '{arm}-{seed}' does, ",
    ),
    (TWICE, "c.yaml:8: evaluate.tasks.1.name: 2 tasks have the name"),
    (
        TWICE + "    - task: gsm8k\n      path: c\n      name: XSTest\n",
        'c.yaml:8: evaluate.tasks.1.name: 3 tasks have the name "xstest", but each needs a folder '
        "of its own. Give this one another, such as name: xstest-2; ",
    ),
    (
        TWICE.replace("path: b", "path: b\n      name: z")
        + "    - {task: gsm8k, path: c, name: z-2}\n"
        + "    - task: gsm8k\n      path: c\n      name: z\n",
        'c.yaml:14: evaluate.tasks.3.name: 2 tasks have the name "z", but each needs a folder of '
        "its own. Give this one another, such as name: z-3; ",
    ),
    (
        "evaluate:\n  tasks:\n  - task: xstest\n    path: a\n    judge:\n      judge: guard_model\n"
        "      family: llama_guard\n",
        "c.yaml:9: evaluate.tasks.0.judge: judge: guard_model, as set here, does not say is_refu",
    ),
    (
        "evaluate:\n  decoding:\n    temperature: 0\n    top_p: 0.5\n",
        "c.yaml:8: evaluate.decoding.top_p: top_p=0.5 has no effect with temperature=0, ",
    ),
    (
        "evaluate:\n  tasks:\n  - task: over_refusal\n    path: a\n    format: alpaca\n"
        "    prompt: goal\n",
        "c.yaml:10: evaluate.tasks.0.prompt: prompt='goal' is not read with format='alpaca', ",
    ),
    ("select:\n  reference: safe\n", "c.yaml:6: select.reference: safe needs safe rows that "),
    (
        "rank:\n  method: from_file\n  path: x\nholdout: 0.2\n",
        "c.yaml:8: holdout=0.2 has the ranker score safe rows, ",
    ),
    (
        "report:\n  judge:\n    judge: refusal_phrases\n  evidence: false\n",
        "c.yaml:8: report.evidence: report.judge judges the samples that evidence is looked up ",
    ),
    (
        "bench:\n  seeds: [0]\n  attacked: [x]\n",
        "c.yaml:7: bench.attacked: there is no ranker 'x'. The names are 'Random', ",
    ),
    (
        "bench:\n  rankers:\n    a: {method: dsir}\n    loss: {method: random}\n",
        "c.yaml:8: bench.rankers.loss: 'loss' is always the ranker of that name, ",
    ),
]


@pytest.mark.parametrize(("text", "message"), RULES)
def test_a_rule_of_several_keys_points_at_the_one_to_change(tmp_path, text, message):
    found = failure(tmp_path, text)
    assert found.startswith(message)
    assert len(found.splitlines()) == 1


def test_a_word_of_the_command_line_is_pointed_at_too(tmp_path):
    found = failure(tmp_path, SERVER, "evaluate.server.model=two")
    assert found.startswith("command line: evaluate.server.model: the arms")
    assert failure(tmp_path, SERVER, "seeds=[0,1]").startswith("c.yaml:8: evaluate.server.model: ")


# --- a mapping or a list is wanted ---------------------------------------------------------------

MIX = "train:\n  mix:\n    share: 0.1\n"
ARM = "arms:\n- base\n- name: my arm\n  rank: {method: loss}\n"
TASK = {"task": "harmful_prompts", "path": "x"}
JUDGE = "{base_url: 'http://127.0.0.1:8000/v1', model: NAME}"
OFFERS = [
    ("report: {judge: guard}\n", "report.judge", "{judge: guard_model}"),
    ("report: {judge: x}\n", "report.judge", "{judge: sentences}"),
    (f"{MIX}    data: h.jsonl\n", "train.mix.data", "{path: h.jsonl}"),
    ("train: {mix: h.jsonl}\n", "train.mix", "{data: {path: FILE}, share: 0.5}"),
    (
        "evaluate: {tasks: xstest}\n",
        "evaluate.tasks",
        "[{task: xstest, path: FILE}]",
    ),
    ("evaluate:\n  tasks: [xs]\n", "evaluate.tasks.0", "{task: xstest, path: FILE}"),
    ("select: 0.5\n", "select", "{fraction: 0.5}"),
    ("report: off\n", "report", "{evidence: false}"),
    ("budget: 300\n", "budget", "{seconds: 300}"),
    ("tokenization: 512\n", "tokenization", "{max_length: 512}"),
    ("bench: {rankers: loss}\n", "bench.rankers", "{mine: {method: two_sided}}"),
    ("arms: nonsense\n", "arms", "[base, all, random, selected]"),
    ("arms: all\n", "arms", "[all]"),
    ("seeds: 3\n", "seeds", "[3]"),
    ("seeds: -3\n", "seeds", "[0]"),
    ("seeds: true\n", "seeds", "[0]"),
    ("unsafe_labels: 0123\n", "unsafe_labels", "['0123']"),
    ("pairwise: x\n", "pairwise", f"[{{task: harmful_prompts, judge: {JUDGE}}}]"),
    ("harmful: h.jsonl\n", "harmful", "[{path: h.jsonl}]"),
    ("harmful: 'h\\u202e.jsonl'\n".replace("'", '"'), "harmful", "[{path: FILE}]"),
]


@pytest.mark.parametrize(("text", "key", "example"), OFFERS)
def test_where_a_mapping_or_list_is_wanted_a_correct_one_is_offered(tmp_path, text, key, example):
    found = failure(tmp_path, text)
    assert re.match(rf"c\.yaml:\d+: {re.escape(key)}: expected a ", found)
    assert f" Write {example}." in found
    assert len(found.splitlines()) == 1
    more = [f"evaluate.tasks=[{flow_yaml(TASK)}]"] if key == "pairwise" else []
    load_experiment(tmp_path / "c.yaml", [*more, f"{key}={example}"])


def test_on_the_command_line_the_whole_word_is_offered(tmp_path):
    found = failure(tmp_path, "", "select=0.5")
    assert found.endswith("got 0.5. Write select='{fraction: 0.5}'.")
    found = failure(tmp_path, "", "report=off")
    assert found.endswith("got 'off'. Write report='{evidence: false}'.")


def test_the_kinds_of_what_has_kinds_are_listed(tmp_path):
    found = failure(tmp_path, "report: {judge: x}\n")
    assert found.endswith(" Known: sentences, phrases, trained, guard_model, rubric.")
    assert "Known" not in failure(tmp_path, "report: {judge: rubric}\n")


def test_a_mapping_where_a_list_of_them_is_wanted(tmp_path):
    judge = "{base_url: http://x/v1, model: m}"
    text = "evaluate: {tasks: [{task: xstest, path: x}]}\n"
    found = failure(tmp_path, f"{text}pairwise: {{task: xstest, judge: {judge}}}\n")
    assert found == (
        "c.yaml:6: pairwise: expected a list, got a mapping. Make it a list of one: put '- ' "
        "before its first key, or [ ] around it."
    )
    load_experiment(tmp_path / "c.yaml", [f"pairwise=[{{task: xstest, judge: {judge}}}]"])


@pytest.mark.parametrize(
    ("name", "offered"),
    [("my arm", "my-arm"), (".x.", "x"), ("a/b", "a-b"), ("é", "mine"), ("y" * 101, "y" * 100)],
)
def test_a_name_that_an_arm_may_have_is_offered(tmp_path, name, offered):
    text = ARM.replace("my arm", f"'{name}'")
    found = failure(tmp_path, text)
    assert found.startswith("c.yaml:7: arms.1.name: ")
    assert found.endswith(f", such as {offered}.")
    load_experiment(tmp_path / "c.yaml", [f"arms.1.name={offered}"])


def places(shape, seen):
    """Each class of settings below a shape, with the names of its keys."""
    for kind in shape:
        item = [part for part in getattr(kind, "__args__", ()) if part is not Ellipsis]
        if get_origin(kind) in (tuple, dict, Mapping) and item:
            yield from places(shape_of(item[-1]), seen)
    for model in models(shape):
        if model not in seen:
            seen.add(model)
            for name, field in model.model_fields.items():
                yield model, name
                yield from places(shape_of(field.annotation), seen)


@pytest.mark.parametrize("given", ["word", "no\nline", 3, 0.5, True, None, []])
def test_every_example_can_be_read(given):
    """At every key of an experiment that takes a mapping or a list, whatever was given instead."""
    count = 0
    for model, name in places((Experiment,), set()):
        shape = shape_of(model.model_fields[name].annotation)
        texts = []
        if models(shape) or any(get_origin(kind) in (dict, Mapping) for kind in shape):
            texts.append(mapping_example((model,), name, given))
        if takes_list(shape):
            texts.append(list_example((model,), name, [given]))
        needed = {
            key: parse_yaml(
                mapping_example((model,), key, None) or flow_yaml(NEEDED[key]), ""
            ).value
            for key, field in model.model_fields.items()
            if field.is_required()
        }
        # What rules of several keys ask for: FILE tells no family; the example compares a task.
        needed |= {"family": "qwen3guard"} if model is GuardModel else {}
        needed |= {"evaluate": {"tasks": [TASK]}} if name == "pairwise" else {}
        for text in texts:
            assert text, (model, name)
            assert "\n" not in text
            model.model_validate({**needed, name: parse_yaml(text, "").value})
            count += 1
    assert count > 60


NEEDED = {
    "run_dir": "x",
    "path": "x",
    "of": "all",
    "weight": 0.5,
    "share": 0.5,
    "name": "mine",
    "task": "xstest",
    "base_url": "http://x/v1",
    "model": "m",
    "safe": [{"path": "x"}],
}


# --- a key that is in no wrong place -------------------------------------------------------------


def test_a_key_of_another_kind_of_the_same_section_is_not_looked_for_elsewhere(tmp_path):
    text = "evaluate: {tasks: [{task: xstest, path: x}]}\npairwise:\n- task: xstest\n  judge:\n"
    found = failure(tmp_path, text + "    judge: rubric\n    base_url: http://x/v1\n    model: m\n")
    assert found == (
        "c.yaml:9: pairwise.0.judge.judge: unknown key. The keys here: base_url, model, "
        "api_key_env, timeout_seconds, max_retries, concurrency, temperature."
    )
    elsewhere = failure(tmp_path, "tasks: []\n")
    assert elsewhere == "c.yaml:5: tasks: unknown key here. Did you mean 'evaluate.tasks'?"


def test_a_model_in_four_bits_is_not_trained_whole(tmp_path):
    said = failure(tmp_path, "train:\n  tuning: full\n", "model.quantization=4bit")
    assert "c.yaml:6: train.tuning: all weights cannot be trained with model.quant" in said
