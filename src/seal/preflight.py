"""What can be known before the first pass is checked before the first pass.

The stages check what they are given; here the settings of the later ones are tried on the model's
configuration, without a weight, and their files are opened. A run that will fail after hours of
ranking fails now, with the message that it would have had.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig
from pydantic import BaseModel

from seal.config.arms import ArmSettings
from seal.config.experiment import Experiment
from seal.generation import checked_prompt_ids
from seal.inputs import Inputs
from seal.judges.client import EndpointSettings
from seal.lora import LoraSpec, check_fits
from seal.models import (
    LanguageModel,
    ModelSpec,
    NoModelError,
    load_encoder,
    load_skeleton,
    load_tokenizer,
    resolve_device,
    starting_adapter,
)
from seal.processes import processes
from seal.rankers.ranker import Ranker
from seal.rankers.second_model import two_adapters
from seal.server import ServerSettings
from seal.sft import lora_config, sft_config
from seal.stages.train import check_adapter
from seal.starting_adapter import why_not_added_to
from seal.tasks.items import task_items


def check(inputs: Inputs) -> None:
    """Look at all stages of an experiment before the first of them.

    Raises:
        ValueError: If one of them cannot do its work.
    """
    experiment = inputs.experiment
    check_ranking(experiment)
    check_training(experiment)
    _check_arguments(experiment)
    check_evaluation(inputs)
    _ = inputs.tracking
    for arm in experiment.arms:
        if arm.is_trained:
            inputs.mix(arm)
            if arm.train_on == "oracle":
                _ = inputs.harmless_ids


def check_model(experiment: Experiment) -> None:
    """Whether the rankers and the training have what they need in the model; no data is read.

    Raises:
        ValueError: If not.
    """
    check_ranking(experiment)
    check_training(experiment)


def check_ranking(experiment: Experiment) -> None:
    """Whether the adapters of all rankers fit the model, and other models are there.

    Raises:
        ValueError: If not, with the arm and the key.
    """
    rankers = [("", experiment.rank)]
    rankers += [(f"arm {arm.name}: ", arm.rank) for arm in experiment.arms if arm.rank is not None]
    for where, ranker in rankers:
        try:
            _check_ranker(experiment.model, ranker)
        except NoModelError as error:  # of which not everyone makes an error
            raise NoModelError(f"{where}{error}") from error
        except ValueError as error:
            raise ValueError(f"{where}{error}") from error


def check_training(experiment: Experiment) -> None:
    """Whether the arms can be trained, merged and saved as the settings say.

    Raises:
        ValueError: If not.
    """
    if not any(arm.is_trained for arm in experiment.arms):
        return
    train, spec = experiment.train, experiment.model
    if train.tuning == "full":
        _check_full(spec)
        return
    check_adapter(spec, train)
    _check_merges(experiment, lora_config(train.lora.config(), train.peft))


def check_evaluation(inputs: Inputs) -> None:
    """Whether the tasks' files can be read, their prompts fit, and their judges can be asked.

    Raises:
        ValueError: If not.
    """
    experiment = inputs.experiment
    if all(_is_evaluated(inputs, arm) for arm in experiment.arms):
        return
    asked = (experiment.evaluate, experiment.pairwise)
    for endpoint in _parts_of(asked, EndpointSettings, ServerSettings):
        _check_endpoint(endpoint)
    lm = _without_weights(experiment.model)
    for task in experiment.evaluate.tasks:
        items = task_items(task, lm)
        if items is not None and items.prompts:
            checked_prompt_ids(lm, items.prompts, experiment.evaluate.decoding)


def _check_ranker(spec: ModelSpec, ranker: Ranker) -> None:
    fields = dict(ranker)
    lora = fields.get("lora")
    if isinstance(lora, LoraSpec) and fields.get("tuning", "lora") == "lora":
        check_fits(load_skeleton(spec), lora.config(), "rank.lora", merges=False)
    for name, value in fields.items():
        if isinstance(value, ModelSpec):
            try:
                load_skeleton(value)
            except NoModelError as error:  # it speaks of model.path
                raise NoModelError(f"rank.{name}: {error}") from error
        elif name.endswith("_adapter") and isinstance(value, Path):
            role = name.removesuffix("_adapter")
            below = fields.get(role)
            if starting_adapter(below or spec) is not None:
                raise ValueError(two_adapters(role, below, value))


def _check_arguments(experiment: Experiment) -> None:
    """Whether TRL takes the arguments together; not where making them changes more than them."""
    args = experiment.train.args
    is_trained = any(arm.is_trained for arm in experiment.arms)
    if not is_trained or "tf32" in args or processes().size > 1:
        return
    with tempfile.TemporaryDirectory() as folder:
        sft_config(args, resolve_device(experiment.model.device), Path(folder), 0)


def _check_merges(experiment: Experiment, config: LoraConfig) -> None:
    merging = [arm.name for arm in experiment.arms if arm.merge is not None]
    problem = why_not_added_to(config.to_dict()) if merging else None
    if problem is not None:
        raise ValueError(
            f"train.peft: the adapter {problem}, so that scaling it is not the way from the base "
            f"to the trained model, which the arm {merging[0]} asks for. Remove that from "
            "train.peft, or take the merge out of arms."
        )


def _check_full(spec: ModelSpec) -> None:
    config: Any = load_skeleton(spec).config
    kind = getattr(torch, spec.dtype) if spec.dtype != "auto" else config.dtype
    if kind in (torch.bfloat16, torch.float16):
        raise ValueError(
            f"train.tuning=full needs float32 weights, but {spec.path} is loaded in {kind} "
            f"(model.dtype={spec.dtype}), where most updates of a small learning rate round to "
            "nothing. Set model.dtype=float32, or train.tuning=lora."
        )


def _is_evaluated(inputs: Inputs, arm: ArmSettings) -> bool:
    seeds = inputs.experiment.seeds_of(arm)
    return all(inputs.run_dir.evaluate(arm.name, seed).exists() for seed in seeds)


def _without_weights(spec: ModelSpec) -> LanguageModel:
    """The model as far as its tokenizer, template and configuration go."""
    tokenizer = load_tokenizer(spec)
    return LanguageModel(load_skeleton(spec), tokenizer, load_encoder(spec, tokenizer), pad_id=0)


def _check_endpoint(endpoint: EndpointSettings | ServerSettings) -> None:
    name = endpoint.api_key_env
    if name is not None and not os.environ.get(name, "").strip():
        raise ValueError(
            f"api_key_env: the environment variable {name} is not set. Set it to the key of "
            f"{endpoint.base_url}, or leave api_key_env out for a server without keys."
        )
    if find_spec("openai") is None:
        raise ValueError(
            f"what is asked at {endpoint.base_url} needs the package openai: pip install "
            "'seal[judge]'."
        )


def _parts_of(settings: object, *kinds: type[Any]) -> Iterator[Any]:
    """Settings of some kinds, however deep in others."""
    if isinstance(settings, kinds):
        yield settings
        return
    inside: Iterable[object] = ()
    if isinstance(settings, BaseModel):
        inside = [value for _, value in settings]
    elif isinstance(settings, tuple | list):
        inside = settings
    for value in inside:
        yield from _parts_of(value, *kinds)
