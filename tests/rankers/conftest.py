"""Samples for rankers: half of the pool agrees with the safe set, half contradicts it."""

from pathlib import Path

import numpy as np
import pytest

from seal.data.sample import Message, Sample
from seal.data.tokenize import Encoded, Tokenization
from seal.models import LanguageModel, ModelSpec, load_model
from seal.rankers.ranker import RankingTask

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


def make_harmful(num: int = 4) -> list[Encoded]:
    """Harmful references: other prompts, the planted answer."""
    return [encoded(f"harmful-{i}", [2, 140 + i, 1, 3], [40, 41, 42, 1]) for i in range(num)]


def make_task(
    lm: LanguageModel, pool: list[Encoded], safe: list[Encoded], harmful: list[Encoded]
) -> RankingTask:
    """A task with the text of every row, as its tokens read."""
    samples = {row.id: _sample(lm, row) for row in (*pool, *safe, *harmful)}
    return RankingTask(lm, pool, safe, harmful, samples, Tokenization(max_length=64))


def _sample(lm: LanguageModel, row: Encoded) -> Sample:
    prompt, response = (
        lm.tokenizer.decode(row.input_ids[part].tolist(), skip_special_tokens=True)
        for part in (~row.response_mask, row.response_mask)
    )
    return Sample(row.id, (Message("user", prompt),), (Message("assistant", response),))


@pytest.fixture
def lm(tiny_model_dir: Path) -> LanguageModel:
    """A fresh tiny model: rankers may change what they are given."""
    return load_model(ModelSpec(path=str(tiny_model_dir)))
