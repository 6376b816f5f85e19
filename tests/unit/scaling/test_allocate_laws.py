"""Laws of the allocator: exact, bounded, and the same in whatever order claims come."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from dataclasses import replace

import pytest
from claiming import GPU, a_claim, a_pool, name
from hypothesis import given
from hypothesis import strategies as st

from flotilla_operator.scaling.allocate import HYSTERESIS_RATIO, allocate
from flotilla_operator.scaling.claims import Claim, Grant, Pool, Quota
from flotilla_operator.scaling.fleet import NamespacedName

EXPERTS = ("a/mail", "a/sql", "b/tools", "b/code")
ANY_NODE = "a"


@st.composite
def curves(draw: st.DrawFn, most: int) -> tuple[float, ...]:
    """Dollars that fall with each replica, by whole cents, convex or not."""
    steps = draw(st.lists(st.integers(1, 200), min_size=most, max_size=most))
    return tuple(sum(steps[number:]) / 100 for number in range(most + 1))


@st.composite
def fleets(draw: st.DrawFn, *, priced: bool = True, sizes: Sequence[int] = (1, 2)) -> list[Claim]:
    """One to four experts, some of which run on a node that has room for all."""
    claims: list[Claim] = []
    for expert in draw(st.lists(st.sampled_from(EXPERTS), min_size=1, max_size=4, unique=True)):
        wanted = draw(st.integers(0, 3))
        usd = draw(curves(wanted)) if priced or draw(st.booleans()) else ()
        claims.append(
            a_claim(
                expert,
                wanted,
                usd,
                floor=draw(st.integers(0, wanted)) if draw(st.booleans()) else 0,
                size=draw(st.sampled_from(sizes)),
                placed=draw(st.integers(0, 3)),
                price=draw(st.sampled_from((0.5, 1.0, 4.0))),
            )
        )
    return claims


quotas = st.lists(st.builds(Quota, st.sampled_from("ab"), st.just(GPU), st.integers(0, 6)), max_size=2)


def one_node(accelerators: int) -> Pool:
    """Where replicas of any size find their place as long as there are accelerators."""
    return Pool("l4", GPU, accelerators=accelerators)


def steady(claims: Iterable[Claim], pools: Sequence[Pool], bounds: Sequence[Quota] = ()) -> dict[Claim, Grant]:
    """What everybody has once all moves are done: pods follow the grants until nothing changes."""
    given_claims = list(claims)
    live = given_claims
    for _ in range(20):
        grants = allocate(live, pools, bounds)
        granted = [grants[claim.expert].replicas for claim in live]
        if granted == [claim.running for claim in live]:
            return {claim: grants[claim.expert] for claim in given_claims}
        live = [
            replace(claim, placed=((ANY_NODE, number),), current=number)
            for claim, number in zip(live, granted, strict=True)
        ]
    pytest.fail("the grants never settle")


def planned(claims: Sequence[Claim], pool: Pool, bounds: Sequence[Quota] = ()) -> dict[NamespacedName, int]:
    """Where the moves that are decided now lead: nobody holds anything, so that nobody has to wait."""
    return {expert: grant.replicas for expert, grant in allocate(claims, [pool], bounds).items()}


def cost(claims: Sequence[Claim], numbers: Sequence[int]) -> float:
    """Dollars an hour, and the hysteresis for each running replica that is taken away."""
    return sum(
        claim.usd_per_hour[number]
        + HYSTERESIS_RATIO * claim.replica_usd_per_hour * max(0, min(claim.running, claim.wanted) - number)
        for claim, number in zip(claims, numbers, strict=True)
    )


def allowed(claims: Sequence[Claim], numbers: Sequence[int], accelerators: int, bounds: Sequence[Quota]) -> bool:
    """Whether they are within the pool and the quotas."""
    used = [number * claim.size for claim, number in zip(claims, numbers, strict=True)]
    within = [
        sum(each for claim, each in zip(claims, used, strict=True) if claim.expert.namespace == bound.namespace)
        <= bound.accelerators
        for bound in bounds
    ]
    return sum(used) <= accelerators and all(within)


def least_cost(claims: Sequence[Claim], accelerators: int, bounds: Sequence[Quota]) -> float | None:
    """By trying everything; None: the floors do not fit."""
    choices = itertools.product(*(range(claim.floor, claim.wanted + 1) for claim in claims))
    possible = [cost(claims, numbers) for numbers in choices if allowed(claims, numbers, accelerators, bounds)]
    return min(possible, default=None)


def without_pods(claims: Iterable[Claim]) -> list[Claim]:
    """Nothing runs yet, so that nobody waits for another's pods to go."""
    return [replace(claim, placed=(), current=0) for claim in claims]


@given(fleets(), st.integers(0, 12), quotas)
def test_dollars_are_those_of_the_best_of_all_allocations(
    claims: list[Claim], accelerators: int, bounds: list[Quota]
) -> None:
    """Wherever the floors fit: found by trying every one."""
    claims = without_pods(claims)
    best = least_cost(claims, accelerators, bounds)

    granted = planned(claims, one_node(accelerators), bounds)

    if best is not None:
        assert cost(claims, [granted[claim.expert] for claim in claims]) == pytest.approx(best)


@given(fleets(), st.integers(0, 12), quotas)
def test_a_donor_loses_what_the_best_of_all_allocations_takes_from_it(
    claims: list[Claim], accelerators: int, bounds: list[Quota]
) -> None:
    """With the hysteresis of each running replica that goes; and nobody who runs more than before waits for it."""
    best = least_cost(claims, accelerators, bounds)
    running = [min(claim.running, claim.wanted) for claim in claims]

    if best is not None and allowed(claims, [claim.running for claim in claims], accelerators, bounds):
        granted = planned(claims, one_node(accelerators), bounds)
        kept = [granted[claim.expert] >= number for claim, number in zip(claims, running, strict=True)]
        lower = [range(claim.floor, claim.wanted + 1) for claim in claims]
        optima = [
            numbers
            for numbers in itertools.product(*lower)
            if allowed(claims, numbers, accelerators, bounds) and cost(claims, numbers) <= best + 1e-9
        ]
        assert any(kept == [number >= had for number, had in zip(numbers, running, strict=True)] for numbers in optima)


@given(fleets(priced=False), st.integers(0, 12), quotas)
def test_nothing_is_ever_exceeded(claims: list[Claim], accelerators: int, bounds: list[Quota]) -> None:
    """Neither what is wanted, nor the pool, nor a quota; with or without prices."""
    granted = planned(without_pods(claims), one_node(accelerators), bounds)

    assert all(0 <= granted[claim.expert] <= claim.wanted for claim in claims)
    assert allowed(claims, [granted[claim.expert] for claim in claims], accelerators, bounds)


@given(fleets(priced=False), st.integers(0, 12), quotas, st.data())
def test_the_order_of_claims_does_not_matter(
    claims: list[Claim], accelerators: int, bounds: list[Quota], data: st.DataObject
) -> None:
    """Nor that of the quotas."""
    pool = one_node(accelerators)
    shuffled = data.draw(st.permutations(claims))

    assert allocate(claims, [pool], bounds) == allocate(shuffled, [pool], bounds[::-1])


@given(fleets(), st.integers(0, 12), quotas)
def test_more_accelerators_never_cost_more(claims: list[Claim], accelerators: int, bounds: list[Quota]) -> None:
    """Dollars together, once the floors fit; single experts may get less for a larger one's sake."""
    claims = without_pods(claims)
    less, more = (planned(claims, one_node(accelerators + extra), bounds) for extra in (0, 1))

    if least_cost(claims, accelerators, bounds) is not None:
        costs = [cost(claims, [each[claim.expert] for claim in claims]) for each in (less, more)]
        assert costs[1] <= costs[0] + 1e-9


@given(fleets(priced=False), st.integers(0, 12), quotas)
def test_floors_hold_where_they_fit_together(claims: list[Claim], accelerators: int, bounds: list[Quota]) -> None:
    """Whatever dollars say, and whoever runs."""
    claims = without_pods(claims)
    granted = planned(claims, one_node(accelerators), bounds)

    if allowed(claims, [claim.floor for claim in claims], accelerators, bounds):
        assert all(granted[claim.expert] >= claim.floor for claim in claims)


@given(fleets(), st.integers(0, 12), quotas)
def test_the_shadow_price_is_what_one_accelerator_more_would_save(
    claims: list[Claim], accelerators: int, bounds: list[Quota]
) -> None:
    """The difference of two best allocations, for whoever got less than it wanted for want of accelerators."""
    claims = without_pods(claims)
    less, more = (least_cost(claims, accelerators + extra, bounds) for extra in (0, 1))

    for grant in allocate(claims, [one_node(accelerators)], bounds).values():
        if less is not None and more is not None and grant.shadow_usd_per_hour is not None:
            assert grant.shadow_usd_per_hour == pytest.approx(less - more)


@given(
    st.dictionaries(st.sampled_from("abc"), st.tuples(st.integers(0, 4), st.integers(0, 3)), min_size=1),
    st.lists(st.sampled_from((1, 2)), max_size=3),
    st.sampled_from((1, 2)),
    st.data(),
)
def test_what_runs_and_is_wanted_is_lost_to_other_claims_only(
    nodes: dict[str, tuple[int, int]], reserved: list[int], size: int, data: st.DataObject
) -> None:
    """Never for what nodes have lost, and never for what others lack."""
    placed = {node: replicas for node, (_, replicas) in nodes.items()}
    wanted = data.draw(st.integers(0, 9))
    usd = data.draw(st.sampled_from([(), tuple(float(wanted - number) for number in range(wanted + 1))]))
    claim = a_claim("sql", wanted, usd, size=size, placed=placed, current=data.draw(st.integers(0, 9)))
    pool = a_pool(
        {node: available for node, (available, _) in nodes.items()},
        held={node: replicas * size for node, replicas in placed.items()},
    )

    granted = planned([claim], replace(pool, reserved=tuple(sorted(reserved, reverse=True))))

    assert granted[claim.expert] >= min(wanted, claim.running)


@given(fleets(priced=False), st.integers(0, 12), quotas)
def test_grants_settle(claims: list[Claim], accelerators: int, bounds: list[Quota]) -> None:
    """Pods that follow them never lead to other grants for ever: two experts cannot take from each other in turn."""
    settled = steady(claims, [one_node(accelerators)], bounds)

    assert allowed(claims, [settled[claim].replicas for claim in claims], accelerators, bounds)


@given(fleets(sizes=(1,)), st.floats(0, 0.0999))
def test_a_gain_below_the_hysteresis_moves_nothing(claims: list[Claim], gain: float) -> None:
    """All accelerators are held; whoever comes would save less than a tenth of any replica's price."""
    held = [replace(claim, floor=0, placed=((ANY_NODE, claim.wanted),), current=claim.wanted) for claim in claims]
    cheap = (
        min(claim.usd_per_hour[i] - claim.usd_per_hour[i + 1] for claim in held for i in range(claim.wanted))
        if any(claim.wanted for claim in held)
        else 0.01
    )
    price = min(claim.replica_usd_per_hour for claim in held)
    newcomer = a_claim("z/new", 1, (cheap + gain * price, 0.0))
    pool = one_node(sum(claim.wanted for claim in held))

    granted = planned([*held, newcomer], pool)

    assert {claim.expert: granted[claim.expert] for claim in held} == {claim.expert: claim.wanted for claim in held}


@given(
    st.lists(st.tuples(st.integers(0, 3), st.sampled_from((1, 2, 4))), min_size=1, max_size=4),
    st.lists(st.integers(0, 8), min_size=1, max_size=4),
)
def test_what_is_granted_finds_nodes(wishes: list[tuple[int, int]], nodes: list[int]) -> None:
    """Replicas of several accelerators can be placed, each on one node: checked by trying all places."""
    claims = [
        a_claim(expert, wanted, tuple(float(wanted - number) for number in range(wanted + 1)), size=size)
        for expert, (wanted, size) in zip(EXPERTS, wishes, strict=False)
    ]
    names = [f"n{index}" for index in range(len(nodes))]

    granted = planned(claims, a_pool(dict(zip(names, nodes, strict=True))))

    sizes = sorted((claim.size for claim in claims for _ in range(granted[claim.expert])), reverse=True)
    assert packs(sizes, tuple(sorted(nodes)))


def packs(sizes: Sequence[int], nodes: tuple[int, ...]) -> bool:
    """Whether there is a place for each."""
    if not sizes:
        return True
    return any(
        node >= sizes[0] and packs(sizes[1:], tuple(sorted((*nodes[:index], node - sizes[0], *nodes[index + 1 :]))))
        for index, node in enumerate(nodes)
    )


@given(st.integers(0, 5), st.integers(0, 3))
def test_what_leaves_is_not_free_yet(free: int, leaving: int) -> None:
    """Growth takes what is free now, the rest follows."""
    draining = replace(a_claim("b/old", 0), leaving=(("a", leaving),))

    assert planned([a_claim("a/sql", 9), draining], a_pool({"a": free + leaving}))[name("a/sql")] == free
