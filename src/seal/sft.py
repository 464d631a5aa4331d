"""What is passed through to TRL and PEFT: defaults, checks, and what is not the user's to set."""

from __future__ import annotations

import dataclasses
import difflib
import math
from collections.abc import Sequence
from enum import Enum
from functools import cache
from pathlib import Path
from typing import Any, get_args, get_type_hints

import torch
import trl
from peft import LoraConfig
from pydantic import TypeAdapter, ValidationError
from trl import SFTConfig  # pyright: ignore[reportPrivateImportUsage]

from seal.processes import processes

# The fine-tuning of the paper's Llama-3-8B run, from its model card and code: Adam with betas
# (0.9, 0.95), no weight decay, a constant rate of 1e-5, clipping at 1, 2 epochs, batches of 64.
_PAPER = {
    "learning_rate": 1e-5,
    "num_train_epochs": 2,
    "per_device_train_batch_size": 8,
    "gradient_accumulation_steps": 8,
    "adam_beta1": 0.9,
    "adam_beta2": 0.95,
    "weight_decay": 0.0,
    "max_grad_norm": 1.0,
    # With no warm-up this is "constant", which would ignore a warm-up that is asked for.
    "lr_scheduler_type": "constant_with_warmup",
}
# Every step is logged, so that the step at which a loss stops being finite can be named.
_QUIET = {"report_to": "none", "disable_tqdm": True, "logging_steps": 1}

_REFUSED = {
    "this stage decides where files go; set the folder of the run instead": "output_dir",
    "the run has one seed, for the adapter and the order of samples; set that": "seed data_seed",
    "samples are cut before they are ranked, and the same tokens are trained; set max_length in "
    "the tokenization, which ranking and training share": "max_length truncation_mode",
    "a packed row holds several samples and may cut them, so what was ranked would not be what is "
    "trained; use padding_free": "packing packing_strategy eval_packing",
    "the loss is on the response tokens that were ranked; the chat template decides which these "
    "are": "completion_only_loss assistant_only_loss",
    "the samples come tokenized, by the settings of the data and the model; set it there": (
        "dataset_text_field dataset_kwargs dataset_num_proc eos_token pad_token chat_template_path"
    ),
    "the order of samples follows from the seed alone; remove it": "shuffle_dataset",
    "a selected sample would not be trained; remove it": "dataloader_drop_last",
    "the model is loaded before; set it under model": (
        "model_init_kwargs trust_remote_code use_cpu place_model_on_device"
    ),
    "the state is saved by the settings of checkpoint; set checkpoint.seconds": (
        "save_strategy save_steps save_total_limit save_only_model save_on_each_node "
        "enable_jit_checkpoint resume_from_checkpoint load_best_model_at_end"
    ),
    "nothing is evaluated during training; use the evaluate stage": (
        "do_eval do_predict eval_strategy eval_steps eval_on_start"
    ),
    "every stage is tracked alike, and who watches is no part of what is trained; set track": (
        "report_to run_name project trackio_space_id trackio_bucket_id trackio_static_space_id"
    ),
    "nothing is uploaded; push the result yourself": "push_to_hub hub_model_id hub_token",
    "it would change the batch size, and with it the result, without a word; set "
    "per_device_train_batch_size and gradient_accumulation_steps": "auto_find_batch_size",
    "a loss that is not finite must be seen; remove it": "logging_nan_inf_filter",
}
_WHY_REFUSED = {name: why for why, names in _REFUSED.items() for name in names.split()}
_SET_BY_LORA = {
    "r": "r",
    "lora_alpha": "alpha",
    "lora_dropout": "dropout",
    "target_modules": "target_modules",
}
# The others (PiSSA, OLoRA, LoftQ, ...) take something out of the base weights first.
_PLAIN_STARTS = (True, False, "gaussian", "orthogonal")
# transformers 5 renamed these and warns about the old names, which are the ones people know.
_RENAMED = {
    "gradient_checkpointing": "activation_checkpointing",
    "gradient_checkpointing_kwargs": "activation_checkpointing_kwargs",
}


def checked_arguments(args: dict[str, Any]) -> dict[str, Any]:
    """Fields of SFTConfig, each converted to its type: YAML reads 1e-5 as a text.

    Raises:
        ValueError: If there is no such field, a value is not of the field's type, or the field is
            not the user's to set.
    """
    checked = {name: _checked(name, value) for name, value in args.items()}
    for old, new in _RENAMED.items():
        if old in checked and new in checked:
            raise ValueError(f"train.args: {old} and {new} are one setting. Give one of them.")
    return checked


def lora_config(config: LoraConfig, peft: dict[str, Any]) -> LoraConfig:
    """PEFT's configuration of an adapter, with further fields under PEFT's names.

    Raises:
        ValueError: If PEFT does not know a field or does not accept a value.
    """
    known = [field.name for field in dataclasses.fields(LoraConfig) if field.init]
    for name, value in peft.items():
        _check_peft_field(name, known, value)
    try:
        return dataclasses.replace(config, **peft)
    except (TypeError, ValueError) as error:
        raise ValueError(f"train.peft: peft.LoraConfig says: {error}") from error


def sft_config(args: dict[str, Any], device: torch.device, folder: Path, seed: int) -> SFTConfig:
    """TRL's configuration: the paper's values, what the user says over them, what must hold.

    Args:
        args: What `checked_arguments` returned.
        device: Where the model is.
        folder: For what the trainer itself may write.
        seed: Of the initial adapter, dropout and the order of samples.

    Raises:
        ValueError: If TRL refuses the values, they cannot be shared among the processes of the
            launch, or one process would use several GPUs.
    """
    on_cuda = device.type == "cuda"
    arguments: dict[str, Any] = {
        **_PAPER,
        **_QUIET,
        "bf16": on_cuda and torch.cuda.is_bf16_supported() and not args.get("fp16"),
        "activation_checkpointing": on_cuda,
        "ddp_find_unused_parameters": False,  # else the graph is searched for some at every step
        **{_RENAMED.get(name, name): value for name, value in args.items()},
        "output_dir": str(folder),
        "seed": seed,
        "data_seed": seed,
        "use_cpu": device.type == "cpu",
        "max_length": None,
        "packing": False,
        "save_strategy": "no",
        "logging_nan_inf_filter": False,
    }
    arguments["gradient_accumulation_steps"] = _of_each_process(arguments)
    try:
        config = SFTConfig(**arguments)
    except ValueError as error:
        raise ValueError(f"train.args: trl.SFTConfig says: {error}") from error
    if config.n_gpu > 1:
        raise ValueError(
            f"one process sees {config.n_gpu} GPUs, over which TRL's trainer would spread batches "
            f"{config.n_gpu} times as large. Start one process per GPU (accelerate launch "
            "--num_processes N -m seal train CONFIG), or set CUDA_VISIBLE_DEVICES=0."
        )
    return config


def _of_each_process(arguments: dict[str, Any]) -> int:
    """The accumulation of each process of the launch, so that a step sees as many samples."""
    steps, size = arguments["gradient_accumulation_steps"], processes().size
    if steps % size:
        each = arguments["per_device_train_batch_size"]
        raise ValueError(
            f"train.args.gradient_accumulation_steps={steps} cannot be shared by {size} processes: "
            f"a step has {each} x {steps} = {each * steps} samples, however many processes there "
            "are. Launch a number of processes that divides it, or set "
            "per_device_train_batch_size and gradient_accumulation_steps to other numbers of the "
            "same product."
        )
    return steps // size


def num_steps(args: dict[str, Any], num_samples: int) -> int:
    """Optimiser steps on so many samples, as the trainer counts them in any number of processes.

    Args:
        args: What `checked_arguments` returned.
        num_samples: Of the training set.
    """
    found = recipe_arguments(args)
    if found.get("max_steps", -1) > 0:
        return found["max_steps"]
    batch = found["per_device_train_batch_size"] * found["gradient_accumulation_steps"]
    return math.ceil(found["num_train_epochs"] * max(1, math.ceil(num_samples / batch)))


def recipe_arguments(args: dict[str, Any]) -> dict[str, Any]:
    """Fields of SFTConfig for a trainer outside: the paper's values and what the user says."""
    return {**_PAPER, **args}


def _checked(name: str, value: Any) -> Any:  # noqa: ANN401 (of the field's type)
    hints = _sft_hints()
    if name not in hints:
        version = ".".join(trl.__version__.split(".")[:2])
        raise ValueError(
            f"train.args.{name}: SFTConfig of TRL {version} has no such field."
            f"{_nearest(name, list(hints))}"
        )
    if name in _WHY_REFUSED:
        raise ValueError(f"train.args.{name} cannot be set: {_WHY_REFUSED[name]}.")
    try:
        converted = TypeAdapter(hints[name]).validate_python(value)
        for member in get_args(hints[name]):
            if isinstance(member, type) and issubclass(member, Enum):
                converted = member(converted).value
    except ValidationError as error:
        message = error.errors(include_url=False)[0]["msg"]
        raise ValueError(f"train.args.{name}: {value!r} does not fit ({message}).") from error
    except ValueError as error:
        raise ValueError(f"train.args.{name}: {error}.") from error
    if isinstance(converted, float) and not math.isfinite(converted):
        raise ValueError(f"train.args.{name}: {value!r} is not a finite number.")
    return converted


@cache
def _sft_hints() -> dict[str, Any]:
    """Field of SFTConfig -> its type."""
    hints = get_type_hints(SFTConfig)
    return {field.name: hints[field.name] for field in dataclasses.fields(SFTConfig) if field.init}


def _check_peft_field(name: str, known: Sequence[str], init: Any) -> None:  # noqa: ANN401
    if name in _SET_BY_LORA:
        raise ValueError(f"train.peft.{name}: set train.lora.{_SET_BY_LORA[name]} instead.")
    if name not in known:
        raise ValueError(
            f"train.peft.{name}: LoraConfig of PEFT has no such field.{_nearest(name, known)}"
        )
    if name == "init_lora_weights" and init not in _PLAIN_STARTS:
        raise ValueError(
            f"train.peft.init_lora_weights={init!r} changes the base model's weights at the start, "
            "which a saved adapter does not carry. Use true, gaussian or orthogonal."
        )


def _nearest(name: str, known: Sequence[str]) -> str:
    near = difflib.get_close_matches(name, known, n=1)
    return f" Did you mean {near[0]!r}?" if near else ""
