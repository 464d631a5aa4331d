"""TRL's own trainer on the same tokens; set-up is not timed."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from typing import Any, cast

import numpy as np
import torch
from datasets import Dataset
from peft import PeftModel
from torch import nn
from transformers import (
    PrinterCallback,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)
from trl import SFTConfig, SFTTrainer  # pyright: ignore[reportPrivateImportUsage]

from benchmarks.loops import BETAS, LEARNING_RATE, MAX_GRAD_NORM, device_of
from benchmarks.timing import Watch
from benchmarks.with_seal import encode
from benchmarks.workload import Row, Visit, Work, longest_first, make_tokenizer, put_adapter
from seal.stages.response_head import put_response_head
from seal.stages.trainer import Watch as StepWatch
from seal.stages.trainer import WatchedTrainer

_IGNORED = -100


def trl(model: nn.Module, work: Work, watch: Watch, visits: Sequence[Visit]) -> None:
    """TRL's SFTTrainer: a step on the pool's and the safe samples of each visit.

    Its micro-batches are those of the other loops. It logs nothing, saves nothing, and does not
    checkpoint activations unless the model does it itself.
    """
    _fit(model, work, watch, visits, checkpoint=False)


def seal_train(model: nn.Module, work: Work, watch: Watch, visits: Sequence[Visit]) -> None:
    """The train stage's own trainer: TRL's, watched, with losses of response tokens alone."""
    _fit(model, work, watch, visits, checkpoint=False, is_seals=True)


def trl_checkpointed(model: nn.Module, work: Work, watch: Watch, visits: Sequence[Visit]) -> None:
    """The same with its own checkpoints of activations."""
    _fit(model, work, watch, visits, checkpoint=True)


def _fit(
    model: nn.Module, work: Work, watch: Watch, visits: Sequence[Visit],
    *, checkpoint: bool, is_seals: bool = False,
) -> None:  # fmt: skip
    rows_of_step = len(visits[0].pool) + len(visits[0].safe)
    rows = [
        row
        for visit in visits
        for batch in longest_first(visit.safe + visit.pool, work.size.micro_batch)
        for row in batch
    ]
    with tempfile.TemporaryDirectory() as folder:
        config = SFTConfig(
            output_dir=folder,
            learning_rate=LEARNING_RATE,
            adam_beta1=BETAS[0],
            adam_beta2=BETAS[1],
            weight_decay=0.0,
            max_grad_norm=MAX_GRAD_NORM,
            lr_scheduler_type="constant",
            num_train_epochs=1,
            per_device_train_batch_size=work.size.micro_batch,
            gradient_accumulation_steps=rows_of_step // work.size.micro_batch,
            train_sampling_strategy="sequential",
            max_length=None,
            activation_checkpointing=checkpoint,
            bf16=work.size.dtype == torch.bfloat16,
            use_cpu=device_of(model) == "cpu",
            logging_strategy="no",
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
        )
        trainer = (WatchedTrainer if is_seals else SFTTrainer)(
            model=_adapted(model),
            args=config,
            train_dataset=_dataset(rows),
            processing_class=make_tokenizer(work.size.config.vocab_size),
            callbacks=[_Marks(watch)],
        )
        if isinstance(trainer, WatchedTrainer):
            put_response_head(cast(nn.Module, trainer.model))
            trainer.watch = StepWatch(encode(rows), most=0, tell=lambda _: None)
        trainer.remove_callback(PrinterCallback)  # without tqdm, transformers prints its log
        trainer.train()


def _adapted(model: nn.Module) -> PeftModel:
    adapted = put_adapter(model)
    config = adapted.config
    # Else transformers takes the tokenizer's over, and says so.
    config.bos_token_id, adapted.generation_config.bos_token_id = None, None  # pyright: ignore
    return adapted


def _dataset(rows: Sequence[Row]) -> Dataset:
    return Dataset.from_dict(
        {
            "input_ids": [row.input_ids for row in rows],
            "labels": [np.where(row.response_mask, row.input_ids, _IGNORED) for row in rows],
        }
    )


class _Marks(TrainerCallback):
    """Marks the end of each step."""

    def __init__(self, watch: Watch) -> None:
        self._watch = watch

    def on_step_end(
        self,
        args: TrainingArguments,  # noqa: ARG002 (TrainerCallback's signature, as is **kwargs)
        state: TrainerState,  # noqa: ARG002
        control: TrainerControl,
        **kwargs: Any,  # noqa: ANN401, ARG002
    ) -> None:
        """A step has ended."""
        if not self._watch.mark():
            control.should_training_stop = True
