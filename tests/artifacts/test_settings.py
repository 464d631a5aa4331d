"""A part that is given in part starts from the default of its field, in every class of settings."""

import importlib
import os
import pkgutil
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

import pytest
from pydantic import Field, ValidationError

import seal
from seal.artifacts.settings import Settings
from seal.config.experiment import Experiment, dump_experiment, load_experiment
from seal.config.shape import models, shape_of
from seal.models import LoraSpec
from seal.rankers.less import Less

PAPERS_MODULES = ("q_proj", "k_proj", "v_proj", "o_proj")


def every_class() -> list[type[Settings]]:
    """Of the package; those of extras that are not installed are left out."""
    for module in pkgutil.walk_packages(seal.__path__, "seal."):
        if not module.name.endswith(("__main__", "inspect_tasks")):
            importlib.import_module(module.name)
    found, new = [], [Settings]
    while new:
        new = [kind for parent in new for kind in parent.__subclasses__()]
        found += [kind for kind in new if kind.__module__.startswith("seal.") and kind not in found]
    return found


def least(kind: type[Settings]) -> dict[str, Any]:
    """Something for each required field."""
    given = {}
    for name, field in kind.model_fields.items():
        if field.is_required():
            shape = shape_of(field.annotation)
            inner = models(shape) or models(get_args(shape[0]))
            one = least(inner[0]) if inner else "x"
            given[name] = [one] if get_args(shape[0]) else one
    return given


PARTS = [
    pytest.param(kind, name, id=f"{kind.__name__}.{name}")
    for kind in every_class()
    for name, field in kind.model_fields.items()
    if isinstance(field.get_default(call_default_factory=True, validated_data={}), Settings)
    and not kind.__abstractmethods__
]


def test_the_walk_finds_the_known_ones():
    found = {part.id for part in PARTS}
    assert {"Less.lora", "Sqsd.lora", "GradShield.lora", "GuardModel.model", "Larf.judge"} <= found
    assert {"Experiment.train", "TrainSettings.lora", "EvaluateSettings.decoding"} <= found
    assert len(found) > 20


@pytest.mark.parametrize(("kind", "name"), PARTS)
def test_each_field_of_each_part_may_be_given_alone(kind, name):
    default = kind.model_fields[name].get_default(call_default_factory=True)
    for key, value in default:
        given = {**least(kind), name: {key: value}}
        assert getattr(kind.model_validate(given), name) == default, key
    assert getattr(kind.model_validate({**least(kind), name: {}}), name) == default


def test_what_is_given_counts_and_the_rest_stays():
    expected = LoraSpec(r=8, alpha=512, target_modules=PAPERS_MODULES)
    assert Less(lora={"r": 8}).lora == expected
    assert Less(lora={"r": 8, "target_modules": None}).lora == LoraSpec(r=8, alpha=512)
    assert Less(lora=LoraSpec(r=8)).lora == LoraSpec(r=8)  # an object is whole
    assert Less.model_validate_json('{"lora": {"r": 8}}').lora == expected


LEAST = ("run_dir=r", "model.path=m", "pool.path=p.jsonl", "safe.path=s.jsonl")


@pytest.mark.parametrize(
    "words",
    [
        ["rank.method=less", "rank.lora.r=8"],
        ["rank={method: less, lora: {r: 8}}"],
        ["arms=[base, {name: mine, rank: {method: less, lora: {r: 8}}}]"],
        ["bench.rankers.Mine={method: less, lora: {r: 8}}"],
    ],
)
def test_in_an_experiment(words, tmp_path):
    experiment = load_experiment(None, [*LEAST, *words])
    rankers = [experiment.rank, *experiment.bench.rankers.values()]
    rankers += [arm.rank for arm in experiment.arms if arm.rank]
    (less,) = [ranker for ranker in rankers if isinstance(ranker, Less)]
    assert (less.lora.r, less.lora.alpha, less.lora.target_modules) == (8, 512, PAPERS_MODULES)
    written = tmp_path / "x.yaml"
    written.write_text(dump_experiment(experiment))
    assert load_experiment(written) == experiment


def test_a_word_over_a_file(tmp_path):
    file = tmp_path / "x.yaml"
    file.write_text("rank: {method: less, lora: {alpha: 32}}\n")
    lora = load_experiment(file, [*LEAST, "rank.lora.r=8"]).rank.lora
    assert (lora.r, lora.alpha, lora.target_modules) == (8, 32, PAPERS_MODULES)


def test_a_judge_by_name_or_without():
    def judge(text: str) -> Any:
        tasks = f"evaluate.tasks=[{{task: harmful_prompts, path: p.jsonl, judge: {text}}}]"
        return load_experiment(None, [*LEAST, tasks]).evaluate.tasks[0].judge

    assert judge("{calibration: null}").judge == "sentences"  # the default's kind
    assert judge("{judge: phrases, phrases: [no]}").phrases == ("no",)
    guard = judge("{judge: guard_model, model: {dtype: float32}}")
    assert (guard.model.path, guard.model.dtype) == ("Qwen/Qwen3Guard-Gen-0.6B", "float32")
    with pytest.raises(ValueError, match="model is a key of judge guard_model, rubric: set"):
        judge("{model: {dtype: float32}}")


# --- worked by hand -----------------------------------------------------------------------------


class Leaf(Settings):
    a: int = 1
    b: int = 2


class Middle(Settings):
    kind: Literal["middle"] = "middle"
    leaf: Leaf = Leaf(a=10)
    c: int = 3


class Other(Settings):
    kind: Literal["other"] = "other"
    leaf: Leaf = Leaf()
    c: int = 4


class Top(Settings):
    middle: Annotated[Middle | Other, Field(discriminator="kind")] = Middle(leaf=Leaf(b=20), c=30)
    made: Leaf = Field(default_factory=lambda: Leaf(a=5, b=6))
    maybe: Leaf | None = None
    file: Path = Path("x")
    text: str = ""


class Lower(Top):
    made: Leaf = Leaf(b=7)


CASES = [
    # The middle's own default of leaf has a=10; that of the top's default middle has not.
    ({"middle": {"leaf": {}}}, Middle(leaf=Leaf(a=1, b=20), c=30)),
    ({"middle": {"leaf": {"a": 9}}}, Middle(leaf=Leaf(a=9, b=20), c=30)),
    ({"middle": {"kind": "middle", "c": 0}}, Middle(leaf=Leaf(a=1, b=20), c=0)),
    ({"middle": {"leaf": Leaf()}}, Middle(leaf=Leaf(), c=30)),
    ({"middle": {"kind": "other", "leaf": {"a": 9}}}, Other(leaf=Leaf(a=9))),
    ({"middle": Middle(c=0)}, Middle(leaf=Leaf(a=10), c=0)),
]


@pytest.mark.parametrize(("given", "expected"), CASES)
def test_nested_parts(given, expected):
    assert Top.model_validate(given).middle == expected


def test_factories_subclasses_and_none():
    assert Top(made={"a": 0}).made == Leaf(a=0, b=6)
    assert Lower(made={"a": 0}).made == Leaf(a=0, b=7)
    assert Top(maybe={"a": 0}).maybe == Leaf(a=0, b=2)


def test_what_nobody_gave_does_not_look_given():
    found = Top(middle={"c": 0}).middle
    assert found.model_fields_set == {"kind", "leaf", "c"}
    assert Top(made={"a": 5, "b": 6}, middle={}).maybe is None


def test_mistakes_are_still_mistakes():
    with pytest.raises(ValidationError, match="Extra inputs are not permitted"):
        Top(made={"z": 1})
    with pytest.raises(ValidationError, match="does not match any of the expected tags"):
        Top(middle={"kind": "none"})
    with pytest.raises(ValidationError):
        Top(made=3)


class Named:
    """Whatever says which path it stands for."""

    def __init__(self, path):
        self.path = path

    def __fspath__(self):
        return str(self.path)


@pytest.mark.parametrize("make", [str, Path, Named])
def test_paths_in_settings_are_text_or_path_like(make):
    top = Top(file=make("a/b"), text=make("c/d"))
    assert (top.file, top.text) == (Path("a/b"), "c/d")
    found = Experiment(
        run_dir=make("r"),
        model={"path": make("m")},
        pool={"path": make("p.jsonl")},
        safe=[{"path": make("s.jsonl")}],
        extends=make("before"),
        evaluate={"tasks": [{"task": "harmful_prompts", "path": make("h.jsonl")}]},
    )
    assert (found.run_dir, found.model.path, found.pool.path) == (Path("r"), "m", "p.jsonl")
    assert (found.safe[0].path, found.extends) == ("s.jsonl", Path("before"))
    assert found.evaluate.tasks[0].data_path == "h.jsonl"
    assert os.fspath(found.run_dir) == "r"
