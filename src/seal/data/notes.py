"""What happened to many samples on their way to tokens, counted, each with an example."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple


class Note(NamedTuple):
    """Something that happened to samples that were kept.

    Attributes:
        what: A sentence without its full stop.
        num_samples: How many.
        example: The id of the first of them.
    """

    what: str
    num_samples: int
    example: str


class Notes:
    """Counts what happened, in the order of its first time."""

    def __init__(self, notes: Iterable[Note] = ()) -> None:
        """Start from notes that were taken before."""
        self._notes = {note.what: note for note in notes}

    def add(self, what: str, key: str) -> None:
        """Count that it happened to one more sample, of this id."""
        before = self._notes.get(what, Note(what, 0, key))
        self._notes[what] = before._replace(num_samples=before.num_samples + 1)

    def __iter__(self) -> Iterator[Note]:
        return iter(self._notes.values())
