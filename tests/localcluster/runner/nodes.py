"""The cluster's nodes in the API: registered, and kept Ready by their Leases."""

from __future__ import annotations

import asyncio
import logging
import time
from datetime import UTC, datetime
from typing import Any

from localcluster.config import NodeSpec, RunnerConfig
from localcluster.runner.api import MERGE, STRATEGIC, Api, ApiError, Json, Unreachable
from localcluster.runner.model import format_time

log = logging.getLogger(__name__)

LEASE_SECONDS, RENEW_SECONDS = 40, 10.0
STATUS_SECONDS = 300.0  # the kubelet's nodeStatusReportFrequency
RETRY_SECONDS = 1.0


class NodeKeeper:
    """Registers one node and keeps its Lease. A node that somebody deletes stays away until somebody makes it again."""

    def __init__(self, spec: NodeSpec, config: RunnerConfig, api: Api, version: str) -> None:
        self._spec, self._config, self._api, self._version = spec, config, api, version
        self._uid: str | None = None
        self._present = asyncio.Event()
        self._status_due_at = 0.0
        self._ready_since = time.time()

    def note(self, uid: str | None) -> None:
        """The node exists under this uid, or not at all."""
        if uid is None:
            self._present.clear()
        elif uid != self._uid:
            self._uid, self._status_due_at = uid, 0.0
            self._present.set()
        else:
            self._present.set()

    async def run(self) -> None:
        """Register, then renew until cancelled."""
        await self._insist(self._register)
        while True:
            await self._present.wait()
            await self._insist(self._renew)
            await asyncio.sleep(RENEW_SECONDS)

    async def _insist(self, action: Any) -> None:
        while True:
            try:
                await action()
            except (ApiError, Unreachable) as error:
                log.info("node %s: %s", self._spec.name, error)
                await asyncio.sleep(RETRY_SECONDS)
                continue
            return

    async def _register(self) -> None:
        try:
            node = await self._api.create("/api/v1/nodes", make_node(self._spec))
        except ApiError as error:
            if error.status != 409:
                raise
            node = await self._api.get(f"/api/v1/nodes/{self._spec.name}")
        self.note(node["metadata"]["uid"])

    async def _renew(self) -> None:
        if not self._present.is_set():
            return
        if time.time() >= self._status_due_at:
            conditions = make_conditions(since=self._ready_since, now=time.time())
            status = {**make_node_status(self._spec, self._config, self._version), "conditions": conditions}
            await self._api.patch(f"/api/v1/nodes/{self._spec.name}/status", {"status": status}, STRATEGIC)
            self._status_due_at = time.time() + STATUS_SECONDS
        await self._renew_lease()

    async def _renew_lease(self) -> None:
        path = "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases"
        lease = make_lease(self._spec.name, self._uid or "", time.time())
        try:
            await self._api.patch(f"{path}/{self._spec.name}", {"spec": lease["spec"]}, MERGE)
        except ApiError as error:
            if error.status != 404:
                raise
            await self._api.create(path, lease)


def make_node(spec: NodeSpec) -> Json:
    """The Node as it registers itself."""
    return {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {"name": spec.name, "labels": spec.labels},
        "spec": {"taints": spec.taints},
    }


def make_node_status(spec: NodeSpec, config: RunnerConfig, version: str) -> Json:
    """What a node has and where it is reached."""
    return {
        "capacity": spec.allocatable,
        "allocatable": spec.allocatable,
        "addresses": [
            {"type": "InternalIP", "address": config.node_address},
            {"type": "Hostname", "address": spec.name},
        ],
        "daemonEndpoints": {"kubeletEndpoint": {"Port": config.kubelet_port}},
        "nodeInfo": _node_info(spec.name, version),
    }


def make_conditions(*, since: float, now: float) -> list[Json]:
    """A healthy node's conditions, true since then, in seconds since the epoch."""
    healthy = [
        ("MemoryPressure", "False", "KubeletHasSufficientMemory", "kubelet has sufficient memory available"),
        ("DiskPressure", "False", "KubeletHasNoDiskPressure", "kubelet has no disk pressure"),
        ("PIDPressure", "False", "KubeletHasSufficientPID", "kubelet has sufficient PID available"),
        ("Ready", "True", "KubeletReady", "kubelet is posting ready status"),
    ]
    times = {"lastHeartbeatTime": format_time(now), "lastTransitionTime": format_time(since)}
    return [
        {"type": kind, "status": status, "reason": reason, "message": message, **times}
        for kind, status, reason, message in healthy
    ]


def _node_info(name: str, version: str) -> Json:
    return {
        "machineID": name,
        "systemUUID": name,
        "bootID": name,
        "kernelVersion": "local",
        "osImage": "flotilla local cluster",
        "containerRuntimeVersion": "localcluster://1",
        "kubeletVersion": version,
        "kubeProxyVersion": version,
        "operatingSystem": "linux",
        "architecture": "amd64",
    }


def make_lease(node: str, uid: str, now: float) -> Json:
    """The Lease whose renewal says that the node lives."""
    owner = {"apiVersion": "v1", "kind": "Node", "name": node, "uid": uid}
    renewed = datetime.fromtimestamp(now, UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
    return {
        "apiVersion": "coordination.k8s.io/v1",
        "kind": "Lease",
        "metadata": {"name": node, "namespace": "kube-node-lease", "ownerReferences": [owner]},
        "spec": {"holderIdentity": node, "leaseDurationSeconds": LEASE_SECONDS, "renewTime": renewed},
    }
