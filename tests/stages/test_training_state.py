"""The state of a training: equal however the model is sharded, and all that the next step needs."""

import json
import os
import random
import subprocess
import sys

import numpy as np
import pytest
import torch

from seal.stages import training_state
from seal.stages.training_state import (
    TrainingState,
    broken_weight,
    load_random_state,
)

# Two processes with FSDP2's sharding, on gloo, and one that has all; forked from one import.
# accelerate shards on GPUs only, so here is what it does, without it.
SHARDED = """
import os, signal, socket, sys
from collections import defaultdict
from types import SimpleNamespace
import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor
from safetensors.torch import load_file, save_file
from transformers import TrainerState
from seal.processes import processes
from seal.stages.training_state import load_state_into, state_of

torch.set_num_threads(1)

def make(sharded):
    torch.manual_seed(0)
    model = nn.Sequential(*(nn.Sequential(nn.Linear(6, 6), nn.Tanh()) for _ in range(2)))
    model[0][0].bias.requires_grad_(False)
    if sharded:
        for layer in model:
            fully_shard(layer)
        fully_shard(model)
        assert isinstance(model[0][0].weight, DTensor)
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=0.01)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 / (1 + step))
    return SimpleNamespace(
        model=model, optimizer=optimizer, lr_scheduler=schedule, state=TrainerState(),
        accelerator=SimpleNamespace(scaler=None), store_flos=lambda: None,
        _tr_loss=torch.tensor(0.0), _total_loss_scalar=0.0, _globalstep_last_logged=0,
        _total_train_tokens=0, _metrics={"train": defaultdict(list)},
    )

def step(trainer, number):
    torch.manual_seed(100 + number)
    rows = torch.randn(4, 6)
    mine = rows[processes().rank :: processes().size]
    trainer.model(mine).square().mean().backward()
    trainer.optimizer.step()
    trainer.lr_scheduler.step()
    trainer.optimizer.zero_grad()

def near(a, b):
    assert a.keys() == b.keys()
    return max((a[n] - b[n]).abs().max().item() for n in a) < 1e-6

def copied(state):
    return state._replace(tensors={name: v.clone() for name, v in state.tensors.items()})

def work(rank, port, folder):
    if rank is not None:
        os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE="2",
                          MASTER_ADDR="127.0.0.1", MASTER_PORT=port)
        processes()
    trainer = make(rank is not None)
    for number in range(3):
        step(trainer, number)
    state = state_of(trainer)
    assert not any(isinstance(value, DTensor) for value in state.tensors.values())
    state = copied(state)
    step(trainer, 3)
    after = state_of(trainer).tensors
    again = make(rank is not None)
    load_state_into(again, copied(state))  # an optimiser goes on with the tensors themselves
    step(again, 3)
    assert all(torch.equal(v, after[n]) for n, v in state_of(again).tensors.items())
    if rank is None:
        save_file(state.tensors, f"{folder}/one")
        save_file(after, f"{folder}/after")
        return
    whole, whole_after = load_file(f"{folder}/one"), load_file(f"{folder}/after")
    assert near(state.tensors, whole)
    assert near(after, whole_after)
    assert set(whole) == {f"{kind}.{name}" for name in ("0.0.weight", "1.0.weight", "1.0.bias")
                          for kind in ("parameter", "step", "exp_avg", "exp_avg_sq")}
    # What one process saved, two go on with.
    other = make(True)
    load_state_into(other, state._replace(tensors=whole))
    step(other, 3)
    assert near(state_of(other).tensors, whole_after)

def launch(ranks):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    children = []
    for rank in ranks:
        pid = os.fork()
        if not pid:
            signal.alarm(60)
            try:
                work(rank, port, sys.argv[1])
            except BaseException:
                import traceback
                traceback.print_exc()
                os._exit(1)
            os._exit(0)
        children.append(pid)
    return [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in children]

assert launch([None]) == [0]
assert launch([0, 1]) == [0, 0]
"""


def test_a_sharded_model_has_the_state_of_a_whole_one(tmp_path):
    ended = subprocess.run(
        [sys.executable, "-c", SHARDED, str(tmp_path)],
        capture_output=True, text=True, check=False, env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert ended.returncode == 0, ended.stderr


def draws() -> tuple:
    return (
        random.random(),
        np.random.rand(),
        torch.rand(()).item(),
        random.gauss(),
        np.random.randn(),
    )


def test_random_states_go_through_json():
    before = random.getstate(), np.random.get_state(), torch.get_rng_state()
    draws()  # half of a pair of normal numbers is kept for later
    facts = json.loads(json.dumps({"random": [training_state._random_state()]}))
    expected = draws()
    draws()
    assert load_random_state(TrainingState({}, facts))
    assert draws() == expected
    two = {"random": facts["random"] * 2}
    assert not load_random_state(TrainingState({}, two)), "of two processes, for one"
    random.setstate(before[0])
    np.random.set_state(before[1])
    torch.set_rng_state(before[2])


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_a_number_that_is_none_is_found(value):
    tensors = {"a": torch.ones(3), "b": torch.tensor([1, value]), "c": torch.tensor(3)}
    assert broken_weight(tensors) == "b"
    assert broken_weight({"a": torch.ones(3), "c": torch.tensor(3)}) == ""
