"""SEAL: a weight per sample, learned by bilevel optimisation against a safe set (arXiv 2410.07471).

Paper -> here
    D, N                pool, its number of samples
    D_safe              safe
    l(theta; z)         `sample_nll`: mean negative log-likelihood of the response tokens
    omega, sigma(omega) `Selector.logits`, `Selector.weights` (scaled to mean 1)
    theta, theta_hat    `Level`: the model that sees the safe set, and the one that does not
    gamma               `Seal.gamma`
    alpha, beta         `selector_learning_rate`, `learning_rate`
    g_i                 gap: l(theta; z_i) - l(theta_hat; z_i) (Algorithm 1), or
                        l(theta; z_i) (Algorithm 2)

The penalised problem, eq. (3):
    min_{omega, theta} (1 - gamma) (1/M) sum_i l(theta; z_safe_i) + gamma p(omega, theta)
    p(omega, theta) = (1/N) sum_i sigma_i(omega) l(theta; z_i) - min_theta' (the same at theta')
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import replace
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from pydantic import Field, model_validator

from seal import interrupts
from seal.artifacts.ranking import Ranking, make_ranking
from seal.data.batches import epoch_order, longest_rows
from seal.data.tokenize import Encoded
from seal.models import LoraSpec
from seal.progress import renamed
from seal.rankers.bilevel import Batch, Bilevel, Visits
from seal.rankers.levels import Level, Tuning, make_levels, take_off_adapters
from seal.rankers.ranker import Cost, Meaning, OptimizerSteps, Ranker, RankingTask, Sizes
from seal.rankers.selector import (
    Activation,
    AdamSelector,
    Selector,
    SgdSelector,
)


class Seal(Ranker):
    """SEAL with the paper's defaults (its Llama-3-8B run), without the published code's defects.

    The score is omega_i at the end; higher = keep. Each sample moves its logit once per epoch,
    before the models learn from it in that epoch. The run closes with one more step of the same
    rule, on the whole pool at once and at the final parameters, where every sample is measured by
    the same theta and against the exact mean over the pool.

    Columns of the ranking: `logit` (the same as the score), `gap` (g_i at the final parameters,
    nats per token), `first_loss` and `last_loss` (l(theta; z_i) at the first visit, and at the
    final parameters), `num_visits`, and `last_visit` (its position among all N * epochs visits).

    With several seeds the score is the mean of the seeds' logits, each seed's brought to mean 0 and
    standard deviation 1; the columns are the means over the seeds, except `num_visits`, which is
    the sum, and `logit_SEED` and `last_visit_SEED`, of which each seed has its own.

    Attributes:
        algorithm: "memory_efficient" (Algorithm 2, the paper's main experiments) or "penalty"
            (Algorithm 1, with theta_hat).
        tuning: Train a LoRA adapter per level, or all weights.
        lora: The adapters.
        epochs: Passes over the pool; the safe set cycles.
        batch_size: Pool samples, and as many safe samples, per step.
        micro_batch_size: Most samples per pass; None: what the device takes well. Memory only, the
            results stay.
        learning_rate: beta, of Adam on theta and theta_hat.
        betas: Of that Adam.
        max_grad_norm: Gradient clipping of theta and theta_hat.
        weights: "softmax" (N softmax, mean exactly 1) or "sigmoid" (2 sigmoid).
        selector_learning_rate: alpha.
        update: "sgd" moves the visited logits only. "adam" is the published update, which writes
            the visit order into the logits, and has no closing step.
        gamma_start: Share of the lower level at the start, in [0, 1].
        gamma_step: What an epoch adds to it.
        gamma_per: "epoch": raised after each epoch, so that the first has gamma_start (the paper).
            "step": raised by the same amount per epoch, a little at each step.
        seed: Of the order of samples and the adapters' initial values.
        max_skipped_steps: Steps with a loss or gradient that is not finite, which are left out of
            everything and named in metrics.jsonl, before the run is given up.
        num_seeds: Whole runs that are averaged, with the seeds `seed`, `seed` + 1, ...
    """

    RESUMES_STATE: ClassVar[bool] = True
    SCORE: ClassVar[str] = "the logit of its learned weight"
    COLUMNS: ClassVar[Mapping[str, Meaning]] = {
        "gap": Meaning("what moved its weight in the closing step", unit="nats per token"),
        "first_loss": Meaning("loss at the first visit", unit="nats per token"),
        "last_loss": Meaning("loss at the final parameters", unit="nats per token"),
        "num_visits": Meaning("times it was visited"),
    }
    HIDDEN_COLUMNS: ClassVar[frozenset[str]] = frozenset({"logit", "last_visit"})

    method: Literal["seal"] = "seal"
    algorithm: Literal["memory_efficient", "penalty"] = "memory_efficient"
    tuning: Tuning = "lora"
    lora: LoraSpec = LoraSpec()
    epochs: int = Field(default=3, ge=1)
    batch_size: int = Field(default=64, ge=1)
    micro_batch_size: int | None = Field(default=None, ge=1)
    learning_rate: float = Field(default=1e-5, gt=0)
    betas: tuple[float, float] = (0.9, 0.95)
    max_grad_norm: float = Field(default=1.0, gt=0)
    weights: Activation = "softmax"
    selector_learning_rate: float = Field(default=5e-3, gt=0)
    update: Literal["sgd", "adam"] = "sgd"
    gamma_start: float = Field(default=0.0, ge=0, le=1)
    gamma_step: float = Field(default=0.03, ge=0, le=1)
    gamma_per: Literal["epoch", "step"] = "epoch"
    seed: int = 0
    max_skipped_steps: int = Field(default=10, ge=0)
    num_seeds: int = Field(default=1, ge=1)

    @model_validator(mode="after")
    def _check(self) -> Seal:
        rises = self.epochs if self.gamma_per == "step" else self.epochs - 1
        last = self.gamma_start + self.gamma_step * rises
        if last > 1:
            raise ValueError(
                f"gamma must stay in [0, 1]; it would rise from {self.gamma_start} to {last:g} "
                f"over {self.epochs} epochs. Lower gamma_step or epochs."
            )
        if self.lora.dropout > 0:
            raise ValueError(
                f"lora.dropout={self.lora.dropout} would make the losses that rank the samples "
                "random. Set it to 0 here; the train stage has a lora of its own."
            )
        return self

    def gamma(self, step: int, steps_per_epoch: int) -> float:
        """gamma_k: the share of the lower level at a step."""
        epochs = step / steps_per_epoch if self.gamma_per == "step" else step // steps_per_epoch
        return self.gamma_start + self.gamma_step * epochs

    def rank(self, task: RankingTask) -> Ranking:
        """Algorithm 1 or 2 on the pool, then the closing step; once for each seed."""
        if self.num_seeds == 1:
            return self._rank_once(task)
        rankings: dict[int, Ranking] = {}
        for seed in range(self.seed, self.seed + self.num_seeds):
            is_last = len(rankings) == self.num_seeds - 1
            # Of the weights themselves each seed needs its own copy; an adapter is taken off again.
            shared = self.tuning == "lora" or is_last
            model = task.lm.model if shared else copy.deepcopy(task.lm.model)
            own = replace(
                task,
                lm=replace(task.lm, model=model),
                progress=renamed(task.progress, f"seed {seed}"),
                log=lambda record, seed=seed: task.log({"seed": seed, **record}),
                checkpoints=task.checkpoints and task.checkpoints.part(f"seed-{seed}"),
            )
            one = self.model_copy(update={"seed": seed, "num_seeds": 1})
            rankings[seed] = one.rank(own)
        return averaged(rankings)

    def needs_float32(self) -> str:
        """Algorithm 1 takes one loss from another that is nearly equal; "full" moves by little."""
        if self.tuning == "full":
            return "rank.tuning=full rounds most of its updates away in half precision"
        if self.algorithm == "penalty":
            return "rank.algorithm=penalty subtracts losses that differ by less than half precision"
        return ""

    def extends(self) -> str:
        """Why a finished ranking cannot be gone on from, or ""."""
        if self.tuning == "full":
            return "rank.tuning=full does not keep the weights that it ends with"
        if self.num_seeds > 1:
            return f"rank.num_seeds={self.num_seeds} averages runs, which cannot be gone on with"
        if self.update == "adam":
            return "rank.update=adam writes the order of the visits into the scores"
        return ""

    def _rank_once(self, task: RankingTask) -> Ranking:
        # By id, so that the order of the file has no say in the order of the visits.
        pool = sorted(task.pool, key=lambda row: row.id)
        safe = sorted(task.safe, key=lambda row: row.id)
        levels = self._levels(task)
        selector, visits = self._selector(len(pool)), Visits(len(pool))
        run = Bilevel(levels, selector, visits, np.arange(len(pool)))
        if task.extended:
            run.extend(task.extended, [row.id for row in pool])
        run.resume(task.checkpoints)
        for record in run.records:
            task.log(record)
        if task.lm.device.type != "cpu":  # which swaps before it fails
            levels[0].rehearse(longest_rows([*pool, *safe], 2 * self.batch_size))
        steps_per_epoch = -(-len(run.places) // self.batch_size)
        num_steps = steps_per_epoch * self.epochs
        with interrupts.polled() if task.checkpoints else nullcontext():
            for step, batch in enumerate(self._batches(run.places, len(safe))):
                if step < run.step:  # done before the run was interrupted
                    continue
                gamma = self.gamma(step, steps_per_epoch)
                gamma = gamma if run.last_gamma is None else run.last_gamma
                self._step(task, run, batch, gamma, pool, safe)
                task.progress(
                    "ranking with SEAL", run.step * self.batch_size, num_steps * self.batch_size
                )
                run.keep(task.checkpoints, is_last=run.step == num_steps)
        ranking = self._ranking(task, pool, run)
        take_off_adapters(levels[0])
        return ranking

    def _step(
        self,
        task: RankingTask,
        run: Bilevel,
        batch: Batch,
        gamma: float,
        pool: Sequence[Encoded],
        safe: Sequence[Encoded],
    ) -> None:
        """One step of theta, theta_hat and omega; none of them, if a number is not finite."""
        pool_rows = [pool[i] for i in batch.pool]
        safe_rows = [safe[i] for i in batch.safe]
        places = torch.from_numpy(batch.pool)
        weights = run.selector.weights(places)
        theta, *auxiliary = run.levels

        # theta: the gradient of (1 - gamma) mean l_safe + gamma mean sigma_j l_j
        upper = torch.full((len(safe_rows),), (1 - gamma) / len(safe_rows))
        lower = weights / len(pool_rows)
        result = theta.differentiate(safe_rows + pool_rows, torch.cat([upper, gamma * lower]))
        safe_losses, losses = result.losses.split([len(safe_rows), len(pool_rows)])
        # Algorithm 1: the lower level's own minimiser
        minima = [theta_hat.differentiate(pool_rows, lower) for theta_hat in auxiliary]
        gap = losses - sum(minimum.losses for minimum in minima)

        record: dict[str, Any] = {"step": run.step, "gamma": gamma}
        problem = run.skip([result, *minima], self.max_skipped_steps)
        if problem:
            record["skipped"] = problem
        else:
            for level in run.levels:
                level.optimizer.step()
            run.selector.update(places, gap)  # omega: sigma_i (g_i - sum_k sigma_k g_k)
            run.visits.record(batch.pool, losses.numpy())
            record |= {
                "safe_loss": float(safe_losses.mean()),
                "pool_loss": float(losses.mean()),
                "gap": float(gap.mean()),
                "grad_norm": result.grad_norm,
                "effective_sample_share": run.selector.effective_share(),
            }
        run.records.append(record)
        run.step += 1
        task.log(record)

    def cost(self, sizes: Sizes) -> Cost:
        """Pool and safe batches of equal number for every epoch, and the closing pass.

        The pool's backward is skipped while gamma is 0, the safe set's while it is 1; theta_hat
        always has one.
        """
        steps = -(-sizes.num_pool // self.batch_size)
        gammas = [self.gamma(step, steps) for step in range(steps * self.epochs)]
        pool = sizes.pool / steps
        safe = sizes.safe / sizes.num_safe * sizes.num_pool / steps
        theta = [
            Cost(
                trained=safe * (gamma < 1) + pool * (gamma > 0),
                forward=pool * (gamma == 0) + safe * (gamma == 1),
            )
            for gamma in gammas
        ]
        cost = sum(theta, Cost(forward=sizes.pool))
        if self.algorithm == "penalty":
            cost += Cost(forward=sizes.pool, trained=pool * len(gammas))
        return sum([cost] * self.num_seeds, Cost())

    def optimizer_steps(self) -> OptimizerSteps:
        """As the estimate of its time measures them."""
        return OptimizerSteps(self.batch_size, self.micro_batch_size, self.tuning, self.lora)

    def _levels(self, task: RankingTask) -> list[Level]:
        return make_levels(
            task.lm,
            num_levels=2 if self.algorithm == "penalty" else 1,
            tuning=self.tuning,
            lora=self.lora,
            learning_rate=self.learning_rate,
            betas=self.betas,
            max_grad_norm=self.max_grad_norm,
            micro_batch_size=self.micro_batch_size,
            seed=self.seed,
        )

    def _selector(self, num_samples: int) -> Selector:
        kind = {"sgd": SgdSelector, "adam": AdamSelector}[self.update]
        return kind(num_samples, self.weights, self.selector_learning_rate)

    def _batches(self, places: np.ndarray, num_safe: int) -> Iterator[Batch]:
        """Every pool sample once per epoch, with as many safe samples; the safe set cycles."""
        safe_stream = _cycle(num_safe, self.seed)
        for epoch in range(self.epochs):
            order = epoch_order(len(places), seed=self.seed, stream="pool", epoch=epoch)
            for start in range(0, len(places), self.batch_size):
                batch = places[order[start : start + self.batch_size]]
                yield Batch(batch, np.array([next(safe_stream) for _ in batch]))

    def _ranking(self, task: RankingTask, pool: Sequence[Encoded], run: Bilevel) -> Ranking:
        theta, *auxiliary = run.levels
        last = self._final_losses(task, theta, pool)
        gap = last
        for theta_hat in auxiliary:
            gap = last - self._final_losses(task, theta_hat, pool)
        if self.update == "sgd":  # the closing step: the whole pool is the batch
            run.selector.update(torch.arange(len(pool)), torch.from_numpy(gap).float())
        logits = run.selector.logits.detach().numpy()
        return make_ranking(
            tuple(row.id for row in pool),
            logits,
            {
                "logit": logits,
                "gap": gap,
                "first_loss": run.visits.first_loss,
                "last_loss": last,
                "num_visits": run.visits.num_visits,
                "last_visit": run.visits.last_visit,
            },
        )

    def _final_losses(self, task: RankingTask, level: Level, pool: Sequence[Encoded]) -> np.ndarray:
        level.activate()
        return task.tables.losses(level.lm, pool).mean


def averaged(rankings: Mapping[int, Ranking]) -> Ranking:
    """One ranking of several seeds' rankings of the same pool; see `Seal`.

    Args:
        rankings: Seed -> its ranking, with the columns of a single seed.
    """
    every = list(rankings.values())
    columns = {
        name: np.mean([ranking.columns[name] for ranking in every], axis=0)
        for name in ("logit", "gap", "first_loss", "last_loss")
    }
    columns["num_visits"] = np.sum([ranking.columns["num_visits"] for ranking in every], axis=0)
    for seed, ranking in rankings.items():
        columns[f"logit_{seed}"] = ranking.columns["logit"]
        columns[f"last_visit_{seed}"] = ranking.columns["last_visit"]
    scores = np.mean([_standardised(ranking.scores) for ranking in every], axis=0)
    return make_ranking(every[0].ids, scores, columns)


def _cycle(num_samples: int, seed: int) -> Iterator[int]:
    """Places in the safe set without end, each once per round, every round in a new order."""
    epoch = 0
    while True:
        yield from epoch_order(num_samples, seed=seed, stream="safe", epoch=epoch)
        epoch += 1


def _standardised(scores: np.ndarray) -> np.ndarray:
    """The scores with mean 0 and standard deviation 1; 0 where all are equal."""
    spread = scores.std()
    return (scores - scores.mean()) / spread if spread > 0 else np.zeros(len(scores))
