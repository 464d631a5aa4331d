"""The abstract class of everything a user configures."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, ValidationError
from pydantic_core import InitErrorDetails, PydanticCustomError


class Settings(BaseModel):
    """A frozen, strict record of hyperparameters; abstract.

    A method of a stage *is* its settings: the class holds the hyperparameters as fields and has one
    public method that does the work. Unknown keys are errors and defaults are validated.
    """

    model_config = ConfigDict(
        extra="forbid", frozen=True, validate_default=True, protected_namespaces=()
    )


def error_at(place: tuple[str | int, ...], value: object, text: str) -> ValidationError:
    """What a validator of several fields raises: an error that knows which one is to be changed.

    Args:
        place: The path from the validated class to that field, as pydantic writes it: with the tag
            of each tagged union on the way.
        value: What was given there.
        text: What is wrong, and the way out.
    """
    said = PydanticCustomError("value_error", "{error}", {"error": text})
    line = InitErrorDetails(type=said, loc=place, input=value)
    return ValidationError.from_exception_data("settings", [line])
