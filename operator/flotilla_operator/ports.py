"""What the runtime needs from outside, as narrow protocols."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Protocol

from .reconcile.types import Acknowledgement, Event, Key, Manifest, ObjectRef, Observed, Plan, StepFailure


class Cluster(Protocol):
    """The Kubernetes API as the runtime sees it."""

    async def observe(self, key: Key) -> Observed | None:
        """All inputs about `key`, or None when a live read says that it does not exist."""
        ...

    async def execute(self, owner: Manifest, plan: Plan) -> Sequence[StepFailure]:
        """Every step is carried out or reported; transient errors are raised for a retry."""
        ...

    async def write_status(self, owner: Manifest, status: Manifest) -> None:
        """The status subresource of `owner` is `status`."""
        ...

    async def emit(self, owner: ObjectRef, owner_uid: str, events: Sequence[Event]) -> None:
        """The events are recorded about the owner."""
        ...


class Routers(Protocol):
    """The routers, through the control API."""

    def publish(self, key: Key, snapshot: bytes | None) -> None:
        """Routers of the policy are told; None: the policy is gone."""
        ...

    def acknowledgements(self, key: Key) -> tuple[Acknowledgement, ...]:
        """What each connected router serves."""
        ...


class Clock(Protocol):
    """Time."""

    def now(self) -> datetime:
        """UTC now."""
        ...

    async def sleep(self, seconds: float) -> None:
        """Returns after `seconds`."""
        ...
