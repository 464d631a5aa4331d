"""The items of one array in a JSON file, read piece by piece: a file may be larger than memory."""

from __future__ import annotations

import codecs
import json
from collections.abc import Iterator
from typing import Any, BinaryIO

from seal.data.strict_json import StrictDecoder, skip_blanks

_PIECE = 2**20  # bytes that are read at a time
_BOM = b"\xef\xbb\xbf"
# A value that is cut off fails this near to the cut, unless it fails inside a string.
_CUT = 16


class JsonArray:
    """The items of the array that a stream holds.

    Attributes:
        line: Of the first character that is still held, counted from 1.
        column: Likewise.
    """

    def __init__(self, stream: BinaryIO, piece: int = _PIECE) -> None:
        """Nothing is read yet.

        Args:
            stream: The file's bytes.
            piece: How many are read at a time, at least.
        """
        self.line = self.column = 1
        self._stream = stream
        self._piece = piece
        self._utf8 = codecs.getincrementaldecoder("utf-8")()
        self._num_bytes = 0
        self._text = ""
        self._place = 0
        self._is_whole = False
        self._decoder = StrictDecoder()

    def items(self) -> Iterator[tuple[Any, int, str]]:
        """Each item, its length in characters, and what is wrong with it or "".

        Raises:
            json.JSONDecodeError: If it is not one array; `lineno` and `colno` are the file's.
            ValueError: If it is not UTF-8, with the line.
        """
        self._expect("[", "Expecting '['")
        is_more = self._next() != "]"
        while is_more:
            yield self._item()
            following = self._next()
            if following not in ("]", ","):
                raise self._error("Expecting ',' or ']'", self._place)
            is_more = following == ","
            if is_more:
                self._place += 1
                if self._next() == "]":
                    raise self._error("Illegal trailing comma before end of array", self._place)
        self._place += 1
        if self._next():
            raise self._error("Extra data", self._place)

    def first(self) -> str:
        """The file's first character that is no blank; "" if there is none."""
        return self._next()

    def _expect(self, character: str, what: str) -> None:
        if self._next() != character:
            raise self._error(what, self._place)
        self._place += 1

    def _next(self) -> str:
        """The next character that is no blank; "" at the end."""
        while True:
            self._place = skip_blanks(self._text, self._place)
            if self._place < len(self._text):
                return self._text[self._place]
            if self._is_whole:
                return ""
            self._read(self._piece)

    def _item(self) -> tuple[Any, int, str]:
        wanted = self._piece
        while True:
            start = self._place
            try:
                value, end, problem = self._decoder.decode_at(self._text, start)
            except json.JSONDecodeError as error:
                if self._is_whole or not self._may_be_cut(error):
                    raise self._error(error.msg, error.pos) from error
            else:
                # A number this near to the cut may go on: "1" of "1.5", or of "1e-3".
                if end < len(self._text) - _CUT or self._is_whole:
                    self._place = end
                    return value, end - start, problem
            self._read(wanted)
            wanted *= 2  # so that a long item is not decoded anew for every piece of it

    def _may_be_cut(self, error: json.JSONDecodeError) -> bool:
        in_string = error.msg.startswith("Unterminated string")
        return in_string or error.pos >= len(self._text) - _CUT

    def _read(self, num_bytes: int) -> None:
        """Let go of what is behind, and hold as much more."""
        self._move_to(self._place)
        raw = self._stream.read(num_bytes)
        self._is_whole = not raw
        if not self._num_bytes:
            raw = raw.removeprefix(_BOM)
        held = len(self._utf8.getstate()[0])
        try:
            self._text += self._utf8.decode(raw, final=self._is_whole)
        except UnicodeDecodeError as error:
            content = bytes(error.object)
            line = self.line + self._text.count("\n") + content.count(b"\n", 0, error.start)
            place = self._num_bytes - held + error.start + 1
            raise NotUtf8Error(line, content[error.start], place) from error
        self._num_bytes += len(raw)

    def _move_to(self, place: int) -> None:
        self.line, self.column = self._position(place)
        self._text, self._place = self._text[place:], 0

    def _position(self, place: int) -> tuple[int, int]:
        """Line and column of a character that is held."""
        num_lines = self._text.count("\n", 0, place)
        if not num_lines:
            return self.line, self.column + place
        return self.line + num_lines, place - self._text.rfind("\n", 0, place)

    def _error(self, message: str, place: int) -> json.JSONDecodeError:
        line, column = self._position(place)
        error = json.JSONDecodeError(message, self._text, place)
        error.lineno, error.colno = line, column
        return error


class NotUtf8Error(ValueError):
    """A byte that is not UTF-8."""

    def __init__(self, line: int, byte: int, place: int) -> None:
        """Where it is.

        Args:
            line: Counted from 1.
            byte: Its value.
            place: In the file, counted from 1, a byte order mark left out.
        """
        self.line = line
        self.byte = byte
        self.place = place
