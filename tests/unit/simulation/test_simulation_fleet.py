"""What the manifests of a fleet say of an Expert, as the operator would read it."""

from __future__ import annotations

from typing import Any

import pytest

from builders import a_fallback, a_policy, a_profile, an_expert
from flotilla_operator.resources.manifest import ObjectRef
from flotilla_simulation.fleet import FleetExpert, describe_fleet
from unit.simulation.simulated import regular


def the_expert(*, capacity: int | None = None, **policy: Any) -> FleetExpert:
    """Of a fleet of one, under a policy with these fields."""
    expert = an_expert(scaling={"min": 0, "max": 6})
    profile = a_profile() if capacity is None else a_profile(capacity=capacity)
    cost = {"inputPerMillionUSD": "5", "outputPerMillionUSD": "10"}
    fleet = describe_fleet(
        {ObjectRef.of(each): each for each in (expert, profile, a_fallback(cost=cost), a_policy(**policy))}
    )
    (found,) = fleet.experts
    return found


def test_lost_request_costs_what_its_fallback_takes_for_mean_lengths() -> None:
    """800 and 80 tokens at 5 and 10 dollars a million."""
    assert the_expert().loss_usd(regular(1.0, 2.0)) == pytest.approx(0.0048)


@pytest.mark.parametrize(
    ("policy", "waits"),
    [
        pytest.param({}, False, id="bridged"),
        pytest.param({"coldStart": {"mode": "Hold"}}, True, id="held"),
        pytest.param({"boundary": "LocalOnly"}, True, id="nobody within the boundary"),
    ],
)
def test_policy_says_whether_requests_wait_at_zero(policy: dict[str, Any], waits: bool) -> None:
    """Then they get a replica, whatever an hour of demand has shown."""
    assert the_expert(**policy).waits is waits


def test_policy_bounds_the_wait_and_what_is_held_back() -> None:
    """Without a judgement nothing is held back."""
    judged = the_expert(timeouts={"firstToken": "3s"}, escalation={"commit": {"tokens": 5, "maxWait": "1s"}})

    assert (judged.first_token_seconds, judged.hold_tokens, judged.hold_seconds) == (3.0, 5, 1.0)
    assert the_expert(escalation={"on": ["Overloaded"]}).hold_seconds == 0.0


def test_number_as_capacity_bounds_replicas() -> None:
    """Of what the Expert may have at most."""
    assert the_expert(capacity=4).maximum == 4
    assert the_expert().maximum == 6
