"""Language models: the only place that calls from_pretrained and save_pretrained."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from peft.utils.constants import TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING
from pydantic import Field
from safetensors import SafetensorError
from torch import Tensor, nn
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedModel,
)
from transformers.tokenization_utils_base import PreTrainedTokenizerBase
from transformers.utils.logging import disable_progress_bar

from seal.artifacts.paths import StrPath
from seal.artifacts.provenance import folder_hashes, model_identity
from seal.artifacts.settings import Settings
from seal.data.tokenize import ChatEncoder
from seal.devices import Quantization, check_device, first_line, quantized, resolve_device
from seal.loss_backends.choice import LossBackendName, set_loss_backend
from seal.packing import BatchesName, set_batches

logger = logging.getLogger(__name__)
disable_progress_bar()  # "Loading weights" would tear our own bars apart

# What transformers raises on a folder that is empty, foreign, cut off or inconsistent.
_UNLOADABLE = (
    OSError, ValueError, KeyError, TypeError, RuntimeError, ImportError, SafetensorError,
)  # fmt: skip


class ModelSpec(Settings):
    """Which language model, and how it is loaded.

    Attributes:
        path: A folder, or the name of a model on the Hub.
        revision: Commit, tag or branch on the Hub.
        dtype: Of the weights; "auto" takes the checkpoint's own.
        quantization: "4bit" holds the linear layers in 4 bits (bitsandbytes, nf4, doubly
            quantised; arithmetic in bfloat16), to train adapters on: QLoRA. Needs the extra
            `quantized`.
        device: "auto" takes CUDA where there is one, else the CPU.
        attn_implementation: Passed to transformers; None lets it choose (SDPA).
        loss_backend: What computes losses without keeping logits (docs/loss-backends.md); memory
            and speed only.
        batches: How samples share a forward pass where only losses are wanted
            (docs/loss-backends.md); memory and speed only.
        chat_template: A file with a Jinja template to use instead of the tokenizer's own.
        chat_template_kwargs: Passed to the template, e.g. {enable_thinking: false}.
        trust_remote_code: Run code that comes with the model. Off: a model folder is data.
    """

    path: str
    revision: str | None = None
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    quantization: Quantization | None = None
    device: str = "auto"
    attn_implementation: str | None = None
    loss_backend: LossBackendName = "auto"
    batches: BatchesName = "auto"
    chat_template: Path | None = None
    chat_template_kwargs: dict[str, Any] = {}
    trust_remote_code: bool = False

    def unquantized(self) -> ModelSpec:
        """The same model with its weights as they are: what an adapter can be merged into."""
        return self.model_copy(update={"quantization": None})


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

    Raises:
        ValueError: If there is none at `spec.path`.
    """
    try:
        return AutoTokenizer.from_pretrained(
            spec.path, revision=spec.revision, trust_remote_code=spec.trust_remote_code
        )
    except _UNLOADABLE as error:
        raise ValueError(_cannot_load("tokenizer", spec, error)) from error


def load_encoder(spec: ModelSpec, tokenizer: PreTrainedTokenizerBase) -> ChatEncoder:
    """The chat encoder of a model, with the template that `spec` asks for."""
    template = None if spec.chat_template is None else spec.chat_template.read_text("utf-8")
    return ChatEncoder(tokenizer, template=template, template_kwargs=spec.chat_template_kwargs)


def load_model(spec: ModelSpec, adapter: StrPath | None = None) -> LanguageModel:
    """Load a model, and lay a trained adapter over it where one is given.

    Raises:
        ValueError: If there is no model at `spec.path`, some of its weights are missing, its
            tokenizer knows more tokens than the model has embeddings for, or the adapter cannot be
            read.
    """
    adapter = None if adapter is None else Path(adapter)
    tokenizer = load_tokenizer(spec)
    device = resolve_device(spec.device)
    check_device(device)
    try:
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            spec.path,
            revision=spec.revision,
            dtype=spec.dtype if spec.dtype == "auto" else getattr(torch, spec.dtype),
            attn_implementation=spec.attn_implementation,
            trust_remote_code=spec.trust_remote_code,
            use_safetensors=True,
            output_loading_info=True,
            **quantized(spec.quantization, device),
        )
    except _UNLOADABLE as error:
        raise ValueError(_cannot_load("model", spec, error)) from error
    model, loading = loaded
    _check_complete(spec, sorted(loading["missing_keys"]))
    _check_vocabulary(spec, tokenizer, model)
    set_loss_backend(model, spec.loss_backend)
    set_batches(model, spec.batches)
    if adapter is not None:
        model = _with_adapter(model, adapter)
    if spec.quantization is None:  # else it is there already, and may not be moved
        cast(nn.Module, model).to(device)
    cast(nn.Module, model).eval()
    encoder = load_encoder(spec, tokenizer)
    identity = {**loaded_identity(spec), "template": encoder.template_hash}
    if adapter is not None:
        identity["adapter"] = folder_hashes(adapter)
    return LanguageModel(model, tokenizer, encoder, _pad_id(tokenizer), identity)


def _with_adapter(model: PreTrainedModel, adapter: Path) -> PeftModel:
    weights = adapter / "adapter_model.safetensors"
    if not weights.is_file():  # PEFT would unpickle adapter_model.bin instead
        raise ValueError(
            f"{adapter}: no {weights.name} here, and pickled weights are not read. Put the file "
            "back, or train again."
        )
    try:
        with quiet_peft():
            return PeftModel.from_pretrained(model, str(adapter))
    except _UNLOADABLE as error:
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
    try:
        config = AutoConfig.from_pretrained(
            spec.path, revision=spec.revision, trust_remote_code=spec.trust_remote_code
        )
    except _UNLOADABLE as error:
        raise ValueError(_cannot_load("config", spec, error)) from error
    chosen = TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING.get(config.model_type)
    if chosen is None:
        raise ValueError(
            f"lora.target_modules is not set, and PEFT has no choice of its own for "
            f"{config.model_type} models ({spec.path}). Name the layers, or say all-linear."
        )
    return tuple(chosen)


def add_lora(model: nn.Module, lora: LoraSpec, *, seed: int, name: str = "default") -> PeftModel:
    """Put a fresh LoRA adapter on a model, or one more on a model that has some.

    The base weights are frozen. The initial values depend on `seed` alone, and the global random
    state is left as it was.

    Raises:
        ValueError: If the adapter's target modules do not exist in the model.
    """
    _check_targets(model, lora)
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
            raise ValueError(
                f"rank.lora: PEFT cannot put this adapter on the model: {first_line(error)}. Set "
                f"rank.lora.target_modules to some of: {', '.join(_matrices(model))}."
            ) from error


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


@contextmanager
def quiet_peft() -> Iterator[None]:
    """PEFT 0.21 puts an adapter on a model without the warning that it can do nothing about.

    It reads `is_gradient_checkpointing`, which transformers 5.23 has renamed. Remove this with the
    first PEFT that reads `is_activation_checkpointing`.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "`is_gradient_checkpointing` is deprecated")
        yield


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


def _check_targets(model: nn.Module, lora: LoraSpec) -> None:
    """Refuse names that match nothing; PEFT passes over them as long as another one matches."""
    if not isinstance(lora.target_modules, tuple):
        return
    names = [name for name, _ in model.named_modules()]
    unknown = [
        target
        for target in lora.target_modules
        if not any(name == target or name.endswith(f".{target}") for name in names)
    ]
    if unknown or not lora.target_modules:
        what = f"target modules {', '.join(unknown)} not found in the model" if unknown else "empty"
        raise ValueError(
            f"rank.lora.target_modules: {what}. There are: {', '.join(_matrices(model))}."
        )


def _matrices(model: nn.Module) -> list[str]:
    """Names of the layers that an adapter can be put on, each once."""
    parameters = ((name.split("."), value) for name, value in model.named_parameters())
    return sorted(
        {path[-2] for path, value in parameters if path[-1] == "weight" and value.dim() == 2}
    )


def _cannot_load(what: str, spec: ModelSpec, error: Exception) -> str:
    place = "folder" if Path(spec.path).exists() else "folder or Hub name"
    if what == "model" and spec.quantization is not None:
        return (
            f"model.path={spec.path}: no model could be loaded with model.quantization="
            f"{spec.quantization} on {spec.device} ({first_line(error)}). Leave "
            "model.quantization out, or take a device that bitsandbytes supports (CUDA)."
        )
    return (
        f"model.path={spec.path}: no {what} could be loaded from this {place} "
        f"({first_line(error)}). Give a folder that save_pretrained wrote, with config.json, "
        "safetensors weights and tokenizer files, or the name of a model on the Hub that this "
        "machine can reach."
    )
