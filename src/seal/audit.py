"""What the report is made of, gathered from a finished run: numbers, evidence, win rates."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from seal import cells
from seal.artifacts.provenance import differences, load_provenance
from seal.comparison import compare
from seal.config.arms import ArmSettings
from seal.config.experiment import dump_experiment
from seal.data.sample import transcript
from seal.evidence import gather_evidence
from seal.inputs import Inputs
from seal.judges.judge import Exchange, Judge, Judgement
from seal.judges.judging import Judging
from seal.metrics import rate
from seal.models import load_model
from seal.stages.pairwise import PairwiseSettings, load_win_rate
from seal.stages.report import Comparison, explorer_data
from seal.stages.report_page.explorer import SampleTexts
from seal.stages.report_page.findings import Evidence
from seal.stages.report_page.serve import serve
from seal.win_rate import length_controlled_win_rate


def comparison(inputs: Inputs) -> Comparison:
    """Everything that the report shows.

    Raises:
        ValueError: If a stage has not been run yet, with the command that runs it.
    """
    experiment, run_dir = inputs.experiment, inputs.run_dir
    _existing(inputs, run_dir.rank, "rank")
    _existing(inputs, run_dir.select, "select")
    _check_is_ours(inputs)
    for arm in experiment.arms:
        if arm.rank is not None:
            _existing(inputs, inputs.rank_folder(arm), "rank")
            _existing(inputs, inputs.select_folder(arm), "select")
        for seed in experiment.seeds_of(arm):
            _existing(inputs, run_dir.evaluate(arm.name, seed), "evaluate")
    compared = _compared(inputs)
    return replace(
        compared,
        evidence=_evidence(inputs, compared) if experiment.report.evidence else {},
        pairwise=tuple(
            _win_rates(inputs, arm, settings)
            for settings in experiment.pairwise
            for arm in experiment.arms
            if arm.name != settings.against
        ),
    )


def serve_report(inputs: Inputs, port: int, announce: Callable[[str], None]) -> None:
    """Serve the report with the text of every sample over loopback, until Ctrl-C.

    Args:
        inputs: The experiment's inputs; its run folder holds a report.
        port: 0 takes any free one.
        announce: Told the page's address.

    Raises:
        ValueError: If there is no report, or the port is taken.
    """
    _existing(inputs, inputs.run_dir.report / "index.html", "report")
    texts = SampleTexts(explorer_data(_compared(inputs)))
    serve(inputs.run_dir.report, texts, port, announce=announce)


def _existing(inputs: Inputs, path: Path, stage: str) -> Path:
    """The path of what a stage has made.

    Raises:
        ValueError: If there is nothing, with the run and the command that goes on with it; or it
            was changed since.
    """
    run_dir = inputs.run_dir
    command = f"seal {stage}"
    if path.exists():
        return cells.existing(path, command)
    how = f"`{command}` with the same config"
    if run_dir.config.exists():
        mine = dump_experiment(inputs.experiment)
        how = f"`{command} {run_dir.root}`" if run_dir.config.read_text("utf-8") == mine else how
    raise ValueError(f"the run {run_dir.root} is not finished: {path} is missing. Run {how} first.")


def _compared(inputs: Inputs) -> Comparison:
    """What the files of the run say: no evidence, no win rates."""
    experiment = inputs.experiment
    arms = {arm.name: experiment.seeds_of(arm) for arm in experiment.arms}
    return compare(
        inputs, arms, {arm.name: cells.num_samples(inputs, arm) for arm in experiment.arms}
    )


def _check_is_ours(inputs: Inputs) -> None:
    """Refuse a ranking or a selection that was made by other settings than the experiment's."""
    experiment, run_dir = inputs.experiment, inputs.run_dir
    made = {"rank": load_provenance(run_dir.rank), "select": load_provenance(run_dir.select)}
    said = {"rank": experiment.rank.identity(), "select": experiment.select.identity()}
    for stage, now in said.items():
        then = made[stage].identity.get("ranker" if stage == "rank" else "select")
        lines = differences({stage: then}, {stage: json.loads(json.dumps(now))})
        if lines:
            raise ValueError(
                f"{run_dir.root / stage} was made from something else:\n  "
                + "\n  ".join(lines[:8])
                + "\nReport it as it was made, without these keys; or give another run_dir."
            )


def _evidence(inputs: Inputs, compared: Comparison) -> Mapping[str, Evidence]:
    """What is found out about the samples whose text the page carries."""
    experiment, shown = inputs.experiment, explorer_data(compared)
    arm = _taught(experiment.arms)
    tuned = None
    if arm is not None:
        seed = experiment.seeds_of(arm)[0]
        tuned = cells.load(inputs, arm, cells.trained_folder(inputs, arm, seed))
    judge = experiment.report.judge
    return gather_evidence(
        inputs,
        shown.chosen,
        shown.kept,
        load_model(experiment.model),
        tuned=tuned,
        arm=arm.name if arm else "",
        judge=str(judge.identity()["judge"]) if judge else "",
        judgements=_judgements(inputs, judge, shown.chosen) if judge else None,
    )


def _judgements(inputs: Inputs, judge: Judge, ids: Sequence[str]) -> dict[str, Judgement]:
    """What a judge says of samples of the pool."""
    samples = {sample.id: sample for sample in inputs.rankable}
    parts = inputs.encoder.reasoning.parts
    exchanges = [
        Exchange(
            key,
            transcript(samples[key].prompt),
            transcript(
                [
                    replace(turn, content=parts(turn.content).answer)
                    for turn in samples[key].completion
                ]
            ),
        )
        for key in ids
    ]
    judging = Judging(inputs.run_dir.judgements, inputs.progress)
    return dict(zip(ids, judging.judge(judge, exchanges), strict=True))


def _taught(arms: tuple[ArmSettings, ...]) -> ArmSettings | None:
    """The arm whose training the heat of the tokens shows: all data, else the first trained one."""
    trained = [arm for arm in arms if arm.is_trained]
    everything = [arm for arm in trained if arm.train_on == "all"]
    return next(iter([*everything, *trained]), None)


def _win_rates(inputs: Inputs, arm: ArmSettings, settings: PairwiseSettings) -> dict[str, Any]:
    """How often an arm's answers were preferred, averaged over its seeds item by item."""
    folders = [
        _existing(
            inputs,
            inputs.run_dir.pairwise(arm.name, seed, settings.task, settings.against),
            "evaluate",
        )
        for seed in inputs.experiment.seeds_of(arm)
    ]
    rows = [_preferences(folder) for folder in folders]
    found = [load_win_rate(folder) for folder in folders]
    values, ours, theirs = (
        [math.fsum(float(part[key][name] or 0.0) for part in rows) / len(rows) for key in rows[0]]
        for name in ("value", "ours_length", "theirs_length")
    )
    entry: dict[str, Any] = {
        "task": settings.task,
        "arm": arm.name,
        "against": settings.against,
        "judge": settings.judge.model,
        "num_seeds": len(rows),
        "win_rate": rate(values).model_dump(),
        "length_controlled_win_rate": None,
        "length_controlled_problem": "",
        "tie_rate": _mean([one.tie_rate.value for one in found]),
        "unjudged_rate": _mean([one.unjudged_rate.value for one in found]),
        "flip_rate": _mean([one.flip_rate.value for one in found if one.flip_rate is not None]),
    }
    try:
        controlled = length_controlled_win_rate(values, ours, theirs)
        entry["length_controlled_win_rate"] = controlled.model_dump()
    except ValueError as error:
        entry["length_controlled_problem"] = str(error)
    return entry


def _preferences(folder: Path) -> dict[str, dict[str, Any]]:
    """Item id -> its line of preferences.jsonl, the same order for every seed."""
    with (folder / "preferences.jsonl").open(encoding="utf-8") as file:
        rows = [json.loads(line) for line in file]
    return {row["id"]: row for row in sorted(rows, key=lambda row: row["id"])}


def _mean(values: list[float]) -> float | None:
    return math.fsum(values) / len(values) if values else None
