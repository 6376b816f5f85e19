"""The scaler: every tick it reads what is measured, decides about each scaled Expert, and acts where a number differs.

Only the Lease's holder ticks. A request that finds an Expert at zero does not wait for the tick: see `woken`. What is
learned is in memory only; a new leader learns it anew from what the source of metrics remembers, and until then nothing
shrinks.
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Callable, Coroutine, Generator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime
from typing import Any, Protocol, TypeVar

from .acting import Actor
from .ledger import NOT_SCALED, Ledger, Moment, Scaling, material
from .ports import Clock, Engines, MetricsSource, OperatorError, ScaleTargets
from .reconcile.scaled import ScaledExpert
from .reconcile.types import Key
from .resources.pods import seconds_of
from .scaling.fleet import ExpertSignals, FleetSignals, NamespacedName
from .scaling.learning import is_whole
from .scaling.report import Recommendation, ScalingReport
from .scaling.signals import Unknown
from .scaling.types import TUNING, State, Tuning
from .slumber import Rest, Slumber, rest_due
from .telemetry import LOGGER, Telemetry, fields

T = TypeVar("T")

BACKFILL_EVERY_TICKS = 4
"""Between two tries to learn the last hour of Experts of which it is not known."""
OTHERS_EVERY_TICKS = 4
"""Between two looks for other autoscalers, where the first has succeeded."""
ACTING_AT_A_TIME = 8
DECIDED_AT_A_TIME = 50
"""Before the event loop has its turn."""
YOUNG_SECONDS = 60.0
"""How old an Expert may be when it is first seen, so that all of its life is known here."""

logger = logging.getLogger(LOGGER)


Describe = Callable[[ScaledExpert, FleetSignals, datetime], Scaling | None]
"""None: its spec cannot be read, and its number is left alone."""


class Shares(Protocol):
    """What parts accelerators where they are short."""

    async def look(self) -> None:
        """What there is is known; never raises."""
        ...

    def share(self, ledgers: Sequence[Ledger]) -> None:
        """Each ledger says what its Expert gets."""
        ...


class Scaler:
    """Decides for every Expert with `scaling`, and acts for those whose mode says so."""

    def __init__(
        self,
        targets: ScaleTargets,
        engines: Engines,
        source: MetricsSource,
        clock: Clock,
        telemetry: Telemetry,
        *,
        describe: Describe,
        shares: Shares,
        wake: Callable[[Key], None],
        tuning: Tuning = TUNING,
    ) -> None:
        self._targets = targets
        self._source = source
        self._clock = clock
        self._telemetry = telemetry.scaler
        self._describe = describe
        self._shares = shares
        self._wake = wake
        self._tuning = tuning
        self._read_seconds = tuning.tick_seconds - 1
        """Longest wait for what a tick asks others: it has a bound of its own, and ticks go on without it."""
        self._began = (clock.now().timestamp(), clock.monotonic())
        self._actor = Actor(targets, self._moment)
        self._slumber = Slumber(targets, engines)
        self._led = asyncio.Event()
        self._reign: tuple[asyncio.Task[None], ...] = ()
        """What ticks and answers wakes under this Lease."""
        self._ledgers: dict[Key, Ledger] = {}
        self._scalings: dict[Key, Scaling] = {}
        self._signals = FleetSignals({}, {})
        self._read_at = float("-inf")
        """Steady."""
        self._problems: tuple[str, ...] = ()
        self._looked_around = asyncio.Event()
        """For other autoscalers, at least once under this Lease."""
        self._backfill_due = self._others_due = float("-inf")
        self._woken: dict[Key, bool] = {}
        """Whether a request waits."""
        self._rung = asyncio.Event()
        self._turn = asyncio.Semaphore(ACTING_AT_A_TIME)
        self._writing: set[asyncio.Task[None]] = set()
        self._slumbering: dict[Key, asyncio.Task[None]] = {}

    def lead(self, leading: bool) -> None:
        """This replica holds the Lease from now on, or no more; what was learned under an earlier one is forgotten.

        What was going on under it ends where it is, but for writes that were begun.
        """
        for task in (*self._reign, *self._slumbering.values()):
            task.cancel()
        self._ledgers, self._scalings, self._signals = {}, {}, FleetSignals({}, {})
        self._read_at = self._backfill_due = self._others_due = float("-inf")
        self._woken.clear()
        self._looked_around.clear()
        self._telemetry.clear()
        if leading:
            self._led.set()
        else:
            self._led.clear()

    def woken(self, key: Key, *, waits: bool = False) -> None:
        """A request asked for a replica, and `waits` for it: the Expert is decided about at once."""
        if self._led.is_set() and key.kind == "Expert":
            self._woken[key] = waits or self._woken.get(key, False)
            self._rung.set()

    def report(self, key: Key) -> ScalingReport | None:
        """What the reconciler tells of an Expert."""
        ledger = self._ledgers.get(key)
        return ledger.report(self._moment().steady) if ledger else None

    def recommend(self, key: Key) -> Recommendation | None:
        """What others' autoscalers are told of an Expert; None: nothing has been decided about it."""
        ledger = self._ledgers.get(key)
        return ledger.recommendation(self._moment().steady) if ledger else None

    async def run(self) -> None:
        """Ticks and wakes under one Lease after the other, for ever."""
        try:
            while True:
                await self._led.wait()
                if self._led.is_set():  # it may have been lost since
                    await self._rule()
        finally:
            left = (*self._reign, *self._slumbering.values(), *self._writing)
            for task in left:
                task.cancel()
            await asyncio.gather(*left, return_exceptions=True)

    async def drain(self, seconds: float) -> None:
        """Nothing more is begun, and writes that were have ended, or `seconds` have passed."""
        self.lead(False)
        if self._writing:
            _, cut = await asyncio.wait(self._writing, timeout=seconds)
            if cut:
                logger.warning("scaling cut short", extra=fields(seconds=seconds))

    async def _rule(self) -> None:
        """Until the Lease is lost, whose loss cancels both: each would go on with what another decides about by now."""
        self._reign = tuple(asyncio.create_task(work) for work in (self._tick_for_ever(), self._answer_wakes()))
        ended, _ = await asyncio.wait(self._reign, return_when=asyncio.FIRST_EXCEPTION)
        for task in ended:
            if not task.cancelled():
                task.result()

    async def _tick_for_ever(self) -> None:
        while True:
            started = self._clock.monotonic()
            with self._guarded("scaling tick crashed"):
                await self._tick()
            seconds = self._clock.monotonic() - started
            self._telemetry.tick_seconds.observe(seconds)
            await self._clock.sleep(max(1.0, self._tuning.tick_seconds - seconds))

    async def _answer_wakes(self) -> None:
        await self._looked_around.wait()
        while True:
            await self._rung.wait()
            self._rung.clear()
            woken, self._woken = self._woken, {}
            with self._guarded("wake crashed"):
                await self._answer(woken)

    async def _tick(self) -> None:
        """Read once, observe, decide each, share out, act where something differs."""
        await self._look_for_others()
        await self._read()
        await self._look_at_accelerators()
        self._refresh()
        await self._backfill()
        await self._settle(list(self._ledgers.values()))

    async def _answer(self, waits: Mapping[Key, bool]) -> None:
        """As a tick, for these Experts and with what was measured last."""
        now, woken = self._moment(), list[Ledger]()
        for key, awaited in waits.items():
            if expert := self._targets.find(key):
                ledger = self._look(expert, now)
                ledger.woken_at = now.steady
                ledger.awaited_at = now.steady if awaited else ledger.awaited_at
                woken.append(ledger)
        await self._settle(woken)

    async def _settle(self, ledgers: Sequence[Ledger]) -> None:
        """These are decided about. Where one wants another number, all may get other shares."""
        before = {id(ledger): ledger.wanted for ledger in self._ledgers.values()}
        for number, ledger in enumerate(ledgers, start=1):
            self._decide(ledger)
            if number % DECIDED_AT_A_TIME == 0:
                await asyncio.sleep(0)  # routers that poll are not kept waiting
        if any(ledger.wanted != before.get(id(ledger)) for ledger in ledgers) or len(ledgers) == len(self._ledgers):
            self._share_out()
            ledgers = list(self._ledgers.values())
        await self._act(ledgers)
        for ledger in ledgers:
            self._tell(ledger)

    async def _read(self) -> None:
        """What is measured now; where the source says nothing in time, that."""
        try:
            self._signals = await self._within(self._source.read(self._moment().wall))
        except TimeoutError:
            problem = f"the source of metrics said nothing for {self._read_seconds:g} s"
            self._signals = FleetSignals({}, {}, (problem,))
        self._read_at = self._moment().steady
        self._telemetry.problems.set(len(self._signals.problems))
        if self._signals.problems != self._problems:
            self._problems = self._signals.problems
            logger.warning("metrics", extra=fields(problems=list(self._problems)))

    async def _look_at_accelerators(self) -> None:
        try:
            await self._within(self._shares.look())
        except TimeoutError:
            logger.warning("accelerators not looked at in time", extra=fields(seconds=self._read_seconds))

    async def _look_for_others(self) -> None:
        """Other autoscalers, now and then, and before anything else is done; at the next tick where it fails."""
        now = self._moment().steady
        if now < self._others_due:
            return
        try:
            await self._within(self._targets.look_for_others())
            self._others_due = now + OTHERS_EVERY_TICKS * self._tuning.tick_seconds
        except (TimeoutError, OperatorError) as error:
            reason = str(error) or f"no answer for {self._read_seconds:g} s"
            logger.warning("other autoscalers cannot be looked for", extra=fields(reason=reason))
        self._looked_around.set()

    def _refresh(self) -> None:
        """A ledger for each Expert that is scaled, and for no other."""
        now = self._moment()
        experts = {expert.key: expert for expert in self._targets.experts()}
        for key in [key for key in self._ledgers if key not in experts]:
            self._forget(key)
        for expert in experts.values():
            self._look(expert, now)
        self._slumber.forget({pod.uid for ledger in self._ledgers.values() for pod in ledger.pods})

    def _look(self, expert: ScaledExpert, now: Moment) -> Ledger:
        """The ledger of an Expert, as it is now; a new one for a new Expert, also under an old name."""
        ledger = self._ledgers.get(expert.key)
        if ledger is not None and ledger.expert.uid != expert.uid:
            self._forget(expert.key)
            ledger = None
        if ledger is None:
            age = now.wall - seconds_of(expert.expert["metadata"]["creationTimestamp"])
            ledger = self._ledgers[expert.key] = Ledger(expert, State(born_at=_born_at(age, now.steady)))
        ledger.look(expert, now)
        return ledger

    def _forget(self, key: Key) -> None:
        del self._ledgers[key]
        self._scalings.pop(key, None)
        self._telemetry.forget(key.namespace, key.name)
        self._wake(key)

    async def _backfill(self) -> None:
        """Experts whose last hour is not known learn it from what others remember."""
        now, tuning = self._moment(), self._tuning
        if now.steady < self._backfill_due:
            return
        missing = [ledger for ledger in self._ledgers.values() if not is_whole(ledger.state, now.steady, tuning)]
        if not missing:
            return
        self._backfill_due = now.steady + BACKFILL_EVERY_TICKS * tuning.tick_seconds
        try:
            work = self._source.history(now.wall, tuning.history_seconds, tuning.tick_seconds)
            remembered = await self._within(work)
        except TimeoutError:
            return
        for ledger in missing:
            if history := remembered.get(ledger.expert.name):
                ledger.backfill(history, now, tuning)

    def _decide(self, ledger: Ledger) -> None:
        key, now = ledger.expert.key, self._moment()
        try:
            scaling = self._describe(ledger.expert, self._signals, self._clock.now())
            self._scalings[key] = scaling = scaling or NOT_SCALED
            ledger.target = scaling.target
            if not scaling.acts:
                ledger.leave()
            decision = ledger.decide(self._measured(ledger.expert.name), self._read_at, now.steady, self._tuning)
        except Exception:  # a defect that one Expert provokes must not stop the others
            logger.exception("scaling decision crashed", extra=_about(key))
            self._telemetry.crashes.inc()
            ledger.decision = None
            return
        if decision is not None:
            self._telemetry.decisions.labels(decision.rule.value).inc()

    def _measured(self, name: NamespacedName) -> ExpertSignals:
        """What was measured last, while that says something of now."""
        age = self._moment().steady - self._read_at
        if age > 2 * self._tuning.tick_seconds:
            return ExpertSignals(arrivals=Unknown("nothing has been measured yet"))
        unread = Unknown("; ".join(self._signals.problems[:1]) or "not measured yet")
        return self._signals.experts.get(name, ExpertSignals(arrivals=unread))

    def _share_out(self) -> None:
        acting = [ledger for ledger in self._ledgers.values() if self._acts(ledger) and ledger.decision is not None]
        try:
            self._shares.share(acting)
        except Exception:  # each then gets what its own decision says
            logger.exception("allocation crashed")
            self._telemetry.crashes.inc()

    def _acts(self, ledger: Ledger) -> bool:
        scaling = self._scalings.get(ledger.expert.key)
        return scaling is not None and scaling.acts and not ledger.rival

    async def _act(self, ledgers: Sequence[Ledger]) -> None:
        """Writes go on when whoever waits for them is cancelled: none is cut in the middle."""
        tasks = [asyncio.create_task(self._carry_out(ledger)) for ledger in ledgers if self._has_work(ledger)]
        for task in tasks:
            self._writing.add(task)
            task.add_done_callback(self._writing.discard)
        if tasks:
            await asyncio.wait(tasks)

    def _has_work(self, ledger: Ledger) -> bool:
        number = self._number(ledger)
        differs = number is not None and number != ledger.expert.replicas
        return bool(differs or not ledger.expert.owned or ledger.failing or self._has_to_sleep_or_wake(ledger))

    def _number(self, ledger: Ledger) -> int | None:
        """What its Deployment should ask for; None: that is left to others."""
        return ledger.wanted if self._acts(ledger) and ledger.decision is not None else None

    def _rest(self, ledger: Ledger) -> Rest:
        """What its pods are to do."""
        scaling = self._scalings.get(ledger.expert.key)
        after = scaling.sleep_after_seconds if scaling and scaling.acts else None
        return rest_due(ledger, after, self._moment().steady)

    def _has_to_sleep_or_wake(self, ledger: Ledger) -> bool:
        rest = self._rest(ledger)
        return rest == "Sleep" or (rest == "Serve" and ledger.sleeping_pods > 0)

    async def _carry_out(self, ledger: Ledger) -> None:
        with self._guarded("scaling crashed", ledger.expert.key):
            async with self._turn, ledger.lock:
                if self._is_ours(ledger):
                    await self._actor.act(ledger, self._number(ledger), self._measured(ledger.expert.name).pods)
            if self._is_ours(ledger) and self._has_to_sleep_or_wake(ledger):
                self._start_slumber(ledger)

    def _is_ours(self, ledger: Ledger) -> bool:
        """Whether it is still the Expert's, under the same Lease."""
        return self._ledgers.get(ledger.expert.key) is ledger

    def _start_slumber(self, ledger: Ledger) -> None:
        """Engines take seconds to sleep and to wake, for which no tick waits; of each Expert's, one thing at a time."""
        key = ledger.expert.key
        if key not in self._slumbering:
            self._slumbering[key] = task = asyncio.create_task(self._lay_or_rouse(ledger))
            task.add_done_callback(lambda _: self._slumbering.pop(key))

    async def _lay_or_rouse(self, ledger: Ledger) -> None:
        """What is due when it ends has been done: a wake may come while engines doze off."""
        done: Rest = "Stay"
        with self._guarded("sleep crashed", ledger.expert.key):
            while done != (due := self._rest(ledger)):
                if due == "Sleep":
                    measured = self._measured(ledger.expert.name)
                    await self._slumber.lay(ledger, measured, self._moment().steady, self._read_at)
                elif due == "Serve":
                    await self._slumber.rouse(ledger)
                done = due

    def _tell(self, ledger: Ledger) -> None:
        """Metrics always; the reconciler where something of interest has changed."""
        report = ledger.report(self._moment().steady)
        key, actual = ledger.expert.key, sum(pod.ready for pod in ledger.pods)
        self._telemetry.tell(key.namespace, key.name, desired=ledger.expert.replicas, actual=actual, report=report)
        news = material(report)
        if news != ledger.told:
            self._log_advice(ledger, report)
            ledger.told = news
            self._wake(key)

    def _log_advice(self, ledger: Ledger, report: ScalingReport | None) -> None:
        """A number that is for others to set is told of when it changes; one that is set, when it has been."""
        if report and report.recommended != ledger.advised and not self._acts(ledger):
            told = {"recommended": report.recommended, "rule": report.rule.value, "reason": report.message}
            logger.info("recommended", extra=fields(**_names(ledger.expert.key), **told))
        ledger.advised = report.recommended if report else None

    async def _within(self, work: Coroutine[Any, Any, T]) -> T:
        """What `work` comes to.

        Raises:
            TimeoutError: it takes too long.
        """
        working, waiting = asyncio.ensure_future(work), asyncio.ensure_future(self._clock.sleep(self._read_seconds))
        try:
            await asyncio.wait((working, waiting), return_when=asyncio.FIRST_COMPLETED)
            if not working.done():
                raise TimeoutError
            return working.result()
        finally:
            working.cancel()
            waiting.cancel()

    @contextmanager
    def _guarded(self, what: str, key: Key | None = None) -> Generator[None]:
        """A defect is told of and counted, and what comes next goes on."""
        try:
            yield
        except Exception:
            logger.exception(what, extra=_about(key) if key else None)
            self._telemetry.crashes.inc()

    def _moment(self) -> Moment:
        wall, monotonic = self._began
        return Moment(self._clock.now().timestamp(), wall + self._clock.monotonic() - monotonic)


def _born_at(age_seconds: float, steady: float) -> float | None:
    """None: all of its life is known here. Of an Expert from the future a clock is wrong, so nobody knows its age."""
    if abs(age_seconds) < YOUNG_SECONDS:
        return None
    return steady - age_seconds if age_seconds > 0 else -math.inf


def _about(key: Key) -> dict[str, object]:
    return fields(**_names(key))


def _names(key: Key) -> dict[str, str]:
    return {"kind": key.kind, "namespace": key.namespace, "name": key.name}
