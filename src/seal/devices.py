"""Where a model is, and in how many bits."""

from __future__ import annotations

import os
from importlib.util import find_spec
from typing import Any, Literal

import torch
from transformers import BitsAndBytesConfig

from seal.processes import local_rank, processes

Quantization = Literal["4bit"]


def resolve_device(name: str) -> torch.device:
    """The device called `name`; "auto" is CUDA where present, else the CPU.

    Of several processes on a machine, each has the GPU of its number.

    Raises:
        ValueError: If no device is called that, or one GPU is named for several processes.
    """
    if name == "auto":
        wants_cpu = os.environ.get("ACCELERATE_USE_CPU") == "true"
        name = "cuda" if torch.cuda.is_available() and not wants_cpu else "cpu"
    try:
        device = torch.device(name)
        if device.type != "cuda" or processes().size == 1:
            return device
        if device.index is None:
            return torch.device("cuda", local_rank())
        raise ValueError(
            f"model.device={name}: one GPU, but {processes().size} processes were launched. Set "
            "model.device=cuda, which gives each process one of its own."
        )
    except RuntimeError as error:
        raise ValueError(
            f"model.device={name}: not the name of a device ({first_line(error)}). Give auto, "
            "cpu, or cuda."
        ) from error


def check_device(device: torch.device) -> None:
    """Refuse a device that this machine does not have.

    Raises:
        ValueError: If it is so.
    """
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise ValueError(
            f"model.device={device}: this machine has no such device ({first_line(error)}). Give "
            "auto or cpu."
        ) from error


def quantized(kind: Quantization | None, device: torch.device) -> dict[str, Any]:
    """What from_pretrained is told besides; the recipe is that of QLoRA (arXiv 2305.14314).

    Raises:
        ValueError: If the package that does it is missing.
    """
    if kind is None:
        return {}
    if find_spec("bitsandbytes") is None:
        raise ValueError(
            f"model.quantization={kind} needs bitsandbytes, which is not installed. "
            "Install the extra: pip install 'seal[quantized]'; or leave model.quantization out."
        )
    config = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=torch.bfloat16,
    )
    return {"quantization_config": config, "device_map": {"": device}}


def first_line(error: Exception) -> str:
    """What an error says, in short."""
    text = str(error).strip()
    return text.splitlines()[0].rstrip(".") if text else type(error).__name__
