"""What `decide` reads and says. PURE: times are seconds since the epoch, rates are per second."""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import StrEnum

from .signals import NOT_MEASURED, Signal


@dataclass(frozen=True, slots=True)
class Replicas:
    """An expert's pods, as the Kubernetes API tells of them."""

    wanted: int
    """What its Deployment asks for."""
    ready: int
    """Pods that answer, or would if they did not sleep."""
    pending_ages: tuple[float, ...] = ()
    """Seconds since the creation of each pod that does not answer yet."""
    cold_starts: tuple[float, ...] = ()
    """Seconds from creation to the first answer, of pods that are known, the newest last."""


@dataclass(frozen=True, slots=True)
class Observation:
    """What is known of one expert now. Rates are over the last few scrapes."""

    replicas: Replicas
    arrivals: Signal
    """Requests a second that were first meant for the expert, those that never reached it included."""
    capacity_losses: Signal = NOT_MEASURED
    """Requests a second that left it because its replicas were full; not those that found none, which say nothing of
    what a replica takes."""
    quality_losses: Signal = NOT_MEASURED
    """Requests a second that it answered below the bar: they took a slot, and more slots would not help them."""
    late: Signal = NOT_MEASURED
    """Requests a second whose first token came later than the objective."""
    slot_seconds: Signal = NOT_MEASURED
    """Seconds of slots that requests held, a second."""
    finished: Signal = NOT_MEASURED
    """Requests a second whose `slot_seconds` these are."""
    running: Signal = NOT_MEASURED
    waiting: Signal = NOT_MEASURED
    """Requests in engines, all replicas."""
    kv_usage: Signal = NOT_MEASURED
    """Ratio, of the fullest replica."""
    preemptions: Signal = NOT_MEASURED
    """A second."""
    ttft_p95: Signal = NOT_MEASURED
    tpot_p95: Signal = NOT_MEASURED
    queue_p95: Signal = NOT_MEASURED
    """Seconds."""
    tokens_per_request: Signal = NOT_MEASURED
    """Prompt and answer."""
    kv_tokens: Signal = NOT_MEASURED
    """Tokens that the KV cache of one replica holds."""
    woken_at: float | None = None
    """When a router last asked for a replica."""
    awaited_at: float | None = None
    """When it last did so for a request that nobody else may answer."""
    measured_at: float | None = None
    """When all this was measured; None: now."""


@dataclass(frozen=True, slots=True)
class Objectives:
    """What the spec asks for; seconds and ratios; None: nothing is said."""

    ttft_p95: float | None = None
    queue_p95: float | None = None
    tpot_p95: float | None = None
    escalation_ratio: float | None = None
    """Of arrivals, capacity causes only."""

    @property
    def any(self) -> bool:
        """Whether anything is asked for."""
        return any(each is not None for each in (self.ttft_p95, self.queue_p95, self.tpot_p95, self.escalation_ratio))


@dataclass(frozen=True, slots=True)
class Target:
    """What one expert's spec and its surroundings say, every default resolved."""

    minimum: int
    maximum: int
    slots: int
    """Requests that run at once on one replica."""
    replica_usd_per_hour: float | None = None
    """Of the GPUs of one replica; None: unknown."""
    loss_usd: float | None = None
    """What one lost or late request costs: the fallback's price for it; None: unknown."""
    objectives: Objectives = Objectives()
    slo_floor: bool = False
    scheduled_minimum: int = 0
    """Of the schedules that hold now."""
    override: int | None = None
    """A manual number that has not expired."""
    idle_after_seconds: float = 900.0
    prior_slot_seconds: float = 4.0
    """Of one request, until it is measured."""
    prior_cold_start_seconds: float = 120.0


@dataclass(frozen=True, slots=True)
class BatchTick:
    """What one tick tells of batches, or a few smoothed."""

    busy: float
    """Slot-seconds a second."""
    finished: float
    """Requests a second; positive."""
    load: float
    """Busy slots by those of the ready replicas, from 0 to 1."""


@dataclass(frozen=True, slots=True)
class BatchLine:
    """How the logarithm of a request's slot-seconds grows with the load: weighted moments."""

    load: float
    log_seconds: float
    """Means."""
    variance: float = 0.0
    """Of the load."""
    covariance: float = 0.0
    ticks: int = 1


@dataclass(frozen=True, slots=True)
class Batching:
    """Slot-seconds of a request by how full the batches are; see batching.py."""

    seconds: float
    """Of a request, over the last minutes."""
    load: float | None = None
    """At which that was; None: unknown, as of what others remember."""
    smoothed: BatchTick | None = None
    line: BatchLine | None = None


@dataclass(frozen=True, slots=True)
class State:
    """What `decide` carries from tick to tick. A new one is right, only less informed."""

    batching: Batching | None = None
    """Learned slot-seconds of one request."""
    demand: tuple[tuple[float, float], ...] = ()
    """(when, requests a second) of the last hour, oldest first."""
    partial: tuple[tuple[float, float], ...] = ()
    """The same of moments in which not all who count were asked: there was at least so much."""
    born_at: float | None = -math.inf
    """Since when there has been anything to know; None: since the first sample."""
    zero_since: float | None = None
    """Since when demand has been a confirmed zero, of an expert that could be used."""
    below_since: float | None = None
    """Since when fewer replicas were right than there are."""
    shrunk_at: float | None = None
    missed_ticks: int = 0
    """Ticks in a row in which an objective was missed."""
    learned_at: float | None = None
    """When what was learned last had been measured."""


class Rule(StrEnum):
    """What bound a decision; each with one sentence for the person who reads it."""

    ECONOMICS = "Economics"
    """The number at which GPUs and lost requests together cost least."""
    FALLBACK_CHEAPER = "FallbackCheaper"
    """A GPU would cost more than the requests that it saves."""
    OBJECTIVE = "Objective"
    """An objective asks for more than dollars do."""
    SLO_FLOOR = "SloFloor"
    """sloFloor asks for the 95th percentile of the last hour's demand."""
    SCHEDULE = "Schedule"
    """A schedule's minimum holds now."""
    MINIMUM = "Minimum"
    """scaling.min."""
    MAXIMUM = "Maximum"
    """scaling.max."""
    OVERRIDE = "Override"
    """scaling.override."""
    WOKEN = "Woken"
    """A request asked for a replica."""
    IDLE = "Idle"
    """No demand for idleAfter."""
    METRICS_UNKNOWN = "MetricsUnknown"
    """Demand is unknown, or known in part: nothing shrinks."""
    PRICE_UNKNOWN = "PriceUnknown"
    """Neither prices nor objectives are known, so nothing says how many are right."""
    SHRINK_DELAYED = "ShrinkDelayed"
    """Fewer would do, but not for long enough yet."""
    HISTORY_MISSING = "HistoryMissing"
    """Fewer would do by what is known, but the last hour is not known yet."""
    STARTUP_STALLED = "StartupStalled"
    """Pods take much longer to start than they should; more of them would not help."""
    ACCELERATORS = "Accelerators"
    """Other experts' replicas are worth more, and there are too few GPUs."""


class Note(StrEnum):
    """What else a decision says of an expert."""

    LATENCY_NOT_CAPACITY_BOUND = "LatencyNotCapacityBound"
    """An objective is missed though nothing is full: scaling will not help."""
    QUALITY_BOUND = "QualityBound"
    """Answers are escalated for their quality: scaling will not help."""
    STARTUP_STALLED = "StartupStalled"
    FALLBACK_CHEAPER = "FallbackCheaper"


@dataclass(frozen=True, slots=True)
class Input:
    """A value that a decision was made from."""

    name: str
    value: float | None
    """None: unknown."""
    age_seconds: float | None = None


@dataclass(frozen=True, slots=True)
class Decision:
    """How many replicas, and why."""

    replicas: int
    rule: Rule
    message: str
    """One sentence with the numbers that bound it."""
    counterfactual: str
    """What the next GPU would have to save, in dollars; '' where prices are unknown."""
    inputs: tuple[Input, ...]
    notes: frozenset[Note]
    floor: int
    """The least that is allowed now: min, schedules, a wake, and what has not waited long enough to shrink."""
    usd_per_hour: tuple[float, ...]
    """GPUs and expected losses with 0, 1, ... `replicas` replicas; empty where prices are unknown."""
    state: State


@dataclass(frozen=True, slots=True)
class Tuning:
    """The rules' constants; the simulator measures what each is worth."""

    tick_seconds: float = 15.0
    utilization: float = 0.8
    """Of the slots, that is planned with."""
    smoothing_weight: float = 0.3
    """Of a tick in what the slot-seconds are learned from: busy slots are in them and in the load alike, so that their
    noise would look like a slope."""
    learning_weight: float = 0.02
    """Of a tick in the learned slot-seconds."""
    line_weight: float = 0.003
    """Of a tick in how they grow with the load, which lasts longer than what prompts are about."""
    batching_prior: float = 2.0
    """How many times as long a request holds its slot in a full batch as alone, until loads have shown it."""
    batching_ridge: float = 0.003
    """How much the loads must vary (a variance) to count as much as that prior."""
    learning_requests: float = 5.0
    """Least finished requests for a tick to count."""
    recency_seconds: float = 30.0
    """A sample of demand weighs 1 / (age + this) in the expected losses."""
    recent_seconds: float = 60.0
    """Whose highest demand objectives ask for where prices are unknown."""
    history_seconds: float = 3600.0
    shrink_after_seconds: float = 300.0
    shrink_again_seconds: float = 150.0
    shrink_ratio: float = 0.5
    """Of the gap, that goes at a time, rounded up."""
    kv_usage_saturated: float = 0.8
    slots_saturated: float = 0.9
    missed_ticks: int = 2
    stalled_factor: float = 1.5
    cold_start_samples: int = 10
    censoring: bool = True
    """Whether lost requests raise demand above the arrivals."""


TUNING = Tuning()
