"""What pools have: nodes that fit, less what others hold."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pytest
from claiming import GPU, name

from flotilla_api.accelerator import AcceleratorProfileSpec
from flotilla_api.expert import PodOverrides
from flotilla_operator.scaling.claims import Node, Pool, Quota
from flotilla_operator.scaling.pools import (
    Bound,
    Holding,
    Machine,
    Occupancy,
    Placement,
    Taint,
    make_pools,
    make_quotas,
)

L4 = {"pool": "l4"}
SPOT = Taint("spot", "true", "NoSchedule")


def a_profile(**spec: Any) -> AcceleratorProfileSpec:
    """Of the nodes labelled pool=l4."""
    return AcceleratorProfileSpec.model_validate({"resource": GPU, "memoryGiB": 24, "nodeSelector": L4} | spec)


def a_machine(node: str = "a", gpus: int = 8, **rest: Any) -> Machine:
    """One of them."""
    return Machine(node, rest.pop("labels", L4), {GPU: gpus} if gpus else {}, **rest)


def a_pod(node: str, gpus: int = 1, expert: str = "", **rest: Any) -> Holding:
    """One that holds accelerators; of an Expert or of a stranger."""
    return Holding("agents", node, {GPU: gpus}, expert=name(expert) if expert else None, **rest)


def the_pool(occupancy: Occupancy, spec: AcceleratorProfileSpec | None = None, lacking: Sequence[int] = ()) -> Pool:
    """Of the scaled expert sql."""
    placement = Placement.of("l4", spec or a_profile(), None)
    (found,) = make_pools({name("sql"): placement}, occupancy, {placement.pool: lacking})
    return found


def has(occupancy: Occupancy, spec: AcceleratorProfileSpec | None = None) -> Mapping[str, tuple[int, int]]:
    """Of each node of the pool, what is available and what scaled experts hold."""
    return {node.name: (node.available, node.held) for node in the_pool(occupancy, spec).nodes or ()}


def test_nodes_give_what_strangers_and_fixed_engines_leave() -> None:
    """What scaled experts hold stays theirs; a pod that waits for a node holds nothing."""
    pods = [a_pod("a", 2), a_pod("a", 1, "fixed"), a_pod("a", 1, "sql"), a_pod("b", 9), a_pod("")]

    assert has(Occupancy([a_machine(), a_machine("b")], pods)) == {"a": (5, 1), "b": (0, 0)}


@pytest.mark.parametrize(
    "machine",
    [
        pytest.param(a_machine(labels={"pool": "h100"}), id="another label"),
        pytest.param(a_machine(labels={}), id="no label"),
        pytest.param(a_machine(gpus=0), id="no accelerators"),
        pytest.param(a_machine(cordoned=True), id="cordoned"),
        pytest.param(a_machine(taints=(SPOT,)), id="a taint that nobody tolerates"),
        pytest.param(a_machine(taints=(Taint("spot", "true", "NoExecute"),)), id="one that evicts"),
    ],
)
def test_a_node_that_takes_no_new_pods_is_none_of_the_pools(machine: Machine) -> None:
    """Unless its pods are there already: then it has what they hold, and no more."""
    assert has(Occupancy([machine])) == {}
    assert has(Occupancy([machine], [a_pod("a", 2, "sql"), a_pod("a", 1)])) == {"a": (0, 2)}


@pytest.mark.parametrize(
    ("machines", "available"),
    [
        pytest.param([a_machine(gpus=1)], 0, id="of three devices two are unhealthy"),
        pytest.param([Machine("a", L4, {GPU: 0})], 0, id="the device plugin starts anew"),
        pytest.param([a_machine(gpus=0)], 0, id="and has not registered yet"),
        pytest.param([], 0, id="the node object is gone"),
        pytest.param([a_machine(gpus=2)], 1, id="a device for one of two pods is left"),
    ],
)
def test_pods_keep_what_they_hold_on_a_node_that_has_less(machines: Sequence[Machine], available: int) -> None:
    """They run on; what is available is for new ones."""
    pods = [a_pod("a", 1, "sql"), a_pod("a", 1, "sql", leaving=True), a_pod("a", 1)]

    assert has(Occupancy(machines, pods)) == {"a": (available, 2)}


@pytest.mark.parametrize(
    ("toleration", "taint"),
    [
        pytest.param({"operator": "Exists"}, SPOT, id="all"),
        pytest.param({"key": "spot", "operator": "Exists"}, SPOT, id="the key"),
        pytest.param({"key": "spot", "value": "true"}, SPOT, id="the value; Equal is the default"),
        pytest.param({"key": "spot", "operator": "Exists", "effect": "NoSchedule"}, SPOT, id="the effect"),
        pytest.param({"key": "new"}, Taint("new", "", "NoExecute"), id="no value is the empty one"),
        pytest.param({"key": "x"}, Taint("spot", "true", "PreferNoSchedule"), id="a taint that only discourages"),
        pytest.param({"key": "x"}, Taint(GPU, "present", "NoSchedule"), id="the resource's own taint"),
    ],
)
def test_a_tolerated_taint_keeps_nothing_away(toleration: Mapping[str, str], taint: Taint) -> None:
    """As the scheduler matches them; clusters with the resource's own taint add its toleration to pods themselves."""
    assert has(Occupancy([a_machine(taints=(taint,))]), a_profile(tolerations=[toleration])) == {"a": (8, 0)}


@pytest.mark.parametrize(
    "toleration",
    [
        {"key": "spot", "value": "false"},
        {"key": "spot"},
        {"key": "other", "operator": "Exists"},
        {"key": "spot", "operator": "Exists", "effect": "NoExecute"},
    ],
)
def test_another_toleration_does_not_help(toleration: Mapping[str, str]) -> None:
    """Another value, key or effect."""
    assert has(Occupancy([a_machine(taints=(SPOT,))]), a_profile(tolerations=[toleration])) == {}


def test_a_number_and_an_unbounded_pool_need_no_nodes() -> None:
    """Theirs come when they are needed."""
    pods = Occupancy([a_machine()], [a_pod("a", 5)])

    assert (the_pool(pods, a_profile(capacity=3)).accelerators, the_pool(pods, a_profile(capacity=3)).nodes) == (
        3,
        None,
    )
    unbounded = the_pool(pods, a_profile(capacity="Unbounded"))
    assert (unbounded.accelerators, unbounded.nodes) == (None, None)


def test_what_fixed_engines_lack_is_kept_for_them() -> None:
    """The largest first, since they find a node least easily."""
    assert the_pool(Occupancy([a_machine()]), lacking=(1, 4)).reserved == (4, 1)


def test_overrides_of_where_pods_go_make_a_pool_of_their_own() -> None:
    """Which shares its nodes with the profile's; a profile with a number has one pool, since the number is one."""
    zone = PodOverrides.model_validate(
        {"nodeSelector": {"zone": "a"}, "tolerations": [{"key": "spot", "operator": "Exists"}]}
    )
    machines = [
        a_machine("a", labels={**L4, "zone": "a"}, taints=(SPOT,)),
        a_machine("b", labels={**L4, "zone": "a"}),
        a_machine("c"),
    ]
    wide, narrow = (Placement.of("l4", a_profile(), overrides) for overrides in (None, zone))

    pools = make_pools({name("sql"): wide, name("mail"): narrow, name("x"): narrow}, Occupancy(machines), {})

    assert [[node.name for node in pool.nodes or ()] for pool in pools] == [["b", "c"], ["a", "b"]]
    assert {pool.profile for pool in pools} == {"l4"}
    numbered = {Placement.of("l4", a_profile(capacity=3), overrides).pool for overrides in (None, zone)}
    assert len(numbered) == 1


def test_a_closed_node_with_one_pools_pods_is_not_the_others() -> None:
    """Who has nothing there has nothing to keep."""
    wide, narrow = Placement.of("any", a_profile(nodeSelector={}), None), Placement.of("l4", a_profile(), None)
    occupancy = Occupancy([a_machine(cordoned=True)], [a_pod("a", 2, "sql")])

    pools = make_pools({name("mail"): wide, name("sql"): narrow}, occupancy, {})

    assert [pool.nodes for pool in pools] == [(), (Node("a", 0, held=2),)]


def test_places_are_those_of_pods_that_stay_or_leave() -> None:
    """By expert and node; a pod that waits for a node has no place."""
    pods = [a_pod("a", 1, "sql"), a_pod("a", 1, "sql"), a_pod("b", 1, "sql", leaving=True), a_pod("", 1, "sql")]

    assert Occupancy(holdings=pods).places() == {name("sql"): (("a", 2),)}
    assert Occupancy(holdings=pods).places(leaving=True) == {name("sql"): (("b", 1),)}


def test_a_quota_leaves_what_others_do_not_use() -> None:
    """What scaled experts use themselves, pods that wait or leave included, is theirs to part anew."""
    pods = [a_pod("a", 2, "sql"), a_pod("", 1, "sql"), a_pod("b", 1, "fixed"), a_pod("b", 1)]
    bounds = [Bound("agents", GPU, hard=8, used=5), Bound("other", GPU, hard=2, used=3)]

    assert make_quotas({name("sql")}, Occupancy((), pods, bounds)) == [Quota("agents", GPU, 6), Quota("other", GPU, 0)]
