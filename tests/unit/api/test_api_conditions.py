"""Condition types and reasons are what Kubernetes allows, and each is documented."""

from __future__ import annotations

import ast
import inspect
import re
from enum import StrEnum

import pytest

from flotilla_api import conditions
from flotilla_api.conditions import ConditionType, Reason

ENUMS = [pytest.param(enum, id=enum.__name__) for enum in (ConditionType, Reason)]


@pytest.mark.parametrize("enum", ENUMS)
def test_values_are_camel_case_words(enum: type[StrEnum]) -> None:
    """As meta/v1 wants them, and not longer than the schema allows."""
    assert [value for value in enum if not re.fullmatch(r"[A-Z][A-Za-z]{0,63}", value)] == []


@pytest.mark.parametrize("enum", ENUMS)
def test_every_value_has_a_sentence(enum: type[StrEnum]) -> None:
    """What stands under each value is what the documentation shows."""
    tree = ast.parse(inspect.getsource(conditions))
    (body,) = [node.body for node in tree.body if isinstance(node, ast.ClassDef) and node.name == enum.__name__]
    documented = sum(isinstance(node, ast.Expr) for node in body) - 1  # the class's own docstring

    assert documented == len(enum)
