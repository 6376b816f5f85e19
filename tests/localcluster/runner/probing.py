"""When a probe is due and what its outcomes amount to."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from enum import StrEnum

from localcluster.runner.model import Container, Probe


class ProbeKind(StrEnum):
    """Which of a container's probes; the value is how events call it."""

    STARTUP = "Startup"
    READINESS = "Readiness"
    LIVENESS = "Liveness"


@dataclass(frozen=True, slots=True)
class ProbeState:
    """How a probe of a running container stands.

    `passing` turns when one outcome comes as often in a row as the threshold says; `exhausted` is true from the failure
    that reached the failure threshold until the next success. `due_at` is in seconds since the epoch.
    """

    due_at: float
    passing: bool
    exhausted: bool = False
    running: bool = False
    streak: int = 0  # outcomes in a row: successes count up from 0, failures down


def start_probes(container: Container, started_at: float) -> dict[ProbeKind, ProbeState]:
    """The probes of a container that has just started; until it proves otherwise it lives but is not ready."""
    return {
        kind: ProbeState(due_at=started_at + probe.initial_delay_seconds, passing=kind is ProbeKind.LIVENESS)
        for kind, probe in probes_of(container)
    }


def probes_of(container: Container) -> Iterator[tuple[ProbeKind, Probe]]:
    """The probes that the container declares."""
    if container.startup_probe:
        yield ProbeKind.STARTUP, container.startup_probe
    if container.readiness_probe:
        yield ProbeKind.READINESS, container.readiness_probe
    if container.liveness_probe:
        yield ProbeKind.LIVENESS, container.liveness_probe


def launch(state: ProbeState, probe: Probe, now: float) -> ProbeState:
    """The probe is under way; the next one is due a period after this one began."""
    return replace(state, running=True, due_at=now + probe.period_seconds)


def record(state: ProbeState, probe: Probe, *, success: bool) -> ProbeState:
    """What one outcome makes of the state."""
    streak = max(state.streak, 0) + 1 if success else min(state.streak, 0) - 1
    passing = state.passing
    if streak >= probe.success_threshold:
        passing = True
    elif -streak >= probe.failure_threshold:
        passing = False
    exhausted = -streak >= probe.failure_threshold
    return replace(state, running=False, streak=streak, passing=passing, exhausted=exhausted)
