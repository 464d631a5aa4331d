"""What an experiment reads: data and tokenizer, each loaded when it is first needed, once."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

from seal.artifacts.provenance import file_hash
from seal.artifacts.run_dir import RunDir
from seal.config.experiment import Experiment
from seal.data.load import EncodedSet, SampleSet, encode_set, load
from seal.data.sample import Sample
from seal.data.tokenize import ChatEncoder
from seal.models import load_encoder, load_tokenizer, loaded_identity
from seal.progress import Progress


class Inputs:
    """The inputs of one experiment.

    Attributes:
        experiment: What is asked for.
        run_dir: Where it goes.
        progress: Told how far the work is.
    """

    def __init__(self, experiment: Experiment, progress: Progress) -> None:
        self.experiment = experiment
        self.run_dir = RunDir(experiment.run_dir)
        self.progress = progress

    @cached_property
    def encoder(self) -> ChatEncoder:
        """The model's tokenizer and chat template."""
        spec = self.experiment.model
        return load_encoder(spec, load_tokenizer(spec))

    @cached_property
    def model_identity(self) -> dict[str, Any]:
        """What the model is and how it is loaded; changes with any byte of its files."""
        return loaded_identity(self.experiment.model)

    @cached_property
    def pool(self) -> SampleSet:
        """The samples to choose from.

        Raises:
            ValueError: If they have labels, and none of them is one that counts as unsafe.
        """
        spec = self.experiment.pool
        pool = load([spec], name="pool")
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
        return load(self.experiment.safe, name="safe")

    @cached_property
    def harmful(self) -> SampleSet | None:
        """The harmful references, if any."""
        specs = self.experiment.harmful
        return load(specs, name="harmful") if specs else None

    @cached_property
    def mix(self) -> SampleSet | None:
        """The data set that is mixed in while training, if any."""
        mix = self.experiment.train.mix
        return None if mix is None else load([mix.data], name="train.mix")

    @cached_property
    def encoded_pool(self) -> EncodedSet:
        """The pool as tokens."""
        return self._encode(self.pool, "pool")

    @cached_property
    def encoded_safe(self) -> EncodedSet:
        """The safe set as tokens."""
        return self._encode(self.safe, "safe")

    @cached_property
    def encoded_harmful(self) -> EncodedSet | None:
        """The harmful references as tokens."""
        return None if self.harmful is None else self._encode(self.harmful, "harmful")

    @cached_property
    def conversations(self) -> dict[str, Sample]:
        """Id -> sample of pool, safe set and harmful references, its source left out."""
        sets = [self.pool, self.safe, *([self.harmful] if self.harmful else [])]
        return {row.id: replace(row, source="") for part in sets for row in part.samples}

    @cached_property
    def encoded_mix(self) -> EncodedSet | None:
        """The mixed-in data set as tokens."""
        return None if self.mix is None else self._encode(self.mix, "train.mix")

    @cached_property
    def rankable(self) -> tuple[Sample, ...]:
        """The pool's samples that could be tokenized: those that a ranking scores."""
        ids = {row.id for row in self.encoded_pool.encoded}
        return tuple(sample for sample in self.pool.samples if sample.id in ids)

    @cached_property
    def task_files(self) -> dict[str, str | None]:
        """Path -> SHA-256 of each file that a task reads; None for a name on the Hub."""
        paths = [task.data_path for task in self.experiment.evaluate.tasks]
        return {path: file_hash(Path(path)) if Path(path).is_file() else None for path in paths}

    def _encode(self, samples: SampleSet, name: str) -> EncodedSet:
        return encode_set(samples, self.encoder, self.experiment.tokenization, name=name)
