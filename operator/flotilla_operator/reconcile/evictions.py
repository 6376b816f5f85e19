"""Pods that their node ended: they stay in the API as Failed, and others take their places."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from flotilla_operator.resources.pods import find_condition

from .containers import parse_time
from .types import Manifest

REPLACEMENT_SECONDS = 300.0
"""At most between an eviction and the pod in its place: that comes at once, or when the evicted one has drained."""


def evicted(pods: Sequence[Manifest]) -> tuple[Manifest, ...]:
    """Those that their node ended or refused to run; a Deployment's pods fail in no other way."""
    return tuple(pod for pod in pods if _status(pod).get("phase") == "Failed" and _status(pod).get("reason"))


def last_evicted(pod: Manifest, evicted: Sequence[Manifest]) -> Manifest | None:
    """The evicted pod in whose place `pod` came; None: it came for another reason."""
    born = pod["metadata"].get("creationTimestamp")
    before = [each for each in evicted if born and _apart_seconds(born, each) <= REPLACEMENT_SECONDS]
    return max(before, key=lambda each: (_end_time(each), each["metadata"]["name"]), default=None)


def _apart_seconds(born: str, other: Manifest) -> float:
    return abs((parse_time(born) - _end_time(other)).total_seconds())


def _end_time(pod: Manifest) -> datetime:
    """When a pod that failed ended, as far as the kubelet said."""
    containers: list[Manifest] = _status(pod).get("containerStatuses", [])
    states: list[Manifest] = [each.get("state", {}).get("terminated", {}) for each in containers]
    ends: list[str] = [each["finishedAt"] for each in states if each.get("finishedAt")]
    disruption: str | None = find_condition(pod, "DisruptionTarget").get("lastTransitionTime")
    return parse_time(max(ends, default=disruption or pod["metadata"]["creationTimestamp"]))


def _status(pod: Manifest) -> Manifest:
    return pod.get("status", {})
