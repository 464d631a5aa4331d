"""The export stage: the kept samples and a config for another trainer, in a folder of their own."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from datasets import Dataset

from seal.artifacts.atomic import new_folder
from seal.artifacts.paths import StrPath
from seal.artifacts.ranking import Ranking
from seal.artifacts.selection import Selection
from seal.data.sample import Sample
from seal.exporters.axolotl import Axolotl
from seal.exporters.exporter import ROWS_FILE, Export, Exporter, KeptSample, Recipe
from seal.exporters.llamafactory import LlamaFactory
from seal.exporters.trl import Trl

Trainer = Literal["trl", "axolotl", "llamafactory"]
_EXPORTERS: dict[str, Exporter] = {one.NAME: one for one in (Trl(), Axolotl(), LlamaFactory())}


def export(
    samples: Sequence[Sample],
    ranking: Ranking,
    selection: Selection,
    recipe: Recipe,
    trainer: Trainer,
    folder: StrPath,
) -> Export:
    """Write the kept samples, best first, with a config that trains on them as was meant here.

    Makes `folder` with `kept.jsonl`, the trainer's config and a README.md that says what to call
    and what differs. Every row has `seal_id`, `seal_score` (higher = keep), `seal_rank` and
    `source` beside its text; trainers leave them alone.

    Args:
        samples: The ranked pool.
        ranking: Of the pool.
        selection: What is kept of it.
        recipe: How it was to be trained.
        trainer: Which one to write for.
        folder: Must not exist, or be empty.

    Raises:
        ValueError: If the folder is taken, or the trainer cannot train on these samples as kept.
    """
    folder = Path(folder)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ValueError(f"{folder} exists already. Delete it, or give another folder with --out.")
    made = _EXPORTERS[trainer].export(kept_samples(samples, ranking, selection), recipe)
    if folder.exists():
        folder.rmdir()
    with new_folder(folder) as temporary:
        with (temporary / ROWS_FILE).open("w", encoding="utf-8") as file:
            file.writelines(json.dumps(row, ensure_ascii=True) + "\n" for row in made.rows)
        for name, text in made.files.items():
            (temporary / name).write_text(text, encoding="utf-8")
        (temporary / "README.md").write_text(
            _readme(made, _EXPORTERS[trainer], recipe, selection), encoding="utf-8"
        )
    return made


def kept_samples(
    samples: Sequence[Sample], ranking: Ranking, selection: Selection
) -> tuple[KeptSample, ...]:
    """What is kept, best first."""
    by_id: Mapping[str, Sample] = {sample.id: sample for sample in samples}
    scores, kept = ranking.by_id(), set(selection.ids)
    return tuple(
        KeptSample(by_id[key], float(scores[key]), place, tuple(selection.masks.get(key, ())))
        for place, key in enumerate(ranking.best_first(), start=1)
        if key in kept
    )


def push(rows: Sequence[dict[str, Any]], name: str, *, private: bool = True) -> str:
    """Upload exported rows as a data set of the Hub; returns its address.

    Raises:
        ValueError: If the Hub refuses.
    """
    try:
        Dataset.from_list(list(rows)).push_to_hub(name, private=private)
    except Exception as error:  # whatever the Hub's client raises: it is the user's to mend
        raise ValueError(
            f"the Hub did not take the data set {name!r}: {type(error).__name__}: {error}. Log in "
            "with `hf auth login`, and check the name; the files on disk are complete."
        ) from error
    return f"https://huggingface.co/datasets/{name}"


def _readme(made: Export, exporter: Exporter, recipe: Recipe, selection: Selection) -> str:
    notes = "".join(f"* {note}\n" for note in made.notes)
    return (
        f"# {len(made.rows)} samples for {exporter.NAME}\n\n"
        f"Kept by seal out of {selection.num_pool}, best first; the columns `seal_*` say how each "
        "was ranked (higher score = keep).\n\n"
        f"    {made.command}\n\n"
        f"called in this folder, fine-tunes {recipe.model} on them. The files follow the schema of "
        f"{exporter.NAME} {exporter.VERSION}.\n" + (f"\n{notes}" if notes else "")
    )
