"""Experts as `decide` sees them, and a life of one in ticks."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

from flotilla_operator.scaling.decide import decide
from flotilla_operator.scaling.signals import Known, Signal
from flotilla_operator.scaling.types import Decision, Observation, Replicas, State, Target, Tuning

NOW = 1_000_000.0
TUNING = Tuning(
    tick_seconds=15.0,
    utilization=0.5,
    learning_weight=0.1,
    smoothing_weight=1.0,
    batching_prior=1.0,
    learning_requests=5.0,
    recent_seconds=60.0,
    recency_seconds=30.0,
    history_seconds=3600.0,
    shrink_after_seconds=300.0,
    shrink_again_seconds=150.0,
    shrink_ratio=0.5,
    kv_usage_saturated=0.8,
    slots_saturated=0.9,
    missed_ticks=2,
    stalled_factor=1.5,
    cold_start_samples=10,
)
"""The constants of these tests, whatever the scaler's own are."""
SLOT_SECONDS = 4.0


def a_target(**changes: Any) -> Target:
    """A replica takes 1 request/s (half of 8 slots, 4 s each), and costs what 400 lost requests do."""
    made = Target(
        minimum=0, maximum=10, slots=8, replica_usd_per_hour=0.80, loss_usd=0.002, prior_slot_seconds=SLOT_SECONDS
    )
    return replace(made, **changes)


def measured(rate: float, *, wanted: int = 1, ready: int | None = None, **signals: float) -> Observation:
    """`rate` requests a second arrive; all that is measured is fresh."""
    known: dict[str, Any] = {
        name: Known(float(value)) for name, value in ({"running": 0, "waiting": 0} | signals).items()
    }
    return Observation(Replicas(wanted, wanted if ready is None else ready), arrivals=Known(rate), **known)


def past(rate: float, *, seconds: float = 3600.0, until: float = NOW, **changes: Any) -> State:
    """An hour of the same demand is known, up to a tick before `until`."""
    ticks = int(seconds / TUNING.tick_seconds)
    demand = tuple((until - TUNING.tick_seconds * (ticks - index), rate) for index in range(ticks))
    return replace(State(demand=demand, born_at=until - seconds), **changes)


@dataclass(slots=True)
class Life:
    """One expert, tick after tick; what is decided is there at the next one."""

    target: Target
    state: State = field(default_factory=State)
    replicas: int = 1
    now: float = NOW
    awaited_at: float | None = None
    said: list[Decision] = field(default_factory=list[Decision])

    def tick(self, rate: float | Signal, **signals: float) -> Decision:
        """One tick with this demand."""
        arrivals = Known(float(rate)) if isinstance(rate, int | float) else rate
        seen = measured(0.0, wanted=self.replicas, ready=None, **signals)
        seen = replace(seen, arrivals=arrivals, awaited_at=self.awaited_at)
        return self._decide(seen)

    def _decide(self, seen: Observation) -> Decision:
        found = decide(seen, self.target, self.state, self.now, TUNING)
        self.state, self.replicas = found.state, found.replicas
        self.said.append(found)
        self.now += TUNING.tick_seconds
        return found

    def run(self, rate: float | Signal, seconds: float, **signals: float) -> list[int]:
        """The numbers over `seconds` of the same demand."""
        return [self.tick(rate, **signals).replicas for _ in range(int(seconds / TUNING.tick_seconds))]

    def load(self, *, ready_after: float, seconds: float) -> None:
        """A request woke it and went elsewhere; its pod answers after so many seconds, and nobody asks again."""
        woken = self.now
        while self.now - woken < seconds:
            age = self.now - woken
            ready = self.replicas if age >= ready_after else 0
            seen = measured(0.0, wanted=self.replicas, ready=ready)
            pods = replace(seen.replicas, pending_ages=(age,) * (self.replicas - ready))
            self._decide(replace(seen, replicas=pods, woken_at=woken))
