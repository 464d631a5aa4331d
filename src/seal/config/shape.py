"""What a tree of pydantic classes takes at a path: its keys, lists and unions."""

from __future__ import annotations

from collections.abc import Mapping
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel

from seal.config.positions import Key

Shape = tuple[Any, ...]
"""The types that a value may have at some place; None is left out."""

_LISTS = (tuple, list, set, frozenset)


def shape_of(annotation: Any) -> Shape:  # noqa: ANN401 (any type)
    """The members of a union, or the one type."""
    origin = get_origin(annotation)
    if origin is Annotated:
        return shape_of(get_args(annotation)[0])
    if origin in (Union, UnionType):
        members = (part for part in get_args(annotation) if part is not NoneType)
        return tuple(kind for part in members for kind in shape_of(part))
    return (annotation,)


def inside(shape: Shape, key: Key) -> Shape:
    """The shape of what is at `key`; empty when there is no such place.

    A mapping may stand for a list of one: keys of text reach into the items of a list.
    """
    return tuple(kind for outer in shape for kind in _inside(outer, key))


def models(shape: Shape) -> list[type[BaseModel]]:
    """The classes of settings in a shape."""
    return [kind for kind in shape if isinstance(kind, type) and issubclass(kind, BaseModel)]


def keys(shape: Shape) -> list[str]:
    """The keys that a mapping of this shape takes, in their order."""
    return list(dict.fromkeys(name for model in models(shape) for name in model.model_fields))


def takes_list(shape: Shape) -> bool:
    """Whether a list may stand here."""
    return any(get_origin(kind) in _LISTS for kind in shape)


def member(shape: Shape, tag: Key) -> Shape:
    """The member of a union that pydantic calls `tag` in the place of an error."""
    tagged = [model for model in models(shape) if tag in tags(model).values()]
    named = [kind for kind in shape if _name(kind) == str(tag).split("[")[0]]
    return tuple(tagged or named)


def tags(model: type[BaseModel]) -> dict[str, Any]:
    """The fields of a class with only one possible value, such as `method`, and that value."""
    return {
        name: get_args(field.annotation)[0]
        for name, field in model.model_fields.items()
        if get_origin(field.annotation) is Literal and len(get_args(field.annotation)) == 1
    }


def required(shape: Shape, *, deep: bool = True) -> list[str]:
    """The dotted keys below a shape that have no default; only its own keys unless `deep`."""
    found: list[str] = []
    for model in models(tuple(kind for outer in shape for kind in _item(outer)))[:1]:
        for name, field in model.model_fields.items():
            if field.is_required():
                below = required(shape_of(field.annotation)) if deep else []
                found += [f"{name}.{key}" for key in below] or [name]
    return found


def places_of(shape: Shape, name: str) -> list[str]:
    """The dotted keys below a shape that end in `name`."""
    found: list[str] = []
    for model in models(shape):
        for key, field in model.model_fields.items():
            found += [key] if key == name else []
            found += [f"{key}.{rest}" for rest in places_of(shape_of(field.annotation), name)]
    return list(dict.fromkeys(found))


def _inside(outer: Any, key: Key) -> Shape:  # noqa: ANN401
    origin, arguments = get_origin(outer), get_args(outer)
    if origin in _LISTS:
        item = _item(outer, key if isinstance(key, int) else 0)
        return item if isinstance(key, int) else inside(item, key)
    if origin in (dict, Mapping):
        return shape_of(arguments[1])
    found = models((outer,))
    fields = found[0].model_fields if found else {}
    return shape_of(fields[key].annotation) if isinstance(key, str) and key in fields else ()


def _item(kind: Any, place: int = 0) -> Shape:  # noqa: ANN401
    """The shape of a list's items; of anything else, its own."""
    if get_origin(kind) not in _LISTS:
        return (kind,)
    arguments = [part for part in get_args(kind) if part is not Ellipsis]
    return shape_of(arguments[min(place, len(arguments) - 1)]) if arguments else ()


def _name(kind: Any) -> str:  # noqa: ANN401
    known = get_origin(kind) or kind
    return known.__name__ if isinstance(known, type) else str(known)
