"""The making of one cell: one stage for one arm and seed, unless the very same is there already.

A cell is made whole or not at all, so that whatever ends a run costs the cell that was under way
and no other. What another arm of the run has made from the very same things is linked or copied
instead of made again.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from seal import extending, planning
from seal.artifacts.adapter import load_adapter
from seal.artifacts.atomic import write_json, write_text
from seal.artifacts.ids import ids_of
from seal.artifacts.provenance import (
    RECORD,
    check_files,
    content_hash,
    file_hash,
    folder_hashes,
)
from seal.artifacts.ranking import load_ranking, tokens_path
from seal.artifacts.responses import ResponseStore
from seal.artifacts.run_dir import build_or_reuse, copy_of, twin_of
from seal.artifacts.selection import Selection, load_selection
from seal.checkpoint import Checkpoints, drop_checkpoints
from seal.config.arms import ArmSettings
from seal.config.experiment import dump_experiment
from seal.data.spans import mask_rows
from seal.grid import grid
from seal.inputs import Inputs
from seal.judges.judging import Judging
from seal.models import LanguageModel, load_model
from seal.processes import processes
from seal.progress import renamed
from seal.rankers.random import Random
from seal.rankers.ranker import Extended, RankingTask
from seal.responders import LocalResponder, Responder, ServerResponder
from seal.sharding import load_for_ranking
from seal.stages import evaluate as evaluate_stage
from seal.stages import merge as merge_stage
from seal.stages import pairwise as pairwise_stage
from seal.stages import rank as rank_stage
from seal.stages import select as select_stage
from seal.stages import train as train_stage
from seal.stages.pairwise import PairwiseSettings
from seal.tables import Tables
from seal.tasks.task import Subject

_Build = Callable[[Path], Mapping[str, Any] | None]


def rank(inputs: Inputs, arm: ArmSettings | None = None) -> Path:
    """Score the pool with the experiment's ranker, or with the arm's own; returns the folder."""
    ranker = inputs.ranker(arm)

    def build(folder: Path) -> None:
        inputs.write_notes(folder)
        reference = frozenset(ids_of(inputs.reference))
        name, arm_label = "rank", {}
        if arm is not None:
            name, arm_label = f"rank/{arm.name}", {"arm": arm.name}
        with inputs.tracking.run(name, {"stage": "rank", **arm_label}) as mirror:
            checkpoints = _checkpoints(inputs, place, identity)
            task = _ranking_task(inputs, checkpoints, extended)
            rank_stage.rank(ranker, replace(task, log=mirror), folder, reference)
            extending.keep_state(ranker, checkpoints, folder)

    inputs.read()
    _ = inputs.tracking
    place, identity = inputs.rank_folder(arm), inputs.identity_with(ranker)
    with _said_of(arm):
        extended = extending.extended(inputs, ranker, place)
        if extended is not None:
            identity["extends"] = folder_hashes(extended.state.folder)
        made = _make(place, identity, build, inputs)
    inputs.tell_excluded(place)
    return made


def _checkpoints(inputs: Inputs, folder: Path, identity: Mapping[str, Any]) -> Checkpoints:
    """Where the cell of a folder keeps its state while it is made."""
    root = inputs.run_dir.checkpoints_of(folder)
    return Checkpoints(root, identity, inputs.experiment.checkpoint)


def _ranking_task(
    inputs: Inputs, checkpoints: Checkpoints, extended: Extended | None
) -> RankingTask:
    harmful = inputs.encoded_harmful
    return RankingTask(
        lm=load_for_ranking(inputs.experiment.model),
        pool=inputs.rankable_rows,
        safe=inputs.trusted,
        harmful=harmful.encoded if harmful else (),
        samples=inputs.conversations,
        tokenization=inputs.experiment.tokenization,
        tables=Tables(inputs.run_dir.tables, inputs.progress, extending.known_tables(inputs)),
        progress=inputs.progress,
        checkpoints=checkpoints,
        extended=extended,
    )


def select(inputs: Inputs, arm: ArmSettings | None = None) -> Path:
    """Keep the best of the experiment's ranking, or of the arm's own; returns the folder."""
    rule, ranked = inputs.selection_rule(arm), inputs.rank_folder(arm)
    path = existing(ranked / "ranking.parquet", "seal rank")
    identity: dict[str, object] = {
        "stage": "select",
        "select": rule.identity(),
        "ranking": file_hash(path),
        "pool": inputs.pool.fingerprint,
    }
    masks = rule.mask_fraction is not None
    if masks and tokens_path(path).exists():
        identity["tokens"] = file_hash(tokens_path(path))
    reference = None
    if rule.reference is not None:
        held_out = existing(ranked / "reference.parquet", "seal rank")
        identity["reference"] = file_hash(held_out)
        reference = load_ranking(held_out)

    def build(folder: Path) -> None:
        ranking = load_ranking(path, tokens=masks)
        cut = select_stage.find_cut(ranking, rule, reference)
        if cut is not None:
            write_json(folder / "cut.json", cut.model_dump(mode="json"))
        selection = select_stage.select(ranking, inputs.rankable, rule, cut)
        select_stage.save_selected(selection, inputs.pool.rows, folder)

    with _said_of(arm):
        select_stage.check_same_samples(load_ranking(path), inputs.rankable)
        return _make(inputs.select_folder(arm), identity, build, inputs)


def train(inputs: Inputs, arm: ArmSettings, seed: int) -> Path:
    """Fine-tune an arm that is trained; returns the folder."""
    experiment, selection, mix = inputs.experiment, selected(inputs, arm, seed), inputs.mix(arm)
    settings = experiment.trains_with(arm)
    identity: dict[str, Any] = {
        "stage": "train",
        "train": settings.identity(),
        "model": inputs.model_identity,
        "template": inputs.encoder.template_hash,
        "tokenization": experiment.tokenization.model_dump(mode="json"),
        "samples": content_hash(selection.ids),
        "num_samples": len(selection.ids),
        "mix": mix[0].fingerprint if mix else None,
        "seed": seed,
    }
    steps = inputs.matched_steps(arm, len(selection.ids))
    identity |= {} if steps is None else {"num_steps": steps}
    if selection.masks:
        lines = (json.dumps([key, *spans]) for key, spans in selection.masks.items())
        identity["masks"] = content_hash(lines)

    def build(folder: Path) -> None:
        encoded = inputs.encoded_pool.encoded
        rows = encoded.take(np.flatnonzero(encoded.ids.is_in(selection.ids)))
        samples = {key: inputs.rankable.find(key) for key in selection.masks}
        inputs.write_excluded_mix(mix, folder)
        labels = {"stage": "train", "arm": arm.name, "seed": seed}
        with inputs.tracking.run(f"train/{arm.name}/seed-{seed}", labels) as mirror:
            train_stage.train(
                experiment.model,
                mask_rows(inputs.encoder, rows, samples, selection.masks),
                settings,
                folder,
                seed=seed,
                mix=mix[1].encoded if mix else (),
                steps=steps,
                progress=renamed(inputs.progress, f"training {arm.name}, seed {seed}"),
                mirror=mirror,
                checkpoints=_checkpoints(inputs, place, identity),
            )

    _ = inputs.tracking  # a tracker that is not there is told before anything is made
    place = inputs.run_dir.train(arm.name, seed)
    return _make(place, identity, build, inputs)


def merge(inputs: Inputs, arm: ArmSettings, seed: int) -> Path:
    """Make a whole model of an arm other than the base; returns the folder that holds it."""
    spec, trained = inputs.experiment.model.unquantized(), trained_folder(inputs, arm, seed)
    identity = {
        "stage": "merge",
        "model": inputs.model_identity,
        "template": inputs.encoder.template_hash,
        "trained": folder_hashes(trained),
        **_merger_identity(arm),
    }

    def build(folder: Path) -> None:
        if not processes().is_first:  # a whole model, which the others would throw away
            return
        adapter = load_adapter(trained)
        if arm.merge is None:
            merge_stage.merge(spec, adapter, folder / "model")
            return
        with tempfile.TemporaryDirectory(dir=folder) as temporary:
            made = arm.merge.save(spec, adapter, Path(temporary))
            if made.kind == "full":
                made.path.replace(folder / "model")
            else:
                merge_stage.merge(spec, made, folder / "model")

    return _make(inputs.run_dir.merge(arm.name, seed), identity, build, inputs)


def evaluate(inputs: Inputs, arm: ArmSettings, seed: int) -> Path:
    """Measure an arm; returns the folder."""
    experiment = inputs.experiment
    trained = None if arm.is_base else trained_folder(inputs, arm, seed)
    identity = {
        "stage": "evaluate",
        "evaluate": experiment.evaluate.identity(),
        "files": inputs.task_files,
        "model": inputs.model_identity,
        "template": inputs.encoder.template_hash,
        "trained": folder_hashes(trained) if trained else None,
        **_merger_identity(arm),
        **inputs.answers_identity,
    }

    def build(folder: Path) -> None:
        evaluate_stage.evaluate(
            _subject(inputs, arm, seed, trained),
            experiment.evaluate,
            folder,
            progress=renamed(inputs.progress, f"evaluating {arm.name}, seed {seed}"),
        )

    return _make(inputs.run_dir.evaluate(arm.name, seed), identity, build, inputs)


def compare_answers(
    inputs: Inputs, arm: ArmSettings, seed: int, settings: PairwiseSettings
) -> Path:
    """Ask which answers are better, an arm's or those of the arm it is compared with."""
    experiment, run_dir = inputs.experiment, inputs.run_dir
    against = experiment.arm(settings.against)
    other_seed = seed if seed in experiment.seeds_of(against) else experiment.seeds_of(against)[0]
    ours = existing(run_dir.evaluate(arm.name, seed), "seal evaluate")
    theirs = existing(run_dir.evaluate(against.name, other_seed), "seal evaluate")
    identity = {
        "stage": "pairwise",
        "task": settings.task,
        "limit": settings.limit,
        "judge": settings.judge.identity(),
        "ours": file_hash(ours / settings.task / "responses.jsonl"),
        "theirs": file_hash(theirs / settings.task / "responses.jsonl"),
    }

    def build(folder: Path) -> None:
        pairwise_stage.pairwise(ours, theirs, settings, _judging(inputs), folder)

    folder = run_dir.pairwise(arm.name, seed, settings.task, settings.against)
    return _make(folder, identity, build, inputs)


def selected(inputs: Inputs, arm: ArmSettings, seed: int) -> Selection:
    """The samples that an arm is trained on; "random" draws anew with each seed.

    Raises:
        ValueError: If the arm is measured against a selection that has not been made yet, or
            against labels that the pool does not have.
    """
    ids = inputs.rankable.ids.ascending()
    if arm.train_on == "oracle":
        return Selection(inputs.harmless_ids, len(ids))
    if arm.train_on == "all":
        return Selection(ids, len(ids))
    path = existing(inputs.select_folder(arm) / "selection.parquet", "seal select")
    found = load_selection(path)
    if arm.train_on == "selected":
        return found
    assert arm.train_on == "random"
    count = select_stage.SelectSettings(count=len(found.ids))
    return select_stage.select(Random(seed=seed).score(ids), inputs.rankable, count)


def num_samples(inputs: Inputs, arm: ArmSettings) -> int:
    """How many samples of the pool an arm's training saw; 0 for the base."""
    if arm.is_base:
        return 0
    source = arm if arm.merge is None else inputs.experiment.arm(arm.merge.of)
    return len(selected(inputs, source, inputs.experiment.seeds[0]).ids)


def trained_folder(inputs: Inputs, arm: ArmSettings, seed: int) -> Path:
    """Where the training of an arm lies; of a merge, that of the arm which it takes.

    Raises:
        ValueError: If it has not been made yet.
    """
    name = arm.name if arm.merge is None else arm.merge.of
    return existing(inputs.run_dir.train(name, seed), "seal train")


def existing(path: Path, command: str) -> Path:
    """The path of an artifact, or of a file of one, that is as it was made.

    Raises:
        ValueError: If there is nothing, with the command that makes it, or a file of the artifact
            was changed since.
    """
    if not path.exists():
        raise ValueError(f"{path} is missing. Run `{command}` with the same config first.")
    folder = path if path.is_dir() else path.parent
    if (folder / RECORD).exists():
        check_files(folder)
    return path


def _merger_identity(arm: ArmSettings) -> dict[str, Any]:
    """How the weights are merged; whose they are is said by their hashes."""
    return {} if arm.merge is None else {"merge": arm.merge.model_dump(mode="json", exclude={"of"})}


def _subject(inputs: Inputs, arm: ArmSettings, seed: int, trained: Path | None) -> Subject:
    settings = inputs.experiment.evaluate
    lm, decoding = load(inputs, arm, trained), settings.decoding
    if inputs.experiment.tokenization.special_tokens_in_text == "escape":
        lm = replace(lm, encoder=lm.encoder.escaping())
    store = ResponseStore(inputs.run_dir.responses)
    responder: Responder = LocalResponder(lm, decoding, store, inputs.progress)
    if settings.server is not None:
        served = {"model": lm.identity, "trained": folder_hashes(trained) if trained else None}
        responder = ServerResponder(
            settings.server, decoding, store,
            arm=arm.name, seed=seed, model=served, encoder=lm.encoder,
            progress=inputs.progress,
        )  # fmt: skip
    return Subject(lm, decoding, responder, _judging(inputs))


def _judging(inputs: Inputs) -> Judging:
    return Judging(inputs.run_dir.judgements, inputs.progress)


def load(inputs: Inputs, arm: ArmSettings, trained: Path | None) -> LanguageModel:
    """The model of an arm: the base, or what lies in the folder of its training."""
    spec = inputs.experiment.model
    if trained is None:
        return load_model(spec)
    adapter = load_adapter(trained)
    if arm.merge is not None:
        return arm.merge.load(spec, adapter)
    if adapter.kind == "lora":
        return load_model(spec, adapter.path)
    return load_model(spec.model_copy(update={"path": str(adapter.path), "revision": None}))


@contextmanager
def _said_of(arm: ArmSettings | None) -> Iterator[None]:
    """Name the arm in what is wrong with its own rank and select, whose keys are `rank.*`."""
    try:
        yield
    except ValueError as error:
        if arm is None:
            raise
        raise ValueError(f"arm {arm.name}: {error}") from error


def _make(folder: Path, identity: dict[str, object], build: _Build, inputs: Inputs) -> Path:
    run_dir = inputs.run_dir
    if not folder.exists():
        twin = twin_of(run_dir.like(folder), identity)
        cell = folder.relative_to(run_dir.root).as_posix()
        if twin is None:
            inputs.budget.check(cell, lambda kind: planning.cell_seconds(inputs, kind))
        else:
            build = copy_of(twin, twin.relative_to(run_dir.root).as_posix())
    built = build_or_reuse(folder, identity, build)
    drop_checkpoints(run_dir.checkpoints_of(folder))
    inputs.progress(f"{folder} {'done' if built else 'is up to date'}", 1, 1)
    if built:
        inputs.num_made += 1
        done, total = grid(inputs).count()
        inputs.progress("cells to do", inputs.num_made, inputs.num_made + total - done)
    is_new = built or not run_dir.config.exists()  # what makes nothing leaves no trace
    if is_new and processes().is_first:
        write_text(run_dir.config, dump_experiment(inputs.experiment))
    return folder
