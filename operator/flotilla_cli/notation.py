"""Values as text, in the style of the document that they are added to."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Any, cast

import yaml

from .documents import is_list, is_mapping

_PLAIN = re.compile(r"[A-Za-z/$][\w./$()@-]*(?::[\w./$()@-]+)*|[0-9]+(?:m|[KMGT]i)")
"""Texts that need no quotes anywhere, unless they mean something else, as `true` does."""
_TRUTHS = frozenset("yYnN")
"""Truth values in YAML 1.1, which PyYAML takes for texts and others do not."""
_RESOLVER = yaml.resolver.Resolver()
_TEXT = "tag:yaml.org,2002:str"


@dataclass(frozen=True, slots=True)
class Notation:
    """How a document writes what it holds."""

    newline: str = "\n"
    step: int = 2
    """Columns from a mapping's keys to those of a mapping within."""
    dash: int = 0
    """Columns from a key to the dashes of its list."""
    is_json: bool = False
    tab: str = ""
    """Of JSON: what one more level is indented with; '' where it is written on one line."""
    spaced: bool = True
    """Of JSON: whether blanks follow ':' and ','."""

    @property
    def separator(self) -> str:
        """Between entries on one line."""
        return ", " if self.spaced else ","

    def entry(self, key: str, text: str) -> str:
        """A key with the text of its value, on one line."""
        name = json.dumps(key) if self.is_json else _scalar(key)
        return f"{name}:{' ' if self.spaced else ''}{text}"


def block_mapping(value: dict[str, Any], notation: Notation) -> list[str]:
    """Lines of a block mapping, the first column being that of its keys."""
    return [line for key, each in value.items() for line in _block_entry(_scalar(key), each, notation)]


def block_list(value: list[Any], notation: Notation) -> list[str]:
    """Lines of a block list, the first column being that of its dashes."""
    return [line for each in value for line in _block_item(each, notation)]


def on_one_line(value: Any, notation: Notation) -> str:
    """A value in flow style."""
    if notation.is_json:
        return json.dumps(value, ensure_ascii=False, separators=(notation.separator, ": " if notation.spaced else ":"))
    if is_mapping(value):
        entries = [notation.entry(key, on_one_line(each, notation)) for key, each in value.items()]
        return "{" + ", ".join(entries) + "}"
    if is_list(value):
        return "[" + ", ".join(on_one_line(each, notation) for each in value) + "]"
    return _scalar(value)


def spread(value: Any, notation: Notation, indent: str) -> str:
    """A value in flow style within lines that are indented with `indent`: JSON over several lines."""
    if not notation.is_json:
        return on_one_line(value, notation)
    text = json.dumps(value, ensure_ascii=False, indent=notation.tab)
    return text.replace("\n", notation.newline + indent)


def _block_entry(key: str, value: Any, notation: Notation) -> list[str]:
    if is_mapping(value) and value:
        return [f"{key}:", *_indented(block_mapping(value, notation), notation.step)]
    if is_list(value) and value:
        return [f"{key}:", *_indented(block_list(value, notation), notation.dash)]
    return [f"{key}: {on_one_line(value, notation)}"]


def _block_item(value: Any, notation: Notation) -> list[str]:
    if not (is_mapping(value) and value):
        return [f"- {on_one_line(value, notation)}"]
    first, *rest = block_mapping(value, notation)
    return [f"- {first}", *_indented(rest, 2)]


def _indented(lines: list[str], columns: int) -> list[str]:
    return [" " * columns + line for line in lines]


def _scalar(value: Any) -> str:
    """A text without quotes where that is still the same text, to YAML 1.1 too; numbers, true, false, null."""
    if isinstance(value, str) and _PLAIN.fullmatch(value) and _means_text(value):
        return value
    return json.dumps(value, ensure_ascii=False)


def _means_text(value: str) -> bool:
    tag = cast("Any", _RESOLVER.resolve(yaml.ScalarNode, value, (True, False)))  # pyright: ignore[reportUnknownMemberType]
    return bool(tag == _TEXT) and value not in _TRUTHS
