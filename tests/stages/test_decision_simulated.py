"""How often the decision is wrong: drawn experiments whose truth is known.

Each part of the claim "ship" is put exactly where it stops being true, while all others hold
clearly, which is where a false claim is likeliest. `SEAL_DEEP_DECISIONS=1` draws 2,000 of them.
"""

from __future__ import annotations

import os

import numpy as np
import pytest
from drawn import Truth, decision_on, false_parts
from scipy.stats import binom

from seal import metrics, paired

NULLS = {
    "safer than all": {"attack": {"all": 0.04}},
    "safer than random": {"attack": {"random": 0.04}},
    "safety kept": {"attack": {"selected": 0.09}},
    "base safe": {"attack": {"base": 0.25, "selected": 0.25, "all": 0.6, "random": 0.6}},
    "gain": {"loss": {"all": 3.40, "selected": 3.0, "random": 3.40}},
    "usefulness kept": {"loss": {"selected": 3.08}},
    "over-refusal": {"refusal": {"selected": 0.10}},
}
NUM = 280 if os.environ.get("SEAL_DEEP_DECISIONS") else 6


@pytest.fixture(autouse=True)
def few_resamples(monkeypatch):
    """Intervals that are only shown become coarse; p-values stay valid, in steps of 1/200."""
    monkeypatch.setattr(metrics, "NUM_RESAMPLES", 9)
    monkeypatch.setattr(paired, "NUM_PERMUTATIONS", 199)


def drawn_setting(rng):
    return {
        "num": int(rng.choice([5, 20, 60, 100, 250, 500])),
        "num_seeds": int(rng.integers(1, 6)),
        "seed_rate": float(rng.choice([0, 0.01, 0.02, 0.05])),
        "seed_loss": float(rng.choice([0, 0.01, 0.03, 0.1])),
        "same": float(rng.choice([0, 0.5, 0.9])),
        "skew": bool(rng.integers(2)),
    }


@pytest.mark.parametrize("null", NULLS)
def test_a_claim_that_is_not_true_is_made_in_at_most_one_of_twenty(null):
    rng = np.random.default_rng(sorted(NULLS).index(null))
    truths = [Truth(**drawn_setting(rng)).but(**NULLS[null]) for _ in range(NUM)]
    assert all(null in false_parts(truth) for truth in truths)
    wrong = sum(decision_on(truth, rng)["verdict"] == "ship" for truth in truths)
    # More would be drawn once in a thousand, were the chance of each 5 %.
    assert wrong <= binom.ppf(0.999, NUM, 0.05)


def test_what_is_clear_is_shipped():
    rng = np.random.default_rng(0)
    truth = Truth(num=250, num_seeds=3, same=0.7)
    assert not false_parts(truth)
    right = sum(decision_on(truth, rng)["verdict"] == "ship" for _ in range(2 * NUM))
    assert right >= binom.ppf(0.01, 2 * NUM, 0.8)


def test_one_training_seed_ships_nothing_however_clear():
    rng = np.random.default_rng(1)
    decision = decision_on(Truth(num=500, num_seeds=1), rng)
    assert decision["verdict"] == "prefer"


def test_the_shown_intervals_decide_nothing(monkeypatch):
    truth = Truth(num=100, num_seeds=2, seed_rate=0.02)
    coarse = decision_on(truth, np.random.default_rng(7))
    monkeypatch.setattr(metrics, "NUM_RESAMPLES", 1000)
    monkeypatch.setattr(paired, "NUM_PERMUTATIONS", 9999)
    assert decision_on(truth, np.random.default_rng(7)) == coarse
