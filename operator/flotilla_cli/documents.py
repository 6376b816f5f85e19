"""YAML and JSON streams as documents: their text to the byte, their values, and where in the text each value stands."""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, TypeGuard, cast

import yaml

from .errors import InputError

ALIAS = "alias"
"""Style of the node that stands where a document has an alias."""
Path = tuple[str | int, ...]
"""Keys and indices that lead from what a document holds to a part of it."""
_BOUNDARY = re.compile(r"(?<![^\r\n])(?:(?=---(?!\S))|\.\.\.(?!\S)[^\r\n]*(?:\r\n|\r|\n|\Z))")
_HEAD = re.compile(r"\ufeff?(?:---(?!\S))?\s*")
_LITERAL_TEXT = {"tag:yaml.org,2002:timestamp", "tag:yaml.org,2002:value"}


@dataclass(frozen=True, slots=True)
class Document:
    """One document of a stream: its marker, comments and line ends are part of its text."""

    text: str
    line: int
    """Of its first character in the stream, from 1."""

    @property
    def is_json(self) -> bool:
        """Whether the text is a JSON object, which is YAML as well."""
        try:
            _parse_json(self.text)
        except ValueError:
            return False
        return True


def is_mapping(value: Any) -> TypeGuard[dict[str, Any]]:
    """Whether a value of a document is a mapping; its keys are texts wherever Kubernetes defines them."""
    return isinstance(value, dict)


def is_list(value: Any) -> TypeGuard[list[Any]]:
    """Whether a value of a document is a list."""
    return isinstance(value, list)


def split(stream: str) -> list[Document]:
    """The documents of a stream; their texts, joined, are the stream.

    A line `---` begins a document wherever it stands, a line `...` ends one, and JSON objects may follow one another
    without either.
    """
    documents: list[Document] = []
    line = 1
    for text in _split_at(stream, [found.end() for found in _BOUNDARY.finditer(stream)]):
        for part in _split_at(text, _json_ends(text)):
            documents.append(Document(part, line))
            line += part.count("\n")
    return documents


def parse(document: Document) -> Any:
    """What a document holds; None: nothing but comments.

    Times stay text, as they do for Kubernetes, and tags that Kubernetes does not know say nothing.

    Raises:
        InputError: it is neither JSON nor YAML.
    """
    try:
        return _parse_json(document.text)
    except ValueError:
        pass
    if all(not line.strip() or line.lstrip("\ufeff \t")[:1] in {"#", "%"} for line in document.text.splitlines()):
        return None
    try:
        return yaml.load(document.text, _Values)  # noqa: S506 - a SafeLoader
    except yaml.YAMLError as error:
        raise InputError(_sentence(error, document)) from error


def compose(document: Document) -> yaml.Node:
    """The nodes of a document that holds something, with the positions of each in its text.

    Raises:
        InputError: it is neither JSON nor YAML.
    """
    # JSON may be indented with tabs, which the YAML parser does not take; a string of JSON never holds one.
    text = document.text.replace("\t", " ") if document.is_json else document.text
    try:
        node = yaml.compose(text, _Positions)
    except yaml.YAMLError as error:
        raise InputError(_sentence(error, document)) from error
    assert node is not None
    return node


def with_part(value: Any, path: Path, part: Any) -> Any:
    """`value` with `part` at `path`, where something stands already."""
    if not path:
        return part
    step, rest = path[0], path[1:]
    if is_list(value):
        return [with_part(item, rest, part) if index == step else item for index, item in enumerate(value)]
    return {**value, step: with_part(value[step], rest, part)}


class _Values(yaml.SafeLoader):
    """Values as Kubernetes reads them."""

    def construct_untagged(self, node: yaml.Node) -> Any:
        """The value of a node whose tag nobody knows."""
        if isinstance(node, yaml.MappingNode):
            return self.construct_mapping(node, deep=True)
        if isinstance(node, yaml.SequenceNode):
            return self.construct_sequence(node, deep=True)
        return node.value


_Values.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag not in _LITERAL_TEXT]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Values.add_constructor(None, _Values.construct_untagged)  # type: ignore[arg-type]


class _Positions(yaml.SafeLoader):
    """Nodes with their places: an alias is a node of its own, where it stands, instead of what it stands for."""

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        """The next node."""
        if not self.check_event(yaml.AliasEvent):
            return super().compose_node(parent, index)
        alias = cast("Any", self.get_event())  # pyright: ignore[reportUnknownMemberType]
        return yaml.ScalarNode("", "", alias.start_mark, alias.end_mark, style=ALIAS)


def _parse_json(text: str) -> Any:
    """Raises: ValueError."""
    start = _head_length(text)
    if not text.startswith("{", start):
        raise ValueError("not a JSON object")
    return json.loads(text[start:])


def _json_ends(text: str) -> Iterator[int]:
    """Where the JSON objects of `text` end that another one follows."""
    end = _head_length(text)
    while text.startswith("{", end):
        try:
            _, end = json.JSONDecoder().raw_decode(text, end)
        except ValueError:
            return
        following = len(text) - len(text[end:].lstrip())
        if text.startswith("{", following):
            yield end
        end = following


def _head_length(text: str) -> int:
    found = _HEAD.match(text)
    return found.end() if found else 0


def _split_at(text: str, positions: Iterator[int] | list[int]) -> list[str]:
    edges = [0, *positions, len(text)]
    return [text[start:end] for start, end in itertools.pairwise(edges) if start < end]


def _sentence(error: yaml.YAMLError, document: Document) -> str:
    mark = getattr(error, "problem_mark", None)
    line = document.line + (mark.line if mark else 0)
    return f"line {line}: {getattr(error, 'problem', None) or error}"
