"""The stages in order: rank -> select -> train -> evaluate -> report. The file to read first.

Each verb brings one stage of an experiment up to date in its run folder and returns the path of
what it made. What is there already, made from the same things, is left as it is; made from other
things, it is an error that names them.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from seal import audit, benchmark, cells, extending, planning, preflight, scoring
from seal.artifacts.paths import StrPath
from seal.artifacts.run_dir import build_or_reuse, rebuild
from seal.config.arms import ArmSettings
from seal.config.experiment import Experiment, load_experiment
from seal.grid import grid
from seal.inputs import Inputs
from seal.lab.build import shipped_model
from seal.lab.world import write_world
from seal.precision import settled
from seal.processes import refuse_several
from seal.progress import GridTable, Progress, silent
from seal.stages import estimate as estimate_stage
from seal.stages import report as report_stage
from seal.stages.score import FLOOR

logger = logging.getLogger(__name__)

_DEMO_CONFIG = Path(__file__).parent / "lab" / "demo.yaml"
_DEMO_WORLD = 4  # none of the worlds 0, 1 and 2, on which the lab was tuned


def run(experiment: Experiment, progress: Progress = silent) -> Path:
    """All stages; returns the report's page."""
    preflight.check(Inputs(experiment, progress))
    inputs = _begun(experiment, progress)
    _rank(inputs)
    _select(inputs)
    _train(inputs)
    _evaluate(inputs)
    return _report(inputs)


def rank(experiment: Experiment, progress: Progress = silent) -> Path:
    """Score the pool with every ranker; returns the folder of the ranking that the arms share."""
    preflight.check_ranking(experiment)
    try:
        preflight.check_training(experiment)
    except ValueError as error:  # who ranks here may train elsewhere
        logger.warning("the ranking can be made, but `seal train` will refuse: %s", error)
    return _rank(_begun(experiment, progress))


def select(experiment: Experiment, progress: Progress = silent) -> Path:
    """Keep the best of every ranking; returns the folder of the selection that the arms share."""
    return _select(Inputs(experiment, progress))


def train(experiment: Experiment, progress: Progress = silent) -> Path:
    """Fine-tune every arm with every seed; returns the folder that holds them."""
    preflight.check_training(experiment)
    return _train(_begun(experiment, progress))


def merge(experiment: Experiment, progress: Progress = silent) -> Path:
    """Make a whole model of every arm but the base; returns the folder that holds the models.

    No other stage needs this: it is for those who ship whole models.
    """
    return _merge(Inputs(experiment, progress))


def evaluate(experiment: Experiment, progress: Progress = silent) -> Path:
    """Measure every arm and seed; returns the folder that holds the measurements."""
    return _evaluate(_begun(experiment, progress))


def report(experiment: Experiment, progress: Progress = silent) -> Path:
    """Lay the arms side by side; returns the page."""
    return _report(Inputs(experiment, progress))


def serve_report(experiment: Experiment, port: int, announce: Callable[[str], None]) -> None:
    """Serve the finished report over loopback, with the text of every sample, until Ctrl-C."""
    audit.serve_report(Inputs(experiment, silent), port, announce)


def bench(experiment: Experiment, progress: Progress = silent) -> Path:
    """Rank the labelled pool with every ranker of `bench`, and compare; returns the page.

    The rankings are beside those of the other stages, which neither need this nor change it.
    """
    refuse_several("seal bench")
    return benchmark.bench(_begun(experiment, progress))


def estimate(experiment: Experiment, progress: Progress = silent) -> dict[str, Any]:
    """What a run would take, cell by cell; measured in a few steps, of which nothing is kept."""
    refuse_several("seal estimate")
    inputs = Inputs(settled(experiment, keeps=False), progress)
    return estimate_stage.as_json(planning.plan(inputs))


def progress_of(experiment: Experiment) -> GridTable:
    """Which cells of a run are done, under way and to do: arms x seeds. Makes nothing."""
    return grid(Inputs(experiment, silent))


def score(
    experiment: Experiment,
    new: StrPath,
    row_format: str | None = None,
    out: StrPath | None = None,
    floor: float = FLOOR,
    progress: Progress = silent,
) -> Path:
    """Score other samples as the finished ranking of a run would; returns the file of the scores.

    See `seal.scoring.score`.
    """
    new = os.fspath(new)
    out = None if out is None else Path(out)
    return scoring.score(Inputs(experiment, progress), new, row_format, out, floor)


def demo(run_dir: StrPath, progress: Progress = silent) -> Path:
    """The whole path on the model and the generated data that come with the package.

    Returns:
        The report's page.
    """
    run_dir = Path(run_dir)
    refuse_several("seal demo")
    data = run_dir / "data"
    identity = {"stage": "data", "world_seed": _DEMO_WORLD}
    build_or_reuse(data, identity, _write_demo_data)
    words = {
        "run_dir": run_dir,
        "model.path": shipped_model(),
        "pool.path": data / "pool.jsonl",
        "safe.path": data / "safe.jsonl",
        "evaluate.tasks.0.path": data / "heldout_harmful.jsonl",
        "evaluate.tasks.1.path": data / "over_refusal.jsonl",
        "evaluate.tasks.2.path": data / "heldout_harmful.jsonl",
        "evaluate.tasks.3.data.path": data / "heldout_benign.jsonl",
    }
    overrides = [f"{key}={json.dumps(str(value))}" for key, value in words.items()]
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # on a model this small a second thread costs more than it brings
    try:
        return run(load_experiment(_DEMO_CONFIG, overrides), progress)
    finally:
        torch.set_num_threads(threads)


def _begun(experiment: Experiment, progress: Progress) -> Inputs:
    """The inputs of a run, in the precision that it was or is now begun in."""
    inputs = Inputs(experiment, progress)
    inputs.experiment = settled(experiment, begin=inputs.read)
    return inputs


def _rank(inputs: Inputs) -> Path:
    extending.check(inputs)
    shared = cells.rank(inputs)
    for arm in inputs.experiment.arms:
        if arm.rank is not None:
            cells.rank(inputs, arm)
    return shared


def _select(inputs: Inputs) -> Path:
    shared = cells.select(inputs)
    for arm in inputs.experiment.arms:
        if inputs.select_folder(arm) != shared:
            cells.select(inputs, arm)
    return shared


def _train(inputs: Inputs) -> Path:
    for arm, seed in _pairs(inputs.experiment):
        if arm.is_trained:
            cells.train(inputs, arm, seed)
    return inputs.run_dir.root / "train"


def _merge(inputs: Inputs) -> Path:
    for arm, seed in _pairs(inputs.experiment):
        if not arm.is_base:
            cells.merge(inputs, arm, seed)
    return inputs.run_dir.root / "merge"


def _evaluate(inputs: Inputs) -> Path:
    for arm, seed in _pairs(inputs.experiment):
        cells.evaluate(inputs, arm, seed)
    for settings in inputs.experiment.pairwise:
        for arm, seed in _pairs(inputs.experiment):
            if arm.name != settings.against:
                cells.compare_answers(inputs, arm, seed, settings)
    return inputs.run_dir.root / "evaluate"


def _report(inputs: Inputs) -> Path:
    compared = audit.comparison(inputs)
    rebuild(inputs.run_dir.report, lambda folder: report_stage.report(compared, folder))
    return inputs.run_dir.report / "index.html"


def _pairs(experiment: Experiment) -> list[tuple[ArmSettings, int]]:
    """Every arm with each of its seeds."""
    return [(arm, seed) for arm in experiment.arms for seed in experiment.seeds_of(arm)]


def _write_demo_data(folder: Path) -> None:
    write_world(folder, seed=_DEMO_WORLD)
