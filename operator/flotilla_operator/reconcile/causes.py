"""Why a pod does not answer, from its status and the warning events about it; so that nobody has to read either."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from flotilla_api.conditions import Reason
from flotilla_api.names import FETCH_CONTAINER
from flotilla_operator.resources.pods import condition, find_condition, is_ready

from .containers import ContainerStatus, Ended, find_container, parse_time
from .evictions import last_evicted
from .last_words import last_words
from .types import Manifest

_IMAGE_REASONS = frozenset(
    {
        "ErrImagePull",
        "ImagePullBackOff",
        "InvalidImageName",
        "ErrImageNeverPull",
        "ImageInspectError",
        "RegistryUnavailable",
    }
)
_CONFIG_REASONS = frozenset({"CreateContainerConfigError", "CreateContainerError", "RunContainerError"})
_MOUNT_REASONS = frozenset({"FailedMount", "FailedAttachVolume", "FailedMapVolume"})
_GPU_MEMORY = re.compile(
    r"CUDA out of memory|OutOfMemoryError|No available memory for the cache blocks"
    r"|larger than the available KV cache memory|less than desired GPU memory utilization",
    re.IGNORECASE,
)
_MISSING = (
    (re.compile(r"persistentvolumeclaim \S+ (?:not found|is being deleted)", re.IGNORECASE), Reason.CLAIM_NOT_FOUND),
    (re.compile(r"configmap \S+ not found|in configmap|configmap key", re.IGNORECASE), Reason.CONFIG_MAP_NOT_FOUND),
    (re.compile(r"secret \S+ not found|in secret|secret key", re.IGNORECASE), Reason.SECRET_NOT_FOUND),
)
_BEING_CREATED = frozenset({"", "ContainerCreating", "PodInitializing"})
CREATION_LOOK_SECONDS = 5.0
CREATION_LOOK_MAX_SECONDS = 60.0
"""Between looks at a pod whose containers are being created, at first and at most: a volume that cannot be mounted
shows in events only, and nobody is told of those. Meanwhile a fleet may pull an engine's image for many minutes, and
each look is a list of events that the API server finds by going through all of the namespace's."""

_FETCH_HINT = (
    "raise podOverrides.resources.limits.memory, or lower HF_XET_RECONSTRUCTION_DOWNLOAD_BUFFER_LIMIT in engine.env"
)
_STOPPED_BY_PROBE = frozenset({0, 137, 143})
_PROBE_ANSWER = re.compile(r"startup probe failed: (HTTP Error .*|the answer has no choices)", re.IGNORECASE)
"""What an engine answered the start-up probe. That it refused the connection only says that it was loading."""

_SEVERITY = (
    Reason.SECRET_NOT_FOUND,
    Reason.CONFIG_MAP_NOT_FOUND,
    Reason.CLAIM_NOT_FOUND,
    Reason.IMAGE_PULL_FAILED,
    Reason.DOWNLOAD_FAILED,
    Reason.OUT_OF_MEMORY,
    Reason.ENGINE_START_TIMEOUT,
    Reason.CRASH_LOOP,
    Reason.VOLUME_NOT_READY,
    Reason.INSUFFICIENT_ACCELERATORS,
    Reason.UNSCHEDULABLE,
    Reason.NOT_READY,
    Reason.EVICTED,
    Reason.STARTING,
    Reason.PODS_PENDING,
)
"""What is told first when pods differ: what a person must repair, then what may pass."""

STUCK = frozenset(_SEVERITY[: _SEVERITY.index(Reason.NOT_READY)])
"""Causes that keep a rollout from moving."""
MISSING_OBJECTS = frozenset({Reason.SECRET_NOT_FOUND, Reason.CONFIG_MAP_NOT_FOUND, Reason.CLAIM_NOT_FOUND})


@dataclass(frozen=True, slots=True)
class Cause:
    """Why a pod does not answer."""

    reason: Reason
    message: str


@dataclass(frozen=True, slots=True)
class PodRules:
    """What is known about the pods of a workload, apart from their own status."""

    container: str
    """The container that answers."""
    resource: str
    """Extended resource that each asks for; '' for none."""
    startup_seconds: float
    """How long the container may take from its start to its first answer; infinite: it has no start-up probe."""
    now: datetime
    draining: bool = False
    """Another pod of the workload is ending and still holds its accelerators."""
    evicted: tuple[Manifest, ...] = ()
    """What `evicted` finds among all pods of the workload."""


def worst_cause(pods: Sequence[Manifest], warnings: Sequence[Manifest], rules: PodRules) -> Cause | None:
    """The most telling cause among pods that do not answer; the same whatever their order. None: all answer."""
    unready = [pod for pod in pods if not is_ready(pod)]
    causes = [_cause(pod, warnings, rules) for pod in unready]
    causes += [cause for pod in unready if (cause := _eviction_cause(pod, rules))]
    return min(causes, key=lambda cause: (_SEVERITY.index(cause.reason), cause.message), default=None)


def scheduling_cause(pods: Sequence[Manifest], rules: PodRules) -> Cause | None:
    """Why a pod has no node; None: every pod has one."""
    causes = [_unscheduled(pod, rules) for pod in pods if not has_node(pod)]
    return min(causes, key=lambda cause: (_SEVERITY.index(cause.reason), cause.message), default=None)


def start_deadline(pod: Manifest, rules: PodRules) -> datetime | None:
    """When the running start of a pod's container is late; None: it started, or does not run."""
    container = find_container(pod, rules.container)
    if container.running_since is None or container.started or math.isinf(rules.startup_seconds):
        return None
    return container.running_since + timedelta(seconds=rules.startup_seconds)


def next_look_seconds(pods: Sequence[Manifest], rules: PodRules) -> float | None:
    """When to look at the pods again though nothing about them changes; None: not before something does."""
    deadlines = [start_deadline(pod, rules) for pod in pods]
    left = [(each - rules.now).total_seconds() for each in deadlines if each]
    looks = [_creation_look_seconds(pod, rules) for pod in pods if _is_being_created(pod, rules)]
    return min((seconds for seconds in [*left, *looks] if seconds > 0), default=None)


def _creation_look_seconds(pod: Manifest, rules: PodRules) -> float:
    """A quarter of the pod's age, within bounds: the longer nothing was wrong, the longer nothing may be."""
    born = pod["metadata"].get("creationTimestamp")
    age = (rules.now - parse_time(born)).total_seconds() if born else 0.0
    return min(max(CREATION_LOOK_SECONDS, age / 4), CREATION_LOOK_MAX_SECONDS)


def _is_being_created(pod: Manifest, rules: PodRules) -> bool:
    """It has a node, and none of its containers has run yet."""
    containers = (find_container(pod, FETCH_CONTAINER), find_container(pod, rules.container))
    return has_node(pod) and not any(
        each.running_since or each.ended or each.waiting_reason not in _BEING_CREATED for each in containers
    )


def _cause(pod: Manifest, warnings: Sequence[Manifest], rules: PodRules) -> Cause:
    if not has_node(pod):
        return _unscheduled(pod, rules)
    about_pod = [each for each in warnings if each.get("involvedObject", {}).get("uid") == pod["metadata"]["uid"]]
    return (
        _fetch_cause(find_container(pod, FETCH_CONTAINER))
        or _container_cause(pod, about_pod, rules)
        or _readiness_cause(pod, find_container(pod, rules.container))
        or _mount_cause(pod, about_pod)
        or _waiting(pod, rules)
    )


def has_node(pod: Manifest) -> bool:
    """The scheduler found a node for it."""
    return bool(pod.get("spec", {}).get("nodeName")) or condition(pod, "PodScheduled") == "True"


def _unscheduled(pod: Manifest, rules: PodRules) -> Cause:
    message = find_condition(pod, "PodScheduled").get("message", "")
    if not message:
        return Cause(Reason.PODS_PENDING, "pods wait for the scheduler")
    if missing := _missing_object(message):
        return Cause(missing, f"the scheduler says: {message}")
    if "unbound" in message and "PersistentVolumeClaim" in message:
        return Cause(Reason.VOLUME_NOT_READY, f"the scheduler says: {message}")
    if rules.resource and f"Insufficient {rules.resource}" in message:
        if rules.draining:
            return Cause(Reason.PODS_PENDING, f"waits for the {rules.resource} of a replica that is draining")
        return Cause(
            Reason.INSUFFICIENT_ACCELERATORS,
            f"no node of the pool has enough free {rules.resource}; the scheduler says: {message}",
        )
    return Cause(Reason.UNSCHEDULABLE, f"the scheduler says: {message}")


def _fetch_cause(fetch: ContainerStatus) -> Cause | None:
    if cause := _cannot_run(fetch):
        return cause
    if fetch.ended is None or fetch.ended.exit_code == 0:
        return None
    if fetch.ended.reason == "OOMKilled":
        return Cause(Reason.OUT_OF_MEMORY, f"the download was killed for its memory; {_FETCH_HINT}")
    detail = last_words(fetch.ended.message) or f"exit code {fetch.ended.exit_code}"
    return Cause(Reason.DOWNLOAD_FAILED, f"the model cannot be downloaded: {detail}")


def _container_cause(pod: Manifest, warnings: Sequence[Manifest], rules: PodRules) -> Cause | None:
    container = find_container(pod, rules.container)
    if cause := _cannot_run(container):
        return cause
    if _has_come_up(pod, container, rules):
        return None
    if container.ended:
        return _end_cause(container.ended, warnings, rules)
    since = container.running_since
    if since and (rules.now - since).total_seconds() >= rules.startup_seconds:
        return Cause(Reason.ENGINE_START_TIMEOUT, _late_message(warnings, rules))
    return None


def _has_come_up(pod: Manifest, container: ContainerStatus, rules: PodRules) -> bool:
    """Its present run got further than the start, so how the last run ended is no news.

    The kubelet calls a container without a start-up probe started as soon as it runs: there only readiness tells.
    """
    if not math.isinf(rules.startup_seconds):
        return container.started
    return container.started and (container.ended is None or _was_ready(pod, container))


def _was_ready(pod: Manifest, container: ContainerStatus) -> bool:
    """The pod stopped being ready since its container started."""
    changed = find_condition(pod, "Ready").get("lastTransitionTime")
    return bool(changed and container.running_since and parse_time(changed) > container.running_since)


def _readiness_cause(pod: Manifest, container: ContainerStatus) -> Cause | None:
    """A pod that stopped being ready after its container's start failed; before, it is only not there yet."""
    if not container.started:
        return None
    if _was_ready(pod, container):
        return Cause(Reason.NOT_READY, "it was ready, and its readiness probe fails now")
    return Cause(Reason.STARTING, "started and has not passed its readiness probe yet")


def _cannot_run(container: ContainerStatus) -> Cause | None:
    """Why a container cannot even be created."""
    if container.waiting_reason in _IMAGE_REASONS:
        hint = "see its name, and imagePullSecrets for a private registry"
        return Cause(Reason.IMAGE_PULL_FAILED, f"image {container.image} cannot be pulled: {hint}")
    if container.waiting_reason in _CONFIG_REASONS:
        message = container.waiting_message or container.waiting_reason
        return Cause(_missing_object(message) or Reason.CRASH_LOOP, f"the container cannot be created: {message}")
    return None


def _end_cause(ended: Ended, warnings: Sequence[Manifest], rules: PodRules) -> Cause:
    if ended.reason == "OOMKilled":
        return Cause(Reason.OUT_OF_MEMORY, "killed for using more memory than its limit or the node allows; raise it")
    if _GPU_MEMORY.search(ended.message):
        hint = "lower engine.maxModelLen or use more or larger GPUs"
        return Cause(Reason.OUT_OF_MEMORY, f"the GPU's memory is too small; {hint}: {_memory_line(ended.message)}")
    if _was_too_slow(ended, warnings, rules):
        return Cause(Reason.ENGINE_START_TIMEOUT, _late_message(warnings, rules))
    detail = last_words(ended.message)
    return Cause(Reason.CRASH_LOOP, f"ended with exit code {ended.exit_code}" + (f": {detail}" if detail else ""))


def _memory_line(message: str) -> str:
    return last_words("\n".join(line for line in message.splitlines() if _GPU_MEMORY.search(line)))


def _was_too_slow(ended: Ended, warnings: Sequence[Manifest], rules: PodRules) -> bool:
    """Killed by its start-up probe: it lived about as long as it may, or the kubelet says so."""
    lived, allowed = ended.lived_seconds, rules.startup_seconds
    if ended.exit_code not in _STOPPED_BY_PROBE or lived is None:
        return False
    probe_failed = any("startup probe failed" in each.get("message", "").lower() for each in warnings)
    return lived >= 0.8 * allowed and (probe_failed or lived <= 2.5 * allowed + 60)


def _late_message(warnings: Sequence[Manifest], rules: PodRules) -> str:
    late = f"no answer within {rules.startup_seconds:g} s of the container's start"
    answers = [match[1] for each in warnings if (match := _PROBE_ANSWER.search(each.get("message", "")))]
    if answers:
        return f"{late} to the start-up probe's request; the engine's answer was: {last_words(answers[-1])}"
    return f"{late}; raise engine.startupTimeout if it only loads slowly, else see its log"


def _mount_cause(pod: Manifest, warnings: Sequence[Manifest]) -> Cause | None:
    if pod.get("status", {}).get("phase") == "Running":
        return None
    messages = sorted(each.get("message", "") for each in warnings if each.get("reason") in _MOUNT_REASONS)
    for message in messages:
        if missing := _missing_object(message):
            return Cause(missing, f"a volume cannot be mounted: {message}")
    return Cause(Reason.VOLUME_NOT_READY, f"a volume cannot be mounted: {messages[0]}") if messages else None


def _eviction_cause(pod: Manifest, rules: PodRules) -> Cause | None:
    """Why the pod before this one had to go; a pod that came for another reason has none."""
    before = last_evicted(pod, rules.evicted)
    if before is None:
        return None
    status = before["status"]
    return Cause(Reason.EVICTED, f"a node ended the replica before ({status['reason']}): {status.get('message', '')}")


def _missing_object(message: str) -> Reason | None:
    return next((reason for pattern, reason in _MISSING if pattern.search(message)), None)


def _waiting(pod: Manifest, rules: PodRules) -> Cause:
    if find_container(pod, FETCH_CONTAINER).running_since:
        return Cause(Reason.STARTING, "the model is being downloaded")
    running = find_container(pod, rules.container).running_since
    return Cause(Reason.STARTING, "started and gives no answer yet" if running else "containers are being created")
