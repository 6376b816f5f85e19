"""The last hour of every Expert, from ranges of what routers counted. PURE."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from .fleet import Fleet, History, NamespacedName, ServedExpert
from .readings import Answer, Labels
from .signals import Known, Signal, Unknown

Points = Sequence[tuple[float, float]]
"""(when, value), oldest first."""


@dataclass(frozen=True, slots=True)
class Past:
    """What is known of a span of time."""

    demand: Mapping[Labels, Points]
    """Requests a second by namespace and Expert."""
    routers: Mapping[Labels, Points]
    """Routers that were scraped, by namespace and policy."""
    slot_seconds: Answer
    finished: Answer
    """A second, by namespace and Expert, over the whole span."""
    start: float
    """By the clock of the points."""
    step_seconds: float


def make_histories(past: Past, fleet: Fleet, *, until: float, seconds: float) -> dict[NamespacedName, History]:
    """Of every Expert of which any moment is known; the newest step is `until`, by this machine's clock."""
    steps = int(seconds / past.step_seconds) + 1
    counted = {labels: _at_steps(points, past, steps) for labels, points in past.routers.items()}
    # A policy without a router, now and then, has counted nothing.
    there = {(key.namespace, key.name) for key, each in fleet.routers.items() if each.gateways or each.sidecars}
    counted = {labels: {} for labels in there} | counted
    found: dict[NamespacedName, History] = {}
    for key, served in fleet.experts.items():
        demand = _demand(past, key, served, counted, steps)
        if any(each is not None for each in demand):
            found[key] = History(until, past.step_seconds, demand, _mean(past, key))
    return found


def _demand(
    past: Past,
    key: NamespacedName,
    served: ServedExpert,
    counted: Mapping[Labels, Mapping[int, float]],
    steps: int,
) -> tuple[float | None, ...]:
    """A step without demand is a zero where routers of every policy in `counted` were scraped, else unknown."""
    seen = _at_steps(past.demand.get((key.namespace, key.name), ()), past, steps)
    policies = [counted[labels] for policy in served.policies if (labels := (key.namespace, policy)) in counted]
    asked = {step for step in range(steps) if policies and all(step in each for each in policies)}
    return tuple(seen.get(step, 0.0 if step in asked else None) for step in range(steps))


def _at_steps(points: Points, past: Past, steps: int) -> dict[int, float]:
    """The mean of the points nearest to each step."""
    found: defaultdict[int, list[float]] = defaultdict(list)
    for at, value in points:
        found[round((at - past.start) / past.step_seconds)].append(value)
    return {step: sum(values) / len(values) for step, values in found.items() if 0 <= step < steps}


def _mean(past: Past, key: NamespacedName) -> Signal:
    """Slot-seconds of one request."""
    slot_seconds, finished = past.slot_seconds, past.finished
    if isinstance(slot_seconds, Unknown) or isinstance(finished, Unknown):
        return slot_seconds if isinstance(slot_seconds, Unknown) else Unknown("finished requests are unknown")
    labels = (key.namespace, key.name)
    seconds, count = slot_seconds.get(labels, 0.0), finished.get(labels, 0.0)
    return Known(seconds / count) if count > 0 and seconds > 0 else Unknown("no request finished")
