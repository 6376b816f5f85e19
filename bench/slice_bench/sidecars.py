"""Sidecars: what one costs beside an agent, and what 200 of one policy cost the operator on a real API server."""

from __future__ import annotations

import json
import os
import re
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import httpx
import yaml

from flotilla_api.names import (
    CONTROL_AUDIENCE,
    CONTROL_PORT,
    CONTROL_TOKEN_FILE,
    OPERATOR_ADMIN_PORT,
    POLICY_LABEL,
    SNAPSHOT_DIR,
    snapshot_name,
)
from localcluster.access import ClusterAccess
from localcluster.config import ImageSpec
from slice_bench.operator import NAMESPACE, a_policy, a_profile, an_expert, pod_addresses
from slice_bench.processes import resident_bytes
from slice_bench.progress import Progress, Stage
from slice_bench.proxies import COMPILED, ours, ours_beside
from slice_bench.router import ROUNDS, WHOLE, Cost, take_turns, upstream
from stack.flotilla import ROOT, SYSTEM_NAMESPACE, running_stack

LOADS = ROUNDS * 2
"""How many loads `measure_one` tells of: the gateway and the sidecar take turns."""
SIDECARS = 200
EDITS = 10
REST_SECONDS = 20
HEARD_SECONDS = 30
SETTLE_SECONDS = 2
"""After the last edit: its acknowledgements are part of its cost."""
FOLLOWERS_IMAGE = "flotilla-bench-followers"
_CPU = re.compile(r"^process_cpu_seconds_total (\S+)$", re.MULTILINE)
_RESIDENT = re.compile(r"^process_resident_memory_bytes (\S+)$", re.MULTILINE)

Manifest = dict[str, Any]


@dataclass(frozen=True, slots=True)
class BesideFigures:
    """A sidecar on its own."""

    costs: dict[str, list[Cost]]
    """Of the gateway and of the sidecar, a cost per round."""
    idle_bytes: int
    """Resident memory after the first answer."""
    worked_bytes: int
    """Resident memory after all rounds."""


@dataclass(frozen=True, slots=True)
class ControlFigures:
    """The control API with `SIDECARS` followers of one policy; both replicas of the operator together."""

    cpu_ms_per_edit: float
    """What an edit costs beyond what passes in the same time at rest."""
    cpu_ms_per_second_at_rest: float
    resident_bytes_before: int
    resident_bytes_after: int
    """Before and after the followers came."""
    last_heard_seconds: Sequence[float]
    """From the API server's answer to an edit until the last follower has it, for each edit."""


def measure_one(progress: Progress, scratch: Path) -> BesideFigures:
    """A sidecar and a gateway with the same policy take turns."""
    with ExitStack() as stack:
        port = stack.enter_context(upstream(scratch))
        gateway = stack.enter_context(ours(port, scratch))
        sidecar = stack.enter_context(ours_beside(port, scratch))
        idle = resident_bytes(sidecar.pid)
        costs = take_turns(WHOLE, [gateway, sidecar], progress)
        return BesideFigures(costs, idle, resident_bytes(sidecar.pid))


def measure_many(stage: Stage) -> ControlFigures:
    """Followers poll as sidecars do, each with a token of a pod of its own, which stays unscheduled."""
    with running_stack(name="bench-sidecars", more_images={FOLLOWERS_IMAGE: _followers_image()}) as stack:
        progress = stage("sidecars: cluster and chart", 1)
        stack.install()
        cluster = stack.cluster
        cluster.kubectl("create", "namespace", NAMESPACE)
        cluster.kubectl("apply", "-f", "-", input=yaml.safe_dump_all([a_profile(), an_expert("target"), a_policy()]))
        cluster.kubectl("wait", "--for=condition=RouterReady", "routingpolicy/bench", "-n", NAMESPACE, "--timeout=120s")
        progress(1)
        with tempfile.TemporaryDirectory(prefix="flotilla-bench-tokens-") as folder:
            _make_tokens(cluster, Path(folder), stage("sidecars: pods and tokens", SIDECARS))
            before = _resident(cluster)
            cluster.kubectl("apply", "-f", "-", input=yaml.safe_dump(_followers(folder)))
            first = _wait_heard(cluster, 1)
            rest = _cpu_at_rest(cluster, stage("sidecars: at rest, seconds", REST_SECONDS))
            started, used = time.monotonic(), _cpu(cluster)
            heard = _edit_all(cluster, first, stage("sidecars: edits of the policy", EDITS))
            time.sleep(SETTLE_SECONDS)
            used, seconds = _cpu(cluster) - used, time.monotonic() - started
            return ControlFigures(
                cpu_ms_per_edit=(used - rest * seconds) / EDITS * 1000,
                cpu_ms_per_second_at_rest=rest * 1000,
                resident_bytes_before=before,
                resident_bytes_after=_resident(cluster),
                last_heard_seconds=heard,
            )


def figures_of(one: BesideFigures, many: ControlFigures) -> dict[str, float]:
    """The flat figures of build/bench/sidecar.json."""
    gateway, sidecar = one.costs.values()
    ratios = [b.cpu_us_per_request / a.cpu_us_per_request for a, b in zip(gateway, sidecar, strict=True)]
    return {
        "sidecar_rss_mb": round(one.worked_bytes / 2**20, 1),
        "sidecar_rss_idle_mb": round(one.idle_bytes / 2**20, 1),
        "sidecar_added_us_json": round(median(cost.cpu_us_per_request for cost in sidecar), 1),
        "sidecar_cpu_ratio_gateway": round(median(ratios), 3),
        "control_api_cpu_ms_per_edit_200": round(many.cpu_ms_per_edit, 1),
        "control_api_cpu_ms_per_second_at_rest_200": round(many.cpu_ms_per_second_at_rest, 2),
        "control_api_rss_mb_200": round(many.resident_bytes_after / 2**20, 1),
        "control_api_rss_added_mb_200": round((many.resident_bytes_after - many.resident_bytes_before) / 2**20, 1),
        "policy_edit_to_last_of_200_seconds": round(max(many.last_heard_seconds), 3),
    }


def _followers_image() -> ImageSpec:
    paths = [*([COMPILED] if COMPILED else []), str(ROOT / "bench"), str(ROOT / "tests")]
    return ImageSpec([sys.executable, "-m", "slice_bench.followers"], env={"PYTHONPATH": os.pathsep.join(paths)})


def _make_tokens(cluster: ClusterAccess, folder: Path, progress: Progress) -> None:
    """`folder` has a folder for each of `SIDECARS` pods that ask for the policy's sidecar, with its token."""
    with ThreadPoolExecutor(4) as pool:
        made = [pool.submit(_make_token, cluster, folder, index) for index in range(SIDECARS)]
        for done, each in enumerate(made, 1):
            each.result()
            progress(done)


def _make_token(cluster: ClusterAccess, folder: Path, index: int) -> None:
    name = f"agent-{index:03d}"
    path = f"/api/v1/namespaces/{NAMESPACE}"
    pod = cluster.api.post(f"{path}/pods", json=_agent(name)).raise_for_status().json()
    bound = {"apiVersion": "v1", "kind": "Pod", "name": name, "uid": pod["metadata"]["uid"]}
    request = {"spec": {"audiences": [CONTROL_AUDIENCE], "expirationSeconds": 7200, "boundObjectRef": bound}}
    answer = cluster.api.post(f"{path}/serviceaccounts/default/token", json=request).raise_for_status().json()
    (folder / name).mkdir()
    (folder / name / CONTROL_TOKEN_FILE).write_text(answer["status"]["token"])


def _agent(name: str) -> Manifest:
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "labels": {POLICY_LABEL: "bench"}},
        "spec": {
            "schedulingGates": [{"name": "flotilla.dev/bench"}],
            "containers": [{"name": "agent", "image": "none"}],
        },
    }


def _followers(tokens: str) -> Manifest:
    url = f"https://flotilla-control.{SYSTEM_NAMESPACE}.svc:{CONTROL_PORT}"
    flags = {"url": url, "namespace": NAMESPACE, "policy": "bench", "snapshot": SNAPSHOT_DIR, "tokens": tokens}
    container = {
        "name": "followers",
        "image": FOLLOWERS_IMAGE,
        "args": [f"--{name}={value}" for name, value in flags.items()],
        "volumeMounts": [{"name": "snapshot", "mountPath": SNAPSHOT_DIR}],
    }
    volume = {"name": "snapshot", "configMap": {"name": snapshot_name("bench")}}
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "followers", "namespace": NAMESPACE},
        "spec": {"containers": [container], "volumes": [volume]},
    }


def _edit_all(cluster: ClusterAccess, first: list[Manifest], progress: Progress) -> list[float]:
    """Seconds from each edit until the last follower had it."""
    path = f"/apis/flotilla.dev/v1alpha1/namespaces/{NAMESPACE}/routingpolicies/bench"
    headers = {"content-type": "application/merge-patch+json"}
    known, seconds = len(first), list[float]()
    for edit in range(EDITS):
        patch = json.dumps({"spec": {"experts": [{"name": "target", "weight": edit + 2}]}})
        cluster.api.patch(path, content=patch, headers=headers).raise_for_status()
        accepted = time.time()
        heard = _wait_heard(cluster, known + 1)
        known = len(heard)
        seconds.append(heard[-1]["last"] - accepted)
        progress(edit + 1)
    return seconds


def _wait_heard(cluster: ClusterAccess, count: int) -> list[Manifest]:
    """What the followers said of snapshots that all of them have, once there are `count`."""
    heard: list[Manifest] = []

    def enough() -> bool:
        pod = cluster.api.get(f"/api/v1/namespaces/{NAMESPACE}/pods/followers/log")
        lines = pod.text.splitlines() if pod.is_success else []
        heard[:] = [json.loads(line) for line in lines if line.startswith("{")]
        return len(heard) >= count

    cluster.wait_for(enough, f"{SIDECARS} followers to have {count} snapshots", HEARD_SECONDS)
    return heard


def _cpu_at_rest(cluster: ClusterAccess, progress: Progress) -> float:
    """CPU seconds a second while nothing happens but polls."""
    before, started = _cpu(cluster), time.monotonic()
    while (passed := time.monotonic() - started) < REST_SECONDS:
        progress(int(passed))
        time.sleep(1)
    return (_cpu(cluster) - before) / passed


def _cpu(cluster: ClusterAccess) -> float:
    return sum(float(_CPU.findall(text)[0]) for text in _metrics(cluster))


def _resident(cluster: ClusterAccess) -> int:
    """Of the larger replica: the one that holds the Lease and the polls."""
    return max(int(float(_RESIDENT.findall(text)[0])) for text in _metrics(cluster))


def _metrics(cluster: ClusterAccess) -> list[str]:
    addresses = pod_addresses(cluster, SYSTEM_NAMESPACE, "component=operator")
    return [httpx.get(f"http://{address}:{OPERATOR_ADMIN_PORT}/metrics", timeout=10).text for address in addresses]
