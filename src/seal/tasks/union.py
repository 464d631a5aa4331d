"""Every task, told apart in a config by its `task` key."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from seal.tasks.harmful_prompts import HarmfulPrompts
from seal.tasks.heldout_nll import HeldoutNll
from seal.tasks.over_refusal import OverRefusal
from seal.tasks.safety_margin import SafetyMargin

AnyTask = Annotated[
    HarmfulPrompts | OverRefusal | SafetyMargin | HeldoutNll, Field(discriminator="task")
]
