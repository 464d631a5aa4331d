"""What is cut off, what is two in one, and what was changed."""

import hashlib
import json
from contextlib import suppress
from pathlib import Path

import pytest

from seal.artifacts.checked_lines import checked_line, checked_records

# Texts that look like the ends and beginnings of lines.
TRICKY = [
    'a "}',
    ', "checksum": "0123456789abcdef"}',
    '{"key": "k", "response": "r"}',
    "\ud800\n\\",
]
RECORDS = [{"key": f"k{place}", "response": text} for place, text in enumerate(TRICKY)]
LINES = [checked_line(record).encode() for record in RECORDS]
PATH = Path("x.jsonl")


def read(content):
    return [record for _, record in checked_records(PATH, content)]


def test_the_checksum_is_of_all_that_stands_before_it():
    line = checked_line({"key": "k", "response": "é"})
    body = '{"key": "k", "response": "\\u00e9"}'
    digest = hashlib.sha256(body.encode()).hexdigest()[:16]
    assert line == f'{body[:-1]}, "checksum": "{digest}"}}\n'
    assert json.loads(line)["checksum"] == digest


def test_what_was_written_is_read_with_its_line():
    found = list(checked_records(PATH, b"".join(LINES)))
    assert found == list(enumerate(RECORDS, start=1))
    assert read(b"\n" + LINES[0] + b"\n\n" + LINES[1]) == RECORDS[:2]
    assert read(b"") == []


@pytest.mark.parametrize("place", range(len(LINES)))
def test_a_line_cut_off_at_any_byte_is_missing_wherever_it_stands(place):
    line = LINES[place][:-1]
    for end in range(1, len(line)):
        assert read(LINES[0] + line[:end]) == RECORDS[:1], line[:end]
        assert read(line[:end] + b"\n" + LINES[1]) == RECORDS[1:2], line[:end]


@pytest.mark.parametrize("place", range(len(LINES)))
def test_two_lines_in_one_are_missing(place):
    line = LINES[place][:-1]
    for end in range(1, len(line)):
        assert read(LINES[0] + line[:end] + LINES[1] + LINES[2]) == [RECORDS[0], RECORDS[2]]


@pytest.mark.parametrize("line", LINES)
@pytest.mark.parametrize("bit", [0x01, 0x04, 0x40])
def test_no_flipped_bit_is_read_and_all_but_those_of_the_checksums_name_are_refused(line, bit):
    whole = line[:-1]
    name = range(len(whole) - len(', "checksum": "0123456789abcdef"}'), len(whole))
    for place in range(len(whole)):
        changed = bytearray(whole)
        changed[place] ^= bit
        content = bytes(changed) + b"\n" + LINES[1]
        if place in name:
            with suppress(ValueError):
                assert read(content) == RECORDS[1:2]
        else:  # with a line break, which makes two lines of one, the second is refused
            number = 2 if 0x0A in changed else 1
            with pytest.raises(ValueError, match=rf"x\.jsonl:{number}: this line was changed"):
                read(content)


def test_without_the_break_between_them_two_lines_are_missing():
    assert read(LINES[0][:-1] + b"\x4a" + LINES[1] + LINES[2]) == RECORDS[2:3]


@pytest.mark.parametrize("line", [b"[]", b"null", b"{}", b'{"score": 1}', b"\xff\xfe", b" "])
def test_what_is_none_of_ours_is_refused(line):
    with pytest.raises(ValueError, match=r"x\.jsonl:2: this line was changed .* Bring the file"):
        read(LINES[0] + line + b"\n" + LINES[1])
