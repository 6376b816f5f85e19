"""The `Routers` port: the snapshots that are published, who waits for them, and who acknowledged what."""

from __future__ import annotations

import asyncio
import contextlib
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

from flotilla_api.snapshot import RoutingSnapshot
from flotilla_operator.ports import Clock
from flotilla_operator.reconcile.types import Acknowledgement, Key, PublishedSnapshot
from flotilla_operator.telemetry import Telemetry

POLL_SECONDS = 30.0
"""Longest wait for news; proxies and load balancers commonly cut idle requests after 60 s."""


@dataclass(frozen=True, slots=True)
class Pace:
    """How long things take between routers and the policies that they serve."""

    poll_seconds: float = POLL_SECONDS
    absence_seconds: float = 5.0
    """After this long without a poll a router counts as gone; between two polls it is away for a round trip."""
    repeat_seconds: float = 1.0
    """Between two answers with the same snapshot to a router that does not say what became of it."""
    gather_seconds: float = 0.25
    """How long news of a policy's routers is gathered: hundreds of sidecars come, go and acknowledge at one time."""
    answer_seconds: float = 1.5
    """How long sidecars have to answer a new snapshot, before it is shown which have not."""
    show_seconds: float = 30.0
    """Between two looks at what a policy's sidecars say: whatever agents' pods say, statuses change rarely."""


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
    sent: Publication | None = None
    """What it was last sent."""
    sent_at: float = -math.inf
    """When, by the loop's clock."""


@dataclass(slots=True)
class _Policy:
    """What is known about one policy's routers."""

    publication: Publication | None = None
    changed: asyncio.Event = field(default_factory=asyncio.Event)
    """Set once when there is news, then replaced."""
    routers: dict[str, _Router] = field(default_factory=dict[str, _Router])
    """By pod uid."""
    lagging: int = 0
    """Routers that serve another snapshot than the published one."""
    silent: int = 0
    """Those of them that have not refused it either."""
    settled: bool = False
    """Whether the policy was woken because no router was silent about the published snapshot any more."""
    waking: asyncio.TimerHandle | None = None
    """When the policy is woken for what was gathered."""
    sidecars: tuple[Acknowledgement, ...] = ()
    """What sidecars had said when they were last looked at."""
    looked_at: float = -math.inf
    """When that was, by the loop's clock."""
    looking: asyncio.TimerHandle | None = None
    """When they are looked at next."""

    @property
    def digest(self) -> str:
        """Of the published snapshot; '' when there is none."""
        return self.publication.digest if self.publication else ""

    def tally(self, report: Report, sign: Literal[1, -1]) -> None:
        """A router with that report is counted, or no longer."""
        served = report.acknowledgement.digest
        self.lagging += sign * (served != self.digest)
        self.silent += sign * (self.digest not in (served, report.rejected_digest))

    def recount(self) -> None:
        """Every router is counted anew, because something else is published."""
        self.lagging = self.silent = 0
        for router in self.routers.values():
            self.tally(router.report, 1)

    def stop_gathering(self) -> None:
        """The policy is not woken for what was gathered."""
        if self.waking is not None:
            self.waking.cancel()
            self.waking = None

    def stop_looking(self) -> None:
        """Its sidecars are not looked at until one of them has news."""
        if self.looking is not None:
            self.looking.cancel()
            self.looking = None


class RouterRegistry:
    """Implements `Routers`; the control API polls for routers. `wake` is called when acknowledgements change:

    | news                                            | it is told                                      |
    |-------------------------------------------------|-------------------------------------------------|
    | the last router answered a new snapshot         | at once                                         |
    | of a gateway                                    | after `gather_seconds`, with all that came then |
    | of a sidecar                                    | likewise, but only every `show_seconds`         |
    | some sidecar is silent about a new snapshot     | once, `answer_seconds` after it was published   |

    Only a replica that leads publishes: what it began before it lost the Lease is not kept for when it leads again.
    """

    def __init__(
        self,
        clock: Clock,
        telemetry: Telemetry,
        *,
        wake: Callable[[Key], None],
        leading: Callable[[], bool],
        pace: Pace | None = None,
    ) -> None:
        self._clock = clock
        self._telemetry = telemetry
        self._wake = wake
        self._leading = leading
        self._pace = pace or Pace()
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
            policy.settled = False
            policy.recount()
            policy.stop_looking()
            self._look_after(self._pace.answer_seconds, key, policy)
            self._notify(policy)
            self._measure(key, policy)

    def acknowledgements(self, key: Key) -> tuple[Acknowledgement, ...]:
        """What each connected gateway serves, and each sidecar when they were last looked at, sorted by pod."""
        policy = self._policies.get(key)
        found = [*_said_by(policy, sidecars=False), *policy.sidecars] if policy else []
        return tuple(sorted(found, key=lambda acknowledgement: (acknowledgement.pod, acknowledgement.pod_uid)))

    def connected(self, key: Key) -> frozenset[str]:
        """The uids of the pods whose routers are connected now."""
        policy = self._policies.get(key)
        return frozenset(policy.routers if policy else ())

    def published(self, key: Key) -> bool:
        """Whether there is a snapshot for the policy."""
        policy = self._policies.get(key)
        return policy is not None and policy.publication is not None

    async def poll(self, key: Key, report: Report) -> Publication | None:
        """What the router should serve instead of what it reports, as soon as there is such; None after a while."""
        policy = self._policies.setdefault(key, _Policy())
        router = self._arrive(key, policy, report)
        limit = asyncio.timeout(self._pace.poll_seconds)
        try:
            async with limit:
                self._replace(router, limit)
                return await self._news(key, policy, router, report)
        except TimeoutError:
            return None
        finally:
            self._leave(key, policy, router, limit)

    async def _news(self, key: Key, policy: _Policy, router: _Router, report: Report) -> Publication | None:
        """What the router is sent, once there is something for it; None: the policy is gone."""
        while self._policies.get(key) is policy:
            wait_seconds = self._wait_seconds(policy, router, report)
            if wait_seconds is not None and wait_seconds <= 0:
                router.sent, router.sent_at = policy.publication, asyncio.get_running_loop().time()
                return policy.publication
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(wait_seconds):
                    await policy.changed.wait()
        return None

    def _wait_seconds(self, policy: _Policy, router: _Router, report: Report) -> float | None:
        """How long what is published is kept from the router; None: it is nothing that the router does not know.

        One that was just sent it, and says neither that it serves nor that it refused it, would otherwise be sent it as
        fast as it can ask.
        """
        publication = policy.publication
        if publication is None or publication.digest in (report.acknowledgement.digest, report.rejected_digest):
            return None
        if router.sent is not publication:
            return 0.0
        return router.sent_at + self._pace.repeat_seconds - asyncio.get_running_loop().time()

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
        policy.stop_gathering()
        policy.stop_looking()
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
        if before != report:
            router.report = report
            if before:
                policy.tally(before, -1)
            policy.tally(report, 1)
            self._time(policy, before, report)
            self._measure(key, policy)
            self._tell(key, policy, router)
        return router

    def _tell(self, key: Key, policy: _Policy, router: _Router) -> None:
        """The policy is woken for what `router` says, or because it went: at once when all others have answered what
        was published."""
        loop = asyncio.get_running_loop()
        if policy.silent == 0 and not policy.settled:
            policy.settled = True
            self._look(key, policy)
        elif router.report.acknowledgement.sidecar:
            due = policy.looked_at + self._pace.show_seconds - loop.time()
            self._look_after(max(self._pace.gather_seconds, due), key, policy)
        elif policy.waking is None:
            policy.waking = loop.call_later(self._pace.gather_seconds, self._wake_gathered, key, policy)

    def _look_after(self, seconds: float, key: Key, policy: _Policy) -> None:
        if policy.looking is None and any(router.report.acknowledgement.sidecar for router in policy.routers.values()):
            policy.looking = asyncio.get_running_loop().call_later(seconds, self._look, key, policy)

    def _look(self, key: Key, policy: _Policy) -> None:
        """What sidecars say now is shown, and the policy is woken for it."""
        policy.stop_gathering()
        policy.stop_looking()
        policy.sidecars = tuple(_said_by(policy, sidecars=True))
        policy.looked_at = asyncio.get_running_loop().time()
        self._wake(key)

    def _wake_gathered(self, key: Key, policy: _Policy) -> None:
        policy.waking = None
        self._wake(key)

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
            router.leaving = loop.call_later(self._pace.absence_seconds, self._drop, key, policy, router)

    def _drop(self, key: Key, policy: _Policy, router: _Router) -> None:
        if policy.routers.pop(router.report.acknowledgement.pod_uid, None):
            policy.tally(router.report, -1)
        if policy.routers or policy.publication:
            self._measure(key, policy)
            self._tell(key, policy, router)
        else:
            self._forget(key)
            self._wake(key)

    def _time(self, policy: _Policy, before: Report | None, report: Report) -> None:
        """A router that changed over to the current snapshot is timed; one that came with it is not."""
        current, digest = policy.publication, report.acknowledgement.digest
        if current and before and digest == current.digest != before.acknowledgement.digest:
            self._telemetry.acknowledgement_seconds.observe(self._clock.monotonic() - current.at)

    def _measure(self, key: Key, policy: _Policy) -> None:
        self._telemetry.routers_lagging.labels(key.namespace, key.name).set(policy.lagging)


def _stay(router: _Router) -> None:
    """The router is not dropped after all."""
    if router.leaving is not None:
        router.leaving.cancel()
        router.leaving = None


def _said_by(policy: _Policy, *, sidecars: bool) -> list[Acknowledgement]:
    """What those that are connected last said."""
    said = [router.report.acknowledgement for router in policy.routers.values()]
    return [each for each in said if each.sidecar is sidecars]
