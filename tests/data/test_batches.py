import re

import numpy as np
import pytest
import torch

from seal.data.batches import collate, epoch_order, length_batches, pack
from seal.data.tokenize import Encoded


def row(key, *tokens, num_prompt=1):
    mask = np.arange(len(tokens)) >= num_prompt
    return Encoded(key, np.array(tokens, dtype=np.int32), mask, is_truncated=False)


def test_collate_pads_on_the_left():
    batch = collate([row("a", 5, 6), row("b", 7, 8, 9, 10, num_prompt=3)], pad_id=99)
    assert batch.ids == ("a", "b")
    assert batch.input_ids.tolist() == [[99, 99, 5, 6], [7, 8, 9, 10]]
    assert batch.attention_mask.tolist() == [[0, 0, 1, 1], [1, 1, 1, 1]]
    assert batch.position_ids.tolist() == [[0, 0, 0, 1], [0, 1, 2, 3]]
    assert batch.response_mask.tolist() == [[False, False, False, True]] * 2
    assert batch.input_ids.dtype == batch.position_ids.dtype == torch.int64
    assert batch.attention_mask.dtype == torch.int64
    assert batch.response_mask.dtype == torch.bool


def test_a_pad_id_inside_a_sample_is_a_token():
    batch = collate([row("a", 99, 6)], pad_id=99)
    assert batch.attention_mask.tolist() == [[1, 1]]


def test_batch_moves_to_a_device():
    batch = collate([row("a", 5, 6)], pad_id=0).to("meta")
    tensors = [batch.input_ids, batch.attention_mask, batch.position_ids, batch.response_mask]
    assert {tensor.device.type for tensor in tensors} == {"meta"}
    assert batch.ids == ("a",)


def test_pack_puts_samples_one_after_the_other():
    batch = pack([row("a", 5, 6), row("b", 7), row("c", 8, 9, 10, num_prompt=2)])
    assert batch.ids == ("a", "b", "c")
    assert batch.lengths == (2, 1, 3)
    assert batch.input_ids.tolist() == [[5, 6, 7, 8, 9, 10]]
    assert batch.position_ids.tolist() == [[0, 1, 0, 0, 1, 2]]
    assert batch.attention_mask.tolist() == [[1] * 6]
    assert batch.response_mask.tolist() == [[False, True, False, False, False, True]]
    assert batch.input_ids.dtype == batch.position_ids.dtype == torch.int64
    assert batch.to("meta").lengths == (2, 1, 3)


def test_each_samples_part_of_a_batch():
    rows = [row("a", 5, 6), row("b", 7, 8, 9)]
    packed, padded = pack(rows), collate(rows, pad_id=0)
    found = [part.tolist() for part in packed.by_sample(packed.input_ids)]
    assert found == [[5, 6], [7, 8, 9]]
    found = [part.tolist() for part in padded.by_sample(padded.input_ids)]
    assert found == [[0, 5, 6], [7, 8, 9]]


def test_padding_counts_as_tokens_and_packed_batches_have_none():
    rows = [row(key, *range(length)) for key, length in LENGTHS.items()]
    found = {
        is_packed: [
            [rows[i].id for i in batch]
            for batch in length_batches(rows, 3, max_tokens=8, is_packed=is_packed)
        ]
        for is_packed in (False, True)
    }
    assert found[False] == [["d"], ["b", "e"], ["a", "c", "f"]]  # 2 x 5 and 3 x 3 are too many
    assert found[True] == [["d", "b"], ["e", "a", "c"], ["f"]]  # 5 + 3 and 3 + 2 + 2 are not
    assert [len(batch) for batch in length_batches(rows, 9, 1, is_packed=True)] == [1] * 6


def test_length_batches_longest_first():
    rows = [row("d", 1, 2), row("c", 1, 2, 3), row("a", 1, 2), row("b", 1, 2, 3, 4)]
    assert length_batches(rows, 2) == [[3, 1], [2, 0]]
    assert length_batches(rows, 3) == [[3, 1, 2], [0]]
    assert length_batches([], 3) == []


LENGTHS = {"a": 2, "b": 3, "c": 2, "d": 5, "e": 3, "f": 2}


def test_length_batches_do_not_depend_on_the_order():
    rows = [row(key, *range(length)) for key, length in LENGTHS.items()]
    shuffled = [rows[i] for i in (4, 0, 5, 2, 1, 3)]
    ids = [[rows[i].id for i in batch] for batch in length_batches(rows, 2)]
    assert ids == [[shuffled[i].id for i in batch] for batch in length_batches(shuffled, 2)]


def test_length_batches_refuse_empty_batches():
    with pytest.raises(ValueError, match=re.escape("at least 1 row; max_rows is 0. Raise it.")):
        length_batches([], 0)


def test_epoch_order_is_pinned():
    # A change here breaks the resumption of every run: it must not move.
    order = epoch_order(8, seed=0, stream="pool", epoch=0)
    assert order.tolist() == [0, 5, 4, 7, 3, 6, 2, 1]
    assert order.dtype == np.int64


def test_epoch_order_is_a_pure_function():
    np.random.default_rng(3).random(10)
    first = epoch_order(100, seed=1, stream="pool", epoch=2)
    np.testing.assert_array_equal(first, epoch_order(100, seed=1, stream="pool", epoch=2))
    assert sorted(first) == list(range(100))


@pytest.mark.parametrize(
    "other",
    [
        {"seed": 2, "stream": "pool", "epoch": 2},
        {"seed": 1, "stream": "safe", "epoch": 2},
        {"seed": 1, "stream": "pool", "epoch": 3},
    ],
)
def test_epoch_order_differs_by_every_argument(other):
    first = epoch_order(100, seed=1, stream="pool", epoch=2)
    assert (first != epoch_order(100, **other)).any()


@pytest.mark.parametrize("num", [0, 1])
def test_epoch_order_of_few(num):
    assert epoch_order(num, seed=0, stream="pool", epoch=0).tolist() == list(range(num))


def test_every_place_is_equally_likely():
    firsts = [epoch_order(4, seed=0, stream="pool", epoch=epoch)[0] for epoch in range(2000)]
    counts = np.bincount(firsts, minlength=4)
    assert (abs(counts - 500) < 100).all()  # 5 standard deviations
