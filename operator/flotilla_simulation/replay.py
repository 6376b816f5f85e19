"""One policy over one workload: what it cost, and how it went."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .kernel import ARRIVED, FINISHED, LATE, LOST, REPLICA_SECONDS, SLOT_SECONDS
from .policies import Bounds, Policy
from .replicas import Cluster, Sample, ttft_quantile
from .workload import Engine, Floats, Rules, Workload

SECONDS_PER_HOUR = 3600.0
_WAKE_SECONDS = 1.0
"""From a request for an expert at zero to the decision."""


@dataclass(frozen=True, slots=True)
class Scenario:
    """What every policy is replayed against."""

    workload: Workload
    engine: Engine
    rules: Rules
    bounds: Bounds
    warm_up_seconds: float = 0.0
    """Of the workload's beginning, that is replayed and not counted."""
    hourly_usd: float = 0.80
    """Of one replica."""

    @property
    def work_seconds(self) -> float:
        """Seconds of a whole replica that a request takes on average."""
        load = self.workload
        return float(self.engine.work_seconds(load.prompt_tokens, load.output_tokens).mean())

    @property
    def share_usd(self) -> float:
        """A request's share of a full GPU: hourly price x its seconds of a whole replica / 3600, on average."""
        return self.hourly_usd * self.work_seconds / 3600

    @property
    def first_replicas(self) -> int:
        """What the first ten minutes need at 70 %; every policy starts with them."""
        first = self.workload.between(0.0, min(600.0, self.workload.seconds))
        busy = float(self.engine.work_seconds(first.prompt_tokens, first.output_tokens).sum()) / first.seconds
        return self.bounds.hold(int(np.ceil(busy / 0.7)))


@dataclass(frozen=True, slots=True)
class Series:
    """What a plot shows, a row a tick; times are hours since the warm-up's end."""

    hours: Floats
    wanted: Floats
    ready: Floats
    demand: Floats
    """Requests a second."""
    bad: Floats
    """Lost and late requests a second."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """Counts after the warm-up."""

    requests: int
    lost: int
    late: int
    finished: int
    gpu_hours: float
    slot_seconds: float
    cold_starts: int
    reversals: int
    """Changes of direction."""
    ttft_p95_seconds: float
    series: Series

    @property
    def attainment(self) -> float:
        """Share of the requests that started within the objective."""
        return 1.0 - (self.lost + self.late) / self.requests if self.requests else 1.0

    def dollars(self, hourly_usd: float, loss_usd: float) -> float:
        """GPUs, and the price of what was lost or late."""
        return self.gpu_hours * hourly_usd + loss_usd * (self.lost + self.late)


def replay(scenario: Scenario, policy: Policy) -> Outcome:
    """The policy has run over the whole workload."""
    cluster = Cluster(
        scenario.workload, scenario.engine, scenario.rules,
        replicas=scenario.first_replicas, maximum=scenario.bounds.maximum,
    )  # fmt: skip
    recorder = _Recorder(cluster, scenario.warm_up_seconds)
    end = scenario.workload.seconds
    now, lag = policy.period_seconds, policy.lag_seconds
    while now < end:
        cluster.advance(now - lag)
        sample = cluster.sample()
        if lag > 0:
            cluster.advance(now)
        recorder.scale(now, policy.wanted(sample), sample)
        tick = now + policy.period_seconds
        woken = _next_request(scenario.workload, now) if policy.wakes and cluster.wanted == 0 else end
        now, lag = (woken + _WAKE_SECONDS, 0.0) if woken + _WAKE_SECONDS < tick else (tick, policy.lag_seconds)
    cluster.advance(end)
    return recorder.outcome()


def _next_request(load: Workload, now: float) -> float:
    index = int(np.searchsorted(load.arrivals, now))
    return float(load.arrivals[index]) if index < len(load) else load.seconds


class _Recorder:
    """Counts from the end of the warm-up on, and the rows of the series."""

    def __init__(self, cluster: Cluster, warm_up_seconds: float) -> None:
        self._cluster, self._from = cluster, warm_up_seconds
        self._counters = np.zeros_like(cluster.counters)
        self._ttft = np.zeros_like(cluster.ttft)
        self._started = warm_up_seconds <= 0
        self._created = self._reversals = 0
        self._direction = 0
        self._rows: list[tuple[float, int, int, float, float]] = []

    def scale(self, now: float, wanted: int, sample: Sample) -> None:
        """The cluster is asked for `wanted`."""
        if not self._started and now >= self._from:
            self._started = True
            self._counters, self._ttft = self._cluster.counters.copy(), self._cluster.ttft.copy()
        before = self._cluster.wanted
        created = self._cluster.scale(wanted) if wanted != before else 0
        direction = (wanted > before) - (wanted < before)
        if self._started:
            self._created += created
            self._reversals += direction * self._direction < 0
            self._rows.append((now, wanted, sample.ready, sample.arrived, sample.lost + sample.late))
        self._direction = direction or self._direction

    def outcome(self) -> Outcome:
        """What has been counted."""
        counted = self._cluster.counters - self._counters
        return Outcome(
            requests=int(counted[ARRIVED]),
            lost=int(counted[LOST]),
            late=int(counted[LATE]),
            finished=int(counted[FINISHED]),
            gpu_hours=float(counted[REPLICA_SECONDS]) / SECONDS_PER_HOUR,
            slot_seconds=float(counted[SLOT_SECONDS]),
            cold_starts=self._created,
            reversals=self._reversals,
            ttft_p95_seconds=ttft_quantile(self._cluster.ttft - self._ttft, 0.95),
            series=self._series(),
        )

    def _series(self) -> Series:
        table = np.array(self._rows, np.float64).reshape(-1, 5)
        seconds = np.maximum(np.diff(table[:, 0], prepend=table[0, 0] - 1.0 if len(table) else 0.0), 1e-9)
        rates = np.diff(table[:, 3:], axis=0, prepend=table[:1, 3:]) / seconds[:, None]
        return Series((table[:, 0] - self._from) / SECONDS_PER_HOUR, table[:, 1], table[:, 2], rates[:, 0], rates[:, 1])
