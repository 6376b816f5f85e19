"""How claims share accelerators that do not suffice for all of them. PURE."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from .claims import Claim, Pool
from .fleet import NamespacedName
from .knapsack import Item, Table, solve
from .packing import nodes_of

Numbers = dict[NamespacedName, int]
"""Replicas by expert."""


@dataclass(frozen=True, slots=True)
class Contest:
    """Claims on the same accelerators, ordered by expert."""

    claims: tuple[Claim, ...]
    pools: tuple[Pool, ...]
    budget: int | None
    """Accelerators that there are; None: any number."""
    limits: Mapping[str, int]
    """Accelerators by namespace, of those that have a quota."""
    hysteresis_ratio: float
    grows: bool = True
    """False: all that is free is kept for others, so that nobody grows, and nobody gives up what would go to them."""

    @classmethod
    def of(
        cls, claims: tuple[Claim, ...], pools: tuple[Pool, ...], limits: Mapping[str, int], hysteresis_ratio: float
    ) -> Contest:
        """For what `pools` have together, less what they keep for others; what runs comes before these."""
        if any(pool.nodes is None for pool in pools):
            return cls(claims, pools, None, limits, hysteresis_ratio)
        has, reserved = sum(node.has for node in nodes_of(pools).values()), sum(sum(pool.reserved) for pool in pools)
        kept = min(has, sum(min(claim.running, claim.wanted) * claim.size for claim in claims))
        return cls(claims, pools, max(has - reserved, kept), limits, hysteresis_ratio, grows=has - reserved >= kept)

    @property
    def is_plain(self) -> bool:
        """Whether every free accelerator is as good as any other for every claim."""
        lost = any(node.held > node.available for pool in self.pools for node in pool.nodes or ())
        return len(self.pools) == 1 and not lost and all(claim.size == 1 for claim in self.claims)


@dataclass(frozen=True, slots=True)
class Shares:
    """What a contest came to."""

    numbers: Numbers
    shadow_usd_per_hour: float | None = None
    """What one accelerator more would save; None: nothing is short, or what is short has no price."""


@dataclass(slots=True)
class Purse:
    """Accelerators that nobody has yet."""

    budget: int | None
    limits: dict[str, int]

    @classmethod
    def of(cls, contest: Contest, numbers: Numbers) -> Purse:
        """What is left when everybody has `numbers`."""
        purse = cls(contest.budget, dict(contest.limits))
        for claim in contest.claims:
            purse.pay(claim, numbers[claim.expert])
        return purse

    def take(self, claim: Claim) -> bool:
        """One replica more of `claim` is paid; False: there is too little left."""
        if self.budget is not None and self.budget < claim.size:
            return False
        if self.limits.get(claim.expert.namespace, claim.size) < claim.size:
            return False
        self.pay(claim, 1)
        return True

    @property
    def is_overdrawn(self) -> bool:
        """Whether more was paid than there is."""
        return (self.budget is not None and self.budget < 0) or any(left < 0 for left in self.limits.values())

    def pay(self, claim: Claim, replicas: int) -> None:
        """They are paid, even where that is more than there is."""
        if self.budget is not None:
            self.budget -= replicas * claim.size
        if claim.expert.namespace in self.limits:
            self.limits[claim.expert.namespace] -= replicas * claim.size


def share(contest: Contest, caps: Numbers) -> Shares:
    """Nobody gets more than its cap; see `allocate` for who comes first."""
    if not Purse.of(contest, caps).is_overdrawn:
        return Shares(caps)
    numbers: Numbers = {claim.expert: 0 for claim in contest.claims}
    floors = {claim.expert: min(claim.floor, caps[claim.expert]) for claim in contest.claims}
    unpriced = {claim.expert: caps[claim.expert] for claim in contest.claims if not claim.is_priced}
    purse = Purse.of(contest, numbers)
    _fill(contest, purse, numbers, _useless_to_others(contest, caps))
    sufficient = _fill(contest, purse, numbers, floors)
    sufficient &= _fill(contest, purse, numbers, unpriced)
    shadow = _buy(contest, purse, numbers, caps)
    _fill(contest, purse, numbers, caps)
    return Shares(numbers, shadow if sufficient else None)


def _useless_to_others(contest: Contest, caps: Numbers) -> Numbers:
    """Replicas on nodes that take no new pods: who gives them up does so for nothing."""
    shut = {node.name for node in nodes_of(contest.pools).values() if not node.available}
    return {
        claim.expert: min(caps[claim.expert], sum(replicas for node, replicas in claim.placed if node in shut))
        for claim in contest.claims
    }


def _fill(contest: Contest, purse: Purse, numbers: Numbers, wanted: Mapping[NamespacedName, int]) -> bool:
    """Everybody gets up to `wanted` while it lasts: what runs first, then first replicas before second ones.

    Returns whether it lasted.
    """
    units = [
        (index >= claim.running, index, claim.expert, claim)
        for claim in contest.claims
        for index in range(numbers[claim.expert], wanted.get(claim.expert, 0))
    ]
    lasted = True
    for _, index, expert, claim in sorted(units, key=lambda unit: unit[:3]):
        if numbers[expert] == index and purse.take(claim):
            numbers[expert] += 1
        else:
            lasted = False
    return lasted


@dataclass(frozen=True, slots=True)
class _Lot:
    """Claims that are bought for together: those of one namespace with a quota, or a single one."""

    claims: Sequence[Claim]
    item: Item
    inner: Table | None = None
    """What each claim of several gets, by accelerators."""

    def more(self, option: int) -> list[int]:
        """Replicas that each claim gets on top, by the item's option."""
        return [option] if self.inner is None else self.inner.options(self.item.weights[option])


def _buy(contest: Contest, purse: Purse, numbers: Numbers, caps: Numbers) -> float | None:
    """What has a price gets the numbers that cost least together.

    Returns what one accelerator more would save; None where all bounds are the namespaces' own.
    """
    buyers = [claim for claim in contest.claims if claim.is_priced and caps[claim.expert] > numbers[claim.expert]]
    items = [_item(claim, numbers[claim.expert], caps[claim.expert], contest.hysteresis_ratio) for claim in buyers]
    lots = _lots(buyers, items, purse.limits)
    chosen, shadow = _choose([lot.item for lot in lots], purse.budget)
    for lot, option in zip(lots, chosen, strict=True):
        for claim, more in zip(lot.claims, lot.more(option), strict=True):
            numbers[claim.expert] += more
            purse.pay(claim, more)
    return shadow


def _choose(items: Sequence[Item], budget: int | None) -> tuple[list[int], float | None]:
    """The option of each item, and what one accelerator more would save."""
    if budget is None or sum(item.weights[-1] for item in items) <= budget:
        return [len(item.weights) - 1 for item in items], None
    table = solve(items, budget + 1)
    return table.options(budget), float(table.cost[budget] - table.cost[budget + 1])


def _item(claim: Claim, least: int, most: int, hysteresis_ratio: float) -> Item:
    """From `least` to `most` replicas; each running one that it would lose costs the hysteresis."""
    penalty, running = hysteresis_ratio * claim.replica_usd_per_hour, min(claim.running, most)
    numbers = range(least, most + 1)
    return Item(
        weights=[(number - least) * claim.size for number in numbers],
        costs=[claim.usd_per_hour[number] + penalty * max(0, running - number) for number in numbers],
    )


def _lots(buyers: Sequence[Claim], items: Sequence[Item], limits: Mapping[str, int]) -> list[_Lot]:
    lots: list[_Lot] = []
    limited: dict[str, list[tuple[Claim, Item]]] = defaultdict(list)
    for claim, item in zip(buyers, items, strict=True):
        if claim.expert.namespace in limits:
            limited[claim.expert.namespace].append((claim, item))
        else:
            lots.append(_Lot([claim], item))
    for namespace, members in limited.items():
        lots.append(_limited_lot(members, limits[namespace]))
    return lots


def _limited_lot(members: Sequence[tuple[Claim, Item]], limit: int) -> _Lot:
    """The claims of one namespace as one item: the least that they cost together, by accelerators up to `limit`."""
    items = [item for _, item in members]
    table = solve(items, max(0, min(limit, sum(item.weights[-1] for item in items))))
    worth = [0, *(np.flatnonzero(np.diff(table.cost) < 0) + 1).tolist()]
    return _Lot([claim for claim, _ in members], Item(worth, table.cost[worth].tolist()), table)
