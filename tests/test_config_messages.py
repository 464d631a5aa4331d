"""Where a message about several keys points to, and what it offers instead."""

from __future__ import annotations

import pytest

from seal.config.experiment import load_experiment

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
