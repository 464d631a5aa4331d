"""The loss table: sums and means of tokens by hand, in the order that is asked for."""

import numpy as np
import pytest

from seal.artifacts.loss_table import LossTable
from seal.artifacts.row_table import build_table

NLL = {"a": [1.0, 3.0], "b": [0.5], "c": [2.0, 2.0, 5.0]}
ENTROPY = {"a": [0.25, 0.75], "b": [2.0], "c": [0.0, 0.0, 3.0]}
BYTES = {"a": 8, "b": 1, "c": 2}


@pytest.fixture(params=["memory", "disk"])
def rows(request, tmp_path):
    ids = ["c", "a", "b"]

    def fill(places):
        for place in places:
            key = ids[place]
            yield (
                place,
                {
                    "nll": np.array(NLL[key], np.float32),
                    "entropy": np.array(ENTROPY[key], np.float32),
                    "num_bytes": np.array([BYTES[key]]),
                },
            )

    folder = tmp_path / "x" if request.param == "disk" else None
    return build_table(folder, {"rows": ids}, ids, fill, rows_per_shard=2)


@pytest.mark.parametrize("order", ["abc", "cab", "bca"])
def test_values_are_in_the_order_asked_for(rows, order):
    table = LossTable(rows, list(order))
    by_id = {
        "sum": {"a": 4.0, "b": 0.5, "c": 9.0},
        "mean": {"a": 2.0, "b": 0.5, "c": 3.0},
        "per_byte": {"a": 0.5, "b": 0.5, "c": 4.5},
        "mean_entropy": {"a": 0.5, "b": 2.0, "c": 1.0},
    }
    assert table.ids == tuple(order)
    assert table.num_tokens.tolist() == [len(NLL[key]) for key in order]
    assert table.num_bytes.tolist() == [BYTES[key] for key in order]
    for name, values in by_id.items():
        found = getattr(table, name)
        assert found.dtype == np.float64
        assert found.tolist() == [values[key] for key in order], name
    for place, key in enumerate(order):
        assert table.tokens(place).tolist() == NLL[key]
        assert table.token_entropy(place).tolist() == ENTROPY[key]


def test_a_table_may_be_asked_for_some_of_its_rows(rows):
    table = LossTable(rows, ["b"])
    assert table.sum.tolist() == [0.5]
    assert table.mean_entropy.tolist() == [2.0]


def test_sums_are_in_double_precision():
    """One large and many small numbers: fp32 would lose the small ones."""
    values = np.array([2.0**24] + [1.0] * 64, np.float32)
    rows = build_table(
        None, {}, ["a"], lambda _: iter([(0, {"nll": values, "num_bytes": np.array([1])})])
    )
    assert LossTable(rows, ["a"]).sum.tolist() == [2.0**24 + 64]
