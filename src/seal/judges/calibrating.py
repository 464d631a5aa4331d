"""Holding a judge against people's labels, and the file that says how it did."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from seal.artifacts.provenance import file_hash
from seal.judges.calibration import (
    CANNOT_TELL,
    Calibration,
    agreement_kappa,
    errors_of,
    folded,
    said_by,
)
from seal.judges.judge import Judge, Judgement
from seal.judges.judging import Judging
from seal.judges.labelled import Labelled
from seal.judges.trained import Trained, trained_on


@dataclass(frozen=True, slots=True)
class Disagreement:
    """An answer of which the judge and people say different things.

    Attributes:
        where: Its place in the labelled file.
        label: People's word.
        said: The judge's.
        judgement: All that the judge said.
        prompt: What was asked.
        response: The answer.
    """

    where: str
    label: str
    said: str
    judgement: Judgement
    prompt: str
    response: str


def calibrate(
    judge: Judge, labelled: Labelled, judging: Judging
) -> tuple[Calibration, list[Disagreement]]:
    """How a judge does on labelled answers, and where it differs from people.

    Raises:
        ValueError: If the judge does not say what people labelled, or cannot be had.
    """
    if labelled.meaning == "refusal" and "is_refusal" not in judge.verdicts:
        raise ValueError(
            f"{labelled.path}: people labelled refusals, and this judge does not say is_refusal; "
            f"it says {', '.join(sorted(judge.verdicts))}. Take a judge that does, or answers "
            "labelled for harm."
        )
    judgements = judging.judge(judge, labelled.exchanges)
    said = [said_by(judgement, labelled.meaning) for judgement in judgements]
    found = _calibration(judge, labelled, said)
    apart = [
        Disagreement(exchange.id, label, word, judgement, exchange.prompt, exchange.response)
        for exchange, label, word, same, judgement in zip(
            labelled.exchanges,
            labelled.labels,
            said,
            folded(said, labelled.labels),
            judgements,
            strict=True,
        )
        if same != label
    ]
    return found, apart


def _calibration(judge: Judge, labelled: Labelled, said: Sequence[str]) -> Calibration:
    labels, prompts = labelled.labels, labelled.prompts
    same = folded(said, labels)
    rows = list(zip(labels, said, prompts, strict=True))
    judged = [row for row in rows if row[1] != CANNOT_TELL]
    confusion = {
        label: dict(Counter(word for mine, word, _ in rows if mine == label))
        for label in sorted(set(labels))
    }
    kappa_judged = None
    if judged:
        kappa_judged = agreement_kappa(
            [label for label, _, _ in judged],
            folded([word for _, word, _ in judged], labels),
            [prompt for _, _, prompt in judged],
        )
    content = file_hash(Path(labelled.path)) if Path(labelled.path).is_file() else ""
    return Calibration(
        judge=str(judge.identity()["judge"]),
        identity=identity_hash(judge),
        labelled=Path(labelled.path).name,
        labelled_hash=content,
        meaning=labelled.meaning,
        n=len(rows),
        num_prompts=len(set(prompts)),
        num_cannot_tell=len(rows) - len(judged),
        agreement=sum(map(str.__eq__, labels, same)) / len(rows),
        kappa=agreement_kappa(labels, same, prompts),
        kappa_judged=kappa_judged,
        confusion=confusion,
        errors=errors_of(labels, said, prompts),
        seen_in_training=isinstance(judge, Trained) and trained_on(judge.path) == content,
    )


def identity_hash(judge: Judge) -> str:
    """SHA-256 of all that decides what a judge says."""
    text = json.dumps(judge.identity(), sort_keys=True, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def calibration_of(judge: Judge, *, is_loaded: bool = True) -> Calibration | None:
    """The calibration that a judge's settings name; None where they name none.

    Args:
        judge: Whose settings.
        is_loaded: Whether to look who the judge is, for which a guard's files are read.

    Raises:
        ValueError: If the file cannot be read, or is of another judge.
    """
    if judge.calibration is None:
        return None
    path = judge.calibration
    again = "Make it with: seal judge calibrate JUDGE LABELLED --out FILE"
    try:
        found = Calibration.model_validate_json(Path(path).read_bytes())
    except OSError as error:
        raise ValueError(
            f"calibration: {path} cannot be read ({error.strerror}). {again}"
        ) from error
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "the file"
        raise ValueError(
            f"calibration: {path} is no calibration that this version of seal reads ({where}: "
            f"{first['msg']}). {again}"
        ) from error
    if is_loaded and found.identity != identity_hash(judge):
        raise ValueError(
            f"calibration: {path} was measured on another judge ({found.judge}, or the same with "
            f"other settings, weights or another version). {again}"
        )
    return found
