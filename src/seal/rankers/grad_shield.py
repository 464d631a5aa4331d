"""GradShield: by how much one step on a sample would move a safety probe (arXiv 2605.14194).

Paper -> here
    S(theta)   the probe, up = less safe: `probe` says which
    FIHS(z)    -grad S(theta_0) . grad l(z; theta_0), the change of S per unit of learning rate
               in one step of plain gradient descent on z; column `fihs`
"""

from __future__ import annotations

from typing import Literal, cast

import numpy as np
import torch
from jaxtyping import Float
from pydantic import Field, model_validator
from torch import Tensor, nn

from seal.artifacts.ranking import Ranking, make_ranking
from seal.data.batches import Batch
from seal.data.sample import Message, Sample
from seal.data.tokenize import Encoded, Tokenization
from seal.losses import response_logits
from seal.models import LanguageModel, LoraSpec, add_lora
from seal.rankers.draws import draw_rows, drawn_share
from seal.rankers.gradients import SampleGradients, Value, refuse_dropout, response_loss
from seal.rankers.ranker import Cost, OptimizerSteps, Ranker, RankingTask, Sizes


class GradShield(Ranker):
    """Score = minus the first-order change of the probe; higher = keep.

    The gradients are those of a fresh LoRA adapter at the aligned model itself: its B is 0, so A's
    gradients vanish and only B's are taken. B's gradient is that of the whole weight matrix seen
    through A, a random projection onto r directions of the layer's input.

    Columns: `risk` (minus the score), `fihs` (without normalisation), `grad_norm` (||grad l(z)||).

    Attributes:
        probe: "safe_loss": S is the mean loss on the safe set. "tokens" (the paper's): S is
            logit(yes_word) - logit(no_word) at the start of the response to a safe sample's prompt.
        yes_word: What a model that complies starts with; its first token counts.
        no_word: What a model that refuses starts with, likewise.
        num_probes: Safe samples over which the probe is averaged.
        normalise: Cosine instead of the dot product, so that a sample does not count by the size
            of its gradient, which falls with the length of its response.
        lora: The adapter.
        init_scale: Standard deviation of B's initial values. Above 0 A's gradients are taken too,
            and the model is no longer exactly the aligned one.
        micro_batch_size: Samples per pass; memory only, the results stay.
        seed: Of the draw and the adapter's initial values.
    """

    method: Literal["grad_shield"] = "grad_shield"
    probe: Literal["safe_loss", "tokens"] = "safe_loss"
    yes_word: str = Field(default="Sure", min_length=1)
    no_word: str = Field(default="I", min_length=1)
    num_probes: int = Field(default=64, ge=1)
    normalise: bool = True
    lora: LoraSpec = LoraSpec(target_modules="all-linear")
    init_scale: float = Field(default=0.0, ge=0)
    micro_batch_size: int = Field(default=8, ge=1)
    seed: int = 0

    @model_validator(mode="after")
    def _check(self) -> GradShield:
        refuse_dropout(self.lora)
        return self

    def rank(self, task: RankingTask) -> Ranking:
        """One probe gradient, and one gradient per pool sample."""
        lm = self._with_adapter(task.lm)
        gradients = SampleGradients(lm, micro_batch_size=self.micro_batch_size)
        probe = self._probe_gradient(task, gradients)
        size = float(probe.norm())
        if size == 0:
            raise ValueError(
                f"rank.probe={self.probe}: the gradient of the probe is 0, so no sample can move "
                "it. Give other safe samples, or set rank.init_scale to 0 if it is large."
            )
        fihs, norms = np.zeros(len(task.pool)), np.zeros(len(task.pool))
        done = 0
        for places, each in gradients.each(task.pool):
            fihs[places] = -size * (each @ (probe / size)).double().cpu().numpy()
            norms[places] = each.norm(dim=1).double().cpu().numpy()
            done += len(places)
            task.progress("ranking with GradShield", done, len(task.pool))
        risk = fihs
        if self.normalise:  # no gradient at all moves nothing: risk 0
            risk = np.divide(fihs, size * norms, out=np.zeros_like(fihs), where=norms > 0)
        return make_ranking(
            tuple(row.id for row in task.pool),
            -risk,
            {"risk": risk, "fihs": fihs, "grad_norm": norms},
        )

    def cost(self, sizes: Sizes) -> Cost:
        """Forward and backward passes over the pool and the probes."""
        share = drawn_share(self.num_probes, sizes.num_safe)
        return Cost(trained=sizes.pool + share * sizes.safe)

    def optimizer_steps(self) -> OptimizerSteps:
        """As the estimate of its time measures them."""
        return OptimizerSteps(micro_batch_size=self.micro_batch_size, lora=self.lora)

    def _with_adapter(self, lm: LanguageModel) -> LanguageModel:
        model = add_lora(lm.model, self.lora, seed=self.seed).eval()
        generator = torch.Generator().manual_seed(self.seed)
        for name, parameter in model.named_parameters():
            if ".lora_B." in name and self.init_scale > 0:
                noise = torch.randn(parameter.shape, generator=generator)
                parameter.data.copy_(self.init_scale * noise)
            elif ".lora_A." in name and self.init_scale == 0:
                parameter.requires_grad_(False)  # its gradient is exactly 0
        return LanguageModel(model, lm.tokenizer, lm.encoder, lm.pad_id)

    def _probe_gradient(self, task: RankingTask, gradients: SampleGradients) -> Float[Tensor, " P"]:
        """The gradient of S at theta_0, the mean over the probes."""
        rows = draw_rows(task.safe, self.num_probes, seed=self.seed, stream="probes")
        if self.probe == "safe_loss":
            return gradients.mean(rows, response_loss)
        yes, no = self.first_tokens(task.lm)
        return gradients.mean([up_to_response(row) for row in rows], logit_margin(yes, no))

    def first_tokens(self, lm: LanguageModel) -> tuple[int, int]:
        """The first token of each word, where the model's chat template starts a response.

        Raises:
            ValueError: If both words start with the same token, or the template refuses them.
        """
        question = (Message("user", "Question"),)
        words = (self.yes_word, self.no_word)
        samples = [Sample(word, question, (Message("assistant", word),)) for word in words]
        encoded = lm.encoder.encode(samples, Tokenization())
        for word, row in zip(words, encoded, strict=True):
            if isinstance(row, str):
                raise ValueError(f"rank.yes_word, rank.no_word: {word!r} has no tokens: {row}.")
        yes, no = (int(row.input_ids[_start(row)]) for row in cast(list[Encoded], encoded))
        if yes == no:
            raise ValueError(
                f"rank.yes_word={self.yes_word} and rank.no_word={self.no_word} start with the "
                "same token, so nothing tells them apart. Give words that start differently."
            )
        return yes, no


def logit_margin(yes: int, no: int) -> Value:
    """S of each sample of a batch with one response token: logit(yes) - logit(no) in its place."""

    def margin(model: nn.Module, batch: Batch) -> Float[Tensor, " B"]:
        logits = response_logits(model, batch).logits
        return logits[:, yes] - logits[:, no]

    return margin


def up_to_response(row: Encoded) -> Encoded:
    """The prompt and the first response token; the prediction of that one is all that is read."""
    end = _start(row) + 1
    return Encoded(row.id, row.input_ids[:end], row.response_mask[:end], is_truncated=True)


def _start(row: Encoded) -> int:
    return int(row.response_mask.argmax())
