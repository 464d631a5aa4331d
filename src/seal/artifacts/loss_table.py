"""The loss table: the loss of every response token of some rows under one model."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property

import numpy as np

from seal.artifacts.ids import Ids
from seal.artifacts.row_table import RowTable


class LossTable:
    """Losses of rows in a given order; nats.

    Attributes:
        ids: The rows.
        num_tokens: int64 [N], response tokens of each row.
        num_bytes: int64 [N], UTF-8 bytes of each row's response text, special tokens left out;
            at least 1. What losses under different tokenizers are divided by.
    """

    def __init__(self, table: RowTable, ids: Sequence[str]) -> None:
        """A view of a table that has the columns nll, num_bytes and perhaps entropy.

        Args:
            table: What a pass over the rows wrote.
            ids: The order in which the rows are wanted.
        """
        self.ids = Ids.of(ids)
        self._table = table
        self._order = table.order(self.ids)
        self.num_tokens = table.lengths("nll")[self._order]
        self.num_bytes = table.flat("num_bytes")[self._order]

    def tokens(self, place: int) -> np.ndarray:
        """float32 [T]: -log p(token | the tokens before it) of a row's response tokens."""
        return self._values("nll", place)

    def token_entropy(self, place: int) -> np.ndarray:
        """float32 [T]: entropy of the model's prediction of each response token."""
        return self._values("entropy", place)

    @cached_property
    def sum(self) -> np.ndarray:
        """float64 [N]: -log p(response | prompt)."""
        return self._sums("nll")

    @property
    def mean(self) -> np.ndarray:
        """float64 [N]: l(theta; z), the mean over response tokens."""
        return self.sum / self.num_tokens

    @property
    def per_byte(self) -> np.ndarray:
        """float64 [N]: `sum` per byte of the response."""
        return self.sum / self.num_bytes

    @property
    def mean_entropy(self) -> np.ndarray:
        """float64 [N]: mean entropy of the predictions of the response tokens."""
        return self._sums("entropy") / self.num_tokens

    def _values(self, name: str, place: int) -> np.ndarray:
        scalar = self._table.columns[name][int(self._order[place])]
        return scalar.values.to_numpy(zero_copy_only=False)

    def _sums(self, name: str) -> np.ndarray:
        lengths = self._table.lengths(name)  # of at least 1: every row has a response token
        starts = np.cumsum(lengths) - lengths
        values = self._table.flat(name).astype(np.float64)
        return np.add.reduceat(values, starts)[self._order]
