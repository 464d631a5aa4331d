"""Every ranker there is. A new method is one file and one word here."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from seal.rankers.loss import Loss
from seal.rankers.random import Random
from seal.rankers.seal import Seal

AnyRanker = Annotated[Seal | Random | Loss, Field(discriminator="method")]
