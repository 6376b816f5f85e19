"""What the runner knows about a pod that it runs, what can happen to one, and what is to be done about it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum, auto
from signal import Signals
from typing import TypeAlias

from localcluster.runner.backoff import NO_BACKOFF, Backoff
from localcluster.runner.probing import ProbeKind, ProbeState


@dataclass(frozen=True, slots=True)
class Waiting:
    """Not running yet, or not running again yet; no reason: the usual one while a pod starts."""

    reason: str = ""
    message: str = ""


@dataclass(frozen=True, slots=True)
class Running:
    """Running since `started_at`, in seconds since the epoch."""

    started_at: float
    container_id: str


@dataclass(frozen=True, slots=True)
class Terminated:
    """Ended. `signal` is 0 unless a signal ended it; the exit code is then 128 + the signal."""

    exit_code: int
    reason: str
    started_at: float
    finished_at: float
    container_id: str = ""
    signal: int = 0
    message: str = ""


ContainerStatus: TypeAlias = Waiting | Running | Terminated


class StopStage(Enum):
    """How far the stopping of a container has come."""

    REQUESTED = auto()
    PRE_STOP = auto()
    TERM_SENT = auto()
    KILL_SENT = auto()


@dataclass(frozen=True, slots=True)
class Stop:
    """A container is being stopped, by force at `deadline`, in no case before `earliest_kill` (seconds, epoch)."""

    deadline: float
    stage: StopStage = StopStage.REQUESTED
    earliest_kill: float = 0.0


@dataclass(frozen=True, slots=True)
class ContainerState:
    """One container of a pod. `runs` counts the processes that were made for it; `last` is how the one before ended."""

    status: ContainerStatus = Waiting()
    last: Terminated | None = None
    runs: int = 0
    starting: bool = False
    retry_at: float = 0.0
    backoff: Backoff = NO_BACKOFF
    image_backoff: Backoff = NO_BACKOFF
    probes: Mapping[ProbeKind, ProbeState] = field(default_factory=dict[ProbeKind, ProbeState])
    stop: Stop | None = None

    @property
    def restarts(self) -> int:
        """How many runs there were before the current or last one."""
        return max(0, self.runs - 1)

    @property
    def started(self) -> bool:
        """Whether it runs and its startup probe, if any, has passed."""
        startup = self.probes.get(ProbeKind.STARTUP)
        return isinstance(self.status, Running) and (startup is None or startup.passing)

    @property
    def ready(self) -> bool:
        """Whether it takes traffic."""
        readiness = self.probes.get(ProbeKind.READINESS)
        return self.started and (readiness is None or readiness.passing)

    @property
    def running(self) -> bool:
        """Whether a process of it runs."""
        return isinstance(self.status, Running)

    @property
    def active(self) -> bool:
        """Whether a process of it exists or is about to."""
        return self.starting or isinstance(self.status, Running)


class VolumeStage(Enum):
    """Whether the pod's volumes are there."""

    MISSING = auto()
    PREPARING = auto()
    READY = auto()


@dataclass(frozen=True, slots=True)
class PodState:
    """All that is known about a pod; times are seconds since the epoch.

    `failure` is why the runner itself ended the pod: reason and message for its status.
    """

    started_at: float
    pod_ip: str
    containers: Mapping[str, ContainerState]
    volumes: VolumeStage = VolumeStage.MISSING
    volumes_retry_at: float = 0.0
    stop_deadline: float | None = None
    stop_grace_seconds: int = 0
    failure: tuple[str, str] | None = None
    finished: bool = False
    removed: bool = False


# --- what can happen


@dataclass(frozen=True, slots=True)
class VolumesPrepared:
    """All volumes are there."""


@dataclass(frozen=True, slots=True)
class VolumesFailed:
    """A volume cannot be made yet."""

    message: str


@dataclass(frozen=True, slots=True)
class SourcesChanged:
    """Something that the pod refers to came, went or changed."""


@dataclass(frozen=True, slots=True)
class Started:
    """A container's process runs."""

    name: str
    container_id: str


@dataclass(frozen=True, slots=True)
class StartFailed:
    """A container could not be set up; it is tried again. `reason` is that of its waiting state."""

    name: str
    reason: str
    message: str


@dataclass(frozen=True, slots=True)
class Exited:
    """A container's process ended, or never came to be (reason StartError)."""

    name: str
    terminated: Terminated


@dataclass(frozen=True, slots=True)
class Probed:
    """A probe of the container's run `restarts` has an outcome."""

    name: str
    restarts: int
    kind: ProbeKind
    success: bool
    message: str = ""


@dataclass(frozen=True, slots=True)
class PreStopEnded:
    """A preStop hook returned; `failure` says how it failed."""

    name: str
    failure: str | None = None


@dataclass(frozen=True, slots=True)
class PostStartFailed:
    """A postStart hook failed, so the container has to go."""

    name: str
    message: str


Happening: TypeAlias = (
    VolumesPrepared
    | VolumesFailed
    | SourcesChanged
    | Started
    | StartFailed
    | Exited
    | Probed
    | PreStopEnded
    | PostStartFailed
)

# --- what is to be done


@dataclass(frozen=True, slots=True)
class PrepareVolumes:
    """Make the pod's volumes, then report."""


@dataclass(frozen=True, slots=True)
class StartContainer:
    """Start a container's process, after that many earlier ones, then report."""

    name: str
    restarts: int


@dataclass(frozen=True, slots=True)
class SendSignal:
    """Send a signal to a container's first process."""

    name: str
    number: Signals


@dataclass(frozen=True, slots=True)
class RunProbe:
    """Probe once, then report."""

    name: str
    restarts: int
    kind: ProbeKind


@dataclass(frozen=True, slots=True)
class RunPreStop:
    """Run the container's preStop hook for at most that long, then report."""

    name: str
    timeout_seconds: float


@dataclass(frozen=True, slots=True)
class Emit:
    """Post a Kubernetes event about the pod, or about one container of it."""

    reason: str
    message: str
    container: str | None = None
    warning: bool = False


@dataclass(frozen=True, slots=True)
class RemovePod:
    """Nothing of the pod runs and it is to be deleted: clean up and take it from the API."""


Action: TypeAlias = PrepareVolumes | StartContainer | SendSignal | RunProbe | RunPreStop | Emit | RemovePod


@dataclass(frozen=True, slots=True)
class Step:
    """The next state, what to do now, and when to look again: seconds since the epoch; None: when something happens."""

    state: PodState
    actions: tuple[Action, ...]
    wake_at: float | None = None
