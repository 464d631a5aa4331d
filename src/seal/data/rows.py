"""Rows of data files as samples in a row: the one place in which rows leave, and why."""

from __future__ import annotations

import json
from array import array
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, Literal

import numpy as np
from pydantic import Field, model_validator

from seal.artifacts.records import RecordWriter
from seal.artifacts.settings import Settings
from seal.data.arrow_types import SCALAR, Kind, Needs
from seal.data.exclusions import Tally
from seal.data.formats import (
    Format,
    column_kinds,
    describe_columns,
    expected_columns,
    parse,
)
from seal.data.raw_row import RawRow
from seal.data.readers import read_rows
from seal.data.sample import content_id
from seal.data.sample_store import Parse
from seal.data.turns import Turns

_DEFAULT_SOURCE = "source"


class DataSpec(Settings):
    """One data file or folder, or one dataset on the Hub.

    Attributes:
        path: .jsonl, .ndjson, .json, .csv (each also with .gz, .zst, .bz2 or .xz after it) or
            .parquet; a folder of Parquet parts, or one made by `save_to_disk`; or the name of a
            Hub dataset, owner/name.
        format: How a row becomes a sample; see `seal.data.formats`.
        split: Of a Hub dataset, or of a folder that `save_to_disk` made of several.
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

    def needs(self) -> Needs:
        """The file's columns that are read, and what they must hold."""
        found: dict[str, Kind] = {
            self.columns.get(name, name): kind for name, kind in column_kinds(self.format).items()
        }
        for column in (self.source, self.label):
            if column is not None:
                found.setdefault(column, SCALAR)
        return found


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


@dataclass(slots=True)
class Pile:
    """What has been read so far; of the rows only what their ids need is kept.

    Attributes:
        writer: Takes the rows.
        contents: The hash of each sample's content, in the files' order.
        starts: The place of the first sample of each file.
        num_read: Samples and excluded rows together.
        excluded: The rows that were left out.
        refused: Those of files with `on_bad_row: error`.
    """

    writer: RecordWriter
    contents: array[int] = field(default_factory=lambda: array("Q"))
    starts: list[int] = field(default_factory=list)
    num_read: int = 0
    excluded: list[Excluded] = field(default_factory=list)
    refused: Tally = field(default_factory=Tally)

    def read(self, spec: DataSpec) -> None:
        """Take the rows of one more file.

        Raises:
            ValueError: If it cannot be read, or a label or source column is missing.
        """
        has_source = False
        self.starts.append(len(self.contents))
        first: dict[str, Any] | None = None
        rows = read_rows(spec.path, split=spec.split, revision=spec.revision, needs=spec.needs())
        for raw in islice(rows, spec.skip, None if spec.limit is None else spec.skip + spec.limit):
            self.num_read += 1
            if raw.row is not None and spec.source in raw.row:
                has_source = True
            try:
                self._add(raw, spec)
            except _BadRowError as error:
                self._leave_out(Excluded(raw.where, str(error), None, "read"), spec)
            else:
                first = first or raw.row
        if first is not None and spec.source not in (None, _DEFAULT_SOURCE) and not has_source:
            raise ValueError(
                f"{spec.path}: no row has the column {spec.source!a} that source names; the first "
                f"has {describe_columns(first)}. Correct source, or set source: null."
            )

    def check(self, specs: Sequence[DataSpec], name: str) -> None:
        """Refuse bad rows, where they are not to be skipped, and a set without samples.

        Raises:
            ValueError: If there are such rows, or no samples.
        """
        first = self.refused.first
        if first is not None:
            raise ValueError(
                f"{first.where}: {first.reason}. {self.refused.total - 1} more of the "
                f"{self.num_read} rows of the {name} set are bad. Correct them, or set "
                "on_bad_row: skip to leave them out; they are then listed in excluded.jsonl."
                f"{self.refused.several()}"
            )
        if not self.contents:
            files = ", ".join(spec.path for spec in specs)
            first_reason = (
                f" (first: {self.excluded[0].where}: {self.excluded[0].reason})"
                if self.excluded
                else ""
            )
            raise ValueError(
                f"{files}: no usable sample for the {name} set: {self.num_read} rows read, "
                f"{len(self.excluded)} excluded{first_reason}. Give a file with samples, "
                f"{_way_to_samples(specs)}or set its format.{Tally(self.excluded).several()}"
            )

    def hashes(self) -> np.ndarray:
        """uint64 [N]: the hash of each sample's content, in the files' order."""
        return np.frombuffer(self.contents, dtype=np.uint64)

    def _add(self, raw: RawRow, spec: DataSpec) -> None:
        if raw.row is None:
            raise _BadRowError(raw.reason)
        try:
            prompt, completion = parse(_renamed(raw.row, spec), spec.format)
            source = _source(raw.row, spec)
        except ValueError as error:
            raise _BadRowError(str(error)) from error
        label = None if spec.label is None else _label(raw, spec.label)
        content = content_id(prompt, completion)
        text = _json(raw.row)
        # Last, so that a row that is left out leaves nothing behind.
        self.writer.add((text, raw.where, source, label), len(text))
        self.contents.append(int(content, 16))

    def _leave_out(self, row: Excluded, spec: DataSpec) -> None:
        if spec.on_bad_row == "skip":
            self.excluded.append(row)
        else:  # the set is refused, with the first of them and their numbers
            self.refused.add(row)


def parser(spec: DataSpec) -> Parse:
    """How a row of a file becomes prompt and completion."""

    def parsed(row: Mapping[str, Any]) -> tuple[Turns, Turns]:
        return parse(_renamed(row, spec), spec.format)

    return parsed


class _BadRowError(ValueError):
    """A row that `on_bad_row` decides about."""


def _json(row: Mapping[str, Any]) -> str:
    try:
        return json.dumps(row)  # ASCII only, so that any text can be stored
    except RecursionError as error:
        raise _BadRowError("not valid JSON: Nested too deeply") from error


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
