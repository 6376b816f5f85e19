"""The registry of routers: how often a policy is woken for what hundreds of sidecars say."""

from __future__ import annotations

import asyncio
from dataclasses import replace

from fakes.clock import VirtualClock, settle
from flotilla_api.snapshot import RoutingSnapshot
from flotilla_operator.adapters.routers import Pace, Publication, Report, RouterRegistry
from flotilla_operator.reconcile.types import Acknowledgement, Key, PublishedSnapshot
from flotilla_operator.telemetry import Telemetry

KEY = Key("RoutingPolicy", "agents", "router")
FIRST = PublishedSnapshot(b"first", "2026-11-23T12:00:00.000000Z")
SECOND = PublishedSnapshot(b"second", "2026-11-23T12:00:01.000000Z")
SIDECARS = 3000
NEVER = Pace(600, 600, 600, 600, 600, 600)
"""Nothing happens in a test by itself."""


def digest_of(snapshot: PublishedSnapshot) -> str:
    return RoutingSnapshot.digest_of(snapshot.data)


class Rig:
    """A registry, its polls, and whom it woke."""

    def __init__(self, **pace: float) -> None:
        self.woken: list[Key] = []
        self.telemetry = Telemetry()
        self.polls: list[asyncio.Task[Publication | None]] = []
        self.registry = RouterRegistry(
            VirtualClock(),
            self.telemetry,
            wake=self.woken.append,
            leading=lambda: True,
            pace=replace(NEVER, **pace),
        )

    async def poll(self, number: int, digest: str, *, rejected: str = "", sidecar: bool = True) -> None:
        """A router says what it serves, and waits."""
        reason = "no such field" if rejected else ""
        said = Acknowledgement(f"agent-{number:05}", f"uid-{number}", digest, reason, sidecar=sidecar)
        report = Report(said, rejected)
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

    assert [each.digest for each in rig.registry.acknowledgements(KEY)] == ["", digest_of(FIRST)]
    await rig.end()


async def test_whatever_a_sidecar_says_next_it_waits_until_it_counts() -> None:
    """One that says something else with every poll changes a status as rarely as one that does not."""
    rig = Rig(gather_seconds=0.0)
    rig.registry.publish(KEY, FIRST)
    await rig.poll(0, digest_of(FIRST))
    shown = rig.registry.acknowledgements(KEY)
    for digest in (digest_of(SECOND), "", digest_of(FIRST), digest_of(SECOND)):
        await rig.poll(0, digest)
        await settle()

    assert rig.woken == [KEY]
    assert rig.registry.acknowledgements(KEY) == shown
    await rig.end()


async def test_sidecars_are_looked_at_again_after_a_while() -> None:
    """What they said meanwhile counts then, all at once."""
    rig = Rig(gather_seconds=0.005, show_seconds=0.03)
    rig.registry.publish(KEY, FIRST)
    await rig.poll(0, digest_of(FIRST))
    await rig.poll(1, digest_of(SECOND))
    async with asyncio.timeout(10):
        while len(rig.registry.acknowledgements(KEY)) < 2:  # noqa: ASYNC110 - as above
            await asyncio.sleep(0.005)

    assert rig.woken == [KEY, KEY]
    await rig.end()


async def test_what_a_gateway_says_does_not_wait_for_sidecars() -> None:
    """However many of those say something else all the time."""
    rig = Rig(gather_seconds=0.01)
    rig.registry.publish(KEY, FIRST)
    await rig.poll(0, digest_of(FIRST))
    await rig.poll(0, digest_of(SECOND))
    await rig.poll(7, digest_of(SECOND), sidecar=False)
    async with asyncio.timeout(10):
        while len(rig.woken) < 2:  # noqa: ASYNC110 - as above
            await asyncio.sleep(0.005)

    assert [each.digest for each in rig.registry.acknowledgements(KEY)] == [digest_of(FIRST), digest_of(SECOND)]
    await rig.end()


async def test_sidecars_that_are_silent_about_an_edit_are_looked_at_once_for_it() -> None:
    """When the others have had their time; their next news waits again."""
    rig = Rig(answer_seconds=0.02)
    rig.registry.publish(KEY, FIRST)
    await rig.poll(0, digest_of(FIRST))
    await rig.poll(1, digest_of(FIRST))
    rig.registry.publish(KEY, SECOND)
    await settle()
    await rig.poll(0, digest_of(SECOND))
    async with asyncio.timeout(10):
        while len(rig.woken) < 2:  # noqa: ASYNC110 - as above
            await asyncio.sleep(0.005)
    await rig.poll(1, "")

    assert [each.digest for each in rig.registry.acknowledgements(KEY)] == [digest_of(SECOND), digest_of(FIRST)]
    assert rig.woken == [KEY, KEY]
    await rig.end()


async def test_a_router_that_does_not_say_what_became_of_a_snapshot_is_not_sent_it_again_at_once() -> None:
    """It would be sent as fast as it can be asked for; the next snapshot goes out at once all the same."""
    rig = Rig()
    rig.registry.publish(KEY, FIRST)
    await rig.poll(0, "")
    await rig.poll(0, "")
    await settle()
    waiting = not rig.polls[1].done()
    rig.registry.publish(KEY, SECOND)
    first, second = await asyncio.gather(*rig.polls)

    assert waiting
    assert (first and first.snapshot, second and second.snapshot) == (FIRST, SECOND)
    await rig.end()


async def test_a_router_that_lost_a_snapshot_gets_it_again() -> None:
    """Such as one that was started anew, a moment later."""
    rig = Rig(repeat_seconds=0.01)
    rig.registry.publish(KEY, FIRST)
    await rig.poll(0, "")
    await rig.poll(0, "")
    sent = await asyncio.wait_for(asyncio.gather(*rig.polls), 10)

    assert [each and each.snapshot for each in sent] == [FIRST, FIRST]
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
    rig = Rig(gather_seconds=0.02, absence_seconds=0.01, show_seconds=0.0)
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
