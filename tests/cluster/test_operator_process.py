"""The operator as a process on a real API server: repairs, faults, two replicas, and routers that poll it."""

from __future__ import annotations

import asyncio
import base64
import os
import signal
import socket
import ssl
import subprocess
import sys
import uuid
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from flotilla_operator.adapters.authority import SECRET_NAME
from flotilla_operator.adapters.lease import address_of
from localcluster.cluster import LocalCluster

CRDS = Path(__file__).parents[2] / "crds"
GROUP = "/apis/flotilla.dev/v1alpha1"
LEASE = "/apis/coordination.k8s.io/v1/namespaces/{}/leases/flotilla-operator"
TAKEOVER_SECONDS = 60.0
"""Generous: a loaded machine is slow. That it takes no longer than it may is shown in virtual time."""

Manifest = dict[str, Any]


@dataclass(frozen=True)
class Replica:
    """One operator process."""

    process: subprocess.Popen[bytes]
    admin: str
    control: str
    log: Path

    def send(self, number: signal.Signals) -> None:
        """The process gets a signal."""
        self.process.send_signal(number)

    def ready(self) -> bool:
        """Whether it says so."""
        try:
            return httpx.get(f"{self.admin}/readyz", timeout=2).status_code == 200
        except httpx.HTTPError:
            return False


@dataclass(frozen=True)
class World:
    """A cluster without nodes, and a namespace that is served by operators of the test's own."""

    cluster: LocalCluster
    namespace: str
    directory: Path
    stack: ExitStack

    def start(self, *, wait: bool = True, more: Mapping[str, str] | None = None) -> Replica:
        """One more replica, with `more` settings; ready unless it is not to be waited for."""
        admin, control = free_port(), free_port()
        log = self.directory / f"operator-{admin}.log"
        settings = {
            "ENGINE_IMAGE": "vllm/vllm-openai:v0.32.0",
            "ROUTER_IMAGE": "flotilla-router:1",
            "NAMESPACE": self.namespace,
            "WATCH_NAMESPACES": self.namespace,
            "POD_NAME": f"operator-{admin}",
            "POD_IP": "127.0.0.1",
            "ADMIN_PORT": str(admin),
            "CONTROL_PORT": str(control),
            **(more or {}),
        }
        environment = {**os.environ, "KUBECONFIG": str(self.cluster.kubeconfig)}
        environment |= {f"FLOTILLA_{name}": value for name, value in settings.items()}
        output = self.stack.enter_context(log.open("wb"))
        command = [sys.executable, "-m", "flotilla_operator"]
        process = subprocess.Popen(command, env=environment, stdout=output, stderr=output)
        self.stack.callback(end, process)
        replica = Replica(process, f"http://127.0.0.1:{admin}", f"https://127.0.0.1:{control}", log)
        if wait:
            self.until(replica.ready, f"operator to be ready, see {log}")
        return replica

    def until(self, condition: Callable[[], bool], what: str, seconds: float = TAKEOVER_SECONDS) -> None:
        """Return once `condition` holds."""
        self.cluster.wait_for(condition, what, seconds)

    def get(self, path: str) -> Manifest:
        """A live object; {} where there is none."""
        response = self.cluster.api.get(path)
        return response.json() if response.is_success else {}

    def child(self, plural: str, name: str) -> Manifest:
        """A live child of an owner of the test's namespace."""
        roots = {"deployments": "/apis/apps/v1", "roles": "/apis/rbac.authorization.k8s.io/v1"}
        return self.get(f"{roots.get(plural, '/api/v1')}/namespaces/{self.namespace}/{plural}/{name}")

    def own(self, plural: str, name: str) -> Manifest:
        """A live object of our group."""
        return self.get(f"{GROUP}/namespaces/{self.namespace}/{plural}/{name}")

    def create(self, path: str, manifest: Manifest) -> Manifest:
        """The object as created."""
        response = self.cluster.api.post(path, json=manifest)
        assert response.is_success, response.text
        return response.json()

    def add_policy(self, name: str = "router") -> None:
        """A policy over one external fallback of the same name."""
        fallback: Manifest = {"external": {"url": "https://api.example.com/v1", "model": "big-1"}}
        policy: Manifest = {"experts": [], "fallbacks": [{"name": name}], "auth": {"anonymous": True}}
        for kind, plural, spec in (("RoutingPolicy", "routingpolicies", policy), ("Fallback", "fallbacks", fallback)):
            manifest: Manifest = {"apiVersion": "flotilla.dev/v1alpha1", "kind": kind, "metadata": {"name": name}}
            self.create(f"{GROUP}/namespaces/{self.namespace}/{plural}", {**manifest, "spec": spec})

    def holder(self) -> str:
        """Address of the Lease's holder."""
        spec: Manifest = self.get(LEASE.format(self.namespace)).get("spec") or {}
        return address_of(spec.get("holderIdentity") or "")

    def leads(self, replica: Replica) -> bool:
        """Whether the Lease names `replica`."""
        return replica.control.endswith(f"//{self.holder()}")


def free_port() -> int:
    """A port of loopback that nobody listens on."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def end(process: subprocess.Popen[bytes]) -> None:
    """The process is gone."""
    process.send_signal(signal.SIGCONT)
    process.terminate()
    try:
        process.wait(20)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


@pytest.fixture(scope="module")
def plane() -> Generator[LocalCluster]:
    """A control plane with our CRDs, whose API server the tests may kill."""
    with LocalCluster.start(name="operator", runner=False) as cluster:
        cluster.kubectl("apply", "--server-side", "-f", str(CRDS))
        yield cluster


@pytest.fixture
def world(plane: LocalCluster, tmp_path: Path) -> Iterator[World]:
    """No operator runs yet."""
    namespace = f"test-{uuid.uuid4().hex[:8]}"
    plane.kubectl("create", "namespace", namespace)
    with ExitStack() as stack:
        yield World(plane, namespace, tmp_path, stack)
    plane.kubectl("delete", "namespace", namespace, "--wait=false")


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


@contextmanager
def a_router(world: World, policy: str = "router") -> Generator[httpx.AsyncClient]:
    """An HTTP client with a pod's token, as the kubelet would mount it, that trusts what the ConfigMap names."""
    account = f"{policy}-gateway"
    container: Manifest = {"name": "c", "image": "i"}
    pod: Manifest = {
        "metadata": {"generateName": "gateway-"},
        "spec": {"serviceAccountName": account, "containers": [container]},
    }
    live = world.create(f"/api/v1/namespaces/{world.namespace}/pods", pod)["metadata"]
    bound = {"kind": "Pod", "apiVersion": "v1", "name": live["name"], "uid": live["uid"]}
    spec = {"audiences": ["flotilla-control"], "boundObjectRef": bound}
    path = f"/api/v1/namespaces/{world.namespace}/serviceaccounts/{account}/token"
    token = world.create(path, {"spec": spec})["status"]["token"]
    trust = ssl.create_default_context(cadata=world.child("configmaps", "router-snapshot")["data"]["control-ca.crt"])
    yield httpx.AsyncClient(verify=trust, headers={"Authorization": f"Bearer {token}"}, timeout=60, trust_env=False)


def snapshot_url(world: World, replica: Replica, policy: str = "router") -> str:
    """Where a router polls."""
    return f"{replica.control}/v1/snapshots/{world.namespace}/{policy}"


async def test_a_policys_edit_reaches_a_router_that_polls_and_its_answer_is_shown(world: World) -> None:
    """With the API server's own reviews of a pod's token, under the Role that the operator made for the gateway."""
    world.add_policy()
    replica = world.start()
    await asyncio.to_thread(world.until, lambda: bool(world.child("deployments", "router-gateway")), "the gateway")
    with a_router(world) as router:
        async with router:
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
    with a_router(world) as router:
        async with router:
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
    with a_router(world) as router:
        async with router:
            direct = await router.get(snapshot_url(world, leader))
            passed = await router.get(snapshot_url(world, standby))

    assert (passed.status_code, passed.content) == (200, direct.content)
    assert passed.headers["x-flotilla-digest"] == direct.headers["x-flotilla-digest"]
    secret = world.get(f"/api/v1/namespaces/{world.namespace}/secrets/{SECRET_NAME}")
    assert set(secret["data"]) == {"ca.crt", "ca.key"}
    assert b"BEGIN CERTIFICATE" in base64.b64decode(secret["data"]["ca.crt"])
