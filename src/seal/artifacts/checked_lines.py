"""Lines of JSON that grow by appending, each of which can tell that it is whole and unchanged.

A line ends with the checksum of what stands before it. Three things can be found instead of such a
line, and they are not the same:

* One that was cut off, by a crash or a full disk: it begins as ours do and has no checksum. It was
  never promised to anybody, and counts as missing; it may stand anywhere, as others go on after it.
* Two in one, where a process went on behind a line that another was just being cut off at: the
  second one's checksum fits the second one alone. Both count as missing.
* Anything else was whole once and was changed since, or is none of ours. It is refused: what it
  said is not known, and to leave it out in silence would be to change what is measured.

A flipped bit in the checksum's own name makes a line look cut off, and one in the break between two
lines makes them look like two in one. Their records are made again, which costs time; no record
that was changed is ever taken for what was written.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

_LENGTH = 16  # hex digits
# Inside a text of JSON, every quote is escaped, so that neither can be part of one.
_END = re.compile(rb', "checksum": "(.{%d})"\}$' % _LENGTH, re.DOTALL)
_START = re.compile(rb'\{"(?:key|header)": ')
_STARTS = (b'{"key": ', b'{"header": ')


def checked_line(record: Mapping[str, Any]) -> str:
    """A record as its line, with the line break.

    Args:
        record: Plain JSON; the first key is `key` or `header`.
    """
    text = json.dumps(record, allow_nan=False)
    assert text.startswith(tuple(start.decode() for start in _STARTS)), text[:20]
    return f'{text[:-1]}, "checksum": "{_checksum(text.encode("ascii"))}"}}\n'


def checked_records(path: Path, content: bytes) -> Iterator[tuple[int, dict[str, Any]]]:
    """The records of a file that are whole, each with the number of its line, from 1.

    Args:
        path: Of the file, for messages.
        content: What it holds.

    Raises:
        ValueError: At a line that was changed, with its number and the way out.
    """
    for number, line in enumerate(content.split(b"\n"), start=1):
        if line and not _is_cut_off(line) and not _is_two(line):
            yield number, _record(line, f"{path}:{number}")


def _record(line: bytes, where: str) -> dict[str, Any]:
    if _fits(line):
        record = json.loads(line)
        del record["checksum"]
        return record
    raise ValueError(
        f"{where}: this line was changed since it was written: its checksum does not fit. Bring "
        "the file back from a copy, or delete the line to have what it says made again."
    )


def _is_cut_off(line: bytes) -> bool:
    begins = any(line.startswith(start) or start.startswith(line) for start in _STARTS)
    return begins and _END.search(line) is None


def _is_two(line: bytes) -> bool:
    starts = [found.start() for found in _START.finditer(line)]
    return any(_fits(line[start:]) for start in starts if start)


def _fits(line: bytes) -> bool:
    end = _END.search(line)
    return end is not None and _checksum(line[: end.start()] + b"}").encode() == end[1]


def _checksum(text: bytes) -> str:
    return hashlib.sha256(text).hexdigest()[:_LENGTH]
