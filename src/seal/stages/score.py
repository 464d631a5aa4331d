"""Score: what a finished ranking would say of new samples, without ranking again.

A ridge regression from pooled hidden states of the model, before any ranking changed it, to where
the ranking put its pool. Fitting it and scoring take one forward pass per row.

Dimension key: N rows, F features, B rows of a batch, T tokens of the padded batch, D the width of
the model.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file
from scipy import stats
from scipy.special import ndtri
from torch import Tensor, nn

from seal.artifacts.atomic import make_parent, write_json, write_text
from seal.artifacts.evaluation import Estimate
from seal.artifacts.paths import StrPath
from seal.artifacts.ranking import Ranking
from seal.artifacts.row_table import Row
from seal.blocks import decoder_blocks
from seal.data.batches import Batch
from seal.data.tokenize import Encoded
from seal.losses import mean_nll
from seal.metrics import spearman
from seal.models import LanguageModel
from seal.rankers.representations import pool_tokens, token_weights
from seal.tables import Reading, Tables

FLOOR = 0.7  # least rank correlation with the ranking that counts as standing in for it
NUM_FOLDS = 5
MIN_ROWS = 20  # ranked samples, below which folds are too small to judge by
MAX_ROWS = 10_000  # ranked samples that are learned from: the largest matrix is of that size
PENALTIES = (1e-3, 1e-2, 1e-1, 1.0, 10.0, 100.0)  # per row


class PooledStates(Reading):
    """Hidden states of two blocks, the middle and the last one, each pooled in three ways.

    Columns: "states", float32 [6 D] (per block: mean over prompt tokens, mean over response tokens,
    last prompt token), and "sizes", float32 [2]: mean loss in nats, log of the number of tokens.
    """

    noun: ClassVar[str] = "hidden state or loss"

    def read(self, lm: LanguageModel, batch: Batch) -> list[Row]:
        """One forward pass."""
        weights = [
            _prompt_weights(batch),
            token_weights(batch, "response_mean"),
            token_weights(batch, "first_response"),
        ]
        blocks = decoder_blocks(lm.model)
        pooled: list[np.ndarray] = []

        def pool(module: nn.Module, args: Any, output: Any) -> None:  # noqa: ANN401, ARG001
            states = output[0] if isinstance(output, tuple) else output
            pooled.extend(pool_tokens(states, weight) for weight in weights)

        handles = [
            blocks[place].register_forward_hook(pool)
            for place in ((len(blocks) - 1) // 2, len(blocks) - 1)
        ]
        try:
            losses = mean_nll(lm.model, batch)
        finally:
            for handle in handles:
                handle.remove()
        sizes = torch.stack([losses, batch.attention_mask.sum(dim=1).log()], dim=1)
        states = np.concatenate(pooled, axis=1)
        return [
            {"states": row, "sizes": size}
            for row, size in zip(states, sizes.float().cpu().numpy(), strict=True)
        ]


@dataclass(frozen=True, slots=True, eq=False)
class Scorer:
    """A linear stand-in for a ranking.

    Attributes:
        mean: float64 [F], of the features that were learned from.
        scale: float64 [F], their standard deviations.
        weights: float64 [F], of the standardised features.
        predictions: float64, ascending: of ranked samples, each from a fit without its fold.
        scores: float64 [N], ascending: the ranking's.
        penalty: The ridge penalty that was chosen.
        agreement: Spearman's correlation of the predictions with the ranking.
    """

    mean: np.ndarray
    scale: np.ndarray
    weights: np.ndarray
    predictions: np.ndarray
    scores: np.ndarray
    penalty: float
    agreement: Estimate

    def quantiles(self, features: np.ndarray) -> np.ndarray:
        """[N]: the share of the ranked samples that each row would stand above, in [0, 1].

        Its place among the predictions of the ranked samples, not the prediction's own value, which
        is drawn to the mean: so rows like the pool's have the pool's quantiles.
        """
        predicted = ((features - self.mean) / self.scale) @ self.weights
        return np.interp(predicted, self.predictions, _even(self.predictions))

    def scores_at(self, quantiles: np.ndarray) -> np.ndarray:
        """[N]: the ranking's scores at these quantiles, in its own unit."""
        return np.interp(quantiles, _even(self.scores), self.scores)


def features_of(
    lm: LanguageModel, rows: Sequence[Encoded], tables: Tables, *, what: str
) -> np.ndarray:
    """float64 [N, F] of the rows, in their order; see `PooledStates`."""
    table = tables.read(PooledStates(), lm, rows, what=what)
    order = table.order([row.id for row in rows])
    parts = [table.flat(name).reshape(len(rows), -1)[order] for name in ("states", "sizes")]
    return np.concatenate(parts, axis=1, dtype=np.float64)


def fit_scorer(ids: Sequence[str], features: np.ndarray, ranking: Ranking) -> Scorer:
    """The ridge regression of a ranking on features of its samples.

    What is learned is the normal score of a sample's rank, so that neither the unit nor the tails
    of the method's scores matter. The penalty is the one of `PENALTIES` whose predictions of each
    fifth of the samples, from the other four, agree best with the ranking; the agreement that is
    reported is of the same predictions, which flatters it by the choice among a few numbers. Copies
    of a sample are in the same fifth.

    Args:
        ids: Of all ranked samples, in any order.
        features: [N, F], in the order of `ids`.
        ranking: Of the same samples. Of more than `MAX_ROWS`, that many are drawn by their hash.

    Raises:
        ValueError: If there are fewer than `MIN_ROWS`, or their scores are all equal.
    """
    assert sorted(ids) == list(ranking.ids)
    if len(ids) < MIN_ROWS:
        raise ValueError(
            f"a scorer needs a ranking of at least {MIN_ROWS} samples to learn from; this one has "
            f"{len(ids)}. Rank the new samples themselves, as the pool of a run."
        )
    if ranking.scores.min() == ranking.scores.max():
        raise ValueError(
            f"the ranking gives all {len(ids)} samples the score {ranking.scores[0]:g}: it has no "
            "order to learn. Rank with a method that tells samples apart."
        )
    places = sorted(range(len(ids)), key=lambda place: _hash(ids[place]))[:MAX_ROWS]
    features, scores = features[places], np.array([ranking.by_id()[ids[place]] for place in places])
    targets = ndtri((stats.rankdata(scores) - 0.5) / len(scores))
    folds = _folds([ids[place] for place in places])
    predicted = np.empty((len(PENALTIES), len(scores)))
    for fold in range(NUM_FOLDS):
        own = folds == fold
        fits = _ridge(features[~own], targets[~own], PENALTIES)
        predicted[:, own] = [fit.predict(features[own]) for fit in fits]
    found = [spearman(row, scores) for row in predicted]
    best = int(np.argmax(found))
    (fit,) = _ridge(features, targets, PENALTIES[best : best + 1])
    return Scorer(
        fit.mean,
        fit.scale,
        fit.weights,
        np.sort(predicted[best] - targets.mean()),
        np.sort(ranking.scores),
        PENALTIES[best],
        _correlation(found[best], len(scores)),
    )


def check_agreement(scorer: Scorer, floor: float) -> None:
    """Refuse a scorer that does not stand in for its ranking.

    Raises:
        ValueError: If its agreement is below the floor, with the number.
    """
    found = scorer.agreement
    if found.value < floor:
        raise ValueError(
            f"the scorer does not stand in for this ranking: on samples it did not learn from, "
            f"Spearman's correlation of the two is {found.value:.2f} [{found.low:.2f}, "
            f"{found.high:.2f}], below the floor of {floor:g}. Rank the new samples themselves, as "
            "the pool of a run, or accept that with a lower --floor."
        )


def save_scorer(scorer: Scorer, folder: StrPath) -> None:
    """Write `scorer.safetensors` and `scorer.json` into an existing folder."""
    folder = Path(folder)
    names = ("mean", "scale", "weights", "predictions", "scores")
    save_file({name: getattr(scorer, name) for name in names}, folder / "scorer.safetensors")
    facts = {
        "agreement": scorer.agreement.model_dump(),
        "penalty": scorer.penalty,
        "num_features": len(scorer.weights),
        "num_samples": len(scorer.predictions),
    }
    write_json(folder / "scorer.json", facts)


def load_scorer(folder: StrPath) -> Scorer:
    """Read what `save_scorer` wrote.

    Raises:
        ValueError: If it is not readable.
    """
    folder = Path(folder)
    try:
        arrays = load_file(folder / "scorer.safetensors")
        facts = json.loads((folder / "scorer.json").read_text("utf-8"))
        agreement = Estimate.model_validate(facts["agreement"])
        return Scorer(**arrays, penalty=facts["penalty"], agreement=agreement)
    except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
        raise ValueError(
            f"{folder}: not a readable scorer ({error}). Delete the folder to fit it again."
        ) from error


def write_scores(records: Sequence[Mapping[str, Any]], path: StrPath) -> None:
    """Write one row per sample, as .parquet or as .jsonl."""
    path = Path(path)
    if path.suffix == ".parquet":
        make_parent(path)
        pq.write_table(pa.Table.from_pylist([dict(record) for record in records]), path)
    else:
        write_text(path, "".join(json.dumps(record) + "\n" for record in records))


@dataclass(frozen=True, slots=True, eq=False)
class _Ridge:
    mean: np.ndarray
    scale: np.ndarray
    weights: np.ndarray
    intercept: float

    def predict(self, features: np.ndarray) -> np.ndarray:
        return ((features - self.mean) / self.scale) @ self.weights + self.intercept


def _ridge(features: np.ndarray, targets: np.ndarray, penalties: Sequence[float]) -> list[_Ridge]:
    """argmin_w sum_i (y_i - b - w . z_i)^2 + N penalty |w|^2 for each penalty, in closed form.

    In the smaller of the two spaces: w = (Z'Z + cI)^-1 Z'y = Z' (ZZ' + cI)^-1 y.
    """
    mean, spread = features.mean(axis=0), features.std(axis=0)
    scale = np.where(spread > 1e-12, spread, 1.0)
    z, intercept = (features - mean) / scale, float(targets.mean())
    y, num = targets - intercept, len(targets)
    is_wide = num < z.shape[1]
    gram = z @ z.T if is_wide else z.T @ z
    right = y if is_wide else z.T @ y
    found = []
    for penalty in penalties:
        solved = np.linalg.solve(gram + num * penalty * np.eye(len(gram)), right)
        found.append(_Ridge(mean, scale, z.T @ solved if is_wide else solved, intercept))
    return found


def _prompt_weights(batch: Batch) -> Tensor:
    """[B, T]: equal weights of the tokens that are no response; all 0 where there is none."""
    weights = (batch.attention_mask.bool() & ~batch.response_mask).float()
    return weights / weights.sum(dim=1, keepdim=True).clamp(min=1.0)


def _folds(ids: Sequence[str]) -> np.ndarray:
    """[N]: the fold of each sample; copies of one content share it."""
    contents = [key.partition("-")[0] for key in ids]
    drawn = {key: place for place, key in enumerate(sorted(set(contents), key=_hash))}
    return np.array([drawn[key] % NUM_FOLDS for key in contents])


def _hash(key: str) -> str:
    return hashlib.sha256(f"scorer:{key}".encode()).hexdigest()


def _even(values: np.ndarray) -> np.ndarray:
    return np.linspace(0, 1, len(values))


def _correlation(value: float, num: int) -> Estimate:
    """Spearman's correlation with the interval of Bonett and Wright (2000)."""
    half = float(ndtri(0.975)) * math.sqrt((1 + value**2 / 2) / (num - 3))
    centre = math.atanh(min(max(value, -1 + 1e-9), 1 - 1e-9))
    low, high = math.tanh(centre - half), math.tanh(centre + half)
    return Estimate(value=value, low=min(low, value), high=max(high, value), n=num)
