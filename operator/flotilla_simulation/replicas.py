"""One expert's replicas, its router and its requests, in simulated time."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from .kernel import (
    ARRIVED,
    CLOCK,
    COUNTERS,
    DRAINING,
    FINISHED,
    IN_FLIGHT_SECONDS,
    LATE,
    LOST,
    NONE,
    PENDING,
    READY,
    SLOT_SECONDS,
    TTFT_BINS,
    TTFT_BINS_PER_DECADE,
    TTFT_LEAST_SECONDS,
    Fleet,
    Limits,
    Load,
    advance,
    look,
)
from .workload import Engine, Floats, Ints, Rules, Workload


@dataclass(frozen=True, slots=True)
class Sample:
    """What can be measured from outside; counts and seconds are totals since the start."""

    at: float
    arrived: float
    lost: float
    """Waited too long, found a full queue, or nobody ready."""
    late: float
    """Started, but after the objective."""
    finished: float
    slot_seconds: float
    """Of the finished."""
    in_flight_seconds: float
    """Integral of running and waiting requests."""
    running: int
    waiting: int
    wanted: int
    """Replicas that were asked for last."""
    ready: int
    pending_ages: tuple[float, ...]
    kv_usage: float
    """Ratio, of the fullest replica."""
    ttft: Ints
    """Histogram of times to the first token since the start, for `ttft_quantile`."""


class Cluster:
    """Replicas that come and go, and what they have served."""

    def __init__(self, workload: Workload, engine: Engine, rules: Rules, *, replicas: int, maximum: int) -> None:
        """`replicas` are ready at time 0; never more than `maximum` at a time, those that drain aside."""
        self._load = Load(workload.arrivals, workload.prompt_tokens, workload.output_tokens)
        self._limits = _limits(engine, rules)
        self._fleet = _empty_fleet(2 * maximum + 8, engine.slots, rules.max_depth)
        self._fleet.status[:replicas] = READY
        self._cold_start_seconds = engine.cold_start_seconds
        self.wanted = replicas

    @property
    def counters(self) -> Floats:
        """Totals since the start; the kernel names them."""
        return self._fleet.counters

    @property
    def ttft(self) -> Ints:
        """Histogram of times to the first token, for `ttft_quantile`."""
        return self._fleet.ttft

    @property
    def now(self) -> float:
        """Seconds since the start."""
        return float(self._fleet.place[CLOCK])

    def advance(self, until: float) -> None:
        """All that happens before `until` has happened."""
        advance(until, self._limits, self._load, self._fleet)

    def scale(self, replicas: int) -> int:
        """That many are asked for: new ones are pending; pending ones go first, then the least busy drain.

        Returns how many were created.
        """
        self.wanted = replicas
        pending, ready = np.flatnonzero(self._fleet.status == PENDING), np.flatnonzero(self._fleet.status == READY)
        missing = replicas - len(pending) - len(ready)
        if missing > 0:
            self._create(missing)
        elif missing < 0:
            self._remove(-missing, pending, ready)
        return max(missing, 0)

    def sample(self) -> Sample:
        """What can be measured now."""
        running, waiting, ready, fullest = look(self._fleet)
        totals = self.counters.tolist()
        pending = self._fleet.ready_at[self._fleet.status == PENDING].tolist()
        return Sample(
            at=self.now,
            arrived=totals[ARRIVED],
            lost=totals[LOST],
            late=totals[LATE],
            finished=totals[FINISHED],
            slot_seconds=totals[SLOT_SECONDS],
            in_flight_seconds=totals[IN_FLIGHT_SECONDS],
            running=running,
            waiting=waiting,
            wanted=self.wanted,
            ready=ready,
            pending_ages=tuple(self._cold_start_seconds - (each - self.now) for each in pending),
            kv_usage=fullest / self._limits.kv_tokens,
            ttft=self._fleet.ttft.copy(),
        )

    def _create(self, count: int) -> None:
        free = np.flatnonzero(self._fleet.status == NONE)[:count]
        assert len(free) == count, "too many replicas drain"
        self._fleet.status[free] = PENDING
        self._fleet.ready_at[free] = self.now + self._cold_start_seconds
        self._fleet.stall[free] = self._fleet.virtual[free] = 0.0
        self._fleet.done_at[free] = np.inf

    def _remove(self, count: int, pending: Ints, ready: Ints) -> None:
        youngest = pending[np.argsort(-self._fleet.ready_at[pending], kind="stable")][:count]
        self._fleet.status[youngest] = NONE
        busy = self._fleet.running[ready] + self._fleet.waiting[ready]
        for replica in ready[np.argsort(busy, kind="stable")][: count - len(youngest)]:
            self._fleet.status[replica] = (
                DRAINING if self._fleet.running[replica] + self._fleet.waiting[replica] else NONE
            )


def ttft_quantile(histogram: Ints, ratio: float) -> float:
    """Seconds to the first token that `ratio` of the started requests kept; 0 without any."""
    total = float(histogram.sum())
    if total == 0:
        return 0.0
    found = int(np.argmax(np.cumsum(histogram) >= ratio * total))
    return TTFT_LEAST_SECONDS * math.pow(10.0, found / TTFT_BINS_PER_DECADE)


def _limits(engine: Engine, rules: Rules) -> Limits:
    return Limits(
        engine.prefill_rate,
        engine.decode_rate,
        engine.sequence_rate,
        float(engine.kv_tokens),
        rules.ttft_objective_seconds,
        rules.max_wait_seconds,
    )


def _empty_fleet(places: int, slots: int, depth: int) -> Fleet:
    return Fleet(
        place=np.zeros(2),
        status=np.zeros(places, np.int64),
        ready_at=np.zeros(places),
        at=np.zeros(places),
        virtual=np.zeros(places),
        stall=np.zeros(places),
        done_at=np.full(places, np.inf),
        running=np.zeros(places, np.int64),
        held=np.zeros(places),
        heads=np.zeros(places, np.int64),
        waiting=np.zeros(places, np.int64),
        queues=np.zeros((places, depth), np.int64),
        keys=np.zeros((places, slots)),
        starts=np.zeros((places, slots)),
        tokens=np.zeros((places, slots)),
        counters=np.zeros(COUNTERS),
        ttft=np.zeros(TTFT_BINS, np.int64),
    )
