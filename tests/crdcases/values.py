"""For each constraint: whole objects just inside and just outside, made from the accepted objects."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from crdcases.objects import Manifest, objects
from crdcases.rules import RULES
from crdcases.schema import Constraint, Path, Schema

OTHER_TYPE: dict[str, Any] = {"string": 0.42, "object": "text", "array": "text", "boolean": "yes", "integer": "1"}
"""A value that is not of the type. A bare number where a decimal is due is the mistake that people make most."""
MESSAGES = {
    "minimum": "should be greater than or equal to {limit}",
    "maximum": "should be less than or equal to {limit}",
    "minLength": "should be at least {limit} chars long",
    "maxLength": "Too long: may not be more than {limit} bytes",
    "minItems": "should have at least {limit} items",
    "maxItems": "must have at most {limit} item",
    "maxProperties": "must have at most {limit} item",
    "enum": "Unsupported value",
    "type": "must be of type {limit}",
    "required": "Required value",
    "set": "Duplicate value",
    "map": "Duplicate value",
    "rule": "{limit}",
}


@dataclass(frozen=True, slots=True)
class Case:
    """One value, put into every accepted object that has its place: at least one of these must show the behaviour."""

    constraint: Constraint
    candidates: tuple[Manifest, ...]

    @property
    def message(self) -> str:
        """What the API server's refusal says."""
        return MESSAGES[self.constraint.check].format(limit=self.constraint.limit)


def accepted_cases(constraint: Constraint) -> list[Case]:
    """Objects that are just inside; one case for each value, or the accepted objects as they are."""
    return [_case(constraint, _put(value)) for value in _inside(constraint)] or [_case(constraint, _keep)]


def refused_cases(constraint: Constraint) -> list[Case]:
    """Objects that are just outside; one case for each value."""
    if constraint.check == "required":
        return [_case(constraint, _drop(constraint.limit))]
    return [_case(constraint, _put(value)) for value in _outside(constraint)]


def _inside(constraint: Constraint) -> list[Any]:
    node, limit = constraint.node, constraint.limit
    values: list[Any] = []
    match constraint.check:
        case "minimum" | "maximum":
            values = [limit]
        case "minLength" | "maxLength":
            values = [longest(node, limit)]
        case "minItems" | "maxItems" | "maxProperties" if not _is_enum_list(node):
            values = [grown(constraint, limit)]
        case "enum":
            values = list(limit)
        case "rule":
            values = list(RULES[limit].accepts)
        case _:
            pass
    return values


def _outside(constraint: Constraint) -> list[Any]:
    node, limit = constraint.node, constraint.limit
    values: list[Any] = []
    match constraint.check:
        case "minimum":
            values = [limit - 1]
        case "maximum":
            values = [limit + 1]
        case "minLength":
            values = [longest(node, limit - 1)]
        case "maxLength":
            values = [longest(node, limit + 1)]
        case "minItems":
            values = [[]]
        case "maxItems" | "maxProperties":
            values = [grown(constraint, limit + 1)]
        case "enum":
            values = ["Nonsense"]
        case "type":
            values = [OTHER_TYPE[limit]]
        case "set" | "map":
            values = [grown(constraint, 1) * 2]
        case "rule":
            values = list(RULES[limit].refuses)
        case _:
            raise NotImplementedError(constraint.id)
    return values


def longest(node: Schema, length: int) -> str:
    """A string of `length` characters that passes the node's other rules; one too long need not pass them."""
    for rule in node.get("x-kubernetes-validations", []):
        template = RULES[rule["message"]].longest
        if template:
            filled = template.replace("{}", "a" * (length - len(template) + 2))
            return filled if len(filled) == length else filled + "0" * (length - len(filled))
    return length * "a"


def grown(constraint: Constraint, size: int) -> Any:
    """A list or map of `size` members, copies of an accepted one with names of their own."""
    node, prefix = constraint.node, {"pinnable": "fb", "fallbacks": "fb"}.get(constraint.path[-1], "x")
    if node["type"] == "object":
        first = next(iter(_first_value(constraint.path, constraint).values()))
        unique = {"rename": "y", "models": "x"}.get(constraint.path[-1])  # x0 and so on are experts of a policy
        return {f"{prefix}{index}": f"{unique}{index}" if unique else first for index in range(size)}
    if _is_enum_list(node):
        return [node["items"]["enum"][index % len(node["items"]["enum"])] for index in range(size)]
    (first, *_) = _first_value(constraint.path, constraint)
    if node.get("x-kubernetes-list-type") == "map":
        (key,) = node["x-kubernetes-list-map-keys"]
        return [{**first, key: f"{prefix}{index}"} for index in range(size)]
    if isinstance(first, str):
        return [f"{prefix}{index}" for index in range(size)]
    return [first] * size


def _is_enum_list(node: Schema) -> bool:
    return "enum" in node.get("items", {})


def _first_value(path: Path, constraint: Constraint) -> Any:
    for manifest in objects(constraint.kind):
        for parent, key in places(manifest, path):
            if parent[key]:
                return parent[key]
    raise LookupError(f"no example object has {'.'.join(path)}")


Change = Callable[[Any, Any], None]
"""Changes what a container holds under a key."""


def _put(value: Any) -> Change:
    def change(container: Any, key: Any) -> None:
        container[key] = copy.deepcopy(value)

    return change


def _drop(name: str) -> Change:
    def change(container: Any, key: Any) -> None:
        del container[key][name]

    return change


def _keep(container: Any, key: Any) -> None:
    """Leave the accepted object as it is."""


def _case(constraint: Constraint, change: Change) -> Case:
    return Case(constraint, tuple(_changed(constraint, change)))


def _changed(constraint: Constraint, change: Change) -> Iterator[Manifest]:
    path = constraint.path or ("metadata", "name")  # rules of the root are about the name
    for manifest in objects(constraint.kind):
        for position in range(len(list(places(manifest, path)))):
            copied = copy.deepcopy(manifest)
            change(*list(places(copied, path))[position])
            yield copied


def places(value: Any, path: Path) -> Iterator[tuple[Any, Any]]:
    """Container and key of every place at `path` within `value`."""
    step, *rest = path
    keys: list[Any] = []
    if step == "[]" and isinstance(value, list):
        keys = list(range(len(value)))  # pyright: ignore[reportUnknownArgumentType]
    elif step == "{}" and isinstance(value, dict):
        keys = list(value)  # pyright: ignore[reportUnknownArgumentType]
    elif isinstance(value, dict) and step in value:
        keys = [step]
    for key in keys:
        if rest:
            yield from places(value[key], tuple(rest))
        else:
            yield value, key
