"""A commented configuration to start from, made of the classes' own fields and docstrings."""

from __future__ import annotations

import inspect
import re
import textwrap
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from seal.config.positions import dump_yaml
from seal.config.shape import Shape, inside, models, shape_of, tags, takes_list

_WIDTH = 98


def commented_yaml(model: type[BaseModel], values: Mapping[str, str]) -> str:
    """Every key of a class with its meaning; those that have a default are commented out.

    Args:
        model: What the configuration is of.
        values: Dotted key -> what to write for a required key instead of leaving it empty.
    """
    lines: list[str] = []
    for name, field in model.model_fields.items():
        lines += ["", *_field(model, name, field, values, name)]
    return "\n".join(lines[1:]) + "\n"


def attribute_docs(model: type[BaseModel]) -> dict[str, str]:
    """Field -> what the `Attributes:` of the class and of its bases say about it."""
    found: dict[str, str] = {}
    for cls in reversed(model.__mro__):
        text = inspect.cleandoc(cls.__doc__ or "")
        section = re.search(r"^Attributes:\n((?:[ ].*\n?|\n)*)", text, re.MULTILINE)
        entries = textwrap.dedent(section[1]) if section else ""
        for entry in re.split(r"\n(?=\w)", entries):
            name, colon, words = entry.partition(":")
            if colon:
                found[name] = " ".join(words.split())
    return found


def _section(
    model: type[BaseModel], values: Mapping[str, str], path: str, default: BaseModel | None
) -> Iterator[str]:
    for name, tag in tags(model).items():
        yield f"{name}: {tag}"
    for name, declared in model.model_fields.items():
        if name not in tags(model):
            field = _with_default(declared, name, default)
            yield from _field(model, name, field, values, f"{path}.{name}")


def _with_default(field: FieldInfo, name: str, owner: BaseModel | None) -> FieldInfo:
    """The field with the default that it has inside a default of its section."""
    if owner is None:
        return field
    return FieldInfo(annotation=field.annotation, default=owner.__dict__[name])


def _field(
    model: type[BaseModel], name: str, field: FieldInfo, values: Mapping[str, str], path: str
) -> Iterator[str]:
    yield from _comment(attribute_docs(model).get(name, ""))
    shape = shape_of(field.annotation)
    default = field.get_default(call_default_factory=True)
    if field.is_required() and not models(_items(shape)):
        yield f"{name}: {values.get(path, '')}".rstrip()
    elif field.is_required() or isinstance(default, BaseModel):
        inner = type(default) if isinstance(default, BaseModel) else models(_items(shape))[0]
        chosen = default if isinstance(default, BaseModel) else None
        yield f"{name}:"
        yield from _indented(_section(inner, values, path, chosen))
        yield from _others(shape, inner)
    else:
        examples = list(_examples(_items(shape))) if takes_list(shape) and not default else []
        text = f"{name}:" if examples else dump_yaml({name: _plain(default)})
        yield from (f"#{line}" for line in [*text.splitlines(), *_indented(examples)])


def _others(shape: Shape, chosen: type[BaseModel]) -> Iterator[str]:
    """Which other members of a union there are."""
    for model in models(shape):
        if model is not chosen:
            (name, tag), *_ = tags(model).items()
            yield from _indented(_comment(f"Or {name}: {tag}. {_summary(model)}"))


def _examples(shape: Shape) -> Iterator[str]:
    """An item of a list for each class that it takes, with its required keys."""
    for model in models(shape):
        keys = {**tags(model)} | {
            name: "..." for name, field in model.model_fields.items() if field.is_required()
        }
        yield f"# {_summary(model)}"
        first, *rest = [f"{name}: {value}" for name, value in keys.items()]
        yield f"- {first}"
        yield from (f"  {line}" for line in rest)


def _items(shape: Shape) -> Shape:
    return inside(shape, 0) if takes_list(shape) else shape


def _plain(value: Any) -> Any:  # noqa: ANN401 (a default: any value)
    if isinstance(value, BaseModel):
        return value.model_dump(mode="json")
    if isinstance(value, tuple | list):
        return [_plain(item) for item in value]
    return value if isinstance(value, str | bool | int | float | dict | None) else str(value)


def _comment(text: str) -> Iterator[str]:
    yield from (f"# {line}" for line in textwrap.wrap(text, _WIDTH - 6))


def _summary(model: type[BaseModel]) -> str:
    return inspect.cleandoc(model.__doc__ or "").split("\n", 1)[0]


def _indented(lines: Iterable[str]) -> Iterator[str]:
    return (f"  {line}" for line in lines)
