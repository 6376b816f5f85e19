"""The API server dies and comes back: requests go on, and what happened around it is caught up with."""

from __future__ import annotations

from collections.abc import Generator

import pytest

from e2e.fixtures import new_space
from e2e.gateway import Gateway
from e2e.load import load_on
from e2e.objects import a_policy, an_expert
from e2e.steps import Space, is_ready, system_of
from localcluster.cluster import LocalCluster
from stack.flotilla import Stack


@pytest.fixture(scope="module")
def fleet(stack: Stack) -> Generator[Space]:
    """Two experts that answer, behind one gateway."""
    with new_space(stack) as space:
        space.apply(an_expert("first", replicas=2), an_expert("second"))
        yield space


@pytest.fixture
def gateway(fleet: Space) -> Gateway:
    """The gateway of a policy that sends everything to the first expert."""
    fleet.apply(a_policy("assist", experts=["first"]))
    fleet.wait_ready("Expert", "first", "second")
    fleet.wait_ready("RoutingPolicy", "assist")
    fleet.wait_condition("RoutingPolicy", "assist", "ConfigPropagated", "True")
    return fleet.gateway("assist")


@pytest.fixture
def cluster(stack: Stack) -> Generator[LocalCluster]:
    """The cluster; its API server answers afterwards, whatever became of it, and the operator is ready."""
    assert isinstance(stack.cluster, LocalCluster)
    yield stack.cluster
    stack.cluster.control_plane.resume_apiserver()
    system = system_of(stack)
    system.wait_for(lambda: all(is_ready(pod) for pod in system.list("Pod")), "the operators to be ready")


def test_requests_go_on_without_an_api_server(fleet: Space, gateway: Gateway, cluster: LocalCluster) -> None:
    """While the API server is away no request fails; once it is back an edit is acknowledged by the same routers."""
    routers = gateway.pods()
    with load_on(gateway) as load:
        cluster.kill_apiserver()
        load.wait_for_more(40)
        cluster.restart_apiserver()
        load.wait_for_more()
        fleet.apply(a_policy("assist", experts=["second"]))
        fleet.wait_condition("RoutingPolicy", "assist", "ConfigPropagated", "True", "Acknowledged")
        assert {outcome.model for outcome in load.wait_for_more(12)[4:]} == {"second"}

    assert load.failures == []
    assert gateway.pods() == routers


def test_deletions_around_a_restart_are_noticed(space: Space, cluster: LocalCluster) -> None:
    """A child and an owner that are deleted the moment the API server is back, before any watch is, are noticed."""
    space.apply(an_expert("stays", replicas=0), an_expert("goes", replicas=0), a_policy("assist", experts=["goes"]))
    for name in ("stays", "goes"):
        space.wait_condition("Expert", name, "Ready", "False", "ScaledToZero")
    space.wait_condition("RoutingPolicy", "assist", "ReferencesResolved", "True")

    cluster.restart_apiserver()
    space.delete("Service", "stays-expert")
    space.delete("Expert", "goes")

    space.wait_condition("RoutingPolicy", "assist", "ReferencesResolved", "False", "ExpertNotFound")
    space.wait_for(lambda: space.find("Service", "stays-expert"), "the Service to come back")


def test_an_engine_that_ends_while_the_api_server_is_away_is_not_missed(
    fleet: Space, gateway: Gateway, cluster: LocalCluster
) -> None:
    """Routers find out themselves that a replica is gone; nobody has to tell them, and no request fails."""
    victim = fleet.engines("first")[0]
    with load_on(gateway, streams=False) as load:
        cluster.kill_apiserver()
        victim.kill()
        load.wait_for_more(40)
        cluster.restart_apiserver()
        load.wait_for_more()

    assert load.failures == []
    assert {outcome.model for outcome in load.outcomes} == {"first"}


def test_requests_go_on_while_the_api_server_hangs(fleet: Space, gateway: Gateway, cluster: LocalCluster) -> None:
    """An API server that takes connections and answers nothing stops no request; edits are carried out afterwards."""
    with load_on(gateway) as load:
        cluster.control_plane.pause_apiserver()
        load.wait_for_more(40)
        cluster.control_plane.resume_apiserver()
        fleet.apply(a_policy("assist", experts=["second"]))
        fleet.wait_condition("RoutingPolicy", "assist", "ConfigPropagated", "True", "Acknowledged")

    assert load.failures == []
