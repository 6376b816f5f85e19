"""Trained artifacts on a real API server: made with kubectl, pinned by a policy, handed to its routers alone."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from pathlib import Path

from operator_world import GROUP, Manifest, Replica, World, a_gateway_pod, a_pod_of, snapshot_url

from artifacts import an_artifact, digest
from flotilla_router.artifact import load_artifact, read_tar

FIRST = an_artifact()
SECOND = an_artifact(manifest={"data": {"digest": digest(FIRST), "rows": 3, "splitSeed": 1}})
PAIR = {"weak": "small", "strong": "big"}


def add_learned_policy(world: World, files: Mapping[str, bytes], config_map: str = "router-v1") -> None:
    """A policy that routes between two external models by the artifact of `files`, which it expects in `config_map`."""
    for name in PAIR.values():
        external = {"url": "https://api.example.com/v1", "model": name}
        add(world, "Fallback", "fallbacks", name, {"external": external})
    strategy = {
        "type": "WinRate",
        "artifact": {"configMapRef": {"name": config_map}, "digest": digest(files)},
        "models": PAIR,
        "threshold": "0.5",
    }
    fallbacks = [{"name": name} for name in PAIR.values()]
    policy = {"experts": [], "fallbacks": fallbacks, "strategy": strategy, "auth": {"anonymous": True}}
    add(world, "RoutingPolicy", "routingpolicies", "router", policy)


def add(world: World, kind: str, plural: str, name: str, spec: Manifest) -> None:
    """The object is there."""
    manifest: Manifest = {"apiVersion": "flotilla.dev/v1alpha1", "kind": kind, "metadata": {"name": name}, "spec": spec}
    world.create(f"{GROUP}/namespaces/{world.namespace}/{plural}", manifest)


def make_map(world: World, directory: Path, files: Mapping[str, bytes], name: str = "router-v1") -> None:
    """kubectl makes the ConfigMap of a folder's files, in the place of one that may be there."""
    directory.mkdir(exist_ok=True)
    for file, data in files.items():
        (directory / file).write_bytes(data)
    world.cluster.kubectl("delete", "configmap", name, "-n", world.namespace, "--ignore-not-found")
    world.cluster.kubectl("create", "configmap", name, "-n", world.namespace, f"--from-file={directory}")


def promote(world: World, files: Mapping[str, bytes], config_map: str) -> None:
    """A person edits the policy."""
    artifact = {"configMapRef": {"name": config_map}, "digest": digest(files)}
    patch = json.dumps({"spec": {"strategy": {"artifact": artifact}}})
    command = ("patch", "routingpolicy", "router", "-n", world.namespace, "--type=merge", "-p", patch)
    world.cluster.kubectl(*command)


def strategy_ready(world: World) -> tuple[str, str]:
    """Status with reason, and message, of the condition; empty before there is one."""
    status: Manifest = world.own("routingpolicies", "router").get("status") or {}
    found = [each for each in status.get("conditions", []) if each["type"] == "StrategyReady"]
    return next(((f"{each['status']} {each['reason']}", each["message"]) for each in found), ("", ""))


def until_says(world: World, expected: str) -> str:
    """The message, once the policy says so."""
    world.until(lambda: strategy_ready(world)[0] == expected, f"StrategyReady to be {expected}")
    return strategy_ready(world)[1]


def a_leader(world: World) -> Replica:
    """An operator that made the policy's gateway."""
    replica = world.start()
    world.until(lambda: bool(world.child("deployments", "router-gateway")), "the gateway")
    return replica


def test_a_policy_says_what_is_wrong_with_its_config_map_until_it_is_right(world: World, tmp_path: Path) -> None:
    """It is missing, then another, then the pinned one; the gateway is there all the while."""
    add_learned_policy(world, FIRST)
    a_leader(world)
    assert "ConfigMap router-v1 does not exist" in until_says(world, "False ArtifactNotFound")

    make_map(world, tmp_path / "second", SECOND)
    assert f"holds the artifact {digest(SECOND)}" in until_says(world, "False ArtifactDigestMismatch")

    make_map(world, tmp_path / "first", FIRST)
    until_says(world, "Unknown WaitingForRouters")

    world.cluster.kubectl("delete", "configmap", "router-v1", "-n", world.namespace)
    until_says(world, "False ArtifactNotFound")


def test_rolling_a_policy_back_clears_the_condition(world: World, tmp_path: Path) -> None:
    """One line of the policy, by kubectl alone."""
    make_map(world, tmp_path / "first", FIRST)
    add_learned_policy(world, FIRST)
    a_leader(world)
    until_says(world, "Unknown WaitingForRouters")

    promote(world, SECOND, "router-v2")
    until_says(world, "False ArtifactNotFound")

    promote(world, FIRST, "router-v1")
    until_says(world, "Unknown WaitingForRouters")


async def test_the_policys_routers_get_the_artifact_and_nobody_else(world: World, tmp_path: Path) -> None:
    """Gateway and sidecar, from any replica, under the rights that the operator made; what comes loads."""
    make_map(world, tmp_path / "first", FIRST)
    add_learned_policy(world, FIRST)
    world.add_policy("second")
    leader = await asyncio.to_thread(a_leader, world)
    await asyncio.to_thread(world.until, lambda: bool(world.child("deployments", "second-gateway")), "both gateways")
    standby = await asyncio.to_thread(world.start)
    path = f"/v1/artifacts/{world.namespace}/router/{digest(FIRST)}"

    for pod in (a_gateway_pod(world), a_pod_of(world, "default", policy="router")):
        async with pod.http() as http:
            answers = [await http.get(f"{replica.control}{path}") for replica in (leader, standby)]
        assert [answer.status_code for answer in answers] == [200, 200]
        assert {load_artifact(read_tar(answer.content), digest(FIRST)).digest for answer in answers} == {digest(FIRST)}
    for pod in (a_gateway_pod(world, "second"), a_pod_of(world, "default")):
        async with pod.http() as http:
            assert (await http.get(f"{leader.control}{path}")).status_code == 403


async def test_after_a_promotion_only_what_the_policy_names_is_handed_out(world: World, tmp_path: Path) -> None:
    """The snapshot with the new digest and its artifact come together; the old one is no longer the policy's."""
    make_map(world, tmp_path / "first", FIRST)
    make_map(world, tmp_path / "second", SECOND, "router-v2")
    add_learned_policy(world, FIRST)
    replica = await asyncio.to_thread(a_leader, world)
    artifacts = f"{replica.control}/v1/artifacts/{world.namespace}/router"
    async with a_gateway_pod(world).http() as http:
        first = await http.get(snapshot_url(world, replica))
        poll = asyncio.create_task(
            http.get(snapshot_url(world, replica), params={"digest": first.headers["x-flotilla-digest"]})
        )
        await asyncio.to_thread(promote, world, SECOND, "router-v2")
        second = await poll
        answers = [await http.get(f"{artifacts}/{digest(files)}") for files in (SECOND, FIRST)]

    pinned = [answer.json()["strategy"]["artifact"] for answer in (first, second)]
    assert pinned == [{"digest": digest(FIRST)}, {"digest": digest(SECOND)}]
    assert [answer.status_code for answer in answers] == [200, 404]
    assert answers[1].json()["error"]["reason"] == "ArtifactNotFound"
