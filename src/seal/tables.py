"""Tables of what one forward pass says about rows: each made once, and shared by the rankers."""

from __future__ import annotations

import hashlib
import json
from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch

from seal.artifacts.ids import ids_of
from seal.artifacts.loss_table import LossTable
from seal.artifacts.provenance import load_provenance
from seal.artifacts.row_table import Row, RowTable, build_table, open_table
from seal.artifacts.settings import Settings
from seal.data.batches import Batch
from seal.data.token_store import lengths_of
from seal.data.tokenize import Encoded
from seal.losses import losses_and_entropy, response_logits, token_nll
from seal.microbatches import MicroBatches, default_tokens
from seal.models import LanguageModel
from seal.packing import is_packed
from seal.padding import needs_even_rows
from seal.processes import processes
from seal.progress import Progress, silent
from seal.sharding import equal_turns, is_sharded

_MARK = "row"  # the column that says of which tokens a row speaks


class Reading(Settings):
    """What to read off a forward pass; abstract. Its fields are part of a table's identity.

    Attributes:
        noun: What it reads, in the singular, for messages.
    """

    noun: ClassVar[str] = "value"

    def takes_packed(self) -> bool:
        """Whether it reads packed batches too; what pools states of padded ones does not."""
        return False

    @abstractmethod
    def read(self, lm: LanguageModel, batch: Batch) -> list[Row]:
        """The arrays of each row of a batch."""


class Losses(Reading):
    """The columns of a loss table.

    Attributes:
        entropy: Also the entropy of each prediction.
    """

    noun: ClassVar[str] = "loss"
    entropy: bool = False

    def takes_packed(self) -> bool:
        """All but entropies, which need the logits themselves."""
        return not self.entropy

    def read(self, lm: LanguageModel, batch: Batch) -> list[Row]:
        """Per response token: the loss, and the entropy if asked for."""
        if self.entropy:
            logits, labels, mask = response_logits(lm.model, batch)
            nll, entropy = losses_and_entropy(logits.log_softmax(dim=-1), labels)
            columns, counts = {"nll": nll, "entropy": entropy}, mask.sum(dim=1)
        else:
            nll, counts = token_nll(lm.model, batch)
            columns = {"nll": nll}
        sizes = counts.tolist()
        parts = {name: values.cpu().split(sizes) for name, values in columns.items()}
        texts = _response_texts(lm, batch)
        return [
            {
                **{name: rows[place].float().numpy() for name, rows in parts.items()},
                "num_bytes": np.array([max(1, len(texts[place].encode()))], dtype=np.int64),
            }
            for place in range(len(sizes))
        ]


class Tables:
    """The tables of a run.

    A table is named by the model, the tokens of the rows and what is read; a model that was changed
    in memory has no name, and its tables are not kept.

    Attributes:
        root: The folder of the tables; None keeps none.
        progress: Told how far a pass is.
        known: Folders of other runs' tables. What they say of the very same rows, under the same
            model, is not computed again.
    """

    def __init__(
        self,
        root: Path | None = None,
        progress: Progress = silent,
        known: Sequence[Path] = (),
    ) -> None:
        self.root = root
        self.progress = progress
        self.known = tuple(known)

    def losses(
        self,
        lm: LanguageModel,
        rows: Sequence[Encoded],
        *,
        entropy: bool = False,
        what: str = "scoring the pool",
    ) -> LossTable:
        """The losses of the rows' response tokens under a model, in the order of the rows.

        Args:
            lm: The model.
            rows: Ids must be unique.
            entropy: Also the entropy of each prediction.
            what: What the pass is called on the progress bar.
        """
        table = self.read(Losses(entropy=entropy), lm, rows, what=what)
        return LossTable(table, ids_of(rows))

    def read(
        self, reading: Reading, lm: LanguageModel, rows: Sequence[Encoded], *, what: str
    ) -> RowTable:
        """What a reading says about the rows, in the table's own order.

        Raises:
            ValueError: If a value is not finite, naming the samples.
        """
        # The longest first: a pass that does not fit in memory fails at once.
        ids, lengths = ids_of(rows), lengths_of(rows)
        order = ids.order()
        order = order[np.argsort(-lengths[order], kind="stable")]
        identity = {
            "reading": {"kind": type(reading).__name__, **reading.model_dump(mode="json")},
            "model": lm.identity,
            "rows": rows_hash(rows),
        }
        name = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:16]
        folder = None if self.root is None or lm.identity is None else self.root / name

        packed = reading.takes_packed() and is_packed(lm.model)
        micro_batches = micro_batches_of(lm, is_packed=packed)
        known = KnownRows(self.known, identity["reading"], identity["model"])

        def fill(places: Sequence[int]) -> Iterator[tuple[int, Row]]:
            missing: list[int] = []
            shard: list[Encoded] = []
            for place in places:
                row = rows[int(order[place])]
                found = known.find(row)
                if found is None:
                    missing.append(place)
                    shard.append(row)
                else:
                    yield place, found
            mine: list[tuple[int, Row]] = []
            for batch in equal_turns(lm.model, processes().share_of(micro_batches.of(shard))):
                if batch is None:
                    _read(reading, lm, [rows[int(order[-1])]], micro_batches)  # the shortest
                    continue
                chosen = [shard[place] for place in batch]
                read = _read(reading, lm, chosen, micro_batches)
                _check_finite(reading.noun, chosen, read)
                for place, row in zip(batch, read, strict=True):
                    mine.append((missing[place], {**row, _MARK: row_mark(shard[place])}))
                self.progress(what, missing[batch[-1]] + 1, len(order))
            for rows_of_one in processes().gather(mine):
                yield from rows_of_one

        return build_table(folder, identity, ids.take(order), fill)


def micro_batches_of(lm: LanguageModel, *, is_packed: bool = False) -> MicroBatches:
    """The passes in which rows are read."""
    return MicroBatches(
        default_tokens(lm.device),
        retries=not is_sharded(lm.model),
        is_packed=is_packed,
        is_even=not is_packed and needs_even_rows(lm.model),
    )


def _read(
    reading: Reading, lm: LanguageModel, rows: Sequence[Encoded], micro_batches: MicroBatches
) -> list[Row]:
    """One pass over the rows; where memory runs out, several, and smaller ones from then on."""

    def passes() -> list[Row]:
        read: dict[int, Row] = {}
        for places in micro_batches.of(rows):
            batch = micro_batches.batch([rows[place] for place in places], lm.pad_id)
            batch = batch.to(lm.device)
            with torch.inference_mode():
                read.update(zip(places, reading.read(lm, batch), strict=True))
        return [read[place] for place in range(len(rows))]

    return micro_batches.fitted(rows, passes)


class KnownRows:
    """What finished tables of other runs say of single rows."""

    def __init__(
        self, roots: Sequence[Path], reading: Mapping[str, Any], model: Mapping[str, Any] | None
    ) -> None:
        """The rows of all tables with this reading of this model.

        Args:
            roots: The folders of the tables.
            reading: As in a table's identity.
            model: Likewise; nothing is known of a model without a name.

        Raises:
            ValueError: If such a table is damaged.
        """
        wanted = json.loads(json.dumps({"reading": reading, "model": model}))
        finished = "[!.]*"  # what begins with a dot is under way, or was left so
        folders = [path for root in roots for path in sorted(root.glob(finished)) if model]
        # One id may stand for several rows: a sample with its prompt, and without.
        self._places: dict[str, list[tuple[RowTable, int]]] = {}
        for folder in folders:
            identity = load_provenance(folder).identity
            if {name: identity.get(name) for name in wanted} == wanted:
                table = open_table(folder)
                for place, key in enumerate(table.ids):
                    self._places.setdefault(key, []).append((table, place))

    def find(self, row: Encoded) -> Row | None:
        """The arrays of a row, if it is there with the same tokens and the same mask."""
        for table, place in self._places.get(row.id, []):
            arrays = table.row(place)
            if np.array_equal(arrays[_MARK], row_mark(row)):
                return arrays
        return None


def row_mark(row: Encoded) -> np.ndarray:
    """int64 [2]: 128 bits of a hash of a row's tokens and mask."""
    digest = hashlib.blake2b(digest_size=16)
    digest.update(np.ascontiguousarray(row.input_ids, dtype="<i4").tobytes())
    digest.update(np.packbits(row.response_mask).tobytes())
    return np.frombuffer(digest.digest(), dtype="<i8")


def rows_hash(rows: Sequence[Encoded]) -> str:
    """SHA-256 over ids, tokens and response masks, whatever the order of the rows."""
    digest = hashlib.sha256()
    for row in (rows[int(place)] for place in ids_of(rows).order()):
        digest.update(f"{row.id} {len(row.input_ids)} ".encode())
        digest.update(np.ascontiguousarray(row.input_ids, dtype="<i4").tobytes())
        digest.update(np.packbits(row.response_mask).tobytes())
    return digest.hexdigest()


def _response_texts(lm: LanguageModel, batch: Batch) -> list[str]:
    responses = [
        ids[mask].tolist()
        for ids, mask in zip(
            batch.by_sample(batch.input_ids), batch.by_sample(batch.response_mask), strict=True
        )
    ]
    return lm.tokenizer.batch_decode(responses, skip_special_tokens=True)


def _check_finite(noun: str, rows: Sequence[Encoded], read: Sequence[Mapping[str, Any]]) -> None:
    bad = [
        row.id
        for row, arrays in zip(rows, read, strict=True)
        if not all(np.isfinite(array).all() for array in arrays.values())
    ]
    if bad:
        raise ValueError(
            f"the {noun} of {len(bad)} samples is not finite: {', '.join(bad[:5])}. Use "
            "model.dtype=float32, or look at these samples."
        )
