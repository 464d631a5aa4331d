"""What may stand at a place of a configuration, for messages: correct, and near what was given."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from difflib import get_close_matches
from types import NoneType
from typing import Any, Literal, get_args, get_origin

from pydantic import BaseModel, TypeAdapter, ValidationError
from pydantic_core import PydanticUndefined

from seal.config.positions import Key, flow_yaml
from seal.config.shape import Shape, inside, models, shape_of, tags

_MOST_SHOWN = 60  # characters of what was given
# What stands in an example for what nobody can guess, by the last key.
_VALUES: dict[str, Any] = {
    "base_url": "http://127.0.0.1:8000/v1",
    "name": "mine",
    "of": "all",
    "path": "FILE",
    "reasoning_marks": ["<think>", "</think>"],
    "seconds": 3600,
    "task": "harmful_prompts",
}
_ENTRIES: dict[str, dict[str, Any]] = {
    "args": {"learning_rate": 1e-4},
    "chat_template_kwargs": {"enable_thinking": False},
    "columns": {"prompt": "question", "completion": "answer"},
    "peft": {"use_rslora": True},
    "quotas": {"web": 0.5},
    "tasks": {"piqa": "acc"},
    "where": {"split": "test"},
}


def nearest(word: str, known: list[str]) -> str:
    """The known word that was most likely meant; empty when none is near."""
    return next(iter(get_close_matches(word, known, n=1, cutoff=0.65)), "")


def mapping_example(outer: Shape, key: Key, given: Any) -> str:  # noqa: ANN401 (any plain value)
    """A mapping that may stand at a key, as YAML on one line; "" if none is known.

    Args:
        outer: The shape around it.
        key: The key, or the place in a list.
        given: What stands there now; taken into the example where it fits.
    """
    found = list(_mappings(inside(outer, key), str(key), given))
    for model in models(outer):  # which may have a rule about it
        found.sort(key=lambda each: not _fits(model, {**_minimal(model), str(key): each}))
    return flow_yaml(found[0]) if found else ""


def list_example(outer: Shape, key: Key, given: Sequence[Any]) -> str:
    """A list that may stand at a key, as YAML on one line; "" if none is known.

    Args:
        outer: The shape around it.
        key: The key, or the place in a list.
        given: Readings of what stands there now. A list of the first that fits is taken; else the
            default; else one example.
    """
    for kind in (kind for kind in inside(outer, key) if get_origin(kind) in (tuple, list)):
        item = shape_of(get_args(kind)[0])
        # `true` is no number here, though pydantic reads it as one.
        alone = [[value] for value in given if isinstance(value, str | int | float)]
        alone = [] if isinstance(given[0], bool) else alone
        around = [_mapping(item, str(key), value) or _value(str(key), item) for value in given[:1]]
        for found in (*alone, _default(outer, key), around):
            if found and _fits(kind, found):
                return flow_yaml(found)
    return ""


def _mapping(shape: Shape, key: str, given: Any) -> dict[str, Any] | None:  # noqa: ANN401
    """The first of `_mappings`, if there is one."""
    return next(_mappings(shape, key, given), None)


def _mappings(shape: Shape, key: str, given: Any) -> Iterator[dict[str, Any]]:  # noqa: ANN401
    """Mappings of a shape, the nearest to what was given first."""
    found = models(shape)
    for candidate in _candidates(found, given):
        if candidate and any(_fits(model, candidate) for model in found):
            yield candidate
    for kind in shape:
        if get_origin(kind) in (dict, Mapping):
            inner = shape_of(get_args(kind)[1])
            entry = _mapping((*inner, *inside(inner, 0)), key, None)  # of a list, its item
            if entry or key in _ENTRIES:
                yield {"mine": entry} if entry else _ENTRIES[key]


def _candidates(found: list[type[BaseModel]], given: Any) -> Iterator[dict[str, Any]]:  # noqa: ANN401
    """Mappings, the nearest to what was given first; whether they can be read is not looked at."""
    kinds = {str(tag): model for model in found for tag in tags(model).values()}
    if isinstance(given, str) and kinds:
        meant = nearest(given, list(kinds)) or next(
            (kind for kind in kinds if given and kind.startswith(given)), ""
        )
        found = [kinds[meant]] if meant else found
    for model in found:
        if not kinds and isinstance(given, str | int | float):
            yield from _around(model, given)
        yield _minimal(model)
        for name, field in model.model_fields.items():
            some, shape = field.default, shape_of(field.annotation)
            if not isinstance(some, str | int | float) or some == "":
                some = _mapping(shape, name, None) or _value(name, shape)
            yield {**_minimal(model), name: some}


def _around(model: type[BaseModel], given: Any) -> Iterator[dict[str, Any]]:  # noqa: ANN401
    """The value under each key in turn that takes it."""
    for name in model.model_fields:
        try:
            read = model.model_validate({**_minimal(model), name: given})
        except ValidationError:
            continue
        value = read.model_dump(mode="json")[name]
        if isinstance(given, str):
            is_meant = name == "path" or isinstance(value, bool)  # a file's name, or "off"
        else:
            is_meant = isinstance(value, bool) == isinstance(given, bool)  # 1 is not `true` here
        if is_meant:
            yield {**_minimal(model), name: given if value == given else value}


def _minimal(model: type[BaseModel]) -> dict[str, Any]:
    """The tags of a class, and an example of every key without a default."""
    needed = {
        name: _value(name, shape_of(field.annotation))
        for name, field in model.model_fields.items()
        if field.is_required()
    }
    return {**tags(model), **needed}


def _value(key: str, shape: Shape) -> Any:  # noqa: ANN401
    """An example of what is under a key."""
    kind = next((kind for kind in shape if kind is not NoneType), str)
    if key in _ENTRIES and any(get_origin(each) in (dict, Mapping) for each in shape):
        return _ENTRIES[key]
    if models(shape):
        return _minimal(models(shape)[-1])  # of judges, the one that every task takes
    if get_origin(kind) is Literal:
        return get_args(kind)[0]
    return _VALUES.get(key, {int: 1, float: 0.5}.get(kind, "NAME"))


def _default(outer: Shape, key: Key) -> list[Any]:
    """The default of a key that takes a list, as plain values; empty if there is none."""
    for model in models(outer):
        field = model.model_fields.get(str(key))
        if field is not None and field.default not in (None, PydanticUndefined, ()):
            return TypeAdapter(Any).dump_python(list(field.default), mode="json")
    return []


def _fits(kind: Any, value: Any) -> bool:  # noqa: ANN401
    if not _is_short(value):
        return False
    try:
        TypeAdapter(kind).validate_python(value)
    except ValidationError:
        return False
    return True


def _is_short(value: Any) -> bool:  # noqa: ANN401
    """Whether no text in it is long, or would not be seen as it is."""
    if isinstance(value, dict):
        return all(_is_short(part) for part in value.values())
    if isinstance(value, list):
        return all(_is_short(part) for part in value)
    return not isinstance(value, str) or (len(value) <= _MOST_SHOWN and value.isprintable())
