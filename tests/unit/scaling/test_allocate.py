"""Who gets accelerators where they do not suffice, case by case."""

from __future__ import annotations

from dataclasses import replace

import pytest
from claiming import GPU, a_claim, a_pool, name, numbers

from flotilla_operator.scaling.allocate import allocate
from flotilla_operator.scaling.claims import Pool, Quota

STEEP = (10.0, 6.0, 3.0, 1.0)
"""Each replica saves much."""
FLAT = (4.0, 3.5, 3.2, 3.0)
"""Each replica saves little."""


def test_everybody_gets_what_is_wanted_where_there_is_enough() -> None:
    """And nothing is said of it."""
    grants = allocate([a_claim("sql", 3, STEEP), a_claim("mail", 2)], [a_pool({"a": 4, "b": 1})])

    assert numbers(grants) == {"sql": 3, "mail": 2}
    assert {(grant.message, grant.shadow_usd_per_hour) for grant in grants.values()} == {("", None)}


def test_what_saves_most_comes_first() -> None:
    """Three of three for the steep curve, one of three for the flat one; another accelerator would save $0.30/h."""
    grants = allocate([a_claim("sql", 3, STEEP), a_claim("mail", 3, FLAT)], [a_pool({"a": 4})])

    assert numbers(grants) == {"sql": 3, "mail": 1}
    assert grants[name("mail")].shadow_usd_per_hour == pytest.approx(0.3)
    assert grants[name("mail")].message == (
        f"AcceleratorProfile l4 has 4 {GPU}, and other experts' replicas come first"
    )


def test_a_minimum_comes_before_dollars() -> None:
    """However little it saves."""
    grants = allocate([a_claim("sql", 3, STEEP), a_claim("mail", 3, FLAT, floor=2)], [a_pool({"a": 3})])

    assert numbers(grants) == {"sql": 1, "mail": 2}


def test_minima_that_do_not_fit_leave_what_runs() -> None:
    """A replica that runs is a minimum's before one that does not; then first replicas come before second ones."""
    claims = [
        a_claim("mail", 2, floor=2),
        a_claim("sql", 2, floor=2, placed=2),
        a_claim("tools", 2, floor=2),
    ]

    grants = allocate(claims, [a_pool({"a": 4})])

    assert numbers(grants) == {"mail": 1, "sql": 2, "tools": 1}
    assert grants[name("mail")].shadow_usd_per_hour is None


def test_an_expert_without_prices_gets_its_number_after_the_minima() -> None:
    """Before what only saves dollars."""
    claims = [a_claim("mail", 3), a_claim("sql", 3, STEEP, floor=1)]

    assert numbers(allocate(claims, [a_pool({"a": 3})])) == {"mail": 2, "sql": 1}


def test_of_two_without_prices_the_one_that_runs_comes_first() -> None:
    """A pod that answers is worth more than one that would have to start."""
    claims = [a_claim("mail", 2), a_claim("sql", 2, placed=2)]

    assert numbers(allocate(claims, [a_pool({"a": 2})])) == {"mail": 0, "sql": 2}


def test_what_is_wanted_beyond_dollars_gets_what_they_leave() -> None:
    """An objective asks for four, of which dollars would buy one: the accelerators that nobody buys are used."""
    dear = (5.0, 1.0, 1.5, 2.0, 2.5)

    claims = [a_claim("mail", 4, dear), a_claim("sql", 2, (9.0, 5.0, 2.0))]

    assert numbers(allocate(claims, [a_pool({"a": 5})])) == {"mail": 3, "sql": 2}


@pytest.mark.parametrize(
    ("saved", "expected"),
    [
        pytest.param(0.09, {"idle": 1, "sql": 0}, id="a gain of 9 % of the price moves nothing"),
        pytest.param(0.11, {"idle": 0, "sql": 0}, id="a gain of 11 % does: the donor goes first"),
    ],
)
def test_a_running_replica_moves_only_for_more_than_the_hysteresis(saved: float, expected: dict[str, int]) -> None:
    """It costs the time in which neither of the two answers."""
    claims = [a_claim("idle", 1, (1.0, 0.5), placed=1), a_claim("sql", 1, (1.0, 0.5 - saved))]

    assert numbers(allocate(claims, [a_pool({"a": 1})])) == expected


def test_who_gains_waits_until_the_donors_pod_is_gone() -> None:
    """While it drains its accelerator is not free; then the gainer grows."""
    donor, gainer, pool = a_claim("idle", 1, (1.0, 0.9), placed=1), a_claim("sql", 1, (9.0, 1.0)), a_pool({"a": 1})
    draining = replace(donor, placed=(), leaving=donor.placed, current=0)

    first = allocate([donor, gainer], [pool])
    second = allocate([draining, gainer], [pool])
    third = allocate([replace(draining, leaving=()), gainer], [pool])

    assert [numbers(each)["sql"] for each in (first, second, third)] == [0, 0, 1]
    assert [numbers(each)["idle"] for each in (first, second, third)] == [0, 0, 0]
    assert first[name("sql")].message == "1 more wait for accelerators that other pods still hold"


@pytest.mark.parametrize(
    ("current", "placed", "leaving"),
    [
        pytest.param(3, (("a", 1), ("b", 1), ("c", 1)), (("c", 1),), id="a rollout: one goes beyond those asked for"),
        pytest.param(4, (("a", 1), ("b", 1), ("c", 2)), (), id="a rollout of all that leave"),
        pytest.param(1, (("a", 1),), (("b", 1), ("c", 2)), id="a shrink"),
        pytest.param(0, (("a", 1),), (("b", 1), ("c", 2)), id="a shrink to zero"),
    ],
)
def test_successors_are_due_what_pods_that_leave_hold(
    current: int, placed: tuple[tuple[str, int], ...], leaving: tuple[tuple[str, int], ...]
) -> None:
    """As many as are asked for; the rest is free once it is gone."""
    claim = replace(a_claim("sql", 3, placed={"a": 1}, current=current), leaving=(("b", 1), ("c", 2)))

    found = claim.hand_over()

    assert (found.placed, found.leaving) == (placed, leaving)


def test_accelerators_are_kept_for_engines_that_are_not_scaled() -> None:
    """Between two pods of a rollout theirs are free for a moment: whoever took them would end the rollout."""
    pool = replace(a_pool({"a": 4, "b": 2}), reserved=(2,))

    assert numbers(allocate([a_claim("sql", 9)], [pool])) == {"sql": 4}
    assert numbers(allocate([a_claim("large", 1, size=4)], [pool])) == {"large": 1}
    assert numbers(allocate([a_claim("large", 1, size=4)], [replace(pool, reserved=(4,))])) == {"large": 0}


def test_what_is_asked_for_already_is_not_taken_back_for_want_of_room() -> None:
    """Its pod waits; asking for less and then for more again would only be churn."""
    claims = [a_claim("idle", 0, (0.0,), placed=1), a_claim("sql", 1, (9.0, 1.0), current=1)]

    assert numbers(allocate(claims, [a_pool({"a": 1})])) == {"idle": 0, "sql": 1}


def test_pods_that_wait_come_before_new_ones() -> None:
    """The scheduler gives them the free accelerator in any case."""
    claims = [a_claim("mail", 1, (9.0, 1.0)), a_claim("sql", 1, (3.0, 1.0), current=1), a_claim("x", 0, placed=1)]

    assert numbers(allocate(claims, [a_pool({"a": 2})])) == {"mail": 0, "sql": 1, "x": 0}


def test_a_replica_larger_than_any_node_gets_nothing() -> None:
    """And says so; the accelerators go to others."""
    claims = [a_claim("large", 1, (90.0, 1.0), size=8), a_claim("sql", 3, STEEP)]

    grants = allocate(claims, [a_pool({"a": 4, "b": 4})])

    assert numbers(grants) == {"large": 0, "sql": 3}
    assert grants[name("large")].message == f"no node of AcceleratorProfile l4 has 8 {GPU} for one replica"


def test_replicas_that_find_no_node_leave_their_accelerators_to_others() -> None:
    """Two nodes of three take two replicas of two, not three; what is left over is used by single ones."""
    claims = [a_claim("pair", 3, (90.0, 60.0, 30.0, 1.0), size=2), a_claim("sql", 3, FLAT)]

    grants = allocate(claims, [a_pool({"a": 3, "b": 3})])

    assert numbers(grants) == {"pair": 2, "sql": 2}
    assert grants[name("pair")].message == (f"no node of AcceleratorProfile l4 has 2 {GPU} left for one more replica")


def test_nothing_is_taken_for_a_large_replica_that_would_find_no_node_all_the_same() -> None:
    """One pod on each node: whichever of them goes, no node has two free."""
    claims = [a_claim("pair", 1, (90.0, 1.0), size=2), a_claim("sql", 2, FLAT, placed={"a": 1, "b": 1})]

    assert numbers(allocate(claims, [a_pool({"a": 2, "b": 1})])) == {"pair": 0, "sql": 2}


def test_a_large_replica_takes_the_place_of_small_ones_on_one_node() -> None:
    """Both pods of the node must go for it, so they do."""
    claims = [a_claim("pair", 1, (90.0, 1.0), size=2), a_claim("sql", 2, (3.0, 2.0, 1.0), placed=2)]

    assert numbers(allocate(claims, [a_pool({"a": 2})])) == {"pair": 0, "sql": 0}


def test_a_closed_node_takes_no_new_pods() -> None:
    """What a cordoned node's pods leave is nobody's."""
    claims = [a_claim("idle", 0, (0.0,), placed={"a": 1}), a_claim("sql", 2, STEEP[:3], placed={"b": 1})]

    grants = allocate(claims, [a_pool({"b": 1}, held={"a": 1})])

    assert numbers(grants) == {"idle": 0, "sql": 1}


@pytest.mark.parametrize("available", [0, 1])
@pytest.mark.parametrize("usd", [pytest.param(STEEP[:3], id="priced"), pytest.param((), id="without a price")])
def test_what_runs_is_kept_where_its_node_has_less_than_it_holds(available: int, usd: tuple[float, ...]) -> None:
    """A device that is unhealthy, or a plugin that starts anew, ends no pod; only another claim takes a replica."""
    pool = a_pool({"a": available}, held={"a": 2})

    assert numbers(allocate([a_claim("sql", 2, usd, floor=1, placed=2)], [pool])) == {"sql": 2}
    assert numbers(allocate([a_claim("sql", 3, placed=2)], [pool])) == {"sql": 2}


def test_what_a_node_lacks_is_nobodys_when_a_pod_leaves_it() -> None:
    """Whoever waits for it would find no accelerator there, so nothing is taken for it."""
    claims = [a_claim("mail", 1, (9.0, 1.0)), a_claim("sql", 2, FLAT[:3], placed=2)]

    assert numbers(allocate(claims, [a_pool({"a": 1}, held={"a": 2})])) == {"mail": 0, "sql": 2}


def test_a_minimum_still_takes_what_dollars_keep() -> None:
    """On the node that has its accelerators, and not on the one that has lost them."""
    claims = [a_claim("mail", 1, floor=1), a_claim("sql", 1, placed={"b": 1}), a_claim("x", 1, placed={"a": 1})]

    grants = allocate(claims, [a_pool({"b": 1}, held={"a": 1, "b": 1})])

    assert numbers(grants) == {"mail": 0, "sql": 0, "x": 1}
    assert grants[name("mail")].message == "1 more wait for accelerators that other pods still hold"


@pytest.mark.parametrize("lacking", [2, 8])
def test_what_runs_is_kept_where_others_lack_more_than_is_free(lacking: int) -> None:
    """Their pods wait for something else, or ask for more than there will ever be: nobody grows meanwhile."""
    claims = [a_claim("mail", 1, floor=1), a_claim("sql", 3, STEEP, placed=2)]
    pool = replace(a_pool({}, held={"a": 2}), reserved=(1,) * lacking)
    free = replace(a_pool({"a": 3}, held={"a": 2}), reserved=(1,) * lacking)

    assert numbers(allocate(claims, [pool])) == {"mail": 0, "sql": 2}
    assert numbers(allocate(claims, [free])) == {"mail": 0, "sql": 2}
    assert numbers(allocate([a_claim("sql", 1, placed=2)], [free])) == {"sql": 1}


def test_pools_may_share_nodes() -> None:
    """One that any node would do for leaves the nodes that others need to them."""
    claims = [a_claim("any", 3, (30.0, 20.0, 10.0, 0.0), pool="any"), a_claim("sql", 2, FLAT[:3])]
    pools = [a_pool({"a": 2, "b": 3}, pool="any"), a_pool({"a": 2})]

    assert numbers(allocate(claims, pools)) == {"any": 3, "sql": 2}


def test_experts_of_one_pool_do_not_suffer_for_nodes_that_only_the_other_has() -> None:
    """Five accelerators are free, of which only two are l4's."""
    claims = [a_claim("any", 3, FLAT, pool="any"), a_claim("sql", 5, (50.0, 40.0, 30.0, 20.0, 10.0, 0.0))]
    pools = [a_pool({"a": 2, "b": 3}, pool="any"), a_pool({"a": 2})]

    assert numbers(allocate(claims, pools)) == {"any": 3, "sql": 2}


def test_an_unbounded_pool_gives_what_is_wanted() -> None:
    """Nodes are made when they are needed."""
    claims = [a_claim("sql", 300), a_claim("large", 2, size=16)]

    assert numbers(allocate(claims, [Pool("l4", GPU)])) == {"sql": 300, "large": 2}


def test_a_number_bounds_a_pool_whose_nodes_come_and_go() -> None:
    """Wherever its pods are now."""
    claims = [a_claim("sql", 3, STEEP, placed={"x": 1, "y": 1}), a_claim("mail", 3, FLAT)]

    assert numbers(allocate(claims, [Pool("l4", GPU, accelerators=4)])) == {"sql": 3, "mail": 1}
    draining = replace(a_claim("old", 0), leaving=(("z", 1),))
    assert numbers(allocate([*claims, draining], [Pool("l4", GPU, accelerators=4)])) == {"sql": 3, "mail": 0, "old": 0}


def test_a_quota_bounds_a_namespace() -> None:
    """In an unbounded pool too; the rest is shared by dollars within it."""
    claims = [a_claim("a/sql", 3, STEEP), a_claim("a/mail", 3, FLAT), a_claim("b/tools", 3, FLAT)]

    grants = allocate(claims, [Pool("l4", GPU)], [Quota("a", GPU, 4), Quota("c", GPU, 0), Quota("b", "other/gpu", 0)])

    assert numbers(grants) == {"sql": 3, "mail": 1, "tools": 3}
    assert grants[name("a/mail")].message == f"the ResourceQuota of namespace a allows no more {GPU}"


def test_the_tightest_of_several_quotas_holds() -> None:
    """As the API server has it."""
    quotas = [Quota("agents", GPU, 2), Quota("agents", GPU, 1), Quota("agents", GPU, 3)]

    assert numbers(allocate([a_claim("sql", 3, STEEP)], [Pool("l4", GPU)], quotas)) == {"sql": 1}


def test_a_quota_over_two_pools_is_parted_by_what_saves_most() -> None:
    """Both hold the same resource, so the quota counts them together."""
    claims = [a_claim("sql", 3, STEEP), a_claim("mail", 3, FLAT, pool="h100")]

    grants = allocate(claims, [a_pool({"a": 9}), a_pool({"b": 9}, pool="h100")], [Quota("agents", GPU, 4)])

    assert numbers(grants) == {"sql": 3, "mail": 1}


def test_a_pool_that_nobody_knows_bounds_nothing() -> None:
    """Its profile may come yet."""
    assert numbers(allocate([a_claim("sql", 3, pool="new")], [a_pool({"a": 1})])) == {"sql": 3}


@pytest.mark.parametrize("usd", [(), (float("nan"), 1.0, 2.0), (float("inf"), 1.0, 2.0), (1.0, 2.0)])
def test_a_curve_that_is_no_amount_is_no_price(usd: tuple[float, ...]) -> None:
    """NaN and infinity say nothing, nor does a curve that ends before what is wanted."""
    assert not a_claim("sql", 2, usd).is_priced
    assert numbers(allocate([a_claim("sql", 2, usd), a_claim("mail", 1, STEEP)], [a_pool({"a": 1})]))["sql"] == 1
