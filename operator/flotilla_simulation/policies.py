"""What others scale with: the published algorithms, on what can be measured here.

Each is told every `period_seconds` what is measured, and answers how many replicas it wants. All are made anew for
every replay.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

from .replicas import Sample


class Policy(Protocol):
    """One expert's autoscaler."""

    period_seconds: float
    lag_seconds: float
    """Age of what it is told: the time since the last scrape."""
    wakes: bool
    """Whether a request for an expert at zero makes it decide at once."""

    def wanted(self, sample: Sample) -> int:
        """Replicas from now on, within the bounds."""
        ...


PolicyFactory = Callable[["Bounds"], Policy]


@dataclass(frozen=True, slots=True)
class Bounds:
    """Least and most replicas."""

    minimum: int
    maximum: int

    def hold(self, replicas: int) -> int:
        """`replicas`, or the nearest that is allowed."""
        return max(self.minimum, min(self.maximum, replicas))


SCRAPE_LAG_SECONDS = 5.0


@dataclass(slots=True)
class Static:
    """Always the same number."""

    replicas: int
    bounds: Bounds
    period_seconds: float = 15.0
    lag_seconds: float = 0.0
    wakes: bool = False

    def wanted(self, sample: Sample) -> int:  # noqa: ARG002 - the interface
        """The number."""
        return self.bounds.hold(self.replicas)


@dataclass(slots=True)
class HpaBehavior:
    """The HorizontalPodAutoscaler's default behaviour: bounds on how fast, and the highest of the last five minutes.

    Source: kubernetes/pkg/controller/podautoscaler/horizontal.go and autoscaling/v2's defaults: up by the larger of
    100 % and 4 pods in 15 s at once, down by 100 % in 15 s with a stabilization window of 300 s.
    """

    bounds: Bounds
    stabilization_seconds: float = 300.0
    _recommended: deque[tuple[float, int]] = field(default_factory=deque[tuple[float, int]])

    def settle(self, now: float, current: int, recommended: int) -> int:
        """What is asked for, given what the metric recommends."""
        if not self._recommended:
            self._recommended.append((now, current))
        while self._recommended and self._recommended[0][0] <= now - self.stabilization_seconds:
            self._recommended.popleft()
        self._recommended.append((now, self.bounds.hold(recommended)))
        highest = max(each for _, each in self._recommended)
        stable = min(current, highest) if recommended < current else recommended
        limit = max(current + 4, 2 * current)
        return self.bounds.hold(min(stable, limit))


HPA_TOLERANCE = 0.1


@dataclass(slots=True)
class HpaPods:
    """A HorizontalPodAutoscaler on a Pods metric, as an average per pod: what waits, or all that is in flight.

    Source: replica_calculator.go, calcPlainMetricReplicas: pods without the metric count as 0 when growing and as the
    target when shrinking, and never turn the direction round.
    """

    target: float
    bounds: Bounds
    concurrency: bool = False
    """All in flight instead of what waits."""
    period_seconds: float = 15.0
    lag_seconds: float = SCRAPE_LAG_SECONDS
    wakes: bool = False
    behavior: HpaBehavior = field(init=False)

    def __post_init__(self) -> None:
        self.behavior = HpaBehavior(self.bounds)

    def wanted(self, sample: Sample) -> int:
        """The metric's recommendation, settled."""
        total = sample.waiting + (sample.running if self.concurrency else 0)
        recommended = plain_metric_replicas(float(total), sample.ready, sample.wanted, self.target)
        return self.behavior.settle(sample.at, sample.wanted, recommended)


def plain_metric_replicas(total: float, measured: int, current: int, target: float) -> int:
    """What calcPlainMetricReplicas recommends for `measured` of `current` pods that together have `total`."""
    if measured == 0:
        return current
    ratio = total / measured / target
    missing = current - measured
    if missing > 0 and ratio != 1.0:
        filled = total if ratio > 1.0 else total + missing * target
        refilled = filled / current / target
        if abs(1.0 - refilled) <= HPA_TOLERANCE or (ratio > 1.0) != (refilled > 1.0):
            return current
        found = math.ceil(refilled * current - 1e-9)
        wrong_way = found < current if refilled > 1.0 else found > current
        return current if wrong_way else found
    if abs(1.0 - ratio) <= HPA_TOLERANCE:
        return current
    return math.ceil(ratio * measured - 1e-9)


@dataclass(slots=True)
class Keda:
    """A ScaledObject with a Prometheus trigger on requests a second, threshold as an average per replica.

    From 1 on it is a HorizontalPodAutoscaler on an external metric (replica_calculator.go,
    GetExternalPerPodMetricReplicas); between 0 and 1 KEDA itself: to 1 with any request, to 0 after the cooldown.
    """

    threshold: float
    bounds: Bounds
    window_seconds: float = 60.0
    cooldown_seconds: float = 300.0
    period_seconds: float = 15.0
    lag_seconds: float = SCRAPE_LAG_SECONDS
    wakes: bool = False
    behavior: HpaBehavior = field(init=False)
    _samples: deque[tuple[float, float]] = field(default_factory=deque[tuple[float, float]])
    _active_at: float = 0.0

    def __post_init__(self) -> None:
        self.behavior = HpaBehavior(Bounds(max(self.bounds.minimum, 1), max(self.bounds.maximum, 1)))

    def wanted(self, sample: Sample) -> int:
        """The metric's recommendation, settled; 0 where that is allowed and nothing came for the cooldown."""
        rate = self._rate(sample)
        if rate > 0:
            self._active_at = sample.at
        if sample.wanted == 0:
            return self.bounds.hold(1 if rate > 0 else 0)
        if self.bounds.minimum == 0 and sample.at - self._active_at >= self.cooldown_seconds:
            return 0
        return self.behavior.settle(sample.at, sample.wanted, self._recommended(rate, sample.wanted))

    def _recommended(self, rate: float, current: int) -> int:
        if abs(1.0 - rate / (self.threshold * current)) <= HPA_TOLERANCE:
            return current
        return math.ceil(rate / self.threshold - 1e-9)

    def _rate(self, sample: Sample) -> float:
        self._samples.append((sample.at, sample.arrived))
        while len(self._samples) > 2 and self._samples[1][0] <= sample.at - self.window_seconds:
            self._samples.popleft()
        since, counted = self._samples[0]
        return (sample.arrived - counted) / (sample.at - since) if sample.at > since else 0.0


@dataclass(slots=True)
class Knative:
    """Knative's pod autoscaler on concurrency.

    Source: knative/serving pkg/autoscaler/scaling/autoscaler.go with the defaults of config-autoscaler: a stable window
    of 60 s, a panic window of 6 s, panic at twice of what is ready, up at most by 1000 times and down by half at a tick
    of 2 s, to zero after the stable window and 30 s of grace.
    """

    target: float
    """Requests in flight per replica."""
    bounds: Bounds
    scale_down_delay_seconds: float = 0.0
    stable_seconds: float = 60.0
    panic_seconds: float = 6.0
    panic_threshold: float = 2.0
    max_up_rate: float = 1000.0
    max_down_rate: float = 2.0
    grace_seconds: float = 30.0
    period_seconds: float = 2.0
    lag_seconds: float = 0.0
    wakes: bool = False
    _samples: deque[tuple[float, float]] = field(default_factory=deque[tuple[float, float]])
    _panicked_at: float | None = None
    _panic_replicas: int = 0
    _delayed: deque[tuple[float, int]] = field(default_factory=deque[tuple[float, int]])
    _busy_at: float = 0.0

    def wanted(self, sample: Sample) -> int:
        """What the windows ask for."""
        self._remember(sample)
        stable, panic = self._mean(sample, self.stable_seconds), self._mean(sample, self.panic_seconds)
        ready = max(1, sample.ready)
        most, least = math.ceil(self.max_up_rate * ready), math.floor(ready / self.max_down_rate)
        for_stable, for_panic = math.ceil(stable / self.target), math.ceil(panic / self.target)
        desired = min(max(for_stable, least), most)
        self._watch_panic(sample.at, over=for_panic / ready >= self.panic_threshold)
        if self._panicked_at is not None:
            self._panic_replicas = max(self._panic_replicas, desired, min(max(for_panic, least), most))
            desired = self._panic_replicas
        return self._to_zero(sample, self.bounds.hold(self._delay(sample.at, desired)))

    def _watch_panic(self, now: float, *, over: bool) -> None:
        if over:
            self._panicked_at = now
        elif self._panicked_at is not None and self._panicked_at + self.stable_seconds < now:
            self._panicked_at, self._panic_replicas = None, 0

    def _delay(self, now: float, desired: int) -> int:
        if self.scale_down_delay_seconds <= 0:
            return desired
        while self._delayed and self._delayed[0][0] <= now - self.scale_down_delay_seconds:
            self._delayed.popleft()
        while self._delayed and self._delayed[-1][1] <= desired:
            self._delayed.pop()
        self._delayed.append((now, desired))
        return self._delayed[0][1]

    def _to_zero(self, sample: Sample, desired: int) -> int:
        """Nothing came for the stable window and the grace, or the last replica stays."""
        if desired > 0 or sample.wanted == 0:
            return desired
        return 0 if sample.at - self._busy_at >= self.stable_seconds + self.grace_seconds else 1

    def _remember(self, sample: Sample) -> None:
        if sample.running + sample.waiting > 0:
            self._busy_at = sample.at
        self._samples.append((sample.at, sample.in_flight_seconds))
        while len(self._samples) > 2 and self._samples[1][0] <= sample.at - self.stable_seconds:
            self._samples.popleft()

    def _mean(self, sample: Sample, seconds: float) -> float:
        steps = round(seconds / self.period_seconds)
        since, total = self._samples[max(0, len(self._samples) - 1 - steps)]
        return (sample.in_flight_seconds - total) / (sample.at - since) if sample.at > since else 0.0
