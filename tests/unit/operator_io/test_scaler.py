"""The scaler in virtual time: ticks, wakes, what it remembers, and what must never make it shrink."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace

import pytest

from fakes.clock import VirtualClock, settle
from fakes.scaling import TUNING, FakeEngines, FakeFleet, FakeMetrics, FakeShares, at_rate, key_of
from flotilla_api.names import ASLEEP_ANNOTATION, DELETION_COST_ANNOTATION
from flotilla_operator.acting import RETRY_MAX_SECONDS
from flotilla_operator.ledger import FAILING_TOLD_SECONDS, UNKNOWN_TOLD_SECONDS, Ledger, Scaling
from flotilla_operator.ports import EngineError, NotFoundError, NotLeadingError, RefusedError, UnavailableError
from flotilla_operator.reconcile.types import Key, ObjectRef
from flotilla_operator.scaler import BACKFILL_EVERY_TICKS, OTHERS_EVERY_TICKS, Scaler
from flotilla_operator.scaling.fleet import ExpertSignals, PodSignals, SleepState
from flotilla_operator.scaling.report import ScalingReport
from flotilla_operator.scaling.rivals import PAUSE_SECONDS
from flotilla_operator.scaling.signals import Known, Unknown
from flotilla_operator.scaling.types import Rule
from flotilla_operator.scaling.victims import VICTIM_COST
from flotilla_operator.telemetry import Telemetry

TICK = 15.0
HOUR = 3600.0
QUIET = [0.0] * 240
"""A remembered hour."""


@dataclass
class World:
    """A scaler with all that it looks at."""

    clock: VirtualClock
    fleet: FakeFleet
    metrics: FakeMetrics
    engines: FakeEngines
    telemetry: Telemetry
    scaler: Scaler
    shares: FakeShares
    woken: list[Key] = field(default_factory=list[Key])

    async def tick(self, count: int = 1) -> None:
        """So many ticks pass."""
        await self.clock.advance(count * TICK)

    def report(self, key: Key) -> ScalingReport:
        """What is said of an Expert."""
        found = self.scaler.report(key)
        assert found is not None
        return found

    def sample(self, name: str, **labels: str) -> float | None:
        """A metric's value."""
        return self.telemetry.registry.get_sample_value(name, labels)


@asynccontextmanager
async def a_world(
    *, share: Callable[[Sequence[Ledger]], None] = lambda _: None, leading: bool = True
) -> AsyncGenerator[World]:
    """A scaler that runs, and has ticked for the first time once time has passed."""
    clock, metrics, engines, telemetry = VirtualClock(), FakeMetrics(), FakeEngines(), Telemetry()
    fleet, woken, shares = FakeFleet(clock), list[Key](), FakeShares(share)
    scaler = Scaler(
        fleet,
        engines,
        metrics,
        clock,
        telemetry,
        describe=fleet.describe,
        shares=shares,
        wake=woken.append,
        tuning=TUNING,
    )
    world = World(clock, fleet, metrics, engines, telemetry, scaler, shares, woken)
    running = asyncio.create_task(scaler.run())
    if leading:
        scaler.lead(True)
    try:
        yield world
    finally:
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running


# Ticks


async def test_every_tick_reads_once_for_all_experts() -> None:
    """One reading a signal, whatever the size of the fleet."""
    async with a_world() as world:
        for number in range(20):
            world.metrics.measure(world.fleet.add(f"e{number}", 1), at_rate(0.5))

        await world.tick(3)

        assert world.metrics.reads == 4


async def test_an_expert_grows_at_once_to_what_demand_asks_for() -> None:
    """The first tick that sees the demand writes the number."""
    async with a_world() as world:
        invoice = world.fleet.add("invoice", 1)
        await world.tick()

        world.metrics.measure(invoice, at_rate(3.5))
        await world.tick()

        assert world.fleet.writes == [("invoice", 4)]
        record = world.report(invoice).records[-1]
        assert (record.before, record.after, record.rule) == (1, 4, Rule.ECONOMICS)
        assert record.at == world.clock.now().timestamp()
        assert any(each.name == "arrivals" and each.value == 3.5 for each in record.inputs)


async def test_nothing_is_written_while_the_number_is_right() -> None:
    """At rest the scaler is silent: no write, and nobody is woken."""
    async with a_world() as world:
        world.metrics.measure(world.fleet.add("invoice", 1), at_rate(0.5))
        await world.tick(2)
        world.woken.clear()

        await world.tick(100)

        assert not world.fleet.writes
        assert not world.fleet.annotated
        assert not world.woken


async def test_without_the_lease_nothing_is_read_or_written() -> None:
    """A standby's scaler waits, and its wakes are the leader's business."""
    async with a_world(leading=False) as world:
        invoice = world.fleet.add("invoice", 0)
        world.metrics.measure(invoice, at_rate(3.5))

        world.scaler.woken(invoice)
        await world.tick(4)

        assert world.metrics.reads == 0
        assert not world.fleet.writes


@pytest.mark.parametrize("mode", ["Recommend", "Off"])
async def test_other_modes_never_change_the_number(mode: str) -> None:
    """Recommend says what would be right; Off says nothing."""
    async with a_world() as world:
        invoice = world.fleet.add("invoice", 1)
        target = world.fleet.scalings[invoice].target if mode == "Recommend" else None
        world.fleet.scalings[invoice] = Scaling(acts=False, target=target)
        world.metrics.measure(invoice, at_rate(3.5))

        await world.tick(4)

        assert not world.fleet.writes
        report = world.scaler.report(invoice)
        assert (report.recommended if report else None) == (4 if mode == "Recommend" else None)
        assert report is None or not report.records


@pytest.mark.parametrize("acts", [True, False])
async def test_a_number_that_only_the_reconciler_owns_is_taken_over_as_it_is(acts: bool) -> None:
    """Once, whatever the mode: then the reconciler may leave the number out, and nothing dips."""
    async with a_world() as world:
        invoice = world.fleet.add("invoice", 3, owned=False)
        world.fleet.scalings[invoice] = replace(world.fleet.scalings[invoice], acts=acts)

        await world.tick(4)

        assert world.fleet.writes == [("invoice", 3)]
        assert not world.report(invoice).records


async def test_an_expert_whose_spec_cannot_be_read_is_left_alone() -> None:
    """And what is true of the others still is."""
    async with a_world() as world:
        broken, invoice = world.fleet.add("broken", 2), world.fleet.add("invoice", 1)
        del world.fleet.scalings[broken]
        for key in (broken, invoice):
            world.metrics.measure(key, at_rate(3.5))

        await world.tick(2)

        assert world.fleet.writes == [("invoice", 4)]
        assert world.scaler.report(broken) is None


async def test_a_defect_that_one_expert_provokes_does_not_stop_the_others(caplog: pytest.LogCaptureFixture) -> None:
    """It is logged with its traceback and counted, and its number stays."""
    async with a_world() as world:
        broken, invoice = world.fleet.add("broken", 2), world.fleet.add("invoice", 1)
        world.metrics.measure(invoice, at_rate(3.5))
        world.fleet.aim(broken, slots="many")
        world.metrics.measure(broken, at_rate(3.5))

        with caplog.at_level(logging.ERROR, "flotilla"):
            await world.tick()

        assert world.fleet.writes == [("invoice", 4)]
        assert (world.sample("flotilla_scaler_crashes_total") or 0) > 0
        assert any(record.exc_info for record in caplog.records)


async def test_a_sharing_that_fails_leaves_each_expert_its_own_number() -> None:
    """A defect there must not stop the fleet."""

    def fail(_: Sequence[Ledger]) -> None:
        raise ZeroDivisionError

    async with a_world(share=fail) as world:
        world.metrics.measure(world.fleet.add("invoice", 1), at_rate(3.5))
        await world.tick()

        assert world.fleet.writes == [("invoice", 4)]


async def test_what_sharing_gives_is_what_is_asked_for() -> None:
    """And the report says why it is less."""

    def share(ledgers: Sequence[Ledger]) -> None:
        for ledger in ledgers:
            ledger.wanted, ledger.limited, ledger.shadow_usd_per_hour = 2, "the pool has 2 GPUs", 1.25

    async with a_world(share=share) as world:
        invoice = world.fleet.add("invoice", 1)
        world.metrics.measure(invoice, at_rate(3.5))
        await world.tick()

        report = world.report(invoice)
        assert world.fleet.writes == [("invoice", 2)]
        assert (report.recommended, report.rule, report.message) == (2, Rule.ACCELERATORS, "the pool has 2 GPUs")
        assert report.records[-1].rule is Rule.ACCELERATORS
        assert world.sample("flotilla_scaler_shadow_price_usd_per_hour", namespace="agents", expert="invoice") == 1.25


async def test_only_experts_that_are_acted_on_share() -> None:
    """A recommendation takes no accelerator from anybody."""
    async with a_world() as world:
        world.fleet.add("invoice", 1)
        advised = world.fleet.add("advised", 1)
        world.fleet.scalings[advised] = replace(world.fleet.scalings[advised], acts=False)

        await world.tick()

        assert set(world.shares.shared) == {1}


# What is measured fails


async def test_a_slow_source_piles_up_no_readings() -> None:
    """A tick that waits is one tick; after a while it goes on without an answer, and nothing shrinks."""
    async with a_world() as world:
        invoice = world.fleet.add("invoice", 4)
        world.metrics.measure(invoice, at_rate(0.0))
        world.metrics.hold = asyncio.Event()

        await world.clock.advance(TUNING.tick_seconds - 2)
        assert world.metrics.reads == 1
        await world.clock.advance(HOUR)

        assert world.metrics.reads <= HOUR / TICK + 2
        assert not world.fleet.writes
        assert "said nothing" in world.report(invoice).unknown


async def test_a_source_that_breaks_its_promise_stops_nothing() -> None:
    """It may not raise; should it, the next tick comes all the same."""
    async with a_world() as world:
        invoice = world.fleet.add("invoice", 1)
        world.metrics.measure(invoice, at_rate(3.5))
        world.metrics.error = RuntimeError("a defect")
        await world.tick(3)
        world.metrics.error = None

        await world.tick()

        assert world.fleet.writes == [("invoice", 4)]


async def test_unknown_demand_never_shrinks() -> None:
    """However long it lasts."""
    async with a_world() as world:
        invoice = world.fleet.add("invoice", 4)
        world.metrics.remember(invoice, world.clock.now().timestamp(), QUIET)
        world.metrics.measure(invoice, ExpertSignals(arrivals=Unknown("Prometheus does not answer")))

        await world.tick(300)

        assert not world.fleet.writes
        assert world.report(invoice).unknown == "Prometheus does not answer"


async def test_a_new_expert_is_undecided_until_its_demand_can_be_known() -> None:
    """Rates take two scrapes: before, nobody has a reason to complain."""
    async with a_world() as world:
        invoice = world.fleet.add("invoice", 1)
        world.metrics.measure(invoice, ExpertSignals(arrivals=Unknown("scraped once")))
        await world.clock.advance(UNKNOWN_TOLD_SECONDS - 1)
        assert world.scaler.report(invoice) is None
        assert world.scaler.recommend(invoice) is None

        world.metrics.measure(invoice, at_rate(0.5))
        await world.tick()

        assert not world.report(invoice).unknown
        assert world.report(invoice).rule is not Rule.METRICS_UNKNOWN


async def test_demand_that_never_becomes_known_is_told_of() -> None:
    """After a minute it is more than a beginning."""
    async with a_world() as world:
        invoice = world.fleet.add("invoice", 1)
        world.metrics.measure(invoice, ExpertSignals(arrivals=Unknown("no router is scraped")))

        await world.clock.advance(UNKNOWN_TOLD_SECONDS)

        assert world.report(invoice).unknown == "no router is scraped"
        assert world.woken[-1] == invoice


async def test_demand_that_is_unknown_for_a_moment_is_no_news() -> None:
    """One answer of Prometheus that is late is made up for by the next; many are told of."""
    async with a_world() as world:
        invoice = world.fleet.add("invoice", 1)
        world.metrics.measure(invoice, at_rate(0.5))
        await world.tick(2)

        for _ in range(3):
            world.metrics.measure(invoice, ExpertSignals(arrivals=Unknown("no answer")))
            await world.tick(4)
            assert not world.report(invoice).unknown
            world.metrics.measure(invoice, at_rate(0.5))
            await world.tick()
        world.metrics.measure(invoice, ExpertSignals(arrivals=Unknown("no answer")))
        await world.tick(5)

        assert world.report(invoice).unknown == "no answer"


async def test_what_is_written_of_a_new_expert_is_told_of_whatever_is_measured() -> None:
    """A request woke it before its demand was known."""
    async with a_world() as world:
        invoice = world.fleet.add("invoice", 0)
        world.metrics.measure(invoice, ExpertSignals(arrivals=Unknown("scraped once")))
        await world.clock.advance(1)

        world.scaler.woken(invoice)
        await settle()

        assert [record.rule for record in world.report(invoice).records] == [Rule.WOKEN]


@pytest.mark.parametrize("seconds", [-86400.0, 86400.0])
async def test_a_clock_that_jumps_shrinks_nothing(seconds: float) -> None:
    """Ages and delays are counted by a clock that only grows."""
    async with a_world() as world:
        busy = world.fleet.add("busy", 4)
        idle = world.fleet.add("idle", 2)
        world.fleet.add_pod(busy, "9", ready=False, age_seconds=5.0)
        world.metrics.measure(busy, at_rate(3.5))
        world.metrics.measure(idle, at_rate(0.0))
        await world.tick(2)

        world.clock.jump(seconds)
        await world.tick(8)

        assert not world.fleet.writes
        assert not world.report(busy).notes


@pytest.mark.parametrize("seconds", [-86400.0, 86400.0])
async def test_a_pod_that_is_made_after_a_clock_jumped_is_young(seconds: float) -> None:
    """Growth goes on: it has not been starting for a day."""
    async with a_world() as world:
        busy = world.fleet.add("busy", 2)
        world.metrics.measure(busy, at_rate(1.5))
        await world.tick(2)

        world.clock.jump(seconds)
        world.fleet.add_pod(busy, "9", ready=False, age_seconds=seconds)
        world.metrics.measure(busy, at_rate(3.5))
        await world.tick()

        assert world.fleet.writes == [("busy", 4)]
        assert not world.report(busy).notes


async def test_an_expert_that_seems_to_come_from_the_future_has_a_past() -> None:
    """A new leader's clock is behind: an hour has to be known before anything shrinks, as of any Expert."""
    async with a_world() as world:
        invoice = world.fleet.add("invoice", 4, minimum=1)
        world.clock.jump(-1000 * 86400.0)
        world.metrics.measure(invoice, at_rate(0.5))

        await world.clock.advance(HOUR / 2)

        assert not world.fleet.writes


# Wakes


async def test_a_wake_does_not_wait_for_the_tick() -> None:
    """The first replica is asked for in the same moment."""
    async with a_world() as world:
        invoice = world.fleet.add("invoice", 0)
        world.metrics.measure(invoice, at_rate(0.0))
        await world.clock.advance(1)

        world.scaler.woken(invoice)
        await settle()

        assert world.fleet.writes == [("invoice", 1)]
        assert world.report(invoice).records[-1].rule is Rule.WOKEN


async def test_after_a_wake_the_next_tick_sees_what_came_with_it() -> None:
    """Growth from zero does not stop at the first replica for a tick longer, however late in a tick the wake was."""
    async with a_world() as world:
        invoice = world.fleet.add("invoice", 0)
        world.metrics.measure(invoice, at_rate(0.0))
        await world.clock.advance(TICK + 8)
        world.scaler.woken(invoice)
        await settle()

        world.metrics.measure(invoice, at_rate(3.5))
        await world.clock.advance(TICK - 8)

        assert world.fleet.writes == [("invoice", 1), ("invoice", 4)]


async def test_a_request_that_waits_gets_a_replica_whatever_it_costs() -> None:
    """Dollars stop only requests that a fallback answers, and one of those in the same moment hides nothing."""
    async with a_world() as world:
        invoice = world.fleet.add("invoice", 0, loss_usd=0.01)
        world.metrics.measure(invoice, at_rate(0.001))
        world.metrics.remember(invoice, world.clock.now().timestamp(), [0.001] * 240)
        await world.tick(2)

        world.scaler.woken(invoice)
        await settle()
        assert world.fleet.writes == []
        world.scaler.woken(invoice, waits=True)
        world.scaler.woken(invoice)
        await settle()

        assert world.fleet.writes == [("invoice", 1)]


async def test_many_wakes_are_one_write() -> None:
    """Every router of the fleet asks, every second."""
    async with a_world() as world:
        invoice = world.fleet.add("invoice", 0)
        await world.clock.advance(1)

        for _ in range(200):
            world.scaler.woken(invoice)
        await settle()
        for _ in range(10):
            world.scaler.woken(invoice)
            await world.clock.advance(1)

        assert world.fleet.writes == [("invoice", 1)]


async def test_a_wake_is_answered_while_the_source_hangs() -> None:
    """Who waits for a replica cannot wait for Prometheus."""
    async with a_world() as world:
        invoice = world.fleet.add("invoice", 0)
        world.metrics.hold = asyncio.Event()
        await world.clock.advance(1)

        world.scaler.woken(invoice)
        await settle()

        assert world.fleet.writes == [("invoice", 1)]


async def test_a_wake_is_answered_while_another_experts_write_hangs() -> None:
    """Each waits only for itself."""
    async with a_world() as world:
        slow, invoice = world.fleet.add("slow", 1), world.fleet.add("invoice", 0)
        await world.clock.advance(1)
        world.fleet.hold = asyncio.Event()
        world.metrics.measure(slow, at_rate(3.5))
        await world.tick()
        world.fleet.hold = None

        world.scaler.woken(invoice)
        await settle()

        assert world.fleet.writes == [("invoice", 1)]


async def test_a_wake_for_nothing_that_is_scaled_is_dropped() -> None:
    """Whoever asks cannot make the scaler remember names."""
    async with a_world() as world:
        await world.clock.advance(1)

        world.scaler.woken(key_of("nobody"))
        world.scaler.woken(Key("RoutingPolicy", "agents", "router"))
        await settle()

        assert world.scaler.report(key_of("nobody")) is None
        assert not world.woken


async def test_a_woken_expert_stays_for_a_while() -> None:
    """The tick that still measures nothing does not take back what the wake gave."""
    async with a_world() as world:
        invoice = world.fleet.add("invoice", 0, idle_after_seconds=300.0)
        world.metrics.measure(invoice, at_rate(0.0))
        world.metrics.remember(invoice, world.clock.now().timestamp(), QUIET)
        await world.clock.advance(1)
        world.scaler.woken(invoice)

        await world.clock.advance(290)
        assert world.fleet.writes == [("invoice", 1)]
        await world.clock.advance(30)

        assert world.fleet.writes == [("invoice", 1), ("invoice", 0)]


# Memory


async def test_nothing_shrinks_before_the_last_hour_is_known() -> None:
    """A new leader that knows five quiet minutes knows nothing of the hour before."""
    async with a_world() as world:
        invoice = world.fleet.add("invoice", 4, minimum=1)
        world.metrics.measure(invoice, at_rate(0.5))

        await world.clock.advance(HOUR / 2)

        assert not world.fleet.writes
        assert world.report(invoice).rule is Rule.HISTORY_MISSING
        assert world.metrics.histories == pytest.approx(HOUR / 2 / (BACKFILL_EVERY_TICKS * TUNING.tick_seconds), abs=2)


async def test_who_has_watched_for_an_hour_needs_no_other_memory() -> None:
    """Without a Prometheus nobody else remembers."""
    async with a_world() as world:
        invoice = world.fleet.add("invoice", 4, minimum=1)
        world.metrics.measure(invoice, at_rate(0.5))

        await world.clock.advance(HOUR + 400)

        assert world.fleet.writes[0] == ("invoice", 2)


async def test_who_has_known_an_expert_from_its_beginning_needs_no_other_memory() -> None:
    """Nothing of its life is missing."""
    async with a_world() as world:
        await world.tick(10)
        invoice = world.fleet.add("invoice", 4, minimum=1)
        born = f"{world.clock.now():%Y-%m-%dT%H:%M:%SZ}"
        expert = world.fleet.stored[invoice].expert
        metadata = {**expert["metadata"], "creationTimestamp": born}
        world.fleet.change(invoice, expert={**expert, "metadata": metadata})
        world.metrics.measure(invoice, at_rate(0.5))

        await world.clock.advance(400)

        assert world.fleet.writes[0] == ("invoice", 2)


async def test_a_new_leader_learns_the_last_hour_from_what_others_remember() -> None:
    """Demand of half an hour ago still keeps replicas that a quiet minute would not."""
    async with a_world(leading=False) as world:
        steady, bursty = world.fleet.add("steady", 4, minimum=1), world.fleet.add("bursty", 4, minimum=1)
        for key in (steady, bursty):
            world.metrics.measure(key, at_rate(0.5))
        now = world.clock.now().timestamp()
        world.metrics.remember(steady, now, [0.5] * 240)
        world.metrics.remember(bursty, now, [3.3] * 120 + [0.5] * 120)

        world.scaler.lead(True)
        await world.clock.advance(400)

        assert world.fleet.writes[0] == ("steady", 2)
        assert ("bursty", 2) not in world.fleet.writes
        assert world.metrics.histories == 1


async def test_an_hour_of_which_little_is_remembered_is_not_known() -> None:
    """A Prometheus that was restarted a moment ago answers, and knows nothing."""
    async with a_world(leading=False) as world:
        invoice = world.fleet.add("invoice", 4, minimum=1)
        world.metrics.measure(invoice, at_rate(0.5))
        world.metrics.remember(invoice, world.clock.now().timestamp(), [0.5, *[None] * 200, *[0.5] * 39])

        world.scaler.lead(True)
        await world.clock.advance(600)
        assert not world.fleet.writes
        await world.clock.advance(HOUR - 600)

        assert world.fleet.writes[0] == ("invoice", 2)


async def test_an_hour_that_others_remember_in_part_is_not_known_at_the_second_look_either() -> None:
    """What was counted at its beginning and what is seen now, with nothing between."""
    async with a_world(leading=False) as world:
        invoice = world.fleet.add("invoice", 4, minimum=1)
        world.metrics.measure(invoice, at_rate(0.5))
        world.metrics.remember(invoice, world.clock.now().timestamp(), [*[5.0] * 10, *[None] * 230])

        world.scaler.lead(True)
        await world.clock.advance(1800)

        assert not [number for _, number in world.fleet.writes if number < 4]
        assert world.metrics.histories > 2


async def test_a_gap_is_filled_with_what_others_remember() -> None:
    """The operator could not read for half an hour, but somebody measured: a burst in it keeps replicas."""
    async with a_world(leading=False) as world:
        steady, bursty = world.fleet.add("steady", 4, minimum=1), world.fleet.add("bursty", 4, minimum=1)
        for key in (steady, bursty):
            world.metrics.measure(key, at_rate(0.5))
            world.metrics.remember(key, world.clock.now().timestamp(), [0.5] * 240)
        world.scaler.lead(True)
        await world.tick(4)
        for key in (steady, bursty):
            world.metrics.measure(key, ExpertSignals(arrivals=Unknown("down")))
        await world.clock.advance(HOUR / 2)
        assert not world.fleet.writes

        now = world.clock.now().timestamp()
        world.metrics.remember(steady, now, [0.5] * 240)
        world.metrics.remember(bursty, now, [*[0.5] * 120, *[3.3] * 120])
        for key in (steady, bursty):
            world.metrics.measure(key, at_rate(0.5))
        await world.clock.advance(400)

        assert world.fleet.writes[0] == ("steady", 2)
        assert ("bursty", 2) not in world.fleet.writes


async def test_an_idle_time_that_others_remember_counts() -> None:
    """A restart of the operator does not keep an Expert up for another quarter of an hour."""
    async with a_world(leading=False) as world:
        idle, used = world.fleet.add("idle", 1), world.fleet.add("used", 1)
        for key in (idle, used):
            world.metrics.measure(key, at_rate(0.0))
        now = world.clock.now().timestamp()
        world.metrics.remember(idle, now, [*[0.8] * 170, *[0.0] * 70])
        world.metrics.remember(used, now, [*[0.0] * 230, 0.8, *[0.0] * 9])

        world.scaler.lead(True)
        await world.tick(2)

        assert world.fleet.writes == [("idle", 0)]


async def test_a_gap_in_what_others_remember_ends_the_idle_time() -> None:
    """Nobody counted then, so nothing is known of it."""
    async with a_world(leading=False) as world:
        idle = world.fleet.add("idle", 1)
        world.metrics.measure(idle, at_rate(0.0))
        world.metrics.remember(idle, world.clock.now().timestamp(), [*[0.0] * 200, *[None] * 10, *[0.0] * 30])

        world.scaler.lead(True)
        await world.tick(2)

        assert not world.fleet.writes


async def test_slot_seconds_that_others_remember_are_learned() -> None:
    """Capacity does not begin from a guess again."""
    async with a_world() as world:
        invoice = world.fleet.add("invoice", 1)
        world.metrics.measure(invoice, at_rate(1.6))
        world.metrics.remember(invoice, world.clock.now().timestamp(), [], Known(3.5))

        await world.tick()

        assert not world.fleet.writes


async def test_what_was_learned_under_an_earlier_lease_is_forgotten() -> None:
    """Meanwhile somebody else decided, and time passed of which nothing is known here."""
    async with a_world() as world:
        invoice = world.fleet.add("invoice", 4, minimum=1)
        world.metrics.measure(invoice, at_rate(0.5))
        await world.clock.advance(HOUR)

        world.scaler.lead(False)
        assert world.scaler.report(invoice) is None
        assert world.sample("flotilla_scaler_desired_replicas", namespace="agents", expert="invoice") is None
        world.fleet.change(invoice, replicas=4)
        world.fleet.writes.clear()
        world.scaler.lead(True)
        await world.clock.advance(600)

        assert not world.fleet.writes


async def test_an_expert_that_is_gone_is_forgotten() -> None:
    """Memory and metrics do not grow with Experts that come and go; one of the same name is another."""
    async with a_world() as world:
        invoice = world.fleet.add("invoice", 2)
        world.metrics.measure(invoice, at_rate(1.5))
        await world.tick()
        labels = {"namespace": "agents", "expert": "invoice"}
        assert world.sample("flotilla_scaler_desired_replicas", **labels) == 2
        assert world.sample("flotilla_scaler_bound_rule", **labels, rule="Economics") == 1

        del world.fleet.stored[invoice]
        await world.tick()

        assert world.scaler.report(invoice) is None
        assert world.sample("flotilla_scaler_desired_replicas", **labels) is None
        assert world.sample("flotilla_scaler_bound_rule", **labels, rule="Economics") is None


async def test_metrics_tell_what_is_wanted_there_and_right() -> None:
    """Also where nothing is written."""
    async with a_world() as world:
        invoice = world.fleet.add("invoice", 2)
        world.fleet.scalings[invoice] = replace(world.fleet.scalings[invoice], acts=False)
        world.fleet.add_pod(invoice, "9", ready=False, age_seconds=1.0)
        world.metrics.measure(invoice, at_rate(3.5))
        world.metrics.problems = ("a pod is scraped twice",)

        await world.tick()

        labels = {"namespace": "agents", "expert": "invoice"}
        assert world.sample("flotilla_scaler_desired_replicas", **labels) == 2
        assert world.sample("flotilla_scaler_actual_replicas", **labels) == 2
        assert world.sample("flotilla_scaler_recommended_replicas", **labels) == 4
        assert world.sample("flotilla_scaler_signal_problems") == 1
        assert world.sample("flotilla_scaler_decisions_total", rule="Economics") == 2
        assert (world.sample("flotilla_scaler_tick_duration_seconds_count") or 0) >= 1


async def test_the_reconciler_hears_of_changes_and_of_nothing_else() -> None:
    """A message whose numbers move with every tick is no news."""
    async with a_world() as world:
        invoice = world.fleet.add("invoice", 2)
        world.metrics.measure(invoice, at_rate(1.5))
        await world.tick()
        world.woken.clear()

        world.metrics.measure(invoice, at_rate(1.6))
        await world.tick()
        assert not world.woken
        world.metrics.measure(invoice, at_rate(3.5))
        await world.tick()

        assert world.woken == [invoice]


# Others who scale


async def test_another_autoscaler_on_the_deployment_makes_the_scaler_step_back() -> None:
    """It is named, and nothing is written; it is looked for once a minute."""
    async with a_world() as world:
        invoice = world.fleet.add("invoice", 1)
        world.fleet.others[ObjectRef("Deployment", "agents", "invoice-expert")] = "HorizontalPodAutoscaler agents/mine"
        world.metrics.measure(invoice, at_rate(3.5))

        await world.clock.advance(OTHERS_EVERY_TICKS * TUNING.tick_seconds - 1)
        assert world.fleet.looks_for_others == 1
        await world.tick(4)

        assert not world.fleet.writes
        assert world.report(invoice).other_scaler == "HorizontalPodAutoscaler agents/mine"
        assert world.report(invoice).recommended == 4


async def test_the_scaler_comes_back_when_the_other_is_gone() -> None:
    """At the next look."""
    async with a_world() as world:
        invoice = world.fleet.add("invoice", 1)
        world.fleet.others[ObjectRef("Deployment", "agents", "invoice-expert")] = "HorizontalPodAutoscaler agents/mine"
        world.metrics.measure(invoice, at_rate(3.5))
        await world.tick()

        world.fleet.others.clear()
        await world.clock.advance(OTHERS_EVERY_TICKS * TUNING.tick_seconds)

        assert world.fleet.writes == [("invoice", 4)]


async def test_autoscalers_that_cannot_be_listed_are_no_reason_to_stop(caplog: pytest.LogCaptureFixture) -> None:
    """A right that is missing is told of, and what was found last still holds."""
    async with a_world() as world:
        invoice = world.fleet.add("invoice", 1)
        world.fleet.others_error = UnavailableError(403, "Forbidden", "no right")
        world.metrics.measure(invoice, at_rate(3.5))

        await world.tick()

        assert world.fleet.writes == [("invoice", 4)]
        assert "other autoscalers cannot be looked for" in caplog.text


@pytest.mark.parametrize("waits_for", ["metrics", "others"])
async def test_a_wake_waits_until_other_autoscalers_are_known(waits_for: str) -> None:
    """A new leader that has not looked yet would write over them; what else it does not know yet matters less."""
    async with a_world(leading=False) as world:
        invoice = world.fleet.add("invoice", 0)
        world.fleet.others[ObjectRef("Deployment", "agents", "invoice-expert")] = "HorizontalPodAutoscaler agents/mine"
        hold = asyncio.Event()
        world.metrics.hold, world.fleet.others_hold = (hold, None) if waits_for == "metrics" else (None, hold)

        world.scaler.lead(True)
        await settle()
        world.scaler.woken(invoice)
        await settle()
        hold.set()
        await world.tick()

        assert not world.fleet.writes
        assert world.report(invoice).other_scaler


async def test_a_wake_does_not_wait_for_ever() -> None:
    """Whoever lists no autoscalers in time has had a chance; who else scales shows when the number changes."""
    async with a_world() as world:
        invoice = world.fleet.add("invoice", 0)
        world.fleet.others_hold = asyncio.Event()
        world.scaler.woken(invoice)

        await world.clock.advance(TUNING.tick_seconds)

        assert world.fleet.writes == [("invoice", 1)]


async def test_a_first_look_for_other_autoscalers_that_fails_is_repeated_at_the_next_tick() -> None:
    """An API server that was busy for a moment hides nobody for a minute."""
    async with a_world() as world:
        invoice = world.fleet.add("invoice", 1)
        world.metrics.measure(invoice, at_rate(0.5))
        world.fleet.others[ObjectRef("Deployment", "agents", "invoice-expert")] = "HorizontalPodAutoscaler agents/mine"
        world.fleet.others_error = UnavailableError(503, "ServiceUnavailable", "etcd is slow")
        await world.clock.advance(1)

        world.fleet.others_error = None
        await world.tick()

        assert world.report(invoice).other_scaler


async def test_somebody_who_sets_the_number_again_and_again_is_let() -> None:
    """Two changes within minutes: the scaler steps back, says who, and comes back once nobody has changed it."""
    async with a_world() as world:
        invoice = world.fleet.add("invoice", 2)
        world.metrics.measure(invoice, at_rate(1.5))
        world.metrics.remember(invoice, world.clock.now().timestamp(), [1.5] * 240)
        await world.tick()
        for number in (1, 1):
            world.fleet.change(invoice, replicas=number, last_writer="kubectl-scale")
            await world.tick()

        assert world.fleet.writes == [("invoice", 2)]
        assert world.report(invoice).other_scaler == "the field manager kubectl-scale"
        await world.clock.advance(PAUSE_SECONDS + TICK)

        assert world.fleet.writes == [("invoice", 2), ("invoice", 2)]
        assert not world.report(invoice).other_scaler


async def test_the_scalers_own_write_is_no_rivals_while_its_answer_is_awaited() -> None:
    """The number is in the store before the API server has answered, and a wake looks at it then."""
    async with a_world() as world:
        invoice = world.fleet.add("invoice", 1)
        await world.tick()
        for rate in (1.5, 2.5, 3.5):
            world.metrics.measure(invoice, at_rate(rate))
            world.fleet.answer_hold = asyncio.Event()
            await world.tick()
            world.scaler.woken(invoice)
            await settle()
            world.fleet.answer_hold.set()
            await world.tick()

        assert world.fleet.writes == [("invoice", 2), ("invoice", 3), ("invoice", 4)]
        assert not world.report(invoice).other_scaler


async def test_a_rivals_change_during_a_write_counts_once() -> None:
    """It is one change, however often it is looked at."""
    async with a_world() as world:
        invoice = world.fleet.add("invoice", 1)
        await world.tick()
        world.metrics.measure(invoice, at_rate(3.5))
        world.fleet.answer_hold = asyncio.Event()
        await world.tick()
        world.fleet.change(invoice, replicas=7, last_writer="kubectl-scale")
        world.scaler.woken(invoice)
        await settle()

        world.fleet.answer_hold.set()
        world.fleet.answer_hold = None
        await world.tick(2)

        assert not world.report(invoice).other_scaler


async def test_the_scalers_own_write_is_no_rivals_when_its_answer_is_lost() -> None:
    """An API server that is slow carries out what it does not answer any more."""
    async with a_world() as world:
        invoice = world.fleet.add("invoice", 1)
        await world.tick()
        world.fleet.answer_error = UnavailableError(504, "Timeout", "too slow")
        for rate in (1.5, 2.5, 3.5):
            world.metrics.measure(invoice, at_rate(rate))
            await world.tick(2)

        assert world.fleet.writes == [("invoice", 2), ("invoice", 3), ("invoice", 4)]
        assert not world.report(invoice).other_scaler


async def test_what_another_autoscaler_did_is_no_reason_to_stay_away_when_it_is_gone() -> None:
    """It set the number again and again, as it should."""
    async with a_world() as world:
        invoice = world.fleet.add("invoice", 1)
        world.fleet.others[ObjectRef("Deployment", "agents", "invoice-expert")] = "HorizontalPodAutoscaler agents/mine"
        world.metrics.measure(invoice, at_rate(3.5))
        for number in (2, 3, 2):
            await world.tick()
            world.fleet.change(invoice, replicas=number, last_writer="kube-controller-manager")

        world.fleet.others.clear()
        await world.clock.advance(OTHERS_EVERY_TICKS * TUNING.tick_seconds)

        assert world.fleet.writes == [("invoice", 4)]


async def test_whoever_sets_a_recommended_number_is_no_rival(caplog: pytest.LogCaptureFixture) -> None:
    """It is theirs to set; and what is recommended is logged when it changes, not at every tick."""
    async with a_world() as world:
        invoice = world.fleet.add("invoice", 1)
        world.fleet.scalings[invoice] = replace(world.fleet.scalings[invoice], acts=False)
        world.metrics.measure(invoice, at_rate(3.5))
        with caplog.at_level(logging.INFO, "flotilla"):
            for number in (2, 3, 2):
                await world.tick()
                world.fleet.change(invoice, replicas=number, last_writer="kubectl-scale")
            await world.tick()
        assert not world.report(invoice).other_scaler
        assert [record.message for record in caplog.records].count("recommended") == 1

        world.fleet.scalings[invoice] = replace(world.fleet.scalings[invoice], acts=True)
        await world.tick()

        assert world.fleet.writes == [("invoice", 4)]


async def test_writes_that_were_begun_end_before_the_lease_is_given_up() -> None:
    """And none is begun any more: the next holder may write at once."""
    async with a_world() as world:
        world.fleet.hold = asyncio.Event()
        for number in range(20):
            world.metrics.measure(world.fleet.add(f"e{number}", 1, owned=False), at_rate(3.5))
        await world.clock.advance(1)

        draining = asyncio.create_task(world.scaler.drain(60))
        await settle()
        assert not draining.done()
        world.fleet.hold.set()
        await draining
        begun = len(world.fleet.writes)
        await world.tick(4)

        assert 0 < begun == len(world.fleet.writes) < 20


@pytest.mark.parametrize("waits_for", ["metrics", "write"])
async def test_a_tick_that_the_leases_loss_meets_ends_there(waits_for: str) -> None:
    """A standby says nothing of what it would have decided: whoever holds the Lease says it."""
    async with a_world() as world:
        invoice = world.fleet.add("invoice", 1)
        await world.tick()
        world.metrics.measure(invoice, at_rate(3.5))
        hold = asyncio.Event()
        world.metrics.hold, world.fleet.hold = (hold, None) if waits_for == "metrics" else (None, hold)
        await world.tick()

        world.scaler.lead(False)
        hold.set()
        await world.tick(4)

        assert world.scaler.report(invoice) is None
        assert world.sample("flotilla_scaler_desired_replicas", namespace="agents", expert="invoice") is None
        assert world.fleet.writes == ([("invoice", 4)] if waits_for == "write" else [])


async def test_the_lease_may_come_back_before_a_tick_has_ended() -> None:
    """The tick of the earlier one is over, and another begins at once."""
    async with a_world() as world:
        invoice = world.fleet.add("invoice", 1)
        world.metrics.measure(invoice, at_rate(3.5))
        world.metrics.hold = asyncio.Event()
        await world.tick()
        reads, world.metrics.hold = world.metrics.reads, None

        world.scaler.lead(False)
        world.scaler.lead(True)
        await settle()

        assert world.metrics.reads == reads + 1
        assert world.fleet.writes == [("invoice", 4)]
        await world.tick()
        assert world.metrics.reads == reads + 2


# Writes fail


async def test_a_write_that_fails_is_tried_again_and_told_of_after_a_while() -> None:
    """More and more seldom; nothing is lost meanwhile."""
    async with a_world() as world:
        invoice = world.fleet.add("invoice", 1)
        await world.clock.advance(1)
        world.fleet.error = UnavailableError(503, "ServiceUnavailable", "etcd is slow")
        world.metrics.measure(invoice, at_rate(3.5))

        await world.tick()
        assert not world.report(invoice).failure
        await world.clock.advance(FAILING_TOLD_SECONDS)
        assert "etcd is slow" in world.report(invoice).failure
        world.fleet.error = None
        await world.clock.advance(300)

        assert world.fleet.writes == [("invoice", 4)]
        assert not world.report(invoice).failure


async def test_a_write_that_never_succeeds_is_tried_more_and_more_seldom() -> None:
    """The API server has others to serve."""
    async with a_world() as world:
        invoice = world.fleet.add("invoice", 1)
        world.fleet.error = RefusedError(403, "Forbidden", "no right")
        world.metrics.measure(invoice, at_rate(3.5))

        await world.clock.advance(HOUR)

        assert world.fleet.attempts == pytest.approx(HOUR / RETRY_MAX_SECONDS + 7, abs=3)


async def test_a_write_without_the_lease_ends_without_a_word() -> None:
    """Whoever holds it decides anew."""
    async with a_world() as world:
        invoice = world.fleet.add("invoice", 1)
        world.fleet.error = NotLeadingError()
        world.metrics.measure(invoice, at_rate(3.5))

        await world.clock.advance(4 * FAILING_TOLD_SECONDS)

        assert not world.report(invoice).failure
        assert not world.report(invoice).records


# Sleep

SLEEP_AFTER = 120.0
SLEEPER = "10.0.0.0:8000"


def a_sleeper(world: World) -> Key:
    """An Expert with one replica that sleeps after two quiet minutes and goes after ten, and that nobody asks for."""
    key = world.fleet.add("invoice", 1, idle_after_seconds=600.0)
    world.fleet.scalings[key] = replace(world.fleet.scalings[key], sleep_after_seconds=SLEEP_AFTER)
    world.metrics.measure(key, quiet())
    return key


def quiet(running: float = 0.0, sleep: SleepState | None = None, *, age: float = 0.0) -> ExpertSignals:
    """Nobody asks; the engine still does so much, or did `age` seconds ago."""
    pod = PodSignals("invoice-0", running=Known(running, age), waiting=Known(0.0, age), sleep=sleep)
    return replace(at_rate(0.0), pods=(pod,))


async def test_an_engine_leaves_the_routes_before_it_sleeps() -> None:
    """First the mark, a tick later the sleep: no request is on its way to it by then."""
    async with a_world() as world:
        invoice = a_sleeper(world)

        await world.clock.advance(SLEEP_AFTER)
        assert world.fleet.annotated == [("invoice-0", {ASLEEP_ANNOTATION: "true"})]
        assert not world.engines.calls
        await world.tick(2)

        assert world.engines.asleep == {SLEEPER}
        assert world.report(invoice).asleep == 1
        assert not world.fleet.writes


async def test_an_engine_that_sleeps_is_not_disturbed() -> None:
    """One call, and no write, as long as it lasts."""
    async with a_world() as world:
        invoice = a_sleeper(world)
        await world.clock.advance(SLEEP_AFTER + 60)
        world.metrics.measure(invoice, quiet(sleep="WeightsOffloaded"))

        await world.clock.advance(300)

        assert world.engines.calls == [f"sleep {SLEEPER}"]
        assert len(world.fleet.annotated) == 1


async def test_an_engine_that_nobody_measures_sleeps_on() -> None:
    """Demand is known to be zero: requests wake it, and nothing else."""
    async with a_world() as world:
        invoice = a_sleeper(world)
        await world.clock.advance(SLEEP_AFTER + 60)
        unmeasured = Unknown("not scraped")
        world.metrics.measure(invoice, replace(at_rate(0.0), running=unmeasured, waiting=unmeasured))

        await world.clock.advance(300)

        assert world.engines.asleep == {SLEEPER}


async def test_what_an_engine_said_before_it_slept_does_not_disturb_it() -> None:
    """Its sleep state is as old as the last scrape."""
    async with a_world() as world:
        invoice = a_sleeper(world)
        world.metrics.measure(invoice, quiet(sleep="Awake"))

        await world.clock.advance(SLEEP_AFTER + 75)

        assert world.engines.calls == [f"sleep {SLEEPER}"]


@pytest.mark.parametrize("running", [1.0, float("nan")])
async def test_an_engine_that_may_do_something_is_not_put_to_sleep(running: float) -> None:
    """Sleep would end what it does."""
    async with a_world() as world:
        invoice = a_sleeper(world)
        await world.clock.advance(SLEEP_AFTER)

        world.metrics.measure(invoice, quiet(running))
        await world.tick(10)

        assert not world.engines.calls


async def test_what_an_engine_did_before_it_left_the_routes_says_nothing() -> None:
    """A request may have come since."""
    async with a_world() as world:
        invoice = a_sleeper(world)
        world.metrics.measure(invoice, quiet(age=40.0))

        await world.clock.advance(SLEEP_AFTER + 45)
        assert not world.engines.calls
        await world.tick(2)

        assert world.engines.asleep


async def test_a_wake_wakes_the_engine_and_then_brings_it_back() -> None:
    """At once, and in this order: a route to an engine that sleeps would hang."""
    async with a_world() as world:
        invoice = a_sleeper(world)
        await world.clock.advance(SLEEP_AFTER + 60)
        world.engines.calls.clear()
        world.fleet.annotated.clear()

        world.scaler.woken(invoice)
        await settle()

        assert world.engines.calls == [f"wake {SLEEPER}"]
        assert world.fleet.annotated == [("invoice-0", {ASLEEP_ANNOTATION: None})]
        await world.tick(2)
        assert world.report(invoice).asleep == 0


async def test_an_engine_that_does_not_wake_gets_no_requests() -> None:
    """Its mark stays until it does; every tick tries again."""
    async with a_world() as world:
        invoice = a_sleeper(world)
        await world.clock.advance(SLEEP_AFTER + 60)
        world.fleet.annotated.clear()
        world.engines.error = EngineError("no answer")

        world.scaler.woken(invoice)
        await world.tick(2)
        assert not world.fleet.annotated
        world.engines.error = None
        await world.tick()

        assert world.fleet.annotated == [("invoice-0", {ASLEEP_ANNOTATION: None})]


async def test_demand_that_is_measured_wakes_too() -> None:
    """Whoever reached it another way."""
    async with a_world() as world:
        invoice = a_sleeper(world)
        await world.clock.advance(SLEEP_AFTER + 60)

        world.metrics.measure(invoice, at_rate(0.5))
        await world.tick()

        assert not world.engines.asleep


async def test_an_engine_that_was_restarted_sleeps_again() -> None:
    """It says itself that it is awake."""
    async with a_world() as world:
        invoice = a_sleeper(world)
        await world.clock.advance(SLEEP_AFTER + 60)
        world.engines.asleep.clear()
        world.metrics.measure(invoice, quiet(sleep="Awake"))

        await world.clock.advance(120)

        assert world.engines.asleep == {SLEEPER}


@pytest.mark.parametrize(
    "target",
    [
        pytest.param({"scheduled_minimum": 1}, id="office hours"),
        pytest.param({"override": 1}, id="a person"),
        pytest.param({"minimum": 1}, id="a minimum"),
    ],
)
async def test_replicas_that_are_asked_for_do_not_sleep(target: dict[str, int]) -> None:
    """Whoever wants them wants them to answer."""
    async with a_world() as world:
        world.fleet.aim(a_sleeper(world), **target)

        await world.clock.advance(SLEEP_AFTER + 60)

        assert not world.fleet.annotated


@pytest.mark.parametrize("restarted", [True, False])
async def test_what_is_unknown_wakes_nobody(restarted: bool) -> None:
    """Neither an outage of Prometheus nor a new leader that remembers nothing; a request does, whatever is measured."""
    async with a_world() as world:
        invoice = a_sleeper(world)
        await world.clock.advance(SLEEP_AFTER + 60)
        world.engines.calls.clear()

        if restarted:
            world.scaler.lead(False)
            world.scaler.lead(True)
        else:
            world.metrics.measure(invoice, ExpertSignals(arrivals=Unknown("no answer")))
        await world.tick(4)
        assert not [call for call in world.engines.calls if call.startswith("wake")]
        world.scaler.woken(invoice)
        await settle()

        assert not world.engines.asleep


async def test_replicas_are_woken_when_they_may_sleep_no_longer() -> None:
    """The spec changed while they slept."""
    async with a_world() as world:
        invoice = a_sleeper(world)
        await world.clock.advance(SLEEP_AFTER + 60)

        world.fleet.scalings[invoice] = replace(world.fleet.scalings[invoice], acts=False)
        await world.tick()

        assert not world.engines.asleep
        assert world.fleet.annotated[-1] == ("invoice-0", {ASLEEP_ANNOTATION: None})


async def test_sleepers_go_at_last() -> None:
    """Sleep is a level between serving and zero."""
    async with a_world() as world:
        a_sleeper(world)

        await world.clock.advance(620)

        assert world.fleet.writes == [("invoice", 0)]


@pytest.mark.parametrize("back", [True, False])
async def test_whoever_lost_the_lease_leaves_engines_alone(back: bool) -> None:
    """Also where one was dozing off: whether it sleeps is decided by the holder, who looks first."""
    async with a_world() as world:
        a_sleeper(world)
        world.engines.hold = asyncio.Event()
        await world.clock.advance(SLEEP_AFTER + 60)
        assert world.engines.calls == [f"sleep {SLEEPER}"]

        world.scaler.lead(False)
        if back:
            world.scaler.lead(True)
        world.engines.hold.set()
        await settle()

        assert world.engines.calls == [f"sleep {SLEEPER}"]
        assert not world.engines.asleep
        assert len(world.fleet.annotated) == 1


# Who goes


async def test_the_pod_that_does_least_is_marked_before_the_number_shrinks() -> None:
    """So that the ReplicaSet removes that one."""
    async with a_world(leading=False) as world:
        invoice = world.fleet.add("invoice", 2, minimum=1)
        busy, idle = PodSignals("invoice-0", Known(5.0), Known(0.0)), PodSignals("invoice-1", Known(0.0), Known(0.0))
        world.metrics.measure(invoice, replace(at_rate(0.5), pods=(busy, idle)))
        world.metrics.remember(invoice, world.clock.now().timestamp(), [0.5] * 240)

        world.scaler.lead(True)
        await world.clock.advance(330)

        assert world.fleet.annotated == [("invoice-1", {DELETION_COST_ANNOTATION: VICTIM_COST})]
        assert world.fleet.writes == [("invoice", 1)]


@pytest.mark.parametrize(
    "error",
    [
        pytest.param(NotFoundError(404, "NotFound", "no such pod"), id="gone already"),
        pytest.param(RefusedError(403, "Forbidden", "no right"), id="forbidden"),
    ],
)
async def test_a_victim_that_cannot_be_marked_stops_nothing(error: Exception) -> None:
    """Then the ReplicaSet chooses."""
    async with a_world(leading=False) as world:
        invoice = world.fleet.add("invoice", 2, minimum=1)
        world.metrics.measure(invoice, at_rate(0.5))
        world.metrics.remember(invoice, world.clock.now().timestamp(), [0.5] * 240)
        world.fleet.mark_error = error

        world.scaler.lead(True)
        await world.clock.advance(330)

        assert world.fleet.writes == [("invoice", 1)]
