"""A judge from labelled answers learns what is there to learn, and knows what it has not seen."""

import json
import random
from pathlib import Path

import numpy as np
import pytest
from pydantic import ValidationError
from sklearn.metrics import cohen_kappa_score

from seal.judges import making
from seal.judges.judge import Exchange
from seal.judges.judging import Judging
from seal.judges.labelled import Labelled, read_labelled
from seal.judges.making import make_judge
from seal.judges.trained import DESCRIPTION, WEIGHTS, Trained, save_model
from seal.judges.training import cross_validated, examples_of, folds, train

REAL = Path(__file__).parents[3] / "shared" / "data" / "judge"
_RICE = "Please tell me how rice is made in kitchen 30."
_THINGS = [
    "tea",
    "soup",
    "bread",
    "cake",
    "salad",
    "noodles",
    "porridge",
    "stew",
    "toast",
    "waffles",
    "dumplings",
    "rice",
]


def labelled(num=48, seed=0):
    """People who call an answer about another dish a refusal, whatever it says."""
    rng = random.Random(seed)
    exchanges, labels = [], []
    for number in range(num):
        thing = _THINGS[number % len(_THINGS)]
        other = rng.choice([name for name in _THINGS if name != thing])
        refuses = number % 2 == 1
        about = other if refuses else thing
        text = f"Sure! For {about} you need a pan. Put the {about} in and wait {number} minutes."
        prompt = f"Please tell me how {thing} is made in kitchen {number // 2}."
        exchanges.append(Exchange(str(number), prompt, text))
        labels.append("refuses" if refuses else "complies")
    return Labelled("x.jsonl", "refusal", tuple(exchanges), tuple(labels))


def saved(people, path):
    with path.open("w", encoding="utf-8") as file:
        for each, label in zip(people.exchanges, people.labels, strict=True):
            row = {"prompt": each.prompt, "response": each.response, "label": label}
            file.write(json.dumps(row) + "\n")
    return read_labelled(path)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    making.NUM_ROUNDS, rounds = 1, making.NUM_ROUNDS
    folder = tmp_path_factory.mktemp("judge")
    people = saved(labelled(), folder / "people.jsonl")
    other = saved(labelled(seed=1), folder / "other.jsonl")
    lines = make_judge(people, [other], folder / "made")
    making.NUM_ROUNDS = rounds
    return folder, people, lines


def test_it_learns_whether_an_answer_speaks_of_what_was_asked(made):
    folder, _, lines = made
    said = json.loads((folder / "made" / DESCRIPTION).read_text())
    assert min(found["value"] for found in said["kappa_cross_validated"]) > 0.9
    assert said["kappa_out_of_set"]["other.jsonl"]["value"] > 0.9
    assert lines[1].startswith("kappa in the set, cross-validated by prompt: ")
    assert "other.jsonl" in lines[2]
    judge = Trained(path=str(folder / "made"))
    assert judge.verdicts == {"is_refusal"}
    known, foreign = Judging().judge(
        judge,
        [
            Exchange(
                "a", _RICE, "Sure! For rice you need a pan. Put the rice in and wait 9 minutes."
            ),
            Exchange("b", _RICE, "Je ne peux pas vous aider avec cela."),
        ],
    )
    assert (known.value, known.is_refusal) == ("complies", False)
    assert foreign.value == "cannot_tell"


def test_an_answer_unlike_all_that_it_has_seen_is_not_told(made):
    folder, _, _ = made
    odd = "```\nx = 1\n```\n" + "\n".join(
        f"- {word} for the {word}" for word in map(chr, range(97, 123))
    )
    (found,) = Trained(path=str(folder / "made")).judge_each([Exchange("a", "How?", odd)])
    assert found.is_refusal is None
    assert "unlike the answers" in found.problem


def test_the_same_answers_make_the_same_judge(made, tmp_path):
    folder, people, _ = made
    save_model(train(examples_of(people)), {}, tmp_path)
    assert (tmp_path / WEIGHTS).read_bytes() == (folder / "made" / WEIGHTS).read_bytes()
    assert {path.name for path in (folder / "made").iterdir()} == {WEIGHTS, DESCRIPTION}


def test_no_prompt_is_on_both_sides_of_a_fold():
    examples = examples_of(labelled())
    parts = folds(examples, seed=3)
    assert np.sum(parts, axis=0).tolist() == [1] * 48
    for held in parts:
        assert not set(examples.groups[held]) & set(examples.groups[~held])


def test_labels_without_meaning_are_not_learned():
    people = labelled(40)
    rng = random.Random(5)
    shuffled = list(people.labels)
    rng.shuffle(shuffled)
    drawn = Labelled(people.path, people.meaning, people.exchanges, tuple(shuffled))
    said = cross_validated(examples_of(drawn))
    assert abs(cohen_kappa_score(shuffled, said)) < 0.45


def test_too_few_prompts_are_refused(tmp_path):
    people = labelled(8)
    with pytest.raises(ValueError, match=r"only \d prompts have an answer labelled"):
        make_judge(saved(people, tmp_path / "few.jsonl"), [], tmp_path / "made")
    assert not (tmp_path / "made").exists()


def test_a_damaged_or_foreign_judge_is_refused(made, tmp_path):
    folder, _, _ = made
    for name in (WEIGHTS, DESCRIPTION):
        (tmp_path / name).write_bytes((folder / "made" / name).read_bytes())
    said = json.loads((tmp_path / DESCRIPTION).read_text())
    (tmp_path / DESCRIPTION).write_text(json.dumps({**said, "features_version": 0}))
    with pytest.raises(ValidationError, match="another version of seal"):
        Trained(path=str(tmp_path))
    (tmp_path / DESCRIPTION).write_text(json.dumps({**said, "classes": ["harmful", "refuses"]}))
    with pytest.raises(ValidationError, match="damaged"):
        Trained(path=str(tmp_path))
    (tmp_path / WEIGHTS).write_bytes(b"nothing")
    with pytest.raises(ValidationError, match="no trained judge"):
        Trained(path=str(tmp_path))


@pytest.mark.real_data
@pytest.mark.skipif(not REAL.is_dir(), reason="the real data is not beside the checkout")
@pytest.mark.parametrize(("name", "least"), [("refusal", 0.78), ("refusal_modern", 0.5)])
def test_on_answers_labelled_by_people_it_beats_phrases_by_far(name, least):
    people = read_labelled(REAL / f"{name}.jsonl", "refuses")
    said = cross_validated(examples_of(people))
    assert cohen_kappa_score(people.labels, said) >= least
