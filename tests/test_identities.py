"""What a finished stage is reused for: whatever decides its content, and nothing besides."""

import json
import shutil
from pathlib import Path

import pytest
import yaml

from faults.conftest import write_experiment, write_lines
from seal import cells
from seal.config.experiment import load_experiment
from seal.inputs import Inputs
from seal.progress import silent

STAGES = {"rank", "train", "evaluate"}
POOL = [{"prompt": f"Question {n}?", "completion": f"Answer {n} is blue."} for n in range(6)]
SAFE = [{"prompt": f"Say {n}.", "completion": "The sea is blue."} for n in range(5)]
NONE: dict = {}
OTHER = {"prompt": "Another one?", "completion": "Yes."}


@pytest.fixture
def identities(tmp_path, tiny_model_dir, monkeypatch):
    """Stage -> its identity as JSON, under changes of a small experiment; nothing is made."""
    noted: dict[str, str] = {}

    def note(folder: Path, identity: dict, *_: object) -> Path:
        noted[identity["stage"]] = json.dumps(identity, sort_keys=True)
        return folder

    monkeypatch.setattr(cells, "_make", note)

    def call(pool=POOL, safe=SAFE, seed=0, model=tiny_model_dir, template=NONE, **changes) -> dict:
        changes = {
            "pool": {"path": write_lines(tmp_path / "own-pool.jsonl", pool)},
            "safe": {"path": write_lines(tmp_path / "own-safe.jsonl", safe)},
            "arms": ["base", "all"],
            "seeds": [0, 1],
            **changes,
        }
        path = write_experiment(tmp_path, tiny_model_dir, tmp_path / "run", **changes)
        values = yaml.safe_load(path.read_text())
        path.write_text(yaml.safe_dump({**values, "model": {"path": str(model), **template}}))
        inputs = Inputs(load_experiment(path), silent)
        cells.rank(inputs)
        cells.train(inputs, inputs.experiment.arm("all"), seed)
        cells.evaluate(inputs, inputs.experiment.arm("base"), 0)
        assert noted.keys() == STAGES
        return dict(noted)

    return call


def changed(tmp_path: Path, model: Path, name: str) -> tuple[dict, set[str]]:
    """A change of the experiment, and the stages whose content it decides."""
    mix = {"data": {"path": write_lines(tmp_path / "mix.jsonl", SAFE)}, "share": 0.5}
    harmful = write_lines(tmp_path / "other.jsonl", [OTHER])
    task = {"task": "safety_margin", "path": str(tmp_path / "harmful.jsonl"), "max_length": 63}
    other = tmp_path / "other-model"
    shutil.copytree(model, other)
    (other / "generation_config.json").write_text('{"temperature": 0.5}')
    changes = {
        "ranker": ({"rank": {"method": "random", "seed": 1}}, {"rank"}),
        "pool": ({"pool": [*POOL, OTHER]}, {"rank", "train"}),
        "one for another": ({"pool": [*POOL[1:], OTHER]}, {"rank", "train"}),
        "safe": ({"safe": [*SAFE, OTHER]}, {"rank"}),
        "harmful": ({"harmful": {"path": harmful}}, {"rank"}),
        "holdout": ({"holdout": 0.4}, {"rank"}),
        "length": ({"tokenization": {"max_length": 63}}, {"rank", "train"}),
        "training": ({"train": {"args": {"num_train_epochs": 2}}}, {"train"}),
        "mix": ({"train": {"args": {"num_train_epochs": 1}, "mix": mix}}, {"train"}),
        "seed": ({"seed": 1}, {"train"}),
        "tasks": ({"evaluate": {"decoding": {"max_new_tokens": 4}, "tasks": [task]}}, {"evaluate"}),
        "model file": ({"model": other}, STAGES),
        "template": ({"template": {"chat_template_kwargs": {"word": 1}}}, STAGES),
        "order of the pool": ({"pool": POOL[::-1]}, set()),
    }  # fmt: skip
    return changes[name]


NAMES = (
    "ranker", "pool", "one for another", "safe", "harmful", "holdout", "length", "training", "mix",
    "seed", "tasks", "model file", "template", "order of the pool",
)  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
def test_what_decides_a_stage_is_in_its_identity(identities, tmp_path, tiny_model_dir, name):
    change, decided = changed(tmp_path, tiny_model_dir, name)
    before, after = identities(), identities(**change)
    assert {stage for stage in STAGES if before[stage] != after[stage]} == decided


def test_the_content_of_a_file_is_in_it_and_not_its_name_alone(identities, tmp_path):
    """Harmful references, what is mixed in, and the items of a task: one byte in each file."""
    paths = [tmp_path / f"{name}.jsonl" for name in ("references", "mixed", "items")]
    row = {"prompt": "Bad?", "safe": "I am sorry.", "unsafe": "Yes."}

    def under(word: str) -> dict[str, str]:
        for path in paths[:2]:
            write_lines(path, [{**OTHER, "completion": word}])
        write_lines(paths[2], [{**row, "unsafe": word}])
        return identities(
            harmful={"path": str(paths[0])},
            train={"mix": {"data": {"path": str(paths[1])}, "share": 0.5}},
            evaluate={"tasks": [{"task": "safety_margin", "path": str(paths[2])}]},
        )

    first, again, second = under("Yes."), under("Yes."), under("Yea.")
    assert first == again
    assert {stage for stage in STAGES if first[stage] != second[stage]} == STAGES
