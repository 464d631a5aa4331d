"""Hidden states of a model as one vector per row, and how near vectors are to each other.

Blocks (decoder layers) are counted from 0. In the words of transformers, hidden_states[0] are the
embeddings and hidden_states[k] is the output of block k - 1, except that hidden_states[-1] is the
output of the last block *after the final norm*. So `BlockStates` of block b reads
hidden_states[b + 1], the last block's before the final norm, and `FinalStates` hidden_states[-1].

Dimension key: B samples of a batch, T tokens of the padded batch, N rows, A anchors, D the width of
the model.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import suppress
from typing import Any, ClassVar, Literal, cast

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle
from transformers import PreTrainedModel

from seal.artifacts.row_table import Row, RowTable
from seal.blocks import decoder_blocks
from seal.data.batches import Batch
from seal.data.tokenize import Encoded
from seal.models import LanguageModel
from seal.rankers.ranker import RankingTask
from seal.sharding import refuse_sharded
from seal.tables import Reading

# Which tokens of a row its vector is made of:
#   last            the row's last token: whatever ends the chat template's assistant turn; of a
#                   truncated row, the token it was cut at
#   first_response  the last token of the prompt, whose state predicts the first response token; of
#                   a row without a prompt, its first token
#   response_mean   the mean over the response tokens
#   weighted_mean   the mean over all tokens, the t-th (from 1) with weight t
Position = Literal["last", "first_response", "response_mean", "weighted_mean"]

_ROWS_PER_CHUNK = 4096  # of the float64 copy that cosines are taken of; memory only


class BlockStates(Reading):
    """Outputs of some blocks; the forward pass ends after the deepest of them.

    One column per block, named by its number: float32 [D] for each row.

    Attributes:
        blocks: Which ones, counted from 0.
        position: Which tokens make up a row's vector.
    """

    noun: ClassVar[str] = "hidden state"
    blocks: tuple[int, ...]
    position: Position = "last"

    def read(self, lm: LanguageModel, batch: Batch) -> list[Row]:
        """Run the blocks up to the deepest one that is asked for."""
        layers = decoder_blocks(lm.model)
        weights = token_weights(batch, self.position)
        vectors: dict[str, np.ndarray] = {}

        def tap(block: int) -> RemovableHandle:
            def read_output(module: nn.Module, args: Any, output: Any) -> None:  # noqa: ANN401, ARG001
                states = output[0] if isinstance(output, tuple) else output
                vectors[str(block)] = pool_tokens(states, weights)
                if block == max(self.blocks):
                    raise _DeepEnoughError

            return layers[block].register_forward_hook(read_output)

        _run_until_deep_enough(lm, batch, [tap(block) for block in self.blocks])
        return _rows(vectors)


class FinalStates(Reading):
    """Output of all blocks after the final norm: what the vocabulary projection is given.

    One column "final": float32 [D] for each row. The projection itself is not made.

    Attributes:
        position: Which tokens make up a row's vector.
    """

    noun: ClassVar[str] = "hidden state"
    position: Position = "last"

    def read(self, lm: LanguageModel, batch: Batch) -> list[Row]:
        """Run the model up to its head."""
        weights = token_weights(batch, self.position)
        vectors: dict[str, np.ndarray] = {}

        def read_input(module: nn.Module, args: Any) -> None:  # noqa: ANN401, ARG001
            vectors["final"] = pool_tokens(args[0], weights)
            raise _DeepEnoughError

        head = cast(nn.Module, cast(PreTrainedModel, lm.model).get_output_embeddings())
        _run_until_deep_enough(lm, batch, [head.register_forward_pre_hook(read_input)])
        return _rows(vectors)


def block_states(
    task: RankingTask,
    rows: Sequence[Encoded],
    blocks: Iterable[int],
    position: Position = "last",
    *,
    what: str,
) -> dict[int, Float[np.ndarray, "N D"]]:
    """Block -> float32 vectors of the rows, in their order.

    Args:
        task: The model is its `lm`.
        rows: At least one; ids must be unique.
        blocks: Each one of the model's, counted from 0.
        position: Which tokens make up a row's vector.
        what: What the pass is called on the progress bar.
    """
    reading = BlockStates(blocks=tuple(blocks), position=position)
    table = task.tables.read(reading, task.lm, rows, what=what)
    return {block: _matrix(table, str(block), rows) for block in reading.blocks}


def final_states(
    task: RankingTask, rows: Sequence[Encoded], position: Position = "last", *, what: str
) -> Float[np.ndarray, "N D"]:
    """float32 vectors of the rows after the final norm, in their order; see `block_states`."""
    table = task.tables.read(FinalStates(position=position), task.lm, rows, what=what)
    return _matrix(table, "final", rows)


def token_weights(batch: Batch, position: Position) -> Float[Tensor, "B T"]:
    """Share of each token in its row's vector; sums to 1 over a row, 0 on the padding."""
    columns = torch.arange(batch.input_ids.shape[1], device=batch.input_ids.device)
    if position == "last":  # padding is on the left
        weights = (columns == columns[-1]).expand(batch.input_ids.shape)
    elif position == "first_response":
        own_first = batch.attention_mask.argmax(dim=1)
        last_of_prompt = batch.response_mask.int().argmax(dim=1) - 1
        weights = columns == torch.maximum(last_of_prompt, own_first)[:, None]
    elif position == "response_mean":
        weights = batch.response_mask
    else:
        weights = batch.attention_mask * (batch.position_ids + 1)
    return weights.float() / weights.float().sum(dim=1, keepdim=True)


def pool_tokens(
    states: Float[Tensor, "B T D"], weights: Float[Tensor, "B T"]
) -> Float[np.ndarray, "B D"]:
    """Weighted sum of a batch's states over its tokens, in fp32."""
    weights = weights.to(states.device)
    columns = (weights > 0).any(dim=0)  # one, where the vector is a single token's
    states, weights = states[:, columns].float(), weights[:, columns]
    # A masked place may hold anything, even NaN, which a weight of 0 does not remove.
    states = states.masked_fill((weights == 0)[:, :, None], 0.0)
    return torch.einsum("bt,btd->bd", weights, states).cpu().numpy()


def cosines(
    vectors: Float[np.ndarray, "N D"], anchors: Float[np.ndarray, "A D"]
) -> Float[np.ndarray, "N A"]:
    """float64: cosine of every vector with every anchor; 0 where one of them is zero."""
    towards = _unit(anchors).T
    starts = range(0, len(vectors), _ROWS_PER_CHUNK)
    chunks = [_unit(vectors[start : start + _ROWS_PER_CHUNK]) @ towards for start in starts]
    return np.clip(np.concatenate(chunks), -1.0, 1.0)


def top_mean(values: Float[np.ndarray, "N A"], num: int) -> Float[np.ndarray, " N"]:
    """Mean of the `num` largest values of each row; 1 is the maximum, A the plain mean."""
    return np.sort(values, axis=1)[:, values.shape[1] - num :].mean(axis=1)


class _DeepEnoughError(Exception):
    """Ends a forward pass from inside, because all that is wanted was read."""


def _run_until_deep_enough(
    lm: LanguageModel, batch: Batch, handles: Sequence[RemovableHandle]
) -> None:
    """Run the model under hooks of which one ends the pass, and take them off again.

    Raises:
        ValueError: If the weights are sharded, which a pass that ends early would leave gathered.
    """
    try:
        refuse_sharded(lm.model, "a ranker that reads hidden states of some blocks only")
        with suppress(_DeepEnoughError):
            lm.model(
                input_ids=batch.input_ids,
                attention_mask=batch.attention_mask,
                position_ids=batch.position_ids,
                use_cache=False,
            )
    finally:
        for handle in handles:
            handle.remove()


def _rows(vectors: dict[str, np.ndarray]) -> list[Row]:
    return [dict(zip(vectors, row, strict=True)) for row in zip(*vectors.values(), strict=True)]


def _matrix(table: RowTable, name: str, rows: Sequence[Encoded]) -> np.ndarray:
    return table.flat(name).reshape(len(rows), -1)[table.order([row.id for row in rows])]


def _unit(vectors: np.ndarray) -> np.ndarray:
    exact = vectors.astype(np.float64)
    norms = np.linalg.norm(exact, axis=1, keepdims=True)
    return exact / np.maximum(norms, np.finfo(np.float64).tiny)
