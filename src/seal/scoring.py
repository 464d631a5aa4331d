"""Scoring new samples by a finished run: the run's own model, template, tokens and ranking."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, get_args

import numpy as np

from seal.artifacts.provenance import file_hash, load_provenance
from seal.artifacts.ranking import Ranking, load_ranking
from seal.artifacts.run_dir import build_or_reuse
from seal.artifacts.selection import load_selection
from seal.data.formats import Format
from seal.data.load import DataSpec, EncodedSet, SampleSet, encode_set, load, write_excluded
from seal.generation import check_context
from seal.inputs import Inputs
from seal.models import LanguageModel, load_model
from seal.processes import processes
from seal.stages import score as score_stage
from seal.stages.select import check_same_samples
from seal.tables import Tables

_SUFFIXES = (".jsonl", ".parquet")


def score(inputs: Inputs, new: str, row_format: str | None, out: Path | None, floor: float) -> Path:
    """Score the samples of a file as the run's ranking would; returns the file that was written.

    The scorer is fitted once and kept in the run's folder `scorer`. Rows that cannot be scored are
    listed beside the scores.

    Args:
        inputs: Of the run.
        new: The file, or the name of a Hub dataset.
        row_format: How its rows become samples; None takes the pool's.
        out: A .jsonl or .parquet file; None takes the run's folder `scored`.
        floor: Least rank correlation of the scorer with the ranking, on samples not learned from.

    Raises:
        ValueError: If the run has no ranking of its pool, the file cannot be read, or the scorer
            does not agree with the ranking.
    """
    path = inputs.run_dir.rank / "ranking.parquet"
    if not path.is_file():
        raise ValueError(f"{path} is missing. Rank first: seal rank {inputs.run_dir.root}")
    out = out or inputs.run_dir.root / "scored" / f"{Path(new).stem}.jsonl"
    samples = load([_spec(inputs, new, row_format, out)], name="new")
    encoded = encode_set(samples, inputs.encoder, inputs.experiment.tokenization, name="new")
    ranking = load_ranking(path)
    check_same_samples(ranking, inputs.rankable)
    threshold = _threshold(inputs, ranking, path)
    lm = load_model(inputs.experiment.model)
    check_context(lm, encoded.encoded)
    tables = Tables(inputs.run_dir.tables, inputs.progress)
    scorer = _scorer(inputs, ranking, path, lm, tables)
    score_stage.check_agreement(scorer, floor)
    features = score_stage.features_of(lm, encoded.encoded, tables, what="reading the new samples")
    quantiles = scorer.quantiles(features)
    records = _records(samples, encoded, quantiles, scorer.scores_at(quantiles), threshold)
    if processes().is_first:
        score_stage.write_scores(records, out)
    excluded = (*samples.excluded, *encoded.excluded)
    if excluded and processes().is_first:
        write_excluded(excluded, out.with_suffix(".excluded.jsonl"))
    return out


def _spec(inputs: Inputs, new: str, row_format: str | None, out: Path) -> DataSpec:
    pool = inputs.experiment.pool
    if row_format is not None and row_format not in get_args(Format):
        known = ", ".join(get_args(Format))
        raise ValueError(f"--format={row_format}: there is no such format. Known: {known}.")
    if out.suffix not in _SUFFIXES or out.resolve() == Path(new).resolve():
        raise ValueError(
            f"--out={out}: scores are written to another file than they are of, with the suffix "
            f"{' or '.join(_SUFFIXES)}. Give such a name."
        )
    fields = {"format": row_format or pool.format, "on_bad_row": pool.on_bad_row}
    return DataSpec.model_validate({"path": new, "source": None, **fields})


def _scorer(
    inputs: Inputs, ranking: Ranking, path: Path, lm: LanguageModel, tables: Tables
) -> score_stage.Scorer:
    """The run's scorer, fitted if it is not there yet."""
    folder = inputs.run_dir.root / "scorer"
    identity = {
        "stage": "score",
        "ranking": file_hash(path),
        "model": inputs.model_identity,
        "template": inputs.encoder.template_hash,
        "tokenization": inputs.experiment.tokenization.model_dump(mode="json"),
        "pool": inputs.pool.fingerprint,
        "penalties": score_stage.PENALTIES,
        "max_rows": score_stage.MAX_ROWS,
    }

    def build(temporary: Path) -> None:
        rows = inputs.encoded_pool.encoded
        features = score_stage.features_of(lm, rows, tables, what="reading the ranked samples")
        fitted = score_stage.fit_scorer([row.id for row in rows], features, ranking)
        score_stage.save_scorer(fitted, temporary)

    build_or_reuse(folder, identity, build)
    return score_stage.load_scorer(folder)


def _threshold(inputs: Inputs, ranking: Ranking, path: Path) -> float | None:
    """The least score that the run's selection keeps, quotas aside; None without a selection."""
    folder, settings = inputs.run_dir.select, inputs.experiment.select
    if not (folder / "selection.parquet").is_file():
        return None
    if load_provenance(folder).identity.get("ranking") != file_hash(path):
        raise ValueError(
            f"{folder} was made from another ranking than {path}. Delete {folder}, then select "
            f"again: seal select {inputs.run_dir.root}"
        )
    if (folder / "cut.json").is_file():
        return json.loads((folder / "cut.json").read_text("utf-8"))["threshold"]["value"]
    if settings.threshold is not None:
        return settings.threshold
    source, scores = {row.id: row.source for row in inputs.rankable}, ranking.by_id()
    kept = load_selection(folder / "selection.parquet").ids
    by_rule = [scores[key] for key in kept if source[key] not in settings.quotas]
    return min(by_rule) if by_rule else None


def _records(
    samples: SampleSet,
    encoded: EncodedSet,
    quantiles: np.ndarray,
    scores: np.ndarray,
    threshold: float | None,
) -> list[dict[str, Any]]:
    records = []
    for row, quantile, value in zip(encoded.encoded, quantiles, scores, strict=True):
        record = {
            "id": row.id,
            "score": float(value),
            "quantile": float(quantile),
            "where": samples.where[row.id],
        }
        if threshold is not None:
            record["keep"] = bool(value >= threshold)
        records.append(record)
    return records
