"""The registry of routers: how often a policy is woken for what hundreds of sidecars say."""

from __future__ import annotations

import asyncio

from fakes.clock import VirtualClock, settle
from flotilla_api.snapshot import RoutingSnapshot
from flotilla_operator.adapters.routers import Report, RouterRegistry
from flotilla_operator.reconcile.types import Acknowledgement, Key, PublishedSnapshot
from flotilla_operator.telemetry import Telemetry

KEY = Key("RoutingPolicy", "agents", "router")
FIRST = PublishedSnapshot(b"first", "2026-11-23T12:00:00.000000Z")
SECOND = PublishedSnapshot(b"second", "2026-11-23T12:00:01.000000Z")
SIDECARS = 3000


def digest_of(snapshot: PublishedSnapshot) -> str:
    return RoutingSnapshot.digest_of(snapshot.data)


class Rig:
    """A registry, its polls, and whom it woke."""

    def __init__(self, *, gather_seconds: float = 600.0, absence_seconds: float = 600.0) -> None:
        self.woken: list[Key] = []
        self.telemetry = Telemetry()
        self.polls: list[asyncio.Task[object]] = []
        self.registry = RouterRegistry(
            VirtualClock(),
            self.telemetry,
            wake=self.woken.append,
            leading=lambda: True,
            poll_seconds=600,
            absence_seconds=absence_seconds,
            gather_seconds=gather_seconds,
        )

    async def poll(self, number: int, digest: str, *, rejected: str = "") -> None:
        """A sidecar says what it serves, and waits."""
        reason = "no such field" if rejected else ""
        report = Report(Acknowledgement(f"agent-{number:05}", f"uid-{number}", digest, reason, sidecar=True), rejected)
        self.polls.append(asyncio.create_task(self.registry.poll(KEY, report)))
        await asyncio.sleep(0)

    async def poll_all(self, digest: str) -> None:
        """Every sidecar does."""
        for number in range(SIDECARS):
            await self.poll(number, digest)
        await settle()

    def lagging(self) -> float | None:
        return self.telemetry.registry.get_sample_value(
            "flotilla_operator_routers_lagging", {"namespace": "agents", "policy": "router"}
        )

    async def end(self) -> None:
        self.registry.release_all()
        await asyncio.gather(*self.polls)


async def test_an_edit_that_thousands_acknowledge_wakes_the_policy_once() -> None:
    """When the last of them has: it is not reconciled for each of them, and does not wait any longer."""
    rig = Rig()
    rig.registry.publish(KEY, FIRST)
    await rig.poll_all(digest_of(FIRST))
    rig.woken.clear()
    rig.registry.publish(KEY, SECOND)
    await settle()
    for number in range(SIDECARS - 1):
        await rig.poll(number, digest_of(SECOND))
    before_the_last = list(rig.woken), rig.lagging()
    await rig.poll(SIDECARS - 1, digest_of(SECOND))

    assert before_the_last == ([], 1)
    assert (rig.woken, rig.lagging()) == ([KEY], 0)
    assert len(rig.registry.acknowledgements(KEY)) == SIDECARS
    await rig.end()


async def test_one_that_stays_silent_holds_the_others_news_back_for_a_moment_only() -> None:
    """What was gathered until then wakes the policy."""
    rig = Rig(gather_seconds=0.01)
    rig.registry.publish(KEY, FIRST)
    await rig.poll(0, "")
    await rig.poll(1, digest_of(FIRST))
    async with asyncio.timeout(10):
        while not rig.woken:  # noqa: ASYNC110 - the registry has nothing else to wait for
            await asyncio.sleep(0.005)

    await rig.end()


async def test_a_refusal_is_an_answer() -> None:
    """A sidecar that keeps its last good snapshot is waited for no longer."""
    rig = Rig()
    rig.registry.publish(KEY, FIRST)
    await rig.poll(0, digest_of(SECOND), rejected=digest_of(FIRST))

    assert (rig.woken, rig.lagging()) == ([KEY], 1)
    await rig.end()


async def test_sidecars_that_come_and_go_are_gathered() -> None:
    """A rollout of hundreds of agents wakes the policy a few times a second; the counts stay right."""
    rig = Rig(gather_seconds=0.02, absence_seconds=0.01)
    rig.registry.publish(KEY, FIRST)
    await rig.poll(0, digest_of(FIRST))
    await rig.poll(1, digest_of(SECOND))
    rig.polls[1].cancel()
    async with asyncio.timeout(10):
        while len(rig.registry.acknowledgements(KEY)) > 1:  # noqa: ASYNC110 - as above
            await asyncio.sleep(0.005)
        while len(rig.woken) < 2:  # noqa: ASYNC110 - as above
            await asyncio.sleep(0.005)

    assert rig.lagging() == 0
    rig.polls.pop(1)
    await rig.end()
