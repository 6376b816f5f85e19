"""The Lease that makes one replica the writer.

A holder renews every RENEW_SECONDS and stops writing RENEW_DEADLINE_SECONDS after the last renewal that succeeded was
*sent*; a standby takes over once it has seen no renewal for DURATION_SECONDS. Between the two lies more than the
longest write, so two replicas never write at a time. Each measures with its own monotonic clock: clocks need not agree.
"""

from __future__ import annotations

import asyncio
import logging
import uuid
from collections.abc import Callable
from dataclasses import dataclass

from flotilla_operator.ports import Clock, NotFoundError, OperatorError
from flotilla_operator.reconcile.types import Manifest
from flotilla_operator.telemetry import LOGGER, fields

from .client import WRITE_TIMEOUT_SECONDS, Client
from .kinds import LEASE

DURATION_SECONDS = 10.0
RENEW_SECONDS = 2.0
RENEW_DEADLINE_SECONDS = DURATION_SECONDS - WRITE_TIMEOUT_SECONDS - 0.5

logger = logging.getLogger(LOGGER)


def make_identity(pod_name: str, address: str) -> str:
    """What a holder writes into the Lease: its name, a mark of this very process, and where its control API is."""
    return f"{pod_name}_{uuid.uuid4().hex[:8]}@{address}"


def address_of(identity: str) -> str:
    """host:port of a holder's control API; '' where there is none."""
    return identity.rpartition("@")[2] if "@" in identity else ""


@dataclass(frozen=True, slots=True)
class _Sighting:
    """A record of the Lease, and when (monotonic) it was first seen like that."""

    version: str
    at: float


class Elector:
    """Holds the Lease, or waits for it."""

    def __init__(
        self,
        client: Client,
        clock: Clock,
        *,
        namespace: str,
        name: str,
        identity: str,
        changed: Callable[[bool], None],
    ) -> None:
        self._client = client
        self._clock = clock
        self._namespace = namespace
        self._name = name
        self._identity = identity
        self._changed = changed
        self._lease: Manifest | None = None
        """The live Lease as last read or written; None: read it again."""
        self._sighting: _Sighting | None = None
        self._valid_until = float("-inf")
        self._announced = False
        self._announced_at = 0.0
        self._released = False
        self._one_at_a_time = asyncio.Lock()
        self.holder = ""
        """Identity of the replica that holds the Lease, as last seen; '' when nobody does."""

    @property
    def leading(self) -> bool:
        """Whether this replica may write now."""
        return self._clock.monotonic() < self._valid_until

    @property
    def leading_seconds(self) -> float:
        """For how long this replica has led; 0 when it does not."""
        return self._clock.monotonic() - self._announced_at if self.leading and self._announced else 0.0

    async def run(self) -> None:
        """Renews or waits for the Lease, until it is released."""
        while not self._released:
            await self.step()
            await self._clock.sleep(RENEW_SECONDS)

    async def step(self) -> None:
        """One attempt to hold the Lease; `changed` is called when the answer to `leading` became another."""
        async with self._one_at_a_time:
            if not self._released:
                await self._step()

    async def _step(self) -> None:
        started = self._clock.monotonic()
        try:
            async with asyncio.timeout(WRITE_TIMEOUT_SECONDS):
                if await self._attempt():
                    self._valid_until = started + RENEW_DEADLINE_SECONDS
        except (OperatorError, TimeoutError) as error:
            self._lease = None
            logger.warning("lease not renewed", extra=fields(holder=self.holder, reason=str(error)))
        self._announce()

    async def release(self) -> None:
        """Nobody holds the Lease, where this replica did, and it takes it no more: a standby takes over at once."""
        async with self._one_at_a_time:
            self._released = True
            await self._release()

    async def _release(self) -> None:
        held = self.leading
        self._valid_until = float("-inf")
        self._announce()
        if not held or self._lease is None:
            return
        try:
            await self._client.update(LEASE, self._record("", self._lease))
        except OperatorError as error:
            logger.warning("lease not released, it runs out by itself", extra=fields(reason=str(error)))

    async def _attempt(self) -> bool:
        """True when the Lease is ours as of now."""
        if self._lease is None or self.holder != self._identity:
            self._lease = await self._read()
        if self._lease is None:
            return await self._write(self._record(self._identity, None), create=True)
        if not self._may_take(self._lease):
            return False
        return await self._write(self._record(self._identity, self._lease), create=False)

    async def _read(self) -> Manifest | None:
        try:
            lease = await self._client.get(LEASE.path(self._namespace, self._name))
        except NotFoundError:
            self.holder = ""
            return None
        self._see(lease)
        return lease

    def _see(self, lease: Manifest) -> None:
        version = lease["metadata"]["resourceVersion"]
        if self._sighting is None or self._sighting.version != version:
            self._sighting = _Sighting(version, self._clock.monotonic())
        self.holder = lease["spec"].get("holderIdentity") or ""

    def _may_take(self, lease: Manifest) -> bool:
        if self.holder in ("", self._identity) or self._sighting is None:
            return True
        duration: float = lease["spec"].get("leaseDurationSeconds") or DURATION_SECONDS
        return self._clock.monotonic() - self._sighting.at >= duration

    async def _write(self, record: Manifest, *, create: bool) -> bool:
        self._lease = (
            await self._client.create(LEASE, self._namespace, record)
            if create
            else await self._client.update(LEASE, record)
        )
        self._see(self._lease)
        return True

    def _record(self, holder: str, before: Manifest | None) -> Manifest:
        now = self._clock.now().isoformat(timespec="microseconds").replace("+00:00", "Z")
        spec: Manifest = dict(before["spec"]) if before else {}
        if spec.get("holderIdentity") != holder:
            spec |= {"acquireTime": now, "leaseTransitions": spec.get("leaseTransitions", 0) + bool(holder and before)}
        spec |= {"holderIdentity": holder, "renewTime": now, "leaseDurationSeconds": int(DURATION_SECONDS)}
        metadata = before["metadata"] if before else {"name": self._name, "namespace": self._namespace}
        return {"apiVersion": LEASE.api_version, "kind": LEASE.kind, "metadata": metadata, "spec": spec}

    def _announce(self) -> None:
        if self.leading != self._announced:
            self._announced, self._announced_at = self.leading, self._clock.monotonic()
            logger.info("lease gained" if self._announced else "lease lost", extra=fields(identity=self._identity))
            self._changed(self._announced)
