"""Files of text, packed or not: the suffix says which, and the first bytes must not contradict."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, cast

import pyarrow as pa


def _zstd(file: Path) -> BinaryIO:
    stream = pa.input_stream(str(file), compression="zstd")
    return io.BufferedReader(cast("io.RawIOBase", stream))


_OPENERS: dict[str, Callable[[Path], Any]] = {
    ".gz": gzip.GzipFile,
    ".zst": _zstd,
    ".bz2": bz2.BZ2File,
    ".xz": lzma.LZMAFile,
}
PACKED = tuple(_OPENERS)
"""Suffixes of packed files; the kind of what is in them stands before it: `pool.jsonl.gz`."""

_DAMAGE = (EOFError, OSError, zlib.error, lzma.LZMAError)

# First bytes that no text in UTF-8 has -> what such a file is, and the way out.
_STARTS: dict[bytes, str] = {
    b"\x1f\x8b": "is packed with gzip. Name it NAME{suffix}.gz",
    b"\x28\xb5\x2f\xfd": "is packed with zstd. Name it NAME{suffix}.zst",
    b"BZh": "is packed with bzip2. Name it NAME{suffix}.bz2",
    b"\xfd7zXZ\x00": "is packed with xz. Name it NAME{suffix}.xz",
    b"PAR1": "is a Parquet file. Name it NAME.parquet",
    b"PK\x03\x04": "is a ZIP archive or a spreadsheet. Unpack it, or save it as CSV",
    b"\xff\xfe": "is UTF-16 text. Save it as UTF-8",
    b"\xfe\xff": "is UTF-16 text. Save it as UTF-8",
}


def inner_suffix(path: Path) -> str:
    """The suffix of what a file holds, in small letters: ".jsonl" of pool.jsonl.gz."""
    suffix = path.suffix.lower()
    return Path(path.stem).suffix.lower() if suffix in PACKED else suffix


@contextmanager
def opened(file: Path) -> Iterator[BinaryIO]:
    """The unpacked bytes of a file.

    Raises:
        ValueError: If they are not text, or the file is not packed as its suffix says, is cut off
            or damaged.
    """
    suffix = file.suffix.lower()
    if suffix not in PACKED:
        with file.open("rb") as stream:
            _check_start(stream.peek(8)[:8], file)
            yield stream
        return
    try:
        with _OPENERS[suffix](file) as stream:
            unpacked = io.BufferedReader(cast("io.RawIOBase", stream))
            _check_start(unpacked.peek(8)[:8], file)
            yield unpacked
    except _DAMAGE as error:
        words = " ".join(str(error).split()).rstrip(". ")
        said = "".join(char if char.isprintable() else ascii(char)[1:-1] for char in words)
        raise ValueError(
            f"{file}: it cannot be unpacked: it is no {suffix} file, or cut off or damaged "
            f"({said}). Fetch or pack it again."
        ) from error


def _check_start(start: bytes, file: Path) -> None:
    for mark, what in _STARTS.items():
        if start.startswith(mark):
            raise ValueError(f"{file}: this {what.format(suffix=inner_suffix(file))}.")
