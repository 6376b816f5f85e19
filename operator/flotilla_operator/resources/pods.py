"""What a pod's status says: whether it answers, where, and whether it counts."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime

from flotilla_api.names import ASLEEP_ANNOTATION, ENGINE_PORT
from flotilla_api.snapshot import Endpoint

from .manifest import Manifest

_FIRST_STATUS_SECONDS = 2.0
"""Within which of its start on a node a pod gets its first conditions; a later change means that it had answered."""


def is_live(pod: Manifest) -> bool:
    """It exists, is not being deleted and has not ended."""
    ended = pod.get("status", {}).get("phase") in ("Failed", "Succeeded")
    return not pod["metadata"].get("deletionTimestamp") and not ended


def is_ready(pod: Manifest) -> bool:
    """It is live, passes its readiness probe and has an address."""
    return is_live(pod) and bool(pod.get("status", {}).get("podIP")) and condition(pod, "Ready") == "True"


def is_asleep(pod: Manifest) -> bool:
    """It sleeps, or is about to, and gets no requests."""
    return ASLEEP_ANNOTATION in (pod["metadata"].get("annotations") or {})


def starts_first(pod: Manifest) -> bool:
    """It has never answered, and none of its containers has failed: its first start takes what it takes."""
    failed = restarts(pod) or restarts(pod, "initContainerStatuses")
    return not is_ready(pod) and not failed and stopped_answering_at(pod) is None


def restarts(pod: Manifest, containers: str = "containerStatuses") -> int:
    """How often its containers, or those of another list, were started again."""
    statuses: list[Manifest] = pod.get("status", {}).get(containers) or []
    return sum(each.get("restartCount", 0) for each in statuses)


def stopped_answering_at(pod: Manifest) -> float | None:
    """Of a pod that is not ready: when it answered last, in seconds since the epoch; None: never yet."""
    begun: str | None = pod.get("status", {}).get("startTime")
    changed: str | None = find_condition(pod, "Ready").get("lastTransitionTime")
    if begun is None or changed is None:
        return None
    stopped = seconds_of(changed)
    return stopped if stopped - seconds_of(begun) > _FIRST_STATUS_SECONDS else None


def condition(pod: Manifest, kind: str) -> str:
    """The status of one of the pod's conditions; '' when it has none."""
    return find_condition(pod, kind).get("status", "")


def find_condition(manifest: Manifest, kind: str) -> Manifest:
    """One of the object's conditions; empty when it has none."""
    conditions: list[Manifest] = manifest.get("status", {}).get("conditions") or []
    nothing: Manifest = {}
    return next((each for each in conditions if each.get("type") == kind), nothing)


def make_endpoints(pods: Iterable[Manifest]) -> tuple[Endpoint, ...]:
    """The engines that answer, sorted by address. One that sleeps says that it is healthy, and answers nothing."""
    awake = (pod for pod in pods if is_ready(pod) and not is_asleep(pod))
    found = [Endpoint(address=pod_address(pod), pod=pod["metadata"]["name"]) for pod in awake]
    return tuple(sorted(found, key=lambda endpoint: (endpoint.address, endpoint.pod)))


def pod_address(pod: Manifest) -> str:
    """host:port of the engine in a pod that has an address."""
    ip: str = pod["status"]["podIP"]
    return f"[{ip}]:{ENGINE_PORT}" if ":" in ip else f"{ip}:{ENGINE_PORT}"


def seconds_of(timestamp: str) -> float:
    """Seconds since the epoch of a Kubernetes timestamp."""
    return datetime.fromisoformat(timestamp).timestamp()
