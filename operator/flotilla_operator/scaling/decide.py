"""How many replicas one expert should have now. PURE: time is an argument, and the simulator calls the same function.

| override | demand  | idle | prices  | wished for                                                |
|----------|---------|------|---------|-----------------------------------------------------------|
| yes      |         |      |         | the override                                              |
| no       | unknown |      |         | what is there                                             |
| no       | in part |      |         | as below by that part, but no less than what is there     |
| no       | known   | yes  |         | 0                                                         |
| no       | known   | no   | known   | what costs least, raised by objectives and sloFloor       |
| no       | known   | no   | unknown | what objectives ask for; without any what is there        |

idle: min is 0, and demand has been a confirmed zero for idleAfter, in which no first replica loaded. The last replica
goes only so, or when a whole hour has shown that the fallback costs less.
Then: never below min, a schedule or a wake; never above max; more at once; fewer only after a while, and by halves.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from .economics import SECONDS_PER_HOUR, Losses, Prices, cheapest
from .learning import (
    TTFT_P95,
    is_loading,
    is_saturated,
    is_whole,
    learn,
    missed_objectives,
    replica_capacity,
    stalled_pods,
)
from .signals import Known, Signal, Unknown, fresh, value_of
from .types import TUNING, Decision, Input, Note, Observation, Rule, State, Target, Tuning

QUALITY_BOUND_RATIO = 0.3
"""Of arrivals: with more than this escalated for quality, most of what a small model saves is paid twice. A cascade
that works escalates some of its answers all the time, which is no complaint."""


@dataclass(frozen=True, slots=True)
class _Wish:
    """A number and what asks for it."""

    replicas: int
    rule: Rule


@dataclass(frozen=True, slots=True)
class _Situation:
    """What all steps of one decision look at."""

    observation: Observation
    target: Target
    state: State
    """With this tick learned."""
    now: float
    tuning: Tuning
    demand: Sequence[tuple[float, float]]
    """(when, requests a second) of the last hour, oldest first; moments known in part only while now is one."""
    losses: Losses
    prices: Prices | None

    @property
    def current(self) -> int:
        """Replicas that are asked for now."""
        return self.observation.replicas.wanted


def decide(observation: Observation, target: Target, state: State, now: float, tuning: Tuning = TUNING) -> Decision:
    """The decision and the state for the next one. Bounded by min and max; unknown demand never shrinks."""
    situation = _look(observation, target, state, now, tuning)
    floor = _floor(situation)
    wish = _cap(situation, _raise_to(floor, _wish(situation)))
    settled, learned = _settle(situation, wish)
    return Decision(
        replicas=settled.replicas,
        rule=settled.rule,
        message=_message(situation, settled, wish),
        counterfactual=_counterfactual(situation),
        inputs=_inputs(situation),
        notes=_notes(situation, wish),
        floor=min(floor.replicas, settled.replicas),
        usd_per_hour=_curve(situation, settled.replicas),
        state=learned,
    )


def _look(observation: Observation, target: Target, state: State, now: float, tuning: Tuning) -> _Situation:
    learned = learn(observation, target, state, now, tuning)
    capacity = replica_capacity(observation, target, learned, tuning)
    prices = None
    if target.replica_usd_per_hour is not None and target.loss_usd is not None:
        prices = Prices(target.replica_usd_per_hour, target.loss_usd)
    demand = learned.demand
    if isinstance(fresh(observation.arrivals), Unknown):
        demand = tuple(sorted((*demand, *learned.partial)))
    losses = Losses.of(demand, capacity, now, tuning)
    return _Situation(observation, target, learned, now, tuning, demand, losses, prices)


def _wish(situation: _Situation) -> _Wish:
    """The number before bounds and delays; see the table above."""
    target = situation.target
    if target.override is not None:
        return _Wish(target.override, Rule.OVERRIDE)
    arrivals = fresh(situation.observation.arrivals)
    if isinstance(arrivals, Unknown):
        return _by_part(situation, arrivals.at_least)
    if target.minimum == 0 and _is_idle(situation):
        return _Wish(0, Rule.IDLE)
    return _limited_by_startup(situation, _by_demand(situation))


def _by_part(situation: _Situation, at_least: float) -> _Wish:
    """More where what is known of demand is enough for that; never less."""
    if at_least > 0:
        wish = _limited_by_startup(situation, _by_demand(situation))
        if min(wish.replicas, situation.target.maximum) > situation.current:
            return wish
    return _Wish(situation.current, Rule.METRICS_UNKNOWN)


def _by_demand(situation: _Situation) -> _Wish:
    target, losses = situation.target, situation.losses
    if situation.prices is None and not target.objectives.any:
        return _Wish(situation.current, Rule.PRICE_UNKNOWN)
    if situation.prices is None:
        wish = _Wish(_covering(situation, max(_peak(situation), losses.hour.quantile(0.95))), Rule.OBJECTIVE)
    else:
        # One more than max, and less than min, so that the rule tells which of them bound it.
        wish = _Wish(cheapest(situation.prices, losses, _economic_least(situation), target.maximum + 1), Rule.ECONOMICS)
    if target.slo_floor:
        wish = _raise_to(_Wish(_covering(situation, losses.hour.quantile(0.95)), Rule.SLO_FLOOR), wish)
    return _raise_to(_Wish(_objective_floor(situation), Rule.OBJECTIVE), wish)


def _economic_least(situation: _Situation) -> int:
    """Dollars alone end the last replica only where an hour has shown that it does not pay."""
    if situation.target.minimum > 0 or situation.current == 0 or _is_known_not_to_pay(situation):
        return 0
    return min(1, situation.target.maximum)


def _objective_floor(situation: _Situation) -> int:
    """What the objectives ask for beyond dollars.

    escalationRatio: the least number whose expected losses are within it. A latency objective that is missed while
    something is full: one replica more than answer now; ttftP95 only where late requests have no price.
    """
    target, losses, floor = situation.target, situation.losses, 0
    ratio = target.objectives.escalation_ratio
    arriving = losses.per_second(0)
    if ratio is not None and arriving > 0:
        while floor < target.maximum and losses.per_second(floor) > ratio * arriving:
            floor += 1
    missed = situation.state.missed_ticks >= situation.tuning.missed_ticks
    asked = set(missed_objectives(situation.observation, target)) - ({TTFT_P95} if situation.prices else set())
    if asked and missed and is_saturated(situation.observation, target, situation.tuning):
        floor = max(floor, situation.observation.replicas.ready + 1)
    return floor


def _covering(situation: _Situation, rate: float) -> int:
    """Replicas that take `rate` requests a second."""
    return math.ceil(rate / situation.losses.capacity - 1e-9)


def _peak(situation: _Situation) -> float:
    since = situation.now - situation.tuning.recent_seconds
    return max((rate for at, rate in situation.demand if at > since), default=0.0)


def _limited_by_startup(situation: _Situation, wish: _Wish) -> _Wish:
    """No growth while pods stall: more of them would not start either."""
    stalled = stalled_pods(situation.observation, situation.target, situation.tuning)
    if stalled and min(wish.replicas, situation.target.maximum) > situation.current:
        return _Wish(situation.current, Rule.STARTUP_STALLED)
    return wish


def _is_idle(situation: _Situation) -> bool:
    since = situation.state.zero_since
    return since is not None and situation.now - since >= situation.target.idle_after_seconds


def _is_woken(situation: _Situation) -> bool:
    """Whether a request asked for a replica within idleAfter, and for as long as the first one loads.

    Where the scaler only recommends, no router says so: then demand does while there is no replica.
    """
    observation, target = situation.observation, situation.target
    woken, since = observation.woken_at, situation.now - target.idle_after_seconds
    if woken is not None and (woken > since or is_loading(observation, target, situation.tuning)):
        return True
    return situation.current == 0 and any(rate > 0 and at > since for at, rate in situation.demand)


def _floor(situation: _Situation) -> _Wish:
    """The least that is allowed, whatever demand says. A wake counts unless an hour has shown that it does not pay."""
    target = situation.target
    floor = _raise_to(_Wish(target.scheduled_minimum, Rule.SCHEDULE), _Wish(target.minimum, Rule.MINIMUM))
    if target.override is None and _is_woken(situation) and not _is_known_not_to_pay(situation):
        floor = _raise_to(_Wish(1, Rule.WOKEN), floor)
    return floor


def _is_known_not_to_pay(situation: _Situation) -> bool:
    """Whether a whole hour of demand has shown that the fallback costs less than one replica.

    An hour in which nobody asked has shown nothing, nor has one in which a request waited: no fallback answered it.
    """
    state, now, tuning = situation.state, situation.now, situation.tuning
    if situation.prices is None or not state.demand or _was_awaited(situation):
        return False
    hour_ago = now - tuning.history_seconds
    whole = state.demand[0][0] <= hour_ago + 2 * tuning.tick_seconds and is_whole(state, now, tuning)
    return whole and situation.losses.hour.expected(0) > 0 and cheapest(situation.prices, situation.losses, 0, 1) == 0


def _was_awaited(situation: _Situation) -> bool:
    """Whether a request waited for a replica within the last hour."""
    at = situation.observation.awaited_at
    return at is not None and situation.now - at < situation.tuning.history_seconds


def _raise_to(floor: _Wish, wish: _Wish) -> _Wish:
    return floor if floor.replicas > wish.replicas else wish


def _cap(situation: _Situation, wish: _Wish) -> _Wish:
    most = situation.target.maximum
    return _Wish(most, Rule.MAXIMUM) if wish.replicas > most else wish


def _settle(situation: _Situation, wish: _Wish) -> tuple[_Wish, State]:
    """Grow at once; shrink after a while, by halves. What a person, a bound or idleness says goes at once."""
    state, current, now = situation.state, situation.current, situation.now
    bounded = min(current, situation.target.maximum)
    if wish.replicas >= bounded or wish.rule in (Rule.OVERRIDE, Rule.IDLE):
        return wish, replace(state, below_since=None)
    state = replace(state, below_since=now if state.below_since is None else state.below_since)
    if not is_whole(state, now, situation.tuning):
        return _Wish(bounded, Rule.HISTORY_MISSING), state
    if not _may_shrink(state, now, situation.tuning):
        return _Wish(bounded, Rule.SHRINK_DELAYED), state
    step = math.ceil((bounded - wish.replicas) * situation.tuning.shrink_ratio)
    return replace(wish, replicas=bounded - step), replace(state, shrunk_at=now)


def _may_shrink(state: State, now: float, tuning: Tuning) -> bool:
    assert state.below_since is not None
    if now - state.below_since < tuning.shrink_after_seconds:
        return False
    return state.shrunk_at is None or now - state.shrunk_at >= tuning.shrink_again_seconds


def _curve(situation: _Situation, most: int) -> tuple[float, ...]:
    prices, losses = situation.prices, situation.losses
    if prices is None:
        return ()
    return tuple(prices.total_usd_per_hour(replicas, losses) for replicas in range(most + 1))


def _notes(situation: _Situation, wish: _Wish) -> frozenset[Note]:
    observation, target, tuning = situation.observation, situation.target, situation.tuning
    arrivals = value_of(observation.arrivals)
    quality, capacity = value_of(observation.quality_losses), value_of(observation.capacity_losses)
    missed = situation.state.missed_ticks >= tuning.missed_ticks
    found = {
        Note.LATENCY_NOT_CAPACITY_BOUND: missed and not is_saturated(observation, target, tuning),
        Note.QUALITY_BOUND: quality > QUALITY_BOUND_RATIO * arrivals and quality > capacity,
        Note.STARTUP_STALLED: stalled_pods(observation, target, tuning) > 0,
        Note.FALLBACK_CHEAPER: _fallback_cheaper(situation, wish),
    }
    return frozenset(note for note, holds in found.items() if holds)


def _fallback_cheaper(situation: _Situation, wish: _Wish) -> bool:
    """Requests are lost at the least number, and one replica more would cost more than they do."""
    prices, losses, least = situation.prices, situation.losses, situation.target.minimum
    if prices is None or wish.rule not in (Rule.ECONOMICS, Rule.MINIMUM) or wish.replicas != least:
        return False
    return losses.per_second(least) > 0 and cheapest(prices, losses, least, least + 1) == least


def _message(situation: _Situation, settled: _Wish, wish: _Wish) -> str:
    """What bound it, with its numbers."""
    demand, target, arrivals = situation.demand, situation.target, fresh(situation.observation.arrivals)
    rate = f"{demand[-1][1]:.2f} requests/s" if demand else "unknown demand"
    if isinstance(arrivals, Unknown) and arrivals.at_least > 0:
        rate = f"at least {rate}"
    takes = f"a replica takes {situation.losses.capacity:.2f}/s"
    said: dict[Rule, str] = {
        Rule.ECONOMICS: f"{rate}, {takes}: {settled.replicas} cost least",
        Rule.OBJECTIVE: f"{rate}, {takes}: the objectives ask for {settled.replicas}",
        Rule.SLO_FLOOR: f"95 % of the last hour's demand, {takes}",
        Rule.SCHEDULE: f"a schedule asks for {target.scheduled_minimum}",
        Rule.MINIMUM: f"scaling.min is {target.minimum}; {rate}, {takes}",
        Rule.MAXIMUM: f"scaling.max is {target.maximum}; {rate}, {takes}: {_uncapped(situation)} would be right",
        Rule.OVERRIDE: f"scaling.override says {target.override}",
        Rule.WOKEN: "a request asked for a replica",
        Rule.IDLE: f"no request for {situation.now - (situation.state.zero_since or situation.now):.0f} s",
        Rule.METRICS_UNKNOWN: f"demand is unknown: {_why(situation.observation.arrivals)}",
        Rule.PRICE_UNKNOWN: "neither the fallback's price nor an objective is known: set cost or scaling.objectives",
        Rule.SHRINK_DELAYED: f"{wish.replicas} would do, but not for long enough yet",
        Rule.HISTORY_MISSING: f"{wish.replicas} would do, but the last hour is not known yet",
        Rule.STARTUP_STALLED: "pods take much longer to start than usual; more of them would not help",
    }
    return said[settled.rule]


def _uncapped(situation: _Situation) -> int:
    if situation.prices is None:
        return _covering(situation, _peak(situation))
    return cheapest(situation.prices, situation.losses, situation.target.maximum, 10 * situation.target.maximum)


def _why(signal: Signal) -> str:
    found = fresh(signal)
    return found.why if isinstance(found, Unknown) else "it is known"


def _counterfactual(situation: _Situation) -> str:
    prices = situation.prices
    if prices is None:
        return ""
    lost = SECONDS_PER_HOUR * situation.losses.per_second(situation.current)
    return (
        f"a ${prices.replica_usd_per_hour:.2f}/h replica pays for itself above {prices.break_even_per_hour:.0f} "
        f"lost requests/h at ${prices.loss_usd:.4g}; {lost:.0f}/h are expected with {situation.current}"
    )


def _inputs(situation: _Situation) -> tuple[Input, ...]:
    observation, demand, batching = situation.observation, situation.demand, situation.state.batching
    signals = {
        "arrivals": observation.arrivals,
        "capacityLosses": observation.capacity_losses,
        "qualityLosses": observation.quality_losses,
        "late": observation.late,
        "running": observation.running,
        "waiting": observation.waiting,
        "kvUsage": observation.kv_usage,
        "ttftP95": observation.ttft_p95,
        "queueP95": observation.queue_p95,
        "tpotP95": observation.tpot_p95,
    }
    made = [
        Input("demand", demand[-1][1] if demand else None),
        Input("replicaCapacity", situation.losses.capacity),
        Input("slotSecondsPerRequest", batching.seconds if batching else None),
        Input("batchLoad", batching.load if batching else None),
        Input("ready", float(observation.replicas.ready)),
    ]
    return (*made, *(_input(name, signal) for name, signal in signals.items()))


def _input(name: str, signal: Signal) -> Input:
    found = fresh(signal)
    return Input(name, found.value, found.age_seconds) if isinstance(found, Known) else Input(name, None)


def describe_missed(observation: Observation, target: Target) -> str:
    """The objectives that are missed now, in words."""
    return ", ".join(missed_objectives(observation, target))
