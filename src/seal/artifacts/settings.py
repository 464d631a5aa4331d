"""The abstract class of everything a user configures."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class Settings(BaseModel):
    """A frozen, strict record of hyperparameters; abstract.

    A method of a stage *is* its settings: the class holds the hyperparameters as fields and has one
    public method that does the work. Unknown keys are errors and defaults are validated.
    """

    model_config = ConfigDict(
        extra="forbid", frozen=True, validate_default=True, protected_namespaces=()
    )
