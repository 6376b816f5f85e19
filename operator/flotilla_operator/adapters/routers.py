"""The `Routers` port: the snapshots that are published, who waits for them, and who acknowledged what."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field

from flotilla_api.snapshot import RoutingSnapshot
from flotilla_operator.ports import Clock
from flotilla_operator.reconcile.types import Acknowledgement, Key, PublishedSnapshot
from flotilla_operator.telemetry import Telemetry

POLL_SECONDS = 30.0
"""Longest wait for news; proxies and load balancers commonly cut idle requests after 60 s."""
ABSENCE_SECONDS = 5.0
"""After this long without a poll a router counts as gone; between two polls it is away for a round trip."""


@dataclass(frozen=True, slots=True)
class Publication:
    """A snapshot as it is sent."""

    snapshot: PublishedSnapshot
    digest: str
    at: float
    """When (monotonic) it was published here."""


@dataclass(frozen=True, slots=True)
class Report:
    """What a router says with a poll."""

    acknowledgement: Acknowledgement
    rejected_digest: str = ""
    """Of the snapshot that it refused; it is not sent again."""


@dataclass(slots=True)
class _Router:
    """A router that is connected, or was until a moment ago."""

    report: Report
    poll: asyncio.Timeout | None = None
    """Of the poll that waits; None: none does."""
    leaving: asyncio.TimerHandle | None = None


@dataclass(slots=True)
class _Policy:
    """What is known about one policy's routers."""

    publication: Publication | None = None
    changed: asyncio.Event = field(default_factory=asyncio.Event)
    """Set once when there is news, then replaced."""
    routers: dict[str, _Router] = field(default_factory=dict[str, _Router])
    """By pod uid."""


class RouterRegistry:
    """Implements `Routers`; the control API polls for routers. `wake` is called when acknowledgements change.

    Only a replica that leads publishes: what it began before it lost the Lease is not kept for when it leads again.
    """

    def __init__(
        self,
        clock: Clock,
        telemetry: Telemetry,
        *,
        wake: Callable[[Key], None],
        leading: Callable[[], bool],
        poll_seconds: float = POLL_SECONDS,
        absence_seconds: float = ABSENCE_SECONDS,
    ) -> None:
        self._clock = clock
        self._telemetry = telemetry
        self._wake = wake
        self._leading = leading
        self._poll_seconds = poll_seconds
        self._absence_seconds = absence_seconds
        self._policies: dict[Key, _Policy] = {}

    def publish(self, key: Key, snapshot: PublishedSnapshot | None) -> None:
        """Routers of the policy are told; None: the policy is gone. Without the Lease nobody is told anything."""
        if not self._leading():
            return
        if snapshot is None:
            self._forget(key)
            return
        policy = self._policies.setdefault(key, _Policy())
        digest = RoutingSnapshot.digest_of(snapshot.data)
        if policy.publication is None or policy.publication.digest != digest:
            policy.publication = Publication(snapshot, digest, self._clock.monotonic())
            self._notify(policy)
            self._measure(key, policy)

    def acknowledgements(self, key: Key) -> tuple[Acknowledgement, ...]:
        """What each connected router serves, sorted by pod."""
        policy = self._policies.get(key)
        found = [router.report.acknowledgement for router in policy.routers.values()] if policy else []
        return tuple(sorted(found, key=lambda acknowledgement: (acknowledgement.pod, acknowledgement.pod_uid)))

    def published(self, key: Key) -> bool:
        """Whether there is a snapshot for the policy."""
        policy = self._policies.get(key)
        return policy is not None and policy.publication is not None

    async def poll(self, key: Key, report: Report) -> Publication | None:
        """What the router should serve instead of what it reports, as soon as there is such; None after a while."""
        policy = self._policies.setdefault(key, _Policy())
        router = self._arrive(key, policy, report)
        known = {report.acknowledgement.digest, report.rejected_digest}
        limit = asyncio.timeout(self._poll_seconds)
        try:
            async with limit:
                self._replace(router, limit)
                while policy.publication is None or policy.publication.digest in known:
                    await policy.changed.wait()
                    if self._policies.get(key) is not policy:
                        return None
        except TimeoutError:
            return None
        finally:
            self._leave(key, policy, router, limit)
        return policy.publication

    def release_all(self) -> None:
        """Every poll ends without news and every acknowledgement is dropped: another replica leads now."""
        for key in list(self._policies):
            self._forget(key)

    def _forget(self, key: Key) -> None:
        policy = self._policies.pop(key, None)
        if policy is None:
            return
        for router in policy.routers.values():
            _stay(router)
        policy.publication = None
        self._notify(policy)
        try:
            self._telemetry.routers_lagging.remove(key.namespace, key.name)
        except KeyError:
            return

    def _notify(self, policy: _Policy) -> None:
        policy.changed.set()
        policy.changed = asyncio.Event()

    def _arrive(self, key: Key, policy: _Policy, report: Report) -> _Router:
        uid = report.acknowledgement.pod_uid
        router = policy.routers.get(uid)
        before = router.report if router else None
        if router is None:
            router = policy.routers[uid] = _Router(report)
        _stay(router)
        router.report = report
        if before != report:
            self._time(policy, before, report)
            self._measure(key, policy)
            self._wake(key)
        return router

    def _replace(self, router: _Router, poll: asyncio.Timeout) -> None:
        """A router waits once: an older poll of its ends without news."""
        if router.poll is not None and not router.poll.expired():
            router.poll.reschedule(asyncio.get_running_loop().time())
        router.poll = poll

    def _leave(self, key: Key, policy: _Policy, router: _Router, poll: asyncio.Timeout) -> None:
        if router.poll is not poll:
            return
        router.poll = None
        if self._policies.get(key) is policy:
            loop = asyncio.get_running_loop()
            router.leaving = loop.call_later(self._absence_seconds, self._drop, key, policy, router)

    def _drop(self, key: Key, policy: _Policy, router: _Router) -> None:
        policy.routers.pop(router.report.acknowledgement.pod_uid, None)
        if policy.routers or policy.publication:
            self._measure(key, policy)
        else:
            self._forget(key)
        self._wake(key)

    def _time(self, policy: _Policy, before: Report | None, report: Report) -> None:
        """A router that changed over to the current snapshot is timed; one that came with it is not."""
        current, digest = policy.publication, report.acknowledgement.digest
        if current and before and digest == current.digest != before.acknowledgement.digest:
            self._telemetry.acknowledgement_seconds.observe(self._clock.monotonic() - current.at)

    def _measure(self, key: Key, policy: _Policy) -> None:
        digest = policy.publication.digest if policy.publication else ""
        lagging = sum(router.report.acknowledgement.digest != digest for router in policy.routers.values())
        self._telemetry.routers_lagging.labels(key.namespace, key.name).set(lagging)


def _stay(router: _Router) -> None:
    """The router is not dropped after all."""
    if router.leaving is not None:
        router.leaving.cancel()
        router.leaving = None
