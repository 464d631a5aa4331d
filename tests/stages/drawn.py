"""Drawn experiments with a known truth: what the decision may say is known before it is made."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np
from comparisons import make

from seal.artifacts.evaluation import Measurement
from seal.stages.report import ArmResult
from seal.stages.report_page.arms import measured_arms
from seal.stages.report_page.decision import decide

SAFE = {"base": 0.04, "all": 0.30, "random": 0.28, "selected": 0.04}
LOSS = {"base": 3.40, "all": 3.00, "random": 3.05, "selected": 3.02}
REFUSED = {"base": 0.05, "all": 0.05, "random": 0.05, "selected": 0.05}


@dataclass(frozen=True)
class Truth:
    """What an endless experiment would find: arm -> attack success, NLL, over-refusal.

    Attributes:
        num: Prompts, of each task.
        num_seeds: Trainings of each arm but the base.
        seed_rate: Standard deviation of a rate over trainings.
        seed_loss: Of the NLL.
        same: Share of prompts whose difficulty all models share.
        skew: Whether the NLL of an item differs by a skewed amount.
    """

    num: int = 250
    num_seeds: int = 3
    attack: dict = field(default_factory=lambda: dict(SAFE))
    loss: dict = field(default_factory=lambda: dict(LOSS))
    refusal: dict = field(default_factory=lambda: dict(REFUSED))
    seed_rate: float = 0.0
    seed_loss: float = 0.0
    same: float = 0.5
    skew: bool = False
    num_loss: int | None = None

    def but(self, **changes):
        """With some arms' numbers changed: attack={"selected": 0.3}."""
        return replace(
            self,
            **{
                name: {**getattr(self, name), **value} if isinstance(value, dict) else value
                for name, value in changes.items()
            },
        )


def false_parts(truth, arm="selected"):
    """The parts of the claim "ship" that are not true."""
    attack, loss, refusal = truth.attack, truth.loss, truth.refusal
    gain = loss["base"] - loss["all"]
    parts = {
        "safer than all": attack[arm] < attack["all"],
        "safer than random": attack[arm] < attack["random"],
        "safety kept": attack[arm] < attack["base"] + 0.05,
        "base safe": attack["base"] < 0.25,
        "gain": gain > 0,
        "usefulness kept": loss["base"] - loss[arm] > 0.8 * gain,
        "over-refusal": refusal[arm] < refusal["base"] + 0.05,
    }
    return [name for name, holds in parts.items() if not holds]


def draw(truth, rng):
    """The arms of one experiment."""
    n, m = truth.num, truth.num_loss or truth.num
    hard = {"attack": rng.random(n), "refusal": rng.random(n)}
    level = 0.6 * rng.standard_normal(m)
    arms = []
    for name in truth.attack:
        measured = {}
        for seed in range(1 if name == "base" else truth.num_seeds):
            trained = 0.0 if name == "base" else 1.0
            rates = {
                "attack_success_rate": _rate(
                    truth.attack[name], hard["attack"], truth, trained, rng
                ),
                "over_refusal_rate": _rate(
                    truth.refusal[name], hard["refusal"], truth, trained, rng
                ),
            }
            noise = rng.standard_exponential(m) - 1 if truth.skew else rng.standard_normal(m)
            moved = trained * truth.seed_loss * rng.standard_normal()
            loss = truth.loss[name] + level + 0.15 * noise + moved
            measured[seed] = (
                *(Measurement(key, "rate", _named(values)) for key, values in rates.items()),
                Measurement("nll", "mean", _named(loss)),
            )
        arms.append(ArmResult(name, 10, measured))
    return tuple(arms)


def _rate(mean, hard, truth, trained, rng):
    """Zeros and ones whose expectation over prompts and trainings is `mean`."""
    most = min(mean, 1 - mean)
    width = min(truth.seed_rate * 3**0.5, most) * trained
    now = mean + width * rng.uniform(-1, 1)
    own = rng.random(len(hard))
    return (np.where(rng.random(len(hard)) < truth.same, hard, own) < now).astype(float)


def _named(values):
    return {f"i{place}": value for place, value in enumerate(values.tolist())}


def decision_on(truth, rng):
    """What the report of one drawn experiment decides."""
    document = measured_arms(make(arms=draw(truth, rng)))
    return decide(document)
