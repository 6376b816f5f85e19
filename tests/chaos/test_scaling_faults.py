"""What goes wrong around experts that are scaled: no GPU, no start, no leader, no node, others who set the number, and
load that comes and goes. Requests are answered all the while, and no number dips or flaps."""

from __future__ import annotations

import json
from collections.abc import Generator
from contextlib import ExitStack

import pytest

from e2e.load import Load, load_on
from e2e.objects import Manifest, a_policy, a_profile, an_external_fallback
from e2e.scaled import (
    a_scaled_expert,
    bound_by,
    deployment,
    dips,
    kill_leader,
    leader,
    numbers,
    replica_owners,
    shadow_price,
    wait_ticks,
    wanted,
)
from e2e.steps import Space
from flotilla_api.names import SCALER_MANAGER
from stack.flotilla import Stack

CLIENTS = 8
GROWTH_SECONDS = 150.0
"""Three scrapes for a rate, one tick, and a start; on a busy machine."""
TAKEOVER_SECONDS = 60.0
NOTICE_SECONDS = 120.0
"""Other autoscalers are looked for once a minute."""
EVICTION_SECONDS = 180.0
"""Kubernetes waits 40 s before it deletes the pods of a node that is gone, and looks every 20 s."""
SCARCE = "scarce-l4"
NODE = "l4-3"
PAUSES = 2


@pytest.fixture
def scarce(stack: Stack) -> Generator[str]:
    """A profile of which there are three accelerators for experts that are scaled."""
    manifest = a_profile(SCARCE)
    stack.cluster.kubectl(
        "apply", "-f", "-", input=json.dumps({**manifest, "spec": {**manifest["spec"], "capacity": 3}})
    )
    yield SCARCE
    stack.cluster.kubectl("delete", "acceleratorprofile", SCARCE, "--wait=false")


@pytest.fixture
def node(stack: Stack) -> Generator[str]:
    """A node with GPUs, which is there again afterwards."""
    path = f"/api/v1/nodes/{NODE}"
    found: Manifest = stack.cluster.api.get(path).raise_for_status().json()
    metadata = {"name": NODE, "labels": found["metadata"]["labels"]}
    again = {**{name: found[name] for name in ("apiVersion", "kind")}, "metadata": metadata}
    again["spec"] = {"taints": [each for each in found["spec"]["taints"] if "node.kubernetes.io" not in each["key"]]}
    yield NODE
    stack.cluster.api.delete(path)
    stack.cluster.api.post("/api/v1/nodes", json=again).raise_for_status()
    stack.cluster.wait_for(lambda: _has_gpus(stack), f"node {NODE} to be back")


def _has_gpus(stack: Stack) -> bool:
    found = stack.cluster.api.get(f"/api/v1/nodes/{NODE}").raise_for_status().json()
    return "nvidia.com/gpu" in found["status"].get("allocatable", {})


def _on_pool(profile: str) -> Manifest:
    return {"accelerator": {"profile": profile}}


def _serve(space: Space, expert: str, fallback: str) -> None:
    """A policy of the expert's name that is acknowledged."""
    space.apply(a_policy(expert, experts=[expert], fallbacks=[fallback]))
    space.wait_ready("RoutingPolicy", expert)
    space.wait_condition("RoutingPolicy", expert, "ConfigPropagated", "True")


@pytest.mark.timeout(600)
def test_where_gpus_are_short_or_pods_never_start_that_is_said_and_requests_are_answered(
    space: Space, scarce: str
) -> None:
    """Of two experts that want all of a pool the one whose requests are dearer gets what is free, the other one's
    metrics have the price of the next GPU; one whose volume is missing is not asked to grow. No request fails."""
    cheap = {"cost": {"inputPerMillionUSD": "20", "outputPerMillionUSD": "80"}}
    fallback = an_external_fallback("small-change")
    space.apply(an_external_fallback("big"), {**fallback, "spec": {**fallback["spec"], **cheap}})
    space.apply(a_scaled_expert("dear", spec=_on_pool(scarce)), a_scaled_expert("cheap", spec=_on_pool(scarce)))
    absent = {"model": {"uri": "pvc://nowhere/model"}, "engine": {"startupTimeout": "15s"}}
    space.apply(a_scaled_expert("stuck", spec=absent))
    space.wait_for(lambda: space.engines("dear") and space.engines("cheap"), "the first engines")
    _serve(space, "dear", "big")
    _serve(space, "cheap", "small-change")
    _serve(space, "stuck", "big")
    first = {name: deployment(space, name) for name in ("dear", "cheap", "stuck")}

    with ExitStack() as loads:
        under_way = [loads.enter_context(load_on(space.gateway(name), clients=CLIENTS)) for name in first]
        space.wait_for(lambda: len(space.engines("dear")) == 2, "the dearer one's second engine", GROWTH_SECONDS)
        space.wait_condition("Expert", "cheap", "ScalingActive", "False", "InsufficientAccelerators", seconds=60)
        space.wait_condition("Expert", "stuck", "ScalingActive", "False", "StartupStalled", seconds=60)
        space.wait_for(lambda: bound_by(space, "stuck", "StartupStalled"), "demand for more that cannot start", 60)
        space.wait_for(lambda: shadow_price(space, "cheap") > 0, "the price of a GPU", 60)
        space.wait_for(lambda: bound_by(space, "cheap", "Accelerators"), "the lack of GPUs to bind", 60)
        _go_on(under_way)

    assert [load.failures for load in under_way] == [[], [], []]
    assert [numbers(space, first[name])[-1] for name in first] == [2, 1, 1]
    assert numbers(space, first["stuck"]) == [1]


def _go_on(loads: list[Load]) -> None:
    for load in loads:
        load.wait_for_more(CLIENTS)


@pytest.mark.timeout(600)
def test_neither_a_leader_that_dies_nor_load_that_comes_and_goes_lets_the_number_dip(
    stack: Stack, space: Space
) -> None:
    """The leader is killed the moment that the number goes up: the next one goes on from there. Then the load ends and
    begins again, about as often as the scaler looks: the number stays. No request fails."""
    space.apply(an_external_fallback("big"), a_scaled_expert("elastic", min=0, idleAfter="5m"))
    space.wait_for(lambda: space.engines("elastic"), "the first engine")
    _serve(space, "elastic", "big")
    first, gateway = deployment(space, "elastic"), space.gateway("elastic")

    with load_on(gateway, clients=CLIENTS) as load:
        space.wait_for(lambda: wanted(space, "elastic") > 1, "the number to go up", GROWTH_SECONDS)
        before = kill_leader(stack)
        space.wait_for(lambda: leader(stack) not in {"", before}, "another leader", TAKEOVER_SECONDS)
        space.wait_for(lambda: wanted(space, "elastic") == 4, "growth under the next leader", GROWTH_SECONDS)
        space.wait_for(lambda: len(space.engines("elastic")) == 4, "the new engines")
        load.wait_for_more(CLIENTS)
    failures = load.failures
    for _ in range(PAUSES):
        wait_ticks(space, 1)
        with load_on(gateway, clients=CLIENTS) as load:
            wait_ticks(space, 1)
        failures += load.failures

    assert failures == []
    history = numbers(space, first)
    assert not dips(history)
    assert len(history) <= 4
    assert replica_owners(space, "elastic") == {SCALER_MANAGER}


@pytest.mark.timeout(600)
def test_others_who_set_the_number_are_let_and_named(space: Space) -> None:
    """Of one change by hand what the bounds forbid is put right at the next look, a second one stays; an HPA has the
    number as long as it is there, and no longer. The status says so."""
    space.apply(a_scaled_expert("shared"), a_scaled_expert("touched", min=2))
    space.wait_for(lambda: len(space.engines("touched")) == 2, "the first engines")
    for name in ("shared", "touched"):
        space.wait_for(lambda name=name: replica_owners(space, name) == {SCALER_MANAGER}, "the scaler to own it")
    kubectl = space.stack.cluster.kubectl
    by_hand = ("scale", "deployment/touched-expert", "-n", space.name)

    kubectl("autoscale", "deployment/shared-expert", "--name=theirs", "--min=2", "--max=2", "-n", space.name)
    kubectl(*by_hand, "--replicas=1")
    space.wait_for(lambda: wanted(space, "touched") == 2, "one change by hand to be put right")
    kubectl(*by_hand, "--replicas=1")
    named = space.wait_condition("Expert", "touched", "ScalingActive", "False", "OtherAutoscaler")
    stays = deployment(space, "touched")
    theirs = space.wait_condition(
        "Expert", "shared", "ScalingActive", "False", "OtherAutoscaler", seconds=NOTICE_SECONDS
    )
    space.wait_for(lambda: wanted(space, "shared") == 2, "what the HPA says")
    held = deployment(space, "shared")
    space.apply(a_scaled_expert("shared", min=3))
    wait_ticks(space, 2)

    assert "kubectl" in named["message"]
    assert "HorizontalPodAutoscaler" in theirs["message"]
    assert (numbers(space, stays), numbers(space, held)) == ([1], [2])
    kubectl("delete", "hpa/theirs", "-n", space.name)
    space.wait_for(lambda: wanted(space, "shared") == 3, "the scaler to be back", NOTICE_SECONDS)


@pytest.mark.timeout(600)
def test_engines_of_a_deleted_node_come_back_elsewhere(space: Space, node: str) -> None:
    """A node is gone with one of two replicas: the number is what it was, a new replica answers on another node, and
    no request fails."""
    space.apply(an_external_fallback("big"), a_scaled_expert("spread", spec={"podOverrides": _one_on(node)}, min=2))
    space.wait_for(lambda: len(space.engines("spread")) == 2, "two engines")
    _serve(space, "spread", "big")
    first = deployment(space, "spread")
    (lost,) = (pod for pod in space.ready_pods("Expert", "spread") if pod["spec"]["nodeName"] == node)

    with load_on(space.gateway("spread"), clients=2, streams=False) as load:
        space.stack.cluster.api.delete(f"/api/v1/nodes/{node}").raise_for_status()
        space.wait_for(lambda: _is_elsewhere(space, lost["metadata"]["name"]), "a new engine", EVICTION_SECONDS)
        load.wait_for_more()

    assert load.failures == []
    assert min(numbers(space, first)) == 2
    assert all(pod["spec"]["nodeName"] != node for pod in space.ready_pods("Expert", "spread"))


def _is_elsewhere(space: Space, lost: str) -> bool:
    names = {engine.name for engine in space.engines("spread")}
    return len(names) >= 2 and lost not in names


def _one_on(node: str) -> Manifest:
    """At most one replica a node, and that node first."""
    hostname = "kubernetes.io/hostname"
    apart = {"topologyKey": hostname, "labelSelector": {"matchLabels": {"flotilla.dev/owner": "spread"}}}
    there = {"matchExpressions": [{"key": hostname, "operator": "In", "values": [node]}]}
    return {
        "affinity": {
            "podAntiAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [apart]},
            "nodeAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": [{"weight": 100, "preference": there}]},
        }
    }
