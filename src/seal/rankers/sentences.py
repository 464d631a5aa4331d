"""Sentences of a text as bags of hashed words: what is said, wherever in the text it stands.

The hidden states of a small model know how far into the prompt they are and what came before; a
harmful request behind a page of harmless text looks harmless to them. A bag of words per sentence
does not.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from functools import lru_cache
from itertools import pairwise

import numpy as np
import scipy.sparse as sp

NUM_BUCKETS = 2**18
SHORTEST, LONGEST = 4, 32  # words; shorter sentences join the next, longer ones are cut

# Chinese and Japanese write no blanks: there a character is a word.
_WORD = re.compile(r"[\u3040-\u30ff\u3400-\u9fff]|[^\W\u3040-\u30ff\u3400-\u9fff]+|[^\w\s]")
_BREAK = re.compile(r"(?<=[.!?:;\u3002\uff01\uff1f])\s*(?=\S)|\n+")


def sentences(text: str) -> list[list[str]]:
    """The lower-cased words of each sentence; at least one sentence, which may be empty."""
    found: list[list[str]] = []
    current: list[str] = []
    for part in _BREAK.split(text.lower()):
        current = current + _WORD.findall(part)
        while len(current) > LONGEST:
            found.append(current[:LONGEST])
            current = current[LONGEST:]
        if len(current) >= SHORTEST:
            found.append(current)
            current = []
    if current and len(current) < SHORTEST and found:
        found[-1] = found[-1] + current
    elif current or not found:
        found.append(current)
    return found


def word_bags(parts: Sequence[Sequence[str]]) -> sp.csr_matrix:
    """Unigrams and bigrams of each part, hashed; fp32 [parts, NUM_BUCKETS], rows of length 1."""
    rows, columns, values = [], [], []
    for row, words in enumerate(parts):
        grams = {*words, *(f"{a} {b}" for a, b in pairwise(words))}
        rows += [row] * len(grams)
        columns += [_bucket(gram) for gram in sorted(grams)]
        values += [1 / max(1, len(grams)) ** 0.5] * len(grams)
    shape = (len(parts), NUM_BUCKETS)
    return sp.csr_matrix((np.array(values, dtype=np.float32), (rows, columns)), shape)


@lru_cache(maxsize=2**20)
def _bucket(gram: str) -> int:
    digest = hashlib.sha256(gram.encode("utf-8", "surrogatepass")).digest()
    return int.from_bytes(digest[:4], "big") % NUM_BUCKETS
