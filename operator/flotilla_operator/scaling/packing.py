"""Whether replicas that need several accelerators of one node find such nodes. PURE."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from .claims import Claim, Node, Pool
from .fleet import NamespacedName


@dataclass(slots=True)
class Room:
    """Free accelerators by node; places are taken from it."""

    _free: dict[str, int]
    _doors: Mapping[str, frozenset[str]]
    """The open nodes of each pool."""

    @classmethod
    def of(cls, pools: Iterable[Pool], held: Mapping[str, int]) -> Room:
        """What is left of the nodes' accelerators after `held`, by node, and what is kept for others."""
        pools = tuple(pools)
        free = {name: max(0, node.available - held.get(name, 0)) for name, node in nodes_of(pools).items()}
        room = cls(free, {pool.name: open_names(pool) for pool in pools})
        for pool in pools:
            for size in pool.reserved:
                room.place(pool.name, size)
        return room

    def place(self, pool: str, size: int) -> bool:
        """One replica more has its place; False: there is none.

        Of the nodes that the fewest pools share the one that is the fullest afterwards, so that large replicas still
        find theirs.
        """
        fitting = [name for name in self._doors[pool] if self._free[name] >= size]
        if not fitting:
            return False
        self._free[min(fitting, key=lambda name: (self._sharing(name), self._free[name], name))] -= size
        return True

    def _sharing(self, node: str) -> int:
        return sum(node in doors for doors in self._doors.values())


def nodes_of(pools: Iterable[Pool]) -> Mapping[str, Node]:
    """By name; what is available on a node is the most that any pool sees."""
    found: dict[str, Node] = {}
    for node in (node for pool in pools for node in pool.nodes or ()):
        known = found.get(node.name)
        if known is None or node.available > known.available:
            found[node.name] = node
    return found


def held_by(claims: Iterable[Claim], kept: Mapping[NamespacedName, int] | None = None) -> dict[str, int]:
    """Accelerators by node that pods hold.

    With `kept`: at most, after every claim was left with that many, whichever of its pods goes.
    """
    held: dict[str, int] = {}
    for claim in claims:
        for node, replicas in claim.placed:
            staying = replicas if kept is None else min(replicas, kept[claim.expert])
            held[node] = held.get(node, 0) + staying * claim.size
    return held


def open_names(pool: Pool) -> frozenset[str]:
    """The nodes that new pods of the pool may come to."""
    return frozenset(node.name for node in pool.nodes or () if node.available)


def held_now(claims: Iterable[Claim]) -> dict[str, int]:
    """Accelerators by node that pods hold, those included that are being deleted."""
    claims = tuple(claims)
    held = held_by(claims)
    for claim in claims:
        for node, replicas in claim.leaving:
            held[node] = held.get(node, 0) + replicas * claim.size
    return held


def fits_anywhere(claim: Claim, pools: Iterable[Pool]) -> bool:
    """Whether an open node of its pool could ever hold one replica."""
    nodes = [pool.nodes for pool in pools if pool.name == claim.pool]
    return any(each is None or any(node.available >= claim.size for node in each) for each in nodes)
