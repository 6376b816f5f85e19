"""A bound: what somebody who knows every request beforehand would pay at least.

The oracle chooses a number of replicas for each tick by dynamic programming over the whole trace. It knows each tick's
work, orders replicas a cold start ahead and pays for that time, keeps them busy to the last sequence, and shrinks at
once and for nothing. What is more than its replicas can do is lost, at the tick's mean work a request: like a router,
it does not know which request will be long. It may push work into the next tick: what arrives within the objective
before the tick's end, and what its replicas hold in running batches. Nothing it serves is late.

No scaler can do all of this, so the bound is not reached; it is the same for all.
"""

from __future__ import annotations

import numpy as np

from .compiled import compiled
from .replay import SECONDS_PER_HOUR, Scenario
from .workload import Floats, Ints, Workload

TICK_SECONDS = 15.0
_LEVELS = 12
"""Amounts of work that can be pushed into the next tick, evenly spaced."""


def oracle_dollars(scenario: Scenario, loss_usd: float) -> float:
    """The least that GPUs and losses can cost after the warm-up, with hindsight."""
    load = scenario.workload.between(scenario.warm_up_seconds, scenario.workload.seconds)
    ticks = int(np.ceil(load.seconds / TICK_SECONDS))
    work = scenario.engine.work_seconds(load.prompt_tokens, load.output_tokens)
    index = np.minimum((load.arrivals / TICK_SECONDS).astype(np.int64), ticks - 1)
    busy = _sums(work, index, ticks)
    count = np.bincount(index, minlength=ticks)
    lost_usd_a_second = np.where(busy > 0, loss_usd * count / np.maximum(busy, 1e-12), 0.0)
    per_second = scenario.hourly_usd / SECONDS_PER_HOUR
    return _cheapest(
        busy,
        _pushed(load, work, index, ticks, scenario.rules.ttft_objective_seconds),
        lost_usd_a_second,
        np.array([per_second * TICK_SECONDS, per_second * scenario.engine.cold_start_seconds]),
        np.array([float(scenario.bounds.minimum), float(scenario.bounds.maximum), _residual(scenario, load)]),
    )


def _pushed(load: Workload, work: Floats, index: Ints, ticks: int, objective: float) -> Floats:
    """Work of each tick that arrives so late in it that starting in the next one is in time."""
    late = (load.arrivals % TICK_SECONDS) > TICK_SECONDS - objective
    return _sums(work * late, index, ticks)


def _sums(work: Floats, index: Ints, ticks: int) -> Floats:
    return np.bincount(index, weights=work, minlength=ticks).astype(np.float64)


def _residual(scenario: Scenario, load: Workload) -> float:
    """Seconds that a full replica's running batch still takes on average: mean of squares over twice the mean."""
    if not len(load):
        return 0.0
    seconds = scenario.engine.slots * scenario.engine.work_seconds(load.prompt_tokens, load.output_tokens)
    return float((seconds**2).mean() / (2 * seconds.mean()))


@compiled
def _cheapest(busy: Floats, pushed: Floats, lost_usd: Floats, prices: Floats, bounds: Floats) -> float:
    """Dollars of the best sequence. The state is the number of replicas and how much work was pushed on."""
    least, most, residual = int(bounds[0]), int(bounds[1]), bounds[2]
    replicas = most - least + 1
    cost = np.full((replicas, _LEVELS + 1), np.inf)
    cost[:, 0] = 0.0
    for tick in range(len(busy)):
        largest = pushed[tick] + most * residual
        before = pushed[tick - 1] + most * residual if tick > 0 else 0.0
        new = np.full((replicas, _LEVELS + 1), np.inf)
        for level in range(_LEVELS + 1):
            # Growth costs the cold starts, shrinking nothing: the best way to each number, from below and from above.
            reach = cost[:, level].copy()
            for number in range(1, replicas):
                reach[number] = min(reach[number], reach[number - 1] + prices[1])
            for number in range(replicas - 2, -1, -1):
                reach[number] = min(reach[number], reach[number + 1])
            carried = before * level / _LEVELS
            for number in range(replicas):
                if reach[number] == np.inf:
                    continue
                running = least + number
                left = max(0.0, busy[tick] + carried - running * TICK_SECONDS)
                room = pushed[tick] + running * residual
                pay = reach[number] + prices[0] * running + lost_usd[tick] * max(0.0, left - room)
                kept = min(left, room)
                # Rounded down, so that it stays a bound.
                target = int(kept / largest * _LEVELS) if largest > 0 else 0
                new[number, target] = min(new[number, target], pay)
        cost = new
    return float(cost.min())
