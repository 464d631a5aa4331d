"""An array read piece by piece gives what `json.loads` gives, wherever the pieces end."""

import io
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from seal.data.json_array import JsonArray, NotUtf8Error

TEXT = st.text('aé\u2028"\\{[,\U0001f9ad1', max_size=4)
NUMBERS = st.integers() | st.floats(allow_nan=False, allow_infinity=False)
SCALARS = st.none() | st.booleans() | NUMBERS | TEXT
VALUES = SCALARS | st.lists(SCALARS, max_size=3) | st.dictionaries(TEXT, SCALARS, max_size=3)


def items(content: bytes, piece: int) -> list[object]:
    return [value for value, _, _ in JsonArray(io.BytesIO(content), piece).items()]


@given(st.lists(VALUES, max_size=6), st.integers(1, 40), st.booleans(), st.sampled_from([None, 1]))
def test_any_array_in_any_pieces(values, piece, ascii_only, indent):
    text = json.dumps(values, ensure_ascii=ascii_only, indent=indent)
    content = b"\xef\xbb\xbf" + text.encode()
    assert items(content, max(piece, 3)) == values


BROKEN = [
    b'[{"a": 1},\n{"a": ]', b'[{"a": 1}\n {"a": 2}]', b'[{"a": 1}', b"[]\n[]", b"", b"[1, 2",
    b'[1,\n\n  "never closed]', b"[tru]", b"[1 2]", b'["\\q"]', b'["\\u12"]', b"[-]", b"[1.]",
]  # fmt: skip


@pytest.mark.parametrize("content", BROKEN)
@pytest.mark.parametrize("piece", [3, 7, 1000])
def test_mistakes_have_the_same_place_in_any_pieces(content, piece):
    with pytest.raises(json.JSONDecodeError) as caught:
        items(content, piece)
    with pytest.raises(json.JSONDecodeError) as expected:
        json.loads(content)
    found, wanted = caught.value, expected.value
    assert (found.lineno, found.colno) == (wanted.lineno, wanted.colno)


@pytest.mark.parametrize("piece", [3, 5, 1000])
def test_bytes_that_are_not_utf8_are_found_at_their_place(piece):
    with pytest.raises(NotUtf8Error) as caught:
        items(b'["a",\n"\xc3\xa9", "caf\xe9"]', piece)
    assert (caught.value.line, caught.value.byte, caught.value.place) == (2, 0xE9, 17)


class Endless(io.RawIOBase):
    """More of an array than fits into memory; it counts what was read."""

    def __init__(self, start: bytes, again: bytes) -> None:
        self.start, self.again, self.num_read = start, again, 0

    def read(self, size=-1):
        content = self.start or self.again * (size // len(self.again) + 1)
        self.start = b""
        self.num_read += len(content)
        return content


def test_only_a_piece_is_held():
    stream = Endless(b"[", b'{"a": "some words"}, ')
    array = JsonArray(stream, piece=4096)
    found = array.items()
    for _ in range(2000):
        next(found)
    assert stream.num_read < 2000 * 21 + 3 * 4096


def test_a_mistake_is_told_without_reading_on():
    stream = Endless(b'[{"a": 1}, {"a" 2}, ', b'{"a": 1}, ')
    with pytest.raises(json.JSONDecodeError, match="Expecting ':'"):
        list(JsonArray(stream, piece=4096).items())
    assert stream.num_read < 10 * 4096
