"""The PodStatus that the API server is told. Pure.

Source: the kubelet's getPhase and generateAPIPodStatus (pkg/kubelet/kubelet_pods.go), pkg/kubelet/status/generate.go.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

from localcluster.runner.model import Container, Pod, format_time, is_sidecar, parse_time
from localcluster.runner.state import (
    ContainerState,
    PodState,
    Running,
    Terminated,
    VolumeStage,
    Waiting,
)
from localcluster.runner.turn import has_ended

TERMINAL = frozenset({"Succeeded", "Failed"})
OWN_CONDITIONS = ("PodReadyToStartContainers", "Initialized", "Ready", "ContainersReady", "PodScheduled")


def make_status(
    pod: Pod, state: PodState, *, host_ip: str, previous: Sequence[Mapping[str, Any]], now: float
) -> dict[str, Any]:
    """The pod's status as JSON. `previous` are the conditions reported before; what did not turn keeps its time."""
    phase = pod_phase(pod, state)
    status: dict[str, Any] = {
        "observedGeneration": pod.metadata.generation,
        "phase": phase,
        "conditions": _with_times(_conditions(pod, state, phase, previous), previous, now),
        "hostIP": host_ip,
        "hostIPs": [{"ip": host_ip}],
        "podIP": state.pod_ip,
        "podIPs": [{"ip": state.pod_ip}],
        "startTime": format_time(state.started_at),
        "containerStatuses": [_container_status(pod, c, state) for c in pod.spec.containers],
    }
    if pod.spec.init_containers:
        status["initContainerStatuses"] = [_container_status(pod, c, state) for c in pod.spec.init_containers]
    if state.failure is not None:
        status["reason"], status["message"] = state.failure
    return status


def pod_phase(pod: Pod, state: PodState) -> str:
    """Pending until every container has run, then Running, and Succeeded or Failed once all ended for good."""
    if state.finished:
        return _final_phase(pod, state)
    if any(_incomplete(c, state.containers[c.name]) for c in pod.spec.init_containers) and not _has_run(pod, state):
        return "Pending"
    states = [state.containers[c.name] for c in pod.spec.containers]
    if any(isinstance(s.status, Waiting) and not s.runs for s in states):
        return "Pending"
    return "Running"


def _has_run(pod: Pod, state: PodState) -> bool:
    return any(state.containers[c.name].runs for c in pod.spec.containers)


def _final_phase(pod: Pod, state: PodState) -> str:
    if state.failure is not None:
        return "Failed"
    workers = [c for c in (*pod.spec.init_containers, *pod.spec.containers) if not is_sidecar(c)]
    statuses = [state.containers[c.name].status for c in workers]
    succeeded = all(isinstance(s, Terminated) and s.exit_code == 0 for s in statuses)
    return "Succeeded" if succeeded else "Failed"


def _incomplete(container: Container, state: ContainerState) -> bool:
    if is_sidecar(container):
        return not state.started
    return not (isinstance(state.status, Terminated) and state.status.exit_code == 0)


def _conditions(pod: Pod, state: PodState, phase: str, previous: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    serving = [*pod.spec.containers, *(c for c in pod.spec.init_containers if is_sidecar(c))]
    unready = [c.name for c in serving if not state.containers[c.name].ready]
    uninitialized = [c.name for c in pod.spec.init_containers if _incomplete(c, state.containers[c.name])]
    containers_ready = _readiness("ContainersReady", phase, unready)
    return [
        _condition("PodReadyToStartContainers", state.volumes is VolumeStage.READY and not state.finished),
        _initialized(phase, [] if _has_run(pod, state) else uninitialized),
        _ready(pod, containers_ready, previous),
        containers_ready,
        _condition("PodScheduled", True),
    ]


def _condition(kind: str, holds: bool, reason: str = "", message: str = "") -> dict[str, Any]:
    condition = {"type": kind, "status": "True" if holds else "False", "reason": reason, "message": message}
    return {key: value for key, value in condition.items() if value}


def _initialized(phase: str, incomplete: list[str]) -> dict[str, Any]:
    if phase == "Succeeded":
        return _condition("Initialized", True, "PodCompleted")
    if not incomplete:
        return _condition("Initialized", True)
    return _condition(
        "Initialized", False, "ContainersNotInitialized", f"containers with incomplete status: {_list(incomplete)}"
    )


def _readiness(kind: str, phase: str, unready: list[str]) -> dict[str, Any]:
    if phase in TERMINAL:
        return _condition(kind, False, "PodCompleted" if phase == "Succeeded" else "PodFailed")
    if unready:
        return _condition(kind, False, "ContainersNotReady", f"containers with unready status: {_list(unready)}")
    return _condition(kind, True)


def _ready(pod: Pod, containers_ready: Mapping[str, Any], previous: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Ready is ContainersReady and every readiness gate, which others write into the pod's conditions."""
    if containers_ready["status"] == "False":
        return {**containers_ready, "type": "Ready"}
    given = {condition["type"]: condition["status"] for condition in previous}
    for gate in pod.spec.readiness_gates:
        name = gate.condition_type
        if name not in given:
            message = f'corresponding condition of pod readiness gate "{name}" does not exist.'
            return _condition("Ready", False, "ReadinessGatesNotReady", message)
        if given[name] != "True":
            message = f'the status of pod readiness gate "{name}" is not "True", but {given[name]}'
            return _condition("Ready", False, "ReadinessGatesNotReady", message)
    return _condition("Ready", True)


def _list(names: Sequence[str]) -> str:
    return f"[{' '.join(names)}]"


def _with_times(
    conditions: list[dict[str, Any]], previous: Sequence[Mapping[str, Any]], now: float
) -> list[dict[str, Any]]:
    before = {condition["type"]: condition for condition in previous}
    for condition in conditions:
        old = before.get(condition["type"], {})
        kept = old.get("lastTransitionTime") if old.get("status") == condition["status"] else None
        condition["lastTransitionTime"] = kept or format_time(now)
    return conditions


def _container_status(pod: Pod, container: Container, state: PodState) -> dict[str, Any]:
    current = state.containers[container.name]
    status = {
        "name": container.name,
        "image": container.image,
        "imageID": _image_id(container.image) if current.runs else "",
        "restartCount": current.restarts,
        "ready": _is_ready(pod, container, current),
        "started": current.started,
        "state": _state_json(current.status, pod),
        "lastState": _state_json(current.last, pod) if current.last else {},
    }
    container_id = _container_id(current)
    return {**status, "containerID": container_id} if container_id else status


def _is_ready(pod: Pod, container: Container, state: ContainerState) -> bool:
    if container in pod.spec.init_containers and not is_sidecar(container):
        return has_ended(pod, container, state) and not _incomplete(container, state)
    return state.ready


def _container_id(state: ContainerState) -> str:
    for status in (state.status, state.last):
        if isinstance(status, Running | Terminated):
            return status.container_id
    return ""


def _image_id(image: str) -> str:
    return f"{image}@sha256:{hashlib.sha256(image.encode()).hexdigest()}"


def _state_json(status: Waiting | Running | Terminated, pod: Pod) -> dict[str, Any]:
    match status:
        case Waiting():
            default = "PodInitializing" if pod.spec.init_containers else "ContainerCreating"
            waiting = {"reason": status.reason or default, "message": status.message}
            return {"waiting": {key: value for key, value in waiting.items() if value}}
        case Running():
            return {"running": {"startedAt": format_time(status.started_at)}}
        case Terminated():
            return {"terminated": _terminated_json(status)}


def _terminated_json(status: Terminated) -> dict[str, Any]:
    optional = {"signal": status.signal, "message": status.message, "containerID": status.container_id}
    return {
        "exitCode": status.exit_code,
        "reason": status.reason,
        "startedAt": format_time(status.started_at),
        "finishedAt": format_time(status.finished_at),
        **{key: value for key, value in optional.items() if value},
    }


def read_state(pod: Pod, pod_ip: str, now: float) -> PodState:
    """What the API server knows of a pod that an earlier runner ran; what ran then was killed with that runner."""
    reported = {
        status["name"]: status
        for key in ("initContainerStatuses", "containerStatuses")
        for status in pod.status.get(key, ())
    }
    containers = {
        c.name: _read_container(reported.get(c.name, {}), now)
        for c in (*pod.spec.init_containers, *pod.spec.containers)
    }
    started = pod.status.get("startTime")
    return PodState(
        started_at=parse_time(started) if started else now,
        pod_ip=pod.status.get("podIP") or pod_ip,
        containers=containers,
        finished=pod.status.get("phase") in TERMINAL,
    )


def _read_container(status: Mapping[str, Any], now: float) -> ContainerState:
    if not status.get("containerID"):
        return ContainerState()
    runs, found = status["restartCount"] + 1, status["state"]
    last = status.get("lastState", {}).get("terminated")
    if "terminated" in found:
        return ContainerState(_read_terminated(found["terminated"]), runs=runs)
    if "running" in found:
        started = parse_time(found["running"]["startedAt"])
        message = "The pod runner ended while the container ran."
        ended = Terminated(137, "ContainerStatusUnknown", started, now, status["containerID"], message=message)
        return ContainerState(ended, last=_read_terminated(last) if last else None, runs=runs)
    return ContainerState(Waiting(), last=_read_terminated(last) if last else None, runs=runs)


def _read_terminated(found: Mapping[str, Any]) -> Terminated:
    return Terminated(
        exit_code=found["exitCode"],
        reason=found.get("reason", ""),
        started_at=parse_time(found["startedAt"]) if found.get("startedAt") else 0.0,
        finished_at=parse_time(found["finishedAt"]) if found.get("finishedAt") else 0.0,
        container_id=found.get("containerID", ""),
        signal=found.get("signal", 0),
        message=found.get("message", ""),
    )
