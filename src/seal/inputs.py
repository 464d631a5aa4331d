"""What an experiment reads: data and tokenizer, each loaded when it is first needed, once."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from seal.artifacts.atomic import write_json
from seal.artifacts.ids import Ids, Joined
from seal.artifacts.provenance import content_hash
from seal.artifacts.run_dir import RunDir
from seal.budget import Budget
from seal.config.arms import ArmSettings
from seal.config.experiment import Experiment
from seal.data.folders import files_behind, source_hash
from seal.data.load import EncodedSet, SampleSet, encode_set, load, write_excluded
from seal.data.rows import DataSpec, Excluded
from seal.data.sample import Sample
from seal.data.sample_store import Conversations, Samples
from seal.data.token_store import EncodedRows
from seal.data.tokenize import ChatEncoder, Encoded
from seal.models import load_encoder, load_tokenizer, loaded_identity
from seal.precision import recorded
from seal.processes import refuse_several
from seal.progress import Progress
from seal.rankers.ranker import Ranker
from seal.stages.select import SelectSettings
from seal.stages.train import matched_steps
from seal.tracking import Tracking

KEPT_BYTES = 8 * 2**20  # a smaller set is read and encoded within seconds, every time


class Inputs:
    """The inputs of one experiment.

    Attributes:
        experiment: What is asked for, in the precision that the run was begun in.
        run_dir: Where it goes.
        progress: Told how far the work is.
        budget: How long the work may take, counted from now on.
        num_made: Cells that were made, and not reused, since this was.
    """

    def __init__(self, experiment: Experiment, progress: Progress) -> None:
        self.experiment = recorded(experiment)
        self.run_dir = RunDir(experiment.run_dir)
        self.progress = progress
        if experiment.budget.seconds is not None:
            refuse_several("a run with budget.seconds")  # each would have a clock of its own
        self.budget = Budget(experiment.budget.seconds)
        self.num_made = 0
        self._mixes: dict[str, tuple[SampleSet, EncodedSet]] = {}

    def read(self) -> None:
        """Read and encode all that a ranking reads: bad data is found before a folder is made."""
        _ = self.encoded_pool, self.reference, self.encoded_safe, self.encoded_harmful

    @cached_property
    def encoder(self) -> ChatEncoder:
        """The model's tokenizer and chat template."""
        spec = self.experiment.model
        return load_encoder(spec, load_tokenizer(spec))

    @cached_property
    def model_identity(self) -> dict[str, Any]:
        """What the model is and how it is loaded; changes with any byte of its files."""
        return loaded_identity(self.experiment.model)

    def ranker(self, arm: ArmSettings | None) -> Ranker:
        """The arm's own ranker, or the experiment's."""
        return self.experiment.rank if arm is None or arm.rank is None else arm.rank

    def selection_rule(self, arm: ArmSettings | None) -> SelectSettings:
        """The arm's own rule of selection, or the experiment's."""
        return self.experiment.select if arm is None or arm.select is None else arm.select

    def rank_folder(self, arm: ArmSettings | None) -> Path:
        """Where the ranking of an arm lies: its own, or the one that the arms share."""
        if arm is None or arm.rank is None:
            return self.run_dir.rank
        return self.run_dir.arm_rank(arm.name)

    def select_folder(self, arm: ArmSettings | None) -> Path:
        """Where the selection of an arm lies: its own, or the one that the arms share."""
        if arm is None or (arm.rank is None and arm.select is None):
            return self.run_dir.select
        return self.run_dir.arm_select(arm.name)

    def identity_with(self, ranker: Ranker) -> dict[str, Any]:
        """All that decides what a ranker makes of the pool; nothing optional that is not used."""
        share, reads = self.experiment.holdout, ranker.reads()
        return {
            **({"holdout": share} if share else {}),
            **({"reads": reads} if reads else {}),
            "stage": "rank",
            "ranker": ranker.identity(),
            "model": self.model_identity,
            "template": self.encoder.template_hash,
            "tokenization": self.experiment.tokenization.model_dump(mode="json"),
            "pool": self.pool.fingerprint,
            "safe": self.safe.fingerprint,
            "harmful": self.harmful.fingerprint if self.harmful else None,
        }

    @cached_property
    def pool(self) -> SampleSet:
        """The samples to choose from.

        Raises:
            ValueError: If they have labels, and none of them is one that counts as unsafe.
        """
        spec = self.experiment.pool
        pool = load([spec], name="pool", cache=self._cache([spec]))
        counts = Counter(pool.labels.values())
        if counts and not counts.keys() & set(self.experiment.unsafe_labels):
            found = ", ".join(f"{label} ({count})" for label, count in counts.most_common(10))
            raise ValueError(
                f"{spec.path}: no sample has a label in unsafe_labels="
                f"{list(self.experiment.unsafe_labels)}. The labels in {spec.label!r} are {found}. "
                "Set unsafe_labels, or leave pool.label out."
            )
        return pool

    @cached_property
    def safe(self) -> SampleSet:
        """The trusted samples."""
        specs = self.experiment.safe
        return load(specs, name="safe", cache=self._cache(specs))

    @cached_property
    def tracking(self) -> Tracking:
        """The trackers that are shown each entry of metrics.jsonl.

        Raises:
            ValueError: If one is not installed.
        """
        root = self.run_dir.root
        return Tracking(self.experiment.track, root / "track", root.name)

    @cached_property
    def harmful(self) -> SampleSet | None:
        """The harmful references, if any."""
        specs = self.experiment.harmful
        return load(specs, name="harmful", cache=self._cache(specs)) if specs else None

    @cached_property
    def encoded_pool(self) -> EncodedSet:
        """The pool as tokens."""
        return self._encode(self.pool, "pool", [self.experiment.pool])

    @cached_property
    def encoded_safe(self) -> EncodedSet:
        """The safe set as tokens, held-out rows included."""
        return self._encode(self.safe, "safe", self.experiment.safe)

    @cached_property
    def held_out(self) -> frozenset[str]:
        """Contents of the safe rows that are held out of ranking: the share `holdout` of them.

        Chosen by the hash of the content, so that copies stay together and neither the order of the
        files nor the pool decides.

        Raises:
            ValueError: If that is not even one.
        """
        share = self.experiment.holdout
        contents = set(map(_content, self.encoded_safe.encoded.ids))
        num = round(share * len(contents))
        if share and not num:
            raise ValueError(
                f"holdout={share:g} of {len(contents)} safe rows is not one row. Raise holdout "
                "(to 0.5 at most), or give more safe rows."
            )
        return frozenset(sorted(contents, key=lambda key: content_hash(["holdout", key]))[:num])

    @cached_property
    def trusted(self) -> EncodedRows:
        """The safe rows that the ranker measures against: those that are not held out."""
        rows = self.encoded_safe.encoded
        return rows.take(_places(_content(key) not in self.held_out for key in rows.ids))

    @cached_property
    def reference(self) -> Sequence[Encoded]:
        """The held-out safe rows that are scored among the pool: those that are no pool rows.

        Of copies only the first: another row's word is what the others do not add.

        Raises:
            ValueError: If rows are held out, and all of them are pool rows.
        """
        if not self.held_out:
            return ()
        free = self.held_out.difference(map(_content, self.encoded_pool.encoded.ids))
        if not free:
            raise ValueError(
                f"holdout={self.experiment.holdout:g}: all {len(self.held_out)} held-out safe rows "
                "are rows of the pool, too, so none is left to compare the pool with. Give a safe "
                "set of other rows, or leave holdout out."
            )
        rows = self.encoded_safe.encoded
        return rows.take(_places(key in free for key in rows.ids))

    @property
    def rankable_rows(self) -> Sequence[Encoded]:
        """What a ranker is given to score: the pool, and the held-out rows among it."""
        pool = self.encoded_pool.encoded
        return Joined(pool, self.reference) if self.reference else pool

    @cached_property
    def encoded_harmful(self) -> EncodedSet | None:
        """The harmful references as tokens."""
        if self.harmful is None:
            return None
        return self._encode(self.harmful, "harmful", self.experiment.harmful)

    @cached_property
    def conversations(self) -> Mapping[str, Sample]:
        """Id -> sample of pool, safe set and harmful references, its source left out."""
        sets = [self.pool, self.safe, *([self.harmful] if self.harmful else [])]
        return Conversations([part.samples for part in sets])

    @property
    def excluded(self) -> dict[str, tuple[Excluded, ...]]:
        """Name of a file -> what was left out: of the pool, and of other sets if anything was."""
        found = {
            "excluded.jsonl": (*self.pool.excluded, *self.encoded_pool.excluded),
            "excluded_safe.jsonl": (*self.safe.excluded, *self.encoded_safe.excluded),
        }
        if self.harmful is not None and self.encoded_harmful is not None:
            left_out = (*self.harmful.excluded, *self.encoded_harmful.excluded)
            found["excluded_harmful.jsonl"] = left_out
        return {name: rows for name, rows in found.items() if rows or name == "excluded.jsonl"}

    def write_notes(self, folder: Path) -> None:
        """List in a ranking's folder what was left out, and what happened to what was not."""
        for name, left_out in self.excluded.items():
            write_excluded(left_out, folder / name)
        write_json(folder / "notes.json", self.text_notes)

    def write_excluded_mix(self, mix: tuple[SampleSet, EncodedSet] | None, folder: Path) -> None:
        """List in a training's folder what was left out of what is mixed in, if anything was."""
        left_out = () if mix is None else (*mix[0].excluded, *mix[1].excluded)
        if left_out:
            write_excluded(left_out, folder / "excluded_mix.jsonl")

    def tell_excluded(self, folder: Path) -> None:
        """Say where what was left out is listed."""
        for name, left_out in self.excluded.items():
            if left_out and (folder / name).exists():  # a folder of before has one file alone
                self.progress(f"{folder / name} lists what was left out: {len(left_out)}", 1, 1)

    @property
    def text_notes(self) -> list[dict[str, Any]]:
        """What happened to texts of pool, safe set and harmful references that were kept."""
        sets = [("pool", self.pool, self.encoded_pool), ("safe", self.safe, self.encoded_safe)]
        if self.harmful is not None and self.encoded_harmful is not None:
            sets.append(("harmful", self.harmful, self.encoded_harmful))
        return [
            {
                "set": name,
                "what": note.what,
                "num_samples": note.num_samples,
                "example": note.example,
                "where": samples.where[note.example],
            }
            for name, samples, encoded in sets
            for note in encoded.notes
        ]

    @property
    def answers_identity(self) -> dict[str, Any]:
        """How prompts and answers are read, where the model or a setting says anything of it."""
        reasoning = self.encoder.reasoning
        found: dict[str, Any] = {}
        if reasoning.own or not reasoning.reads_known:
            found["reasoning"] = json.loads(json.dumps(asdict(reasoning)))
        if self.experiment.tokenization.special_tokens_in_text == "escape":
            found["special_tokens_in_text"] = "escape"
        return found

    def mix(self, arm: ArmSettings) -> tuple[SampleSet, EncodedSet] | None:
        """What is mixed in while an arm is trained, as samples and as tokens; None for nothing."""
        mix = self.experiment.trains_with(arm).mix
        if mix is None:
            return None
        key = mix.data.model_dump_json()
        if key not in self._mixes:
            name = "train.mix" if arm.mix is None else f"mix of the arm {arm.name}"
            samples = load([mix.data], name=name, cache=self._cache([mix.data]))
            self._mixes[key] = samples, self._encode(samples, name, [mix.data])
        return self._mixes[key]

    def matched_steps(self, arm: ArmSettings, num_samples: int) -> int | None:
        """The optimiser steps of an arm of so many samples, where it is to have those of another.

        None where it is trained for its epochs, or has as many steps by itself.
        """
        settings = self.experiment.trains_with(arm)
        return matched_steps(settings, num_samples, len(self.rankable.ids.ascending()))

    @cached_property
    def rankable(self) -> Samples:
        """The pool's samples that could be tokenized: those that a ranking scores."""
        left_out = [row.id for row in self.encoded_pool.excluded if row.id is not None]
        return self.pool.samples.without(left_out)

    @cached_property
    def harmless_ids(self) -> Ids:
        """The rankable samples that are not labelled unsafe, by id: those of the arm "oracle".

        Raises:
            ValueError: If the pool has no labels.
        """
        labels, unsafe = self.pool.labels, self.experiment.unsafe_labels
        if not labels:
            raise ValueError(
                "arms names oracle, which leaves out what is labelled unsafe, but pool.label is "
                "not set. Name the column with the labels, or take oracle out of arms."
            )
        harmless = _places(label not in unsafe for label in labels.values())
        ids = self.pool.samples.ids.take(harmless)
        return ids.take(np.flatnonzero(ids.is_in(self.rankable.ids))).ascending()

    @cached_property
    def task_files(self) -> dict[str, str | None]:
        """Path -> SHA-256 of each file or folder that a task reads; None for a name on the Hub."""
        paths = [path for task in self.experiment.evaluate.tasks for path in task.data_paths]
        return {path: source_hash(path) for path in paths}

    def _encode(self, samples: SampleSet, name: str, specs: Sequence[DataSpec]) -> EncodedSet:
        tokenization, cache = self.experiment.tokenization, self._cache(specs)
        return encode_set(samples, self.encoder, tokenization, name=name, cache=cache)

    def _cache(self, specs: Sequence[DataSpec]) -> Path | None:
        """Where a set is kept once it has been read; None for a small one, which is not."""
        paths = [Path(spec.path) for spec in specs]
        files = [file for spec in specs for file in files_behind(spec.path)]
        is_large = sum(file.stat().st_size for file in files) >= KEPT_BYTES
        is_remote = not all(path.exists() for path in paths)
        return self.run_dir.data if is_large or is_remote else None


def _places(wanted: Iterable[bool]) -> np.ndarray:
    """int64: where the wanted ones are."""
    return np.flatnonzero(np.fromiter(wanted, dtype=bool))


def _content(key: str) -> str:
    """An id without the suffix of a copy."""
    return key.partition("-")[0]
