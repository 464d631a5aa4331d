"""Loading data files into samples and tokens, in memory or memory-mapped from what was kept."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from seal.artifacts.atomic import write_json
from seal.artifacts.paths import StrPath
from seal.artifacts.provenance import content_hash
from seal.artifacts.records import RecordWriter, batched, open_records
from seal.artifacts.run_dir import build_or_wait
from seal.data.exclusions import Tally, advice, is_length
from seal.data.folders import files_behind, source_hash
from seal.data.notes import Note, Notes
from seal.data.readers import describe_unread
from seal.data.rows import DataSpec, Excluded, Pile, parser
from seal.data.sample_store import (
    ROW_SCHEMA,
    Column,
    Index,
    Samples,
    SampleStore,
    hex_of,
    load_index,
    make_index,
    save_index,
)
from seal.data.token_store import TOKEN_SCHEMA, EncodedRows
from seal.data.tokenize import ChatEncoder, Tokenization

logger = logging.getLogger(__name__)

_ENCODED_AT_ONCE = 1024  # samples that are Python objects at a time
_LINES_AT_ONCE = 2**16
_LAYOUT = 3  # to be raised when the files below, or what is made of a row, change
_ROWS, _INDEX, _TOKENS, _NOTES = "rows.arrow", "index.arrow", "tokens.arrow", "set.json"


@dataclass(frozen=True, slots=True, eq=False)
class SampleSet:
    """The samples of one or several files: views of Arrow rows, of which few are ever objects.

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

    samples: Samples
    rows: Mapping[str, dict[str, Any]]
    where: Mapping[str, str]
    labels: Mapping[str, str]
    excluded: tuple[Excluded, ...]
    num_duplicates: int
    num_read: int
    fingerprint: str


@dataclass(frozen=True, slots=True, eq=False)
class EncodedSet:
    """The samples of a set as tokens: views of Arrow rows.

    Attributes:
        encoded: In the samples' order.
        excluded: The samples that have no response token left, or that the template refuses.
        num_truncated: How many lost response tokens to `max_length`.
        num_tokens: Of all encoded samples, prompts included.
        notes: What happened to samples that were encoded all the same.
    """

    encoded: EncodedRows
    excluded: tuple[Excluded, ...]
    num_truncated: int
    num_tokens: int
    notes: tuple[Note, ...] = ()


def load(specs: Sequence[DataSpec], *, name: str, cache: StrPath | None = None) -> SampleSet:
    """The samples of the files, one after the other.

    Args:
        specs: The files or folders.
        name: What the set is called in messages: "pool", "safe".
        cache: Where the samples are kept by the content of the files, and memory-mapped from; None
            keeps them in memory, as datasets on the Hub always are.

    Raises:
        ValueError: If no file is given, one cannot be read, a row is bad and its file's
            `on_bad_row` is "error", a label or source column is missing, no sample is left, or what
            was kept is damaged.
    """
    cache = None if cache is None else Path(cache)
    if not specs:
        raise ValueError(f"the {name} set has no data file. Give {name}.path.")
    if cache is None or not all(files_behind(spec.path) for spec in specs):
        found = _read(specs, name, None)
    else:
        identity = {
            "kind": "samples",
            "layout": _LAYOUT,
            "specs": [spec.model_dump(mode="json") for spec in specs],
            "files": [source_hash(spec.path) for spec in specs],
        }
        folder = _kept(cache, identity, lambda folder: _save(_read(specs, name, folder), folder))
        found = _open(folder, specs)
    for spec in specs:
        if unread := describe_unread(spec.path):
            logger.warning("%s: %s: %s", name, spec.path, unread)
    logger.info(
        "%s: kept %d of %d rows; %d excluded, %d duplicates",
        name, len(found.samples), found.num_read, len(found.excluded), found.num_duplicates,
    )  # fmt: skip
    _tell_excluded(name, found.excluded, found.num_read)
    return found


def encode_set(
    samples: SampleSet,
    encoder: ChatEncoder,
    tokenization: Tokenization,
    *,
    name: str,
    cache: StrPath | None = None,
) -> EncodedSet:
    """The samples as tokens; those that cannot be encoded are excluded with a reason.

    Args:
        samples: What to encode.
        encoder: Tokenizer and chat template.
        tokenization: How long a sample may be.
        name: What the set is called in messages.
        cache: Where the tokens are kept by samples, encoder and tokenization, and memory-mapped
            from; None keeps them in memory.

    Raises:
        ValueError: If no sample is left, or what was kept is damaged.
    """
    cache = None if cache is None else Path(cache)
    if cache is None:
        found = _encode(samples, encoder, tokenization, name, None)
    else:
        identity = {
            "kind": "tokens",
            "layout": _LAYOUT,
            "samples": samples.samples.ids.digest(),
            "encoder": encoder.identity,
            "tokenization": tokenization.model_dump(mode="json"),
        }

        def build(folder: Path) -> None:
            _save_encoded(_encode(samples, encoder, tokenization, name, folder), folder)

        found = _open_encoded(_kept(cache, identity, build), samples)
    logger.info(
        "%s: encoded %d of %d samples; %d excluded, %d responses cut at %d tokens",
        name, len(found.encoded), len(samples.samples), len(found.excluded), found.num_truncated,
        tokenization.max_length,
    )  # fmt: skip
    _tell_excluded(name, found.excluded, len(samples.samples))
    if encoder.remark is not None:
        logger.warning("%s: %s", name, encoder.remark)
    for note in found.notes:
        logger.warning(
            "%s: %s in %d samples, which are kept (first: %s)",
            name, note.what, note.num_samples, samples.where[note.example],
        )  # fmt: skip
    return found


def _tell_excluded(name: str, excluded: Sequence[Excluded], total: int) -> None:
    if excluded:
        logger.warning(
            "%s: %d of %d are left out: %s", name, len(excluded), total, Tally(excluded).summary()
        )


def write_excluded(excluded: Iterable[Excluded], path: StrPath) -> None:
    """Write `excluded.jsonl`: one object per line with where, reason, id and stage."""
    path = Path(path)
    with path.open("w", encoding="utf-8", newline="\n") as file:
        for row in excluded:
            record = {"where": row.where, "reason": row.reason, "id": row.id, "stage": row.stage}
            # ASCII only: reasons may quote data, and a terminal may show this file.
            file.write(json.dumps(record, ensure_ascii=True) + "\n")


def _kept(cache: Path, identity: dict[str, Any], build: Callable[[Path], None]) -> Path:
    """The folder of what is kept under its identity, made if it is not there."""
    name = content_hash([json.dumps(identity, sort_keys=True)])[:16]
    folder = cache / f"{identity['kind']}-{name}"
    build_or_wait(folder, identity, build)
    return folder


def _read(specs: Sequence[DataSpec], name: str, folder: Path | None) -> SampleSet:
    """Read the files; the rows go into a folder, or stay in memory."""
    with RecordWriter(ROW_SCHEMA, folder and folder / _ROWS) as writer:
        pile = Pile(writer)
        for spec in specs:
            pile.read(spec)
        pile.check(specs, name)
        records = writer.finish()
    index = make_index(pile.hashes())
    store = SampleStore(records, index, tuple(pile.starts), tuple(map(parser, specs)))
    num_contents = 1 + int((index.contents[1:] != index.contents[:-1]).sum())
    return _set(
        store,
        tuple(pile.excluded),
        num_duplicates=len(index.contents) - num_contents,
        num_read=pile.num_read,
        fingerprint=_fingerprint(Samples(store), index),
    )


def _set(
    store: SampleStore,
    excluded: tuple[Excluded, ...],
    *,
    num_duplicates: int,
    num_read: int,
    fingerprint: str,
) -> SampleSet:
    return SampleSet(
        samples=Samples(store),
        rows=Column(store, "row", json.loads),
        where=Column(store, "where", str),
        labels=Column(store, "label", str),
        excluded=excluded,
        num_duplicates=num_duplicates,
        num_read=num_read,
        fingerprint=fingerprint,
    )


def _save(found: SampleSet, folder: Path) -> None:
    """Write what `_open` needs besides the rows, which lie there already."""
    store = found.samples.store
    save_index(store.index, folder / _INDEX)
    notes = {
        "starts": store.starts,
        "excluded": [[row.where, row.reason] for row in found.excluded],
        "num_duplicates": found.num_duplicates,
        "num_read": found.num_read,
        "fingerprint": found.fingerprint,
    }
    write_json(folder / _NOTES, notes)


def _open(folder: Path, specs: Sequence[DataSpec]) -> SampleSet:
    notes = json.loads((folder / _NOTES).read_text("utf-8"))
    store = SampleStore(
        open_records(folder / _ROWS),
        load_index(folder / _INDEX),
        tuple(notes.pop("starts")),
        tuple(map(parser, specs)),
    )
    excluded = notes.pop("excluded")
    rows = (Excluded(where, reason, None, "read") for where, reason in excluded)
    return _set(store, tuple(rows), **notes)


def _encode(
    samples: SampleSet,
    encoder: ChatEncoder,
    tokenization: Tokenization,
    name: str,
    folder: Path | None,
) -> EncodedSet:
    """Encode the samples; the tokens go into a folder, or stay in memory."""
    excluded: list[Excluded] = []
    num_truncated = num_tokens = 0
    notes = Notes()
    with RecordWriter(TOKEN_SCHEMA, folder and folder / _TOKENS) as writer:
        for some in batched(samples.samples, _ENCODED_AT_ONCE):
            results = encoder.encode(some, tokenization, notes)
            for sample, result in zip(some, results, strict=True):
                if isinstance(result, str):
                    where = samples.where[sample.id]
                    excluded.append(Excluded(where, result, sample.id, "tokenize"))
                    continue
                num_truncated += result.is_truncated
                num_tokens += len(result.input_ids)
                row = (result.id, result.input_ids, result.response_mask, result.is_truncated)
                writer.add(row, 5 * len(result.input_ids))
        records = writer.finish()
    if not len(records):
        raise ValueError(_nothing_encoded(samples, encoder, tokenization, excluded, name))
    return EncodedSet(
        EncodedRows(records), tuple(excluded), num_truncated, num_tokens, tuple(notes)
    )


def _save_encoded(found: EncodedSet, folder: Path) -> None:
    """Write what `_open_encoded` needs besides the tokens, which lie there already."""
    notes = {
        "excluded": [[row.id, row.reason] for row in found.excluded],
        "num_truncated": found.num_truncated,
        "num_tokens": found.num_tokens,
        "notes": found.notes,
    }
    write_json(folder / _NOTES, notes)


def _open_encoded(folder: Path, samples: SampleSet) -> EncodedSet:
    notes = json.loads((folder / _NOTES).read_text("utf-8"))
    excluded = tuple(
        Excluded(samples.where[key], reason, key, "tokenize") for key, reason in notes["excluded"]
    )
    rows = EncodedRows(open_records(folder / _TOKENS))
    return EncodedSet(
        rows,
        excluded,
        notes["num_truncated"],
        notes["num_tokens"],
        tuple(Note(*note) for note in notes["notes"]),
    )


def _fingerprint(samples: Samples, index: Index) -> str:
    digest = hashlib.sha256()
    separator = b""
    for line in _lines(samples, index):
        digest.update(separator + line.encode())
        separator = b"\n"
    return digest.hexdigest()


def _lines(samples: Samples, index: Index) -> Iterator[str]:
    """One line for each sample in ascending order: its content and its source, as JSON."""
    pairs = zip(_hexes(index.contents), _texts(samples.sources, index.order), strict=True)
    # Without the suffix of a duplicate, which depends on the order.
    for _, copies in groupby(pairs, key=itemgetter(0)):
        yield from sorted(map(json.dumps, copies))


def _hexes(contents: np.ndarray) -> Iterator[str]:
    for start in range(0, len(contents), _LINES_AT_ONCE):
        yield from hex_of(contents[start : start + _LINES_AT_ONCE]).to_pylist()


def _texts(column: pa.Array, order: np.ndarray) -> Iterator[str]:
    for start in range(0, len(order), _LINES_AT_ONCE):
        yield from column.take(pa.array(order[start : start + _LINES_AT_ONCE])).to_pylist()


def _nothing_encoded(
    samples: SampleSet,
    encoder: ChatEncoder,
    tokenization: Tokenization,
    excluded: Sequence[Excluded],
    name: str,
) -> str:
    tally, first = Tally(excluded), excluded[0]
    message = (
        f"none of the {len(samples.samples)} samples of the {name} set can be encoded (first: "
        f"{first.where}: {first.reason})."
    )
    commonest = tally.kinds()[0].first.reason
    if not is_length(commonest):
        return f"{message} {advice(commonest)}.{tally.several()}".replace(" .", "")
    longest = 0
    for some in batched(samples.samples, _ENCODED_AT_ONCE):
        prompts = [sample.prompt for sample in some]
        try:
            longest = max(longest, *map(len, encoder.prompt_ids(prompts)))
        except ValueError:  # there is one that the template refuses
            for prompt in prompts:
                with suppress(ValueError):
                    longest = max(longest, *map(len, encoder.prompt_ids([prompt])))
    return (
        f"{message} The longest prompt has {longest} tokens and max_length is "
        f"{tokenization.max_length}: raise max_length.{tally.several()}"
    )
