"""A container's status in a pod, read once into plain values."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from .types import Manifest


@dataclass(frozen=True, slots=True)
class Ended:
    """How a container ended."""

    exit_code: int
    reason: str
    message: str
    lived_seconds: float | None
    """None: the kubelet does not know."""


@dataclass(frozen=True, slots=True)
class ContainerStatus:
    """What the kubelet says of one container."""

    name: str
    image: str = ""
    started: bool = False
    """It passed its start-up probe."""
    waiting_reason: str = ""
    waiting_message: str = ""
    running_since: datetime | None = None
    ended: Ended | None = None
    """Its present end, or that of its last try."""


def find_container(pod: Manifest, name: str) -> ContainerStatus:
    """The status of a container or init container of `pod`; empty as long as the kubelet says nothing."""
    status: Manifest = pod.get("status", {})
    every: list[Manifest] = [*status.get("containerStatuses", []), *status.get("initContainerStatuses", [])]
    found = next((each for each in every if each["name"] == name), None)
    return _read(found) if found else ContainerStatus(name)


def parse_time(text: str) -> datetime:
    """A Kubernetes time."""
    return datetime.fromisoformat(text)


def _read(status: Manifest) -> ContainerStatus:
    state: dict[str, Any] = status.get("state", {})
    last: dict[str, Any] = status.get("lastState", {})
    waiting: dict[str, Any] = state.get("waiting", {})
    since = state.get("running", {}).get("startedAt")
    return ContainerStatus(
        name=status["name"],
        image=status.get("image", ""),
        started=bool(status.get("started")),
        waiting_reason=waiting.get("reason", ""),
        waiting_message=waiting.get("message", ""),
        running_since=parse_time(since) if since else None,
        ended=_ended(state.get("terminated") or last.get("terminated")),
    )


def _ended(terminated: Manifest | None) -> Ended | None:
    if terminated is None:
        return None
    started, finished = terminated.get("startedAt"), terminated.get("finishedAt")
    lived = (parse_time(finished) - parse_time(started)).total_seconds() if started and finished else None
    return Ended(
        exit_code=terminated.get("exitCode", 0),
        reason=terminated.get("reason", ""),
        message=terminated.get("message", ""),
        lived_seconds=lived,
    )
