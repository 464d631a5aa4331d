"""One run of TRL's trainer: its log, its checkpoints, and what fits into memory."""

from __future__ import annotations

import copy
import gc
import logging
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import torch
from datasets import Dataset
from peft import LoraConfig, PeftModel
from torch import Tensor, nn
from transformers import (
    PreTrainedModel,
    PrinterCallback,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)
from trl import SFTConfig  # pyright: ignore[reportPrivateImportUsage]

from seal import interrupts
from seal.checkpoint import Checkpoints, load_state
from seal.data.tokenize import Encoded
from seal.microbatches import is_out_of_memory
from seal.models import LanguageModel, ModelSpec, load_model, quiet_peft
from seal.packing import why_not_packed
from seal.padding import trains_rows_alone
from seal.processes import processes
from seal.progress import Progress, silent
from seal.stages import training_memory
from seal.stages.response_head import put_response_head
from seal.stages.trainer import Watch, WatchedTrainer, labels_of, not_finite
from seal.stages.training_log import Log
from seal.stages.training_memory import NoRoomError, rehearse, say_smaller, smaller
from seal.stages.training_state import (
    TrainingState,
    broken_weight,
    load_random_state,
    load_state_into,
    load_weights,
    state_of,
    trained_weights,
    trainer_state,
)
from seal.tracking import Mirror, nowhere

logger = logging.getLogger(__name__)

_TRAINER_STATE = "trainer_state.json"  # where `resume_from_checkpoint` looks


@dataclass(frozen=True, slots=True)
class Fitting:
    """A training that is to be done.

    Attributes:
        spec: The model to start from.
        rows: The training set.
        adapter: The adapter to train; None trains all weights.
        config: TRL's settings; its output_dir is for this training alone.
        metrics: Where the log goes.
        max_skipped_steps: Steps that may be left out because they are not finite.
        checkpoints: Where the state is kept meanwhile; None keeps none.
        progress: Told how many optimiser steps are done.
        mirror: Given each entry of the log once it is written.
    """

    spec: ModelSpec
    rows: Sequence[Encoded]
    adapter: LoraConfig | None
    config: SFTConfig
    metrics: Path
    max_skipped_steps: int
    checkpoints: Checkpoints | None = None
    progress: Progress = silent
    mirror: Mirror = nowhere


@dataclass(frozen=True, slots=True, eq=False)
class Fitted:
    """A model after its training.

    Attributes:
        model: The model.
        weights: All of it, gathered, where its own are sharded; None where they are not.
        num_steps: How many there were, those included that were left out.
        num_tokens: Tokens that were read, prompts included, each as often as it was.
    """

    model: PeftModel | PreTrainedModel
    weights: Mapping[str, Tensor] | None
    num_steps: int
    num_tokens: int


def fit(fitting: Fitting) -> Fitted:
    """Train; where memory runs out, with smaller micro-batches, which change no result.

    Raises:
        ValueError: If memory runs out with one sample at a time, or numbers stop being finite.
    """
    while True:
        try:
            return _fit(fitting)
        except NoRoomError as error:
            fitting = replace(fitting, config=smaller(fitting.config, fitting.rows, error))
        except (torch.OutOfMemoryError, RuntimeError) as error:
            if not is_out_of_memory(error):
                raise
            if processes().size > 1:  # the others are in the middle of something
                raise ValueError(say_smaller(fitting.config, error)) from error
            fitting = replace(fitting, config=smaller(fitting.config, fitting.rows, error))
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()


def _fit(fitting: Fitting) -> Fitted:
    language = _loaded(fitting.spec)
    model = language.model
    assert isinstance(model, PreTrainedModel)
    if fitting.adapter is None:
        _check_full(fitting.spec, model)
    fitting = replace(fitting, config=_without_padding(fitting.config, model))
    originals = copy.deepcopy(model.config), copy.deepcopy(model.generation_config)
    trainer = _trainer(fitting, language)
    if fitting.checkpoints is not None and trainer.is_deepspeed_enabled:
        logger.warning("DeepSpeed keeps the state to itself: training cannot be interrupted")
        fitting = replace(fitting, checkpoints=None)
    state = _found(fitting.checkpoints)
    log = Log(trainer, fitting.metrics, fitting.progress, fitting.mirror)
    trainer.watch = Watch(fitting.rows, fitting.max_skipped_steps, log.write)
    if state is not None:
        trainer.watch.num_skipped, trainer.watch.last_skipped = state.facts["skipped"]
        for record in state.facts["records"]:
            log.write(record)
    trainer.add_callback(log)
    trainer.add_callback(_Steps(trainer, fitting, log, state))
    if state is not None and state.is_last:  # all was done but the saving
        trainer.state = trainer_state(state)
        load_weights(cast(nn.Module, trainer.model), state.tensors)
        cast(Any, trainer)._total_train_tokens = state.facts["counts"]["num_tokens"]
    else:
        with interrupts.polled() if fitting.checkpoints else nullcontext():
            trainer.train(resume_from_checkpoint=_position(fitting.config, state))
    trained = trainer.model
    assert isinstance(trained, PeftModel | PreTrainedModel)
    _check_finite(trainer, fitting)
    weights: Any = None
    if _is_sharded(trainer):
        weights = trainer.accelerator.get_state_dict(trainer.model_wrapped)
    # Training writes special tokens and use_cache into these: not a part of the result.
    model.config, model.generation_config = originals
    num_tokens = int(cast(Any, trainer)._total_train_tokens)
    return Fitted(trained, weights, trainer.state.global_step, num_tokens)


def _loaded(spec: ModelSpec) -> LanguageModel:
    try:
        return load_model(spec)
    except (torch.OutOfMemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        raise ValueError(
            f"model.path={spec.path} does not fit into the memory of model.device={spec.device} "
            f"({str(error).splitlines()[0]}). Set model.dtype or model.quantization to something "
            "smaller, or take a larger GPU."
        ) from error


def _without_padding(config: SFTConfig, model: PreTrainedModel) -> SFTConfig:
    """The same settings with one sample at a time, for models that let padding in."""
    if config.padding_free:
        problem = why_not_packed(model)
        if problem is not None:
            raise ValueError(f"train.args.padding_free=true is refused: {problem}. Remove it.")
        return config
    size = config.per_device_train_batch_size
    if size == 1 or not trains_rows_alone(model):
        return config
    config = copy.copy(config)
    config.per_device_train_batch_size = 1
    config.gradient_accumulation_steps *= size
    return config


def _trainer(fitting: Fitting, language: LanguageModel) -> WatchedTrainer:
    model = language.model
    assert isinstance(model, PreTrainedModel)
    _agree_on_special_tokens(model, language)
    rows = fitting.rows
    assert all(row.response_mask[1:].any() for row in rows), "a sample without response tokens"
    # TRL takes tokenized samples as they are, in this order before shuffling.
    dataset = Dataset.from_dict(
        {
            "input_ids": [row.input_ids for row in rows],
            "labels": [labels_of(row) for row in rows],
        }
    )
    with quiet_peft():
        trainer = WatchedTrainer(
            model=model,
            args=copy.copy(fitting.config),
            train_dataset=dataset,
            processing_class=language.tokenizer,
            peft_config=fitting.adapter,
        )
    if not _is_sharded(trainer):
        put_response_head(cast(nn.Module, trainer.model))
    trainer.remove_callback(PrinterCallback)  # without tqdm, transformers prints its log
    return trainer


def _found(checkpoints: Checkpoints | None) -> TrainingState | None:
    found = checkpoints.latest() if checkpoints else None
    if found is None:
        return None
    logger.info("going on from step %d (%s)", found.step, found.folder)
    return TrainingState(*load_state(found))


def _position(config: SFTConfig, state: TrainingState | None) -> str | None:
    """A folder that tells the trainer which step it is to go on from; the rest is up to us."""
    if state is None:
        return None
    folder = Path(str(config.output_dir))
    folder.mkdir(parents=True, exist_ok=True)
    position = trainer_state(state)
    position.train_batch_size = config.per_device_train_batch_size  # it may be smaller by now
    position.save_to_json(str(folder / _TRAINER_STATE))
    return str(folder)


class _Steps(TrainerCallback):
    """Takes over the state that was found, and saves the state between two steps."""

    def __init__(
        self, trainer: WatchedTrainer, fitting: Fitting, log: Log, state: TrainingState | None
    ) -> None:
        self._trainer = trainer
        self._fitting = fitting
        self._log = log
        self._resumed = state
        self._saved_step = 0

    def on_train_begin(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,  # noqa: ARG002
        **kwargs: Any,  # noqa: ANN401, ARG002
    ) -> None:
        """Begin where the state was saved; see first whether there is room for the largest step."""
        self._saved_step = state.global_step
        if self._resumed is not None:
            load_state_into(self._trainer, self._resumed)
        if training_memory.may_run_out(args.device) and not _is_sharded(self._trainer):
            rehearse(self._trainer)

    def on_step_begin(
        self,
        args: TrainingArguments,  # noqa: ARG002
        state: TrainerState,
        control: TrainerControl,  # noqa: ARG002
        **kwargs: Any,  # noqa: ANN401, ARG002
    ) -> None:
        """Here the samples of the step have been drawn, and nothing else has."""
        if self._resumed is not None:
            if not load_random_state(self._resumed):
                logger.warning(
                    "the state was saved by another number of processes; results are the same but "
                    "for rounding, and what dropout draws"
                )
            self._resumed = None
        self._keep(state)

    def on_train_end(
        self,
        args: TrainingArguments,  # noqa: ARG002
        state: TrainerState,
        control: TrainerControl,  # noqa: ARG002
        **kwargs: Any,  # noqa: ANN401, ARG002
    ) -> None:
        """After the last step, and its log."""
        self._keep(state)

    def _keep(self, state: TrainerState) -> None:
        """Save the state if it is time to, and stop if that was asked for.

        Raises:
            KeyboardInterrupt: If it was, once the state is saved.
            ValueError: If a weight is not finite, or there is no room on the disk.
        """
        checkpoints = self._fitting.checkpoints
        if checkpoints is None:
            return
        stops = processes().any(interrupts.asked())  # looked at once: it must not stop unsaved
        if state.global_step > self._saved_step and (stops or checkpoints.due()):
            self._save(checkpoints, state)
        if stops:
            interrupts.stop()

    def _save(self, checkpoints: Checkpoints, state: TrainerState) -> None:
        tensors, facts = state_of(self._trainer)
        broken = broken_weight(tensors)
        if broken:
            what = f"state of {broken.partition('.')[2]}"
            raise ValueError(not_finite(what, state.global_step, state, self._trainer.args))
        watch = self._trainer.watch
        skipped = [watch.num_skipped, watch.last_skipped]
        facts |= {"records": self._log.records, "skipped": skipped}
        checkpoints.save_state(state.global_step, tensors, facts)
        self._saved_step = state.global_step


def _check_finite(trainer: WatchedTrainer, fitting: Fitting) -> None:
    """Refuse weights that are not numbers, and those that nothing was learned by."""
    state, skipped = trainer.state, trainer.watch.num_skipped
    broken = broken_weight(trained_weights(cast(nn.Module, trainer.model)))
    if any(processes().gather(broken)):
        what = f"weight {broken or 'of another process'}"
        raise ValueError(not_finite(what, state.global_step, state, fitting.config))
    if skipped == state.global_step:
        what = "loss or gradient of every step"
        raise ValueError(not_finite(what, skipped, state, fitting.config))
    if skipped:
        logger.warning("%d of %d steps were left out", skipped, state.global_step)


def _is_sharded(trainer: WatchedTrainer) -> bool:
    return trainer.is_fsdp_enabled or trainer.is_deepspeed_enabled


def _check_full(spec: ModelSpec, model: PreTrainedModel) -> None:
    if spec.quantization is not None:
        raise ValueError(
            f"train.tuning=full changes all weights, but model.quantization={spec.quantization} "
            "holds them in a form that cannot be trained. Set train.tuning=lora, or leave "
            "model.quantization out."
        )
    halves = {value.dtype for value in model.parameters()} - {torch.float32}
    if halves:
        raise ValueError(
            f"train.tuning=full needs float32 weights, but {spec.path} is loaded in "
            f"{', '.join(sorted(str(kind) for kind in halves))} (model.dtype={spec.dtype}), where "
            "most updates of a small learning rate round to nothing. Set model.dtype=float32 (the "
            "arithmetic is bf16 on CUDA all the same), or train.tuning=lora."
        )
    try:
        model.generation_config.validate(strict=True)
    except ValueError as error:  # save_pretrained would refuse it after the training
        raise ValueError(
            f"{spec.path}: its generation_config.json contradicts itself, so the trained model "
            f"could not be saved with it. Correct the file. ({error})"
        ) from error


def _agree_on_special_tokens(model: PreTrainedModel, language: LanguageModel) -> None:
    """Let the configs name the tokenizer's special tokens; transformers does it too, but warns."""
    tokenizer = language.tokenizer
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.convert_ids_to_tokens(language.pad_id)
    ids = {
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    for name, value in ids.items():
        if value is not None:
            setattr(model.config.get_text_config(), name, value)
            setattr(model.generation_config, name, value)
