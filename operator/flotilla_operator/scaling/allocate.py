"""Who gets the accelerators where there are too few. PURE.

For every set of nodes that pools share, in this order, within its accelerators and the namespaces' quotas:

| what                                       | who first                                                |
|--------------------------------------------|----------------------------------------------------------|
| what runs on nodes that take no new pods   | as for floors: nobody else could have its accelerators   |
| floors (min, schedules, wakes, overrides)  | replicas that run, then first replicas before second ones |
| what experts without prices want           | as above                                                 |
| what saves dollars                         | the numbers that cost least together (exact, a knapsack) |
| what is wanted beyond dollars (objectives) | as for floors                                            |

What engines of a fixed number lack is kept for them: where that is more than is free nobody grows, and what runs stays.
A running replica goes to another expert only where that saves more than a part of its price. Then its pod goes first:
who gains waits until the accelerators are free. Equal claims give equal grants, in whatever order they come.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace

from .claims import Claim, Grant, Node, Pool, Quota
from .contest import Contest, Numbers, Purse, Shares, share
from .fleet import NamespacedName
from .packing import Room, fits_anywhere, held_by, held_now, open_names

HYSTERESIS_RATIO = 0.10
"""Of a replica's price: what an hour must save for it to go to another expert. A replica that moves earns nothing while
one pod drains and the next one loads: six minutes of an hour."""


def allocate(
    claims: Iterable[Claim],
    pools: Iterable[Pool],
    quotas: Iterable[Quota] = (),
    *,
    hysteresis_ratio: float = HYSTERESIS_RATIO,
) -> Mapping[NamespacedName, Grant]:
    """What every claim gets now; never more than it wants, than there is, or than a quota allows.

    A pool that is not among `pools` bounds nothing. Dollars are the least that is possible on each set of nodes, except
    where replicas find no node though there are accelerators enough (they are left out, and the rest is shared again),
    and where a quota spans several sets (it is parted first).
    """
    by_name = {pool.name: _with_one_node(pool) for pool in pools}
    ordered = [_on_one_node(claim, by_name) for claim in sorted(claims, key=lambda claim: claim.expert)]
    grants = {claim.expert: Grant(claim.wanted) for claim in ordered if claim.pool not in by_name}
    contests = [
        Contest.of(tuple(claim for claim in ordered if claim.pool in names), pools_of, {}, hysteresis_ratio)
        for names, pools_of in _connected(by_name.values())
    ]
    for contest, limits in zip(contests, _part(contests, quotas), strict=True):
        grants |= _settle(replace(contest, limits=limits))
    return grants


def _with_one_node(pool: Pool) -> Pool:
    """A number of accelerators is one node of that size."""
    if pool.nodes is not None or pool.accelerators is None:
        return pool
    return replace(pool, nodes=(Node(_any_node(pool), pool.accelerators),))


def _on_one_node(claim: Claim, pools: Mapping[str, Pool]) -> Claim:
    pool = pools.get(claim.pool)
    if pool is None or pool.accelerators is None or pool.nodes is None:
        return claim
    node, leaving = _any_node(pool), sum(replicas for _, replicas in claim.leaving)
    return replace(claim, placed=((node, claim.running),), leaving=((node, leaving),))


def _any_node(pool: Pool) -> str:
    return f"any node of {pool.name}"


def _connected(pools: Iterable[Pool]) -> list[tuple[frozenset[str], tuple[Pool, ...]]]:
    """Pools by the nodes that they share, directly or through others."""
    groups: list[tuple[frozenset[str], tuple[Pool, ...]]] = []
    for pool in sorted(pools, key=lambda pool: pool.name):
        nodes = {node.name for node in pool.nodes or ()}
        joined = [(names, members) for names, members in groups if _share_nodes(nodes, members, pool.resource)]
        groups = [group for group in groups if group not in joined]
        names = frozenset({pool.name}).union(*(names for names, _ in joined))
        groups.append((names, (*(member for _, members in joined for member in members), pool)))
    return groups


def _share_nodes(nodes: set[str], members: Iterable[Pool], resource: str) -> bool:
    return any(
        member.resource == resource and any(node.name in nodes for node in member.nodes or ()) for member in members
    )


def _part(contests: Sequence[Contest], quotas: Iterable[Quota]) -> list[dict[str, int]]:
    """The quotas' accelerators, by contest and namespace; one that spans several is parted by what saves most."""
    limits: list[dict[str, int]] = [{} for _ in contests]
    for quota in sorted(quotas, key=lambda quota: -quota.accelerators):
        bound = {index: claims for index, contest in enumerate(contests) if (claims := _bound(contest, quota))}
        parted = dict.fromkeys(bound, quota.accelerators)
        if len(bound) > 1:
            parted = _parted(bound, quota.accelerators, contests[0].hysteresis_ratio)
        for index, accelerators in parted.items():
            limits[index][quota.namespace] = min(accelerators, limits[index].get(quota.namespace, accelerators))
    return limits


def _bound(contest: Contest, quota: Quota) -> list[Claim]:
    """The claims that the quota bounds."""
    if contest.pools[0].resource != quota.resource:
        return []
    return [claim for claim in contest.claims if claim.expert.namespace == quota.namespace]


def _parted(bound: Mapping[int, Sequence[Claim]], accelerators: int, hysteresis_ratio: float) -> dict[int, int]:
    claims = sorted((claim for each in bound.values() for claim in each), key=lambda claim: claim.expert)
    alone = Contest(tuple(claims), (), accelerators, {}, hysteresis_ratio)
    numbers = share(alone, {claim.expert: claim.wanted for claim in claims}).numbers
    return {index: sum(numbers[claim.expert] * claim.size for claim in each) for index, each in bound.items()}


def _settle(contest: Contest) -> dict[NamespacedName, Grant]:
    """What the claims of one contest get: shared, placed on nodes, and as far as there is room already."""
    shares, caps = _place(contest)
    now = _admit(contest, shares.numbers)
    left = Purse.of(contest, shares.numbers).limits
    grants: dict[NamespacedName, Grant] = {}
    for claim in contest.claims:
        number = shares.numbers[claim.expert]
        if number == claim.wanted:
            grants[claim.expert] = Grant(now[claim.expert], _why_later(claim, now[claim.expert]))
            continue
        message = _why_less(claim, contest, left, without_place=number == caps[claim.expert])
        grants[claim.expert] = Grant(now[claim.expert], message, shares.shadow_usd_per_hour)
    return grants


def _place(contest: Contest) -> tuple[Shares, Numbers]:
    """Shares that find nodes, and the most that each claim could be given for that; what finds none is shared again."""
    caps = {claim.expert: _cap(claim, contest) for claim in contest.claims}
    shares = share(contest, caps)
    while missing := _without_place(contest, shares.numbers):
        caps = caps | {expert: shares.numbers[expert] - replicas for expert, replicas in missing.items()}
        shares = share(contest, caps)
    return shares, caps


def _cap(claim: Claim, contest: Contest) -> int:
    """What runs where nobody grows, or no node is large enough for a replica, else what is wanted."""
    if not contest.grows:
        return min(claim.wanted, claim.running)
    too_little = contest.budget is not None and contest.budget < claim.size
    return claim.wanted if too_little or fits_anywhere(claim, contest.pools) else min(claim.wanted, claim.running)


def _without_place(contest: Contest, numbers: Numbers) -> dict[NamespacedName, int]:
    """Replicas that find no node once all others have theirs and whoever loses some has given them up."""
    if contest.budget is None or contest.is_plain:
        return {}
    room = Room.of(contest.pools, held_by(contest.claims, numbers))
    missing: dict[NamespacedName, int] = {}
    for claim, _ in sorted(_growth(contest, numbers), key=_by_difficulty(contest)):
        if not room.place(claim.pool, claim.size):
            missing[claim.expert] = missing.get(claim.expert, 0) + 1
    return missing


def _growth(contest: Contest, numbers: Numbers) -> list[tuple[Claim, int]]:
    """Replicas that do not run yet, each with its index."""
    return [(claim, index) for claim in contest.claims for index in range(claim.running, numbers[claim.expert])]


def _by_difficulty(contest: Contest) -> Callable[[tuple[Claim, int]], tuple[object, ...]]:
    """Floors first; then what needs most of a node, and has fewest nodes to go to."""
    choice = {pool.name: len(open_names(pool)) for pool in contest.pools}
    return lambda unit: (
        unit[1] >= unit[0].floor,
        -unit[0].size,
        choice[unit[0].pool],
        unit[0].expert,
        unit[1],
    )


def _admit(contest: Contest, numbers: Numbers) -> Numbers:
    """`numbers`, where there is room now; who has asked for replicas already asks for them still."""
    if contest.budget is None:
        return numbers
    admitted = {claim.expert: min(numbers[claim.expert], claim.running) for claim in contest.claims}
    room = Room.of(contest.pools, held_now(contest.claims))
    for claim, index in sorted(_growth(contest, numbers), key=_by_urgency(numbers)):
        if admitted[claim.expert] == index and room.place(claim.pool, claim.size):
            admitted[claim.expert] += 1
    return {
        claim.expert: max(admitted[claim.expert], min(numbers[claim.expert], claim.current)) for claim in contest.claims
    }


def _by_urgency(numbers: Numbers) -> Callable[[tuple[Claim, int]], tuple[object, ...]]:
    """Pods that wait already come first, since nobody can pass them; then floors, then what saves most."""

    def urgency(unit: tuple[Claim, int]) -> tuple[object, ...]:
        claim, index = unit
        saved = _saved_usd_per_hour(claim, numbers[claim.expert])
        return (index >= claim.current, index >= claim.floor, -saved, claim.expert, index)

    return urgency


def _saved_usd_per_hour(claim: Claim, number: int) -> float:
    """By each accelerator of the replicas that do not run yet; without prices more than any."""
    if not claim.is_priced:
        return math.inf
    return (claim.usd_per_hour[claim.running] - claim.usd_per_hour[number]) / (claim.size * (number - claim.running))


def _why_less(claim: Claim, contest: Contest, left: Mapping[str, int], *, without_place: bool) -> str:
    pool = next(pool for pool in contest.pools if pool.name == claim.pool)
    namespace, profile = claim.expert.namespace, f"AcceleratorProfile {pool.profile or pool.name}"
    if not fits_anywhere(claim, contest.pools):
        return f"no node of {profile} has {claim.size} {pool.resource} for one replica"
    if without_place:
        return f"no node of {profile} has {claim.size} {pool.resource} left for one more replica"
    if left.get(namespace, claim.size) < claim.size:
        return f"the ResourceQuota of namespace {namespace} allows no more {pool.resource}"
    return f"{profile} has {contest.budget} {pool.resource}, and other experts' replicas come first"


def _why_later(claim: Claim, now: int) -> str:
    return f"{claim.wanted - now} more wait for accelerators that other pods still hold" if now < claim.wanted else ""
