"""The blocks of a causal language model."""

from __future__ import annotations

from typing import cast

from torch import nn
from transformers import PreTrainedModel


def decoder_blocks(model: nn.Module) -> nn.ModuleList:
    """The blocks of a causal language model, in the order in which they run.

    Found without knowing the architecture: the list of as many modules as the configuration has
    layers. Where there are several (experts, another tower), it is the one with most parameters.

    Raises:
        ValueError: If there is no such list.
    """
    num_blocks = cast(PreTrainedModel, model).config.get_text_config().num_hidden_layers
    lists = [
        module
        for module in model.modules()
        if isinstance(module, nn.ModuleList) and len(module) == num_blocks
    ]
    if not lists:
        raise ValueError(
            f"model: {type(model).__name__} has no list of {num_blocks} blocks "
            "(config.num_hidden_layers), so the output of a block cannot be read. Choose a ranker "
            "that reads no hidden states (docs/how-to-choose.md)."
        )
    return max(lists, key=lambda blocks: sum(weight.numel() for weight in blocks.parameters()))
