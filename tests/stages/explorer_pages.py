"""Explorers and a bare page around them, the subjects of the tests of the explorer."""

from __future__ import annotations

import base64
import hashlib
from pathlib import Path

import numpy as np

from seal.artifacts.ranking import make_ranking
from seal.data.sample import Message, Sample, content_id
from seal.stages import report_page
from seal.stages.report_page.explorer import ExplorerData, choose_texts, explorer_section


def make_data(num=60, ranker="two_sided", texts=None, **changes):
    """A pool whose i-th worst sample asks question i; the upper 80 % are kept."""
    samples = [
        make_sample(f"question {place} about the sea", f"answer {place}: the sea is blue", place)
        for place in range(num)
    ]
    ids = tuple(sample.id for sample in samples)
    columns = {
        "prompt": np.linspace(3, -3, num),
        "response": np.where(np.arange(num) % 2, 2.0, -2.0),
        "loss": np.arange(num) % 7 + 0.5,
    }
    values = {
        "ranker": ranker,
        "ranking": make_ranking(ids, np.arange(num) / 10 - 1, columns),
        "kept": frozenset(ids[num // 5 :]),
        "samples": {sample.id: sample for sample in samples},
        "labels": {key: "bad" if place < num // 5 else "good" for place, key in enumerate(ids)},
        "unsafe_labels": frozenset({"bad"}),
    }
    values |= changes
    data = ExplorerData(**values)
    if "chosen" in changes:
        return data
    sources = {key: sample.source for key, sample in data.samples.items()}
    chosen = choose_texts(data.ranking, data.kept, sources, 1500 * (texts or num))
    return ExplorerData(**values, chosen=chosen)


def make_sample(prompt, response, place=0):
    turns = (Message("user", prompt),), (Message("assistant", response),)
    return Sample(content_id(*turns), *turns, ("web", "book", "")[place % 3])


def large_data(num, columns=6):
    """A pool of random numbers; few of its samples differ in text, to be made quickly."""
    rng = np.random.default_rng(0)
    digits = rng.bytes(8 * num).hex()
    ids = tuple(digits[16 * place : 16 * place + 16] for place in range(num))
    turn = (Message("user", "How do I tie a knot? " * 30),), (Message("assistant", "So. " * 300),)
    sources = [f"source {place}" for place in rng.integers(0, 5, num)]
    return make_data(
        1,
        ranking=make_ranking(
            ids, rng.normal(size=num), {f"c{n}": rng.normal(size=num) for n in range(columns)}
        ),
        samples={key: Sample(key, *turn, source) for key, source in zip(ids, sources, strict=True)},
        kept=frozenset(ids[: 4 * num // 5]),
        labels=dict(zip(ids, rng.choice(["bad", "good"], num).tolist(), strict=True)),
        texts=400,
    )


def page_of(data, folder: Path) -> Path:
    """A page with nothing but the explorer, under the policy of a report."""
    section = explorer_section(data)
    style = (Path(report_page.__file__).parent / "page.css").read_text("utf-8") + section.style
    policy = (
        f"default-src 'none'; script-src 'sha256-{digest(section.script)}'; "
        f"style-src 'sha256-{digest(style)}'; base-uri 'none'; form-action 'none'"
    )
    page = folder / "index.html"
    page.write_text(
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>Explorer</title>\n<style>{style}</style>\n</head>\n<body>\n"
        f"<main>\n{section.html}\n</main>\n<script>{section.script}</script>\n</body>\n</html>\n",
        encoding="utf-8",
    )
    return page


def digest(text):
    return base64.b64encode(hashlib.sha256(text.encode("utf-8")).digest()).decode("ascii")
