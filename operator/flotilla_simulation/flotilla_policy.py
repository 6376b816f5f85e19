"""The operator's own `decide()`, fed with what Prometheus would say of the simulated replicas."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

from flotilla_operator.scaling.decide import decide
from flotilla_operator.scaling.signals import Known
from flotilla_operator.scaling.types import TUNING, Decision, Observation, Replicas, State, Target, Tuning

from .policies import SCRAPE_LAG_SECONDS
from .replicas import Sample, ttft_quantile

RATE_WINDOW_SECONDS = 15.0
"""Between two scrapes, as the operator's queries take rates."""


@dataclass(slots=True)
class Flotilla:
    """Keeps `decide`'s state from tick to tick."""

    target: Target
    tuning: Tuning = TUNING
    window_seconds: float = RATE_WINDOW_SECONDS
    period_seconds: float = 15.0
    lag_seconds: float = SCRAPE_LAG_SECONDS
    wakes: bool = True
    waits: bool = False
    """Whether requests that find no replica wait for one, instead of being answered elsewhere."""
    state: State = field(default_factory=lambda: State(born_at=None))
    last: Decision | None = None
    _awaited_at: float | None = None
    _samples: deque[Sample] = field(default_factory=deque[Sample])

    def wanted(self, sample: Sample) -> int:
        """What `decide` says."""
        self._samples.append(sample)
        while len(self._samples) > 2 and self._samples[1].at <= sample.at - self.window_seconds:
            self._samples.popleft()
        decision = decide(self.observe(sample), self.target, self.state, sample.at + self.lag_seconds, self.tuning)
        self.state, self.last = decision.state, decision
        return decision.replicas

    def observe(self, sample: Sample) -> Observation:
        """The last scrapes, as `decide` reads them."""
        before = self._samples[0]
        seconds = max(sample.at - before.at, 1e-9)

        def rate(now: float, then: float) -> Known:
            return Known((now - then) / seconds, self.lag_seconds)

        woken = sample.at if sample.wanted == 0 and sample.arrived > before.arrived else None
        if self.waits and woken is not None:
            self._awaited_at = woken
        return Observation(
            replicas=Replicas(sample.wanted, sample.ready, sample.pending_ages),
            arrivals=rate(sample.arrived, before.arrived),
            capacity_losses=rate(sample.lost, before.lost),
            quality_losses=Known(0.0),
            late=rate(sample.late, before.late),
            slot_seconds=rate(sample.slot_seconds, before.slot_seconds),
            finished=rate(sample.finished, before.finished),
            running=Known(float(sample.running), self.lag_seconds),
            waiting=Known(float(sample.waiting), self.lag_seconds),
            kv_usage=Known(sample.kv_usage, self.lag_seconds),
            preemptions=Known(0.0),
            ttft_p95=Known(ttft_quantile(sample.ttft - before.ttft, 0.95), self.lag_seconds),
            woken_at=woken,
            awaited_at=self._awaited_at,
            measured_at=self._measured_at(sample.at + self.lag_seconds),
        )

    def _measured_at(self, now: float) -> float:
        """A wake soon after a tick sees what that has seen; after a later one the next tick is a whole period away."""
        last = self.state.learned_at
        return now if last is None or now - last >= self.period_seconds / 2 else last
