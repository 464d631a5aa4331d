"""The tiny model with weights so large that context reaches the last token."""

import torch
from torch import nn

from seal.models import LanguageModel


def strengthened(lm: LanguageModel) -> LanguageModel:
    """The same object, its attention and MLP weights drawn again and wider."""
    generator = torch.Generator().manual_seed(3)
    for name, weight in lm.model.named_parameters():
        if "proj" in name:
            nn.init.normal_(weight, std=0.4, generator=generator)
    return lm
