"""The page's sample explorer: every sample's numbers, and the text of some, in one HTML section.

The section is data, a style and a script; the page inlines the three and names the hashes of the
last two in its policy. Data travels as base64, which no text can break out of, and reaches the
page as text nodes only.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain, cycle, islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from seal.artifacts.ranking import Ranking
from seal.data.sample import Message, Sample, transcript
from seal.rankers.ranker import Ranker
from seal.stages.report_page.findings import Anchor, Duplicates, Evidence
from seal.stages.report_page.packing import Listing, Packed, deflated, id_of, pack, short_name
from seal.stages.report_page.visible import plain_json, shortened, visible
from seal.stages.report_page.why import Why, numeric_columns

_PAGE_BYTES = 2_080_000  # of the page, for all data of the explorer
_NUMBER_BYTES = 1_650_000  # at most, of these, for the numbers of all samples
_BYTES_PER_TEXT = 1500  # packed, about; decides how many are chosen, not how many fit
_FEW = 50_000  # samples, whose numbers leave room for more texts
_TEXT_LENGTH = 2000  # characters of a prompt or a response
_SERVED_LENGTH = 200_000
_SHARES = {"bottom": 3, "top": 2, "cut": 3, "draw": 5}  # of the chosen texts
_NUM_SOURCES = 30  # that are drawn from one by one
_MOST_FOUND = 100_000
_HERE = Path(__file__).parent


@dataclass(frozen=True, slots=True, eq=False)
class ExplorerData:
    """All that the explorer shows.

    Attributes:
        ranker: The method's name in a config.
        ranking: Of the pool.
        kept: The selected ids.
        samples: Id -> sample, the whole pool.
        labels: Id -> label, where there is one.
        unsafe_labels: Which of the labels count as unsafe.
        chosen: Whose text the page carries, the most important first.
        evidence: Id -> what was found out, of some of them.
        ranker_class: Words the ranking's columns; None words none.
        table: File in which a reader finds all samples, whatever the page leaves out.
    """

    ranker: str
    ranking: Ranking
    kept: frozenset[str]
    samples: Mapping[str, Sample]
    labels: Mapping[str, str] = field(default_factory=dict)
    unsafe_labels: frozenset[str] = frozenset()
    chosen: Sequence[str] = ()
    evidence: Mapping[str, Evidence] = field(default_factory=dict)
    table: str = "samples.parquet"
    ranker_class: type[Ranker] | None = None


class ExplorerSection(NamedTuple):
    """What a page inlines.

    Attributes:
        html: A `<section>`.
        style: The content of a `<style>`.
        script: The content of a `<script>`, to be run after the section is there.
    """

    html: Markup
    style: str
    script: str


def explorer_section(data: ExplorerData) -> ExplorerSection:
    """The explorer of a pool, of about 2.2 MB at most whatever the pool's size."""
    best_first = data.ranking.best_first()
    place_of = {key: place for place, key in enumerate(best_first)}
    shown = [place_of[key] for key in data.chosen]
    packed = pack(_listing(data, best_first), shown, _NUMBER_BYTES)
    room = _PAGE_BYTES - len(packed.text)
    chosen, texts = _fitting(_Entries(data, _TEXT_LENGTH), data.chosen, room)
    listed = {place: row for row, place in enumerate(packed.places.tolist())}
    notes = {
        "rows": [listed[place_of[key]] for key in chosen],
        "numPool": len(best_first),
        "every": packed.every,
        "digits": packed.digits,
        "unsafe": [short_name(name) for name in sorted(data.unsafe_labels)],
    }
    environment = Environment(
        loader=FileSystemLoader(_HERE), autoescape=True, undefined=StrictUndefined,
        trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    html = environment.get_template("explorer.html.j2").render(
        notes=deflated(_json(notes), is_text=True),
        numbers=packed.text,
        texts=texts,
        sentences=_sentences(data, packed, len(chosen)),
    )
    scripts = [_read("explorer_data.js"), _read("explorer_detail.js"), _read("explorer.js")]
    # One scope of its own: nothing that it names meets what the page names.
    script = "(() => {\n" + "\n".join(scripts) + "\n})();\n"
    return ExplorerSection(Markup(html), _read("explorer.css"), script)


class SampleTexts:
    """The text of every sample of a pool, and what is known about it; for a page that asks."""

    def __init__(self, data: ExplorerData) -> None:
        """Of all samples."""
        self._data = data
        self._entries = _Entries(data, _SERVED_LENGTH)

    def text(self, name: str) -> dict[str, Any] | None:
        """What the page shows of a sample; None if there is no such one.

        Args:
            name: Its id, or as many of its first digits as no other has.
        """
        key = id_of(name, self._data.ranking.ids) if name else None
        return None if key is None else self._entries.of(key)

    def search(self, query: str) -> list[str]:
        """Ids of the samples whose prompt or completion has the query in it, in any case."""
        wanted = query.casefold()
        found = (
            key
            for key in self._data.ranking.ids
            if any(wanted in turn.content.casefold() for turn in self._data.samples[key].messages)
        )
        return list(islice(found, _MOST_FOUND))


def choose_texts(
    ranking: Ranking,
    kept: frozenset[str],
    sources: Mapping[str, str],
    budget_bytes: int | None = None,
) -> tuple[str, ...]:
    """Whose text a page carries: both ends, both sides of the cut, and a draw of the rest.

    The draw takes turns through all pairs of a source and a tenth of the ranking. Nothing depends
    on the order of a file.

    Args:
        ranking: Of the pool.
        kept: The selected ids.
        sources: Id -> source.
        budget_bytes: What all of them may take, at about 1,500 bytes each; None takes what the
            numbers of so large a pool leave.

    Returns:
        Ids, the most important first.
    """
    best_first = ranking.best_first()
    queues = {
        "bottom": iter(reversed(best_first)),
        "top": iter(best_first),
        "cut": _around_the_cut(best_first, kept),
        "draw": _drawn(best_first, sources),
    }
    if budget_bytes is None:
        budget_bytes = 1_200_000 if len(best_first) < _FEW else _PAGE_BYTES - _NUMBER_BYTES
    wanted = min(len(best_first), max(1, budget_bytes // _BYTES_PER_TEXT))
    chosen: dict[str, None] = {}
    for name in cycle(chain.from_iterable([name] * share for name, share in _SHARES.items())):
        if len(chosen) == wanted:
            break
        key = next((key for key in queues[name] if key not in chosen), None)
        if key is not None:
            chosen[key] = None
    return tuple(chosen)


def _around_the_cut(best_first: Sequence[str], kept: frozenset[str]) -> Iterator[str]:
    """The worst kept and the best dropped, then the next worst kept, and so on."""
    inside = [key for key in reversed(best_first) if key in kept]
    outside = [key for key in best_first if key not in kept]
    for pair in zip(inside, outside, strict=False):
        yield from pair


def _drawn(best_first: Sequence[str], sources: Mapping[str, str]) -> Iterator[str]:
    """One of every stratum, then the next of every stratum, until all are drawn."""
    common = {name for name, _ in Counter(sources.values()).most_common(_NUM_SOURCES)}
    strata: dict[tuple[str, int], list[str]] = {}
    for place, key in enumerate(best_first):
        source = sources.get(key, "")
        stratum = (source if source in common else "", 10 * place // len(best_first))
        strata.setdefault(stratum, []).append(key)
    draws = [sorted(keys, key=_draw_key) for _, keys in sorted(strata.items())]
    draws.sort(key=lambda keys: _draw_key(keys[0]))
    for turn in range(max(map(len, draws))):
        yield from (keys[turn] for keys in draws if turn < len(keys))


def _draw_key(key: str) -> bytes:
    return hashlib.sha256(f"explorer:{key}".encode()).digest()


class _Entries:
    """What the page's detail view is given of a sample, as JSON."""

    def __init__(self, data: ExplorerData, length: int) -> None:
        self._data = data
        self._length = length
        self._why = Why(data.ranker, data.ranker_class, data.ranking)
        self._columns = numeric_columns(data.ranking)
        self._places = {key: place for place, key in enumerate(data.ranking.ids)}

    def of(self, key: str) -> dict[str, Any]:
        sample, place = self._data.samples[key], self._places[key]
        found = self._data.evidence.get(key, Evidence())
        columns = {name: float(column[place]) for name, column in self._columns.items()}
        return plain_json(
            {
                "id": key,
                "score": float(self._data.ranking.scores[place]),
                "columns": list(columns.items()),
                "prompt": self._turns(sample.prompt, "user"),
                "response": self._turns(sample.completion, "assistant"),
                "why": self._why.sentences(key),
                "visits": _visits(columns),
                "heats": [
                    {"words": heat.words, "pieces": heat.pieces, "more": heat.num_more}
                    for heat in found.heats
                ],
                "anchors": [_anchor(anchor) for anchor in found.anchors],
                "guard": found.guard,
                "duplicates": _duplicates(found.duplicates),
            }
        )

    def _turns(self, turns: Sequence[Message], role: str) -> dict[str, Any]:
        text, num_more = shortened(transcript(turns, usual=role), self._length)
        return {"text": text, "more": num_more}


def _anchor(anchor: Anchor) -> dict[str, Any]:
    """An anchor as the page reads it."""
    return {
        "kind": anchor.kind,
        "id": anchor.id,
        "cosine": anchor.cosine,
        "median": anchor.median,
        "text": anchor.text,
    }


def _duplicates(found: Duplicates | None) -> dict[str, Any] | None:
    if found is None:
        return None
    return {
        "exact": found.exact,
        "moreExact": found.num_exact - len(found.exact),
        "near": sorted(found.near.items(), key=lambda pair: (-pair[1], pair[0])),
        "moreNear": found.num_near - len(found.near),
        "compared": found.num_compared,
        "least": found.least,
    }


def _visits(columns: Mapping[str, float]) -> list[tuple[str, float]]:
    """Losses of one sample in the order in which they were measured, where a ranker tells them."""
    names = {"first_loss": "at its first visit", "last_loss": "at the final parameters"}
    if not all(name in columns for name in names):
        return []
    return [(words, columns[name]) for name, words in names.items()]


def _fitting(entries: _Entries, chosen: Sequence[str], room: int) -> tuple[list[str], str]:
    """As many of the chosen as fit into the page, from the first on, and their packed texts."""
    fitting = list(chosen)
    found = [entries.of(key) for key in fitting]
    while True:
        text = deflated(_json(found[: len(fitting)]), is_text=True)
        if len(text) <= room or not fitting:
            return fitting, text
        del fitting[int(len(fitting) * 0.98 * room / len(text)) :]


def _listing(data: ExplorerData, best_first: Sequence[str]) -> Listing:
    order = np.argsort(data.ranking.ranks)
    return Listing(
        ids=best_first,
        scores=data.ranking.scores[order],
        kept=np.array([key in data.kept for key in best_first], dtype=bool),
        sources=[data.samples[key].source for key in best_first],
        labels=[data.labels.get(key) for key in best_first],
        columns={name: column[order] for name, column in numeric_columns(data.ranking).items()},
    )


def _sentences(data: ExplorerData, packed: Packed, num_texts: int) -> list[str]:
    """What the list holds, and what it leaves out."""
    num, table = len(data.ranking.ids), visible(data.table)
    if packed.every == 1:
        first = f"All {num:,} samples of the pool with their numbers."
    else:
        first = (
            f"This page lists {len(packed.places):,} of the {num:,} samples: one in {packed.every} "
            f"of the ranking, and all whose text it carries. {table} has all of them."
        )
    sentences = [
        first,
        f"The page carries the text of {num_texts:,}: both ends of the ranking, both sides of the "
        "cut, and a draw from every source and tenth of the ranking.",
    ]
    if not packed.has_columns:
        sentences.append(
            "The ranker's own columns are left out for want of space, but for these samples; "
            f"{table} has them."
        )
    elif packed.digits < 5 and num_texts < num:
        sentences.append(
            f"For the others the ranker's columns are rounded to about {packed.digits} digits."
        )
    return sentences


def _json(value: Any) -> bytes:  # noqa: ANN401 - any JSON
    text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return text.encode("utf-8")


def _read(name: str) -> str:
    return (_HERE / name).read_text(encoding="utf-8")
