"""Replays: the same seed gives the same dollars, and nobody is cheaper than the oracle."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flotilla_operator.scaling.types import Target
from flotilla_simulation.flotilla_policy import Flotilla
from flotilla_simulation.oracle import oracle_dollars
from flotilla_simulation.policies import HpaPods, Keda, Knative, Policy, Static
from flotilla_simulation.replay import Scenario, replay
from unit.simulation.simulated import a_scenario, poisson, regular


def _policies(scenario: Scenario, loss_usd: float) -> dict[str, Policy]:
    bounds = scenario.bounds
    target = Target(bounds.minimum, bounds.maximum, scenario.engine.slots, replica_usd_per_hour=0.8, loss_usd=loss_usd)
    return {
        "flotilla": Flotilla(target),
        "keda": Keda(1.2, bounds),
        "hpa": HpaPods(10.0, bounds, concurrency=True),
        "waiting": HpaPods(2.0, bounds),
        "knative": Knative(10.0, bounds),
        "static": Static(3, bounds),
    }


@settings(max_examples=15)
@given(
    rates=st.lists(st.floats(0.05, 9.0), min_size=2, max_size=4),
    seed=st.integers(0, 50),
    shares=st.sampled_from([0.5, 2.0, 10.0, 60.0]),
)
def test_oracle_is_a_lower_bound(rates: list[float], seed: int, shares: float) -> None:
    """Whatever the load and the price, no policy pays less, and no constant number does."""
    load = poisson(rates[0], 600.0, seed=seed)
    for number, rate in enumerate(rates[1:], 1):
        load = poisson(rate, 600.0, seed=seed + number).after(load)
    scenario = a_scenario(load, warm_up=300.0)
    loss_usd = shares * scenario.share_usd
    bound = oracle_dollars(scenario, loss_usd)
    policies = _policies(scenario, loss_usd) | {f"static {n}": Static(n, scenario.bounds) for n in range(1, 13)}

    for name, policy in policies.items():
        assert replay(scenario, policy).dollars(0.8, loss_usd) >= bound * 0.999, name


def test_oracle_of_nothing_is_the_least_replicas() -> None:
    """An hour without a request costs one replica's hour; with a minimum of 0 nothing."""
    quiet = a_scenario(regular(seconds=3600.0))

    assert oracle_dollars(quiet, 0.01) == pytest.approx(0.8)
    assert oracle_dollars(a_scenario(regular(seconds=3600.0), least=0), 0.01) == 0.0


def test_replay_is_the_same_for_the_same_seed() -> None:
    """Nothing depends on the clock or on an order of hashing."""
    for name in _policies(a_scenario(poisson(3.0, 900.0)), 0.01):
        first, again = (
            replay(a_scenario(poisson(3.0, 900.0, seed=5)), _policies(a_scenario(poisson(3.0, 900.0)), 0.01)[name])
            for _ in range(2)
        )
        assert replace(first, series=again.series) == again
        assert np.array_equal(first.series.wanted, again.series.wanted)


def test_warm_up_is_replayed_and_not_counted() -> None:
    """Requests and GPU-hours are those after it."""
    load = poisson(2.0, 1200.0)
    outcome = replay(a_scenario(load, warm_up=600.0), Static(2, a_scenario(load).bounds))

    assert outcome.requests == pytest.approx(len(load.between(600.0, 1200.0)), abs=1)
    assert outcome.gpu_hours == pytest.approx(2 * 600 / 3600, rel=0.02)


def test_request_for_an_expert_at_zero_wakes_it_before_the_next_tick() -> None:
    """The first request is lost (bridged); one that comes after the cold start is served."""
    scenario = a_scenario(regular(1801.0, 1895.0, seconds=2400.0), least=0)
    target = Target(0, 4, 16, replica_usd_per_hour=0.8, loss_usd=0.05, idle_after_seconds=600.0)
    outcome = replay(scenario, Flotilla(target))

    assert (outcome.lost, outcome.finished) == (1, 1)
    assert outcome.cold_starts == 1


def test_outcome_counts_direction_changes_and_created_replicas() -> None:
    """Up by three, down, and up again are two reversals and four cold starts."""

    class Scripted(Static):
        def wanted(self, sample: object) -> int:
            at = getattr(sample, "at", 0.0)
            return 1 if at < 100 else 4 if at < 300 else 3 if at < 500 else 4

    load = poisson(0.1, 900.0)
    outcome = replay(a_scenario(load), Scripted(1, a_scenario(load).bounds))

    assert (outcome.cold_starts, outcome.reversals) == (4, 2)
