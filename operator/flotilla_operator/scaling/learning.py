"""What is learned from ticks: a request's slot-seconds, an expert's demand, and since when something holds. PURE."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import pairwise

from .batching import full_batch_seconds, learn_batching
from .signals import Known, Signal, fresh, value_of
from .types import Batching, BatchTick, Observation, State, Target, Tuning

TTFT_P95 = "ttftP95"
"""The objective that says which requests are late."""
KNOWN_RATIO = 0.9
"""Of the last hour, without which it counts as unknown: scrapes may be missed now and then."""


def learn(observation: Observation, target: Target, state: State, now: float, tuning: Tuning) -> State:
    """`state` after one more measurement; the same one again, as after a wake, says nothing new."""
    measured_at = now if observation.measured_at is None else observation.measured_at
    if measured_at <= (-math.inf if state.learned_at is None else state.learned_at):
        return state
    learned = replace(
        state,
        learned_at=measured_at,
        batching=_learn_batching(observation, target, state.batching, tuning),
        zero_since=None if is_loading(observation, target, tuning) else _zero_since(observation, state, now),
        missed_ticks=state.missed_ticks + 1 if missed_objectives(observation, target) else 0,
    )
    since, arrivals = now - tuning.history_seconds, fresh(observation.arrivals)
    demand, partial = _recent(state.demand, since), _recent(state.partial, since)
    if isinstance(arrivals, Known):
        learned = replace(learned, born_at=now if state.born_at is None else state.born_at)
        demand = (*demand, (now, estimate_demand(arrivals.value, observation, target, learned, tuning)))
    elif arrivals.at_least > 0:
        partial = (*partial, (now, arrivals.at_least))
    return replace(learned, demand=demand, partial=partial)


def is_whole(state: State, now: float, tuning: Tuning) -> bool:
    """Whether hardly anything of the last hour is missing, as far back as the expert goes."""
    if state.born_at is None or not state.demand:
        return False
    return _known_seconds(state, tuning) >= KNOWN_RATIO * min(tuning.history_seconds, now - state.born_at)


def _known_seconds(state: State, tuning: Tuning) -> float:
    """A sample tells of the time since the one before, if that is a tick or two."""
    times = [at for at, _ in state.demand]
    return tuning.tick_seconds + sum(min(later - at, 2 * tuning.tick_seconds) for at, later in pairwise(times))


def _learn_batching(
    observation: Observation, target: Target, known: Batching | None, tuning: Tuning
) -> Batching | None:
    """From ticks in which enough requests finished; saturated ones count too."""
    finished, busy, ready = fresh(observation.finished), fresh(observation.slot_seconds), observation.replicas.ready
    if not (isinstance(finished, Known) and isinstance(busy, Known)) or ready == 0:
        return known
    if finished.value * tuning.tick_seconds < tuning.learning_requests:
        return known
    load = min(1.0, busy.value / (ready * usable_slots(observation, target)))
    return learn_batching(known, BatchTick(busy.value, finished.value, load), tuning)


def usable_slots(observation: Observation, target: Target) -> float:
    """Requests that run at once on one replica: its slots, or as many as its KV cache holds."""
    tokens, cache = value_of(observation.tokens_per_request), value_of(observation.kv_tokens)
    if tokens <= 0 or cache <= 0:
        return float(target.slots)
    return min(float(target.slots), max(cache / tokens, 1.0))


def replica_capacity(observation: Observation, target: Target, state: State, tuning: Tuning) -> float:
    """Requests a second that one replica is planned to take; always positive.

    utilization x usable slots / slot-seconds a request in a full batch.
    """
    known = state.batching
    seconds = target.prior_slot_seconds if known is None else full_batch_seconds(known, tuning)
    return tuning.utilization * usable_slots(observation, target) / seconds


def estimate_demand(arriving: float, observation: Observation, target: Target, state: State, tuning: Tuning) -> float:
    """Requests a second.

    Arrivals, and in a tick with losses at least what the ready replicas take plus the losses: then they take less than
    is thought. Late requests are losses only where something is full. Escalations for quality used a slot, so they
    never count.
    """
    losses = value_of(observation.capacity_losses)
    if is_saturated(observation, target, tuning):
        losses += value_of(observation.late)
    if not tuning.censoring or losses <= 0 or observation.replicas.ready == 0:
        return arriving
    return max(arriving, observation.replicas.ready * replica_capacity(observation, target, state, tuning) + losses)


def is_saturated(observation: Observation, target: Target, tuning: Tuning) -> bool:
    """Whether more replicas would let requests start sooner: something waits, or slots or the KV cache are full."""
    slots = observation.replicas.ready * target.slots
    return (
        value_of(observation.waiting) > 0
        or value_of(observation.kv_usage) > tuning.kv_usage_saturated
        or value_of(observation.preemptions) > 0
        or _above(observation.queue_p95, target.objectives.queue_p95)
        or (slots > 0 and value_of(observation.running) >= tuning.slots_saturated * slots)
    )


def missed_objectives(observation: Observation, target: Target) -> tuple[str, ...]:
    """The names of the latency objectives that are missed now."""
    wanted = target.objectives
    pairs = (
        (TTFT_P95, observation.ttft_p95, wanted.ttft_p95),
        ("queueP95", observation.queue_p95, wanted.queue_p95),
        ("tpotP95", observation.tpot_p95, wanted.tpot_p95),
    )
    return tuple(name for name, signal, bound in pairs if _above(signal, bound))


def stalled_pods(observation: Observation, target: Target, tuning: Tuning) -> int:
    """Pods that should have started long ago."""
    limit = tuning.stalled_factor * _usual_cold_start(observation.replicas.cold_starts, target, tuning)
    return sum(age > limit for age in observation.replicas.pending_ages)


def is_loading(observation: Observation, target: Target, tuning: Tuning) -> bool:
    """Whether nobody can use it yet, but soon will: that nothing is asked of it meanwhile says nothing."""
    replicas = observation.replicas
    return replicas.ready == 0 and len(replicas.pending_ages) > stalled_pods(observation, target, tuning)


def _usual_cold_start(seen: tuple[float, ...], target: Target, tuning: Tuning) -> float:
    """The 95th percentile; with few samples the larger of the prior and the longest."""
    if len(seen) < tuning.cold_start_samples:
        return max((target.prior_cold_start_seconds, *seen))
    return sorted(seen)[min(len(seen) - 1, int(0.95 * len(seen)))]


def _zero_since(observation: Observation, state: State, now: float) -> float | None:
    """Only while demand and what is in the engines are confirmed zeros."""
    signals = (observation.arrivals, observation.running, observation.waiting)
    if any(value_of(signal, default=1.0) > 0 for signal in signals) or value_of(observation.finished) > 0:
        return None
    return now if state.zero_since is None else state.zero_since


def _recent(demand: tuple[tuple[float, float], ...], since: float) -> tuple[tuple[float, float], ...]:
    first = next((index for index, (at, _) in enumerate(demand) if at > since), len(demand))
    return demand[first:]


def _above(signal: Signal, bound: float | None) -> bool:
    found = fresh(signal)
    return bound is not None and isinstance(found, Known) and found.value > bound
