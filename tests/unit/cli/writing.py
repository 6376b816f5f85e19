"""Any value as YAML in an odd but valid style: what people and programs write, mixed."""

from __future__ import annotations

import itertools
import json
from dataclasses import dataclass
from random import Random
from typing import Any

from flotilla_cli.documents import is_list, is_mapping


@dataclass(frozen=True, slots=True)
class Writer:
    """Draws every choice of style from `random`."""

    random: Random
    step: int = 2
    dash: int = 0
    brackets: bool = True
    """Whether mappings and lists may be written in brackets."""

    def document(self, value: dict[str, Any]) -> str:
        return "\n".join([*self._mapping(value, 0), ""])

    def _mapping(self, value: dict[str, Any], column: int) -> list[str]:
        lines: list[str] = []
        for key, each in value.items():
            lines += self._noise(column)
            lines += self._entry(key, each, column)
        return lines

    def _entry(self, key: str, value: Any, column: int) -> list[str]:
        name = " " * column + self._word(key)
        if self.brackets and (is_mapping(value) or is_list(value)) and value and self._chance(4):
            return (name + ": " + self._flow(value, column)).split("\n")
        if is_mapping(value) and value:
            return [f"{name}:{self._remark()}", *self._mapping(value, column + self.step)]
        if is_list(value) and value:
            return [f"{name}:{self._remark()}", *self._list(value, column + self.dash)]
        return self._scalar_entry(name, value, column)

    def _scalar_entry(self, name: str, value: Any, column: int) -> list[str]:
        if isinstance(value, str) and "\n" in value:
            head = "|" if value.endswith("\n") else "|-"
            body = [" " * (column + self.step) + line if line else "" for line in value.rstrip("\n").split("\n")]
            return [f"{name}: {head}{self._remark()}", *body, *([""] if self._chance(3) else [])]
        if value is None:
            return [name + ":" + self.random.choice(["", " ", " null", " ~"]) + self._remark()]
        return [name + ":" + " " * self.random.choice([1, 1, 3]) + self._scalar(value) + self._remark()]

    def _list(self, value: list[Any], column: int) -> list[str]:
        lines: list[str] = []
        for each in value:
            lines += self._noise(column)
            lines += self._item(each, column)
        return lines

    def _item(self, value: Any, column: int) -> list[str]:
        dash = " " * column + "-" + " " * self.random.choice([1, 1, 3])
        if not is_mapping(value) or (self.brackets and self._chance(4)):
            return (dash + self._flow(value, column)).split("\n")
        lines = self._mapping(value, len(dash))
        first, *rest = itertools.dropwhile(lambda line: not line.strip() or line.strip()[0] == "#", lines)
        return [dash + first.lstrip(), *rest]

    def _flow(self, value: Any, column: int) -> str:
        if not (is_mapping(value) or is_list(value)) or not value:
            return self._scalar(value)
        entries = (
            [f"{self._word(key)}: {self._flow(each, column + 4)}" for key, each in value.items()]
            if is_mapping(value)
            else [self._flow(each, column + 4) for each in value]
        )
        opening, closing = "{}" if isinstance(value, dict) else "[]"
        pad = self.random.choice(["", " "])
        if self._chance(2):
            return f"{opening}{pad}{', '.join(entries)}{self.random.choice(['', ','])}{pad}{closing}"
        inner = "\n" + " " * (column + 4)
        return f"{opening}{self._remark()}{inner}{f',{inner}'.join(entries)}\n{' ' * (column + 2)}{closing}"

    def _scalar(self, value: Any) -> str:
        if isinstance(value, str) and value.isalpha() and value.isascii() and value != "on" and self._chance(2):
            return self.random.choice([value, f"'{value}'"])
        return json.dumps(value)

    def _word(self, key: str) -> str:
        return json.dumps(key) if self._chance(6) else key

    def _noise(self, column: int) -> list[str]:
        """Blank lines and comments, some of them further left than what follows."""
        if not self._chance(6):
            return []
        comment = " " * max(0, column + self.random.choice([-2, 0, 0])) + "# {a: [note"
        return self.random.choice([[""], [comment], ["", comment], [comment, ""]])

    def _remark(self) -> str:
        return "  # why: 'it' is" if self._chance(6) else ""

    def _chance(self, of: int) -> bool:
        return self.random.randrange(of) == 0
