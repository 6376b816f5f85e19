"""The operator on a real API server: 200 Experts at once, writes at rest, how soon an edited policy is acknowledged."""

from __future__ import annotations

import json
import re
import time
from dataclasses import dataclass
from typing import Any

import httpx
import yaml

from localcluster.access import ClusterAccess
from slice_bench.progress import Progress, Stage
from stack.flotilla import SYSTEM_NAMESPACE, running_stack

EXPERTS = 200
NAMESPACE = "bench"
REST_SECONDS = 60
SETTLE_SECONDS = 20.0
EDITS = 5
EDIT_SECONDS = 30
_WRITES = re.compile(r"^flotilla_operator_api_writes_total\{(?P<labels>[^}]*)\} (?P<value>\S+)$", re.MULTILINE)
ACKNOWLEDGED = "ConfigPropagated"

Manifest = dict[str, Any]


@dataclass(frozen=True, slots=True)
class OperatorFigures:
    """Seconds and writes of the operator."""

    experts_seconds: float
    experts_writes: int
    idle_writes_per_minute: float
    policy_ack_seconds: float


def measure(stage: Stage) -> OperatorFigures:
    """All figures from one cluster. The Experts are held at 0 replicas: pods are the scheduler's time, not ours."""
    progress = stage("operator: cluster and chart", 1)
    with running_stack(name="bench") as stack:
        stack.install()
        cluster = stack.cluster
        cluster.kubectl("create", "namespace", NAMESPACE)
        cluster.kubectl("apply", "-f", "-", input=yaml.safe_dump(a_profile()))
        progress(1)
        acknowledged = _policy_ack_seconds(cluster, stage("operator: edits of a policy", EDITS))
        _wait_until_quiet(cluster)
        before = operator_writes(cluster)
        seconds = _apply_experts(cluster, stage(f"operator: {EXPERTS} Experts", EXPERTS))
        _wait_until_quiet(cluster)
        writes = operator_writes(cluster) - before
        idle = _writes_at_rest(cluster, stage("operator: at rest, seconds", REST_SECONDS))
    return OperatorFigures(seconds, writes, idle, acknowledged)


def _writes_at_rest(cluster: ClusterAccess, progress: Progress) -> float:
    """Writes a minute while nothing happens."""
    before, started = operator_writes(cluster), time.monotonic()
    while (passed := time.monotonic() - started) < REST_SECONDS:
        progress(int(passed))
        time.sleep(1)
    return (operator_writes(cluster) - before) / passed * 60


def operator_writes(cluster: ClusterAccess) -> int:
    """Writes of every operator replica so far, its Lease aside."""
    return sum(_writes_of(address) for address in pod_addresses(cluster, SYSTEM_NAMESPACE, "component=operator"))


def _writes_of(address: str) -> int:
    text = httpx.get(f"http://{address}:8081/metrics", timeout=10).text
    return sum(int(float(m["value"])) for m in _WRITES.finditer(text) if "leases" not in m["labels"])


def pod_addresses(cluster: ClusterAccess, namespace: str, component: str) -> list[str]:
    """Of pods with this label of `app.kubernetes.io`."""
    pods = _items(cluster, f"/api/v1/namespaces/{namespace}/pods?labelSelector=app.kubernetes.io/{component}")
    return [pod["status"]["podIP"] for pod in pods if pod["status"].get("podIP")]


def _items(cluster: ClusterAccess, path: str) -> list[Manifest]:
    return cluster.api.get(path).raise_for_status().json()["items"]


def _apply_experts(cluster: ClusterAccess, progress: Progress) -> float:
    """Seconds from the first Expert's creation until all have their Deployment."""
    path = f"/apis/flotilla.dev/v1alpha1/namespaces/{NAMESPACE}/experts"
    started = time.monotonic()
    for index in range(EXPERTS):
        cluster.api.post(path, json=an_expert(f"expert-{index:03d}")).raise_for_status()
    deployments = f"/apis/apps/v1/namespaces/{NAMESPACE}/deployments?labelSelector=flotilla.dev/owner-kind=Expert"

    def all_there() -> bool:
        names = (item["metadata"]["name"] for item in _items(cluster, deployments))
        there = sum(name.startswith("expert-") for name in names)
        progress(there)
        return there >= EXPERTS

    cluster.wait_for(all_there, f"{EXPERTS} Deployments", 300)
    return time.monotonic() - started


def _wait_until_quiet(cluster: ClusterAccess) -> None:
    """Return once nothing was written for a while: statuses have settled."""
    last, since = operator_writes(cluster), time.monotonic()
    while time.monotonic() - since < SETTLE_SECONDS:
        time.sleep(1)
        if (now := operator_writes(cluster)) != last:
            last, since = now, time.monotonic()


def _policy_ack_seconds(cluster: ClusterAccess, progress: Progress) -> float:
    """The slowest of several edits, from the API server's answer until the policy says that every router serves it."""
    cluster.kubectl("apply", "-f", "-", input=yaml.safe_dump_all([an_expert("target"), a_policy()]))
    cluster.kubectl("wait", "--for=condition=RouterReady", "routingpolicy/bench", "-n", NAMESPACE, "--timeout=120s")
    cluster.kubectl("wait", f"--for=condition={ACKNOWLEDGED}", "routingpolicy/bench", "-n", NAMESPACE, "--timeout=60s")
    slowest = 0.0
    for edit in range(EDITS):
        slowest = max(slowest, _edit(cluster, weight=edit + 2))
        progress(edit + 1)
    return slowest


def _edit(cluster: ClusterAccess, weight: int) -> float:
    patch = {"spec": {"experts": [{"name": "target", "weight": weight}]}}
    path = f"/apis/flotilla.dev/v1alpha1/namespaces/{NAMESPACE}/routingpolicies"
    headers = {"content-type": "application/merge-patch+json"}
    edited = cluster.api.patch(f"{path}/bench", content=json.dumps(patch), headers=headers).raise_for_status().json()
    accepted = time.monotonic()
    where = {"watch": "1", "fieldSelector": "metadata.name=bench", "timeoutSeconds": str(EDIT_SECONDS)}
    where["resourceVersion"] = edited["metadata"]["resourceVersion"]
    with cluster.api.stream("GET", path, params=where, timeout=EDIT_SECONDS + 5) as events:
        for line in events.iter_lines():
            if is_acknowledged(json.loads(line)["object"], edited["metadata"]["generation"]):
                return time.monotonic() - accepted
    raise TimeoutError(f"the routers did not take an edited policy within {EDIT_SECONDS} s")


def is_acknowledged(policy: Manifest, generation: int) -> bool:
    """Whether its status says of this generation that every ready router serves it."""
    conditions: list[Manifest] = policy.get("status", {}).get("conditions", [])
    return any(
        each["type"] == ACKNOWLEDGED and each["status"] == "True" and each["observedGeneration"] >= generation
        for each in conditions
    )


def a_profile() -> Manifest:
    """The pool that the Experts name."""
    return {
        "apiVersion": "flotilla.dev/v1alpha1",
        "kind": "AcceleratorProfile",
        "metadata": {"name": "l4"},
        "spec": {"resource": "nvidia.com/gpu", "memoryGiB": 24, "hourlyUSD": "0.80"},
    }


def an_expert(name: str) -> Manifest:
    """An Expert without replicas: its pods would be the scheduler's time, not ours."""
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


def a_policy() -> Manifest:
    """A policy with one Expert, called `target`."""
    return {
        "apiVersion": "flotilla.dev/v1alpha1",
        "kind": "RoutingPolicy",
        "metadata": {"name": "bench", "namespace": NAMESPACE},
        "spec": {"experts": [{"name": "target"}], "auth": {"anonymous": True}},
    }
