"""Which pods go when replicas go. PURE.

A ReplicaSet removes pods that are not scheduled, not running and not ready first, by itself; among those that are
ready, the ones with the least deletion cost. So only these are chosen here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from .fleet import PodSignals
from .observe import PodState
from .signals import value_of

VICTIM_COST = "-1"
"""Below the cost of pods that say nothing, which is 0."""


@dataclass(frozen=True, slots=True)
class Marks:
    """Pods whose deletion cost has to change before a Deployment shrinks."""

    victims: tuple[str, ...] = ()
    """That are to cost less than others."""
    spared: tuple[str, ...] = ()
    """That did, and no longer may."""


def choose_victims(pods: Sequence[PodState], measured: Sequence[PodSignals], removed: int) -> tuple[str, ...]:
    """The names of the ready pods that are among the `removed` ones.

    Pods that do not answer go before any of these. Then: what sleeps, what has the fewest requests under way, and of
    equals the youngest, whose prefix cache holds least. A pod of which nothing is known counts as the busiest.
    """
    waiting = sum(not pod.ready for pod in pods)
    in_flight = {each.name: value_of(each.running, _BUSY) + value_of(each.waiting) for each in measured}
    ready = sorted(
        (pod for pod in pods if pod.ready),
        key=lambda pod: (not pod.asleep, in_flight.get(pod.name, _BUSY), pod.age_seconds, pod.name),
    )
    return tuple(pod.name for pod in ready[: max(0, removed - waiting)])


def mark(victims: Sequence[str], costs: Mapping[str, str]) -> Marks:
    """What has to be written so that only `victims` have the victims' cost; `costs` are those of all live pods."""
    marked = {name for name, cost in costs.items() if cost == VICTIM_COST}
    return Marks(
        victims=tuple(name for name in victims if name not in marked), spared=tuple(sorted(marked - set(victims)))
    )


_BUSY = float("inf")
