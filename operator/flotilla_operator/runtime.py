"""The runtime: a queue of keys, and workers that observe, plan and execute one key at a time each."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from flotilla_api.conditions import Reason

from .ports import Clock, Cluster, NotLeadingError, OperatorError, OutdatedError, Routers, StepFailedError
from .reconcile.contest import Times, give_up, remember
from .reconcile.dispatch import desired, verdict
from .reconcile.gateway import snapshot_of, too_large
from .reconcile.plan import conflicts, plan
from .reconcile.types import Key, Manifest, ObjectRef, Observed, Plan, Step, StepFailure, Verdict
from .telemetry import LOGGER, Telemetry, fields

NOT_LEADING_SECONDS = 1.0
"""When a key is looked at again that met a lapse of the Lease."""
BACKOFF_FIRST_SECONDS = 0.2
BACKOFF_MAX_SECONDS = 60.0
REFUSED_RETRY_SECONDS = 60.0
"""After a write that was refused for good, or a stranger in the way: nobody tells us when that ends."""
TOLD_AFTER_SECONDS = 10.0
"""For how long writes have failed when a status says so: a burst of 5xx is over before."""
LOGGED_MAX_CHARACTERS = 200

logger = logging.getLogger(LOGGER)


class WorkQueue:
    """Keys that wait for a worker: each at most once, none while a worker has it, none while the gate is closed.

    Policies and models take turns, so that a policy's edit does not wait behind hundreds of new models.
    """

    def __init__(self) -> None:
        self._policies: deque[Key] = deque()
        self._models: deque[Key] = deque()
        self._policy_next = True
        self._queued: set[Key] = set()
        self._working: set[Key] = set()
        self._again: set[Key] = set()
        self._open = False
        self._changed = asyncio.Event()
        self._idle = asyncio.Event()

    def __len__(self) -> int:
        return len(self._queued) + len(self._again)

    def wake(self, key: Key) -> None:
        """`key` will be taken once more, after all that is known now."""
        if key in self._working:
            self._again.add(key)
        elif key not in self._queued:
            self._queued.add(key)
            (self._policies if key.kind == "RoutingPolicy" else self._models).append(key)
            self._changed.set()

    def open(self) -> None:
        """Keys are handed out."""
        self._open = True
        self._changed.set()

    def close(self) -> None:
        """No key is handed out until the gate opens again."""
        self._open = False

    async def take(self) -> Key:
        """The policy or the model that has waited longest; it is the caller's until `done`."""
        while not (self._open and self._queued):
            self._changed.clear()
            await self._changed.wait()
        key = self._next().popleft()
        self._queued.discard(key)
        self._working.add(key)
        return key

    def _next(self) -> deque[Key]:
        first, second = (self._policies, self._models) if self._policy_next else (self._models, self._policies)
        chosen = first or second
        self._policy_next = chosen is self._models
        return chosen

    async def idle(self) -> None:
        """Returns once no worker has a key."""
        while self._working:
            self._idle.clear()
            await self._idle.wait()

    def done(self, key: Key) -> None:
        """The caller is finished with `key`; when it was woken meanwhile it waits again."""
        self._working.discard(key)
        self._idle.set()
        if key in self._again:
            self._again.discard(key)
            self.wake(key)


def backoff_seconds(attempt: int, jitter: float) -> float:
    """The wait after failure number `attempt`, from 1: doubled each time up to a cap, less up to half.

    `jitter` in [0, 1) is how much of that half is taken off.
    """
    return min(BACKOFF_FIRST_SECONDS * 2 ** min(attempt - 1, 16), BACKOFF_MAX_SECONDS) * (1 - jitter / 2)


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a reconciliation did."""

    steps: Sequence[str] = ()
    """The reasons of the steps that were carried out."""
    failures: Sequence[StepFailure] = ()
    status_written: bool = False
    events: Sequence[str] = ()
    requeue_after_seconds: float | None = None

    @property
    def changed(self) -> bool:
        """Whether anything was written."""
        return bool(self.steps) or self.status_written

    def describe(self) -> dict[str, object]:
        """What the log says."""
        described = {
            "steps": [_shorten(reason) for reason in self.steps],
            "failures": [_shorten(f"{failure.reason}: {failure.message}") for failure in self.failures],
            "status": self.status_written,
            "events": list(self.events),
        }
        return {name: value for name, value in described.items() if value}


class Runtime:
    """Reconciles the keys that are woken, while its gate is open."""

    def __init__(
        self,
        cluster: Cluster,
        routers: Routers,
        clock: Clock,
        telemetry: Telemetry,
        *,
        jitter: Callable[[], float],
        workers: int = 8,
    ) -> None:
        self._cluster = cluster
        self._routers = routers
        self._clock = clock
        self._telemetry = telemetry
        self._jitter = jitter
        self._workers = workers
        self._queue = WorkQueue()
        self._attempts: dict[Key, int] = {}
        """Reconciliations in a row that failed, or that wrote what should have been there already."""
        self._failing_since: dict[Key, float] = {}
        """When (monotonic) the first write failed of those that failed since one last went through."""
        self._repairs: dict[Key, Times] = {}
        """Of the last hour, so that none is repeated for ever."""
        self._timers: dict[Key, asyncio.Task[None]] = {}
        telemetry.queue_depth.set_function(lambda: float(len(self._queue)))

    def wake(self, key: Key) -> None:
        """`key` is reconciled soon."""
        self._queue.wake(key)

    def open(self, keys: Sequence[Key]) -> None:
        """This replica leads: `keys`, and what is woken from now on, are reconciled."""
        for key in keys:
            self._queue.wake(key)
        self._queue.open()

    def close(self) -> None:
        """This replica leads no more: nothing is begun until it does again."""
        self._queue.close()
        self._attempts.clear()
        self._failing_since.clear()
        self._repairs.clear()
        for key in list(self._timers):
            self._cancel_timer(key)

    async def drain(self, seconds: float) -> None:
        """The gate is closed, and what was begun has ended, or `seconds` have passed."""
        self.close()
        try:
            async with asyncio.timeout(seconds):
                await self._queue.idle()
        except TimeoutError:
            logger.warning("reconciles cut short", extra=fields(seconds=seconds))

    async def run(self) -> None:
        """Workers for ever; nobody waits for another's object."""
        try:
            async with asyncio.TaskGroup() as group:
                for _ in range(self._workers):
                    group.create_task(self._work())
        finally:
            self.close()

    async def _work(self) -> None:
        while True:
            key = await self._queue.take()
            try:
                await self._attempt(key)
            finally:
                self._queue.done(key)

    async def _attempt(self, key: Key) -> None:
        started = self._clock.monotonic()
        self._cancel_timer(key)
        try:
            outcome = await self._reconcile(key)
        except NotLeadingError:  # a lapse that ends at once opens no gate anew; a longer one keeps the key behind it
            self._wake_later(key, NOT_LEADING_SECONDS)
        except OperatorError as error:
            self._retry(key, error)
        except Exception as error:  # a defect that one object provokes must not stop the others
            logger.exception("reconcile crashed", extra=_about(key))
            self._retry(key, error)
        else:
            self._settle(key, outcome, self._clock.monotonic() - started)

    async def _reconcile(self, key: Key) -> Outcome:
        observed = await self._cluster.observe(key)
        if observed is None:
            return self._gone(key)
        if observed.owner["metadata"].get("deletionTimestamp"):
            return Outcome()
        wanted = desired(observed)
        if unfit := too_large(wanted):
            return await self._report(observed, wanted, Plan(), unfit)
        self._publish(key, wanted)
        now, repairs = self._clock.monotonic(), self._repairs.get(key, {})
        planned, given_up = give_up(plan(wanted, observed), repairs, now)
        refused = await self._execute(key, observed, wanted, planned)
        self._repairs[key] = remember(repairs, carried_out(planned, refused), now)
        failures = (*conflicts(wanted, observed), *given_up, *refused)
        if planned.steps and not failures and key not in self._attempts:
            # What was written is looked at next, and the status then says what became of it: one write instead of two.
            return Outcome(steps=[step.reason for step in planned.steps])
        return await self._report(observed, wanted, planned, failures)

    async def _execute(
        self, key: Key, observed: Observed, wanted: Sequence[Manifest], planned: Plan
    ) -> Sequence[StepFailure]:
        """Steps that were refused. One that has failed for a while is told of before it is raised for one more try."""
        try:
            refused = await self._cluster.execute(planned)
        except StepFailedError as error:
            now = self._clock.monotonic()
            if now - self._failing_since.setdefault(key, now) >= TOLD_AFTER_SECONDS:
                told = [StepFailure(error.step, Reason.APPLY_FAILED, str(error))]
                await self._report(observed, wanted, planned, told)
            raise
        self._failing_since.pop(key, None)
        return refused

    def _gone(self, key: Key) -> Outcome:
        self._failing_since.pop(key, None)
        self._repairs.pop(key, None)
        if key.kind == "RoutingPolicy":
            self._routers.publish(key, None)
        return Outcome()

    def _publish(self, key: Key, wanted: Sequence[Manifest]) -> None:
        """Routers hear of a policy before anything is written; while a spec cannot be read they keep the last one."""
        snapshot = snapshot_of(wanted) if key.kind == "RoutingPolicy" else None
        if snapshot is not None:
            self._routers.publish(key, snapshot)

    async def _report(
        self, observed: Observed, wanted: Sequence[Manifest], planned: Plan, failures: Sequence[StepFailure]
    ) -> Outcome:
        result: Verdict = verdict(observed, wanted, failures)
        owner = observed.owner
        differs = result.status != (owner.get("status") or {})
        if differs:
            await self._cluster.write_status(owner, result.status)
        await self._cluster.emit(ObjectRef.of(owner), owner["metadata"]["uid"], result.events)
        return Outcome(
            steps=[step.reason for step in carried_out(planned, failures)],
            failures=failures,
            status_written=differs,
            events=[event.reason for event in result.events],
            requeue_after_seconds=result.requeue_after_seconds,
        )

    def _settle(self, key: Key, outcome: Outcome, seconds: float) -> None:
        self._count(key, "changed" if outcome.changed else "unchanged", seconds)
        if outcome.changed:
            logger.info("reconciled", extra=_about(key, seconds=round(seconds, 3), **outcome.describe()))
        if not outcome.steps:
            self._attempts.pop(key, None)
            self._wake_later(key, _next_look(outcome))
            return
        # What was written is looked at once more: the plan must now be empty. Where it never is, that must not spin.
        attempt = self._attempts[key] = self._attempts.get(key, 0) + 1
        self._wake_later(key, 0.0 if attempt == 1 else backoff_seconds(attempt, self._jitter()))

    def _retry(self, key: Key, error: Exception) -> None:
        attempt = self._attempts[key] = self._attempts.get(key, 0) + 1
        delay = backoff_seconds(attempt, self._jitter())
        self._count(key, "error", 0.0)
        level = logging.DEBUG if isinstance(error, OutdatedError) and attempt < 4 else logging.WARNING
        logger.log(
            level, "reconcile failed", extra=_about(key, reason=str(error), attempt=attempt, retry_in=round(delay, 1))
        )
        self._wake_later(key, delay)

    def _count(self, key: Key, result: str, seconds: float) -> None:
        self._telemetry.reconciles.labels(key.kind, result).inc()
        self._telemetry.reconcile_seconds.labels(key.kind).observe(seconds)

    def _wake_later(self, key: Key, seconds: float | None) -> None:
        if seconds is None:
            return
        if seconds <= 0:
            self._queue.wake(key)
            return
        self._cancel_timer(key)
        self._timers[key] = asyncio.create_task(self._sleep_and_wake(key, seconds))

    async def _sleep_and_wake(self, key: Key, seconds: float) -> None:
        await self._clock.sleep(seconds)
        self._timers.pop(key, None)
        self._queue.wake(key)

    def _cancel_timer(self, key: Key) -> None:
        timer = self._timers.pop(key, None)
        if timer is not None:
            timer.cancel()


def carried_out(planned: Plan, failures: Sequence[StepFailure]) -> list[Step]:
    """The steps that did not fail."""
    failed = {id(failure.step) for failure in failures}
    return [step for step in planned.steps if id(step) not in failed]


def _next_look(outcome: Outcome) -> float | None:
    """When to look again though nothing happens; None: only when something does."""
    looks = [outcome.requeue_after_seconds, REFUSED_RETRY_SECONDS if outcome.failures else None]
    return min((seconds for seconds in looks if seconds is not None), default=None)


def _shorten(text: str) -> str:
    """`text` as a log line can bear it: a changed field may be a whole snapshot."""
    return text if len(text) <= LOGGED_MAX_CHARACTERS else f"{text[:LOGGED_MAX_CHARACTERS]}..."


def _about(key: Key, **values: object) -> dict[str, object]:
    return fields(kind=key.kind, namespace=key.namespace, name=key.name, **values)
