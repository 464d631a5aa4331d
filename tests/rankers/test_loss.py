"""Loss: minus the mean loss of the answer, from plain logits of each sample alone."""

import numpy as np
import pytest
import torch

from rankers.conftest import encoded, make_safe, make_task
from seal.models import ModelSpec, load_model
from seal.rankers.loss import Loss

# Answers of different lengths, so that a sum would order them otherwise than a mean.
POOL = [
    encoded("short", [2, 60, 1, 3], [20, 1]),
    encoded("long", [2, 61, 1, 3], [30, 31, 32, 33, 34, 35, 36, 37, 38, 1]),
    encoded("other", [2, 62, 63, 64, 1, 3], [40, 41, 42, 1]),
]


@torch.no_grad()
def mean_loss(model, row) -> float:
    ids = torch.tensor(row.input_ids.astype(np.int64))[None]
    log_p = model(input_ids=ids).logits[0].double().log_softmax(-1)
    places = np.flatnonzero(row.response_mask)
    return -float(np.mean([float(log_p[place - 1, ids[0, place]]) for place in places]))


def test_the_score_is_minus_the_mean_loss_of_the_answer(lively_dir):
    lm = load_model(ModelSpec(path=str(lively_dir)))
    found = Loss().rank(make_task(lm, POOL, make_safe(), []))
    expected = {row.id: mean_loss(lm.model, row) for row in POOL}
    assert max(expected.values()) - min(expected.values()) > 0.01
    losses = dict(zip(found.ids, found.columns["loss"], strict=True))
    for key, loss in expected.items():
        assert losses[key] == pytest.approx(loss, rel=1e-5)
        assert found.by_id()[key] == pytest.approx(-loss, rel=1e-5)
    assert list(found.best_first()) == sorted(expected, key=expected.__getitem__)
