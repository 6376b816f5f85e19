"""One decision about a pod in the making: the state being changed, and what is to be done."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from localcluster.config import ImageSpec
from localcluster.runner.model import Container, Pod, is_sidecar
from localcluster.runner.state import Action, ContainerState, Emit, PodState, Step, Terminated, Waiting


@dataclass(frozen=True, slots=True)
class Settings:
    """What the runner brings to every pod: the programs behind images, and the first restart delay in seconds."""

    images: Mapping[str, ImageSpec]
    backoff_base_seconds: float = 10.0


class Turn:
    """Collects one step; thrown away after `step`."""

    def __init__(self, pod: Pod, state: PodState, settings: Settings, now: float) -> None:
        self.pod, self.settings, self.now = pod, settings, now
        self.state = state
        self.containers = dict(state.containers)
        self.actions: list[Action] = []
        self.wakes: list[float] = []

    def step(self) -> Step:
        """The outcome; the time to wake is the earliest that was asked for."""
        state = replace(self.state, containers=self.containers)
        return Step(state, tuple(self.actions), min(self.wakes, default=None))

    def emit(self, reason: str, message: str, container: str | None = None, *, warning: bool = False) -> None:
        """Post a Kubernetes event."""
        self.actions.append(Emit(reason, message, container, warning))

    def wait(self, name: str, status: Waiting, *, retry_at: float) -> None:
        """The container waits; it is not tried before `retry_at`."""
        state = self.containers[name]
        last = state.status if isinstance(state.status, Terminated) else state.last
        self.containers[name] = replace(state, status=status, last=last, starting=False, retry_at=retry_at)
        self.wakes.append(retry_at)

    def is_stopping(self) -> bool:
        """Whether the whole pod is to go, because it was deleted or has failed as a whole."""
        return self.pod.metadata.deletion_timestamp is not None or self.state.failure is not None

    def has_ended(self, container: Container) -> bool:
        """Whether the container ended for good."""
        return has_ended(self.pod, container, self.containers[container.name])

    def sidecars(self) -> list[Container]:
        """The pod's native sidecars in order of start."""
        return [container for container in self.pod.spec.init_containers if is_sidecar(container)]

    def work_is_over(self) -> bool:
        """Whether all containers ended for good, or an init container that is not tried again did."""
        return any(map(self._failed_for_good, self.pod.spec.init_containers)) or all(
            map(self.has_ended, self.pod.spec.containers)
        )

    def _failed_for_good(self, container: Container) -> bool:
        status = self.containers[container.name].status
        return isinstance(status, Terminated) and status.exit_code != 0 and self.has_ended(container)


def restarts_after(pod: Pod, container: Container, exit_code: int) -> bool:
    """Whether a container that ended with this exit code is run again while its pod lives."""
    if is_sidecar(container):
        return True
    if container in pod.spec.init_containers:
        return exit_code != 0 and pod.spec.restart_policy != "Never"
    policy = container.restart_policy or pod.spec.restart_policy
    return policy == "Always" or (policy == "OnFailure" and exit_code != 0)


def has_ended(pod: Pod, container: Container, state: ContainerState) -> bool:
    """Whether the container ended for good."""
    return isinstance(state.status, Terminated) and not restarts_after(pod, container, state.status.exit_code)
