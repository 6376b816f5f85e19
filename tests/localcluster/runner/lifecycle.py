"""The life of a pod: what is to be done next, from its state and the time. Pure.

Source: the kubelet's syncPod and computePodActions (pkg/kubelet/kuberuntime).
"""

from __future__ import annotations

from dataclasses import replace

from localcluster.config import find_image
from localcluster.runner.happenings import RETRY_SECONDS
from localcluster.runner.model import Container, Pod, is_sidecar
from localcluster.runner.probing import ProbeKind, launch, probes_of
from localcluster.runner.state import (
    ContainerState,
    PodState,
    PrepareVolumes,
    RemovePod,
    RunProbe,
    StartContainer,
    Step,
    Terminated,
    VolumeStage,
    Waiting,
)
from localcluster.runner.stopping import begin_pod_stop, drive_stops, stop_everything, stop_sidecars
from localcluster.runner.turn import Settings, Turn


def first_state(pod: Pod, pod_ip: str, now: float) -> PodState:
    """A pod that was just bound to this node."""
    containers = {c.name: ContainerState() for c in (*pod.spec.init_containers, *pod.spec.containers)}
    return PodState(started_at=now, pod_ip=pod_ip, containers=containers)


def advance(pod: Pod, state: PodState, settings: Settings, now: float) -> Step:
    """What to do now. Asking again at once, with nothing having happened, yields no action."""
    turn = Turn(pod, state, settings, now)
    if not state.finished:
        _check_deadline(turn)
        if turn.is_stopping():
            stop_everything(turn)
        elif state.volumes is not VolumeStage.READY:
            _prepare_volumes(turn)
        else:
            _keep_running(turn)
        drive_stops(turn)
        _probe_all(turn)
        _finish(turn)
    if turn.state.finished and not state.removed and pod.metadata.deletion_timestamp is not None:
        turn.state = replace(turn.state, removed=True)
        turn.actions.append(RemovePod())
    return turn.step()


def _check_deadline(turn: Turn) -> None:
    seconds = turn.pod.spec.active_deadline_seconds
    if seconds is None or turn.is_stopping():
        return
    if turn.now < turn.state.started_at + seconds:
        turn.wakes.append(turn.state.started_at + seconds)
        return
    message = "Pod was active on the node longer than the specified deadline"
    turn.state = replace(turn.state, failure=("DeadlineExceeded", message))
    turn.emit("DeadlineExceeded", message)


def _prepare_volumes(turn: Turn) -> None:
    if turn.state.volumes is VolumeStage.PREPARING:
        return
    if turn.now < turn.state.volumes_retry_at:
        turn.wakes.append(turn.state.volumes_retry_at)
        return
    turn.state = replace(turn.state, volumes=VolumeStage.PREPARING)
    turn.actions.append(PrepareVolumes())


def _keep_running(turn: Turn) -> None:
    """Init containers one after the other, sidecars among them kept running, then all containers at once."""
    if turn.work_is_over():
        begin_pod_stop(turn, turn.pod.spec.termination_grace_period_seconds)
        stop_sidecars(turn)
        return
    blocked = False
    for container in turn.pod.spec.init_containers:
        blocked = _keep_init_running(turn, container, blocked=blocked) or blocked
    if not blocked:
        for container in turn.pod.spec.containers:
            _keep_one_running(turn, container)


def _keep_init_running(turn: Turn, container: Container, *, blocked: bool) -> bool:
    """Start or restart one init container if it is its turn; whether what comes after it has to wait."""
    state = turn.containers[container.name]
    if is_sidecar(container):
        if not blocked or state.runs:
            _keep_one_running(turn, container)
        return not state.started and not _initialized(turn)
    if isinstance(state.status, Terminated) and state.status.exit_code == 0:
        return False
    if not blocked:
        _keep_one_running(turn, container)
    return True


def _initialized(turn: Turn) -> bool:
    """Whether a main container has been started: from then on a sidecar's restart holds nothing up."""
    return any(turn.containers[c.name].runs or turn.containers[c.name].starting for c in turn.pod.spec.containers)


def _keep_one_running(turn: Turn, container: Container) -> None:
    state = turn.containers[container.name]
    if state.active or turn.has_ended(container):
        return
    if turn.now < state.retry_at:
        turn.wakes.append(state.retry_at)
        _show_image_backoff(turn, container)
    elif find_image(container.image, turn.settings.images) is None:
        _fail_pull(turn, container)
    else:
        turn.emit("Pulled", f'Container image "{container.image}" already present on machine', container.name)
        turn.containers[container.name] = replace(state, starting=True)
        turn.actions.append(StartContainer(container.name, state.runs))


def _fail_pull(turn: Turn, container: Container) -> None:
    state, image, name = turn.containers[container.name], container.image, container.name
    if container.image_pull_policy == "Never":
        message = f'Container image "{image}" is not present with pull policy of Never'
        turn.wait(name, Waiting("ErrImageNeverPull", message), retry_at=turn.now + RETRY_SECONDS)
        return
    message = (
        f'failed to pull and unpack image "{image}": failed to resolve reference "{image}": {image}: not found'
        " (the local cluster has no program for it)"
    )
    backoff = state.image_backoff.after_failure(turn.settings.backoff_base_seconds, turn.now)
    turn.emit("Pulling", f'Pulling image "{image}"', name)
    turn.emit("Failed", f'Failed to pull image "{image}": {message}', name, warning=True)
    turn.emit("Failed", "Error: ErrImagePull", name, warning=True)
    turn.containers[name] = replace(state, image_backoff=backoff)
    turn.wait(name, Waiting("ErrImagePull", message), retry_at=turn.now + backoff.delay_seconds)
    turn.wakes.append(_pull_error_until(turn.containers[name]))


def _show_image_backoff(turn: Turn, container: Container) -> None:
    """An image that was not found is reported as such for a moment, then as waiting for the next try."""
    state, name = turn.containers[container.name], container.name
    if not isinstance(state.status, Waiting) or state.status.reason != "ErrImagePull":
        return
    if turn.now < _pull_error_until(state):
        turn.wakes.append(_pull_error_until(state))
        return
    backing_off = f'Back-off pulling image "{container.image}"'
    turn.emit("BackOff", backing_off, name)
    turn.emit("Failed", "Error: ImagePullBackOff", name, warning=True)
    waiting = Waiting("ImagePullBackOff", f"{backing_off}: ErrImagePull: {state.status.message}")
    turn.containers[name] = replace(state, status=waiting)


def _pull_error_until(state: ContainerState) -> float:
    return state.image_backoff.changed_at + min(1.0, state.image_backoff.delay_seconds / 2)


def _probe_all(turn: Turn) -> None:
    for container in (*turn.pod.spec.init_containers, *turn.pod.spec.containers):
        state = turn.containers[container.name]
        if state.running and state.probes:
            _probe(turn, container, state)


def _probe(turn: Turn, container: Container, state: ContainerState) -> None:
    """Startup alone until it has passed, then the others; a container that stops is only asked whether it is ready."""
    probes = dict(state.probes)
    stopping = state.stop is not None or turn.is_stopping()
    for kind, probe in probes_of(container):
        wanted = not state.started if kind is ProbeKind.STARTUP else state.started
        current = probes[kind]
        if not wanted or current.running or (stopping and kind is not ProbeKind.READINESS):
            continue
        if turn.now >= current.due_at:
            probes[kind] = launch(current, probe, turn.now)
            turn.actions.append(RunProbe(container.name, state.restarts, kind))
        else:
            turn.wakes.append(current.due_at)
    turn.containers[container.name] = replace(state, probes=probes)


def _finish(turn: Turn) -> None:
    over = turn.is_stopping() or turn.work_is_over()
    if over and not any(state.active for state in turn.containers.values()):
        turn.state = replace(turn.state, finished=True)
        turn.wakes.clear()
