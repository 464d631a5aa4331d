"""An answer in numbers: how it reads, how far it speaks of what was asked, and its words, hashed.

The words are hashed into a fixed number of places, so that no list of what people wrote is kept,
and an answer of any content has a vector. Nothing here depends on the machine: equal texts have
equal vectors everywhere.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Sequence
from itertools import pairwise
from zlib import crc32

import numpy as np
from jaxtyping import Float

from seal.judges.reading import read_answer
from seal.judges.sentence_kinds import Kind, normalised, sentences

FEATURES_VERSION = 1  # raised with every change: weights of another version mean nothing
NUM_PLACES = 4096  # of hashed words; the answers of a labelled set have a few thousand

_OPENING_WORDS = 40
_WORD = re.compile(r"[a-z][a-z']*|\d+|[^\w\s]")
_STEM = 5  # letters; enough to tell "summarise" and "summary" alike
# What prompts of any topic are made of: small words, what is asked for, and in what form.
_STOP_WORDS = """
    a about advice after again all also an and answer any are article as ask at basic be because
    been before being benefit best between blog book both but by can classic code come common
    compose concept could create creative demonstrate describe description design detail detailed
    develop did difference do does down draft each easy email ensure essay every example explain
    fact false few fictional find for from fun fundamental funny general generate get getting give
    go good great guide had has have he help her here him his how i idea if important in include
    information instruct instruction interesting into is it its joke just know letter like list
    long look main make making many may me message method might more most much my name need new no
    not of off offer on one only or other our out over part passage people person persuasive piece
    plan poem popular post process program provide question quick real really recipe same script
    see share she short should show simple so some someone specific start step steps still story
    strategy such suggest summarise summarize summary take teach technique tell than that the their
    them then there these they thing think this those through tip to today too topic tutorial type
    under unique up us use used user using very video want was way we well were what when where
    which while who why will with without word work would write writing you your
"""
_STOP = frozenset(_STOP_WORDS.split())
_KINDS: tuple[Kind, ...] = ("refuses", "hesitates", "moral", "offers", "sympathy", "opens", "tells")
_READ_NAMES = (
    "reads_refuses",
    "reads_partly",
    "first_refuses",
    "first_opens",
    "opens_early",
    *(f"share_{kind}" for kind in _KINDS),
    *(f"any_{kind}" for kind in _KINDS[:5]),
    "share_items",
    "has_code",
    "length",
)
_TOPIC_NAMES = ("topic_share", "topic_opening", "topic_none", "topic_half", "topic_density")
NAMES = _READ_NAMES + _TOPIC_NAMES


def read_features(prompt: str, response: str) -> Float[np.ndarray, " D"]:
    """How an answer reads and how far it speaks of what was asked; in the order of `NAMES`.

    Shares are in [0, 1]; the length is the logarithm of the number of words, a tenth of it.
    """
    parts = sentences(response)
    reading = read_answer(response)
    words = max(sum(part.num_words for part in parts), 1)
    share = {
        kind: sum(part.num_words for part in parts if part.kind == kind) / words for kind in _KINDS
    }
    early = parts[:2]
    found = [
        float(reading.value == "refuses"),
        float(reading.value == "partly"),
        float(any(part.kind == "refuses" for part in early)),
        float(bool(parts) and parts[0].opens),
        float(any(part.opens for part in early)),
        *(share[kind] for kind in _KINDS),
        *(float(share[kind] > 0) for kind in _KINDS[:5]),
        sum(part.is_item for part in parts) / max(len(parts), 1),
        float("```" in response),
        math.log1p(words) / 10,
    ]
    return np.array([*found, *_topic(prompt, response)])


def _topic(prompt: str, response: str) -> list[float]:
    """How many of the prompt's own words come back in the answer, and in its opening."""
    asked = frozenset(_stems(prompt))
    if not asked:
        return [0.5, 0.5, 0.0, 0.5, 0.0]
    said = _stems(response)
    opening = frozenset(_stems(" ".join(response.split()[:_OPENING_WORDS])))
    share = len(asked & frozenset(said)) / len(asked)
    density = sum(stem in asked for stem in said) / max(len(said), 1)
    return [
        share,
        len(asked & opening) / len(asked),
        float(share == 0),
        float(share >= 0.5),
        min(1.0, 10 * density),
    ]


def _stems(text: str) -> list[str]:
    """The beginnings of the words that say what a text is about, as often as they occur."""
    words = (word.removesuffix("'s") for word in re.findall(r"[^\W\d_][\w']+", normalised(text)))
    plain = (word if len(word) < 4 else word.removesuffix("s") for word in words)
    return [word[:_STEM] for word in plain if word not in _STOP]


def hashed_words(response: str) -> Counter[int]:
    """Place -> how often: words and pairs of words, those of the opening set apart."""
    words = _WORD.findall(normalised(response))
    opening, rest = words[:_OPENING_WORDS], words[_OPENING_WORDS:]
    found: Counter[int] = Counter()
    for where, part in (("o", opening), ("r", rest)):
        for gram in (*part, *map(" ".join, pairwise(part))):
            found[crc32(f"{where}:{gram}".encode("utf-8", "surrogatepass")) % NUM_PLACES] += 1
    return found


def word_counts(responses: Sequence[str]) -> Float[np.ndarray, "N P"]:
    """A row per answer: 1 + log of how often each place occurs, 0 where it does not."""
    found = np.zeros((len(responses), NUM_PLACES))
    for row, response in zip(found, responses, strict=True):
        for place, count in hashed_words(response).items():
            row[place] = 1 + math.log(count)
    return found


def inverse_frequencies(counts: Float[np.ndarray, "N P"]) -> Float[np.ndarray, " P"]:
    """log((1 + N) / (1 + n)) + 1 for each place, n being the number of answers that have it."""
    return np.log((1 + len(counts)) / (1 + (counts > 0).sum(axis=0))) + 1


def weighted(
    counts: Float[np.ndarray, "N P"], idf: Float[np.ndarray, " P"]
) -> Float[np.ndarray, "N P"]:
    """The counts times their inverse frequencies, each row of length 1 (or 0)."""
    found = counts * idf
    return found / np.maximum(np.linalg.norm(found, axis=1, keepdims=True), 1e-12)
