"""Training: TRL's SFTTrainer on exactly the tokens that were ranked.

The samples come tokenized, and with the mask of the tokens that carry the loss. The trainer gets
them as `input_ids` and `labels` (-100 outside the mask), which TRL uses as they are: nothing is
rendered, cut, packed or dropped a second time.

The loss is TRL's: the mean over all response tokens of a batch, accumulation steps included. A long
response therefore weighs more than a short one; in the rankers every sample weighs the same.
"""

from __future__ import annotations

import logging
import random
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from peft import LoraConfig, PeftModel
from pydantic import Field, field_validator, model_validator

from seal.artifacts.adapter import RECORD, Adapter, save_adapter_record, weights_folder
from seal.artifacts.paths import StrPath
from seal.artifacts.settings import Settings
from seal.checkpoint import Checkpoints
from seal.data.load import DataSpec
from seal.data.mix import mix_in
from seal.data.tokenize import Encoded
from seal.lora import check_fits
from seal.models import (
    LoraSpec,
    ModelSpec,
    load_skeleton,
    resolve_device,
    save_model,
    starting_adapter,
)
from seal.processes import processes
from seal.progress import Progress, silent
from seal.sft import checked_arguments, lora_config, num_steps, sft_config
from seal.stages.fitting import Fitted, Fitting, fit
from seal.starting_adapter import check_trainable, join
from seal.tracking import Mirror, nowhere

logger = logging.getLogger(__name__)

METRICS = "metrics.jsonl"
_PARTIAL = ".partial"

Match = Literal["epochs", "steps"]


class MixSettings(Settings):
    """Samples of a second data set in the training set (SafeInstr, arXiv 2309.07875).

    Attributes:
        data: Where they come from.
        share: Of the mixed training set that they make up, in (0, 1).
    """

    data: DataSpec
    share: float = Field(gt=0, lt=1)


class TrainSettings(Settings):
    """How the model is fine-tuned.

    Attributes:
        tuning: "lora" trains an adapter; "full" all weights, which then must be float32.
        lora: The adapter.
        peft: Further fields of `peft.LoraConfig`, under their own names.
        args: Fields of `trl.SFTConfig`, under their own names. Where nothing is said, the paper's
            Llama-3-8B run decides: learning_rate 1e-5, num_train_epochs 2, batches of 64
            (per_device_train_batch_size 8 times gradient_accumulation_steps 8), Adam betas 0.9 and
            0.95, no weight decay, constant rate, max_grad_norm 1. On CUDA, bf16 mixed precision and
            gradient checkpointing are on; on the CPU both are off.
        mix: A second data set to mix in.
        match: What the arms have in common. "epochs": each sample is seen as often, so that an arm
            with fewer samples is trained for fewer optimiser steps. "steps": each arm is trained
            for as many steps as it would be on all data, which takes more epochs; the last may be
            cut short. Warm-up and schedule are over the steps that are done.
        max_skipped_steps: Steps with a loss or gradient that is not finite, which are left out and
            named in metrics.jsonl, before the training is given up. Changes no result.
    """

    tuning: Literal["lora", "full"] = "lora"
    lora: LoraSpec = LoraSpec()
    peft: dict[str, Any] = Field(default_factory=dict)
    args: dict[str, Any] = Field(default_factory=dict)
    mix: MixSettings | None = None
    match: Match = "epochs"
    max_skipped_steps: int = Field(default=10, ge=0)

    def identity(self) -> dict[str, Any]:
        """What changes a training's result; the steps that `match` makes are a number beside it."""
        left_out = {"max_skipped_steps": True, "match": True, "mix": {"data": {"license"}}}
        return self.model_dump(mode="json", exclude=left_out)

    @field_validator("args")
    @classmethod
    def _check_args(cls, args: dict[str, Any]) -> dict[str, Any]:
        return checked_arguments(args)

    @model_validator(mode="after")
    def _check_match(self) -> TrainSettings:
        limit = self.args.get("max_steps", -1)
        if self.match == "steps" and limit > 0:
            raise ValueError(
                f"train.match=steps, but train.args.max_steps={limit} sets the steps of every arm "
                "already. Remove one of them."
            )
        return self

    @model_validator(mode="after")
    def _check_peft(self) -> TrainSettings:
        if self.tuning == "full" and (self.peft or self.lora != LoraSpec()):
            raise ValueError(
                "train.lora and train.peft describe an adapter, but train.tuning is full, which "
                "has none. Remove them, or set tuning: lora."
            )
        lora_config(self.lora.config(), self.peft)
        return self


def matched_steps(settings: TrainSettings, num: int, num_all: int) -> int | None:
    """The optimiser steps of an arm, where `settings.match` gives it others than it has by itself.

    Args:
        settings: How it is trained.
        num: Its samples, without those that are mixed in.
        num_all: Those of the arm on all data.
    """
    if settings.match == "epochs":
        return None
    share = settings.mix.share if settings.mix else 0.0
    sizes = (size + round(share / (1 - share) * size) for size in (num, num_all))
    own, whole = (num_steps(settings.args, size) for size in sizes)
    return None if own == whole else whole


def train(
    spec: ModelSpec,
    encoded: Sequence[Encoded],
    settings: TrainSettings,
    folder: StrPath,
    *,
    seed: int,
    mix: Sequence[Encoded] = (),
    steps: int | None = None,
    progress: Progress = silent,
    mirror: Mirror = nowhere,
    checkpoints: Checkpoints | None = None,
) -> Adapter:
    """Fine-tune a model with TRL's SFTTrainer.

    Every sample is visited once per epoch. The batch loss is the mean over its response tokens, as
    TRL computes it, not the mean of the samples' means. On the CPU the same inputs and seed give
    the same bytes, also when it was interrupted; the caller's random state is left as it was.

    Of several processes each takes its share of a batch, and the first one writes.

    Where `spec` names an adapter, what is saved is one adapter on its base: that one and the new
    one together.

    `folder` gets `adapter/` (tuning "lora") or `model/` ("full", with tokenizer, chat template and
    generation config), `metrics.jsonl` with every entry of TRL's log, and at last `adapter.json`.
    When anything goes wrong it is left as it was.

    Args:
        spec: The model to start from.
        encoded: The training set, each sample with at least one response token.
        settings: How to train.
        folder: Where the result goes; made when missing.
        seed: Of the initial adapter, dropout and the order of the samples.
        mix: The samples of `settings.mix`, tokenized like the training set.
        steps: Optimiser steps; None takes the epochs of `settings.args`. See `matched_steps`.
        progress: Told how many optimiser steps are done.
        mirror: Given each entry of `metrics.jsonl` once it is written.
        checkpoints: Of this very training: where its state is kept, and gone on with. With them it
            stops between two steps when asked to.

    Returns:
        What `load_adapter(folder)` returns from now on.

    Raises:
        ValueError: If there is nothing to train on, settings contradict each other or TRL refuses
            them, the folder holds a result already, memory runs out with a single sample, or the
            loss or a weight stops being finite.
        KeyboardInterrupt: If it was asked to stop; the state is saved.
    """
    folder = Path(folder)
    rows = _training_set(encoded, mix, settings, seed)
    device = _device(spec)
    check_adapter(spec, settings)
    _check_free(folder)
    with _workplace(folder) as partial:
        is_lora = settings.tuning == "lora"
        fitting = Fitting(
            spec=spec,
            rows=rows,
            adapter=lora_config(settings.lora.config(), settings.peft) if is_lora else None,
            config=sft_config(_arguments(settings, steps), device, partial / "trainer", seed),
            metrics=partial / METRICS,
            max_skipped_steps=settings.max_skipped_steps,
            checkpoints=checkpoints,
            progress=progress,
            mirror=mirror,
        )
        with _private_randomness():
            fitted = fit(fitting)
        adapter = Adapter(
            path=weights_folder(folder, settings.tuning),
            kind=settings.tuning,
            base=spec.path,
            num_samples=len(rows),
            num_steps=fitted.num_steps,
            seed=seed,
            num_tokens=fitted.num_tokens,
        )
        if processes().is_first:
            _save_weights(fitted, spec, weights_folder(partial, adapter.kind))
            save_adapter_record(adapter, partial)
            # The record goes last: where it is, the rest is complete.
            for name in (adapter.path.name, METRICS, RECORD):
                (partial / name).replace(folder / name)
        processes().wait()
    return adapter


def _arguments(settings: TrainSettings, steps: int | None) -> dict[str, Any]:
    return settings.args if steps is None else {**settings.args, "max_steps": steps}


@contextmanager
def _workplace(folder: Path) -> Iterator[Path]:
    """A folder for what is under way, inside of the one for the result; both go if nothing came.

    What other processes than the first write is nobody's.
    """
    if not processes().is_first:
        with tempfile.TemporaryDirectory() as temporary:
            yield Path(temporary)
        return
    was_there = folder.exists()
    partial = folder / _PARTIAL
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        yield partial
    finally:
        shutil.rmtree(partial, ignore_errors=True)
        if not was_there and not any(folder.iterdir()):
            folder.rmdir()


def _training_set(
    encoded: Sequence[Encoded], mix: Sequence[Encoded], settings: TrainSettings, seed: int
) -> list[Encoded]:
    if not encoded:
        raise ValueError(
            "there are no samples to train on. Look at the selection, and at excluded.jsonl for "
            "samples that could not be used."
        )
    if settings.mix is None:
        assert not mix, "samples to mix in, but no share"
        return list(encoded)
    rows = mix_in(encoded, mix, settings.mix.share, seed)
    logger.info("mixed %d samples into %d", len(rows) - len(encoded), len(encoded))
    return rows


def _device(spec: ModelSpec) -> torch.device:
    device = resolve_device(spec.device)
    if device.index and processes().size == 1:
        raise ValueError(
            f"model.device={spec.device}: TRL's trainer uses the first GPU that it sees. Set "
            f"model.device=cuda and CUDA_VISIBLE_DEVICES={device.index}."
        )
    return device


def check_adapter(spec: ModelSpec, settings: TrainSettings) -> None:
    """Find out whether the model can carry the adapter to train; reads no weights.

    Raises:
        ValueError: If it cannot, it could not be merged afterwards, or saved as one with the
            adapter that `spec` names.
    """
    if settings.tuning == "full":
        return
    config = lora_config(settings.lora.config(), settings.peft)
    check_fits(load_skeleton(spec), config, "train.lora")
    start = starting_adapter(spec)
    if start is not None:
        check_trainable(start, config.to_dict())


def _check_free(folder: Path) -> None:
    names = ("adapter", "model", METRICS, RECORD)
    taken = [name for name in names if (folder / name).exists()]
    if taken:
        raise ValueError(
            f"{folder} holds the result of a training already ({', '.join(taken)}). Delete it to "
            "train again, or give another folder."
        )


@contextmanager
def _private_randomness() -> Iterator[None]:
    """What happens inside leaves no trace in the global random states."""
    python_state, numpy_state = random.getstate(), np.random.get_state()
    started = torch.cuda.is_available() and torch.cuda.is_initialized()
    gpus = range(torch.cuda.device_count()) if started else ()
    with torch.random.fork_rng(devices=gpus):
        try:
            yield
        finally:
            random.setstate(python_state)
            np.random.set_state(numpy_state)


def _save_weights(fitted: Fitted, spec: ModelSpec, folder: Path) -> None:
    model, weights = fitted.model, fitted.weights
    if isinstance(model, PeftModel):
        for config in model.peft_config.values():
            assert isinstance(config, LoraConfig)
            if isinstance(config.target_modules, set):  # written in an order of the day
                config.target_modules = sorted(config.target_modules)
        # The vocabulary never changes here; "auto" would ask the Hub whether it did.
        model.save_pretrained(str(folder), save_embedding_layers=False, state_dict=weights)
        start = starting_adapter(spec)
        if start is not None:
            join(start, folder)
        return
    save_model(model, spec, folder, weights)
