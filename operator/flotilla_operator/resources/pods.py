"""What a pod's status says: whether it answers, where, and whether it counts."""

from __future__ import annotations

from collections.abc import Iterable

from flotilla_api.names import ENGINE_PORT
from flotilla_api.snapshot import Endpoint

from .manifest import Manifest


def is_live(pod: Manifest) -> bool:
    """It exists, is not being deleted and has not ended."""
    ended = pod.get("status", {}).get("phase") in ("Failed", "Succeeded")
    return not pod["metadata"].get("deletionTimestamp") and not ended


def is_ready(pod: Manifest) -> bool:
    """It is live, passes its readiness probe and has an address."""
    return is_live(pod) and bool(pod.get("status", {}).get("podIP")) and condition(pod, "Ready") == "True"


def condition(pod: Manifest, kind: str) -> str:
    """The status of one of the pod's conditions; '' when it has none."""
    return find_condition(pod, kind).get("status", "")


def find_condition(manifest: Manifest, kind: str) -> Manifest:
    """One of the object's conditions; empty when it has none."""
    conditions: list[Manifest] = manifest.get("status", {}).get("conditions") or []
    nothing: Manifest = {}
    return next((each for each in conditions if each.get("type") == kind), nothing)


def make_endpoints(pods: Iterable[Manifest]) -> tuple[Endpoint, ...]:
    """The engines that answer, sorted by address."""
    found = [Endpoint(address=_address(pod), pod=pod["metadata"]["name"]) for pod in pods if is_ready(pod)]
    return tuple(sorted(found, key=lambda endpoint: (endpoint.address, endpoint.pod)))


def _address(pod: Manifest) -> str:
    ip: str = pod["status"]["podIP"]
    return f"[{ip}]:{ENGINE_PORT}" if ":" in ip else f"{ip}:{ENGINE_PORT}"
