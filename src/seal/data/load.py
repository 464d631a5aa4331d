"""Loading data files into samples: the one place in which rows leave, each with where and why."""

from __future__ import annotations

import hashlib
import json
import logging
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, model_validator

from seal.artifacts.settings import Settings
from seal.data.formats import Format, describe_columns, expected_columns, parse
from seal.data.readers import RawRow, read_rows
from seal.data.sample import Sample, content_id, content_of
from seal.data.tokenize import ChatEncoder, Encoded, Tokenization

logger = logging.getLogger(__name__)

_DEFAULT_SOURCE = "source"


class DataSpec(Settings):
    """One data file, or one dataset on the Hub.

    Attributes:
        path: .jsonl, .ndjson, .json, .csv or .parquet; or the name of a Hub dataset, owner/name.
        format: How a row becomes a sample; see `seal.data.formats`.
        split: Of a Hub dataset.
        revision: Of a Hub dataset: commit, tag or branch.
        source: Column that says where a sample came from; rows without it have the source "". None:
            no row has a source.
        columns: Name that the format expects -> column of the file that stands for it, such as
            {completion: answer}; columns that are not named keep their names.
        skip: Rows at the start that are left out.
        limit: Most rows that are read after them; None for all.
        label: Column with the truth, for scoring a ranking afterwards; no ranker ever sees it.
        on_bad_row: "error" refuses the file; "skip" leaves bad rows out and lists them.
        license: Of the data, spelled as on the Hub, such as cc-by-nc-4.0. It only documents: it is
            part of no identity.
    """

    path: str
    format: Format = "trl"
    split: str = "train"
    revision: str | None = None
    source: str | None = _DEFAULT_SOURCE
    columns: dict[str, str] = {}
    skip: int = Field(default=0, ge=0)
    limit: int | None = Field(default=None, ge=1)
    label: str | None = None
    on_bad_row: Literal["error", "skip"] = "error"
    license: str | None = None

    @model_validator(mode="after")
    def _columns_are_read(self) -> DataSpec:
        known = expected_columns(self.format)
        unknown = sorted(self.columns.keys() - set(known))
        if unknown:
            raise ValueError(
                f"columns: {unknown[0]!a} is not a column that format {self.format!r} reads; "
                f"these are {', '.join(known)}. Write NAME_OF_THE_FORMAT: COLUMN_OF_THE_FILE."
            )
        return self


@dataclass(frozen=True, slots=True)
class Excluded:
    """A row that did not become a sample, or a sample that did not become tokens.

    Attributes:
        where: "file:line", or "file:row number" in files whose rows have no lines.
        reason: What is wrong with it.
        id: The sample's; None if it never became one.
        stage: Where it left.
    """

    where: str
    reason: str
    id: str | None
    stage: Literal["read", "tokenize"]


@dataclass(frozen=True, slots=True, eq=False)
class SampleSet:
    """The samples of one or several files.

    Attributes:
        samples: In the files' order, ids unique.
        rows: Id -> the row as it was read, to write a selection in the files' own format.
        where: Id -> "file:line".
        labels: Id -> the truth; empty where no label column is set.
        excluded: The rows that were left out.
        num_duplicates: Samples whose content occurred before.
        num_read: Samples and excluded rows together; blank lines do not count.
        fingerprint: SHA-256 over the sorted content ids and sources, 64 hex digits: the same for
            the same samples in another order, files or format. Labels do not enter.
    """

    samples: tuple[Sample, ...]
    rows: dict[str, dict[str, Any]]
    where: dict[str, str]
    labels: dict[str, str]
    excluded: tuple[Excluded, ...]
    num_duplicates: int
    num_read: int
    fingerprint: str


@dataclass(frozen=True, slots=True, eq=False)
class EncodedSet:
    """The samples of a set as tokens.

    Attributes:
        encoded: In the samples' order.
        excluded: The samples that have no response token left, or that the template refuses.
        num_truncated: How many lost response tokens to `max_length`.
        num_tokens: Of all encoded samples, prompts included.
    """

    encoded: tuple[Encoded, ...]
    excluded: tuple[Excluded, ...]
    num_truncated: int
    num_tokens: int


def load(specs: Sequence[DataSpec], *, name: str) -> SampleSet:
    """The samples of the files, one after the other.

    Args:
        specs: The files.
        name: What the set is called in messages: "pool", "safe".

    Raises:
        ValueError: If no file is given, one cannot be read, a row is bad and its file's
            `on_bad_row` is "error", a label or source column is missing, or no sample is left.
    """
    if not specs:
        raise ValueError(f"the {name} set has no data file. Give {name}.path.")
    pile = _Pile()
    for spec in specs:
        pile.read(spec)
    pile.check(specs, name)
    logger.info(
        "%s: kept %d of %d rows; %d excluded, %d duplicates",
        name, len(pile.samples), pile.num_read, len(pile.excluded), pile.num_duplicates,
    )  # fmt: skip
    return SampleSet(
        samples=tuple(pile.samples),
        rows=pile.rows,
        where=pile.where,
        labels=pile.labels,
        excluded=tuple(pile.excluded),
        num_duplicates=pile.num_duplicates,
        num_read=pile.num_read,
        fingerprint=_fingerprint(pile.samples),
    )


def encode_set(
    samples: SampleSet, encoder: ChatEncoder, tokenization: Tokenization, *, name: str
) -> EncodedSet:
    """The samples as tokens; those that cannot be encoded are excluded with a reason.

    Args:
        samples: What to encode.
        encoder: Tokenizer and chat template.
        tokenization: How long a sample may be.
        name: What the set is called in messages.

    Raises:
        ValueError: If no sample is left.
    """
    encoded: list[Encoded] = []
    excluded: list[Excluded] = []
    results = encoder.encode(samples.samples, tokenization)
    for sample, result in zip(samples.samples, results, strict=True):
        if isinstance(result, Encoded):
            encoded.append(result)
        else:
            where = samples.where[sample.id]
            excluded.append(Excluded(where, result, sample.id, "tokenize"))
    if not encoded:
        raise ValueError(_nothing_encoded(samples, encoder, tokenization, excluded[0], name))
    num_truncated = sum(row.is_truncated for row in encoded)
    logger.info(
        "%s: encoded %d of %d samples; %d excluded, %d responses cut at %d tokens",
        name, len(encoded), len(results), len(excluded), num_truncated, tokenization.max_length,
    )  # fmt: skip
    num_tokens = sum(len(row.input_ids) for row in encoded)
    return EncodedSet(tuple(encoded), tuple(excluded), num_truncated, num_tokens)


def write_excluded(excluded: Iterable[Excluded], path: Path) -> None:
    """Write `excluded.jsonl`: one object per line with where, reason, id and stage."""
    with path.open("w", encoding="utf-8", newline="\n") as file:
        for row in excluded:
            record = {"where": row.where, "reason": row.reason, "id": row.id, "stage": row.stage}
            # ASCII only: reasons may quote data, and a terminal may show this file.
            file.write(json.dumps(record, ensure_ascii=True) + "\n")


@dataclass(slots=True)
class _Pile:
    """What has been read so far."""

    samples: list[Sample] = field(default_factory=list)
    rows: dict[str, dict[str, Any]] = field(default_factory=dict)
    where: dict[str, str] = field(default_factory=dict)
    labels: dict[str, str] = field(default_factory=dict)
    excluded: list[Excluded] = field(default_factory=list)
    refused: list[Excluded] = field(default_factory=list)  # those of files with on_bad_row: error
    num_copies: Counter[str] = field(default_factory=Counter)
    num_duplicates: int = 0
    num_read: int = 0

    def read(self, spec: DataSpec) -> None:
        has_source = False
        num_before = len(self.samples)
        rows = read_rows(spec.path, split=spec.split, revision=spec.revision)
        for raw in islice(rows, spec.skip, None if spec.limit is None else spec.skip + spec.limit):
            self.num_read += 1
            if raw.row is not None and spec.source in raw.row:
                has_source = True
            try:
                self._add(raw, spec)
            except _BadRowError as error:
                row = Excluded(raw.where, str(error), None, "read")
                self.excluded.append(row)
                if spec.on_bad_row == "error":
                    self.refused.append(row)
        if spec.source not in (None, _DEFAULT_SOURCE) and not has_source:
            self._refuse_source(spec, num_before)

    def check(self, specs: Sequence[DataSpec], name: str) -> None:
        if self.refused:
            first = self.refused[0]
            raise ValueError(
                f"{first.where}: {first.reason}. {len(self.refused) - 1} more of the "
                f"{self.num_read} rows of the {name} set are bad. Correct them, or set "
                "on_bad_row: skip to leave them out; they are then listed in excluded.jsonl."
            )
        if not self.samples:
            files = ", ".join(spec.path for spec in specs)
            first_reason = (
                f" (first: {self.excluded[0].where}: {self.excluded[0].reason})"
                if self.excluded
                else ""
            )
            raise ValueError(
                f"{files}: no usable sample for the {name} set: {self.num_read} rows read, "
                f"{len(self.excluded)} excluded{first_reason}. Give a file with samples, "
                f"{_way_to_samples(specs)}or set its format."
            )

    def _add(self, raw: RawRow, spec: DataSpec) -> None:
        if raw.row is None:
            raise _BadRowError(raw.reason)
        try:
            prompt, completion = parse(_renamed(raw.row, spec), spec.format)
            source = _source(raw.row, spec)
        except ValueError as error:
            raise _BadRowError(str(error)) from error
        content = content_id(prompt, completion)
        copies = self.num_copies[content]
        key = content if copies == 0 else f"{content}-{copies}"
        label = None if spec.label is None else _label(raw, spec.label)
        self.num_copies[content] += 1
        self.num_duplicates += copies > 0
        self.samples.append(Sample(key, prompt, completion, source))
        self.rows[key] = raw.row
        self.where[key] = raw.where
        if label is not None:
            self.labels[key] = label

    def _refuse_source(self, spec: DataSpec, num_before: int) -> None:
        if len(self.samples) == num_before:
            return  # the file is refused for a better reason
        columns = describe_columns(self.rows[self.samples[num_before].id])
        raise ValueError(
            f"{spec.path}: no row has the column {spec.source!a} that source names; the first "
            f"has {columns}. Correct source, or set source: null."
        )


class _BadRowError(ValueError):
    """A row that `on_bad_row` decides about."""


def _way_to_samples(specs: Sequence[DataSpec]) -> str:
    most = max(spec.skip for spec in specs)
    return f"lower skip={most}, " if most else ""


def _renamed(row: Mapping[str, Any], spec: DataSpec) -> Mapping[str, Any]:
    """The row with the columns under the names that its format expects."""
    absent = [column for column in spec.columns.values() if column not in row]
    if absent:
        raise ValueError(
            f"the row has no column {absent[0]!a}, which columns names; it has "
            f"{describe_columns(row)}"
        )
    return {**row, **{name: row[column] for name, column in spec.columns.items()}}


def _source(row: Mapping[str, Any], spec: DataSpec) -> str:
    if spec.source is None or row.get(spec.source) is None:
        return ""
    text = _scalar_text(row[spec.source])
    if text is None:
        raise ValueError(f"the source column {spec.source!a} holds a list or an object")
    return text


def _label(raw: RawRow, column: str) -> str:
    # Never a row to skip: which rows are ranked must not depend on the truth about them.
    assert raw.row is not None
    text = None if raw.row.get(column) is None else _scalar_text(raw.row[column])
    if text is None:
        raise ValueError(
            f"{raw.where}: the row has no value in the column {column!a} that label names; it "
            f"has {describe_columns(raw.row)}. Correct label, or remove it: it only serves to "
            "score a ranking."
        )
    return text


def _scalar_text(value: object) -> str | None:
    """Strings as they are, numbers and booleans as in JSON, else None."""
    if isinstance(value, str):
        return value
    return json.dumps(value) if isinstance(value, bool | int | float) else None


def _fingerprint(samples: Iterable[Sample]) -> str:
    # Without the suffix of a duplicate, which depends on the order.
    lines = sorted(json.dumps([content_of(sample.id), sample.source]) for sample in samples)
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def _nothing_encoded(
    samples: SampleSet,
    encoder: ChatEncoder,
    tokenization: Tokenization,
    first: Excluded,
    name: str,
) -> str:
    message = (
        f"none of the {len(samples.samples)} samples of the {name} set can be encoded (first: "
        f"{first.where}: {first.reason})."
    )
    try:
        prompts = encoder.prompt_ids([sample.prompt for sample in samples.samples])
    except ValueError:  # the template refuses them; the reason says so already
        return f"{message} Correct the chat template, or give another as model.chat_template."
    longest = max(len(prompt) for prompt in prompts)
    return (
        f"{message} The longest prompt has {longest} tokens and max_length is "
        f"{tokenization.max_length}: raise max_length."
    )
