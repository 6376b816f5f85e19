"""What the scaler reads of an engine's pods. PURE."""

from __future__ import annotations

from collections.abc import Sequence

from flotilla_operator.resources.pods import find_condition, is_asleep, is_live, is_ready, seconds_of
from flotilla_operator.scaling.observe import PodState

from .types import Manifest

_FIRST_STATUS_SECONDS = 2.0
"""Within which of its start on a node a pod gets its first conditions; a later change means that it had answered."""


def pod_states(pods: Sequence[Manifest], now: float) -> tuple[PodState, ...]:
    """The live ones; `now` is in seconds since the epoch."""
    return tuple(_pod_state(pod, now) for pod in pods if is_live(pod))


def _pod_state(pod: Manifest, now: float) -> PodState:
    metadata, ready = pod["metadata"], is_ready(pod)
    created = seconds_of(metadata["creationTimestamp"])
    since = created if ready else max(created, _stopped_answering(pod) or created)
    return PodState(
        name=metadata["name"],
        uid=metadata["uid"],
        age_seconds=max(0.0, now - since),
        ready=ready,
        started_in=_started_in(pod, created) if ready else None,
        asleep=is_asleep(pod),
    )


def _started_in(pod: Manifest, created: float) -> float | None:
    """Creation to the first answer; of an engine that was restarted its last answer's beginning says nothing."""
    answered: str | None = find_condition(pod, "Ready").get("lastTransitionTime")
    if answered is None or _restarts(pod):
        return None
    return max(0.0, seconds_of(answered) - created)


def _stopped_answering(pod: Manifest) -> float | None:
    """When it answered last; None: never yet."""
    begun: str | None = pod.get("status", {}).get("startTime")
    changed: str | None = find_condition(pod, "Ready").get("lastTransitionTime")
    if begun is None or changed is None:
        return None
    stopped = seconds_of(changed)
    return stopped if stopped - seconds_of(begun) > _FIRST_STATUS_SECONDS else None


def _restarts(pod: Manifest) -> int:
    statuses: list[Manifest] = pod.get("status", {}).get("containerStatuses") or []
    return sum(each.get("restartCount", 0) for each in statuses)
