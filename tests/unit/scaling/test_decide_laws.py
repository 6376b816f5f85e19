"""Laws that every decision keeps, whatever is observed."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from flotilla_operator.scaling.decide import decide
from flotilla_operator.scaling.signals import Known, Signal, Unknown
from flotilla_operator.scaling.types import Observation, Replicas, State, Target

NOW = 1_000_000.0
RATES = st.floats(0.0, 200.0)
USD, CENTS = st.floats(0.0, 10.0), st.floats(0.0, 0.1)
SIGNALS: st.SearchStrategy[Signal] = st.one_of(
    RATES.map(Known), st.just(Unknown("no answer")), st.builds(Known, RATES, st.floats(0.0, 200.0))
)


@st.composite
def targets(draw: st.DrawFn, *, priced: bool = False) -> Target:
    least = draw(st.integers(0, 5))
    return Target(
        minimum=least,
        maximum=draw(st.integers(max(least, 1), 30)),
        slots=draw(st.integers(1, 256)),
        replica_usd_per_hour=draw(USD if priced else st.one_of(st.none(), USD)),
        loss_usd=draw(CENTS if priced else st.one_of(st.none(), CENTS)),
        slo_floor=draw(st.booleans()),
    )


@st.composite
def observations(draw: st.DrawFn) -> Observation:
    ready = draw(st.integers(0, 20))
    pending = tuple(draw(st.lists(st.floats(0.0, 400.0), max_size=4)))
    return Observation(
        replicas=Replicas(draw(st.integers(0, 30)), ready, pending),
        arrivals=draw(SIGNALS),
        capacity_losses=draw(SIGNALS),
        late=draw(SIGNALS),
        slot_seconds=draw(SIGNALS),
        finished=draw(SIGNALS),
        running=draw(SIGNALS),
        waiting=draw(SIGNALS),
    )


@st.composite
def states(draw: st.DrawFn) -> State:
    rates = draw(st.lists(RATES, max_size=8))
    return State(
        slot_seconds=draw(st.one_of(st.none(), st.floats(0.05, 60.0))),
        demand=tuple((NOW - 15.0 * (len(rates) - index), rate) for index, rate in enumerate(rates)),
        backfilled=draw(st.booleans()),
        below_since=draw(st.one_of(st.none(), st.floats(NOW - 1000, NOW))),
        shrunk_at=draw(st.one_of(st.none(), st.floats(NOW - 1000, NOW))),
    )


@given(observation=observations(), target=targets(), state=states())
def test_decision_is_within_the_bounds(observation: Observation, target: Target, state: State) -> None:
    """Between min and max, always."""
    assert target.minimum <= decide(observation, target, state, NOW).replicas <= target.maximum


@given(observation=observations(), target=targets(), state=states())
def test_unknown_demand_never_shrinks(observation: Observation, target: Target, state: State) -> None:
    """Only the maximum goes below what there is."""
    unknown = replace(observation, arrivals=Unknown("no answer"))
    there = min(observation.replicas.wanted, target.maximum)

    assert decide(unknown, target, state, NOW).replicas >= there


@given(observation=observations(), target=targets(), state=states(), rate=RATES, more=RATES)
def test_more_demand_never_means_fewer(
    observation: Observation, target: Target, state: State, rate: float, more: float
) -> None:
    """Every sample of the hour and the arrivals now are higher, all else is equal."""
    calm = replace(observation, arrivals=Known(rate))
    busy = replace(observation, arrivals=Known(rate + more))
    higher = replace(state, demand=tuple((at, each + more) for at, each in state.demand))

    assert decide(busy, target, higher, NOW).replicas >= decide(calm, target, state, NOW).replicas


@given(observation=observations(), target=targets(priced=True), state=states(), dearer=st.floats(1.0, 50.0))
def test_dearer_losses_never_mean_fewer(observation: Observation, target: Target, state: State, dearer: float) -> None:
    """And dearer GPUs never more."""
    assert target.loss_usd is not None
    assert target.replica_usd_per_hour is not None
    plain = decide(observation, target, state, NOW).replicas
    losses = replace(target, loss_usd=target.loss_usd * dearer)
    accelerators = replace(target, replica_usd_per_hour=target.replica_usd_per_hour * dearer)

    assert decide(observation, losses, state, NOW).replicas >= plain
    assert decide(observation, accelerators, state, NOW).replicas <= plain


@given(observation=observations(), target=targets(), state=states(), quality=SIGNALS)
def test_escalations_for_quality_change_no_number(
    observation: Observation, target: Target, state: State, quality: Signal
) -> None:
    """A GPU cannot fix them."""
    assert (
        decide(replace(observation, quality_losses=quality), target, state, NOW).replicas
        == decide(observation, target, state, NOW).replicas
    )


@given(observation=observations(), target=targets(), state=states())
def test_decision_again_in_the_same_tick_is_the_same(observation: Observation, target: Target, state: State) -> None:
    """A wake between two ticks learns nothing twice."""
    first = decide(observation, target, state, NOW)
    again = decide(observation, target, replace(first.state, shrunk_at=state.shrunk_at), NOW)

    assert again.replicas == first.replicas
    assert again.state.demand == first.state.demand
