"""From a finished run folder to what the report shows."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from seal.artifacts.adapter import load_adapter
from seal.artifacts.provenance import file_hash, load_provenance
from seal.artifacts.ranking import Ranking, load_ranking
from seal.artifacts.run_dir import RunDir
from seal.artifacts.selection import load_selection
from seal.cut import Cut
from seal.inputs import Inputs
from seal.judges.calibrating import calibration_of
from seal.judges.calibration import Calibration, event_of
from seal.judges.judge import Judge
from seal.metrics import ranking_quality
from seal.stages.evaluate import load_answer_counts, load_evaluation, metric_keys
from seal.stages.report import ArmRanking, ArmResult, Comparison, MetricSource
from seal.stages.select import SelectSettings, find_cut
from seal.tasks.union import AnyTask


def compare(
    inputs: Inputs, arms: Mapping[str, Sequence[int]], sizes: Mapping[str, int]
) -> Comparison:
    """Everything that the report shows.

    Args:
        inputs: The experiment's inputs; its run folder holds the finished stages.
        arms: Arm -> its training seeds.
        sizes: Arm -> number of samples it was trained on.
    """
    experiment, run_dir = inputs.experiment, inputs.run_dir
    ranking = load_ranking(run_dir.rank / "ranking.parquet")
    selection = load_selection(run_dir.select / "selection.parquet")
    ids = set(ranking.ids)
    labels = {key: label for key, label in inputs.pool.labels.items() if key in ids}
    encoded = inputs.encoded_pool.encoded
    return Comparison(
        title=experiment.title or run_dir.root.name,
        ranker=experiment.rank.method,
        ranker_class=type(experiment.rank),
        arms=tuple(
            ArmResult(
                arm,
                sizes[arm],
                {seed: load_evaluation(run_dir.evaluate(arm, seed)) for seed in seeds},
                **_training(inputs, arm, seeds),
            )
            for arm, seeds in arms.items()
        ),
        ranking=ranking,
        selection=selection,
        samples=tuple(inputs.rankable),
        labels=labels,
        unsafe_labels=frozenset(experiment.unsafe_labels),
        ranking_quality=_quality(inputs, ranking, labels),
        excluded=_excluded(inputs),
        num_read=inputs.pool.num_read,
        num_duplicates=inputs.pool.num_duplicates,
        num_truncated=inputs.encoded_pool.num_truncated,
        provenance=_provenance(inputs, arms),
        metric_sources=_metric_sources(experiment.evaluate.tasks),
        num_tokens={row.id: len(row.input_ids) for row in encoded},
        num_response_tokens={row.id: int(row.response_mask.sum()) for row in encoded},
        auto=_auto(ranking),
        arm_rankings=_arm_rankings(inputs, labels),
        rank_stability=_rank_stability(run_dir),
        answers=_answers(run_dir, arms, experiment.evaluate.tasks),
        replay={
            "everything": f"seal run {run_dir.root}",
            "this report, from the files beside it": f"seal report {run_dir.root}",
        },
    )


def _answers(
    run_dir: RunDir, arms: Mapping[str, Sequence[int]], asked: Sequence[AnyTask]
) -> dict[str, dict[str, dict[str, int]]]:
    """Arm -> task -> what is odd about its answers, in numbers, over all seeds."""
    found: dict[str, dict[str, dict[str, int]]] = {}
    for arm, seeds in arms.items():
        tasks = found.setdefault(arm, {})
        for seed in seeds:
            for task, counts in load_answer_counts(run_dir.evaluate(arm, seed), asked).items():
                total = tasks.setdefault(task, dict.fromkeys(counts, 0))
                for key, number in counts.items():
                    total[key] = total.get(key, 0) + number
    return found


def _training(inputs: Inputs, name: str, seeds: Sequence[int]) -> dict[str, Any]:
    """Steps and tokens of an arm's trainings, as far as they were written down."""
    arm = inputs.experiment.arm(name)
    if arm.is_base:
        return {}
    source = name if arm.merge is None else arm.merge.of
    folders = {seed: inputs.run_dir.train(source, seed) for seed in seeds}
    made = {seed: load_adapter(folder) for seed, folder in folders.items() if folder.exists()}
    return {
        "num_steps": {seed: one.num_steps for seed, one in made.items()},
        "num_tokens": {
            seed: one.num_tokens for seed, one in made.items() if one.num_tokens is not None
        },
    }


def _arm_rankings(inputs: Inputs, labels: Mapping[str, str]) -> dict[str, ArmRanking]:
    found = {}
    for arm in inputs.experiment.arms:
        if arm.rank is not None:
            ranking = load_ranking(inputs.rank_folder(arm) / "ranking.parquet")
            selection = load_selection(inputs.select_folder(arm) / "selection.parquet")
            quality = _quality(inputs, ranking, labels)
            found[arm.name] = ArmRanking(arm.rank.method, ranking, selection, quality)
    return found


def _auto(ranking: Ranking) -> Cut | str:
    try:
        cut = find_cut(ranking, SelectSettings(auto=True))
    except ValueError as refusal:
        return str(refusal)
    assert cut is not None
    return cut


def _metric_sources(tasks: Sequence[AnyTask]) -> dict[str, MetricSource]:
    found = {}
    for task in tasks:
        judge = getattr(task, "judge", None)  # only the tasks that judge answers have one
        source = MetricSource(task.name)
        if isinstance(judge, Judge):
            name = str(judge.model_dump()["judge"])
            source = MetricSource(task.name, judge=name, has_weak_judge=judge.IS_WEAK)
            calibration = calibration_of(judge)
            for metric, key in zip(task.metrics, metric_keys(task), strict=True):
                found[key] = _calibrated(source, metric, calibration, judge)
        else:
            found.update(dict.fromkeys(metric_keys(task), source))
    return found


def _calibrated(
    source: MetricSource, metric: str, calibration: Calibration | None, judge: Judge
) -> MetricSource:
    """The source of one metric, with what was measured of its judge about what it counts."""
    event = event_of(metric, judge.verdicts, calibration.meaning) if calibration else None
    if calibration is None or event is None:
        return source
    return replace(source, calibration=calibration, errors=calibration.errors.get(event))


def _quality(inputs: Inputs, ranking: Ranking, labels: Mapping[str, str]) -> dict[str, Any]:
    unsafe_labels = set(inputs.experiment.unsafe_labels)
    unsafe = frozenset(key for key, label in labels.items() if label in unsafe_labels)
    if not 0 < len(unsafe) < len(ranking.ids):  # nothing to tell apart
        return {}
    return ranking_quality(ranking, unsafe)


def _excluded(inputs: Inputs) -> tuple[dict[str, str], ...]:
    return tuple(
        {"where": row.where, "reason": row.reason, "stage": row.stage}
        for row in (*inputs.pool.excluded, *inputs.encoded_pool.excluded)
    )


def _rank_stability(run_dir: RunDir) -> tuple[dict[str, Any], ...]:
    """What `seal bench` found in this run's folder about rankers with several seeds, if it ran.

    Raises:
        ValueError: If its file cannot be read.
    """
    path = run_dir.bench / "bench.json"
    if not path.exists():
        return ()
    try:
        rows = json.loads(path.read_text("utf-8"))["rows"]
        return tuple(
            {
                "ranker": row["ranker"],
                "method": row["method"],
                "num_seeds": len(row["seeds"]),
                "spearman": row["stability"],
            }
            for row in rows
            if row["stability"] is not None
        )
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"{path}: not a readable benchmark ({error!r}). Delete it, or run `seal bench` again."
        ) from error


def _provenance(inputs: Inputs, arms: Mapping[str, Sequence[int]]) -> dict[str, Any]:
    run_dir, experiment = inputs.run_dir, inputs.experiment
    rank = load_provenance(run_dir.rank)
    return {
        "model": experiment.model.path,
        "pool": experiment.pool.path,
        "license": experiment.pool.license,
        "safe": [spec.path for spec in experiment.safe],
        "seeds": list(experiment.seeds),
        "select": experiment.select.identity(),
        "rank": json.loads(json.dumps(rank.identity)),
        "environment": rank.environment,
        "train": experiment.train.model_dump(mode="json"),
        "evaluate": experiment.evaluate.model_dump(mode="json"),
        "files": _file_hashes(inputs, arms),
    }


def _file_hashes(inputs: Inputs, arms: Mapping[str, Sequence[int]]) -> dict[str, str]:
    """SHA-256 of each file that the report's numbers come from, by its path in the run's folder."""
    run_dir = inputs.run_dir
    folders = [run_dir.evaluate(arm, seed) for arm, seeds in arms.items() for seed in seeds]
    files: list[Path] = []
    for arm in (None, *(arm for arm in inputs.experiment.arms if arm.rank is not None)):
        files += [inputs.rank_folder(arm) / "ranking.parquet"]
        files += [inputs.select_folder(arm) / "selection.parquet"]
    files += [path for folder in folders for path in sorted(folder.glob("*/scores.jsonl"))]
    return {path.relative_to(run_dir.root).as_posix(): file_hash(path) for path in files}
