"""What is passed through to TRL and PEFT, and what is refused."""

import math
from pathlib import Path

import pytest
import torch

from seal.models import LoraSpec
from seal.processes import Processes
from seal.sft import checked_arguments, lora_config, sft_config

CPU = torch.device("cpu")


def config(args=None, **changes):
    return sft_config(checked_arguments(args or {}), CPU, Path("unused"), **{"seed": 3} | changes)


def test_defaults_are_the_papers():
    made = config()
    assert made.learning_rate == 1e-5
    assert made.per_device_train_batch_size * made.gradient_accumulation_steps == 64
    assert made.num_train_epochs == 2
    assert (made.adam_beta1, made.adam_beta2, made.weight_decay) == (0.9, 0.95, 0.0)
    assert made.max_grad_norm == 1.0
    assert made.lr_scheduler_type == "constant_with_warmup"
    assert made.warmup_steps == 0


def test_what_the_contract_needs():
    made = config()
    assert made.max_length is None
    assert not made.packing
    assert (made.seed, made.data_seed) == (3, 3)
    assert made.save_strategy == "no"
    assert made.report_to == []
    assert made.disable_tqdm
    assert not made.logging_nan_inf_filter


def test_no_mixed_precision_nor_checkpointing_on_the_cpu_unless_asked():
    assert (config().bf16, config().activation_checkpointing) == (False, False)
    asked = config({"bf16": True, "gradient_checkpointing": True})
    assert (asked.bf16, asked.activation_checkpointing) == (True, True)


@pytest.mark.parametrize(
    ("name", "given", "expected"),
    [
        ("learning_rate", "1e-4", 1e-4),
        ("learning_rate", "1E-4", 1e-4),
        ("learning_rate", 1, 1.0),
        ("per_device_train_batch_size", "4", 4),
        ("neftune_noise_alpha", "5", 5.0),
        ("bf16", "false", False),
        ("warmup_steps", "0.03", 0.03),
        ("lr_scheduler_type", "cosine", "cosine"),
        ("optim_target_modules", ["a"], ["a"]),
    ],
)
def test_values_get_the_fields_type(name, given, expected):
    value = checked_arguments({name: given})[name]
    assert value == expected
    assert type(value) is type(expected)


@pytest.mark.parametrize(
    ("args", "text"),
    [
        (
            {"learing_rate": 1e-4},
            r"^train\.args\.learing_rate: SFTConfig of TRL 1\.16 has no such field\. "
            r"Did you mean 'learning_rate'\?$",
        ),
        ({"zzzzzz": 1}, r"^train\.args\.zzzzzz: SFTConfig of TRL 1\.16 has no such field\.$"),
        ({"warmup_ratio": 0.1}, r"no such field\. Did you mean 'warmup_steps'\?"),
        ({"learning_rate": "fast"}, r"^train\.args\.learning_rate: 'fast' does not fit \(Input"),
        ({"learning_rate": None}, r"^train\.args\.learning_rate: None does not fit"),
        ({"learning_rate": math.nan}, r"^train\.args\.learning_rate: nan is not a finite number"),
        ({"max_grad_norm": "inf"}, r"^train\.args\.max_grad_norm: 'inf' is not a finite number"),
        ({"per_device_train_batch_size": 1.5}, r"per_device_train_batch_size: 1\.5 does not fit"),
        ({"lr_scheduler_type": "cosin"}, r"^train\.args\.lr_scheduler_type: cosin is not a valid"),
        (
            {"gradient_checkpointing": True, "activation_checkpointing": False},
            r"gradient_checkpointing and activation_checkpointing are one setting\. Give one",
        ),
        ({"max_length": 10}, r"^train\.args\.max_length cannot be set: .*set max_length in the"),
        ({"output_dir": "x"}, r"output_dir cannot be set: .*folder of the run"),
        ({"seed": 1}, r"seed cannot be set: the run has one seed"),
        ({"data_seed": 1}, r"data_seed cannot be set: the run has one seed"),
        ({"packing": True}, r"packing cannot be set: .*use padding_free"),
        ({"completion_only_loss": True}, r"completion_only_loss cannot be set: the loss is on"),
        ({"assistant_only_loss": True}, r"assistant_only_loss cannot be set: the loss is on"),
        ({"dataset_text_field": "x"}, r"dataset_text_field cannot be set: the samples come tok"),
        ({"dataloader_drop_last": True}, r"would not be trained; remove it"),
        ({"use_cpu": True}, r"use_cpu cannot be set: .*set it under model"),
        (
            {"save_strategy": "epoch"},
            r"saved by the settings of checkpoint; set checkpoint\.seconds",
        ),
        ({"eval_strategy": "epoch"}, r"nothing is evaluated during training; use the eval"),
        ({"push_to_hub": True}, r"nothing is uploaded"),
        ({"auto_find_batch_size": True}, r"would change the batch size.*set per_device_train"),
        ({"logging_nan_inf_filter": True}, r"must be seen; remove it"),
    ],
)
def test_what_is_refused(args, text):
    with pytest.raises(ValueError, match=text):
        checked_arguments(args)


def test_what_trl_itself_refuses():
    with pytest.raises(ValueError, match=r"^train\.args: trl\.SFTConfig says: .*warmup_steps = -1"):
        config({"warmup_steps": -1})


def launched(monkeypatch, size: int) -> None:
    monkeypatch.setattr("seal.sft.processes", lambda: Processes(0, size))


@pytest.mark.parametrize(("size", "steps"), [(1, 8), (2, 4), (8, 1)])
def test_processes_share_the_accumulation_of_a_step(monkeypatch, size, steps):
    launched(monkeypatch, size)
    made = config()
    assert (made.per_device_train_batch_size, made.gradient_accumulation_steps) == (8, steps)


def test_processes_that_cannot_share_it(monkeypatch):
    launched(monkeypatch, 3)
    text = (
        r"gradient_accumulation_steps=8 cannot be shared by 3 processes: a step has 8 x 8 = 64 "
        r"samples, .*Launch a number of processes that divides it, or set per_device"
    )
    with pytest.raises(ValueError, match=text):
        config()


def test_one_process_that_sees_several_gpus(monkeypatch):
    monkeypatch.setattr("trl.SFTConfig.n_gpu", 2)
    with pytest.raises(ValueError, match=r"one process sees 2 GPUs.*accelerate launch .*CUDA_VIS"):
        config()


def test_lora_with_further_fields():
    made = lora_config(LoraSpec(r=4, alpha=8).config(), {"use_rslora": True, "bias": "lora_only"})
    assert (made.r, made.lora_alpha, made.use_rslora, made.bias) == (4, 8, True, "lora_only")
    assert made.task_type == "CAUSAL_LM"


@pytest.mark.parametrize(
    ("peft", "text"),
    [
        ({"use_rslra": True}, r"^train\.peft\.use_rslra: .*Did you mean 'use_rslora'\?$"),
        ({"lora_alpha": 3}, r"^train\.peft\.lora_alpha: set train\.lora\.alpha instead\.$"),
        ({"target_modules": "all-linear"}, r"set train\.lora\.target_modules instead"),
        ({"init_lora_weights": "pissa"}, r"'pissa' changes the base model's weights.*Use true, ga"),
        (
            {"layers_to_transform": [1]} | {"layers_pattern": 1, "layer_replication": 1},
            r"^train\.peft: peft\.LoraConfig says: ",
        ),
    ],
)
def test_peft_fields_that_are_refused(peft, text):
    with pytest.raises(ValueError, match=text):
        lora_config(LoraSpec(target_modules="all-linear").config(), peft)
