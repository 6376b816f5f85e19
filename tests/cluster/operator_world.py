"""Operators as processes on a real API server, and pods' tokens to call them with."""

from __future__ import annotations

import os
import random
import signal
import socket
import ssl
import subprocess
import sys
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from flotilla_operator.adapters.lease import address_of
from localcluster.cluster import LocalCluster

CRDS = Path(__file__).parents[2] / "crds"
GROUP = "/apis/flotilla.dev/v1alpha1"
LEASE = "/apis/coordination.k8s.io/v1/namespaces/{}/leases/flotilla-operator"
EPHEMERAL_PORTS = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
"""The first port that the kernel gives to outgoing connections."""
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
    """A port of loopback that nobody listens on, and that no outgoing connection gets before it is listened on."""
    for port in random.SystemRandom().sample(range(10_000, EPHEMERAL_PORTS), 100):
        with socket.socket() as listener:
            try:
                listener.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise RuntimeError("no port of loopback is free")


def end(process: subprocess.Popen[bytes]) -> None:
    """The process is gone."""
    process.send_signal(signal.SIGCONT)
    process.terminate()
    try:
        process.wait(20)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


@dataclass(frozen=True)
class PodIdentity:
    """A pod that waits for a node for ever, and its tokens."""

    world: World
    namespace: str
    name: str
    uid: str
    account: str

    def token(self, audience: str = "flotilla-control") -> str:
        """A token for `audience`, bound to the pod, as the kubelet would mount it."""
        bound = {"kind": "Pod", "apiVersion": "v1", "name": self.name, "uid": self.uid}
        path = f"/api/v1/namespaces/{self.namespace}/serviceaccounts/{self.account}/token"
        created = self.world.create(path, {"spec": {"audiences": [audience], "boundObjectRef": bound}})
        return created["status"]["token"]

    def http(self) -> httpx.AsyncClient:
        """A client that shows its token to the control API, and trusts what the policy's ConfigMap names."""
        maps = self.world.get(f"/api/v1/namespaces/{self.world.namespace}/configmaps")["items"]
        trusted = next(each["data"]["control-ca.crt"] for each in maps if "control-ca.crt" in each.get("data", {}))
        headers = {"Authorization": f"Bearer {self.token()}"}
        context = ssl.create_default_context(cadata=trusted)
        return httpx.AsyncClient(verify=context, headers=headers, timeout=60, trust_env=False)


def a_pod_of(world: World, account: str, *, namespace: str = "", **labels: str) -> PodIdentity:
    """A pod with `labels` of ours; `namespace` is the world's unless said."""
    namespace = namespace or world.namespace
    accounts = f"/api/v1/namespaces/{namespace}/serviceaccounts/{account}"
    world.until(lambda: bool(world.get(accounts)), f"the account {account}")
    pod: Manifest = {
        "metadata": {
            "generateName": f"{account}-",
            "labels": {f"flotilla.dev/{name}": value for name, value in labels.items()},
        },
        "spec": {"serviceAccountName": account, "containers": [{"name": "c", "image": "i"}]},
    }
    live = world.create(f"/api/v1/namespaces/{namespace}/pods", pod)["metadata"]
    return PodIdentity(world, namespace, live["name"], live["uid"], account)


def a_gateway_pod(world: World, policy: str = "router") -> PodIdentity:
    """A pod with the account that the operator made for the policy's gateway."""
    return a_pod_of(world, f"{policy}-gateway")


def snapshot_url(world: World, replica: Replica, policy: str = "router") -> str:
    """Where a router polls."""
    return f"{replica.control}/v1/snapshots/{world.namespace}/{policy}"
