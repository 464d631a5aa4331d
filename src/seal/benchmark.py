"""The benchmark: each ranking in a process of its own, then one table of all."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from seal.artifacts.atomic import write_json, write_text
from seal.artifacts.paths import StrPath
from seal.artifacts.provenance import load_provenance
from seal.artifacts.ranking import load_ranking
from seal.artifacts.run_dir import RunDir, is_current
from seal.config.arms import DEFAULT_ARMS
from seal.config.experiment import Experiment, dump_experiment
from seal.data.load import DataSpec, SampleSet, load
from seal.data.rewrite import Attack, rewrite_pool
from seal.inputs import Inputs
from seal.stages.bench.figure import figure
from seal.stages.bench.pages import markdown
from seal.stages.bench.results import CellResult, bench_document
from seal.stages.bench.settings import DEFAULT_SAFE, BenchSettings, Cell

_MAX_MESSAGE = 500  # characters of what a failed process said that reach the tables
_BAD_INPUT = 2  # the exit code of a process that says in one message what is wrong


def bench(inputs: Inputs) -> Path:
    """Make every ranking that is not there yet, and the tables.

    Returns:
        The page, bench.md.

    Raises:
        ValueError: If the pool has no labels, or something that every ranking needs is wrong.
    """
    experiment, folder = inputs.experiment, inputs.run_dir.bench
    _check(inputs)
    # bad data is found before the first process starts
    _ = inputs.encoded_pool, inputs.encoded_safe, inputs.encoded_harmful
    cells = experiment.bench.cells(experiment.rank)
    sets = _Sets(inputs)
    identities = [sets.identity(cell) for cell in cells]
    results = []
    for place, (cell, identity) in enumerate(zip(cells, identities, strict=True), start=1):
        results.append(_result(inputs, sets, cell, identity))
        inputs.progress("rankings of the benchmark", place, len(cells))
    inputs.progress("scoring the rankings", 1, 1)
    document = bench_document(
        results,
        title=experiment.title or inputs.run_dir.root.name,
        pool=experiment.pool.path,
        labels=inputs.pool.labels,
        unsafe_labels=experiment.unsafe_labels,
    )
    write_text(inputs.run_dir.config, dump_experiment(experiment))
    write_bench(document, folder)
    return folder / "bench.md"


def write_bench(document: dict[str, Any], folder: StrPath) -> None:
    """Write bench.json, bench.svg and bench.md."""
    folder = Path(folder)
    write_json(folder / "bench.json", document)
    write_text(folder / "bench.svg", figure(document))
    write_text(folder / "bench.md", markdown(document))


def load_bench(folder: StrPath) -> dict[str, Any]:
    """The content of bench.json that `write_bench` wrote."""
    folder = Path(folder)
    return json.loads((folder / "bench.json").read_text("utf-8"))


class _Sets:
    """The data sets that the cells differ in, each loaded once."""

    def __init__(self, inputs: Inputs) -> None:
        self._inputs = inputs
        self._experiment = inputs.experiment
        self._pools: dict[Attack, SampleSet] = {}
        self._safe: dict[str, SampleSet] = {}

    def pool(self, cell: Cell) -> SampleSet:
        """The pool of a cell, with its labels; rewritten on disk if it is attacked."""
        if cell.attack is None:
            return self._inputs.pool
        if cell.attack not in self._pools:
            settings = self._experiment.bench
            rows = rewrite_pool(
                self._inputs.pool,
                cell.attack,
                unsafe=self._experiment.unsafe_labels,
                benign=settings.benign_labels,
            )
            lines = "".join(json.dumps(row) + "\n" for row in rows)
            spec = self._attacked(cell.attack)
            write_text(Path(spec.path), lines)
            labelled = spec.model_copy(update={"label": "label"})
            self._pools[cell.attack] = load([labelled], name="pool")
        return self._pools[cell.attack]

    def experiment(self, cell: Cell) -> Experiment:
        """What the cell's process is given: one ranking, and no labels."""
        experiment = self._experiment
        pool = self._attacked(cell.attack) if cell.attack else experiment.pool
        return experiment.model_copy(
            update={
                "run_dir": self._inputs.run_dir.bench / cell.folder,
                "title": cell.title,
                "rank": cell.ranker,
                "pool": pool.model_copy(update={"label": None}),
                "safe": self._safe_specs(cell),
                "harmful": experiment.harmful if cell.with_harmful else (),
                "arms": DEFAULT_ARMS,  # those of the experiment may have rankers of their own
                "bench": BenchSettings(),
            }
        )

    def identity(self, cell: Cell) -> dict[str, Any]:
        """All that decides the cell's ranking; equal to what its process notes."""
        harmful = self._inputs.harmful if cell.with_harmful else None
        return {
            **self._inputs.identity_with(cell.ranker),
            "pool": self.pool(cell).fingerprint,
            "safe": self._safe_set(cell).fingerprint,
            "harmful": harmful.fingerprint if harmful else None,
        }

    def _attacked(self, attack: Attack) -> DataSpec:
        path = self._inputs.run_dir.bench / "data" / f"{attack}.jsonl"
        return DataSpec(path=str(path), format="prompt_completion")

    def _safe_specs(self, cell: Cell) -> tuple[DataSpec, ...]:
        if cell.safe_set == DEFAULT_SAFE:
            return self._experiment.safe
        return self._experiment.bench.safe_sets[cell.safe_set]

    def _safe_set(self, cell: Cell) -> SampleSet:
        if cell.safe_set == DEFAULT_SAFE:
            return self._inputs.safe
        if cell.safe_set not in self._safe:
            name = f"bench.safe_sets.{cell.safe_set}"
            self._safe[cell.safe_set] = load(self._safe_specs(cell), name=name)
        return self._safe[cell.safe_set]


def _check(inputs: Inputs) -> None:
    experiment = inputs.experiment
    if experiment.pool.label is None:
        raise ValueError(
            "pool.label is not set: a benchmark scores rankings by what is known about the pool's "
            "samples. Give the column with the truth as pool.label, and its unsafe values as "
            "unsafe_labels. Without labels, `seal rank` still ranks."
        )
    if set(inputs.pool.labels.values()) <= set(experiment.unsafe_labels):
        raise ValueError(
            f"{experiment.pool.path}: every sample has a label in unsafe_labels="
            f"{list(experiment.unsafe_labels)}, so that no ranking can separate them. Set "
            "unsafe_labels to the values of pool.label that are unsafe."
        )
    if "=" in str(inputs.run_dir.root):
        raise ValueError(
            f"run_dir={inputs.run_dir.root} holds '=': the process of a ranking would take its "
            "configuration there for KEY=VALUE. Give a run_dir without it."
        )


def _result(inputs: Inputs, sets: _Sets, cell: Cell, identity: Mapping[str, Any]) -> CellResult:
    """What became of a cell, whose process is started unless its ranking is there already."""
    run_dir = RunDir(inputs.run_dir.bench / cell.folder)
    labels = sets.pool(cell).labels
    error = ""
    if not is_current(run_dir.rank, dict(identity)):
        inputs.progress(f"ranking with {cell.title}", 1, 1)
        error = _start(sets.experiment(cell))
    if error:
        inputs.progress(f"{cell.title} failed: {error}", 1, 1)
        return CellResult(cell, None, labels, error=error)
    noted = load_provenance(run_dir.rank).environment
    return CellResult(
        cell,
        load_ranking(run_dir.rank / "ranking.parquet"),
        labels,
        seconds=noted["seconds"],
        cpu_seconds=noted.get("cpu_seconds"),
        peak_memory_bytes=noted.get("peak_memory_bytes"),
    )


def _start(experiment: Experiment) -> str:
    """Rank in a process of its own; returns what went wrong, or ""."""
    config = experiment.run_dir.with_name(f"{experiment.run_dir.name}.yaml")
    log = config.with_suffix(".log")
    write_text(config, dump_experiment(experiment))
    log.unlink(missing_ok=True)
    words = [sys.executable, "-m", "seal", "rank", str(config), "--quiet"]
    environment = {key: value for key, value in os.environ.items() if key != "SEAL_TRACEBACK"}
    code, said = _call(words, environment)
    if code == 0:
        return ""
    write_text(log, said)
    return _what_went_wrong(code, said.strip().splitlines(), log)


def _call(words: Sequence[str], environment: Mapping[str, str]) -> tuple[int, str]:
    """Exit code and standard error of a process that ends with this one."""
    with subprocess.Popen(
        words,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        encoding="utf-8",
        errors="replace",
        env=environment,
    ) as process:
        try:
            _, said = process.communicate()
        except BaseException:  # interrupted: let it tidy up
            process.terminate()
            raise
    return process.returncode, said


def _what_went_wrong(code: int, lines: Sequence[str], log: Path) -> str:
    """One message from the exit code and what a process said."""
    if code < 0:
        return f"its process was ended by signal {-code}; out of memory? See {log}."
    if code == _BAD_INPUT:
        text = " ".join(line.strip() for line in lines)
        half = _MAX_MESSAGE // 2  # what is wrong comes first, the way out last
        return text if len(text) <= _MAX_MESSAGE else f"{text[:half]} ... {text[-half:]}"
    errors = [line for line in lines if line.strip() and "This is a bug in seal." not in line]
    last = errors[-1].strip()[:_MAX_MESSAGE] if errors else "it said nothing"
    return f"{last} (exit code {code}; see {log})"
