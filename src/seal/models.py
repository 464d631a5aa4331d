"""Language models: the only place that calls from_pretrained and save_pretrained."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id
from peft import PeftModel
from peft.utils.constants import TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING
from torch import Tensor, nn
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedConfig,
    PreTrainedModel,
)
from transformers.tokenization_utils_base import PreTrainedTokenizerBase
from transformers.utils.logging import disable_progress_bar

from seal.artifacts.paths import StrPath
from seal.artifacts.provenance import folder_hashes
from seal.data.end_of_turn import configured_ends
from seal.data.tokenize import ChatEncoder
from seal.devices import check_device, first_line, quantized, resolve_device
from seal.lora import UNREADABLE, LoraSpec, add_lora, laid_over, quiet_peft
from seal.loss_backends.choice import set_loss_backend
from seal.model_folders import (
    CONFIG,
    WEIGHTS,
    hub_commit,
    model_identity,
)
from seal.model_spec import ModelSpec, base_of, starting_adapter
from seal.packing import set_batches
from seal.starting_adapter import merged

# What a tokenizer cannot do without, by kind.
_VOCABULARIES = ("tokenizer.json", "tokenizer.model", "spiece.model", "vocab.json", "vocab.txt")

__all__ = [
    "LanguageModel",
    "LoraSpec",
    "ModelSpec",
    "NoModelError",
    "add_lora",
    "base_of",
    "default_targets",
    "load_encoder",
    "load_model",
    "load_skeleton",
    "load_tokenizer",
    "loaded_identity",
    "quiet_peft",
    "resolve_device",
    "save_model",
    "starting_adapter",
]

logger = logging.getLogger(__name__)
disable_progress_bar()  # "Loading weights" would tear our own bars apart


class NoModelError(ValueError):
    """There is no model at a path that this machine can read."""


@dataclass(frozen=True, slots=True)
class LanguageModel:
    """A model in memory with what is needed to talk to it.

    Attributes:
        model: The causal language model, in evaluation mode.
        tokenizer: Its tokenizer.
        encoder: Renders conversations with the model's chat template and tokenizes them.
        pad_id: Fills the attention-masked places of a batch; any valid token will do.
        identity: What the model is and how it is loaded, as JSON; changes with any byte of its
            files. None for weights that were changed in memory.
    """

    model: nn.Module
    tokenizer: PreTrainedTokenizerBase
    encoder: ChatEncoder
    pad_id: int
    identity: Mapping[str, Any] | None = None

    @property
    def device(self) -> torch.device:
        """Where the model's first parameter lives."""
        return next(self.model.parameters()).device


def load_tokenizer(spec: ModelSpec) -> PreTrainedTokenizerBase:
    """The model's tokenizer.

    An adapter's own files come first: its tokenizer, or its chat template with the base's
    tokenizer.

    Raises:
        ValueError: If there is none at `spec.path`, nor at the base of an adapter.
    """
    adapter = starting_adapter(spec)
    if adapter is None:
        return _tokenizer(spec, spec)
    if any((adapter.path / name).is_file() for name in _VOCABULARIES):
        here = {"path": str(adapter.path), "revision": None}
        return _tokenizer(spec.model_copy(update=here), spec)
    tokenizer = _tokenizer(base_of(spec), spec)
    template = adapter.path / "chat_template.jinja"
    if template.is_file():
        tokenizer.chat_template = template.read_text("utf-8")
    return tokenizer


def _tokenizer(spec: ModelSpec, asked: ModelSpec) -> PreTrainedTokenizerBase:
    try:
        return AutoTokenizer.from_pretrained(
            spec.path, revision=spec.revision, trust_remote_code=spec.trust_remote_code
        )
    except UNREADABLE as error:
        raise NoModelError(_cannot_load("tokenizer", spec, error, asked)) from error


def load_encoder(spec: ModelSpec, tokenizer: PreTrainedTokenizerBase) -> ChatEncoder:
    """The chat encoder of a model, with the template that `spec` asks for."""
    template = None if spec.chat_template is None else spec.chat_template.read_text("utf-8")
    return ChatEncoder(
        tokenizer,
        template=template,
        template_kwargs=spec.chat_template_kwargs,
        reasoning_marks=spec.reasoning_marks,
        end_ids=configured_ends(spec.path, spec.revision, trusted=spec.trust_remote_code),
    )


def load_model(spec: ModelSpec, adapter: StrPath | None = None) -> LanguageModel:
    """Load a model, and lay a trained adapter over it where one is given.

    Args:
        spec: The model. The folder of an adapter is its base with that adapter merged into it.
        adapter: What was trained on the model. If `spec` names an adapter, this one has that one
            in it, and lies on the base alone.

    Raises:
        ValueError: If there is no model at `spec.path`, some of its weights are missing, its
            tokenizer knows more tokens than the model has embeddings for, or the adapter cannot be
            read.
    """
    adapter = None if adapter is None else Path(adapter)
    tokenizer = load_tokenizer(spec)
    device = resolve_device(spec.device)
    check_device(device)
    model = _pretrained(spec, device)
    _check_vocabulary(spec, tokenizer, model)
    start = starting_adapter(spec)
    if adapter is not None:
        model = _with_adapter(model, adapter)
    elif start is not None:
        model = merged(model, start)
    set_loss_backend(model, spec.loss_backend)
    set_batches(model, spec.batches)
    if spec.quantization is None:  # else it is there already, and may not be moved
        cast(nn.Module, model).to(device)
    cast(nn.Module, model).eval()
    encoder = load_encoder(spec, tokenizer)
    identity = {**loaded_identity(spec), "template": encoder.template_hash}
    if adapter is not None:
        identity["adapter"] = folder_hashes(adapter)
    return LanguageModel(model, tokenizer, encoder, _pad_id(tokenizer), identity)


def _pretrained(asked: ModelSpec, device: torch.device) -> PreTrainedModel:
    """The whole model, or the one below an adapter, with all of its weights."""
    spec = base_of(asked)
    revision = spec.revision
    if not Path(spec.path).is_dir():
        revision = hub_commit(spec.path, spec.revision) or spec.revision
    try:
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            spec.path,
            revision=revision,
            dtype=spec.dtype if spec.dtype == "auto" else getattr(torch, spec.dtype),
            attn_implementation=spec.attn_implementation,
            trust_remote_code=spec.trust_remote_code,
            use_safetensors=True,
            output_loading_info=True,
            **quantized(spec.quantization, device),
        )
    except UNREADABLE as error:
        raise NoModelError(_cannot_load("model", spec, error, asked)) from error
    model, loading = loaded
    _check_complete(spec, sorted(loading["missing_keys"]))
    return model


def load_skeleton(spec: ModelSpec) -> nn.Module:
    """A model's layers without weights, from its configuration alone; none takes up memory.

    Raises:
        ValueError: If there is no configuration of a causal language model at `spec.path`.
    """
    config = _config(spec)
    try:
        with torch.device("meta"):
            return AutoModelForCausalLM.from_config(
                config, trust_remote_code=spec.trust_remote_code
            )
    except UNREADABLE as error:
        raise NoModelError(_cannot_load("model", base_of(spec), error, spec)) from error


def _config(asked: ModelSpec) -> PreTrainedConfig:
    spec = base_of(asked)
    try:
        return AutoConfig.from_pretrained(
            spec.path, revision=spec.revision, trust_remote_code=spec.trust_remote_code
        )
    except UNREADABLE as error:
        raise NoModelError(_cannot_load("config", spec, error, asked)) from error


def _with_adapter(model: PreTrainedModel, adapter: Path) -> PeftModel:
    weights = adapter / WEIGHTS
    if not weights.is_file():  # PEFT would unpickle adapter_model.bin instead
        raise ValueError(
            f"{adapter}: no {weights.name} here, and pickled weights are not read. Put the file "
            "back, or train again."
        )
    try:
        return laid_over(model, adapter)
    except UNREADABLE as error:
        raise ValueError(
            f"{adapter}: not an adapter that fits this model ({first_line(error)}). Train again."
        ) from error


def loaded_identity(spec: ModelSpec) -> dict[str, Any]:
    """What a model is and how it is loaded; changes with any byte of its files."""
    loading = {"dtype": spec.dtype, "attn_implementation": spec.attn_implementation}
    if spec.quantization is not None:
        loading["quantization"] = spec.quantization
    return {**model_identity(spec.path, spec.revision), **loading}


def default_targets(spec: ModelSpec) -> tuple[str, ...]:
    """The linear layers that PEFT adapts where nothing is said, by architecture.

    Raises:
        ValueError: If there is no model at `spec.path`, or PEFT has no choice for its kind.
    """
    config = _config(spec)
    chosen = TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING.get(config.model_type)
    if chosen is None:
        raise ValueError(
            f"lora.target_modules is not set, and PEFT has no choice of its own for "
            f"{config.model_type} models ({spec.path}). Name the layers, or say all-linear."
        )
    return tuple(chosen)


def save_model(
    model: nn.Module,
    spec: ModelSpec,
    folder: StrPath,
    weights: Mapping[str, Tensor] | None = None,
) -> None:
    """Save a whole model with the tokenizer and chat template that `spec` asks for.

    Args:
        model: The model.
        spec: What it was loaded by.
        folder: Where it goes.
        weights: Its weights, where they are not whole in the model itself.
    """
    folder = Path(folder)
    state = None if weights is None else dict(weights)
    cast(PreTrainedModel, model).save_pretrained(folder, state_dict=state)
    tokenizer = load_tokenizer(spec)  # afresh: training may have given the other one a pad token
    if spec.chat_template is not None:
        tokenizer.chat_template = spec.chat_template.read_text("utf-8")
    tokenizer.save_pretrained(folder)


def _pad_id(tokenizer: PreTrainedTokenizerBase) -> int:
    if tokenizer.pad_token_id is not None:
        return cast(int, tokenizer.pad_token_id)
    logger.info("the tokenizer has no pad token; padding, which is masked, uses token 0")
    return 0


def _check_vocabulary(
    spec: ModelSpec, tokenizer: PreTrainedTokenizerBase, model: nn.Module
) -> None:
    embeddings = cast(PreTrainedModel, model).get_input_embeddings()
    num_embeddings = cast(nn.Embedding, embeddings).weight.shape[0]
    if len(tokenizer) > num_embeddings:
        raise ValueError(
            f"{spec.path}: the tokenizer has {len(tokenizer)} tokens, but the model only "
            f"{num_embeddings} embeddings. They do not belong together: take both from the same "
            "checkpoint, or resize the model's embeddings first."
        )


def _check_complete(spec: ModelSpec, missing: list[str]) -> None:
    # transformers fills them with random numbers and only logs a warning.
    if missing:
        raise ValueError(
            f"model.path={spec.path}: {len(missing)} weights of the model are missing (first: "
            f"{missing[0]}). Give a complete checkpoint of a causal language model."
        )


def _cannot_load(what: str, spec: ModelSpec, error: Exception, asked: ModelSpec) -> str:
    if spec.path == asked.path:
        return _cannot_load_own(what, spec, error)
    return (
        f"model.path={asked.path} is an adapter on {spec.path}, of which no {what} could be loaded "
        f"({first_line(error)}). Put that model there, or write its folder or Hub name as "
        f"base_model_name_or_path into {Path(asked.path) / CONFIG}."
    )


def _cannot_load_own(what: str, spec: ModelSpec, error: Exception) -> str:
    place = "folder" if Path(spec.path).exists() else "folder or Hub name"
    if what == "model" and spec.quantization is not None:
        return (
            f"model.path={spec.path}: no model could be loaded with model.quantization="
            f"{spec.quantization} on {spec.device} ({first_line(error)}). Leave "
            "model.quantization out, or take a device that bitsandbytes supports (CUDA)."
        )
    if place != "folder" and not _may_be_on_hub(spec.path):
        return (
            f"model.path={spec.path}: there is no such folder. Give a folder that save_pretrained "
            "wrote, or the name of a model on the Hub (NAME or OWNER/NAME)."
        )
    return (
        f"model.path={spec.path}: no {what} could be loaded from this {place} "
        f"({first_line(error)}). Give a folder that save_pretrained wrote, with config.json, "
        "safetensors weights and tokenizer files, or the name of a model on the Hub that this "
        "machine can reach."
    )


def _may_be_on_hub(path: str) -> bool:
    try:
        validate_repo_id(path)
    except HFValidationError:
        return False
    return True
