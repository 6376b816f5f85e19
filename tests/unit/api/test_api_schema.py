"""The generated CRDs: bounded, documented, without defaults, and every check of theirs has examples."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from crdcases.objects import objects
from crdcases.rules import RULES
from crdcases.schema import Constraint, children, constraints, nodes
from crdcases.values import accepted_cases, places, refused_cases
from flotilla_api.crds import KINDS, Kind, make_crd, structural

BOUNDED_BY_A_RULE = {
    ("spec", "scaling", "min"),
    ("spec", "scaling", "schedules", "[]", "min"),
    ("spec", "scaling", "override", "replicas"),
}
"""At most scaling.max; a maximum of their own would complain twice of one number."""
ROOT = Path(__file__).parents[3]
CONSTRAINTS = constraints()
by_kind = pytest.mark.parametrize("kind", [pytest.param(kind, id=kind.name) for kind in KINDS])


def _schema(kind: Kind) -> dict[str, Any]:
    return make_crd(kind)["spec"]["versions"][0]["schema"]["openAPIV3Schema"]


def _fields(node: dict[str, Any], path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], dict[str, Any]]]:
    for step, child in children(node, path):
        yield (*path, step), child
        yield from _fields(child, (*path, step))


def _file(kind: Kind, folder: str) -> Path:
    return ROOT / folder / f"flotilla.dev_{kind.plural}.yaml"


def test_every_rule_has_examples_and_every_example_a_rule() -> None:
    """A new rule without examples fails here, and so do examples of a rule that is gone."""
    messages = {constraint.limit for constraint in CONSTRAINTS if constraint.check == "rule"}

    assert messages == set(RULES)


def test_a_message_belongs_to_one_rule() -> None:
    """Two rules with the same words could not be told apart, neither by people nor by the tests."""
    rules: dict[str, set[str]] = {}
    for constraint in CONSTRAINTS:
        for rule in constraint.node.get("x-kubernetes-validations", []):
            rules.setdefault(rule["message"], set()).add(rule["rule"])

    assert {message: found for message, found in rules.items() if len(found) > 1} == {}


@pytest.mark.parametrize("constraint", [pytest.param(found, id=found.id) for found in CONSTRAINTS])
def test_every_constraint_has_objects_on_both_sides(constraint: Constraint) -> None:
    """The examples reach every place that the schema checks."""
    cases = [*accepted_cases(constraint), *refused_cases(constraint)]

    assert len(cases) >= 2
    assert all(case.candidates for case in cases)


@by_kind
def test_examples_use_every_field(kind: Kind) -> None:
    """No field is left out of the accepted objects."""
    unused = [
        path for path, _ in _fields(_schema(kind)) if not any(True for m in objects(kind) for _ in places(m, path))
    ]

    assert unused == []


@by_kind
def test_every_field_is_described(kind: Kind) -> None:
    """`kubectl explain` has a sentence for every property."""
    silent = [
        path for path, node in _fields(_schema(kind)) if path[-1] not in {"[]", "{}"} and "description" not in node
    ]

    assert [path for path in silent if path not in {("spec",), ("status",)}] == []


@by_kind
def test_no_field_has_a_default(kind: Kind) -> None:
    """The server must not store what Git does not hold."""
    assert [node for node in nodes(_schema(kind)) if "default" in node] == []


@by_kind
def test_everything_is_bounded(kind: Kind) -> None:
    """Strings, lists and maps have a limit, which keeps objects small and rules cheap."""
    limit = {"string": ("maxLength", "enum"), "array": ("maxItems",), "integer": ("maximum",), None: ("maxLength",)}
    spec = structural(kind.spec)
    unbounded = [
        path
        for path, node in _fields(spec, ("spec",))
        if path not in BOUNDED_BY_A_RULE and not any(key in node for key in limit.get(node.get("type"), ("type",)))
    ]

    assert unbounded == []


@by_kind
def test_file_is_small_enough_for_every_client(kind: Kind) -> None:
    """Client-side apply copies the whole object as JSON into an annotation: 64 KiB leaves room for the next fields."""
    copied = json.dumps(yaml.safe_load(_file(kind, "crds").read_text()), separators=(",", ":"))

    assert len(copied.encode()) < 64 * 1024


@by_kind
@pytest.mark.parametrize("folder", ["crds", "charts/flotilla/files/crds"])
def test_files_are_as_generated(kind: Kind, folder: str) -> None:
    """What is installed is what the models say."""
    assert yaml.safe_load(_file(kind, folder).read_text()) == make_crd(kind)
