"""The feed: keeps the store true. Filled by LIST, told by watch events, and swept by LIST, which notices deletions.

A watch can lose deletions around a restart of the API server, so every hint of a gap is followed by a sweep: objects
that the watch lists again, an outage of the API server that ended, and time.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable, Mapping, Sequence

from flotilla_operator.ports import Clock, NotFoundError, OperatorError, RefusedError
from flotilla_operator.reconcile.types import Key, Manifest
from flotilla_operator.resources.replicas import replica_entries
from flotilla_operator.telemetry import LOGGER, fields

from .client import Client
from .kinds import KINDS, OWN_KINDS, Kind
from .store import Change, Store

SWEEP_INTERVAL_SECONDS = 300.0
UNREADABLE_INTERVAL_SECONDS = 60.0
"""Between sweeps while a namespace is left out: no watch tells when the right that it lacks is granted."""
SWEEPS_AFTER_GAP_SECONDS = (1.0, 10.0)
"""Waits before the sweeps after a gap: soon, and again when watches that were slow to come back have."""
PULSE_SECONDS = 1.0
RETRY_SECONDS = 2.0

logger = logging.getLogger(LOGGER)


class Feed:
    """Keeps `store` true and wakes the keys that a change concerns.

    `watches_outdated` is called when watches have to be made anew: a CRD that was deleted is there again, or other
    namespaces can be read. A named namespace of which a kind may not be read is left out as a whole, and told of.
    """

    def __init__(
        self,
        client: Client,
        store: Store,
        clock: Clock,
        *,
        namespaces: Sequence[str],
        wake: Callable[[Key], None],
        watches_outdated: Callable[[], None],
    ) -> None:
        self._client = client
        self._store = store
        self._clock = clock
        self._namespaces = tuple(namespaces) or ("",)
        self._wake = wake
        self._watches_outdated = watches_outdated
        self._unreadable: dict[str, str] = {}
        self._kind_missing = False
        self._filled = asyncio.Event()
        self._periodic_due = 0.0
        self._gap_dues: list[float] = []
        self._outages = 0
        self._beat = clock.monotonic()

    @property
    def filled(self) -> bool:
        """Whether the store has held everything once."""
        return self._filled.is_set()

    @property
    def silent_seconds(self) -> float:
        """Seconds since the feed last did anything; it never rests longer than a sweep takes."""
        return self._clock.monotonic() - self._beat

    @property
    def namespaces(self) -> tuple[str, ...]:
        """Those that are named and can be read; none when none is named, which means all."""
        return tuple(name for name in self._namespaces if name and name not in self._unreadable)

    @property
    def unreadable(self) -> Mapping[str, str]:
        """Namespaces that are left out, and why."""
        return self._unreadable

    @property
    def _interval_seconds(self) -> float:
        return UNREADABLE_INTERVAL_SECONDS if self._unreadable else SWEEP_INTERVAL_SECONDS

    async def fill(self) -> None:
        """The store holds everything; waits, saying so, for an API server and CRDs that are not there yet."""
        while not self._filled.is_set():
            try:
                await self._require_kinds()
                await self._sweep()
            except OperatorError as error:
                self._beat = self._clock.monotonic()
                logger.warning("waiting for the Kubernetes API", extra=fields(reason=str(error)))
                await self._clock.sleep(RETRY_SECONDS)
            else:
                self._filled.set()
                logger.info("store filled", extra=fields(owners=len(self._store.owners())))

    def receive(self, kind: Kind, event_type: str | None, manifest: Manifest) -> None:
        """A watch event. `event_type` None: the watch listed the object, so it may have missed others."""
        manifest = complete(kind, manifest)
        if event_type is None:
            self._expect_gap()
        change = self._store.remove(manifest) if event_type == "DELETED" else self._store.apply(manifest)
        self._tell([change] if change else [])

    def learn(self, kind: Kind, manifest: Manifest) -> Change | None:
        """The store holds what the API server answered to a write of ours; nobody is woken."""
        return self._store.apply(complete(kind, manifest))

    async def run(self) -> None:
        """Sweeps for ever. The store must have been filled."""
        self._periodic_due = self._clock.monotonic() + self._interval_seconds
        while True:
            await self._clock.sleep(PULSE_SECONDS)
            self._beat = self._clock.monotonic()
            self._watch_for_outage()
            if min([self._periodic_due, *self._gap_dues]) <= self._beat:
                await self._sweep_now()

    async def _sweep_now(self) -> None:
        now = self._clock.monotonic()
        self._gap_dues = [due for due in self._gap_dues if due > now]
        try:
            await self._sweep()
        except OperatorError as error:
            logger.warning("sweep failed, it will be repeated", extra=fields(reason=str(error)))
            self._kind_missing |= isinstance(error, NotFoundError)
            self._periodic_due = now + RETRY_SECONDS
            return
        self._periodic_due = now + self._interval_seconds
        if self._kind_missing:
            self._kind_missing = False
            self._watches_outdated()

    async def _require_kinds(self) -> None:
        """Raises NotFoundError when the API server does not serve one of our kinds: watches would never see it."""
        served = await self._client.get(f"/apis/{OWN_KINDS[0].api_version}")
        names = {resource["name"] for resource in served["resources"]}
        missing = [kind.plural for kind in OWN_KINDS if kind.plural not in names]
        if missing:
            raise NotFoundError(404, "NotFound", f"no CustomResourceDefinition yet for {', '.join(missing)}")

    async def _sweep(self) -> None:
        if self._kind_missing:
            await self._require_kinds()
        watched = self.namespaces
        for kind in KINDS.values():
            if not kind.namespaced:
                await self._sweep_kind(kind, "")
        for namespace in self._namespaces:
            await self._sweep_namespace(namespace)
        if self.filled and self.namespaces != watched:
            self._watches_outdated()

    async def _sweep_namespace(self, namespace: str) -> None:
        """Raises RefusedError when this was the last one that could be read."""
        try:
            for kind in KINDS.values():
                if kind.namespaced:
                    await self._sweep_kind(kind, namespace)
        except RefusedError as error:
            if self.namespaces in ((), (namespace,)):
                raise
            if namespace not in self._unreadable:
                logger.warning("namespace left out", extra=fields(namespace=namespace, reason=str(error)))
            self._unreadable[namespace] = str(error)
        else:
            if self._unreadable.pop(namespace, ""):
                logger.info("namespace can be read", extra=fields(namespace=namespace))

    async def _sweep_kind(self, kind: Kind, namespace: str) -> None:
        items, version = await self._client.list_objects(kind, namespace)
        self._tell(self._store.replace(kind.kind, namespace, [complete(kind, item) for item in items], version))

    def _tell(self, changes: Iterable[Change]) -> None:
        for key in {key for change in changes for key in self._store.concerned(change)}:
            self._wake(key)

    def _watch_for_outage(self) -> None:
        found = self._client.reachability
        if found.reachable and found.outages != self._outages:
            self._outages = found.outages
            logger.info("the Kubernetes API is back")
            self._expect_gap()

    def _expect_gap(self) -> None:
        """Sweeps follow soon; one that is planned for about the same time serves two gaps."""
        now = self._clock.monotonic()
        for due in (now + seconds for seconds in SWEEPS_AFTER_GAP_SECONDS):
            if not any(abs(due - planned) <= PULSE_SECONDS for planned in self._gap_dues):
                self._gap_dues.append(due)


def complete(kind: Kind, manifest: Manifest) -> Manifest:
    """`manifest` with its kind, which lists leave out; of managedFields only who owns a Deployment's replicas."""
    metadata = {name: value for name, value in manifest["metadata"].items() if name != "managedFields"}
    if kind.kind == "Deployment":
        metadata["managedFields"] = replica_entries(manifest)
    return {"apiVersion": kind.api_version, "kind": kind.kind, **manifest, "metadata": metadata}
