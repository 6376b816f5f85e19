"""Agents' pods and their tokens on a real API server: what they may read and may not, and what is said of them."""

from __future__ import annotations

import asyncio
import json

import httpx
from operator_world import Manifest, PodIdentity, Replica, World, a_gateway_pod, a_pod_of, snapshot_url

AGENT = "default"
"""The account of an agent's pod: nobody granted it anything."""


async def a_fleet(world: World) -> Replica:
    """An operator with the policies router and second."""
    world.add_policy()
    world.add_policy("second")
    replica = await asyncio.to_thread(world.start)
    await asyncio.to_thread(
        world.until,
        lambda: bool(world.child("deployments", "router-gateway") and world.child("deployments", "second-gateway")),
        "both gateways",
    )
    return replica


async def ask(world: World, pod: PodIdentity, replica: Replica, policy: str = "router") -> httpx.Response:
    """The pod asks for a policy's snapshot."""
    async with pod.http() as http:
        return await http.get(snapshot_url(world, replica, policy))


async def review(gateway: PodIdentity, replica: Replica, token: str) -> httpx.Response:
    """The pod asks whose `token` is, as a gateway of the policy router does."""
    async with gateway.http() as http:
        url = f"{replica.control}/v1/tokens/{gateway.world.namespace}/router"
        return await http.post(url, json={"token": token})


async def test_a_sidecar_gets_the_snapshot_that_its_pods_label_names_and_no_other(world: World) -> None:
    """Its account needs no right in RBAC; a pod without the label, or of our own, gets none."""
    replica = await a_fleet(world)
    agent = a_pod_of(world, AGENT, policy="router")
    unlabelled = a_pod_of(world, AGENT)
    child = a_pod_of(world, AGENT, policy="router", **{"owner-kind": "Expert"})

    own, other = await ask(world, agent, replica), await ask(world, agent, replica, "second")
    assert (own.status_code, own.json()["policy"]) == (200, "router")
    assert other.status_code == 403
    assert [(await ask(world, pod, replica)).status_code for pod in (unlabelled, child)] == [403, 403]


async def test_a_label_in_another_namespace_opens_nothing(world: World) -> None:
    """Neither the snapshot, nor the gateway."""
    replica = await a_fleet(world)
    world.cluster.kubectl("create", "namespace", f"{world.namespace}-other")
    stranger = a_pod_of(world, AGENT, namespace=f"{world.namespace}-other", policy="router")

    assert (await ask(world, stranger, replica)).status_code == 403
    shown = await review(a_gateway_pod(world), replica, stranger.token("flotilla-gateway"))
    assert (shown.status_code, shown.json()["error"]["reason"]) == (403, "TokenRefused")


async def test_a_relabelled_or_deleted_pod_is_refused(world: World) -> None:
    """The live pod counts, not the token."""
    replica = await a_fleet(world)
    relabelled, deleted = (a_pod_of(world, AGENT, policy="router") for _ in range(2))
    of_deleted = deleted.http()
    pods = f"/api/v1/namespaces/{world.namespace}/pods"
    world.cluster.kubectl(
        "label", "pod", relabelled.name, "-n", world.namespace, "--overwrite", "flotilla.dev/policy=x"
    )
    world.cluster.kubectl("delete", "pod", deleted.name, "-n", world.namespace, "--grace-period=0", "--force")
    await asyncio.to_thread(world.until, lambda: not world.get(f"{pods}/{deleted.name}"), "the pod to be gone")

    assert (await ask(world, relabelled, replica)).status_code == 403
    async with of_deleted as http:
        gone = await http.get(snapshot_url(world, replica))
    assert gone.status_code in (401, 403), "the API server itself may refuse a token whose pod is gone"


async def test_each_token_is_good_for_its_audience_alone(world: World) -> None:
    """The gateway's opens no snapshot, and neither opens the Kubernetes API."""
    replica = await a_fleet(world)
    agent = a_pod_of(world, AGENT, policy="router")
    for_gateway, for_control = (agent.token(audience) for audience in ("flotilla-gateway", "flotilla-control"))

    async with agent.http() as http:
        headers = {"Authorization": f"Bearer {for_gateway}"}
        assert (await http.get(snapshot_url(world, replica), headers=headers)).status_code == 401
    path = f"/api/v1/namespaces/{world.namespace}/pods"
    for token in (for_gateway, for_control):
        headers = {"Authorization": f"Bearer {token}"}
        assert world.cluster.api.get(path, headers=headers).status_code == 401


async def test_a_gateway_learns_which_pod_showed_it_a_token(world: World) -> None:
    """From any replica; a token of another policy's agent, or for another audience, is worth nothing."""
    leader = await a_fleet(world)
    standby = await asyncio.to_thread(world.start)
    gateway = a_gateway_pod(world)
    agent, other = (a_pod_of(world, AGENT, policy=policy) for policy in ("router", "second"))

    for replica in (leader, standby):
        known = await review(gateway, replica, agent.token("flotilla-gateway"))
        assert (known.status_code, known.json()) == (200, {"pod": agent.name})
    refused = [await review(gateway, leader, token) for token in (other.token("flotilla-gateway"), agent.token())]
    assert [(each.status_code, each.json()["error"]["reason"]) for each in refused] == [(403, "TokenRefused")] * 2


async def test_only_the_policys_own_gateway_may_ask(world: World) -> None:
    """A sidecar may not, and neither may another policy's gateway."""
    replica = await a_fleet(world)
    agent = a_pod_of(world, AGENT, policy="router")
    token = agent.token("flotilla-gateway")

    asked = [await review(pod, replica, token) for pod in (agent, a_gateway_pod(world, "second"))]
    assert [(each.status_code, each.json()["error"]["reason"]) for each in asked] == [(403, "Forbidden")] * 2


def injected(world: World) -> Manifest:
    """The policy's condition about its agents; empty before there is one."""
    conditions: list[Manifest] = world.own("routingpolicies", "router").get("status", {}).get("conditions", [])
    nothing: Manifest = {}
    return next((each for each in conditions if each["type"] == "SidecarsInjected"), nothing)


def told(world: World) -> list[tuple[str, str]]:
    """Pods and the reasons of our events about them."""
    events = world.get(f"/apis/events.k8s.io/v1/namespaces/{world.namespace}/events")["items"]
    ours = [each for each in events if each.get("reportingController") == "flotilla.dev/operator"]
    return sorted((each["regarding"]["name"], each["reason"]) for each in ours if each["regarding"]["kind"] == "Pod")


def test_pods_that_slipped_through_show_on_their_policy_and_are_told_once(world: World) -> None:
    """Also when another replica leads; a pod that ended or goes does not count."""
    world.add_policy()
    first = world.start()
    world.until(lambda: injected(world).get("reason") == "NoAgents", "the pods to be listed")
    late = a_pod_of(world, AGENT, policy="router")
    lost = a_pod_of(world, AGENT, policy="nowhere")
    ended = a_pod_of(world, AGENT, policy="router")
    path = f"/api/v1/namespaces/{world.namespace}/pods/{ended.name}/status"
    headers = {"content-type": "application/merge-patch+json"}
    patch = json.dumps({"status": {"phase": "Succeeded"}})
    world.cluster.api.patch(path, content=patch, headers=headers).raise_for_status()

    world.until(lambda: injected(world).get("reason") == "SidecarMissing", "the pod to be missed")
    expected = sorted([(late.name, "SidecarMissing"), (lost.name, "PolicyNotFound")])
    world.until(lambda: told(world) == expected, "the pods to be told")
    assert late.name in injected(world)["message"]
    assert world.own("routingpolicies", "router")["status"]["sidecars"] == "0/1"

    first.process.kill()
    first.process.wait()
    world.start()
    annotation = "flotilla.dev/injected=router"
    world.cluster.kubectl("annotate", "pod", late.name, "-n", world.namespace, annotation)
    world.until(lambda: injected(world).get("reason") == "Injected", "it to count as injected")
    assert world.own("routingpolicies", "router")["status"]["sidecars"] == "1/1"
    assert told(world) == expected
    world.cluster.kubectl("delete", "pod", late.name, "-n", world.namespace, "--grace-period=0", "--force")
    world.until(lambda: injected(world).get("reason") == "NoAgents", "nobody to ask any more")
