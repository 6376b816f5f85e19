"""What is decided, case by case."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
from deciding import NOW, TUNING, Life, a_target, measured, past

from flotilla_operator.scaling.decide import decide
from flotilla_operator.scaling.signals import Known, Signal, Unknown
from flotilla_operator.scaling.types import Decision, Note, Objectives, Observation, Replicas, Rule, State, Target


def decided(seen: Observation, target: Target | None = None, state: State | None = None) -> Decision:
    """At NOW, with these tests' constants."""
    return decide(seen, target or a_target(), state or past(0.0), NOW, TUNING)


def test_dollars_buy_what_pays_for_itself() -> None:
    """Three take 3 requests/s; a fourth would save nothing."""
    found = decided(measured(3.0), state=past(3.0))

    assert (found.replicas, found.rule) == (3, Rule.ECONOMICS)
    assert found.message == "3.00 requests/s, a replica takes 1.00/s: 3 cost least"
    assert found.counterfactual == (
        "a $0.80/h replica pays for itself above 400 lost requests/h at $0.002; 7200/h are expected with 1"
    )
    assert found.usd_per_hour == pytest.approx((21.6, 0.8 + 14.4, 1.6 + 7.2, 2.4))


def test_a_replica_that_saves_too_little_is_not_bought() -> None:
    """0.1 requests/s above three are 360 an hour, and 400 are what one replica costs."""
    assert decided(measured(3.1), state=past(3.1)).replicas == 3
    assert decided(measured(3.2), state=past(3.2)).replicas == 4


def test_growth_comes_at_once() -> None:
    """In the very tick in which a burst arrives, by all that pay for themselves; nothing waits as shrinking does."""
    life = Life(a_target(minimum=1, loss_usd=0.01), past(0.5), replicas=1)

    first = life.tick(6.0)

    assert (first.replicas > 1, first.rule) == (True, Rule.ECONOMICS)
    assert life.run(6.0, 60)[-1] == 6


def test_shrinking_waits_and_then_halves_the_gap() -> None:
    """Five minutes below, then half of the gap rounded up, then two and a half more minutes for each half."""
    life = Life(a_target(minimum=1), past(1.0), replicas=8)

    numbers = life.run(1.0, 1200)

    changes = [
        (index * 15, number) for index, number in enumerate(numbers) if index == 0 or number != numbers[index - 1]
    ]
    assert changes == [(0, 8), (300, 4), (450, 2), (600, 1)]
    assert life.said[1].rule is Rule.SHRINK_DELAYED
    assert life.said[1].message == "1 would do, but not for long enough yet"


def test_a_burst_in_between_begins_the_wait_anew() -> None:
    """What was needed a moment ago may be needed again."""
    life = Life(a_target(minimum=1, loss_usd=0.01), past(1.0), replicas=8)
    life.run(1.0, 285)

    assert life.tick(40.0).replicas == 10

    assert set(life.run(1.0, 300)) == {10}


@pytest.mark.parametrize(
    "arrivals",
    [
        pytest.param(Unknown("Prometheus is down"), id="unknown"),
        pytest.param(Known(0.0, age_seconds=91.0), id="stale"),
        pytest.param(Known(math.nan), id="not a number"),
        pytest.param(Known(math.inf), id="infinite"),
        pytest.param(Known(-1.0), id="negative"),
    ],
)
def test_nothing_shrinks_on_what_is_not_known(arrivals: Signal) -> None:
    """However long it lasts: no metric is no zero."""
    life = Life(a_target(), past(0.0), replicas=5)

    assert set(life.run(arrivals, 7200)) == {5}
    assert {each.rule for each in life.said} == {Rule.METRICS_UNKNOWN}


def test_unknown_demand_says_why() -> None:
    """For the person who reads it."""
    seen = measured(0.0, wanted=3)
    found = decided(replace(seen, arrivals=Unknown("Prometheus is down")))

    assert found.message == "demand is unknown: Prometheus is down"


@pytest.mark.parametrize(
    ("unknown_seconds", "waits"),
    [pytest.param(300, False, id="five minutes are missed"), pytest.param(3600, True, id="an hour is")],
)
def test_after_a_gap_nothing_shrinks_until_the_last_hour_is_known_again(unknown_seconds: float, waits: bool) -> None:
    """What was known before says nothing of what nobody measured."""
    life = Life(a_target(minimum=1), past(4.0), replicas=8)
    life.run(Unknown("down"), unknown_seconds)
    life.replicas = 8

    life.run(1.0, 900)

    assert ({said.replicas for said in life.said} == {8}) is waits
    assert (life.said[-1].rule is Rule.HISTORY_MISSING) is waits


def test_a_gap_has_not_shown_that_a_replica_does_not_pay() -> None:
    """The oldest sample is an hour old, and all but five minutes since are not known."""
    demand = ((NOW - 3590.0, 0.01), *past(0.01, seconds=300.0).demand)

    assert decided(measured(0.01), state=State(demand=demand, born_at=NOW - 9000)).replicas == 1
    assert decided(measured(0.01), state=past(0.01)).rule is Rule.SHRINK_DELAYED


def test_demand_that_is_known_in_part_grows_and_never_shrinks() -> None:
    """Five requests a second are certain, whoever else was not asked: that is enough for more, never for fewer."""
    partial = Unknown("router gw-2 is not scraped", at_least=5.0)
    few, many = Life(a_target(), past(1.0), replicas=1), Life(a_target(), past(1.0), replicas=9)

    assert few.run(partial, 300)[-1] == 5
    assert {said.rule for said in few.said} == {Rule.ECONOMICS, Rule.METRICS_UNKNOWN}
    grown = next(said for said in few.said if said.rule is Rule.ECONOMICS)
    assert grown.message.startswith("at least 5.00 requests/s, a replica takes 1.00/s")
    assert set(many.run(partial, 1800)) == {9}
    assert all(rate == 1.0 for _, rate in many.state.demand)


def test_what_was_known_in_part_does_not_count_once_all_is_known() -> None:
    """There may have been more."""
    dim, blind = Life(a_target(minimum=1), past(6.0), replicas=6), Life(a_target(minimum=1), past(6.0), replicas=6)
    dim.run(Unknown("not scraped", at_least=0.1), 600)
    blind.run(Unknown("not scraped"), 600)

    assert dim.run(6.0, 900) == blind.run(6.0, 900)


def test_after_a_restart_nothing_shrinks_until_the_last_hour_is_known() -> None:
    """Growth does not wait for it."""
    life = Life(a_target(minimum=1), State(), replicas=4)

    assert set(life.run(1.0, 900)) == {4}
    assert life.said[-1].rule is Rule.HISTORY_MISSING
    assert life.tick(9.0).replicas > 4


def test_an_expert_without_demand_goes_to_zero_after_idle_after() -> None:
    """All at once, and not before: 900 s of confirmed zero."""
    life = Life(a_target(idle_after_seconds=900.0), past(2.0), replicas=3)

    numbers = life.run(0.0, 1000)

    assert numbers.index(0) == 60
    assert numbers[59] > 0
    assert (life.said[60].rule, life.said[60].message) == (Rule.IDLE, "no request for 900 s")


@pytest.mark.parametrize(
    "busy",
    [
        pytest.param({"running": 1}, id="runs"),
        pytest.param({"waiting": 1}, id="waits"),
        pytest.param({"finished": 0.4}, id="finishes between two looks, past the routers"),
    ],
)
def test_a_request_that_is_still_there_is_no_idleness(busy: dict[str, int]) -> None:
    """A long answer, of a request that arrived before."""
    life = Life(a_target(), past(0.0), replicas=1)

    assert 0 not in life.run(0.0, 1800, **busy)


def test_a_minimum_keeps_an_idle_expert() -> None:
    """min: 1 never goes to zero."""
    life = Life(a_target(minimum=1), past(0.0), replicas=1)

    assert set(life.run(0.0, 3600)) == {1}
    assert life.said[-1].message == "scaling.min is 1; 0.00 requests/s, a replica takes 1.00/s"


@pytest.mark.parametrize(("awaited_at", "replicas"), [(None, 0), (NOW - 1.0, 1), (NOW - 3601.0, 0)])
def test_a_wake_that_does_not_pay_counts_only_for_requests_that_wait(awaited_at: float | None, replicas: int) -> None:
    """An hour of a request a minute is no replica's worth; but nobody else answers a request that waits."""
    found = decided(replace(_woken(NOW - 1.0), awaited_at=awaited_at), state=past(0.001))

    assert found.replicas == replicas


def test_dollars_do_not_end_the_last_replica_within_an_hour_of_a_request_that_waited() -> None:
    """While there is one nothing shows whether a fallback could answer; the next such request would wait again."""
    life = Life(a_target(), past(0.001), replicas=1, awaited_at=NOW)

    numbers = life.run(0.001, 4500)

    assert numbers.index(0) * 15 >= 3600 - 15


@pytest.mark.parametrize("signal", ["arrivals", "running", "waiting"])
def test_nothing_that_is_unknown_counts_as_idle(signal: str) -> None:
    """A long answer may be under way in an engine that nobody has measured."""
    observation = replace(measured(0.0), **{signal: Unknown("not scraped")})

    found = decided(observation, a_target(idle_after_seconds=900.0), state=past(0.0, zero_since=NOW - 4000))

    assert (found.replicas, found.state.zero_since) == (1, None)


@pytest.mark.parametrize(
    ("lost", "bound"), [pytest.param(0.5, False, id="as usual"), pytest.param(0.8, True, id="most")]
)
def test_a_cascade_that_escalates_some_answers_is_no_complaint(lost: float, bound: bool) -> None:
    """QualityBound is said from 30 % of arrivals on."""
    found = decided(measured(2.0, wanted=2, quality_losses=lost), state=past(2.0))

    assert (Note.QUALITY_BOUND in found.notes) is bound


def test_a_wake_gives_a_replica_at_once() -> None:
    """Though demand is still a confirmed zero."""
    found = decided(measured(0.0, wanted=0), state=past(0.0, zero_since=NOW - 4000))
    woken = decided(_woken(NOW - 1.0), state=past(0.0, zero_since=NOW - 4000))

    assert (found.replicas, found.rule) == (0, Rule.IDLE)
    assert (woken.replicas, woken.rule, woken.floor) == (1, Rule.WOKEN, 1)
    assert woken.message == "a request asked for a replica"


def test_a_wake_is_forgotten_after_idle_after() -> None:
    """Without demand it goes to zero again."""
    assert decided(_woken(NOW - 900.0), state=past(0.0, zero_since=NOW - 4000)).replicas == 0


@pytest.mark.parametrize(
    "target",
    [
        pytest.param(a_target(), id="a trickle, of which no whole hour is known"),
        pytest.param(a_target(loss_usd=None), id="without a price"),
    ],
)
def test_demand_without_a_replica_is_a_wake(target: Target) -> None:
    """Where the scaler only recommends no router wakes: it is held until whoever acts has looked."""
    life = Life(target, past(0.0, seconds=600, zero_since=NOW - 4000), replicas=0)

    asked = [life.tick(0.05)]
    life.replicas = 0
    asked.append(life.tick(0.0))

    assert [(found.replicas, found.rule) for found in asked] == [(1, Rule.WOKEN), (1, Rule.WOKEN)]


def test_demand_that_does_not_pay_keeps_an_expert_at_zero() -> None:
    """A whole hour of it is known."""
    found = decided(measured(0.02, wanted=0), state=past(0.02))

    assert (found.replicas, found.rule) == (0, Rule.ECONOMICS)


def test_a_person_keeps_an_expert_at_zero_under_demand() -> None:
    """An override is above what requests ask for."""
    assert decided(measured(0.5, wanted=0), a_target(override=0)).replicas == 0


def test_an_expert_that_loads_is_not_idle() -> None:
    """Nobody can use it yet, so idleAfter (120 s) counts from its first answer on, however long it loads (300 s)."""
    target = a_target(idle_after_seconds=120.0, prior_cold_start_seconds=300.0)
    life = Life(target, past(0.0, zero_since=NOW - 3600), replicas=0)

    life.load(ready_after=300.0, seconds=600.0)

    went = next(NOW + index * TUNING.tick_seconds for index, said in enumerate(life.said) if said.rule is Rule.IDLE)
    assert went - NOW == 300.0 + 120.0


def test_an_expert_that_does_not_start_goes_at_last() -> None:
    """1.5 times the usual start (120 s) is too long: then it counts as idle, and frees what it holds."""
    life = Life(a_target(idle_after_seconds=60.0), past(0.0, zero_since=NOW - 3600), replicas=0)

    life.load(ready_after=math.inf, seconds=600.0)

    assert {said.replicas for said in life.said[:12]} == {1}
    assert life.said[-1].replicas == 0


def _woken(at: float) -> Observation:
    return Observation(Replicas(0, 0), arrivals=Known(0.0), woken_at=at)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        pytest.param({"override": 7}, (7, Rule.OVERRIDE, "scaling.override says 7"), id="override"),
        pytest.param({"override": 0}, (0, Rule.OVERRIDE, "scaling.override says 0"), id="override to zero"),
        pytest.param({"override": 99}, (10, Rule.MAXIMUM, None), id="an override above max"),
        pytest.param({"override": 1, "minimum": 3}, (3, Rule.MINIMUM, None), id="an override below min"),
        pytest.param(
            {"scheduled_minimum": 6}, (6, Rule.SCHEDULE, "a schedule asks for 6"), id="a schedule above demand"
        ),
        pytest.param({"scheduled_minimum": 1}, (2, Rule.ECONOMICS, None), id="a schedule below demand"),
        pytest.param({"override": 1, "scheduled_minimum": 6}, (6, Rule.SCHEDULE, None), id="an override below one"),
        pytest.param({"minimum": 4}, (4, Rule.MINIMUM, None), id="min"),
        pytest.param({"maximum": 1}, (1, Rule.MAXIMUM, None), id="max"),
        pytest.param({"maximum": 5, "scheduled_minimum": 9}, (5, Rule.MAXIMUM, None), id="a schedule above max"),
    ],
)
def test_what_a_person_says_holds(changes: dict[str, Any], expected: tuple[int, Rule, str | None]) -> None:
    """Within min and max, whatever demand (2 requests/s) says."""
    found = decided(measured(2.0, wanted=2), a_target(**changes), past(2.0))

    assert (found.replicas, found.rule) == expected[:2]
    assert expected[2] in (None, found.message)


def test_an_override_goes_at_once_in_both_directions() -> None:
    """A person need not wait for five minutes."""
    assert decided(measured(9.0, wanted=9), a_target(override=1), past(9.0)).replicas == 1


def test_max_says_what_would_be_right() -> None:
    """So that whoever reads it can raise it."""
    found = decided(measured(8.0, wanted=2), a_target(maximum=2), past(8.0))

    assert found.message == "scaling.max is 2; 8.00 requests/s, a replica takes 1.00/s: 8 would be right"


def test_without_prices_and_objectives_nothing_is_right() -> None:
    """It stays as it is, and says what to set."""
    found = decided(measured(9.0, wanted=2), a_target(loss_usd=None), past(9.0))

    assert (found.replicas, found.rule, found.usd_per_hour, found.counterfactual) == (2, Rule.PRICE_UNKNOWN, (), "")
    assert "set cost or scaling.objectives" in found.message


def test_without_prices_objectives_cover_the_demand() -> None:
    """All of the last minute, and 95 % of the last hour."""
    target = a_target(loss_usd=None, objectives=Objectives(ttft_p95=0.5))

    assert decided(measured(3.5, wanted=1), target, past(3.5)).replicas == 4


def test_an_escalation_ratio_buys_what_dollars_would_not() -> None:
    """A loss costs next to nothing, but at most a tenth may be lost: 4.5 of 5 requests/s take five."""
    target = a_target(loss_usd=1e-9, objectives=Objectives(escalation_ratio=0.1))

    found = decided(measured(5.0, wanted=1), target, past(5.0))

    assert (found.replicas, found.rule) == (5, Rule.OBJECTIVE)


def test_slo_floor_holds_the_hours_95th_percentile() -> None:
    """Though dollars say that the fallback is cheaper."""
    hour = past(1.0)
    peaks = tuple((at, 6.0) if index % 10 == 0 else (at, rate) for index, (at, rate) in enumerate(hour.demand))
    state = State(demand=peaks, born_at=peaks[0][0])

    without, with_floor = (decided(measured(1.0), a_target(loss_usd=1e-6, slo_floor=on), state) for on in (False, True))

    assert without.replicas <= 1
    assert (with_floor.replicas, with_floor.rule) == (6, Rule.SLO_FLOOR)


SLOW = {"tpot_p95": 0.2}
FAST_WANTED = Objectives(tpot_p95=0.04)


@pytest.mark.parametrize(
    "full",
    [
        pytest.param({"waiting": 3}, id="requests wait"),
        pytest.param({"kv_usage": 0.9}, id="the KV cache is full"),
        pytest.param({"preemptions": 0.1}, id="requests are preempted"),
        pytest.param({"running": 15}, id="the slots are taken"),
    ],
)
def test_a_missed_objective_buys_a_replica_where_something_is_full(full: dict[str, float]) -> None:
    """From its second tick on: one is noise."""
    life = Life(a_target(minimum=1, objectives=FAST_WANTED), past(1.0), replicas=2)

    first, second = life.tick(1.0, **SLOW, **full), life.tick(1.0, **SLOW, **full)

    assert (first.replicas, second.replicas, second.rule) == (2, 3, Rule.OBJECTIVE)
    assert Note.LATENCY_NOT_CAPACITY_BOUND not in second.notes


def test_a_missed_objective_buys_nothing_where_nothing_is_full() -> None:
    """More replicas would be as slow; the condition says so."""
    life = Life(a_target(minimum=1, objectives=FAST_WANTED), past(1.0), replicas=2)

    notes = [Note.LATENCY_NOT_CAPACITY_BOUND in life.tick(1.0, **SLOW, waiting=0, running=2).notes for _ in range(3)]

    assert notes == [False, True, True]
    assert life.replicas == 2


def test_quality_escalations_never_add_a_replica() -> None:
    """They used a slot already; a larger model is what they need."""
    without = decided(measured(2.0, wanted=2, quality_losses=0.0), state=past(2.0))
    many = decided(measured(2.0, wanted=2, quality_losses=1.5), state=past(2.0))

    assert (many.replicas, many.notes) == (without.replicas, frozenset({Note.QUALITY_BOUND}))
    assert without.notes == frozenset()


def test_capacity_losses_raise_demand_above_the_arrivals() -> None:
    """Two replicas are thought to take 2/s and lost 1/s: at least 3/s came, or they take less."""
    found = decided(measured(2.2, wanted=2, capacity_losses=1.0), state=past(2.2))

    assert found.state.demand[-1] == (NOW, pytest.approx(3.0))


def test_stalled_pods_stop_growth() -> None:
    """1.5 times the usual start is too long; what is wanted waits until they start."""
    pods = Replicas(2, 1, pending_ages=(181.0,))

    found = decided(Observation(pods, arrivals=Known(6.0)), a_target(prior_cold_start_seconds=120.0), past(6.0))

    assert (found.replicas, found.rule) == (2, Rule.STARTUP_STALLED)
    assert Note.STARTUP_STALLED in found.notes


@pytest.mark.parametrize(
    ("cold_starts", "age", "stalled"),
    [
        pytest.param((), 179.0, False, id="within the prior"),
        pytest.param((300.0,), 400.0, False, id="one that took long counts while few are known"),
        pytest.param((300.0,), 451.0, True, id="1.5 times that"),
        pytest.param((20.0,) * 12, 31.0, True, id="the 95th percentile of many, below the prior"),
        pytest.param((20.0,) * 12, 29.0, False, id="within it"),
    ],
)
def test_how_long_a_start_may_take_is_measured(cold_starts: tuple[float, ...], age: float, stalled: bool) -> None:
    """Until ten are known, the longer of the prior (120 s) and the longest."""
    pods = Replicas(2, 1, pending_ages=(age,), cold_starts=cold_starts)

    found = decided(Observation(pods, arrivals=Known(6.0)), state=past(6.0))

    assert (Note.STARTUP_STALLED in found.notes) is stalled


def test_a_fallback_that_costs_less_pins_min_and_says_so() -> None:
    """1 request/s at $0.0001 is $0.36/h, less than half a replica."""
    found = decided(measured(1.0, wanted=1), a_target(minimum=1, loss_usd=1e-5), past(5.0))

    assert found.replicas == 1
    assert Note.FALLBACK_CHEAPER in found.notes


def test_slot_seconds_are_learned_from_work_that_was_done() -> None:
    """Requests that take twice the prior halve what a replica takes; ticks with too few of them say nothing."""
    life = Life(a_target(minimum=1, prior_slot_seconds=2.0), past(1.0), replicas=1)

    life.tick(1.0, slot_seconds=4.0, finished=0.1)
    assert life.state.batching is None
    life.tick(1.0, slot_seconds=4.0, finished=1.0)
    assert _seconds(life) == pytest.approx(4.0)
    life.tick(1.0, slot_seconds=8.0, finished=1.0)
    assert _seconds(life) == pytest.approx(4.4)
    life.run(1.0, 1500, slot_seconds=8.0, finished=1.0)
    assert _seconds(life) == pytest.approx(8.0, rel=0.01)


def _seconds(life: Life) -> float:
    assert life.state.batching
    return life.state.batching.seconds


def test_a_small_kv_cache_is_what_bounds_a_replica() -> None:
    """Room for two requests of 1,000 tokens among eight slots: a quarter of what the slots would take."""
    roomy = decided(measured(2.0, tokens_per_request=1000.0, kv_tokens=80_000.0), state=past(2.0))
    tight = decided(measured(2.0, tokens_per_request=1000.0, kv_tokens=2_000.0), state=past(2.0))

    assert (roomy.replicas, tight.replicas) == (2, 8)


def test_inputs_show_what_was_known_and_how_old_it_was() -> None:
    """Unknown ones are shown as such, not left out."""
    found = decided(Observation(Replicas(1, 1), arrivals=Known(2.0, 12.0)), state=past(2.0))

    shown = {each.name: (each.value, each.age_seconds) for each in found.inputs}
    assert shown["arrivals"] == (2.0, 12.0)
    assert shown["kvUsage"] == (None, None)
    assert shown["demand"] == (2.0, None)
    assert shown["replicaCapacity"] == (pytest.approx(1.0), None)


def test_what_was_measured_counts_once() -> None:
    """However late it is looked at again, as after a wake; what is measured then counts at once."""
    seen = replace(measured(2.0), measured_at=NOW)
    first = decide(seen, a_target(), past(2.0), NOW, TUNING)
    again = decide(seen, a_target(), first.state, NOW + 14.0, TUNING)
    later = decide(replace(measured(3.0), measured_at=NOW + 15.0), a_target(), again.state, NOW + 15.0, TUNING)

    assert again.state.demand == first.state.demand
    assert later.state.demand[-2:] == (first.state.demand[-1], (NOW + 15.0, 3.0))
