"""What the runtime needs from outside, as narrow protocols, and how the outside fails.

OperatorError
├── ApiError            the Kubernetes API answered with an error
│   ├── NotFoundError        404
│   ├── OutdatedError        409, or a uid that is no longer the object's: what was observed has changed
│   ├── RefusedError         any other 4xx, or an apply that fits no schema: it would be refused again
│   └── UnavailableError     429 and 5xx
├── UnreachableError         no answer from the Kubernetes API
├── UnreadableError          a namespace may not be read as a whole, so nothing is decided about its objects
├── StepFailedError          one of the last two met a step of a plan
├── EngineError              an engine did not do what it was asked to
└── NotLeadingError          this replica may not write
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Protocol

from .reconcile.scaled import ScaledExpert
from .reconcile.types import (
    Acknowledgement,
    Event,
    Key,
    Manifest,
    ObjectRef,
    Observed,
    Plan,
    PublishedSnapshot,
    Step,
    StepFailure,
)
from .scaling.fleet import FleetSignals, History, NamespacedName


class OperatorError(Exception):
    """Root of what the adapters raise."""


class ApiError(OperatorError):
    """The Kubernetes API answered with an error."""

    def __init__(self, status: int, reason: str, message: str) -> None:
        super().__init__(f"{status} {reason}: {message}")
        self.status = status
        self.reason = reason
        self.message = message


class NotFoundError(ApiError):
    """The object, or its kind, does not exist."""


class OutdatedError(ApiError):
    """What was observed has changed; observe again."""


class RefusedError(ApiError):
    """The same request would be refused again."""


class UnavailableError(ApiError):
    """The API server is overloaded or broken for now."""


class UnreachableError(OperatorError):
    """No answer from the Kubernetes API."""


class UnreadableError(OperatorError):
    """A namespace may not be read as a whole: deciding about its objects would take what is not seen for absent."""

    def __init__(self, namespace: str, why: str) -> None:
        super().__init__(f"namespace {namespace} cannot be read, grant the operator its Role there: {why}")


class StepFailedError(OperatorError):
    """A write of a plan failed, and may succeed when it is tried again."""

    def __init__(self, step: Step, error: OperatorError) -> None:
        super().__init__(f"{ObjectRef.of(step.manifest)} cannot be written: {error}")
        self.step = step


class EngineError(OperatorError):
    """An engine did not do what it was asked to; it may when it is asked again."""


class NotLeadingError(OperatorError):
    """This replica does not hold the Lease, so it may not write."""

    def __init__(self) -> None:
        super().__init__("this replica does not hold the Lease, so it may not write")


class Cluster(Protocol):
    """The Kubernetes API as the runtime sees it. Every method may raise `OperatorError`: try again later."""

    async def observe(self, key: Key) -> Observed | None:
        """All inputs about `key`, or None when a live read says that it does not exist."""
        ...

    async def execute(self, plan: Plan) -> Sequence[StepFailure]:
        """Every step is carried out or reported; transient errors are raised for a retry, as `StepFailedError`."""
        ...

    async def write_status(self, owner: Manifest, status: Manifest) -> None:
        """The status subresource of `owner` is `status`."""
        ...

    async def emit(self, owner: ObjectRef, owner_uid: str, events: Sequence[Event]) -> None:
        """The events are recorded about the owner; one that cannot be recorded is dropped."""
        ...


class Routers(Protocol):
    """The routers, through the control API."""

    def publish(self, key: Key, snapshot: PublishedSnapshot | None) -> None:
        """Routers of the policy are told; None: the policy is gone."""
        ...

    def acknowledgements(self, key: Key) -> tuple[Acknowledgement, ...]:
        """What each connected router serves."""
        ...


class MetricsSource(Protocol):
    """What routers and engines count. Neither method raises: what cannot be measured is `Unknown` and says why."""

    async def read(self, now: float) -> FleetSignals:
        """What is measured of every Expert; `now` is this machine's clock, in seconds since the epoch."""
        ...

    async def history(self, now: float, seconds: float, step: float) -> Mapping[NamespacedName, History]:
        """The last `seconds` in steps of `step` seconds, of every Expert of which any of it is known."""
        ...


class ScaleTargets(Protocol):
    """Experts that are scaled, and their Deployments' /scale. What writes may raise `OperatorError`."""

    def experts(self) -> Sequence[ScaledExpert]:
        """Every Expert with `scaling` that exists, whatever its mode, as it is known now."""
        ...

    def find(self, key: Key) -> ScaledExpert | None:
        """That Expert; None: it does not exist, or is not scaled."""
        ...

    async def scale(self, expert: ScaledExpert, replicas: int) -> None:
        """Its Deployment asks for `replicas`, and the scaler owns that number."""
        ...

    async def annotate(self, pod: Manifest, annotations: Mapping[str, str | None]) -> None:
        """The pod has these annotations; None: not this one."""
        ...

    async def look_for_others(self) -> None:
        """Experts say from now on who else scales their Deployments.

        Raises:
            OperatorError: of some that has never been known, and may be when it is asked again.
        """
        ...


class Engines(Protocol):
    """Engines that can sleep, by host:port. Both do nothing where it is so already, and raise `EngineError`."""

    async def sleep(self, address: str) -> None:
        """The engine has given its accelerator's memory back, and ended what it was doing."""
        ...

    async def wake_up(self, address: str) -> None:
        """The engine answers again."""
        ...


class Clock(Protocol):
    """Time."""

    def now(self) -> datetime:
        """UTC now; it may jump."""
        ...

    def monotonic(self) -> float:
        """Seconds that only ever grow; only differences mean something."""
        ...

    async def sleep(self, seconds: float) -> None:
        """Returns after `seconds`."""
        ...
