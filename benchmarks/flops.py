"""How much arithmetic a step cannot do without, and how much a device can do.

Counted: two operations for each weight of the blocks and each token, and for each weight of the
output layer and each token that has a loss. A training step with frozen weights takes twice that:
the forward pass, and the gradients of the activations. Not counted: attention's products of
activations (1 % at 512 tokens for 8B), adapters (0.1 %), norms, and whatever is computed a second
time.
"""

from __future__ import annotations

from typing import NamedTuple

from transformers import LlamaConfig

# Dense bf16 with fp32 accumulation, FLOP/s, by what the device's name holds. The first that fits.
# Slower versions of a chip have a name of their own, and are not here: they must be given.
_SLOWER = ("PCIe", "NVL", "GH200")
_PEAKS = {"H200": 989e12, "H100": 989e12, "A100": 312e12}


class Weights(NamedTuple):
    """Of a Llama: those that every token is multiplied with.

    Attributes:
        blocks: Of the transformer blocks' matrices.
        head: Of the output layer.
        total: All there are in memory, embeddings and norms included.
        adapter: Of LoRA, r 16 on q and v.
    """

    blocks: int
    head: int
    total: int
    adapter: int


def count_weights(config: LlamaConfig, rank: int = 16) -> Weights:
    """From the configuration."""
    hidden, layers = config.hidden_size, config.num_hidden_layers
    width = config.head_dim or hidden // config.num_attention_heads
    queries = config.num_attention_heads * width
    keys = (config.num_key_value_heads or config.num_attention_heads) * width
    block = 2 * hidden * queries + 2 * hidden * keys + 3 * hidden * config.intermediate_size
    head = hidden * config.vocab_size
    norms = (2 * layers + 1) * hidden
    embeddings = head * (1 if config.tie_word_embeddings else 2)
    adapter = layers * rank * (hidden + queries + hidden + keys)
    return Weights(layers * block, head, layers * block + norms + embeddings, adapter)


class Passes(NamedTuple):
    """What passes through a model in a step.

    Attributes:
        forward: Tokens of forward passes alone.
        forward_losses: How many of them have a loss.
        trained: Tokens of forward and backward passes.
        trained_losses: How many of them have a loss.
    """

    forward: int = 0
    forward_losses: int = 0
    trained: int = 0
    trained_losses: int = 0

    def flops(self, weights: Weights, *, per_trained: int = 4) -> float:
        """Operations.

        Args:
            weights: Of the model.
            per_trained: For each weight and trained token: 4 with frozen weights; 6 is the usual
                convention, which counts gradients of the weights, too.
        """
        forward = weights.blocks * self.forward + weights.head * self.forward_losses
        trained = weights.blocks * self.trained + weights.head * self.trained_losses
        return float(2 * forward + per_trained * trained)


def peak_flops(device_name: str) -> float | None:
    """FLOP/s of a device in dense bf16; None where the name does not say it."""
    if any(name in device_name for name in _SLOWER):
        return None
    return next((peak for name, peak in _PEAKS.items() if name in device_name), None)
