"""YAML 1.2 scalars, no duplicate keys, and the line of every value; nothing here knows `seal`."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import yaml

Key = str | int
"""One step into a tree: a mapping's key, or a place in a list."""

MAX_VALUES = 20_000
"""Values in a document, those that anchors repeat counted each time."""

MAX_CHARACTERS = 2**20
"""Of a document: the parser takes a second or two for as many."""

_SURROGATE = re.compile("[\ud800-\udfff]")
_HALF_A_PAIR = "half a surrogate pair, which is no character"
_MAX_INT_BITS = 4096  # longer ones Python refuses to show


@dataclass(frozen=True, slots=True, eq=False)
class Document:
    """A YAML text as plain values that know where they were written.

    Attributes:
        where: The file's name, as messages show it.
        value: Mappings (keys are always text), lists, text, numbers, booleans and None.
        root: The parsed nodes; None for an empty text.
    """

    where: str
    value: Any
    root: yaml.Node | None

    def has(self, path: Sequence[Key]) -> bool:
        """Whether something is written at `path`."""
        return self.root is not None and len(list(_trail(self.root, path))) == len(path)

    def line(self, path: Sequence[Key]) -> int:
        """The line, from 1, of what is at `path`, or of the innermost thing around it."""
        if self.root is None:
            return 1
        *_, (mark, _) = [(self.root.start_mark, self.root), *_trail(self.root, path)]
        return mark.line + 1

    def text(self, path: Sequence[Key]) -> str | None:
        """A scalar as it was written (`0123`, `1e5`); None for anything else."""
        if self.root is None or not self.has(path):
            return None
        *_, (_, node) = [(None, self.root), *_trail(self.root, path)]
        return node.value if isinstance(node, yaml.ScalarNode) else None


def parse_yaml(text: str, where: str) -> Document:
    """Read one YAML document.

    Plain scalars follow the YAML 1.2 core schema: `1e-5` is a number; `yes`, `no`, `on`, `off`,
    `3:30` and dates are text; `0123` is 123 and `0o17` is 15. Anchors and merges (`<<`) work.

    Raises:
        ValueError: With file and line: what is not YAML, a key given twice, a tag other than the
            core schema's, an anchor inside itself, half a surrogate pair, more than
            `MAX_VALUES` values or `MAX_CHARACTERS`.
    """
    if len(text) > MAX_CHARACTERS:
        raise ValueError(f"{where}: longer than {MAX_CHARACTERS} characters: not a configuration.")
    try:
        root = _compose(text, where)
        value = None if root is None else _Reader(where).read(root)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = f":{mark.line + 1}" if mark else ""
        raise ValueError(f"{where}{line}: not valid YAML: {_problem(error)}") from error
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        raise ValueError(
            f"{where}:{line}: not valid YAML: the control character {chr(error.character)!r}. "
            "Remove it, or write it as an escape inside double quotes."
        ) from error
    except RecursionError as error:
        raise ValueError(f"{where}: not valid YAML: nested too deeply.") from error
    return Document(where, value, root)


def dump_yaml(value: Any) -> str:  # noqa: ANN401 (any tree of plain values)
    """Plain values as YAML that `parse_yaml` and YAML 1.1 readers read back to the same."""
    return yaml.dump(
        value,
        Dumper=_Dumper,
        default_flow_style=False,
        sort_keys=False,
        allow_unicode=True,
        width=1000,
    )


def flow_yaml(value: Any) -> str:  # noqa: ANN401 (any tree of plain values)
    """Plain values as YAML on one line."""
    return yaml.dump(
        value,
        Dumper=_OnOneLine,
        default_flow_style=True,
        sort_keys=False,
        allow_unicode=True,
        width=1_000_000,
    ).strip()


def _compose(text: str, where: str) -> yaml.Node | None:
    loader = _Loader(text)
    try:
        return loader.get_single_node()
    except (ValueError, OverflowError) as error:  # PyYAML asks for the character of any number
        line = loader.line + 1
        raise ValueError(f"{where}:{line}: not valid YAML: an escape of no character.") from error


class _Loader(yaml.SafeLoader):
    yaml_implicit_resolvers: ClassVar[dict[str, Any]] = {}  # pyright: ignore[reportIncompatibleVariableOverride]


class _Dumper(yaml.SafeDumper):
    """Quotes text that either version of YAML would take for something else."""

    def represent_sequence(
        self,
        tag: str,
        sequence: Any,  # noqa: ANN401 (PyYAML's signature)
        flow_style: bool | None = None,  # noqa: ARG002
    ) -> yaml.SequenceNode:
        """Innermost lists go on one line."""
        flat = not any(isinstance(item, dict | list) for item in sequence)
        return yaml.SafeDumper.represent_sequence(self, tag, sequence, flow_style=flat)

    def ignore_aliases(self, data: Any) -> bool:  # noqa: ANN401, ARG002 (PyYAML's signature)
        """Write shared values out, each time."""
        return True


def _text(dumper: _Dumper, text: str) -> yaml.ScalarNode:
    # PyYAML writes U+0085, U+2028 and U+2029 as line breaks, which read back as spaces.
    style = '"' if re.search("[\x85\u2028\u2029]", text) else None
    return dumper.represent_scalar(_TAG + "str", text, style)


_Dumper.add_representer(str, _text)


class _OnOneLine(_Dumper):
    """Writes every list between brackets."""

    def represent_sequence(
        self,
        tag: str,
        sequence: Any,  # noqa: ANN401 (PyYAML's signature)
        flow_style: bool | None = None,  # noqa: ARG002
    ) -> yaml.SequenceNode:
        """Whatever is in it."""
        return yaml.SafeDumper.represent_sequence(self, tag, sequence, flow_style=True)


_TAG = "tag:yaml.org,2002:"
_CORE = {
    "null": (r"null|Null|NULL|~|", ["n", "N", "~", ""]),
    "bool": (r"true|True|TRUE|false|False|FALSE", list("tTfF")),
    "int": (r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+", list("-+0123456789")),
    "float": (
        r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?"
        r"|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)",
        list("-+.0123456789"),
    ),
    "merge": (r"<<", ["<"]),
}
for _name, (_pattern, _first) in _CORE.items():
    for _class in (_Loader, _Dumper, _OnOneLine):
        _class.add_implicit_resolver(_TAG + _name, re.compile(rf"^(?:{_pattern})$"), _first)


class _Reader:
    """From nodes to plain values."""

    def __init__(self, where: str) -> None:
        self.where = where
        self.done: dict[yaml.Node, Any] = {}
        self.sizes: dict[yaml.Node, int] = {}
        self.open: set[yaml.Node] = set()

    def read(self, node: yaml.Node) -> Any:  # noqa: ANN401 (any plain value)
        """The value of a node; an anchor's value is made once."""
        if node in self.open:
            raise self._wrong(node, "an anchor contains itself")
        if node not in self.done:
            self.open.add(node)
            self.done[node] = self._value(node)
            self.open.remove(node)
            self.sizes[node] = 1 + sum(self.sizes[child] for child in _children(node))
            # Few lines can repeat one anchor beyond all memory, once the values are copied.
            if self.sizes[node] > MAX_VALUES:
                raise self._wrong(node, f"more than {MAX_VALUES} values, all anchors written out")
        return self.done[node]

    def _value(self, node: yaml.Node) -> Any:  # noqa: ANN401
        kind = node.tag.removeprefix(_TAG)
        if isinstance(node, yaml.MappingNode) and kind == "map":
            self._merge(node)
            return {key.value: self.read(value) for key, value in node.value}
        if isinstance(node, yaml.SequenceNode) and kind == "seq":
            return [self.read(item) for item in node.value]
        if isinstance(node, yaml.ScalarNode) and kind in _SCALARS:
            if not _is_text(node.value):
                raise self._wrong(node, _HALF_A_PAIR)
            try:
                return _SCALARS[kind](node.value)
            except (ValueError, KeyError) as error:
                raise self._wrong(node, f"{node.value[:60]!r} is no valid {kind}") from error
        raise self._wrong(node, f"the tag {node.tag.replace(_TAG, '!!')} is not supported here")

    def _merge(self, node: yaml.MappingNode) -> None:
        """Put the pairs that `<<` brings in before the mapping's own."""
        own: dict[str, tuple[yaml.Node, yaml.Node]] = {}
        merged: dict[str, tuple[yaml.Node, yaml.Node]] = {}  # each key once, or they multiply
        for key, value in node.value:
            if not isinstance(key, yaml.ScalarNode):
                raise self._wrong(key, "a key must be plain text")
            if not _is_text(key.value):
                raise self._wrong(key, _HALF_A_PAIR)
            if key.value in own:
                first = own[key.value][0].start_mark.line + 1
                raise ValueError(
                    f"{self.where}:{key.start_mark.line + 1}: the key {key.value!r} is given twice "
                    f"(first on line {first}). Remove one of them."
                )
            own[key.value] = (key, value)
            if key.tag == _TAG + "merge":
                merged = {pair[0].value: pair for pair in self._merged(value)}
        kept = {name: pair for name, pair in own.items() if pair[0].tag != _TAG + "merge"}
        node.value = list({**merged, **kept}.values())

    def _merged(self, node: yaml.Node) -> list[tuple[yaml.Node, yaml.Node]]:
        parts = node.value[::-1] if isinstance(node, yaml.SequenceNode) else [node]
        for part in parts:
            if not isinstance(part, yaml.MappingNode):
                raise self._wrong(part, "<< takes a mapping, or a list of mappings")
            self.read(part)
        return [pair for part in parts for pair in part.value]

    def _wrong(self, node: yaml.Node, problem: str) -> ValueError:
        return ValueError(f"{self.where}:{node.start_mark.line + 1}: not valid YAML: {problem}.")


def _is_text(value: str) -> bool:
    """Whether it can be written as UTF-8, as every file of a run is."""
    return value.isascii() or not _SURROGATE.search(value)


def _children(node: yaml.Node) -> Iterator[yaml.Node]:
    if isinstance(node, yaml.MappingNode):
        yield from (value for _, value in node.value)
    elif isinstance(node, yaml.SequenceNode):
        yield from node.value


def _int(text: str) -> int:
    radix = {"0o": 8, "0x": 16}.get(text[:2], 10)
    value = int(text, radix)
    if value.bit_length() > _MAX_INT_BITS:
        raise ValueError
    return value


def _float(text: str) -> float:
    return float(text.lower().replace(".inf", "inf").replace(".nan", "nan"))


_SCALARS = {
    "null": lambda _: None,
    "bool": lambda text: {"true": True, "false": False}[text.lower()],
    "int": _int,
    "float": _float,
    "str": str,
}


def _trail(node: yaml.Node, path: Sequence[Key]) -> Iterator[tuple[yaml.Mark, yaml.Node]]:
    """Mark and node at each step of `path`, as far as there is something.

    Where a list of one is written as a mere mapping, the step 0 stays in place.
    """
    for part in path:
        if isinstance(node, yaml.SequenceNode) and isinstance(part, int) and part < len(node.value):
            node = node.value[part]
            yield node.start_mark, node
        elif isinstance(node, yaml.MappingNode) and part == 0:
            yield node.start_mark, node
        elif isinstance(node, yaml.MappingNode):
            pairs = [pair for pair in node.value if pair[0].value == part]
            if not pairs:
                return
            key, node = pairs[-1]
            yield key.start_mark, node
        else:
            return


def _problem(error: yaml.MarkedYAMLError) -> str:
    problem = error.problem or error.context or "unreadable"
    if "'\\t'" in problem:
        return "a tab. Use spaces to indent."
    if "expected a single document" in f"{error.context}":
        return "a second document begins here (---). Give one document per file."
    if "mapping values are not allowed" in problem or "cannot start any token" in problem:
        return f"{problem}. Put text with ': ', or that begins with @ or `, in quotes."
    mark = error.context_mark
    since = f" ({error.context}, from line {mark.line + 1})" if mark and error.context else ""
    return f"{problem}{since}."
