"""What is measured of an expert and what its pods say, as one observation. PURE."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from flotilla_api.causes import Cause

from .fleet import ExpertSignals
from .signals import NOT_MEASURED
from .types import Objectives, Observation, Replicas

COLD_STARTS_MAX = 64
"""Of one expert, the newest: enough for a 95th percentile."""


@dataclass(frozen=True, slots=True)
class PodState:
    """A live pod of an expert."""

    name: str
    uid: str
    age_seconds: float
    """Since its creation, or since it answered last."""
    ready: bool
    """Whether it answers, or would if it did not sleep."""
    started_in: float | None = None
    """Seconds from creation to the first answer; None: it has not answered, or not for the first time."""
    asleep: bool = False


def observe(
    signals: ExpertSignals,
    replicas: Replicas,
    objectives: Objectives,
    *,
    woken_at: float | None = None,
    awaited_at: float | None = None,
    measured_at: float | None = None,
) -> Observation:
    """All that one decision reads."""
    ttft = objectives.ttft_p95
    return Observation(
        replicas=replicas,
        arrivals=signals.arrivals,
        capacity_losses=signals.lost_for(Cause.OVERLOADED),
        quality_losses=signals.lost("quality"),
        late=NOT_MEASURED if ttft is None else signals.late(ttft),
        slot_seconds=signals.slot_seconds,
        finished=signals.finished,
        running=signals.running,
        waiting=signals.waiting,
        kv_usage=signals.kv_usage,
        preemptions=signals.preemptions,
        ttft_p95=signals.ttft_quantile(0.95),
        tpot_p95=signals.tpot_p95,
        queue_p95=signals.queue_p95,
        tokens_per_request=signals.tokens_per_request,
        kv_tokens=signals.kv_tokens,
        woken_at=woken_at,
        awaited_at=awaited_at,
        measured_at=measured_at,
    )


def count_replicas(wanted: int, pods: Sequence[PodState], cold_starts: Mapping[str, float]) -> Replicas:
    """An expert's pods in numbers; `cold_starts` are seconds by uid, the newest last."""
    return Replicas(
        wanted=wanted,
        ready=sum(pod.ready for pod in pods),
        pending_ages=tuple(sorted(pod.age_seconds for pod in pods if not pod.ready)),
        cold_starts=tuple(cold_starts.values()),
    )


def remember_cold_starts(known: Mapping[str, float], pods: Sequence[PodState]) -> dict[str, float]:
    """`known` with the pods that answer for the first time; the oldest are forgotten."""
    new = {pod.uid: pod.started_in for pod in pods if pod.started_in is not None and pod.uid not in known}
    found = {**known, **new}
    return dict(list(found.items())[-COLD_STARTS_MAX:])
