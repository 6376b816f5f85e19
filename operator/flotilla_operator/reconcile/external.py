"""Fallbacks behind an API: nothing runs, so their status says where requests go."""

from __future__ import annotations

from collections.abc import Sequence

from flotilla_api.conditions import ConditionType, Reason
from flotilla_operator.resources.specs import ExternalModel

from .checks import accepted, make_verdict
from .conditions import Check, passed, same_as
from .types import Observed, StepFailure, Verdict


def external_verdict(observed: Observed, model: ExternalModel, failures: Sequence[StepFailure]) -> Verdict:
    """Ready as soon as it is accepted; whether its credentials work is told by the policies that use it."""
    accepted_check = accepted(failures)
    checks = [accepted_check, _ready(model, accepted_check)]
    return make_verdict(observed, checks, {"model": model.spec.model, "endpoint": model.spec.url})


def _ready(model: ExternalModel, accepted_check: Check) -> Check:
    if not accepted_check.ok:
        return same_as(ConditionType.READY, accepted_check)
    return passed(ConditionType.READY, Reason.EXTERNAL, f"requests go to {model.spec.url}")
