"""Laws of `decide`, for whatever is measured and asked for."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

from deciding import NOW, TUNING, a_target
from hypothesis import given
from hypothesis import strategies as st

from flotilla_operator.scaling.decide import decide
from flotilla_operator.scaling.signals import Known, Signal, Unknown
from flotilla_operator.scaling.types import (
    Batching,
    BatchLine,
    BatchTick,
    Note,
    Objectives,
    Observation,
    Replicas,
    Rule,
    State,
    Target,
)

rates = st.floats(0.0, 50.0)
amounts = st.one_of(
    st.builds(Known, st.floats(0.0, 1e6), st.floats(0.0, 89.0)),
    st.just(Known(0.0)),
    st.just(Unknown("not measured")),
)
anything = st.one_of(
    amounts,
    st.builds(Known, st.floats(-1e9, 1e9), st.floats(0.0, 1e6)),
    st.sampled_from((Known(math.nan), Known(math.inf), Known(-math.inf))),
)
"""NaN, infinities and stale values too; sources let nothing absurd through."""
unusable = st.one_of(
    st.builds(Unknown, st.just("down"), rates),
    st.builds(Known, st.sampled_from((math.nan, math.inf, -math.inf, -1.0))),
    st.builds(Known, rates, st.floats(91.0, 1e9)),
)


@st.composite
def targets(draw: st.DrawFn, *, priced: bool | None = None) -> Target:
    """min <= max, with and without prices, objectives, schedules and an override."""
    maximum = draw(st.integers(1, 12))
    has_prices = draw(st.booleans()) if priced is None else priced
    return a_target(
        minimum=draw(st.integers(0, maximum)),
        maximum=maximum,
        slots=draw(st.integers(1, 64)),
        replica_usd_per_hour=draw(st.floats(0.05, 20.0)) if has_prices else None,
        loss_usd=draw(st.floats(1e-6, 0.1)) if has_prices else None,
        objectives=draw(
            st.builds(
                Objectives,
                ttft_p95=st.none() | st.floats(0.1, 5.0),
                queue_p95=st.none(),
                tpot_p95=st.none(),
                escalation_ratio=st.none() | st.floats(0.0, 1.0),
            )
        ),
        slo_floor=draw(st.booleans()),
        scheduled_minimum=draw(st.sampled_from((0, 0, 1, 20))),
        override=draw(st.sampled_from((None, None, 0, 3, 20))),
    )


loads = st.floats(0.0, 1.0)
ticks = st.builds(BatchTick, st.floats(0.0, 1e4), st.floats(0.01, 1e4), loads)
lines = st.builds(
    BatchLine, loads, st.floats(-7.0, 7.0), st.floats(0.0, 0.25), st.floats(-4.0, 4.0), st.integers(1, 10_000)
)
batchings = st.builds(Batching, st.floats(0.01, 600.0), st.none() | loads, st.none() | ticks, st.none() | lines)


@st.composite
def states(draw: st.DrawFn) -> State:
    """Anything that earlier ticks may have left."""
    demand = draw(st.lists(rates, max_size=20))
    at = [NOW - TUNING.history_seconds + 1.0 + index * 170.0 for index in range(len(demand))]
    times = st.none() | st.floats(NOW - 7200.0, NOW)
    return State(
        batching=draw(st.none() | batchings),
        demand=tuple(zip(at, demand, strict=True)),
        partial=tuple((when + 1.0, draw(rates)) for when in at[::2]),
        born_at=draw(st.sampled_from((-math.inf, NOW - 600.0, None))),
        zero_since=draw(times),
        below_since=draw(times),
        shrunk_at=draw(times),
        missed_ticks=draw(st.integers(0, 3)),
    )


@st.composite
def observations(draw: st.DrawFn, signals: st.SearchStrategy[Signal] = anything) -> Observation:
    """Any pods, and any signals."""
    names = ("arrivals", "capacity_losses", "quality_losses", "late", "slot_seconds", "finished", "running", "waiting")
    more = ("kv_usage", "preemptions", "ttft_p95", "tokens_per_request", "kv_tokens")
    values: dict[str, Any] = {name: draw(signals) for name in (*names, *more)}
    wanted = draw(st.integers(0, 15))
    replicas = Replicas(wanted, draw(st.integers(0, wanted)), tuple(draw(st.lists(st.floats(0.0, 1e4), max_size=3))))
    woken, awaited = (draw(st.none() | st.floats(NOW - 5000.0, NOW)) for _ in range(2))
    return Observation(replicas, woken_at=woken, awaited_at=awaited, **values)


@given(observations(), targets(), states())
def test_the_number_is_within_min_and_max(seen: Observation, target: Target, state: State) -> None:
    """Whatever is measured, and whatever else is asked for."""
    found = decide(seen, target, state, NOW, TUNING)

    assert target.minimum <= found.replicas <= target.maximum
    assert 0 <= found.floor <= found.replicas


@given(observations(), targets(), states())
def test_the_curve_fits_the_number(seen: Observation, target: Target, state: State) -> None:
    """One finite amount for 0, 1, ... replicas, or nothing where prices are unknown; the allocator reads it."""
    found = decide(seen, target, state, NOW, TUNING)

    priced = target.replica_usd_per_hour is not None
    assert len(found.usd_per_hour) == (found.replicas + 1 if priced else 0)
    assert all(math.isfinite(usd) and usd >= 0 for usd in found.usd_per_hour)


@given(observations(), targets(), states())
def test_the_same_is_decided_of_the_same(seen: Observation, target: Target, state: State) -> None:
    """There is no clock, no chance and no memory but the state."""
    assert decide(seen, target, state, NOW, TUNING) == decide(seen, target, state, NOW, TUNING)


@given(observations(), targets(), states(), unusable)
def test_unknown_demand_never_shrinks(seen: Observation, target: Target, state: State, arrivals: Signal) -> None:
    """But for what a person says: max, or an override."""
    target, wanted = replace(target, override=None), min(seen.replicas.wanted, target.maximum)

    found = decide(replace(seen, arrivals=arrivals), target, state, NOW, TUNING)

    assert found.replicas >= wanted


@given(observations(amounts), targets(priced=True), states(), rates, rates)
def test_more_demand_never_gets_fewer(
    seen: Observation, target: Target, state: State, one: float, other: float
) -> None:
    """With all else the same."""
    less, more = (
        decide(replace(seen, arrivals=Known(rate)), target, state, NOW, TUNING) for rate in sorted((one, other))
    )

    assert less.replicas <= more.replicas


@given(observations(amounts), targets(), states(), rates, rates)
def test_a_busier_hour_never_gets_fewer(
    seen: Observation, target: Target, state: State, rate: float, more: float
) -> None:
    """Every sample of the hour and the arrivals now are higher, all else is equal."""
    higher = replace(state, demand=tuple((at, each + more) for at, each in state.demand))
    calm = decide(replace(seen, arrivals=Known(rate)), target, state, NOW, TUNING)
    busy = decide(replace(seen, arrivals=Known(rate + more)), target, higher, NOW, TUNING)

    assert calm.replicas <= busy.replicas


@given(observations(), targets(), states())
def test_a_second_look_in_the_same_tick_decides_the_same(seen: Observation, target: Target, state: State) -> None:
    """A wake between two ticks learns nothing twice."""
    first = decide(seen, target, state, NOW, TUNING)
    again = decide(seen, target, replace(first.state, shrunk_at=state.shrunk_at), NOW, TUNING)

    assert (again.replicas, again.state.demand) == (first.replicas, first.state.demand)


@given(observations(amounts), targets(priced=True), states(), st.floats(1.0, 100.0))
def test_a_higher_price_of_losses_never_gets_fewer(
    seen: Observation, target: Target, state: State, factor: float
) -> None:
    """And a higher price of GPUs never more."""
    assert target.loss_usd is not None
    assert target.replica_usd_per_hour is not None
    dearer_losses = replace(target, loss_usd=target.loss_usd * factor)
    dearer_gpus = replace(target, replica_usd_per_hour=target.replica_usd_per_hour * factor)

    found, more, fewer = (decide(seen, each, state, NOW, TUNING) for each in (target, dearer_losses, dearer_gpus))

    assert fewer.replicas <= found.replicas <= more.replicas


@given(observations(amounts), targets(), states(), st.floats(0.0, 1e5))
def test_quality_losses_change_no_number(seen: Observation, target: Target, state: State, losses: float) -> None:
    """They are no want of capacity: only the note is another."""
    without, many = (
        decide(replace(seen, quality_losses=Known(rate)), target, state, NOW, TUNING) for rate in (0.0, losses)
    )

    assert (without.replicas, without.rule, without.state) == (many.replicas, many.rule, many.state)
    assert without.notes - {Note.QUALITY_BOUND} == many.notes - {Note.QUALITY_BOUND}


@given(observations(amounts), targets(priced=True), states())
def test_shrinking_waits_and_takes_half_of_the_way(seen: Observation, target: Target, state: State) -> None:
    """Nothing goes within five minutes of the first sight, and then half of what may go, unless a person, max or
    idleness says so."""
    bounded, target = min(seen.replicas.wanted, target.maximum), replace(target, override=None)
    known = replace(state, born_at=None, shrunk_at=None)
    long_below = replace(known, below_since=NOW - 7200.0)

    first = decide(seen, target, replace(known, below_since=None), NOW, TUNING)
    half = decide(seen, target, long_below, NOW, TUNING)
    whole = decide(seen, target, long_below, NOW, replace(TUNING, shrink_ratio=1.0))

    if whole.rule is not Rule.IDLE and whole.replicas < bounded:
        assert first.replicas == bounded
        assert half.replicas == bounded - math.ceil((bounded - whole.replicas) / 2)


@given(observations(amounts), targets(), states())
def test_a_missed_objective_without_saturation_buys_nothing(seen: Observation, target: Target, state: State) -> None:
    """A GPU cannot cure what is not for want of GPUs."""
    idle = replace(
        seen,
        capacity_losses=Known(0.0),
        late=Known(0.0),
        waiting=Known(0.0),
        running=Known(0.0),
        kv_usage=Known(0.0),
        preemptions=Known(0.0),
    )
    missing = replace(target, objectives=replace(target.objectives, tpot_p95=1e-3))
    slow, fast = (
        decide(replace(idle, tpot_p95=Known(tpot)), missing, replace(state, missed_ticks=5), NOW, TUNING)
        for tpot in (9.0, 0.0)
    )

    assert slow.replicas == fast.replicas
    assert Note.LATENCY_NOT_CAPACITY_BOUND in slow.notes


@given(observations(), targets(), states())
def test_every_number_is_explained(seen: Observation, target: Target, state: State) -> None:
    """One sentence, and inputs that are either amounts or shown as unknown; NaN is told of only as no amount."""
    found = decide(seen, target, state, NOW, TUNING)

    assert found.message
    assert "nan" not in found.counterfactual + found.message.replace("nan is no amount", "")
    assert all(each.value is None or math.isfinite(each.value) for each in found.inputs)
