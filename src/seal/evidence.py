"""What a report's page shows of a sample besides its score, computed for the samples it shows."""

from __future__ import annotations

import math
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from seal.data.sample import Sample, content_of
from seal.data.spans import located_rows
from seal.data.tokenize import Encoded, Located
from seal.inputs import Inputs
from seal.judges.judge import Judgement
from seal.models import LanguageModel
from seal.rankers.draws import draw_key, draw_rows
from seal.rankers.ranker import RankingTask
from seal.rankers.representations import cosines, final_states
from seal.stages.report_page.findings import Anchor, Duplicates, Evidence, Heat, Piece
from seal.stages.report_page.visible import shortened
from seal.tables import Tables

NEAR = 0.7  # share of word runs in common from which on two samples count as near duplicates
_RUN = 5  # words
_MOST_COMPARED = 20_000  # samples that near duplicates are looked for among
_MOST_NAMED = 10  # duplicates of a sample that are named
_MOST_ANCHORS = 512  # of each kind
_NUM_NEAREST = 2  # of each kind
_MOST_PIECES = 400  # of a response that is coloured
_ANCHOR_LENGTH = 200  # characters
_BETWEEN_LENGTH = 200  # likewise, of what stands between two answers
_WORD = re.compile(r"\w+")


def gather_evidence(
    inputs: Inputs,
    ids: Sequence[str],
    kept: frozenset[str],
    lm: LanguageModel,
    *,
    tuned: LanguageModel | None = None,
    arm: str = "all",
    judge: str = "",
    judgements: Mapping[str, Judgement] | None = None,
) -> dict[str, Evidence]:
    """Everything about some samples of the pool.

    Args:
        inputs: The experiment's.
        ids: Of the samples.
        kept: The selected ids; near duplicates are looked for among them and `ids`.
        lm: The model before training.
        tuned: The model after training, if there is one.
        arm: What that was trained on.
        judge: The name of who judged.
        judgements: Id -> judgement of some of the samples.
    """
    tables = Tables(inputs.run_dir.tables, inputs.progress)
    encoded = {row.id: row for row in inputs.encoded_pool.encoded}
    rows = [encoded[key] for key in ids]
    samples = {sample.id: sample for sample in inputs.rankable}
    heats = token_heats(lm, tuned, [samples[key] for key in ids], rows, tables, arm=arm)
    harmful = inputs.encoded_harmful
    anchors = {"safe": inputs.trusted, "harmful": harmful.encoded if harmful else ()}
    nearest = nearest_anchors(lm, rows, anchors, inputs.conversations, tables)
    alike = find_duplicates([samples[key] for key in ids], [samples[key] for key in kept], samples)
    judged = judgements or {}
    return {
        key: Evidence(
            (heats[key],),
            nearest[key],
            guard_words(judge, judged[key]) if key in judged else "",
            alike[key],
        )
        for key in ids
    }


def token_heats(
    lm: LanguageModel,
    tuned: LanguageModel | None,
    samples: Sequence[Sample],
    rows: Sequence[Encoded],
    tables: Tables,
    *,
    arm: str = "all",
) -> dict[str, Heat]:
    """Id -> a number for every response token, in nats.

    With two models it is the loss before training minus that after it, else the loss.

    Args:
        lm: The model before training.
        tuned: The model after it; None if there is none.
        samples: At least one.
        rows: The same samples as tokens.
        tables: The passes go through them.
        arm: What `tuned` was trained on.
    """
    before = tables.losses(lm, rows, what="reading the shown samples")
    after = None
    words = (
        "Loss of each token under the model before training, in nats: how unlikely it finds the "
        "token. It says nothing about harm."
    )
    if tuned is not None:
        after = tables.losses(tuned, rows, what=f"reading the shown samples after {arm}")
        words = (
            "Loss of each token under the model before training minus that after training on the "
            f'arm "{arm}", in nats. Orange: likelier afterwards, the most where that training '
            "taught most. Blue: less likely. It says what was learned, not whether it does harm."
        )
    heats = {}
    located = located_rows(lm.encoder, rows, {sample.id: sample for sample in samples})
    for place, (row, found) in enumerate(zip(rows, located, strict=True)):
        values = before.tokens(place).astype(np.float64)
        if after is not None:
            values = values - after.tokens(place)
        heats[row.id] = _heat(words, row, found, values)
    return heats


def _heat(words: str, row: Encoded, found: Located, values: np.ndarray) -> Heat:
    """The response in pieces, each with the sum over the tokens that share its characters."""
    places = np.flatnonzero(row.response_mask).tolist()
    pieces: list[Piece] = []
    pending, reached, last = 0.0, -1, -1
    for number, (place, value) in enumerate(zip(places, values.tolist(), strict=True)):
        start, end = (int(edge) for edge in found.offsets[place])
        if 0 <= reached < start:
            if place == last + 1:  # blanks that the offsets leave out
                start = reached
            else:  # another turn
                between, more = shortened(found.text[reached:start], _BETWEEN_LENGTH)
                pieces.append(Piece(between + ("\u2026" if more else ""), None))
        text = found.text[max(start, reached) : end]
        last, reached = place, max(end, reached)
        if text:
            if len(pieces) >= _MOST_PIECES:
                return Heat(words, _rounded(pieces), len(places) - number)
            pieces.append(Piece(text, value + pending))
            pending = 0.0
        elif pieces and pieces[-1].value is not None:  # the rest of a character
            pieces[-1] = Piece(pieces[-1].text, pieces[-1].value + value)
        else:
            pending += value
    return Heat(words, _rounded(pieces))


def _rounded(pieces: Sequence[Piece]) -> tuple[Piece, ...]:
    return tuple(Piece(text, None if v is None else round(v, 2)) for text, v in pieces)


def nearest_anchors(
    lm: LanguageModel,
    rows: Sequence[Encoded],
    anchors: Mapping[str, Sequence[Encoded]],
    samples: Mapping[str, Sample],
    tables: Tables,
) -> dict[str, tuple[Anchor, ...]]:
    """Id -> the nearest references of each kind, by cosine of the last token's final state.

    Args:
        lm: The model before training.
        rows: At least one.
        anchors: "safe" and "harmful" -> references; of many, at most 512 are drawn.
        samples: Id -> the references' text.
        tables: The passes go through them.
    """
    task = RankingTask(lm, rows, (), tables=tables)
    states = final_states(task, rows, what="reading the shown samples")
    found: dict[str, list[Anchor]] = {row.id: [] for row in rows}
    for kind, references in anchors.items():
        drawn = draw_rows(references, _MOST_ANCHORS, seed=0, stream="explorer")
        if not drawn:
            continue
        near = cosines(states, final_states(task, drawn, what=f"reading the {kind} anchors"))
        best = np.argsort(-near, axis=1, kind="stable")[:, :_NUM_NEAREST]
        for row, cosine, places in zip(rows, near, best, strict=True):
            found[row.id] += [
                Anchor(
                    kind,
                    drawn[place].id,
                    round(float(cosine[place]), 4),
                    round(float(np.median(cosine)), 4),
                    _prompt_start(samples[drawn[place].id]),
                )
                for place in places.tolist()
            ]
    return {key: tuple(of) for key, of in found.items()}


def find_duplicates(
    shown: Sequence[Sample], kept: Sequence[Sample], ids: Iterable[str]
) -> dict[str, Duplicates]:
    """Id -> copies among all ids, and near duplicates among the shown and the kept samples.

    Near is by the Jaccard index of the sets of runs of five words, `NEAR` at least; none is missed
    among the samples compared, of which there are 20,000 at most, drawn by id.

    Args:
        shown: The samples asked about.
        kept: The selected ones.
        ids: Of the whole pool.
    """
    copies: dict[str, list[str]] = defaultdict(list)
    for key in sorted(ids):
        copies[content_of(key)].append(key)
    compared = _compared(shown, kept)
    near: dict[str, dict[str, float]] = {sample.id: {} for sample in shown}
    runs = {sample.id: _runs(sample) for sample in shown}
    index = _index(runs)
    for other in compared:
        theirs = runs.get(other.id) or _runs(other)
        for key in {key for run in theirs if run in index for key in index[run]}:
            both = len(runs[key] & theirs)
            share = both / (len(runs[key]) + len(theirs) - both)
            if share >= NEAR and content_of(key) != content_of(other.id):
                near[key][other.id] = round(share, 3)
    return {
        sample.id: _named(
            [key for key in copies[content_of(sample.id)] if key != sample.id],
            near[sample.id],
            len(compared) - 1,
        )
        for sample in shown
    }


def _compared(shown: Sequence[Sample], kept: Sequence[Sample]) -> list[Sample]:
    """The shown, and as many of the kept as there is time for."""
    found = {sample.id: sample for sample in shown}
    for sample in sorted(kept, key=lambda sample: draw_key(sample.id, 0, "duplicates")):
        if len(found) >= _MOST_COMPARED:
            break
        found[sample.id] = sample
    return list(found.values())


def _index(runs: Mapping[str, frozenset[str]]) -> dict[str, list[str]]:
    """Run -> samples that it leads to, of which every near duplicate has at least one such run.

    Who shares `NEAR` of a set of n runs has at least one of any n - ceil(NEAR n) + 1 of them: the
    rarest lead to the fewest comparisons in vain.
    """
    counts = Counter(run for of in runs.values() for run in of)
    index: dict[str, list[str]] = defaultdict(list)
    for key, of in runs.items():
        num = len(of) - math.ceil(NEAR * len(of) - 1e-9) + 1
        for run in sorted(of, key=lambda run: (counts[run], run))[:num]:
            index[run].append(key)
    return dict(index)


def _runs(sample: Sample) -> frozenset[str]:
    """Runs of five words in prompt and completion; of a shorter text, itself; of no words, none."""
    words = _WORD.findall(" ".join(turn.content for turn in sample.messages).casefold())
    if not words:
        return frozenset()
    last = max(1, len(words) - _RUN + 1)
    return frozenset(" ".join(words[start : start + _RUN]) for start in range(last))


def _named(exact: Sequence[str], near: Mapping[str, float], num_compared: int) -> Duplicates:
    nearest = sorted(near.items(), key=lambda pair: (-pair[1], pair[0]))
    return Duplicates(
        tuple(exact[:_MOST_NAMED]),
        len(exact),
        dict(nearest[:_MOST_NAMED]),
        len(near),
        num_compared,
        NEAR,
    )


def guard_words(judge: str, judgement: Judgement) -> str:
    """What a judge said of a sample's answer, in words; that it failed, where it did."""
    if judgement.problem:
        return f"{judge}: no verdict ({judgement.problem})."
    said = []
    if judgement.is_harmful is not None:
        said.append("harmful" if judgement.is_harmful else "not harmful")
    if judgement.category:
        said.append(f"category {judgement.category}")
    if judgement.is_refusal is not None:
        said.append("a refusal" if judgement.is_refusal else "not a refusal")
    if judgement.score is not None:
        said.append(f"score {judgement.score:g}")
    return f"{judge}: {', '.join(said) or 'no verdict'}. That is its opinion, not a measurement."


def _prompt_start(sample: Sample) -> str:
    asked = [turn.content for turn in sample.prompt if turn.role == "user"]
    text, num_more = shortened("\n\n".join(asked), _ANCHOR_LENGTH)
    return text + (" \u2026" if num_more else "")
