"""The schema of a kind as a list of constraints, each at the path of its node."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from flotilla_api.crds import KINDS, Kind, make_crd

Path = tuple[str, ...]
"""Property names from the root; '[]' stands for a list's items, '{}' for a map's values."""
Schema = dict[str, Any]

BOUNDS = (
    "minimum",
    "maximum",
    "minLength",
    "maxLength",
    "minItems",
    "maxItems",
    "maxProperties",
    "enum",
    "type",
)
LISTS = "x-kubernetes-list-type"
RULES = "x-kubernetes-validations"
OPEN = "x-kubernetes-preserve-unknown-fields"


@dataclass(frozen=True, slots=True)
class Constraint:
    """One thing that the API server checks at one place of one kind."""

    kind: Kind
    path: Path
    check: str
    """A bound's keyword, `required`, `set`, `map` or `rule`."""
    limit: Any
    """The keyword's value; for `required` the property, for `map` the key, for `rule` its message."""
    node: Schema

    @property
    def id(self) -> str:
        """What pytest calls the case."""
        detail = f":{self.limit}" if self.check in {"required", "rule"} else ""
        return f"{self.kind.name}:{'.'.join(self.path) or '(root)'}:{self.check}{detail}"


def constraints() -> list[Constraint]:
    """Every constraint of every kind, spec and status."""
    return [found for kind in KINDS for found in _constraints_of(kind, _schema_of(kind), ())]


def _schema_of(kind: Kind) -> Schema:
    return make_crd(kind)["spec"]["versions"][0]["schema"]["openAPIV3Schema"]


def _constraints_of(kind: Kind, node: Schema, path: Path) -> Iterator[Constraint]:
    for check, limit in _checks(node):
        if path or check == "rule":  # the type and the required properties of the root are Kubernetes' own business
            yield Constraint(kind, path, check, limit, node)
    for step, child in children(node, path):
        yield from _constraints_of(kind, child, (*path, step))


def _checks(node: Schema) -> Iterator[tuple[str, Any]]:
    yield from ((bound, node[bound]) for bound in BOUNDS if bound in node)
    yield from (("required", name) for name in node.get("required", []))
    yield from (("rule", rule["message"]) for rule in node.get(RULES, []))
    if node.get(LISTS) == "set":
        yield "set", None
    if node.get(LISTS) == "map":
        (key,) = node["x-kubernetes-list-map-keys"]
        yield "map", key


def children(node: Schema, path: Path = ()) -> Iterator[tuple[str, Schema]]:
    """The nodes below, by step; none below one that holds free-form data, and not Kubernetes' own metadata."""
    if node.get(OPEN):
        return
    for name, child in node.get("properties", {}).items():
        if path or name in {"spec", "status"}:
            yield name, child
    if "items" in node:
        yield "[]", node["items"]
    if isinstance(node.get("additionalProperties"), dict):
        yield "{}", node["additionalProperties"]


def nodes(node: Schema) -> Iterator[Schema]:
    """Every node of a schema, free-form ones' known properties included."""
    yield node
    for child in [*node.get("properties", {}).values(), *(node[key] for key in ("items",) if key in node)]:
        yield from nodes(child)
    if isinstance(node.get("additionalProperties"), dict):
        yield from nodes(node["additionalProperties"])
