"""The operator dies, is away, or was away: requests go on, and what happened meanwhile is caught up with."""

from __future__ import annotations

import json
from collections.abc import Generator
from datetime import UTC, datetime

import pytest

from e2e.fixtures import new_space
from e2e.gateway import Gateway
from e2e.load import load_on
from e2e.objects import Manifest, a_policy, an_expert
from e2e.scaled import kill_leader, leader
from e2e.steps import OPERATORS, Space, no_operator, operators_of, scale_operator, system_of
from flotilla_api import metrics
from flotilla_api.control import format_time
from flotilla_api.names import PUBLISHED_KEY, SNAPSHOT_KEY, snapshot_name
from localcluster.runner.control import kill_container
from stack.flotilla import Stack

TAKEOVER_SECONDS = 40


@pytest.fixture(scope="module")
def fleet(stack: Stack) -> Generator[Space]:
    """Two experts that answer, behind one gateway."""
    with new_space(stack) as space:
        space.apply(an_expert("first"), an_expert("second"))
        yield space


@pytest.fixture
def gateway(stack: Stack, fleet: Space) -> Generator[Gateway]:
    """The gateway of a policy that sends everything to the first expert; the operator is whole before and after."""
    fleet.apply(_policy("first"))
    fleet.wait_ready("Expert", "first", "second")
    fleet.wait_ready("RoutingPolicy", "assist")
    fleet.wait_condition("RoutingPolicy", "assist", "ConfigPropagated", "True")
    yield fleet.gateway("assist")
    scale_operator(stack, OPERATORS)


def _policy(expert: str) -> Manifest:
    return a_policy("assist", experts=[expert])


def _kill(stack: Stack, pod: Manifest) -> None:
    metadata = pod["metadata"]
    kill_container(stack.cluster.directory / "runner", metadata["namespace"], metadata["name"], "operator")


def test_when_the_leader_dies_another_process_takes_over(stack: Stack, fleet: Space, gateway: Gateway) -> None:
    """The Lease goes to another process, and a policy edit is acknowledged by the routers again."""
    before = kill_leader(stack)

    fleet.apply(_policy("second"))

    fleet.wait_for(lambda: leader(stack) not in {"", before}, "another holder of the Lease", TAKEOVER_SECONDS)
    fleet.wait_condition("RoutingPolicy", "assist", "ConfigPropagated", "True", "Acknowledged")
    assert gateway.ask("who now?").headers["x-flotilla-model"] == "second"


def test_a_leader_that_is_deleted_hands_over(stack: Stack, fleet: Space, gateway: Gateway) -> None:
    """A leader that ends in order releases its Lease, and the standby goes on at once."""
    before = leader(stack)
    (leading,) = (pod for pod in operators_of(stack) if before.startswith(pod["metadata"]["name"]))

    system_of(stack).delete("Pod", leading["metadata"]["name"])
    fleet.apply(_policy("second"))

    fleet.wait_condition("RoutingPolicy", "assist", "ConfigPropagated", "True", "Acknowledged")
    assert not leader(stack).startswith(leading["metadata"]["name"])


def test_requests_go_on_when_every_operator_is_killed(stack: Stack, fleet: Space, gateway: Gateway) -> None:
    """No router needs the operator to serve; when it is back it catches up with what was edited meanwhile."""
    with load_on(gateway) as load:
        for pod in operators_of(stack):
            _kill(stack, pod)
        fleet.apply(_policy("second"))
        load.wait_for_more(30)
        fleet.wait_condition("RoutingPolicy", "assist", "ConfigPropagated", "True", "Acknowledged")
        assert {outcome.model for outcome in load.wait_for_more(12)[4:]} == {"second"}

    assert load.failures == []


def test_what_is_deleted_while_the_operator_is_away_is_noticed(stack: Stack, space: Space) -> None:
    """A child comes back, a deleted expert leaves the routes, and a deleted owner's children are not made again."""
    space.apply(
        an_expert("stays", replicas=0),
        an_expert("goes", replicas=0),
        an_expert("dies", replicas=0),
        a_policy("assist", experts=["stays", "goes"]),
    )
    for name in ("stays", "goes", "dies"):
        space.wait_condition("Expert", name, "Ready", "False", "ScaledToZero")
    space.wait_condition("RoutingPolicy", "assist", "ConfigPropagated", "True")

    with no_operator(stack):
        space.delete("Service", "stays-expert")
        space.delete("Expert", "goes")
        space.delete("Expert", "dies")
        space.wait_for(lambda: not space.owned("Deployment", "Expert", "dies"), "the children of the deleted expert")

    space.wait_for(lambda: space.find("Service", "stays-expert"), "the Service to come back")
    missing = space.wait_condition("RoutingPolicy", "assist", "ReferencesResolved", "False", "ExpertNotFound")
    assert "Expert goes" in missing["message"]
    space.wait_condition("RoutingPolicy", "assist", "ConfigPropagated", "True", "Acknowledged")
    snapshot = json.loads(space.get("ConfigMap", snapshot_name("assist"))["data"][SNAPSHOT_KEY])
    assert [target["name"] for target in snapshot["targets"]] == ["stays"]
    assert space.owned("Deployment", "Expert", "dies") == []


def test_an_invalid_snapshot_leaves_the_last_good_one_in_use(stack: Stack, fleet: Space, gateway: Gateway) -> None:
    """A router without its operator reads the ConfigMap; what does not validate is counted and changes nothing."""
    name = snapshot_name("assist")
    with no_operator(stack):
        good = fleet.get("ConfigMap", name)["data"][SNAPSHOT_KEY]
        broken = json.dumps({**json.loads(good), "timeouts": {"connectSeconds": -1}})
        with load_on(gateway) as load:
            # A snapshot that is no newer than what the control API brought would not even be looked at.
            published_at = format_time(datetime.now(UTC))
            fleet.merge("ConfigMap", name, {"data": {SNAPSHOT_KEY: broken, PUBLISHED_KEY: published_at}})
            fleet.wait_for(lambda: gateway.metric(metrics.ROUTER_SNAPSHOT_REJECTED) == 1, "the refusal to be counted")
            assert {outcome.model for outcome in load.wait_for_more()} == {"first"}
        assert load.failures == []
        (line,) = (line for line in gateway.log_lines() if line["event"] == "snapshot rejected")
        assert "timeouts" in line["error"]
        assert line["stays"].startswith("sha256:")

    fleet.wait_for(lambda: fleet.get("ConfigMap", name)["data"][SNAPSHOT_KEY] == good, "the snapshot's repair")
    assert gateway.ask("and now?").headers["x-flotilla-model"] == "first"


def test_a_gateway_starts_without_the_operator(stack: Stack, fleet: Space, gateway: Gateway) -> None:
    """A router that is replaced while no operator runs starts from the ConfigMap and serves."""
    with no_operator(stack):
        (old,) = fleet.ready_pods("RoutingPolicy", "assist")
        fleet.delete("Pod", old["metadata"]["name"])
        fleet.wait_for(
            lambda: [
                pod
                for pod in fleet.ready_pods("RoutingPolicy", "assist")
                if pod["metadata"]["uid"] != old["metadata"]["uid"]
            ],
            "a new gateway pod",
        )
        fleet.wait_gone("Pod", old["metadata"]["name"])

        assert gateway.ask("anybody?").headers["x-flotilla-model"] == "first"
