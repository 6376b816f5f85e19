"""The models read what the API server stores, and add nothing to it."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from crdcases.objects import POLICY_ANONYMOUS, SPECS, STATUSES
from flotilla_api.causes import CAUSE_GROUPS, Cause
from flotilla_api.crds import KINDS, KINDS_BY_NAME, Kind
from flotilla_api.policy import DEFAULT_CAUSES, RoutingPolicySpec

SPEC_CASES = [
    pytest.param(kind, spec, id=f"{kind.name}-{index}") for kind in KINDS for index, spec in enumerate(SPECS[kind.name])
]


@pytest.mark.parametrize(("kind", "spec"), SPEC_CASES)
def test_spec_comes_back_as_it_was(kind: Kind, spec: dict[str, Any]) -> None:
    """Reading and writing a spec changes nothing, so no default can slip into an object."""
    assert kind.spec.model_validate(spec).model_dump(by_alias=True, exclude_none=True) == spec


@pytest.mark.parametrize("name", list(STATUSES))
def test_status_comes_back_as_it_was(name: str) -> None:
    """Reading and writing a status changes nothing."""
    model = KINDS_BY_NAME[name].status
    assert model

    assert model.model_validate(STATUSES[name]).model_dump(by_alias=True, exclude_none=True) == STATUSES[name]


@pytest.mark.parametrize(("kind", "spec"), SPEC_CASES)
def test_unknown_field_is_an_error(kind: Kind, spec: dict[str, Any]) -> None:
    """A spec of a newer schema is refused as a whole rather than half understood."""
    with pytest.raises(ValidationError, match="replicaCount"):
        kind.spec.model_validate({**spec, "replicaCount": 1})


def test_specs_cannot_be_changed() -> None:
    """Specs are values."""
    spec = RoutingPolicySpec.model_validate(POLICY_ANONYMOUS)

    with pytest.raises(ValidationError, match="frozen"):
        spec.boundary = "LocalOnly"  # pyright: ignore[reportAttributeAccessIssue]


def test_every_cause_has_a_group() -> None:
    """Metrics and scaling ask for the group of any cause."""
    assert set(CAUSE_GROUPS) == set(Cause)


def test_every_cause_but_a_cold_start_may_be_listed() -> None:
    """What becomes of a cold start is `coldStart`'s to say, so a policy that lists it is refused."""
    assert set(DEFAULT_CAUSES) == set(Cause) - {Cause.COLD_START}
    with pytest.raises(ValidationError, match="Input should be"):
        RoutingPolicySpec.model_validate({**POLICY_ANONYMOUS, "escalation": {"on": ["ColdStart"]}})
