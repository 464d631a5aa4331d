"""Packed files: the same rows, at the same lines, and no half of a file taken for the whole."""

import bz2
import gzip
import json
import lzma
import re

import pyarrow as pa
import pytest

from seal.data.readers import read_rows


def zstd(content):
    return pa.Codec("zstd").compress(content, asbytes=True)


PACK = {".gz": gzip.compress, ".zst": zstd, ".bz2": bz2.compress, ".xz": lzma.compress}
TEXTS = {
    "x.jsonl": b'\xef\xbb\xbf{"a": 1}\r\n\n{"a": \n{"a": 3}\n',
    "x.json": b'[{"a": 1}, 2, {"a": 3}]',
    "x.csv": b'\xef\xbb\xbfa,b\n1,"x\ny"\n\n3\n',
}


def rows(path):
    return [
        (raw.where.removeprefix(str(path)), raw.row, raw.reason) for raw in read_rows(str(path))
    ]


@pytest.mark.parametrize("suffix", PACK)
@pytest.mark.parametrize("name", TEXTS)
def test_packed_rows_are_the_rows_at_their_lines(tmp_path, name, suffix):
    plain, packed = tmp_path / name, tmp_path / f"{name.upper()}{suffix}"
    plain.write_bytes(TEXTS[name])
    half = len(TEXTS[name]) // 2  # two members, as parallel packers write
    pack = PACK[suffix]
    packed.write_bytes(pack(TEXTS[name][:half]) + pack(TEXTS[name][half:]))
    assert rows(packed) == rows(plain)
    assert len(rows(plain)) > 1


DAMAGE = [(suffix, damage) for suffix in PACK for damage in ("cut", "plain", "changed")]
DAMAGE.remove((".zst", "changed"))  # Arrow packs without the checksum that the program zstd writes


@pytest.mark.parametrize(("suffix", "damage"), DAMAGE)
def test_damage_is_never_the_end_of_the_file(tmp_path, suffix, damage):
    text = b"".join(json.dumps({"a": number**3}).encode() + b"\n" for number in range(5000))
    whole = PACK[suffix](text)
    half = len(whole) // 2
    changed = whole[:half] + bytes(byte ^ 0xFF for byte in whole[half : half + 40])
    content = {
        "cut": whole[: half + half // 2],
        "plain": text,
        "changed": changed + whole[half + 40 :],
    }
    path = tmp_path / f"x.jsonl{suffix}"
    path.write_bytes(content[damage])
    said = re.escape(
        f"{path}: it cannot be unpacked: it is no {suffix} file, or cut off or damaged"
    )
    with pytest.raises(ValueError, match=said):
        list(read_rows(str(path)))


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (gzip.compress(b"{}", mtime=0), "this is packed with gzip. Name it NAME.jsonl.gz."),
        (zstd(b"{}"), "this is packed with zstd. Name it NAME.jsonl.zst."),
        (bz2.compress(b"{}"), "this is packed with bzip2. Name it NAME.jsonl.bz2."),
        (lzma.compress(b"{}"), "this is packed with xz. Name it NAME.jsonl.xz."),
        (b"PAR1....", "this is a Parquet file. Name it NAME.parquet."),
        (b"PK\x03\x04..", "this is a ZIP archive or a spreadsheet. Unpack it, or save it as CSV."),
        ("{}".encode("utf-16"), "this is UTF-16 text. Save it as UTF-8."),
    ],
    ids=["gzip", "zstd", "bzip2", "xz", "parquet", "zip", "utf-16"],
)
def test_a_wrong_name_is_told_with_the_right_one(tmp_path, content, said):
    path = tmp_path / "x.jsonl"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=re.escape(f"{path}: {said}")):
        list(read_rows(str(path)))


@pytest.mark.parametrize("name", ["x.parquet.gz", "x.gz", "x.tar.gz"])
def test_what_is_packed_must_be_text(tmp_path, name):
    (tmp_path / name).write_bytes(gzip.compress(b"x"))
    kind = name.removeprefix("x")
    with pytest.raises(
        ValueError, match=re.escape(f"unknown kind of file '{kind}'. Known: .jsonl")
    ):
        read_rows(str(tmp_path / name))
