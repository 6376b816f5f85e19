"""Who is measured, and what was measured of them: the topology of a fleet and its signals. PURE."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from .signals import NOT_MEASURED, Known, Signal, Unknown


@dataclass(frozen=True, slots=True, order=True)
class NamespacedName:
    """Names one object of a kind that is known."""

    namespace: str
    name: str

    def __str__(self) -> str:
        return f"{self.namespace}/{self.name}"


@dataclass(frozen=True, slots=True)
class MeasuredPod:
    """A pod that answers, and counts."""

    name: str
    address: str
    """host:port of its /metrics; '': not known yet."""
    ready_at: float
    """Since when it answers; a young one has not been scraped often enough yet to be missed."""
    uid: str = ""


@dataclass(frozen=True, slots=True)
class Routers:
    """The routers of one policy that answer, and what they may call."""

    gateways: tuple[MeasuredPod, ...] = ()
    sidecars: tuple[MeasuredPod, ...] = ()
    targets: frozenset[str] = frozenset()
    """Experts and Fallbacks."""


@dataclass(frozen=True, slots=True)
class ServedExpert:
    """The engines of one Expert that answer, and the policies of its namespace that name it."""

    engines: tuple[MeasuredPod, ...] = ()
    policies: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Fleet:
    """Everything that should be counting now."""

    experts: Mapping[NamespacedName, ServedExpert] = field(default_factory=dict[NamespacedName, ServedExpert])
    routers: Mapping[NamespacedName, Routers] = field(default_factory=dict[NamespacedName, Routers])
    """By RoutingPolicy."""


@dataclass(frozen=True, slots=True)
class Loss:
    """Requests that left an expert for one cause."""

    group: str
    cause: str
    per_second: float


@dataclass(frozen=True, slots=True)
class Losses:
    """Every cause with a count; a cause that is not there lost nothing."""

    by_cause: tuple[Loss, ...]
    age_seconds: float = 0.0

    def of_group(self, group: str) -> Signal:
        """Requests a second that left for any cause of `group`."""
        return Known(sum(loss.per_second for loss in self.by_cause if loss.group == group), self.age_seconds)

    def of_cause(self, cause: str) -> Signal:
        """Requests a second that left for `cause`."""
        return Known(sum(loss.per_second for loss in self.by_cause if loss.cause == cause), self.age_seconds)


@dataclass(frozen=True, slots=True)
class Latencies:
    """How many requests a second took how long, by bucket, as a Prometheus histogram has them."""

    bounds: tuple[float, ...]
    """Upper bounds in seconds, growing; the last is infinite."""
    per_second: tuple[float, ...]
    """Requests of each bucket, not of those below it."""
    age_seconds: float = 0.0

    def above(self, seconds: float) -> Signal:
        """Requests a second that took longer, linear inside the bucket; those above the last bound all did."""
        late = 0.0
        for lower, upper, rate in zip((0.0, *self.bounds), self.bounds, self.per_second, strict=False):
            if lower >= seconds or math.isinf(upper):
                late += rate
            elif upper > seconds:
                late += rate * (upper - seconds) / (upper - lower)
        return Known(late, self.age_seconds)

    def quantile(self, ratio: float) -> Signal:
        """Seconds within which `ratio` of the requests were, as PromQL's histogram_quantile has it."""
        total = sum(self.per_second)
        if total <= 0:
            return Unknown("no request was answered")
        rank = ratio * total
        for lower, upper, rate in zip((0.0, *self.bounds), self.bounds, self.per_second, strict=False):
            if rank <= rate and rate > 0:
                return Known(lower if math.isinf(upper) else lower + (upper - lower) * rank / rate, self.age_seconds)
            rank -= rate
        return Known(self.bounds[-2] if len(self.bounds) > 1 else 0.0, self.age_seconds)


SleepState = Literal["Awake", "WeightsOffloaded", "Discarded"]


@dataclass(frozen=True, slots=True)
class PodSignals:
    """What one engine says of itself."""

    name: str
    running: Signal = NOT_MEASURED
    waiting: Signal = NOT_MEASURED
    """Requests."""
    kv_usage: Signal = NOT_MEASURED
    """Ratio."""
    sleep: SleepState | None = None
    """None: it does not say."""


@dataclass(frozen=True, slots=True)
class ExpertSignals:
    """All that is measured of one Expert. Rates are per second, over the last few scrapes."""

    arrivals: Signal = NOT_MEASURED
    """Requests that were first meant for it, those that never reached it included; of an Expert that no policy names,
    what its engines finish."""
    losses: Losses | Unknown = NOT_MEASURED
    ttft: Latencies | Unknown = NOT_MEASURED
    """Arrival at a router to the first byte for the client, of requests that it answered."""
    tpot_p95: Signal = NOT_MEASURED
    queue_p95: Signal = NOT_MEASURED
    """Seconds."""
    running: Signal = NOT_MEASURED
    waiting: Signal = NOT_MEASURED
    """Requests, all engines."""
    kv_usage: Signal = NOT_MEASURED
    """Ratio, of the fullest engine."""
    preemptions: Signal = NOT_MEASURED
    slot_seconds: Signal = NOT_MEASURED
    """Seconds that requests ran, counted when they finish."""
    finished: Signal = NOT_MEASURED
    prompt_tokens: Signal = NOT_MEASURED
    generation_tokens: Signal = NOT_MEASURED
    """Mean of one request."""
    kv_tokens: Signal = NOT_MEASURED
    """Tokens that the KV cache of the smallest engine holds."""
    pods: tuple[PodSignals, ...] = ()

    def lost(self, group: str) -> Signal:
        """Requests a second that left it for a cause of `group`."""
        return self.losses if isinstance(self.losses, Unknown) else self.losses.of_group(group)

    def lost_for(self, cause: str) -> Signal:
        """Requests a second that left it for `cause`."""
        return self.losses if isinstance(self.losses, Unknown) else self.losses.of_cause(cause)

    def late(self, objective_seconds: float) -> Signal:
        """Requests a second that it answered later than an objective."""
        return self.ttft if isinstance(self.ttft, Unknown) else self.ttft.above(objective_seconds)

    def ttft_quantile(self, ratio: float) -> Signal:
        """Seconds to the first byte."""
        return self.ttft if isinstance(self.ttft, Unknown) else self.ttft.quantile(ratio)

    @property
    def tokens_per_request(self) -> Signal:
        """Mean of prompt and answer together."""
        prompt, generation = self.prompt_tokens, self.generation_tokens
        if isinstance(prompt, Unknown) or isinstance(generation, Unknown):
            return prompt if isinstance(prompt, Unknown) else generation
        return Known(prompt.value + generation.value, max(prompt.age_seconds, generation.age_seconds))


@dataclass(frozen=True, slots=True)
class FleetSignals:
    """All that is measured of a fleet at one moment."""

    experts: Mapping[NamespacedName, ExpertSignals]
    """Every Expert of the fleet is there."""
    request_usd: Mapping[NamespacedName, Signal]
    """Mean dollars of an answered request, over the last hour, by the Fallback or Expert that was called."""
    problems: tuple[str, ...] = ()
    """What whoever runs the monitoring should know."""


@dataclass(frozen=True, slots=True)
class History:
    """What is remembered of one Expert."""

    until: float
    """When the newest of `demand` was, in seconds since the epoch by this machine's clock."""
    step_seconds: float
    demand: tuple[float | None, ...]
    """Requests a second that were first meant for it, evenly spaced, oldest first; None where nobody counted."""
    slot_seconds: Signal = NOT_MEASURED
    """Mean of one request over that time."""
