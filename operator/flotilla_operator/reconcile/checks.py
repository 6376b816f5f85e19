"""Checks that every owner kind shares."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from flotilla_api.conditions import ConditionType, Reason
from flotilla_operator.resources.pods import find_condition

from .conditions import Check, failed, make_conditions, make_events, passed
from .types import Event, Manifest, Observed, StepFailure, Verdict


def accepted(failures: Sequence[StepFailure]) -> Check:
    """Whether the API server took everything that the spec asks for."""
    for failure in sorted(failures, key=lambda failure: failure.reason is Reason.CONTESTED):
        return failed(ConditionType.ACCEPTED, failure.reason, failure.message)
    return passed(ConditionType.ACCEPTED, Reason.ACCEPTED, "the spec is valid")


def blocks(check: Check) -> bool:
    """Whether it keeps the owner from being ready; a child that is as wanted but for somebody's change does not."""
    return not check.ok and check.reason is not Reason.CONTESTED


def invalid_verdict(observed: Observed, problem: str) -> Verdict:
    """Of an owner whose stored spec does not parse; its children stay as they are."""
    message = f"{problem}; apply it again in the form of this version"
    return make_verdict(
        observed,
        [
            failed(ConditionType.ACCEPTED, Reason.INVALID_SPEC, message),
            failed(ConditionType.READY, Reason.INVALID_SPEC, message),
        ],
        {},
    )


def make_verdict(
    observed: Observed,
    checks: Sequence[Check],
    fields: dict[str, Any],
    requeue_after_seconds: float | None = None,
    *,
    events: Sequence[Event] = (),
) -> Verdict:
    """The status of `checks` and `fields` that are known, and the events of its transitions, with more `events`."""
    status: Manifest = {
        "observedGeneration": observed.owner["metadata"]["generation"],
        "conditions": make_conditions(observed.owner, checks, observed.now),
    }
    status |= {name: value for name, value in fields.items() if value is not None}
    return Verdict(status, (*events, *make_events(observed.owner, checks)), requeue_after_seconds)


def pods_forbidden(deployment: Manifest | None) -> str:
    """Why the API server refuses the Deployment's pods, by quota or admission; '' when it does not."""
    found = find_condition(deployment, "ReplicaFailure") if deployment else {}
    return found.get("message", "") if found.get("status") == "True" else ""


def is_rolled_out(deployment: Manifest) -> bool:
    """Every wanted pod is of the current template and no other exists."""
    status: Manifest = deployment.get("status", {})
    seen = status.get("observedGeneration", 0) >= deployment["metadata"].get("generation", 0)
    wanted = deployment["spec"].get("replicas", 1)
    return seen and status.get("replicas", 0) == status.get("updatedReplicas", 0) == wanted
