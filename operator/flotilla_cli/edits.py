"""Changes to a document as edits of its text, which otherwise stays as it is to the byte.

A block mapping gets its new keys at its end, a block list its new items at its beginning, and whatever is written in
brackets gets both right after the opening one: so each line that is there stays whole. Only `null`, `[]` and `{}` are
replaced, by what comes in their place.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, cast

import yaml

from .documents import ALIAS, Document, Path, is_list, is_mapping
from .errors import EditError
from .notation import Notation, block_list, block_mapping, on_one_line, spread

_LINE_END = re.compile(r"\r\n|\r|\n|\Z")
_COMMENT_LINE = re.compile(r"(?:\r\n|\r|\n)( *)#[^\r\n]*")
_DASH = re.compile(r"(?<![^\r\n])( *)-(?!\S)")
_OPENING = re.compile(r"(?:[&!]\S*\s+)*[\[{] *")
_INDENT = re.compile(r"(?<![^\r\n])[ \t]*")
_FIRST_INDENT = re.compile(r"[\r\n]([ \t]+)\S")


@dataclass(frozen=True, slots=True)
class Edit:
    """`text` in place of what stands from `start` to `end` of a document, which is mostly nothing."""

    start: int
    end: int
    text: str


@dataclass(frozen=True, slots=True)
class Place:
    """A value within a mapping: its own node, its key's, and whether the mapping is written in brackets."""

    key: yaml.Node
    node: yaml.Node
    in_brackets: bool
    over_lines: bool
    """Whether those brackets stand on lines of their own."""


@dataclass(frozen=True, slots=True)
class Page:
    """A document's text, its nodes and its style."""

    text: str
    root: yaml.Node
    notation: Notation


def open_page(document: Document, root: yaml.Node, path: Path) -> Page:
    """A document with its nodes, and the style that the mapping at `path`, a pod or a pod template, is written in.

    Raises:
        EditError: the mapping is an alias, or within one.
    """
    return Page(document.text, root, _notation(document, _follow(root, path)))


def additions(page: Page, path: Path, before: dict[str, Any], after: dict[str, Any]) -> list[Edit]:
    """The edits after which the mapping at `path`, `before` until then, is `after`, which has more but nothing less.

    Raises:
        EditError: something would have to change that is written as an alias, or is no mapping or list.
    """
    node = _follow(page.root, path)
    if not isinstance(node, yaml.MappingNode):
        raise EditError(f"{_dotted(path)} is not written as a mapping")
    return list(_to_mapping(page, path, node, before, after))


def replacement(page: Page, path: Path, value: str) -> Edit:
    """The edit after which the text at `path` is `value`, in the quotes that it is written in now.

    Raises:
        EditError: an alias, an anchor, a tag, a block or no text at all stands there.
    """
    node = _follow(page.root, path)
    if not isinstance(node, yaml.ScalarNode) or node.style not in {None, "'", '"'}:
        raise EditError(f"{_dotted(path)} is not written as a text of its own on one line")
    start, end = node.start_mark.index, node.end_mark.index
    if page.text[start : start + 1] in {"&", "!"} or start == end:
        raise EditError(f"{_dotted(path)} has an anchor or a tag, or is empty")
    return Edit(start, end, _quoted_as(node.style, value, page.notation))


def _quoted_as(style: str | None, value: str, notation: Notation) -> str:
    if style == "'":
        return "'" + value.replace("'", "''") + "'"
    return json.dumps(value, ensure_ascii=False) if style == '"' else on_one_line(value, notation)


def apply(text: str, edits: Sequence[Edit]) -> str:
    """`text` with all edits made; those at one position in their order."""
    parts: list[str] = []
    done = 0
    for edit in sorted(edits, key=lambda each: each.start):
        parts += [text[done : edit.start], edit.text]
        done = max(done, edit.end)
    return "".join([*parts, text[done:]])


# Values in mappings and lists


def _to_mapping(
    page: Page, path: Path, node: yaml.MappingNode, before: dict[str, Any], after: dict[str, Any]
) -> Iterator[Edit]:
    """What is within comes first: its insertion and the mapping's own may fall on one position."""
    written = {key.value: (key, value) for key, value in _pairs(node)}
    changed = {name: value for name, value in after.items() if name not in before or before[name] != value}
    over_lines = _is_over_lines(node)
    for name in changed.keys() & written.keys():
        place = Place(*written[name], bool(node.flow_style), over_lines)
        yield from _to_value(page, (*path, name), place, before[name], after[name])
    if fresh := {name: value for name, value in changed.items() if name not in written}:
        yield _new_keys(page, node, fresh)


def _to_value(page: Page, path: Path, place: Place, before: Any, after: Any) -> Iterator[Edit]:
    node = place.node
    if getattr(node, "style", None) == ALIAS:
        raise EditError(f"{_dotted(path)} is written elsewhere (an alias or a merge key)")
    if before in (None, [], {}):
        yield from _fill(page, place, after)
    elif isinstance(node, yaml.MappingNode) and is_mapping(after):
        yield from _to_mapping(page, path, node, before, after)
    elif isinstance(node, yaml.SequenceNode) and is_list(after):
        yield from _to_list(page, path, place, before, after)
    else:
        raise EditError(f"{_dotted(path)} would have to change")


def _to_list(page: Page, path: Path, place: Place, before: list[Any], after: list[Any]) -> Iterator[Edit]:
    node = cast("yaml.SequenceNode", place.node)
    count = len(after) - len(before)
    if fresh := after[:count]:
        yield _new_items(page, place.key, node, fresh)
    items = _items(node)
    for index, (was, becomes) in enumerate(zip(before, after[count:], strict=True)):
        item = items[index]
        if was == becomes:
            continue
        if not isinstance(item, yaml.MappingNode):
            raise EditError(f"{_dotted((*path, index))} is written elsewhere (an alias or a merge key)")
        yield from _to_mapping(page, (*path, index), item, was, becomes)


def _new_keys(page: Page, node: yaml.MappingNode, fresh: dict[str, Any]) -> Edit:
    if node.flow_style:
        return _behind_opening(page, node, fresh)
    column = _pairs(node)[0][0].start_mark.column
    at = _past_comments(page.text, _line_end(page.text, _end(page.text, node)), column)
    return Edit(at, at, _lines(page, block_mapping(fresh, page.notation), column))


def _new_items(page: Page, key: yaml.Node, node: yaml.SequenceNode, fresh: list[Any]) -> Edit:
    if node.flow_style:
        return _behind_opening(page, node, fresh)
    at = _line_end(page.text, key.end_mark.index)
    return Edit(at, at, _lines(page, block_list(fresh, page.notation), _dash_column(page.text, node)))


def _behind_opening(page: Page, node: yaml.CollectionNode, fresh: dict[str, Any] | list[Any]) -> Edit:
    """After the bracket, or, where the first entry stands on a later line, after the bracket's line."""
    notation = page.notation
    opening = _OPENING.match(page.text, node.start_mark.index)
    if opening is None:
        raise EditError("a comment stands between an anchor or tag and what it belongs to")
    if not _is_over_lines(node):
        texts = [_flow_entry(page, each, on_one_line(value, notation)) for each, value in _entries(fresh)]
        return Edit(opening.end(), opening.end(), "".join(text + notation.separator for text in texts))
    indent = _indent(page.text, _first(node).start_mark.index)
    texts = [_flow_entry(page, each, spread(value, notation, indent)) for each, value in _entries(fresh)]
    at = _line_end(page.text, opening.end())
    return Edit(at, at, "".join(f"{notation.newline}{indent}{text}," for text in texts))


def _fill(page: Page, place: Place, value: Any) -> Iterator[Edit]:
    """`value` for a key that has nothing, `null`, `[]` or `{}`: in its place, or as lines below the key."""
    start, end = place.node.start_mark.index, place.node.end_mark.index
    if place.in_brackets:
        here = _indent(page.text, start) if place.over_lines else ""
        text = spread(value, page.notation, here) if place.over_lines else on_one_line(value, page.notation)
        yield Edit(start, end, text if start < end else f" {text}")
        return
    notation, column = page.notation, place.key.start_mark.column
    yield Edit(len(page.text[:start].rstrip(" ")), end, "")
    at = _line_end(page.text, end)
    if is_list(value):
        yield Edit(at, at, _lines(page, block_list(value, notation), column + notation.dash))
    else:
        yield Edit(at, at, _lines(page, block_mapping(value, notation), column + notation.step))


def _lines(page: Page, lines: list[str], column: int) -> str:
    return "".join(f"{page.notation.newline}{' ' * column}{line}" for line in lines)


def _flow_entry(page: Page, key: str | None, text: str) -> str:
    return text if key is None else page.notation.entry(key, text)


def _entries(fresh: dict[str, Any] | list[Any]) -> list[tuple[str | None, Any]]:
    return list(fresh.items()) if isinstance(fresh, dict) else [(None, each) for each in fresh]


# Positions


def _end(text: str, node: yaml.Node) -> int:
    """Where a value's own text ends; a block's mark is further on, after comments and blank lines."""
    if isinstance(node, yaml.CollectionNode) and not node.flow_style:
        return _end(text, _last(node))
    start, end = node.start_mark.index, node.end_mark.index
    if getattr(node, "style", None) not in {"|", ">"}:
        return end
    header = text[start : _line_end(text, start)]
    value: str = node.value
    if "+" not in header and value.rstrip() == value.rstrip("\n"):
        return len(text[:end].rstrip())
    return end if end == len(text) and not text.endswith(("\r", "\n")) else _before_line_end(text, end)


def _before_line_end(text: str, at: int) -> int:
    return at - (2 if text.endswith("\r\n", 0, at) else 1)


def _line_end(text: str, at: int) -> int:
    found = _LINE_END.search(text, at)
    assert found is not None
    return found.start()


def _past_comments(text: str, at: int, column: int) -> int:
    """The end of the last of the comment lines that follow directly, if they stand at `column` or further right."""
    while (found := _COMMENT_LINE.match(text, at)) and len(found[1]) >= column:
        at = found.end()
    return at


def _dash_column(text: str, node: yaml.SequenceNode) -> int:
    """Of a block list's items."""
    found = _DASH.search(text, _line_start(text, node.start_mark.index))
    return len(found[1]) if found else node.start_mark.column


def _line_start(text: str, at: int) -> int:
    return max(text.rfind("\n", 0, at), text.rfind("\r", 0, at)) + 1


def _indent(text: str, at: int) -> str:
    """What the line is indented with."""
    found = _INDENT.match(text, _line_start(text, at))
    return found[0] if found else ""


def _is_over_lines(node: yaml.CollectionNode) -> bool:
    """Whether a value in brackets begins on a later line than its opening bracket does."""
    return bool(node.flow_style and node.value) and _first(node).start_mark.line > node.start_mark.line


# Nodes


def _follow(root: yaml.Node, path: Path) -> yaml.Node:
    node = root
    for depth, step in enumerate(path):
        found: yaml.Node | None = None
        if isinstance(node, yaml.MappingNode):
            found = next((value for key, value in reversed(_pairs(node)) if key.value == step), None)
        elif isinstance(node, yaml.SequenceNode) and isinstance(step, int):
            found = _items(node)[step]
        if found is None:
            raise EditError(f"{_dotted(path[:depth])} is written elsewhere (an alias or a merge key)")
        node = found
    return node


def _pairs(node: yaml.MappingNode) -> list[tuple[yaml.Node, yaml.Node]]:
    return cast("list[tuple[yaml.Node, yaml.Node]]", node.value)


def _items(node: yaml.SequenceNode) -> list[yaml.Node]:
    return cast("list[yaml.Node]", node.value)


def _first(node: yaml.CollectionNode) -> yaml.Node:
    return _pairs(node)[0][0] if isinstance(node, yaml.MappingNode) else cast("yaml.Node", node.value[0])


def _last(node: yaml.CollectionNode) -> yaml.Node:
    return _pairs(node)[-1][1] if isinstance(node, yaml.MappingNode) else cast("yaml.Node", node.value[-1])


# Style


def _notation(document: Document, template: yaml.Node) -> Notation:
    found = _LINE_END.search(document.text)
    newline = (found[0] if found else "") or "\n"
    if document.is_json:
        indent = _FIRST_INDENT.search(document.text)
        spaced = ": " in document.text or indent is not None
        return Notation(newline=newline, is_json=True, tab=indent[1] if indent else "", spaced=spaced)
    step, dash = _columns(document.text, template)
    return Notation(newline=newline, step=step, dash=dash)


def _columns(text: str, template: yaml.Node) -> tuple[int, int]:
    """Of a mapping within a mapping and of a list's dashes, as the template's spec and its containers show them."""
    own, spec = _column(template), _in_block(template, "spec")
    if spec is None:
        return 2, 0
    containers = _in_block(spec, "containers")
    step = _column(spec) - own
    if not isinstance(containers, yaml.SequenceNode):
        return step, 0
    return step, _dash_column(text, containers) - _column(spec)


def _in_block(node: yaml.Node, name: str) -> yaml.CollectionNode | None:
    """The value of a key, if it is a block itself."""
    values = [value for key, value in _pairs(node) if key.value == name] if isinstance(node, yaml.MappingNode) else []
    value = values[-1] if values else None
    return value if isinstance(value, yaml.CollectionNode) and not value.flow_style else None


def _column(node: yaml.Node) -> int:
    """Of a mapping's keys."""
    return _first(node).start_mark.column if isinstance(node, yaml.CollectionNode) else node.start_mark.column


def _dotted(path: Path) -> str:
    return ".".join(str(step) for step in path) or "the document"
