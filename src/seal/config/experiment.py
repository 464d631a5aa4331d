"""The experiment: a tree of settings, from YAML and the command line and back."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from seal.artifacts.paths import StrPath
from seal.artifacts.settings import Settings, error_at
from seal.checkpoint import CheckpointSettings
from seal.config.arms import (
    DEFAULT_ARMS,
    ArmSettings,
    Word,
    check_pairs,
    check_together,
    check_with_safety_data,
)
from seal.config.parse import parse_config
from seal.config.positions import dump_yaml
from seal.config.starter import commented_yaml
from seal.data.load import DataSpec
from seal.data.tokenize import Tokenization
from seal.models import ModelSpec
from seal.rankers.two_sided import TwoSided
from seal.rankers.union import AnyRanker
from seal.stages.bench.settings import BenchSettings
from seal.stages.evaluate import EvaluateSettings
from seal.stages.pairwise import PairwiseSettings
from seal.stages.report import ReportSettings
from seal.stages.select import SelectSettings
from seal.stages.train import TrainSettings
from seal.tracking import TrackerNames


class BudgetSettings(Settings):
    """When a call stops before its work is done; the same command goes on.

    Attributes:
        seconds: A ranking, training or evaluation that would end later than this, counted from the
            start of the call, is not begun; the call ends with exit code 75.
    """

    seconds: float | None = Field(default=None, gt=0, allow_inf_nan=False)


_STARTER_HEADER = """\
# An experiment of seal.
#   check it    seal config check FILE
#   run it      seal run FILE
#   change it   seal run FILE select.fraction=0.5 run_dir=runs/second
# Fill in what is empty. Every other key is commented out and shows its default: remove the # to
# change it. Paths are relative to the folder in which seal is called.

"""
_STARTER_VALUES = {"run_dir": "runs/first"}


class Experiment(Settings):
    """Everything a run depends on.

    Attributes:
        run_dir: Folder of everything that the run makes. The same config and folder go on where an
            interrupted run stopped; another config needs another folder.
        title: Of the report; empty takes the run_dir's name.
        seeds: Training seeds: every arm but the base is trained once with each.
        model: The aligned model that is to be fine-tuned.
        pool: The fine-tuning set to choose from.
        unsafe_labels: Values of `pool.label` that count as unsafe. Only used to score a ranking; no
            ranker ever sees a label.
        safe: The trusted set that the ranker measures against; a mapping, or a list of mappings.
        harmful: Samples of what must not be learned (a harmful request, answered), for the rankers
            that can use some; likewise a mapping or a list, and empty when there are none.
        holdout: Share of the safe set, in [0, 0.5], that the ranker does not measure against but
            scores among the pool: what `select.reference` compares the pool with.
        extends: A finished run, of the same settings but for its pool, that this one's pool adds
            to: what was computed of its samples is not computed again.
        tokenization: From text to tokens, for every data set.
        rank: How the pool is scored; higher = keep. `method` says which ranker; two_sided
            when it is left out.
        select: How many of the best are kept.
        train: How the model is fine-tuned.
        evaluate: What is measured on each fine-tuned model.
        arms: What is compared: the model as it is ("base"), and fine-tuned on the whole pool
            ("all"), on the selection ("selected"), on as many random samples ("random"), and on all
            samples that are not labelled unsafe ("oracle"; needs `pool.label`): what a perfect
            ranking would reach. Or a mapping, for an arm with a ranker, a selection or a data set
            to mix in of its own, or made of another one: {name: mine, rank: {method: dsir}}.
        pairwise: Which arms' answers are compared two by two, for win rates.
        report: What the report looks up besides.
        track: Trackers that are shown each entry of metrics.jsonl: tensorboard, trackio, wandb (the
            extra `track`). What they do changes no result.
        budget: How long one call may take.
        checkpoint: How often a ranking or a training under way saves its state.
        bench: Which rankers `seal bench` compares on this pool; no other stage reads it.
    """

    run_dir: Path
    title: str = ""
    seeds: tuple[Annotated[int, Field(ge=0, lt=2**32)], ...] = (0,)
    model: ModelSpec
    pool: DataSpec
    unsafe_labels: tuple[str, ...] = ("unsafe",)
    safe: tuple[DataSpec, ...]
    harmful: tuple[DataSpec, ...] = ()
    holdout: float = Field(default=0.0, ge=0, le=0.5)
    extends: Path | None = None
    tokenization: Tokenization = Tokenization()
    rank: AnyRanker = TwoSided()
    select: SelectSettings = SelectSettings()
    train: TrainSettings = TrainSettings()
    evaluate: EvaluateSettings = EvaluateSettings()
    arms: tuple[ArmSettings, ...] = DEFAULT_ARMS
    pairwise: tuple[PairwiseSettings, ...] = ()
    report: ReportSettings = ReportSettings()
    track: TrackerNames = ()
    budget: BudgetSettings = BudgetSettings()
    checkpoint: CheckpointSettings = CheckpointSettings()
    bench: BenchSettings = BenchSettings()

    @field_validator(
        "safe",
        "harmful",
        mode="before",
        json_schema_input_type=DataSpec | tuple[DataSpec, ...],
    )
    @classmethod
    def _one_is_a_list_of_one(cls, value: Any) -> Any:  # noqa: ANN401 (whatever the user gave)
        return [value] if isinstance(value, dict | DataSpec) else value

    @field_validator("rank", mode="before")
    @classmethod
    def _default_unless_named(cls, value: Any) -> Any:  # noqa: ANN401
        fields = {} if value is None else value  # `rank:` with every key commented out
        return {"method": TwoSided().method, **fields} if isinstance(fields, dict) else fields

    @field_validator(
        "select", mode="before", json_schema_input_type=SelectSettings | Literal["auto"]
    )
    @classmethod
    def _may_be_auto(cls, value: Any) -> Any:  # noqa: ANN401
        return value  # `SelectSettings` reads the word; this is for the schema

    @field_validator("arms", mode="before", json_schema_input_type=tuple[ArmSettings | Word, ...])
    @classmethod
    def _may_be_words(cls, value: Any) -> Any:  # noqa: ANN401
        return value  # `ArmSettings` reads the words; this is for the schema

    @model_validator(mode="after")
    def _reference_is_held_out(self) -> Experiment:
        if self.select.reference is not None and not self.holdout:
            raise error_at(
                ("select", "reference"),
                self.select.reference,
                f"{self.select.reference} needs safe rows that the ranker did not measure against. "
                "Set holdout, such as holdout=0.2, and rank again; or choose another rule.",
            )
        return self

    @model_validator(mode="after")
    def _what_is_quantized_is_not_tuned(self) -> Experiment:
        if self.model.quantization is not None and self.train.tuning == "full":
            raise error_at(
                ("train", "tuning"),
                self.train.tuning,
                f"all weights cannot be trained with model.quantization={self.model.quantization}. "
                "Set train.tuning=lora, or leave model.quantization out.",
            )
        return self

    @model_validator(mode="after")
    def _a_file_scores_no_held_out_rows(self) -> Experiment:
        if self.holdout and not self.rank.SCORES_NEW_ROWS:
            raise error_at(
                ("holdout",),
                self.holdout,
                f"holdout={self.holdout} has the ranker score safe rows, which "
                f"rank.method={self.rank.method} has no scores for. Set holdout=0, or another "
                "ranker.",
            )
        return self

    @field_validator("seeds", "safe", "arms")
    @classmethod
    def _at_least_one(cls, items: tuple[Any, ...]) -> tuple[Any, ...]:
        if not items:
            raise ValueError("an empty list. Give at least one.")
        return items

    @field_validator("arms")
    @classmethod
    def _arms_fit_together(cls, arms: tuple[ArmSettings, ...]) -> tuple[ArmSettings, ...]:
        check_together(arms)
        return arms

    @model_validator(mode="after")
    def _arms_have_their_data(self) -> Experiment:
        check_with_safety_data(self.arms, holdout=self.holdout, has_harmful=bool(self.harmful))
        return self

    @field_validator("seeds")
    @classmethod
    def _no_repetition(cls, items: tuple[Any, ...]) -> tuple[Any, ...]:
        twice = [item for place, item in enumerate(items) if item in items[:place]]
        if twice:
            raise ValueError(f"{twice[0]!r} is given twice. Remove one of them.")
        return items

    def arm(self, name: str) -> ArmSettings:
        """The arm of that name."""
        (found,) = (arm for arm in self.arms if arm.name == name)
        return found

    def seeds_of(self, arm: ArmSettings) -> tuple[int, ...]:
        """The training seeds of an arm; the base model has none, and is measured as seed 0."""
        return (0,) if arm.is_base else self.seeds

    def trains_with(self, arm: ArmSettings) -> TrainSettings:
        """How an arm is trained: as the experiment says, and as the arm says over it."""
        own = {"mix": arm.mix, "match": arm.match}
        update = {name: value for name, value in own.items() if value is not None}
        return self.train.model_copy(update=update) if update else self.train

    @model_validator(mode="after")
    def _pairs_are_known(self) -> Experiment:
        check_pairs(self.pairwise, self.arms, self.evaluate.tasks)
        return self

    @model_validator(mode="after")
    def _a_server_tells_the_models_apart(self) -> Experiment:
        if self.evaluate.server is not None:
            cells = [(arm.name, seed) for arm in self.arms for seed in self.seeds_of(arm)]
            try:
                self.evaluate.server.check_names(cells)
            except ValueError as error:
                place = ("evaluate", "server", "model")
                raise error_at(place, self.evaluate.server.model, str(error)) from error
        return self

    @model_validator(mode="after")
    def _bench_names_are_known(self) -> Experiment:
        self.bench.entries(self.rank)  # the names may depend on `rank`
        return self


def load_experiment(config: StrPath | None, overrides: Sequence[str] = ()) -> Experiment:
    """Read an experiment.

    Args:
        config: A YAML file; None when everything is in the overrides.
        overrides: KEY=VALUE words with dotted keys. They beat the file, a later one an earlier one.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: One line per thing that is wrong: `file:line: key: what is wrong. The way out.`
    """
    config = None if config is None else Path(config)
    if config is None:
        return parse_config("", "command line", Experiment, overrides)
    if not config.is_file():
        kind = "a folder, not a file" if config.is_dir() else "no such file"
        raise FileNotFoundError(
            f"{config}: {kind}. Give a YAML file; `seal config init FILE` writes one to start from."
        )
    try:
        text = config.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        raise ValueError(f"{config}:{line}: not UTF-8 text. Save the file as UTF-8.") from error
    return parse_config(text, str(config), Experiment, overrides)


def dump_experiment(experiment: Experiment) -> str:
    """The experiment as YAML, all defaults written out; `load_experiment` reads back its equal."""
    header = (
        "# Resolved by seal: every default is written out. `seal run` on this file replays it.\n"
        "# Paths are relative to the folder in which seal was called.\n"
    )
    return header + dump_yaml(experiment.model_dump(mode="json"))


def json_schema() -> str:
    """The JSON schema of an experiment's YAML, for editors."""
    schema = Experiment.model_json_schema(mode="validation")
    default = schema["properties"]["rank"]
    for method, reference in default["discriminator"]["mapping"].items():
        definition = schema["$defs"][reference.rsplit("/", 1)[1]]
        if method != TwoSided().method:  # without it, `rank: {seed: 1}` would match every ranker
            definition["required"] = [*definition.get("required", []), "method"]
    return json.dumps(schema, indent=2)


def starter_config() -> str:
    """A commented YAML file to start from; valid as soon as its empty paths are filled in."""
    return _STARTER_HEADER + commented_yaml(Experiment, _STARTER_VALUES)
