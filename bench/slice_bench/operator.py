"""The operator on a real API server: 200 Experts at once, writes at rest, how soon routers serve an edited policy."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import httpx
import yaml

from localcluster.access import ClusterAccess
from stack.flotilla import SYSTEM_NAMESPACE, Stack, running_stack

EXPERTS = 200
NAMESPACE = "bench"
REST_SECONDS = 60.0
SETTLE_SECONDS = 20.0
EDITS = 5
POLL_SECONDS = 0.05
_WRITES = re.compile(r"^flotilla_operator_api_writes_total\{(?P<labels>[^}]*)\} (?P<value>\S+)$", re.MULTILINE)
_ACKNOWLEDGED = "ConfigPropagated"

Manifest = dict[str, Any]


@dataclass(frozen=True, slots=True)
class OperatorFigures:
    """Seconds and writes of the operator."""

    experts_seconds: float
    experts_writes: int
    idle_writes_per_minute: float
    policy_ack_seconds: float


def measure(tick: Callable[[], None]) -> OperatorFigures:
    """All figures from one cluster. The Experts are held at 0 replicas: pods are the scheduler's time, not ours."""
    with running_stack(name="bench") as stack:
        stack.install()
        tick()
        cluster = stack.cluster
        cluster.kubectl("create", "namespace", NAMESPACE)
        cluster.kubectl("apply", "-f", "-", input=yaml.safe_dump(_profile()))
        acknowledged = _policy_ack_seconds(stack)
        tick()
        _wait_until_quiet(cluster)
        before = operator_writes(cluster)
        seconds = _apply_experts(cluster)
        _wait_until_quiet(cluster)
        writes = operator_writes(cluster) - before
        tick()
        resting = operator_writes(cluster)
        started = time.monotonic()
        time.sleep(REST_SECONDS)
        idle = (operator_writes(cluster) - resting) / (time.monotonic() - started) * 60
        tick()
    return OperatorFigures(seconds, writes, idle, acknowledged)


def operator_writes(cluster: ClusterAccess) -> int:
    """Writes of every operator replica so far, its Lease aside."""
    return sum(_writes_of(address) for address in _pod_addresses(cluster, SYSTEM_NAMESPACE, "component=operator"))


def _writes_of(address: str) -> int:
    text = httpx.get(f"http://{address}:8081/metrics", timeout=10).text
    return sum(int(float(m["value"])) for m in _WRITES.finditer(text) if "leases" not in m["labels"])


def _pod_addresses(cluster: ClusterAccess, namespace: str, component: str) -> list[str]:
    pods = _items(cluster, f"/api/v1/namespaces/{namespace}/pods?labelSelector=app.kubernetes.io/{component}")
    return [pod["status"]["podIP"] for pod in pods if pod["status"].get("podIP")]


def _items(cluster: ClusterAccess, path: str) -> list[Manifest]:
    return cluster.api.get(path).raise_for_status().json()["items"]


def _apply_experts(cluster: ClusterAccess) -> float:
    """Seconds from the first Expert's creation until all have their Deployment."""
    path = f"/apis/flotilla.dev/v1alpha1/namespaces/{NAMESPACE}/experts"
    started = time.monotonic()
    for index in range(EXPERTS):
        cluster.api.post(path, json=_expert(f"expert-{index:03d}")).raise_for_status()
    deployments = f"/apis/apps/v1/namespaces/{NAMESPACE}/deployments?labelSelector=flotilla.dev/owner-kind=Expert"

    def all_there() -> bool:
        names = (item["metadata"]["name"] for item in _items(cluster, deployments))
        return sum(name.startswith("expert-") for name in names) >= EXPERTS

    cluster.wait_for(all_there, f"{EXPERTS} Deployments", 300)
    return time.monotonic() - started


def _wait_until_quiet(cluster: ClusterAccess) -> None:
    """Return once nothing was written for a while: statuses have settled."""
    last, since = operator_writes(cluster), time.monotonic()
    while time.monotonic() - since < SETTLE_SECONDS:
        time.sleep(1)
        if (now := operator_writes(cluster)) != last:
            last, since = now, time.monotonic()


def _policy_ack_seconds(stack: Stack) -> float:
    """The slowest of several edits, from the patch's answer until every router's own metrics show the new snapshot."""
    cluster = stack.cluster
    cluster.kubectl("apply", "-f", "-", input=yaml.safe_dump_all([_expert("target"), _policy()]))
    cluster.kubectl("wait", "--for=condition=RouterReady", "routingpolicy/bench", "-n", NAMESPACE, "--timeout=120s")
    cluster.kubectl("wait", f"--for=condition={_ACKNOWLEDGED}", "routingpolicy/bench", "-n", NAMESPACE, "--timeout=60s")
    return max(_edit(cluster, weight) for weight in range(2, 2 + EDITS))


def _edit(cluster: ClusterAccess, weight: int) -> float:
    addresses = _pod_addresses(cluster, NAMESPACE, "component=router")
    before = [_served_digests(address) for address in addresses]
    patch = {"spec": {"experts": [{"name": "target", "weight": weight}]}}
    path = f"/apis/flotilla.dev/v1alpha1/namespaces/{NAMESPACE}/routingpolicies/bench"
    headers = {"content-type": "application/merge-patch+json"}
    started = time.monotonic()
    cluster.api.patch(path, content=json.dumps(patch), headers=headers).raise_for_status()
    while not _all_changed(addresses, before):
        if time.monotonic() - started > 30:
            raise TimeoutError("the routers did not take an edited policy within 30 s")
        time.sleep(POLL_SECONDS)
    return time.monotonic() - started


def _all_changed(addresses: Iterable[str], before: Iterable[set[str]]) -> bool:
    return all(_served_digests(address) != old for address, old in zip(addresses, before, strict=True))


def _served_digests(address: str) -> set[str]:
    text = httpx.get(f"http://{address}:9090/metrics", timeout=10).text
    lines = (line for line in text.splitlines() if line.startswith("flotilla_router_snapshot_info{"))
    return {line for line in lines if line.endswith(" 1.0")}


def _profile() -> Manifest:
    return {
        "apiVersion": "flotilla.dev/v1alpha1",
        "kind": "AcceleratorProfile",
        "metadata": {"name": "l4"},
        "spec": {"resource": "nvidia.com/gpu", "memoryGiB": 24, "hourlyUSD": "0.80"},
    }


def _expert(name: str) -> Manifest:
    return {
        "apiVersion": "flotilla.dev/v1alpha1",
        "kind": "Expert",
        "metadata": {"name": name, "namespace": NAMESPACE},
        "spec": {
            "model": {"uri": "hf://Qwen/Qwen2.5-1.5B-Instruct"},
            "accelerator": {"profile": "l4"},
            "replicas": 0,
        },
    }


def _policy() -> Manifest:
    return {
        "apiVersion": "flotilla.dev/v1alpha1",
        "kind": "RoutingPolicy",
        "metadata": {"name": "bench", "namespace": NAMESPACE},
        "spec": {"experts": [{"name": "target"}], "auth": {"anonymous": True}},
    }
