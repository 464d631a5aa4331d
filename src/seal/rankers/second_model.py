"""Another model beside the run's own: opened for one reading of the pool, and put away again."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from peft import PeftModel

from seal.artifacts.provenance import file_hash, folder_hashes
from seal.data.tokenize import Encoded
from seal.generation import check_context
from seal.lora import UNREADABLE, laid_over
from seal.models import LanguageModel, ModelSpec, load_model, loaded_identity
from seal.rankers.ranker import RankingTask


@dataclass(frozen=True, slots=True, eq=False)
class Opened:
    """A model, and the pool as it reads it.

    Attributes:
        lm: The model. Its encoder is the one that made `rows`.
        rows: The pool's samples in the pool's order: the run's own tokens where the model's
            tokenizer is the same, else encoded again with its own tokenizer and template.
        same_tokens: Which of the two.
    """

    lm: LanguageModel
    rows: Sequence[Encoded]
    same_tokens: bool


def refuse_one_model(roles: tuple[str, str], given: Sequence[object]) -> None:
    """Refuse two models that are both the run's own.

    Args:
        roles: What the two are called in the configuration.
        given: The models and adapters that were given; None for those that were not.

    Raises:
        ValueError: If nothing was given.
    """
    if all(part is None for part in given):
        first, second = roles
        raise ValueError(
            f"{first} and {second} are both the run's own model, so every score would be 0. Give "
            f"{first} or {second} (a model), or {first}_adapter or {second}_adapter (a trained "
            "adapter)."
        )


def second_identity(role: str, spec: ModelSpec | None, adapter: Path | None) -> dict[str, Any]:
    """What a model and its adapter are, under their keys; changes with any byte of their files.

    Args:
        role: What the model is called in the configuration.
        spec: The model; None, the run's own, is named elsewhere.
        adapter: A PEFT adapter to lay over it.
    """
    named: dict[str, Any] = {}
    if spec is not None:
        named[role] = loaded_identity(spec)
        if spec.chat_template is not None:
            named[role]["template"] = file_hash(spec.chat_template)
    if adapter is not None:
        named[f"{role}_adapter"] = folder_hashes(adapter)
    return named


@contextmanager
def opened(
    task: RankingTask, role: str, spec: ModelSpec | None, adapter: Path | None
) -> Iterator[Opened]:
    """A model with the pool as it reads it, for as long as the block lasts.

    Args:
        task: Model and data of the run.
        role: What the model is called in the configuration.
        spec: The model; None takes the run's own.
        adapter: A PEFT adapter to lay over it.

    Raises:
        ValueError: If the model or the adapter cannot be loaded, or the model cannot read a sample.
    """
    base = task.lm if spec is None else _load(spec, role)
    if adapter is None:
        yield _reading(task, role, base)
        return
    if "base" in (base.identity or {}):
        raise ValueError(two_adapters(role, spec, adapter))
    model = _lay_over(base, adapter, role)
    try:
        identity = base.identity and {**base.identity, "adapter": folder_hashes(adapter)}
        yield _reading(task, role, replace(base, model=model.eval(), identity=identity))
    finally:
        model.unload()  # the run's own model is as it was


def two_adapters(role: str, spec: ModelSpec | None, adapter: Path) -> str:
    """That an adapter would lie on a model which is an adapter itself, and the way out."""
    model = f"rank.{role}.path={spec.path}" if spec is not None else "model.path"
    return (
        f"rank.{role}_adapter={adapter} would be laid over {model}, which is an adapter on its "
        "base itself; an adapter that was trained on such a model has it in it already. Give "
        f"the base as rank.{role}.path."
    )


def _load(spec: ModelSpec, role: str) -> LanguageModel:
    try:
        return load_model(spec)
    except ValueError as error:
        raise ValueError(f"rank.{role}: {error}") from error


def _lay_over(lm: LanguageModel, adapter: Path, role: str) -> PeftModel:
    key = f"rank.{role}_adapter={adapter}"
    if not (adapter / "adapter_config.json").is_file():
        raise ValueError(
            f"{key}: no adapter_config.json in this folder. Give a PEFT adapter, such as the "
            "folder `adapter` that the train stage writes."
        )
    try:
        return laid_over(lm.model, adapter)
    except UNREADABLE as error:
        raise ValueError(
            f"{key}: PEFT cannot lay this adapter over the model ({str(error).strip()}). Give an "
            f"adapter that was trained on rank.{role}, or on model.path where that is left out."
        ) from error


def _reading(task: RankingTask, role: str, lm: LanguageModel) -> Opened:
    if lm.tokenizer is task.lm.tokenizer or _cuts_alike(task, lm):
        # The same text under the same template, whatever the other model's own template is.
        lm = replace(lm, tokenizer=task.lm.tokenizer, encoder=task.lm.encoder)
        result = Opened(lm, task.pool, same_tokens=True)
    else:
        result = Opened(lm, _encoded_again(task, role, lm), same_tokens=False)
    try:
        check_context(result.lm, result.rows)
    except ValueError as error:
        raise ValueError(f"rank.{role}: {error}") from error
    return result


def _cuts_alike(task: RankingTask, lm: LanguageModel) -> bool:
    """Whether a model's tokenizer makes the pool's tokens of the pool's text."""
    used = np.unique(np.concatenate([row.input_ids for row in task.pool])).tolist()
    own, other = task.lm.tokenizer, lm.tokenizer
    if own.convert_ids_to_tokens(used) != other.convert_ids_to_tokens(used):
        return False
    texts = [turn.content for row in task.pool for turn in task.samples[row.id].messages]
    ids = [
        tokenizer(texts, add_special_tokens=False, verbose=False)["input_ids"]
        for tokenizer in (own, other)
    ]
    return ids[0] == ids[1]


def _encoded_again(task: RankingTask, role: str, lm: LanguageModel) -> list[Encoded]:
    samples = [task.samples[row.id] for row in task.pool]
    results = lm.encoder.encode(samples, task.tokenization)
    rows = [row for row in results if isinstance(row, Encoded)]
    if len(rows) < len(results):
        place = next(i for i, row in enumerate(results) if isinstance(row, str))
        raise ValueError(
            f"rank.{role}: {len(results) - len(rows)} of {len(results)} samples cannot be encoded "
            f"for this model; the first is {samples[place].id}: {results[place]}. Raise "
            "tokenization.max_length, remove them from the pool, or give a model with the run's "
            "own tokenizer."
        )
    return rows
