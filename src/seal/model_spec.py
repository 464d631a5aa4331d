"""Which model is meant, before anything of it is loaded."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator

from seal.artifacts.settings import Settings
from seal.data.reasoning import Marks
from seal.devices import Quantization
from seal.loss_backends.choice import LossBackendName
from seal.model_folders import AdapterFolder, adapter_folder
from seal.packing import BatchesName


def _not_blank(marks: Marks) -> Marks:
    blank = [name for name, text in marks._asdict().items() if not text.strip()]
    if blank:
        raise ValueError(
            f"reasoning_marks: the {blank[0]} mark is blank. Give what the model writes before and "
            'after its reasoning, such as ["<think>", "</think>"].'
        )
    return marks


class ModelSpec(Settings):
    """Which language model, and how it is loaded.

    Attributes:
        path: A folder, or the name of a model on the Hub. The folder of a LoRA adapter stands for
            its base with the adapter merged into it; what is trained goes on from there.
        revision: Commit, tag or branch on the Hub.
        dtype: Of the weights; "auto" takes the checkpoint's own. A run on a CPU tries a checkpoint
            in half precision in float32, too, and keeps to what is quicker there (dtype.json).
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
        reasoning_marks: What opens and closes the model's reasoning, in pairs, such as
            [["<think>", "</think>"]]; what follows is its answer (docs/judges.md). None looks for
            them in tokenizer and chat template; [] says that the model does not reason.
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
    reasoning_marks: tuple[Annotated[Marks, AfterValidator(_not_blank)], ...] | None = None
    trust_remote_code: bool = False

    def unquantized(self) -> ModelSpec:
        """The same model with its weights as they are: what an adapter can be merged into."""
        return self.model_copy(update={"quantization": None})


def starting_adapter(spec: ModelSpec) -> AdapterFolder | None:
    """The adapter that `spec` names instead of a whole model; None where it names a model.

    Raises:
        ValueError: If the adapter cannot be started from; see `adapter_folder`.
    """
    adapter = adapter_folder(spec.path, spec.revision)
    if adapter is not None and spec.quantization is not None:
        raise ValueError(
            f"model.path={spec.path} is an adapter, which cannot be worked into weights of "
            f"{spec.quantization} (model.quantization) without changing them. Make a whole model "
            f"of it first (seal merge-adapter {spec.path} OUT) and set model.path=OUT, or leave "
            "model.quantization out."
        )
    return adapter


def base_of(spec: ModelSpec) -> ModelSpec:
    """The whole model below an adapter; `spec` itself where it names a model."""
    adapter = starting_adapter(spec)
    if adapter is None:
        return spec
    return spec.model_copy(update={"path": adapter.base, "revision": adapter.base_revision})
