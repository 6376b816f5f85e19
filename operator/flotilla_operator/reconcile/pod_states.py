"""What the scaler reads of an engine's pods. PURE."""

from __future__ import annotations

from collections.abc import Sequence

from flotilla_operator.resources.pods import (
    find_condition,
    is_asleep,
    is_live,
    is_ready,
    restarts,
    seconds_of,
    stopped_answering_at,
)
from flotilla_operator.scaling.observe import PodState

from .types import Manifest


def pod_states(pods: Sequence[Manifest], now: float) -> tuple[PodState, ...]:
    """The live ones; `now` is in seconds since the epoch."""
    return tuple(_pod_state(pod, now) for pod in pods if is_live(pod))


def _pod_state(pod: Manifest, now: float) -> PodState:
    metadata, ready = pod["metadata"], is_ready(pod)
    created = seconds_of(metadata["creationTimestamp"])
    since = created if ready else max(created, stopped_answering_at(pod) or created)
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
    if answered is None or restarts(pod):
        return None
    return max(0.0, seconds_of(answered) - created)
