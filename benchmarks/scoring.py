"""One-pass scoring beside a loop that does nothing but score."""

from __future__ import annotations

import time
from functools import partial

from benchmarks.loops import SCORING_ROWS, bare_scoring
from benchmarks.table import Bar, Line
from benchmarks.timing import ratio, take_turns
from benchmarks.with_seal import encode, language, score
from benchmarks.workload import SIZES, make_model, make_rows, make_tokenizer

_BATCHES = 3


def against_bare_loop(size: str, seconds: float) -> list[Line]:
    """`Tables.losses` and a bare loop over the same rows, the longest first, 16 at a time."""
    chosen = SIZES[size]
    model = make_model(chosen)
    lm = language(model, make_tokenizer(chosen.config.vocab_size))
    rows = make_rows(chosen, "pool", _BATCHES * SCORING_ROWS, seed=0)
    encoded = encode(rows)
    turns = {
        "bare": partial(_seconds, partial(bare_scoring, model, rows)),
        "seal": partial(_seconds, partial(score, lm, encoded)),
    }
    times = take_turns(turns, seconds)
    speed = ratio(times["bare"], times["seal"])
    return [
        Line("scoring", "one-pass scoring's speed / bare loop's", speed, Bar(0.9, at_most=False))
    ]


def _seconds(work: partial) -> list[float]:
    start = time.process_time()
    work()
    return [time.process_time() - start]
