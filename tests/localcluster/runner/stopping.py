"""How a pod's containers are stopped: preStop hook, SIGTERM, and SIGKILL when the grace is over. Pure.

Source: the kubelet's killContainersWithSyncResult and terminationOrdering (pkg/kubelet/kuberuntime).
"""

from __future__ import annotations

from dataclasses import replace
from signal import SIGKILL, SIGTERM

from localcluster.runner.model import Container, container_named, is_sidecar
from localcluster.runner.state import (
    PreStopEnded,
    RunPreStop,
    SendSignal,
    Stop,
    StopStage,
)
from localcluster.runner.turn import Turn

MIN_GRACE_SECONDS = 2.0  # from SIGTERM to SIGKILL where a preStop hook or a sidecar's turn used up the grace


def stop_everything(turn: Turn) -> None:
    """Containers first; each sidecar once all that came after it has ended, or the grace is over."""
    begin_pod_stop(turn, turn.pod.grace_seconds)
    for container in (*turn.pod.spec.containers, *turn.pod.spec.init_containers):
        if not is_sidecar(container):
            _request_stop(turn, container)
    stop_sidecars(turn)


def begin_pod_stop(turn: Turn, grace_seconds: int) -> None:
    """The pod's deadline stands; a later, shorter grace brings it forward, also for containers already stopping."""
    state = turn.state
    deadline = state.stop_deadline
    if deadline is None:
        deadline = turn.now + grace_seconds
    elif grace_seconds < state.stop_grace_seconds:
        deadline = min(deadline, turn.now + grace_seconds)
    turn.state = replace(state, stop_deadline=deadline, stop_grace_seconds=grace_seconds)


def stop_sidecars(turn: Turn) -> None:
    """Sidecars are asked to stop in reverse order, each when nothing after it is left."""
    assert turn.state.stop_deadline is not None
    later = [container.name for container in turn.pod.spec.containers]
    for container in reversed(turn.sidecars()):
        if turn.now >= turn.state.stop_deadline or not any(turn.containers[name].active for name in later):
            _request_stop(turn, container)
        later.append(container.name)
    if turn.now < turn.state.stop_deadline:
        turn.wakes.append(turn.state.stop_deadline)


def _request_stop(turn: Turn, container: Container) -> None:
    """The container is being stopped by the pod's deadline; a sidecar that waited for its turn gets a moment."""
    state = turn.containers[container.name]
    if not state.running:
        return
    assert turn.state.stop_deadline is not None
    deadline = turn.state.stop_deadline
    if is_sidecar(container) and turn.state.stop_grace_seconds > 0 and state.stop is None:
        deadline = max(deadline, turn.now + MIN_GRACE_SECONDS)
    if state.stop is None:
        turn.emit("Killing", f"Stopping container {container.name}", container.name)
        turn.containers[container.name] = replace(state, stop=Stop(deadline))
    elif state.stop.deadline > deadline and not is_sidecar(container) and state.stop.stage is not StopStage.KILL_SENT:
        earliest = turn.now if state.stop.stage is not StopStage.TERM_SENT else state.stop.earliest_kill
        turn.containers[container.name] = replace(state, stop=replace(state.stop, deadline=max(deadline, earliest)))


def drive_stops(turn: Turn) -> None:
    """Every container that is being stopped gets what is due."""
    for name, state in list(turn.containers.items()):
        if state.stop is not None and state.running:
            stop = _drive(turn, name, state.stop)
            turn.containers[name] = replace(turn.containers[name], stop=stop)
            if stop.stage is not StopStage.KILL_SENT:
                turn.wakes.append(stop.deadline)


def _drive(turn: Turn, name: str, stop: Stop) -> Stop:
    container = container_named(turn.pod, name)
    assert container is not None
    overdue = turn.now >= stop.deadline
    match stop.stage:
        case StopStage.REQUESTED if overdue:
            return _kill(turn, name, stop)
        case StopStage.REQUESTED if container.lifecycle.pre_stop:
            turn.actions.append(RunPreStop(name, stop.deadline - turn.now))
            return replace(stop, stage=StopStage.PRE_STOP)
        case StopStage.REQUESTED:
            return _terminate(turn, name, stop)
        case StopStage.PRE_STOP if overdue:
            return _terminate_after_hook(turn, name, stop)
        case StopStage.TERM_SENT if overdue:
            return _kill(turn, name, stop)
        case _:
            return stop


def note_pre_stop(turn: Turn, ended: PreStopEnded) -> None:
    """The hook is over, well or not, so the container is told to end."""
    state = turn.containers[ended.name]
    if ended.failure is not None:
        turn.emit("FailedPreStopHook", ended.failure, ended.name, warning=True)
    if state.stop is not None and state.stop.stage is StopStage.PRE_STOP:
        stop = _terminate_after_hook(turn, ended.name, state.stop)
        turn.containers[ended.name] = replace(state, stop=stop)


def _terminate_after_hook(turn: Turn, name: str, stop: Stop) -> Stop:
    earliest = turn.now + MIN_GRACE_SECONDS
    return _terminate(turn, name, replace(stop, deadline=max(stop.deadline, earliest), earliest_kill=earliest))


def _terminate(turn: Turn, name: str, stop: Stop) -> Stop:
    turn.actions.append(SendSignal(name, SIGTERM))
    return replace(stop, stage=StopStage.TERM_SENT)


def _kill(turn: Turn, name: str, stop: Stop) -> Stop:
    turn.actions.append(SendSignal(name, SIGKILL))
    return replace(stop, stage=StopStage.KILL_SENT)
