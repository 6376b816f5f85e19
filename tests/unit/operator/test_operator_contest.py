"""A repair that is undone each time is given up for a while, and nothing else is."""

from __future__ import annotations

from dataclasses import replace

from builders import a_profile, an_expert, carried_out, observe
from flotilla_api.conditions import Reason
from flotilla_operator.reconcile.contest import MAX_REPAIRS, WINDOW_SECONDS, Times, give_up, remember
from flotilla_operator.reconcile.dispatch import desired
from flotilla_operator.reconcile.plan import plan
from flotilla_operator.reconcile.types import Manifest, Plan, Step

DEPLOYMENT: Manifest = {"kind": "Deployment", "metadata": {"name": "invoice-expert", "namespace": "agents"}}
REPAIR = Step("prune", DEPLOYMENT, "edited by hand: spec.paused: True -> nothing", "uid-1", repairs=("spec.paused",))
OTHER_REPAIR = Step("apply", DEPLOYMENT, "edited by hand: spec.replicas: 5 -> 1", "uid-1", repairs=("spec.replicas",))
CHANGE = Step("apply", DEPLOYMENT, "spec.replicas: 1 -> 3", "uid-1")


def after(step: Step, count: int, *, apart_seconds: float = 1.0) -> Times:
    """What is remembered when `step` was carried out so often, for the last time at 0."""
    times: Times = {}
    for number in range(count):
        times = remember(times, [step], (number + 1 - count) * apart_seconds)
    return times


def test_a_repair_that_is_undone_each_time_is_given_up() -> None:
    """The failure names the object, what comes back, and where to look."""
    kept = give_up(Plan((REPAIR,)), after(REPAIR, MAX_REPAIRS - 1), 1.0)
    left, failures = give_up(Plan((REPAIR,)), after(REPAIR, MAX_REPAIRS), 1.0)

    assert kept == (Plan((REPAIR,)), ())
    assert left == Plan()
    assert [(failure.step, failure.reason, failure.message) for failure in failures] == [
        (
            REPAIR,
            Reason.CONTESTED,
            "Deployment agents/invoice-expert is changed again after each repair and is left so for now "
            "(edited by hand: spec.paused: True -> nothing): look for a mutating webhook or another controller",
        )
    ]


def test_a_place_that_gets_another_value_each_time_is_one_contest() -> None:
    """An autoscaler that somebody pointed at the Deployment asks for another number of replicas every time."""
    repairs = [plan_of_replicas(number).steps[0] for number in range(2, 2 + MAX_REPAIRS + 1)]
    times: Times = {}
    for repair in repairs[:-1]:
        times = remember(times, [repair], 0.0)

    left, (failure,) = give_up(Plan((repairs[-1],)), times, 1.0)

    assert len({repair.reason for repair in repairs}) == len(repairs)
    assert left == Plan()
    assert failure.reason is Reason.CONTESTED


def plan_of_replicas(replicas: int) -> Plan:
    """What is planned once somebody set the replicas of an Expert's Deployment."""
    observed = carried_out(observe(an_expert(), a_profile()))
    edited = tuple(
        child | {"spec": child["spec"] | {"replicas": replicas}} if child["kind"] == "Deployment" else child
        for child in observed.children
    )
    return plan(desired(observed), replace(observed, children=edited))


def test_other_steps_of_the_same_object_go_on() -> None:
    """Another edit is repaired, and what the spec asks for is carried out however often it was before."""
    times = after(REPAIR, MAX_REPAIRS)

    assert give_up(Plan((REPAIR, OTHER_REPAIR, CHANGE)), times, 1.0)[0] == Plan((OTHER_REPAIR, CHANGE))
    assert give_up(Plan((CHANGE,)), after(CHANGE, 99), 1.0) == (Plan((CHANGE,)), ())


def test_a_repair_now_and_then_is_no_contest() -> None:
    """A person who tries something a few times in a day is put right each time."""
    seldom = after(REPAIR, 99, apart_seconds=WINDOW_SECONDS / MAX_REPAIRS + 1)

    assert give_up(Plan((REPAIR,)), seldom, WINDOW_SECONDS / MAX_REPAIRS) == (Plan((REPAIR,)), ())


def test_a_contest_is_tried_again_after_a_while_and_leaves_nothing_behind() -> None:
    """The webhook may be gone; what is remembered is bounded."""
    times = after(REPAIR, 99)

    assert len(times[("uid-1", REPAIR.repairs)]) == MAX_REPAIRS
    assert give_up(Plan((REPAIR,)), times, WINDOW_SECONDS) == (Plan((REPAIR,)), ())
    assert remember(times, [], WINDOW_SECONDS) == {}
