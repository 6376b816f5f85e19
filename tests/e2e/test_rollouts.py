"""Changes while clients ask: no request fails, whatever is edited, replaced, scaled or deleted."""

from __future__ import annotations

from collections.abc import Generator

import pytest

from e2e.fixtures import new_space
from e2e.gateway import Gateway
from e2e.load import Load, load_on
from e2e.objects import Manifest, a_policy, an_expert
from e2e.steps import Space
from stack.flotilla import Stack

SPEED = {"SIM_SEQUENCE_TOKENS_PER_SECOND": "100"}
"""An answer of 24 tokens takes a quarter of a second, so that there always are some under way."""


def _policy(expert: str = "pair", *, gateways: int = 2) -> Manifest:
    return a_policy("assist", experts=[expert], placement={"gateway": {"replicas": gateways}})


@pytest.fixture(scope="module")
def fleet(stack: Stack) -> Generator[Space]:
    """An expert with two replicas and another with one, behind a gateway with two; no fallback would hide a failure."""
    with new_space(stack) as space:
        space.apply(an_expert("pair", env=SPEED, replicas=2), an_expert("spare", env=SPEED))
        yield space


@pytest.fixture
def gateway(fleet: Space) -> Gateway:
    """The gateway, with every replica of everything as it was at first."""
    fleet.apply(an_expert("pair", env=SPEED, replicas=2), _policy())
    fleet.wait_for(lambda: _is_rolled_out(fleet), "the rollout of pair to be complete")
    _wait_replicas(fleet, 2)
    fleet.wait_ready("Expert", "pair", "spare")
    fleet.wait_ready("RoutingPolicy", "assist")
    fleet.wait_condition("RoutingPolicy", "assist", "ConfigPropagated", "True")
    fleet.wait_for(lambda: len(fleet.ready_pods("RoutingPolicy", "assist")) == 2, "two gateway pods")
    return fleet.gateway("assist")


def _is_rolled_out(space: Space) -> bool:
    """Whether both replicas are of the spec that was applied last: a rollout takes one away by itself."""
    expert, deployment = space.get("Expert", "pair"), space.get("Deployment", "pair-expert")
    status = deployment.get("status", {})
    seen = expert.get("status", {}).get("observedGeneration") == expert["metadata"]["generation"]
    current = status.get("observedGeneration") == deployment["metadata"]["generation"]
    return (
        seen and current and status.get("updatedReplicas") == 2 == status.get("readyReplicas") == status.get("replicas")
    )


def _wait_replicas(space: Space, count: int) -> None:
    space.wait_for(lambda: len(space.engines("pair")) == count, f"{count} replicas of pair")


def _uids(pods: list[Manifest]) -> set[str]:
    return {pod["metadata"]["uid"] for pod in pods}


def _wait_replaced(space: Space, kind: str, owner: str, before: set[str], count: int) -> None:
    """`count` ready pods, none of which is one of those before, and these are gone, drained."""
    space.wait_for(
        lambda: len(space.ready_pods(kind, owner)) == count and not before & _uids(space.owned("Pod", kind, owner)),
        f"pods of {owner} to be replaced",
    )


def _assert_none_failed(load: Load) -> None:
    assert load.failures == []
    assert len(load.outcomes) > 10


def test_policy_edits_reach_running_routers_without_a_failed_request(fleet: Space, gateway: Gateway) -> None:
    """While clients ask, traffic moves from one expert to another and back; pods stay the same."""
    pods = _uids(fleet.ready_pods("RoutingPolicy", "assist"))
    with load_on(gateway) as load:
        for name in ("spare", "pair", "spare"):
            fleet.apply(_policy(name))
            fleet.wait_condition("RoutingPolicy", "assist", "ConfigPropagated", "True")
            assert {outcome.model for outcome in load.wait_for_more(12)[4:]} == {name}

    _assert_none_failed(load)
    assert {outcome.model for outcome in load.outcomes} == {"pair", "spare"}
    assert _uids(fleet.ready_pods("RoutingPolicy", "assist")) == pods


def test_a_rolling_update_of_the_gateway_loses_no_request(fleet: Space, gateway: Gateway) -> None:
    """Both gateway pods are replaced under load; streams and answers under way end well."""
    before = _uids(fleet.ready_pods("RoutingPolicy", "assist"))
    with load_on(gateway) as load:
        fleet.stack.cluster.kubectl("rollout", "restart", "deployment/assist-gateway", "-n", fleet.name)
        _wait_replaced(fleet, "RoutingPolicy", "assist", before, 2)
        load.wait_for_more()

    _assert_none_failed(load)


def test_scaling_the_gateway_loses_no_request(fleet: Space, gateway: Gateway) -> None:
    """From two pods to three and to one, by an edit of the policy."""
    with load_on(gateway) as load:
        for count in (3, 1):
            fleet.apply(_policy(gateways=count))
            fleet.wait_for(
                lambda count=count: len(fleet.owned("Pod", "RoutingPolicy", "assist")) == count, f"{count} pods"
            )
            fleet.wait_for(lambda count=count: len(fleet.ready_pods("RoutingPolicy", "assist")) == count, "all ready")
            load.wait_for_more()

    _assert_none_failed(load)
    assert fleet.get("RoutingPolicy", "assist")["status"]["routers"] == "1/1"


def test_a_deleted_engine_drains(fleet: Space, gateway: Gateway) -> None:
    """One replica's pod is deleted under load: what runs there is finished, and the others answer meanwhile."""
    victim = fleet.engines("pair")[0]
    with load_on(gateway) as load:
        fleet.delete("Pod", victim.name)
        fleet.wait_gone("Pod", victim.name)
        _wait_replicas(fleet, 2)
        load.wait_for_more()

    _assert_none_failed(load)


def test_a_rolling_update_of_an_expert_loses_no_request(fleet: Space, gateway: Gateway) -> None:
    """Another engine setting replaces both replicas one by one, with no spare GPU taken, under load."""
    before = _uids(fleet.ready_pods("Expert", "pair"))
    most = 0
    with load_on(gateway) as load:
        fleet.apply(an_expert("pair", env=SPEED | {"SIM_SEED": "7"}, replicas=2))

        def is_replaced() -> bool:
            nonlocal most
            pods = fleet.owned("Pod", "Expert", "pair")
            most = max(most, len([pod for pod in pods if "deletionTimestamp" not in pod["metadata"]]))
            return len(fleet.engines("pair")) == 2 and not before & _uids(pods)

        fleet.wait_for(is_replaced, "both replicas to be replaced")
        load.wait_for_more()

    _assert_none_failed(load)
    assert most == 2


def test_scaling_an_expert_loses_no_request(fleet: Space, gateway: Gateway) -> None:
    """From two replicas to one under load: the one that ends drains."""
    with load_on(gateway) as load:
        fleet.stack.cluster.kubectl("scale", "expert", "pair", "--replicas=1", "-n", fleet.name)
        fleet.wait_for(lambda: len(fleet.owned("Pod", "Expert", "pair")) == 1, "one replica to be gone")
        load.wait_for_more()

    _assert_none_failed(load)
