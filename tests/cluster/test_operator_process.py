"""The operator as a process on a real API server: repairs, faults, two replicas, and routers that poll it."""

from __future__ import annotations

import asyncio
import base64
import signal
from contextlib import ExitStack
from pathlib import Path

import httpx
from operator_world import CRDS, World, a_gateway_pod, snapshot_url

from flotilla_operator.adapters.authority import SECRET_NAME
from localcluster.cluster import LocalCluster


def test_children_are_repaired(world: World) -> None:
    """What is edited or deleted by hand comes back, and a foreign field stays."""
    world.add_policy()
    world.start()
    world.until(lambda: bool(world.child("deployments", "router-gateway")), "the gateway")
    uid = world.child("services", "router-gateway")["metadata"]["uid"]

    world.cluster.kubectl("delete", "service", "router-gateway", "-n", world.namespace)
    patch = '{"spec": {"replicas": 7, "minReadySeconds": 3}}'
    world.cluster.kubectl("patch", "deployment", "router-gateway", "-n", world.namespace, "-p", patch)

    world.until(
        lambda: (world.child("services", "router-gateway").get("metadata") or {"uid": uid})["uid"] != uid,
        "a new Service",
    )
    world.until(lambda: world.child("deployments", "router-gateway")["spec"]["replicas"] == 2, "two replicas again")
    assert world.child("deployments", "router-gateway")["spec"]["minReadySeconds"] == 3


def test_the_operator_waits_for_its_crds(tmp_path: Path) -> None:
    """Installed before its CRDs it waits, and goes on when they come."""
    with LocalCluster.start(name="operator-late", runner=False) as cluster, ExitStack() as stack:
        cluster.kubectl("create", "namespace", "early")
        world = World(cluster, "early", tmp_path, stack)
        replica = world.start(wait=False)
        world.until(lambda: "waiting for the Kubernetes API" in replica.log.read_text(), "it to say that it waits")
        assert not replica.ready()
        assert httpx.get(f"{replica.admin}/healthz").status_code == 200

        cluster.kubectl("apply", "--server-side", "-f", str(CRDS))
        world.until(replica.ready, "it to be ready")
        world.add_policy()
        world.until(lambda: bool(world.child("deployments", "router-gateway")), "the gateway")


def test_deletions_around_a_restart_of_the_api_server_are_noticed(world: World) -> None:
    """A child, and a model that a policy names, vanish while no watch looks: both are noticed."""
    world.add_policy()
    replica = world.start()
    world.until(lambda: bool(world.child("deployments", "router-gateway")), "the gateway")
    before = world.child("configmaps", "router-snapshot")["metadata"]["uid"]

    replica.send(signal.SIGSTOP)
    world.cluster.kill_apiserver()
    world.cluster.restart_apiserver()
    world.cluster.kubectl("delete", "configmap", "router-snapshot", "-n", world.namespace)
    world.cluster.kubectl("delete", "fallback", "router", "-n", world.namespace)
    replica.send(signal.SIGCONT)

    world.until(
        lambda: (world.child("configmaps", "router-snapshot").get("metadata") or {"uid": before})["uid"] != before,
        "a new snapshot",
    )
    world.until(
        lambda: "FallbackNotFound" in str(world.own("routingpolicies", "router").get("status")),
        "the policy to miss its fallback",
    )
    assert replica.process.poll() is None


def test_the_operator_outlives_an_outage_of_the_api_server(world: World) -> None:
    """It goes on where it was, without a restart."""
    replica = world.start()
    world.until(lambda: world.leads(replica), "it to lead")
    world.cluster.kill_apiserver()
    world.until(lambda: "lease lost" in replica.log.read_text(), "it to stop writing")
    healthy = httpx.get(f"{replica.admin}/healthz").status_code
    world.cluster.restart_apiserver()
    world.add_policy()

    world.until(lambda: bool(world.child("deployments", "router-gateway")), "the gateway")
    assert healthy == 200
    assert replica.process.poll() is None


def test_what_happened_while_no_operator_ran_is_caught_up_with(world: World) -> None:
    """Killed hard and started again, it repairs what it missed."""
    world.add_policy()
    first = world.start()
    world.until(lambda: bool(world.child("deployments", "router-gateway")), "the gateway")
    first.process.kill()
    first.process.wait()
    world.cluster.kubectl("delete", "deployment", "router-gateway", "-n", world.namespace)
    world.add_policy("second")
    world.start()

    world.until(lambda: bool(world.child("deployments", "router-gateway")), "the gateway again")
    world.until(lambda: bool(world.child("deployments", "second-gateway")), "the second gateway")


def test_a_standby_takes_over_when_the_leader_hangs_and_the_leader_gives_way(world: World) -> None:
    """One writes at a time, and after the hang the former leader is a standby."""
    first = world.start()
    world.until(lambda: world.leads(first), "the first to lead")
    second = world.start()
    first.send(signal.SIGSTOP)
    world.until(lambda: world.leads(second), "the second to lead")
    world.add_policy()
    world.until(lambda: bool(world.child("deployments", "router-gateway")), "the gateway")
    first.send(signal.SIGCONT)

    world.until(lambda: "lease lost" in first.log.read_text(), "the first to give way")
    world.until(first.ready, "the first to be a ready standby")
    assert world.leads(second)


def test_a_leader_that_is_told_to_end_gives_the_lease_away(world: World) -> None:
    """It ends with 0, and nobody waits for the Lease to run out."""
    replica = world.start()
    world.until(lambda: world.leads(replica), "it to lead")
    replica.send(signal.SIGTERM)

    assert replica.process.wait(30) == 0
    assert world.holder() == ""


async def test_a_policys_edit_reaches_a_router_that_polls_and_its_answer_is_shown(world: World) -> None:
    """With the API server's own reviews of a pod's token, under the Role that the operator made for the gateway."""
    world.add_policy()
    replica = world.start()
    await asyncio.to_thread(world.until, lambda: bool(world.child("deployments", "router-gateway")), "the gateway")
    async with a_gateway_pod(world).http() as router:
        url = snapshot_url(world, replica)
        first = await router.get(url)
        poll = asyncio.create_task(router.get(url, params={"digest": first.headers["x-flotilla-digest"]}))
        patch = '{"spec": {"models": ["auto", "gpt-4o-mini"]}}'
        await asyncio.to_thread(
            world.cluster.kubectl,
            *("patch", "routingpolicy", "router", "-n", world.namespace, "--type=merge", "-p", patch),
        )
        second = await poll

    assert first.json()["models"] == ["auto"]
    assert second.json()["models"] == ["auto", "gpt-4o-mini"]
    status = world.own("routingpolicies", "router")["status"]
    assert status["snapshotDigest"] in {first.headers["x-flotilla-digest"], second.headers["x-flotilla-digest"]}


async def test_a_router_is_refused_what_is_not_its_own(world: World) -> None:
    """Another policy's snapshot needs another Role; a token for another audience is worth nothing."""
    world.add_policy()
    world.add_policy("second")
    replica = world.start()
    await asyncio.to_thread(
        world.until,
        lambda: bool(world.child("deployments", "router-gateway") and world.child("deployments", "second-gateway")),
        "both gateways",
    )
    async with a_gateway_pod(world).http() as router:
        other = await router.get(snapshot_url(world, replica, "second"))
        admin = {"Authorization": f"Bearer {world.cluster.admin_token}"}
        stranger = await router.get(snapshot_url(world, replica), headers=admin)

    assert other.status_code == 403
    assert stranger.status_code == 401


async def test_a_standby_answers_with_the_leaders_snapshot(world: World) -> None:
    """A router needs not know who leads, and both replicas show certificates of one authority."""
    world.add_policy()
    leader = world.start()
    await asyncio.to_thread(world.until, lambda: bool(world.child("deployments", "router-gateway")), "the gateway")
    standby = await asyncio.to_thread(world.start)
    async with a_gateway_pod(world).http() as router:
        direct = await router.get(snapshot_url(world, leader))
        passed = await router.get(snapshot_url(world, standby))

    assert (passed.status_code, passed.content) == (200, direct.content)
    assert passed.headers["x-flotilla-digest"] == direct.headers["x-flotilla-digest"]
    secret = world.get(f"/api/v1/namespaces/{world.namespace}/secrets/{SECRET_NAME}")
    assert set(secret["data"]) == {"ca.crt", "ca.key"}
    assert b"BEGIN CERTIFICATE" in base64.b64decode(secret["data"]["ca.crt"])
