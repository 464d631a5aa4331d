"""docs/configuration.md lists every key there is, with the default that it has."""

import re
from pathlib import Path
from typing import Any, get_args

import pytest
import yaml

from seal.artifacts.settings import Settings
from seal.checkpoint import CheckpointSettings
from seal.config.experiment import BudgetSettings, Experiment
from seal.data.load import DataSpec
from seal.data.tokenize import Tokenization
from seal.models import LoraSpec, ModelSpec
from seal.rankers.union import AnyRanker
from seal.stages.select import SelectSettings
from seal.stages.train import MixSettings, TrainSettings

PAGE = (Path(__file__).parents[1] / "docs" / "configuration.md").read_text("utf-8")
PARTS = re.split(r"^##+ (.*)$", PAGE, flags=re.MULTILINE)
SECTIONS = dict(zip(PARTS[1::2], PARTS[2::2], strict=True))
RANKERS = get_args(get_args(AnyRanker)[0])
KINDS: dict[str, tuple[type[Settings], ...]] = {
    "The experiment": (Experiment,),
    "model": (ModelSpec,),
    "Data sets": (DataSpec,),
    "tokenization": (Tokenization,),
    "budget": (BudgetSettings,),
    "checkpoint": (CheckpointSettings,),
    "lora": (LoraSpec,),
    "select": (SelectSettings,),
    "train": (TrainSettings, MixSettings),
    **{f"method: {kind.model_fields['method'].default}": (kind,) for kind in RANKERS},
}


@pytest.mark.parametrize(("heading", "kinds"), KINDS.items(), ids=KINDS.keys())
def test_every_key_is_there_with_its_default(heading, kinds):
    rows = dict(re.findall(r"^\| `(\w+)` \| (.*?) \|", SECTIONS[heading], re.MULTILINE))
    fields = {name: field for kind in kinds for name, field in kind.model_fields.items()}
    fields.pop("method", None)
    assert rows.keys() == fields.keys()
    for name, written in rows.items():
        default: Any = fields[name].default
        if written and written != "required" and isinstance(default, int | float | str | None):
            read = yaml.safe_load(written.strip("`"))  # 5e-3 is a text in YAML 1.1
            assert (float(read) if isinstance(default, float) else read) == default, name


def test_no_ranker_is_left_out():
    assert len(RANKERS) > 10
    assert {heading for heading in SECTIONS if heading.startswith("method: ")} <= KINDS.keys()
