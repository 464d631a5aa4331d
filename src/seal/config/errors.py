"""pydantic's findings in the words of the user: place, key, what is wrong, the way out."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from shlex import quote
from typing import Any

from pydantic import ValidationError

from seal.config.draft import COMMAND_LINE, Draft, KeyPath, dotted, show
from seal.config.examples import list_example, mapping_example, nearest
from seal.config.shape import (
    Shape,
    inside,
    keys,
    member,
    models,
    places_of,
    required,
    tags,
    takes_list,
)


@dataclass(frozen=True, slots=True, eq=False)
class Finding:
    """One of pydantic's errors, and where in the user's values it lies.

    Attributes:
        kind: pydantic's name for the kind of error.
        path: The keys the user typed; a union's tags and the 0 of a list of one are left out.
        outer: The shape around the value.
        value: What was given; for a missing key, what it is missing from.
        context: pydantic's details.
        message: pydantic's own words.
        in_union: Whether the value may be of several types.
    """

    kind: str
    path: KeyPath
    outer: Shape
    value: Any
    context: dict[str, Any]
    message: str
    in_union: bool


_MOST = 50  # mistakes that are told at once


def findings(error: ValidationError, draft: Draft) -> list[Finding]:
    """Each of pydantic's errors with its place."""
    return [
        _locate(item, draft)  # pyright: ignore[reportArgumentType]
        for item in error.errors(include_url=False)
    ]


def explain(found: list[Finding], draft: Draft) -> str:
    """A text with one line per thing that is wrong: place, key, what is wrong, the way out."""
    more = len(found) - _MOST
    found = found[:_MOST]
    lines: dict[KeyPath, list[str]] = {}
    guessed = {(*item.path[:-1], _guess(item)) for item in found if item.kind == "extra_forbidden"}
    for item in found:
        deeper = any(other.path[: len(item.path)] == item.path != other.path for other in found)
        if (item.in_union and deeper) or (item.kind == "missing" and item.path in guessed):
            continue  # said better by another line
        lines.setdefault(item.path, []).append(_text(item, draft))
    told = [f"{draft.place(path)}: {_named(path, _joined(texts))}" for path, texts in lines.items()]
    return "\n".join([*told, f"and {more} more."] if more > 0 else told)


def _named(path: KeyPath, text: str) -> str:
    """The text after its key, unless it begins with that key already."""
    name = dotted(path)
    return (
        text
        if not name or text.startswith((f"{name}:", f"{name}.", f"{name}="))
        else f"{name}: {text}"
    )


def _locate(item: dict[str, Any], draft: Draft) -> Finding:
    shape, outer, value = draft.shape, (), draft.value
    path: KeyPath = ()
    in_union = False
    for part in item["loc"]:
        if len(shape) > 1:  # here pydantic names the member of the union
            shape, in_union = member(shape, part), not models(shape)
        elif isinstance(part, int) and isinstance(value, dict) and takes_list(shape):
            shape = inside(shape, part)
        elif part != "[key]":
            path, outer, shape = (*path, part), shape, inside(shape, part)
            value = _child(value, part)
    context = item.get("ctx", {})
    if item["type"].startswith("union_tag"):
        outer = shape
    if item["type"] == "union_tag_invalid":
        path = (*path, context["discriminator"].strip("'"))
    return Finding(item["type"], path, outer, item["input"], context, item["msg"], in_union)


def _child(value: Any, part: str | int) -> Any:  # noqa: ANN401 (any plain value)
    if isinstance(value, dict):
        return value.get(part)
    if isinstance(value, list) and isinstance(part, int) and part < len(value):
        return value[part]
    return None


def _text(item: Finding, draft: Draft) -> str:
    if item.kind in _TEXTS:
        return _TEXTS[item.kind](item, draft)
    if item.kind in _EXPECTED:
        return f"expected {_EXPECTED[item.kind]}, got {show(item.value)}."
    for name, words in _BOUNDS.items():
        if name in item.context:
            return f"expected {words} {item.context[name]}, got {show(item.value)}."
    return f"{item.message[0].lower()}{item.message[1:]}, got {show(item.value)}."


def _joined(texts: list[str]) -> str:
    """The texts about one value; several of "expected X, got Y" become "expected X or Z, got Y"."""
    unique = list(dict.fromkeys(texts))
    parts = [text.removeprefix("expected ").split(", got ", 1) for text in unique]
    if len(unique) > 1 and all(len(part) == 2 for part in parts):
        return f"expected {' or '.join(part[0] for part in parts)}, got {parts[0][1]}"
    return " ".join(unique)


def _unknown(item: Finding, draft: Draft) -> str:
    hint, others = _guess(item), _of_other_kinds(item, draft)
    if hint and not others:
        return f"unknown key. Did you mean '{hint}'?"
    here = dotted(item.path)
    elsewhere = [name for name in places_of(draft.shape, str(item.path[-1])) if name != here]
    # It is in no wrong place, but belongs to another kind of this section, or to none.
    around = ".".join([part for part in item.path if isinstance(part, str)][-2:])
    is_kin = "." in around and any(f".{name}".endswith(f".{around}") for name in elsewhere)
    if elsewhere and not others and not is_kin:
        return f"unknown key here. Did you mean {' or '.join(map(repr, elsewhere[:4]))}?"
    chosen = [pair for kind in models(item.outer) for pair in tags(kind).items()]
    known = "".join(f" with {name} {tag}" for name, tag in chosen[:1])
    return f"unknown key. The keys here{known}: {', '.join(keys(item.outer))}.{others}"


def _of_other_kinds(item: Finding, draft: Draft) -> str:
    """A sentence on the members of the union around an unknown key that have it; may be empty."""
    around, key = draft.shape, str(item.path[-1])
    for part in item.path[:-1]:
        around = inside(around, part)
    found: dict[str, list[str]] = {}
    for model in models(around):
        for name, value in tags(model).items() if key in model.model_fields else ():
            found.setdefault(name, []).append(str(value))
    return "".join(
        f" {key} is a key of {name} {', '.join(dict.fromkeys(values))}: set "
        f"{dotted((*item.path[:-1], name))}."
        for name, values in found.items()
    )


def _guess(item: Finding) -> str:
    return nearest(str(item.path[-1]), keys(item.outer))


def _missing(item: Finding, draft: Draft) -> str:
    if isinstance(item.path[-1], int):
        return f"missing: expected at least {item.path[-1] + 1} items, got {show(item.value)}."
    name = dotted(item.path)
    below = required(tuple(inside(item.outer, item.path[-1])))
    words = " ".join(f"{name}.{key}=VALUE" for key in below) or f"{name}=VALUE"
    if draft.document.root is None:
        return f"missing key. Give {words}, or a YAML file; `seal config init` writes one."
    if draft.document.where == COMMAND_LINE:
        return f"missing key. Give {words} on the command line, too."
    return f"missing key. Add it to {draft.document.where}, or give {words} on the command line."


def _bad_tag(item: Finding, draft: Draft) -> str:  # noqa: ARG001 (the signature of _TEXTS)
    name = str(item.context["discriminator"]).strip("'")
    known = [str(tags(model)[name]) for model in models(item.outer) if name in tags(model)]
    listed = f"Known: {', '.join(known)}."
    if item.kind == "union_tag_not_found":
        return f"missing key '{name}'. {listed}"
    tag = str(item.context["tag"])
    hint = nearest(tag, known)
    return f"unknown {name} {tag!r}. " + (f"Did you mean '{hint}'? " if hint else "") + listed


def _literal(item: Finding, draft: Draft) -> str:  # noqa: ARG001
    expected = str(item.context["expected"])
    known = [word.strip(" '") for word in expected.replace(" or ", ",").split(",")]
    hint = nearest(str(item.value), known) if isinstance(item.value, str) else ""
    return f"expected {expected}, got {show(item.value)}." + (
        f" Did you mean '{hint}'?" if hint else ""
    )


def _list(item: Finding, draft: Draft) -> str:
    text = f"expected a list, got {show(item.value)}."
    shape = inside(item.outer, item.path[-1])
    if isinstance(item.value, dict) and models(tuple(inside(shape, 0))):
        return f"{text} Make it a list of one: put '- ' before its first key, or [ ] around it."
    given = [item.value, draft.text(item.path)]  # where text belongs, 0123 and not 123
    return text + _write(list_example(item.outer, item.path[-1], given), item, draft)


def _mapping(item: Finding, draft: Draft) -> str:
    text = f"expected a mapping (key: value), got {show(item.value)}."
    if not item.path:
        return text
    example = mapping_example(item.outer, item.path[-1], item.value)
    kinds = [
        tag for model in models(inside(item.outer, item.path[-1])) for tag in tags(model).values()
    ]
    listed = f" Known: {', '.join(kinds)}." if len(kinds) > 1 and item.value not in kinds else ""
    return text + _write(example, item, draft) + listed


def _write(example: str, item: Finding, draft: Draft) -> str:
    """A sentence with what may be written instead; empty if nothing is known."""
    if not example:
        return ""
    on_line = draft.place(item.path) == COMMAND_LINE
    return f" Write {dotted(item.path)}={quote(example)}." if on_line else f" Write {example}."


def _own_words(item: Finding, draft: Draft) -> str:  # noqa: ARG001
    return str(item.context["error"])


_TEXTS: dict[str, Callable[[Finding, Draft], str]] = {
    "extra_forbidden": _unknown,
    "missing": _missing,
    "union_tag_invalid": _bad_tag,
    "union_tag_not_found": _bad_tag,
    "literal_error": _literal,
    "tuple_type": _list,
    "list_type": _list,
    "dict_type": _mapping,
    "model_type": _mapping,
    "model_attributes_type": _mapping,
    "value_error": _own_words,
    "assertion_error": _own_words,
}
_EXPECTED = {
    "int_type": "an integer",
    "int_parsing": "an integer",
    "int_from_float": "an integer",
    "float_type": "a number",
    "float_parsing": "a number",
    "finite_number": "a finite number",
    "bool_type": "true or false",
    "bool_parsing": "true or false",
    "string_type": "text",
    "path_type": "a path",
}
_BOUNDS = {
    "ge": "a value >=",
    "gt": "a value >",
    "le": "a value <=",
    "lt": "a value <",
    "min_length": "a length of at least",
    "max_length": "a length of at most",
}
