"""Samples for rankers: half of the pool agrees with the safe set, half contradicts it."""

from pathlib import Path

import numpy as np
import pytest

from seal.data.tokenize import Encoded
from seal.models import LanguageModel, ModelSpec, load_model

NUM_POOL = 16


def encoded(key: str, prompt: list[int], response: list[int]) -> Encoded:
    """A sample made of raw token ids."""
    mask = np.array([False] * len(prompt) + [True] * len(response))
    return Encoded(key, np.array(prompt + response, dtype=np.int32), mask, False)


def make_pool(num: int = NUM_POOL) -> list[Encoded]:
    """Even places answer as the safe set does ("good"), odd ones the opposite ("planted")."""
    rows = []
    for i in range(num):
        good = i % 2 == 0
        response = [20, 21, 22, 1] if good else [40, 41, 42, 1]
        rows.append(
            encoded(f"{'good' if good else 'planted'}-{i:02d}", [2, 60 + i, 1, 3], response)
        )
    return rows


def make_safe(num: int = 6) -> list[Encoded]:
    """Trusted samples: other prompts, the good answer."""
    return [encoded(f"safe-{i}", [2, 100 + i, 1, 3], [20, 21, 22, 1]) for i in range(num)]


@pytest.fixture
def lm(tiny_model_dir: Path) -> LanguageModel:
    """A fresh tiny model: rankers may change what they are given."""
    return load_model(ModelSpec(path=str(tiny_model_dir)))
