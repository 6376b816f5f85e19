"""What an expert asks of a pool of accelerators, and what it is granted. PURE."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from .fleet import NamespacedName
from .types import Decision, Rule

BLOCKED_RULES = frozenset({Rule.OVERRIDE, Rule.METRICS_UNKNOWN, Rule.HISTORY_MISSING})
"""Under which no replica is given to others for dollars: a person says so, or nothing is known of what it is worth."""

Places = tuple[tuple[str, int], ...]
"""(node, replicas)."""


@dataclass(frozen=True, slots=True)
class Node:
    """A node of a pool."""

    name: str
    available: int
    """Accelerators that pods of claims may hold: what others' pods hold is left out; 0: no new pod may come."""
    held: int = 0
    """Accelerators that pods of claims hold: more than `available` where pods run on though their node is cordoned, a
    device is unhealthy, or the device plugin starts anew."""

    @property
    def has(self) -> int:
        """Accelerators that claims share here, those included that nobody new may have."""
        return max(self.available, self.held)


@dataclass(frozen=True, slots=True)
class Pool:
    """Accelerators that some claims may have. Pools of one resource may share nodes, by name."""

    name: str
    resource: str
    """Such as nvidia.com/gpu."""
    nodes: tuple[Node, ...] | None = None
    """None: they are made when they are needed."""
    accelerators: int | None = None
    """Without `nodes`: how many claims may hold; None: any number."""
    reserved: tuple[int, ...] = ()
    """Of `nodes`, what is kept for others: the sizes of their replicas that are still to come."""
    profile: str = ""
    """The AcceleratorProfile that messages name."""


@dataclass(frozen=True, slots=True)
class Quota:
    """A bound on what the claims of a namespace may hold of a resource, in accelerators."""

    namespace: str
    resource: str
    accelerators: int


@dataclass(frozen=True, slots=True)
class Claim:
    """What one expert asks for."""

    expert: NamespacedName
    pool: str
    size: int
    """Accelerators of one replica; all on one node."""
    floor: int
    wanted: int
    """Replicas; at least `floor`."""
    current: int = 0
    """Replicas that are asked for now."""
    placed: Places = ()
    """Pods that hold accelerators and stay, or whose successors, which are asked for, get them: see `hand_over`."""
    leaving: Places = ()
    """Pods that hold accelerators and are being deleted."""
    usd_per_hour: Sequence[float] = ()
    """What 0, 1, ... `wanted` replicas cost together with the requests that are lost; empty: unknown."""
    replica_usd_per_hour: float = 0.0

    @classmethod
    def of(cls, decision: Decision, claim: Claim) -> Claim:
        """`claim`, asking for what `decision` came to."""
        floor = decision.replicas if decision.rule in BLOCKED_RULES else decision.floor
        return replace(claim, floor=floor, wanted=decision.replicas, usd_per_hour=decision.usd_per_hour)

    def hand_over(self) -> Claim:
        """The claim in a rollout: pods that are being deleted run on where `current` asks for others in their place."""
        placed, leaving = Counter(dict(self.placed)), dict(self.leaving)
        for node, replicas in self.leaving:
            due = max(0, min(replicas, self.current - placed.total()))
            placed[node] += due
            leaving[node] = replicas - due
        return replace(self, placed=_places(placed), leaving=_places(leaving))

    @property
    def running(self) -> int:
        """Replicas that hold accelerators."""
        return sum(replicas for _, replicas in self.placed)

    @property
    def is_priced(self) -> bool:
        """Whether it is known what each number of replicas costs."""
        return len(self.usd_per_hour) > self.wanted and all(map(math.isfinite, self.usd_per_hour))


def _places(replicas: Mapping[str, int]) -> Places:
    return tuple((node, number) for node, number in sorted(replicas.items()) if number)


@dataclass(frozen=True, slots=True)
class Grant:
    """What a claim gets."""

    replicas: int
    message: str = ""
    """Why it is less than was asked for; ''."""
    shadow_usd_per_hour: float | None = None
    """What one accelerator more in the pool would save; None: nothing is short, or it has no price."""
