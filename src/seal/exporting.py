"""From a finished selection to a folder for another trainer."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from seal.artifacts.ranking import load_ranking
from seal.artifacts.selection import load_selection
from seal.config.arms import ArmSettings
from seal.exporters.exporter import Recipe
from seal.inputs import Inputs
from seal.models import default_targets, starting_adapter
from seal.sft import recipe_arguments
from seal.stages import export as export_stage


def export(
    inputs: Inputs, trainer: export_stage.Trainer, out: Path | None, push: str | None
) -> tuple[Path, tuple[str, ...]]:
    """Write what is kept for another trainer, and upload it if asked to.

    Args:
        inputs: The experiment's inputs; its run folder holds a selection.
        trainer: Which one to write for.
        out: The folder; None takes `export/<trainer>` in the run folder.
        push: Name of a data set on the Hub to upload the rows to, private; None uploads nothing.

    Returns:
        The folder, and what the trainer does otherwise, in sentences.

    Raises:
        ValueError: If there is no selection, the folder is taken, or the trainer cannot train on
            these samples as they were kept.
    """
    run_dir = inputs.run_dir
    selection, ranking = run_dir.select / "selection.parquet", run_dir.rank / "ranking.parquet"
    if not selection.exists():
        raise ValueError(f"{selection} is missing. Run `seal select` with the same config first.")
    kept = load_selection(selection)
    folder = out or run_dir.root / "export" / trainer
    made = export_stage.export(
        inputs.rankable,
        load_ranking(ranking),
        kept,
        _recipe(inputs, len(kept.ids)),
        trainer,
        folder,
    )
    notes = [*made.notes, *_read_otherwise(inputs, trainer, load_selection(selection).ids)]
    if inputs.experiment.train.mix is not None:
        notes.append("train.mix is not exported: the rows are what was kept of the pool alone.")
    if push is not None:
        notes.append(f"Uploaded to {export_stage.push(made.rows, push)}.")
    return folder, tuple(notes)


def _read_otherwise(inputs: Inputs, trainer: str, kept: Sequence[str]) -> list[str]:
    """What of the texts the other trainer takes otherwise than the run, in sentences."""
    tokenization, encoder = inputs.experiment.tokenization, inputs.encoder
    chosen = [inputs.rankable.find(key) for key in kept]
    notes = []
    held = [
        one.id
        for one in chosen
        if encoder.control.held([(turn.role, turn.content) for turn in one.messages])
    ]
    if held:
        mode = tokenization.special_tokens_in_text
        notes.append(
            f"{len(held)} kept samples (first: {inputs.pool.where[held[0]]}) hold text that reads "
            f"as control tokens. {trainer} reads it as these tokens"
            + (
                ", not as text, as this run does (tokenization.special_tokens_in_text=escape): "
                "take these rows out where it matters."
                if mode == "escape"
                else ", as this run does."
            )
        )
    if tokenization.reasoning == "mask":
        parts = encoder.reasoning.parts
        reasoned = [
            one.id
            for one in chosen
            if any(parts(turn.content).state != "none" for turn in one.completion)
        ]
        if reasoned:
            notes.append(
                f"{len(reasoned)} kept samples hold reasoning, which carries no loss in this run "
                f"(tokenization.reasoning=mask). {trainer} learns it like the answer."
            )
    return notes


def _arguments(inputs: Inputs, num_kept: int) -> dict[str, Any]:
    """The training's, for as many steps as `train.match` asks for."""
    steps = inputs.matched_steps(ArmSettings(name="selected"), num_kept)
    args = inputs.experiment.train.args
    return args if steps is None else {**args, "max_steps": steps}


def _recipe(inputs: Inputs, num_kept: int) -> Recipe:
    experiment = inputs.experiment
    model, train = experiment.model, experiment.train
    if starting_adapter(model) is not None:
        raise ValueError(
            f"model.path={model.path} is an adapter on its base, which other trainers would leave "
            f"out or overwrite. Make a whole model of it (seal merge-adapter {model.path} OUT), "
            "and export a run with model.path=OUT; or train here, with `seal train`."
        )
    template = model.chat_template
    lora = None
    if train.tuning == "lora":
        lora = train.lora.model_dump(mode="json")
        lora["target_modules"] = lora["target_modules"] or list(default_targets(model))
    return Recipe(
        model=str(Path(model.path).resolve()) if Path(model.path).is_dir() else model.path,
        revision=model.revision,
        dtype=model.dtype,
        template=None if template is None else str(template.resolve()),
        max_length=experiment.tokenization.max_length,
        seed=experiment.seeds[0],
        lora=lora,
        args=recipe_arguments(_arguments(inputs, num_kept)),
        said=frozenset(train.args),
    )
