"""From labelled answers to the folder of a trained judge, with its agreement measured."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from seal.artifacts.atomic import new_folder
from seal.artifacts.evaluation import Estimate
from seal.artifacts.provenance import file_hash
from seal.judges.calibration import agreement_kappa, turned_round
from seal.judges.labelled import Labelled
from seal.judges.trained import save_model
from seal.judges.training import (
    Examples,
    check_enough,
    cross_validated,
    examples_of,
    out_of_set,
    train,
)
from seal.progress import Progress, silent

NUM_ROUNDS = 3  # of the cross-validation, each with other folds


def make_judge(
    labelled: Labelled,
    others: Sequence[Labelled],
    folder: Path,
    seed: int = 0,
    progress: Progress = silent,
) -> list[str]:
    """Train a judge into a new folder; returns what there is to say of it.

    Args:
        labelled: What it is trained on.
        others: Answers that it is also measured on.
        folder: To make.
        seed: Of the folds.
        progress: Told how many rounds of the cross-validation are done.

    Raises:
        ValueError: If the folder exists, there are too few labels, or the other answers are
            labelled for something else.
    """
    for other in others:
        if other.meaning != labelled.meaning:
            raise ValueError(
                f"{other.path}: people labelled {other.meaning} here and {labelled.meaning} in "
                f"{labelled.path}. Test a judge on what it is trained to say."
            )
    with new_folder(folder) as temporary:
        examples = examples_of(labelled)
        check_enough(examples)
        rounds = _rounds(labelled, examples, seed, progress)
        model = train(examples, seed)
        tested = {other.path: _kappa(other, out_of_set(model, other)) for other in others}
        description = {
            "meaning": labelled.meaning,
            "labelled": Path(labelled.path).name,
            "labelled_hash": file_hash(Path(labelled.path)),
            "num_answers": len(labelled.labels),
            "num_prompts": len(set(labelled.prompts)),
            "seed": seed,
            "kappa_cross_validated": [_plain(found) for found in rounds],
            "kappa_out_of_set": {Path(path).name: _plain(one) for path, one in tested.items()},
        }
        save_model(model, description, temporary)
    return _said(labelled, rounds, tested)


def _rounds(
    labelled: Labelled, examples: Examples, seed: int, progress: Progress
) -> list[Estimate | None]:
    found = []
    for done in range(NUM_ROUNDS):
        progress("cross-validating", done, NUM_ROUNDS)
        found.append(_kappa(labelled, cross_validated(examples, seed + done)))
    progress("cross-validating", NUM_ROUNDS, NUM_ROUNDS)
    return found


def _kappa(labelled: Labelled, said: Sequence[str]) -> Estimate | None:
    return agreement_kappa(labelled.labels, said, labelled.prompts)


def _said(
    labelled: Labelled, rounds: Sequence[Estimate | None], tested: dict[str, Estimate | None]
) -> list[str]:
    values = [found.value for found in rounds if found is not None]
    lines = [f"trained on {len(labelled.labels)} answers to {len(set(labelled.prompts))} prompts"]
    if values:
        lines.append(
            f"kappa in the set, cross-validated by prompt: {sum(values) / len(values):.3f} "
            f"(rounds {min(values):.3f} to {max(values):.3f}); first round {_shown(rounds[0])}"
        )
    return lines + [
        f"kappa out of the set, on {path}: {_shown(one)}" for path, one in tested.items()
    ]


def _shown(found: Estimate | None) -> str:
    if found is None:
        return "not defined: all answers have the same word"
    odd = turned_round(found)
    return f"{found.value:.3f} [{found.low:.3f}, {found.high:.3f}]" + (f". {odd}" if odd else "")


def _plain(found: Estimate | None) -> dict[str, float | int] | None:
    return None if found is None else found.model_dump()
