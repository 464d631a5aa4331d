"""What is left to do of an experiment, cell by cell, and what that will take."""

from __future__ import annotations

import gc
import math
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import torch

from seal.artifacts.selection import load_selection
from seal.config.arms import ArmSettings
from seal.data.batches import epoch_order
from seal.data.sample import Message, Sample
from seal.data.tokenize import Encoded
from seal.generation import Decoding
from seal.inputs import Inputs
from seal.microbatches import MicroBatches
from seal.models import LanguageModel, add_lora, load_model, resolve_device
from seal.padding import needs_even_rows
from seal.rankers.levels import make_levels
from seal.rankers.ranker import OptimizerSteps, Sizes
from seal.sft import num_steps, sft_config
from seal.stages import train as train_stage
from seal.stages.estimate import (
    NUM_STEPS,
    Cell,
    Enough,
    Measured,
    StepClock,
    Work,
    flops,
    mean_context,
    measure_descent,
    measure_forward,
    measure_generation,
    model_shape,
    spread,
)
from seal.stages.select import SelectSettings
from seal.tables import micro_batches_of
from seal.tasks.items import task_items

_KINDS = ("rank", "arms", "train", "evaluate")  # the first part of a cell's name
_SHOWN = {"arms": "the arms' own rankers"}
_ROW_BYTES = 100  # of a ranking, or of what is written about a prompt besides the response
_TOKEN_BYTES = 5  # of a response, or of a loss table


def plan(inputs: Inputs) -> list[Cell]:
    """Every cell of an experiment, in the order in which they are made."""
    return [cell for kind in _KINDS for cell in cells(inputs, kind)]


def cell_seconds(inputs: Inputs, kind: str) -> dict[str, float | None]:
    """Cell -> seconds, for the cells of a kind; empty for kinds of which nothing is known."""
    return {cell.name: cell.seconds for cell in cells(inputs, kind)}


def cells(inputs: Inputs, kind: str) -> list[Cell]:
    """The cells of a kind: those that are there are 0, the others measured.

    Args:
        inputs: Of the experiment.
        kind: What their names begin with: "rank", "arms" (the rankings of arms that have a ranker
            of their own), "train" or "evaluate".
    """
    make = {
        "rank": _shared_rank_cells,
        "arms": _arm_rank_cells,
        "train": _train_cells,
        "evaluate": _evaluate_cells,
    }.get(kind)
    if make is None or (kind == "arms" and not any(arm.rank for arm in inputs.experiment.arms)):
        return []
    inputs.progress(f"measuring the speed of {_SHOWN.get(kind, kind)}", 0, 1)
    made = make(inputs)
    gc.collect()  # models refer to themselves
    if torch.cuda.is_initialized():
        torch.cuda.empty_cache()
    inputs.progress(f"measuring the speed of {_SHOWN.get(kind, kind)}", 1, 1)
    return made


# --- rank ----------------------------------------------------------------------------------------


def _shared_rank_cells(inputs: Inputs) -> list[Cell]:
    return [_rank_cell(inputs, None)]


def _arm_rank_cells(inputs: Inputs) -> list[Cell]:
    return [_rank_cell(inputs, arm) for arm in inputs.experiment.arms if arm.rank is not None]


def _rank_cell(inputs: Inputs, arm: ArmSettings | None) -> Cell:
    folder = inputs.rank_folder(arm)
    name = folder.relative_to(inputs.run_dir.root).as_posix()
    if folder.exists():
        return Cell(name, is_done=True)
    ranker = inputs.ranker(arm)
    pool, safe, harmful = _ranked_sets(inputs)
    cost = ranker.cost(sizes(pool, safe, harmful))
    work = Work(cost.forward, cost.trained) if cost is not None else Work()
    steps = ranker.optimizer_steps()
    start = time.perf_counter()
    lm = load_model(inputs.experiment.model)
    seconds: float | None = time.perf_counter() - start
    shape = model_shape(lm.model)
    memory, num_trained = 0, 0
    if work.forward:
        speed = measure_forward(lm, pool, micro_batches_of(lm))
        seconds, memory = seconds + work.forward * speed.seconds, speed.memory_bytes
    if work.trained:
        speed, num_trained = _descent(lm, steps, pool, [*safe, *harmful])
        seconds, memory = seconds + work.trained * speed.seconds, speed.memory_bytes
    if cost is None:
        seconds = None
    context = mean_context([len(row.input_ids) for row in (*pool, *safe, *harmful)])
    num_lora = num_trained if steps.tuning == "lora" else 0
    return Cell(
        name,
        work=work,
        flops=flops(work, shape, context, num_lora=num_lora),
        seconds=seconds,
        memory_bytes=memory,
        disk_bytes=len(pool) * _ROW_BYTES + _num_tokens(pool) * _TOKEN_BYTES,
    )


def sizes(pool: Sequence[Encoded], safe: Sequence[Encoded], harmful: Sequence[Encoded]) -> Sizes:
    """How large the sets of a ranking are."""
    return Sizes(
        pool=_num_tokens(pool),
        safe=_num_tokens(safe),
        harmful=_num_tokens(harmful),
        num_pool=len(pool),
        num_safe=len(safe),
        num_harmful=len(harmful),
    )


def _ranked_sets(inputs: Inputs) -> tuple[Sequence[Encoded], ...]:
    harmful = inputs.encoded_harmful
    return inputs.rankable_rows, inputs.trusted, harmful.encoded if harmful else ()


def _descent(
    lm: LanguageModel, kind: OptimizerSteps, pool: Sequence[Encoded], references: Sequence[Encoded]
) -> tuple[Measured, int]:
    """Steps on as many pool samples as references, and the number of weights that move."""
    (level,) = make_levels(
        lm,
        num_levels=1,
        tuning=kind.tuning,
        lora=kind.lora,
        learning_rate=1e-6,
        betas=(0.9, 0.95),
        max_grad_norm=1.0,
        micro_batch_size=kind.micro_batch_size,
        seed=0,
    )
    steps = [
        [*_draw(pool, kind.batch_size, number), *_draw(references, kind.batch_size, number)]
        for number in range(NUM_STEPS // 3)
    ]
    steps[0] = [*spread(pool, 1), *steps[0][1:]]  # the longest, for the peak of memory
    return measure_descent(level, steps), sum(value.numel() for value in level.parameters.values())


def _draw(rows: Sequence[Encoded], num: int, number: int) -> list[Encoded]:
    order = epoch_order(len(rows), seed=0, stream="estimate", epoch=number)
    return [rows[place] for place in order[:num]]


# --- train ---------------------------------------------------------------------------------------


def _train_cells(inputs: Inputs) -> list[Cell]:
    run_dir = inputs.run_dir
    places = {
        f"train/{arm.name}/seed-{seed}": (arm, run_dir.train(arm.name, seed).exists())
        for arm in inputs.experiment.arms
        for seed in inputs.experiment.seeds
        if arm.is_trained
    }
    if all(is_done for _, is_done in places.values()):
        return [Cell(name, is_done=True) for name in places]
    with tempfile.TemporaryDirectory() as folder:
        per_arm = _Training(inputs, Path(folder))
        return [
            Cell(name, is_done=True) if is_done else per_arm.cell(name, arm)
            for name, (arm, is_done) in places.items()
        ]


class _Training:
    """The speed of the train stage, measured with the stage itself."""

    def __init__(self, inputs: Inputs, folder: Path) -> None:
        experiment = inputs.experiment
        self._inputs = inputs
        self._settings = experiment.train
        device = resolve_device(experiment.model.device)
        self._config = sft_config(self._settings.args, device, folder, 0)
        accumulated = self._config.gradient_accumulation_steps
        self._batch = self._config.per_device_train_batch_size * accumulated
        num_measured = max(3, NUM_STEPS // accumulated)
        mixes = {id(mix[1]): mix[1] for mix in map(inputs.mix, experiment.arms) if mix}
        mixed = [row for mix in mixes.values() for row in mix.encoded]
        rows = spread([*inputs.encoded_pool.encoded, *mixed], num_measured * self._batch)
        clock = StepClock(device, num_measured)
        with suppress(Enough):
            train_stage.train(
                experiment.model,
                rows,
                self._settings.model_copy(update={"mix": None}),
                folder / "train",
                seed=0,
                progress=clock,
            )
        self._speed = clock.measured()
        lm = load_model(experiment.model)
        self._shape = model_shape(lm.model)
        self._num_lora = 0
        if self._settings.tuning == "lora":
            adapted = add_lora(lm.model, self._settings.lora, seed=0, key="train.lora")
            self._num_lora = sum(v.numel() for v in adapted.parameters() if v.requires_grad)
        self._context = mean_context([len(row.input_ids) for row in rows])

    def cell(self, name: str, arm: ArmSettings) -> Cell:
        """Steps of this arm times the seconds of a step, and what comes before the first."""
        size = arm_size(self._inputs, arm)
        num, tokens = self._mixed(arm, *size)
        matched = self._inputs.matched_steps(arm, size[0])
        steps = matched or num_steps(self._settings.args, num)
        epochs = self._config.num_train_epochs
        if matched or self._config.max_steps > 0:
            epochs = steps * self._batch / num
        work = Work(trained=epochs * tokens)
        saved = self._num_lora * 4 if self._num_lora else self._shape.weight_bytes
        return Cell(
            name,
            work=work,
            flops=flops(work, self._shape, self._context, num_lora=self._num_lora),
            seconds=self._speed.start_seconds + steps * self._speed.seconds,
            memory_bytes=self._speed.memory_bytes,
            disk_bytes=saved,
        )

    def _mixed(self, arm: ArmSettings, num: int, tokens: float) -> tuple[int, float]:
        mix, settings = self._inputs.mix(arm), self._inputs.experiment.trains_with(arm).mix
        if mix is None or settings is None:
            return num, tokens
        rows, share = mix[1].encoded, settings.share
        extra = round(share / (1 - share) * num)
        return num + extra, tokens + extra * _num_tokens(rows) / len(rows)


def arm_size(inputs: Inputs, arm: ArmSettings) -> tuple[int, float]:
    """Samples and tokens of an arm; from the selection where there is one, else expected."""
    rows = inputs.encoded_pool.encoded
    if arm.train_on == "all":
        return len(rows), _num_tokens(rows)
    if arm.train_on == "oracle":
        kept = set(inputs.harmless_ids)
        return len(kept), _num_tokens([row for row in rows if row.id in kept])
    path = inputs.select_folder(arm) / "selection.parquet"
    if not path.exists():
        num = expected_count(inputs.selection_rule(arm), inputs.rankable)
        return num, num * _num_tokens(rows) / len(rows)
    kept = set(load_selection(path).ids)
    if arm.train_on == "random":
        return len(kept), len(kept) * _num_tokens(rows) / len(rows)
    return len(kept), _num_tokens([row for row in rows if row.id in kept])


def expected_count(settings: SelectSettings, samples: Sequence[Sample]) -> int:
    """How many samples a selection will keep; all where a threshold decides."""
    sources = Counter(sample.source for sample in samples)
    kept = sum(round(share * sources.pop(name, 0)) for name, share in settings.quotas.items())
    rest = sources.total()
    fraction = settings.effective_fraction()
    if settings.count is not None:
        return kept + min(settings.count, rest)
    return kept + (rest if fraction is None else round(fraction * rest))


# --- evaluate ------------------------------------------------------------------------------------


def _evaluate_cells(inputs: Inputs) -> list[Cell]:
    run_dir = inputs.run_dir
    places = {
        f"evaluate/{arm.name}/seed-{seed}": (arm, run_dir.evaluate(arm.name, seed).exists())
        for arm in inputs.experiment.arms
        for seed in inputs.experiment.seeds_of(arm)
    }
    left = {arm.is_base for arm, is_done in places.values() if not is_done}
    speeds = {is_base: _evaluation(inputs, is_base=is_base) for is_base in sorted(left)}
    return [
        Cell(name, is_done=True) if is_done else replace(speeds[arm.is_base], name=name)
        for name, (arm, is_done) in places.items()
    ]


def _evaluation(inputs: Inputs, *, is_base: bool) -> Cell:
    """All tasks on one model; with an adapter on it where a fine-tuned one has one."""
    experiment, decoding = inputs.experiment, inputs.experiment.evaluate.decoding
    start = time.perf_counter()
    lm = load_model(experiment.model)
    seconds = time.perf_counter() - start
    shape = model_shape(lm.model)
    if not is_base and experiment.train.tuning == "lora":
        adapted = add_lora(lm.model, experiment.train.lora, seed=0, key="train.lora").eval()
        lm = LanguageModel(adapted, lm.tokenizer, lm.encoder, lm.pad_id)
    work, memory, lengths, is_known = Work(), 0, [1], True
    for task in experiment.evaluate.tasks:
        items = task_items(task, lm)
        if items is None:
            is_known = False
            continue
        if items.rows:
            passes = MicroBatches(None, decoding.batch_size, is_even=needs_even_rows(lm.model))
            speed = measure_forward(lm, items.rows, passes)
            tokens = _num_tokens(items.rows)
            seconds += tokens * speed.seconds
            work += Work(forward=tokens)
            memory = max(memory, speed.memory_bytes)
            lengths += [len(row.input_ids) for row in items.rows]
        if items.prompts:
            speed = _generation(lm, items.prompts, decoding)
            seconds += speed.seconds
            prompt_lengths = [len(ids) for ids in lm.encoder.prompt_ids(items.prompts)]
            generated = len(prompt_lengths) * decoding.max_new_tokens
            work += Work(forward=sum(prompt_lengths), generated=generated)
            lengths += [length + decoding.max_new_tokens for length in prompt_lengths]
            memory = max(memory, speed.memory_bytes)
    return Cell(
        "evaluate",
        work=work,
        flops=flops(work, shape, mean_context(lengths)),
        seconds=seconds if is_known else None,
        memory_bytes=memory,
        disk_bytes=int(work.generated * _TOKEN_BYTES + len(lengths) * _ROW_BYTES),
    )


def _generation(
    lm: LanguageModel, prompts: Sequence[Sequence[Message]], decoding: Decoding
) -> Measured:
    """Seconds of answering all prompts, from one batch of evenly spaced lengths."""
    lengths = [len(ids) for ids in lm.encoder.prompt_ids(prompts)]
    order = sorted(range(len(prompts)), key=lambda place: -lengths[place])
    num = min(len(prompts), decoding.batch_size)
    chosen = [prompts[order[place * len(order) // num]] for place in range(num)]
    speed = measure_generation(lm, chosen, decoding)
    batches = len(prompts) / num
    if lm.device.type == "cuda":  # a batch takes as long however few rows it has
        batches = math.ceil(batches)
    return Measured(batches * speed.seconds, speed.memory_bytes)


def _num_tokens(rows: Sequence[Encoded]) -> int:
    return sum(len(row.input_ids) for row in rows)
