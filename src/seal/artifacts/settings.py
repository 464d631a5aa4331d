"""The abstract class of everything a user configures."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any, Literal, get_args, get_origin

from pydantic import BaseModel, ConfigDict, ValidationError, model_validator
from pydantic.fields import FieldInfo
from pydantic_core import InitErrorDetails, PydanticCustomError


class Settings(BaseModel):
    """A frozen, strict record of hyperparameters; abstract.

    A method of a stage *is* its settings: the class holds the hyperparameters as fields and has one
    public method that does the work. Unknown keys are errors and defaults are validated.

    A mapping that is given for a field whose default is a `Settings` changes what it names and
    leaves the rest as that default has it: `Less(lora={"r": 8})` keeps the alpha and the modules of
    LESS. An object, `Less(lora=LoraSpec(r=8))`, is taken as it is; and so is a mapping that names
    another class, `{judge: guard_model}` where `refusal_phrases` is the default.

    A path may be given as text or as any `os.PathLike`.
    """

    model_config = ConfigDict(
        extra="forbid", frozen=True, validate_default=True, protected_namespaces=()
    )

    @model_validator(mode="before")
    @classmethod
    def _complete(cls, value: Any) -> Any:  # noqa: ANN401 (whatever was given)
        if not isinstance(value, Mapping):
            return value
        whole: dict[str, Any] = {}
        for name, field in cls.model_fields.items():
            part = value.get(name)
            if isinstance(part, os.PathLike):
                whole[name] = os.fspath(part)  # for a field of text or of a Path alike
            elif isinstance(part, Mapping) and isinstance(default := _default(field), Settings):
                whole[name] = _over(default, part)
        return {**value, **whole} if whole else value


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


def _over(
    default: Settings, given: Mapping[str, Any], filled: Settings | None = None
) -> Mapping[str, Any]:
    """What was given, and of the rest what the default has otherwise than its class fills in.

    Only the difference is added, so that a field that nobody gave does not look like one that was.

    Args:
        default: Of the field that the mapping is for.
        given: By the user.
        filled: What the class around fills in for this mapping by itself; None for the defaults of
            the default's own class.
    """
    kind = type(default)
    tags = {name: kind.model_fields[name].default for name in _tags(kind)}
    if any(given.get(name, tag) != tag for name, tag in tags.items()):
        return given  # another member of a union
    whole = {**tags, **given}
    for name, field in kind.model_fields.items():
        own = getattr(default, name)
        usual = _default(field) if filled is None else getattr(filled, name)
        part = given.get(name)
        if name not in whole and own != usual:
            whole[name] = own
        elif isinstance(own, Settings) and isinstance(part, Mapping):
            whole[name] = _over(own, part, usual if type(usual) is type(own) else None)
    return whole


def _default(field: FieldInfo) -> Any:  # noqa: ANN401 (any value)
    return field.get_default(call_default_factory=True, validated_data={})


def _tags(kind: type[Settings]) -> list[str]:
    """The fields of a class that can only have one value, such as `method`."""
    return [
        name
        for name, field in kind.model_fields.items()
        if get_origin(field.annotation) is Literal
        and get_args(field.annotation) == (field.default,)
    ]
