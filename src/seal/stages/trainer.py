"""TRL's SFTTrainer, watched: a step that is not finite is left out, and its samples are named.

The trainer's batches carry tokens and no ids, so a sample is found again by its tokens and labels.
"""

from __future__ import annotations

import logging
import math
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, cast, final

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.nn.utils import get_total_norm
from transformers import TrainerState, TrainingArguments
from trl import SFTTrainer  # pyright: ignore[reportPrivateImportUsage]

from seal.data.tokenize import Encoded
from seal.processes import processes
from seal.stages.training_state import trained_weights, whole

logger = logging.getLogger(__name__)

IGNORED = -100  # the label of a token without loss, in torch, transformers and TRL
_TOKENS = ("input_ids", "labels", "attention_mask", "position_ids")
_NUM_NAMED = 3  # of the samples of a step, in a message; metrics.jsonl has them all


@dataclass(slots=True, eq=False)
class Watch:
    """What is watched, and what has been seen.

    Attributes:
        rows: The training set.
        most: Steps that may be left out.
        tell: Given what is to be logged of a step that is left out.
        num_skipped: How many were.
        last_skipped: The last of them, counted from 1; 0 before there is one.
    """

    rows: Sequence[Encoded]
    most: int
    tell: Callable[[dict[str, Any]], None]
    num_skipped: int = 0
    last_skipped: int = 0
    _seen: list[tuple[dict[str, Tensor], Tensor]] = field(default_factory=list)
    _ids: dict[bytes, list[str]] | None = None

    def see(self, batch: dict[str, Tensor], loss: Tensor) -> None:
        """Note a micro-batch of the step under way."""
        self._seen.append((batch, loss))

    def take(self) -> list[tuple[dict[str, Tensor], Tensor]]:
        """The micro-batches of the step, which is over."""
        seen, self._seen = self._seen, []
        return seen

    def names(self, batch: Mapping[str, Tensor]) -> list[str]:
        """The ids of a batch's samples; all ids, where several samples are equal."""
        if self._ids is None:
            self._ids = defaultdict(list)
            for row in self.rows:
                self._ids[_key(row.input_ids, labels_of(row))].append(row.id)
        keys = (_key(*(values.cpu().numpy() for values in pair)) for pair in rows_of(batch))
        return [name for key in keys for name in self._ids.get(key, ())]


@final
class WatchedTrainer(SFTTrainer):
    """SFTTrainer with a look at each step's loss and gradient before the optimiser gets it.

    Attributes:
        watch: Set once the trainer is made.
    """

    watch: Watch

    def get_batch_samples(
        self, epoch_iterator: Iterator[Any], num_batches: int, device: torch.device
    ) -> tuple[list[Any], Tensor | int | None]:
        """The micro-batches of a step; each sample carries a loss on one process, and once."""
        batches = map(self._without_repetitions, epoch_iterator)
        return SFTTrainer.get_batch_samples(self, batches, num_batches, device)

    def training_step(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        num_items_in_batch: Tensor | int | None = None,
    ) -> Tensor:
        """Loss and gradient of a micro-batch; of a step that is not finite, neither remains."""
        batch = {name: inputs[name] for name in _TOKENS if name in inputs}
        loss = SFTTrainer.training_step(self, model, inputs, num_items_in_batch)
        self.watch.see(batch, loss)
        if not self.accelerator.sync_gradients:
            return torch.where(loss.isfinite(), loss, 0)
        seen = self.watch.take()
        losses = torch.stack([value for _, value in seen])
        is_bad = not self._is_finite(losses)
        if not processes().any(is_bad):
            return loss
        self._skip(seen, losses)
        return -torch.where(losses[:-1].isfinite(), losses[:-1], 0).sum()  # the sum is then 0

    def _load_from_checkpoint(
        self, resume_from_checkpoint: str, model: nn.Module | None = None
    ) -> None:
        """Nothing: the weights of our checkpoints are taken over once training has begun."""

    def _without_repetitions(self, batch: dict[str, Any]) -> dict[str, Any]:
        """Take the loss off what fills the last batch of an epoch for all processes to have one."""
        each, size = self.args.per_device_train_batch_size, self.args.world_size
        left = len(self.watch.rows) % (each * size)
        if size == 1 or not left or not self.accelerator.gradient_state.end_of_dataloader:
            return batch
        own = max(0, left - self.args.process_index * each)
        for _, labels in rows_of(batch)[own:]:
            labels.fill_(IGNORED)
        return batch

    def _is_finite(self, losses: Tensor) -> bool:
        # Under fp16 gradients overflow now and then, and the scaler leaves these steps out itself.
        has_scaler = self.accelerator.scaler is not None
        is_finite = has_scaler or self._gradient_is_finite()  # first: all processes take part
        return is_finite and bool(losses.isfinite().all())

    def _gradient_is_finite(self) -> bool:
        weights = trained_weights(cast(nn.Module, self.model)).values()
        gradients = [weight.grad for weight in weights if weight.grad is not None]
        return not gradients or bool(whole(get_total_norm(gradients)).isfinite())

    def _skip(self, seen: Sequence[tuple[dict[str, Tensor], Tensor]], losses: Tensor) -> None:
        """Leave a step out of everything, on all processes.

        Raises:
            ValueError: If that was done too often, or would not help: the model itself is broken.
        """
        watch = self.watch
        are_bad = [not math.isfinite(loss) for loss in losses.tolist()]
        values = [loss for loss in losses.tolist() if not math.isfinite(loss)]
        found = processes().gather((values, [watch.names(batch) for batch, _ in seen], are_bad))
        value = next((values[0] for values, _, _ in found if values), None)
        what = "gradient" if value is None else f"training loss ({value})"
        names = sorted(
            name
            for _, batches, bad in found
            for batch, is_bad in zip(batches, bad, strict=True)
            for name in batch
            if is_bad or value is None
        )
        step = self.state.global_step + 1
        if self.is_deepspeed_enabled or not self._works():  # DeepSpeed has made the step already
            raise ValueError(not_finite(what, step, self.state, self.args))
        watch.num_skipped += 1
        watch.last_skipped = step
        watch.tell({"step": step, "skipped": f"{what} is not finite", "samples": names})
        others = f" and {len(names) - _NUM_NAMED} more" if names[_NUM_NAMED:] else ""
        among = f"for a batch with {', '.join(names[:_NUM_NAMED])}{others}"
        logger.warning("step %d is left out: the %s is not finite %s", step, what, among)
        if watch.num_skipped > watch.most:
            raise ValueError(
                f"the {what} is not finite at step {step} of {self.state.max_steps}, {among}; "
                f"train.max_skipped_steps={watch.most} such steps were left out before. Nothing "
                "was kept. Look at the samples of these steps, lower train.args.learning_rate (it "
                f"is {self.args.learning_rate:g}), or warm up with train.args.warmup_steps."
            )
        self._forget_metrics()
        if self.accelerator.scaler is None:
            self._forget_gradient()

    def _works(self) -> bool:
        """Whether loss and gradient are finite on tokens of no sample; if not, it is the model.

        Takes the place of the step's gradient, but under fp16, where only the loss is looked at.
        """
        model = cast(nn.Module, self.model)
        has_scaler = self.accelerator.scaler is not None
        tokens = torch.arange(8, device=self.args.device)
        model.eval()
        with torch.set_grad_enabled(not has_scaler):
            logits = model(input_ids=tokens[None], use_cache=False).logits
            loss = cross_entropy(logits[0, :-1].float(), tokens[1:])
        works = bool(loss.isfinite())
        if not has_scaler:
            self._forget_gradient()
            loss.backward()
            works = self._gradient_is_finite() and works  # in this order, as above
        model.train()
        return not processes().any(not works)

    def _forget_gradient(self) -> None:
        """Optimisers pass over weights without one: neither moments move, nor does decay."""
        for weight in trained_weights(cast(nn.Module, self.model)).values():
            weight.grad = None

    def _forget_metrics(self) -> None:
        """Drop what TRL has measured on this step, unless it is a number."""
        metrics = self._metrics["train"]
        for name, values in list(metrics.items()):
            finite = [value for value in values if math.isfinite(value)]
            if finite:
                metrics[name] = finite
            else:
                del metrics[name]


def labels_of(row: Encoded) -> np.ndarray:
    """The tokens that carry a loss, and -100 for the others."""
    return np.where(row.response_mask, row.input_ids, IGNORED)


def rows_of(batch: Mapping[str, Tensor]) -> list[tuple[Tensor, Tensor]]:
    """(tokens, labels) of each sample of a batch, padded or one after the other; views of it."""
    tokens, labels = batch["input_ids"], batch["labels"]
    if "attention_mask" in batch:
        lengths = batch["attention_mask"].sum(1).tolist()
        return [(tokens[i, :n], labels[i, :n]) for i, n in enumerate(lengths)]
    starts = (batch["position_ids"][0] == 0).nonzero().flatten().tolist()
    ends = [*starts[1:], tokens.shape[1]]
    return [(tokens[0, a:b], labels[0, a:b]) for a, b in zip(starts, ends, strict=True)]


def not_finite(what: str, step: int, state: TrainerState, config: TrainingArguments) -> str:
    """That training cannot go on, and the way out."""
    return (
        f"the {what} is not finite at step {step} of {state.max_steps}. Nothing was kept. Lower "
        f"train.args.learning_rate (it is {config.learning_rate:g}), or warm up with "
        "train.args.warmup_steps."
    )


def _key(tokens: np.ndarray, labels: np.ndarray) -> bytes:
    # The first label is never predicted, and a collator may blank it.
    return np.concatenate([tokens, labels[1:]]).astype(np.int64).tobytes()
