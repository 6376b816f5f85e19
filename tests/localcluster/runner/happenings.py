"""What each thing that happens to a pod makes of its state, and the Kubernetes events that it is worth. Pure."""

from __future__ import annotations

from dataclasses import replace
from typing import assert_never

from localcluster.runner.backoff import format_duration
from localcluster.runner.model import Container, Pod, container_named
from localcluster.runner.probing import ProbeKind, probes_of, record, start_probes
from localcluster.runner.state import (
    Exited,
    Happening,
    PodState,
    PostStartFailed,
    PreStopEnded,
    Probed,
    Running,
    SourcesChanged,
    Started,
    StartFailed,
    Step,
    Stop,
    Terminated,
    VolumesFailed,
    VolumesPrepared,
    VolumeStage,
    Waiting,
)
from localcluster.runner.stopping import note_pre_stop
from localcluster.runner.turn import Settings, Turn, restarts_after

RETRY_SECONDS = 2.0  # until a missing ConfigMap, Secret or volume is looked for again


def apply(pod: Pod, state: PodState, happening: Happening, settings: Settings, now: float) -> Step:
    """The state after something happened; `lifecycle.advance` then says what follows from it."""
    turn = Turn(pod, state, settings, now)
    match happening:
        case VolumesPrepared():
            turn.state = replace(state, volumes=VolumeStage.READY)
        case VolumesFailed():
            turn.emit("FailedMount", happening.message, warning=True)
            turn.state = replace(state, volumes=VolumeStage.MISSING, volumes_retry_at=now + RETRY_SECONDS)
        case SourcesChanged():
            _retry_now(turn)
        case Started():
            _note_start(turn, happening)
        case StartFailed():
            turn.emit("Failed", f"Error: {happening.message}", happening.name, warning=True)
            turn.wait(happening.name, Waiting(happening.reason, happening.message), retry_at=now + RETRY_SECONDS)
        case Exited():
            _note_exit(turn, happening.name, happening.terminated)
        case Probed():
            _note_probe(turn, happening)
        case PreStopEnded():
            note_pre_stop(turn, happening)
        case PostStartFailed():
            _note_post_start(turn, happening)
        case _:
            assert_never(happening)
    return turn.step()


def _retry_now(turn: Turn) -> None:
    turn.state = replace(turn.state, volumes_retry_at=0.0)
    for name, state in turn.containers.items():
        if isinstance(state.status, Waiting) and state.status.reason == "CreateContainerConfigError":
            turn.containers[name] = replace(state, retry_at=0.0)


def _note_start(turn: Turn, started: Started) -> None:
    container = _container(turn, started.name)
    state = turn.containers[started.name]
    turn.emit("Created", f"Container created: {started.name}", started.name)
    turn.emit("Started", f"Container started: {started.name}", started.name)
    turn.containers[started.name] = replace(
        state,
        status=Running(turn.now, started.container_id),
        last=state.status if isinstance(state.status, Terminated) else state.last,
        runs=state.runs + 1,
        starting=False,
        probes=start_probes(container, turn.now),
    )


def _note_exit(turn: Turn, name: str, terminated: Terminated) -> None:
    container, state = _container(turn, name), turn.containers[name]
    if terminated.reason == "StartError":
        turn.emit("Failed", f"Error: {terminated.message}", name, warning=True)
    turn.containers[name] = replace(
        state,
        status=terminated,
        last=state.status if isinstance(state.status, Terminated) else state.last,
        runs=state.runs + 1 if state.starting else state.runs,
        starting=False,
        probes={},
        stop=None,
    )
    if restarts_after(turn.pod, container, terminated.exit_code) and not turn.is_stopping():
        _plan_restart(turn, name, terminated)


def _plan_restart(turn: Turn, name: str, terminated: Terminated) -> None:
    """The first time at once, then after a delay that doubles."""
    state, base, meta = turn.containers[name], turn.settings.backoff_base_seconds, turn.pod.metadata
    retry_at = state.backoff.wait_until(base, terminated.finished_at)
    waited = format_duration(state.backoff.delay_seconds)
    turn.containers[name] = replace(state, backoff=state.backoff.after_failure(base, terminated.finished_at))
    if retry_at <= turn.now:
        return
    full = f"{meta.name}_{meta.namespace}({meta.uid})"
    message = f"back-off {waited} restarting failed container={name} pod={full}"
    turn.wait(name, Waiting("CrashLoopBackOff", message), retry_at=retry_at)
    turn.emit("BackOff", f"Back-off restarting failed container {name} in pod {full}", name, warning=True)


def _note_probe(turn: Turn, probed: Probed) -> None:
    container, state = _container(turn, probed.name), turn.containers[probed.name]
    if not state.running or state.restarts != probed.restarts:
        return
    probe = dict(probes_of(container))[probed.kind]
    after = record(state.probes[probed.kind], probe, success=probed.success)
    turn.containers[probed.name] = replace(state, probes={**state.probes, probed.kind: after})
    if not probed.success:
        turn.emit("Unhealthy", f"{probed.kind} probe failed: {probed.message}", probed.name, warning=True)
    if after.exhausted and probed.kind is not ProbeKind.READINESS:
        _kill_unhealthy(turn, container, probed.kind, probe.termination_grace_period_seconds)
    if after.passing and probed.kind is ProbeKind.STARTUP:
        _release_probes(turn, container)


def _kill_unhealthy(turn: Turn, container: Container, kind: ProbeKind, grace_seconds: int | None) -> None:
    state = turn.containers[container.name]
    if state.stop is None:
        grace = turn.pod.spec.termination_grace_period_seconds if grace_seconds is None else grace_seconds
        ending = f"Container {container.name} failed {kind.lower()} probe, will be restarted"
        turn.emit("Killing", ending, container.name)
        turn.containers[container.name] = replace(state, stop=Stop(turn.now + grace))


def _release_probes(turn: Turn, container: Container) -> None:
    """The other probes have waited for the startup probe; their own initial delay still holds."""
    state = turn.containers[container.name]
    assert isinstance(state.status, Running)
    probes = dict(state.probes)
    for kind, probe in probes_of(container):
        if kind is not ProbeKind.STARTUP:
            due_at = max(turn.now, state.status.started_at + probe.initial_delay_seconds)
            probes[kind] = replace(probes[kind], due_at=due_at)
    turn.containers[container.name] = replace(state, probes=probes)


def _note_post_start(turn: Turn, failed: PostStartFailed) -> None:
    turn.emit("FailedPostStartHook", failed.message, failed.name, warning=True)
    state = turn.containers[failed.name]
    if state.running and state.stop is None:
        stop = Stop(turn.now + turn.pod.spec.termination_grace_period_seconds)
        turn.containers[failed.name] = replace(state, stop=stop)


def _container(turn: Turn, name: str) -> Container:
    container = container_named(turn.pod, name)
    assert container is not None
    return container
