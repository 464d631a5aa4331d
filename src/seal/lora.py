"""LoRA adapters: their settings, and whether a model can carry them, before any weight is read."""

from __future__ import annotations

import copy
import re
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, cast

import torch
from peft import LoraConfig, PeftModel, get_peft_model, get_peft_model_state_dict
from peft.tuners.lora import LoraLayer
from peft.tuners.tuners_utils import BaseTunerLayer
from peft.utils.constants import TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING
from peft.utils.other import AuxiliaryTrainingWrapper, TrainableTokensWrapper
from pydantic import Field
from safetensors import SafetensorError, safe_open
from torch import nn
from transformers import PreTrainedModel

from seal.artifacts.settings import Settings
from seal.devices import first_line

# What transformers and PEFT raise on a folder that is empty, foreign, cut off or inconsistent.
UNREADABLE = (
    OSError, ValueError, KeyError, TypeError, RuntimeError, ImportError, SafetensorError,
)  # fmt: skip


class LoraSpec(Settings):
    """A LoRA adapter; the defaults are the paper's (r 16, alpha 16, no dropout, q and v).

    Attributes:
        r: Rank.
        alpha: Scale; the update is multiplied by alpha / r.
        dropout: Of the adapter's input, in [0, 1).
        target_modules: Names of the linear layers, or "all-linear"; None takes PEFT's choice for
            the architecture, which for Llama, Qwen, Mistral and Gemma is q_proj and v_proj.
    """

    r: int = Field(default=16, ge=1)
    alpha: int = Field(default=16, ge=1)
    dropout: float = Field(default=0.0, ge=0, lt=1)
    target_modules: tuple[str, ...] | Literal["all-linear"] | None = None

    def config(self) -> LoraConfig:
        """The same as PEFT's own configuration."""
        modules = self.target_modules
        return LoraConfig(
            r=self.r,
            lora_alpha=self.alpha,
            lora_dropout=self.dropout,
            target_modules=list(modules) if isinstance(modules, tuple) else modules,
            task_type="CAUSAL_LM",
        )


def add_lora(
    model: nn.Module,
    lora: LoraSpec,
    *,
    seed: int,
    name: str = "default",
    key: str = "rank.lora",
) -> PeftModel:
    """Put a fresh LoRA adapter on a model, or one more on a model that has some.

    The base weights are frozen. The initial values depend on `seed` alone, and the global random
    state is left as it was.

    Args:
        model: The model.
        lora: The adapter.
        seed: Of its initial values.
        name: What it is called in the model.
        key: Where its settings stand, for messages.

    Raises:
        ValueError: If the adapter's target modules do not exist in the model.
    """
    _check_names(model, lora.config(), key)
    # manual_seed also seeds the GPUs, if they are in use
    gpus = range(torch.cuda.device_count()) if torch.cuda.is_initialized() else ()
    with torch.random.fork_rng(devices=gpus), quiet_peft():
        torch.manual_seed(seed)
        if isinstance(model, PeftModel):
            model.add_adapter(name, lora.config())
            return model
        try:
            return get_peft_model(model, lora.config(), adapter_name=name)
        except ValueError as error:
            raise ValueError(_refused(model, key, error)) from error


def laid_over(model: nn.Module, folder: Path) -> PeftModel:
    """A saved adapter over a model, with all of its weights in their places.

    Raises:
        ValueError: If weights of the adapter are missing in the file, or have no place in the
            model; PEFT would leave them out. What PEFT and torch raise besides are `UNREADABLE`.
    """
    with quiet_peft(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # missing keys and tied layers are looked at by us
        laid = PeftModel.from_pretrained(cast(Any, model), str(folder))
    there = get_peft_model_state_dict(laid, save_embedding_layers=False).keys()
    with safe_open(folder / "adapter_model.safetensors", framework="pt") as file:
        saved = set(file.keys())
    if any(".experts." in name for name in saved):  # PEFT may put those of all experts in one
        return laid
    missing = sorted(there - saved)
    odd = sorted(name for name in saved - there if "lora_" in name)
    if missing or odd:
        what = f"{len(missing)} of its weights are missing" if missing else (
            f"{len(odd)} of its weights have no place in the model"
        )  # fmt: skip
        raise ValueError(f"{what}, first: {(missing or odd)[0]}")
    return laid


def check_fits(skeleton: nn.Module, config: LoraConfig, key: str, *, merges: bool = True) -> None:
    """Find out whether a model can carry an adapter, and whether that can be merged afterwards.

    Args:
        skeleton: The model, or its layers without weights; it is of no further use.
        config: The adapter.
        key: Where its settings stand, for messages: "train.lora" or "rank.lora".
        merges: Whether an adapter that cannot be merged is refused.

    Raises:
        ValueError: If a name in the configuration matches nothing, PEFT refuses the layers, or the
            adapter would train a part of weights that two layers share.
    """
    _check_names(skeleton, config, key)
    config = copy.deepcopy(config)
    said = copy.deepcopy(config)  # PEFT writes into the one that it is given
    is_tied = has_tied_embeddings(skeleton)
    layers = matrices(skeleton)
    names = [name for name, _ in skeleton.named_modules()]
    try:
        with quiet_peft(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about layers that are tied: see below
            model = get_peft_model(cast(Any, skeleton), config, low_cpu_mem_usage=True)
    except (ValueError, NotImplementedError, IndexError) as error:
        raise ValueError(_refused(skeleton, key, error, layers)) from error
    _check_patterns(model, said, names)
    if merges and is_tied:
        _check_tied(model, key)


def has_tied_embeddings(model: nn.Module) -> bool:
    """Whether the output layer has the very weights of the input embeddings."""
    causal = cast(PreTrainedModel, model)
    output = causal.get_output_embeddings()
    if output is None:
        return False
    inputs = cast(nn.Embedding, causal.get_input_embeddings())
    return cast(nn.Linear, output).weight is inputs.weight


def tied_and_adapted(model: PeftModel) -> list[str]:
    """The input and output embeddings that an adapter trains in a way of their own.

    What trains single tokens (trainable_token_indices) does so in both.
    """
    causal = cast(PreTrainedModel, model.get_base_model())
    ends = (causal.get_input_embeddings(), causal.get_output_embeddings())
    return [
        name.rpartition(".")[2]
        for name, module in causal.named_modules()
        if module in ends
        and isinstance(module, BaseTunerLayer | AuxiliaryTrainingWrapper)
        and not isinstance(module, TrainableTokensWrapper)
    ]


def matrices(model: nn.Module) -> list[str]:
    """Names of the layers that an adapter can be put on, each once."""
    parameters = ((name.split("."), value) for name, value in model.named_parameters())
    return sorted(
        {path[-2] for path, value in parameters if path[-1] == "weight" and value.dim() == 2}
    )


@contextmanager
def quiet_peft() -> Iterator[None]:
    """PEFT 0.21 puts an adapter on a model without the warning that it can do nothing about.

    It reads `is_gradient_checkpointing`, which transformers 5.23 has renamed. Remove this with the
    first PEFT that reads `is_activation_checkpointing`.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "`is_gradient_checkpointing` is deprecated")
        yield


def _check_names(model: nn.Module, config: LoraConfig, key: str) -> None:
    """Refuse names that match nothing; PEFT passes over them as long as another one matches."""
    names = [name for name, _ in model.named_modules()]
    wanted = config.target_modules
    if wanted is None and not config.target_parameters:
        _check_default(model, key)
    if isinstance(wanted, list | set | tuple):
        unknown = sorted(_unmatched(wanted, names))
        if unknown or (not wanted and not config.target_parameters):
            what = f"target modules {', '.join(unknown)} not found in the model"
            what = what if unknown else "empty"
            raise ValueError(
                f"{key}.target_modules: {what}. There are: {', '.join(matrices(model))}."
                f"{_experts(model, unknown)}"
            )
    saved = sorted(_unmatched(config.modules_to_save or (), names))
    if saved:
        raise ValueError(
            f"train.peft.modules_to_save: {', '.join(saved)} not found in the model. There are: "
            f"{', '.join(matrices(model))}."
        )
    parameters = [name for name, _ in model.named_parameters()]
    unknown = sorted(_unmatched(list(config.target_parameters or []), parameters))
    if unknown:
        raise ValueError(
            f"train.peft.target_parameters: {', '.join(unknown)} not found in the model."
            f"{_experts(model, ()) or ' It has none outside of layers that target_modules names.'}"
        )


def _check_default(model: nn.Module, key: str) -> None:
    kind = cast(PreTrainedModel, model).config.model_type
    if kind not in TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING:
        raise ValueError(
            f"{key}.target_modules is not set, and PEFT has no choice of its own for {kind} "
            f"models. Name some of: {', '.join(matrices(model))}; or say all-linear."
        )


def _check_patterns(model: PeftModel, config: LoraConfig, names: Sequence[str]) -> None:
    """Refuse settings for layers that the adapter does not have; PEFT passes over them."""
    adapted = [name for name, module in model.named_modules() if isinstance(module, LoraLayer)]
    patterns = {"rank_pattern": config.rank_pattern, "alpha_pattern": config.alpha_pattern}
    for field, keys in patterns.items():
        idle = [key for key in keys or () if not any(_fits(key, name) for name in adapted)]
        if idle:
            raise ValueError(
                f"train.peft.{field}: {', '.join(idle)} matches no layer that the adapter is on. "
                f"It is on: {', '.join(sorted({name.rpartition('.')[2] for name in adapted}))}."
            )
    excluded = config.exclude_modules or ()
    idle = [] if isinstance(excluded, str) else sorted(_unmatched(excluded, names))
    if idle:
        raise ValueError(
            f"train.peft.exclude_modules: {', '.join(idle)} not found in the model, so nothing "
            "would be excluded."
        )
    _check_layers(config, adapted)


def _check_layers(config: LoraConfig, adapted: Sequence[str]) -> None:
    wanted = config.layers_to_transform
    numbers = [] if wanted is None else [wanted] if isinstance(wanted, int) else list(wanted)
    there = {int(part) for name in adapted for part in name.split(".") if part.isdigit()}
    gone = [str(number) for number in numbers if number not in there]
    if gone:
        raise ValueError(
            f"train.peft.layers_to_transform: no layer {', '.join(gone)} with these target modules."
        )


def _check_tied(model: PeftModel, key: str) -> None:
    touched = tied_and_adapted(model)
    if touched:
        raise ValueError(
            f"{key}: the adapter trains {' and '.join(touched)}, but the model's input and output "
            "embeddings are the same weights (tie_word_embeddings), so that the adapter could not "
            "be merged: what is added to one would be added to the other. Leave "
            f"{', '.join(touched)} out of target_modules and modules_to_save; to train single "
            "tokens, set train.peft.trainable_token_indices."
        )


def _experts(model: nn.Module, names: Sequence[str]) -> str:
    """Weights that are no layers of their own, such as those of all experts in one tensor."""
    stacked = sorted(
        {
            f"{name.rpartition('.')[2]}.{field}"
            for name, module in model.named_modules()
            if not type(module).__module__.startswith("torch.nn")  # a convolution has such, too
            for field, value in module.named_parameters(recurse=False)
            if value.dim() == 3 and value.shape[0] > 1
        }
    )
    if not stacked:
        return ""
    inside = [name for name in names if any(one.endswith(f".{name}") for one in stacked)]
    what = f"{', '.join(inside)}: the" if inside else "The"
    return (
        f" {what} weights of all experts lie in one tensor here, which train.peft."
        f"target_parameters adapts: {', '.join(stacked)}."
    )


def _unmatched(wanted: Sequence[str] | set[str], names: Sequence[str]) -> list[str]:
    """As PEFT matches: a whole name, or its last parts."""
    return [
        one for one in wanted if not any(name == one or name.endswith(f".{one}") for name in names)
    ]


def _fits(pattern: str, name: str) -> bool:
    return re.fullmatch(rf"(.*\.)?({pattern})", name) is not None


def _refused(
    model: nn.Module, key: str, error: Exception, layers: Sequence[str] | None = None
) -> str:
    # What PEFT names in quotes is what it cannot take.
    others = [name for name in layers or matrices(model) if f"'{name}'" not in str(error)]
    return (
        f"{key}: PEFT cannot put this adapter on the model: {first_line(error)}. Set "
        f"{key}.target_modules to some of: {', '.join(others)}."
    )
