"""What can be asked of a fleet's signals."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flotilla_operator.scaling.fleet import ExpertSignals, Latencies, Loss, Losses
from flotilla_operator.scaling.signals import Known, Unknown

BOUNDS = (0.5, 1.0, math.inf)


def _value(signal: Known | Unknown) -> float:
    assert isinstance(signal, Known)
    return signal.value


@pytest.mark.parametrize(
    ("objective", "late"),
    [
        pytest.param(0.0, 10.0, id="everything is later than nothing"),
        pytest.param(0.5, 6.0, id="a bound splits exactly"),
        pytest.param(0.75, 4.0, id="linear inside a bucket"),
        pytest.param(1.0, 2.0, id="the last bound"),
        pytest.param(9.0, 2.0, id="beyond it nothing is known to be in time"),
    ],
)
def test_late_requests_are_counted_over_the_objective(objective: float, late: float) -> None:
    """The whole histogram is kept, so that each Expert's own objective can be asked."""
    latencies = Latencies(BOUNDS, (4.0, 4.0, 2.0), age_seconds=3.0)

    signal = ExpertSignals(ttft=latencies).late(objective)

    assert _value(signal) == pytest.approx(late)
    assert signal == Known(_value(signal), 3.0)


@pytest.mark.parametrize(
    ("ratio", "seconds"),
    [
        pytest.param(0.2, 0.25, id="inside the first bucket"),
        pytest.param(0.4, 0.5, id="at a bound"),
        pytest.param(0.6, 0.75, id="inside a bucket"),
        pytest.param(0.95, 1.0, id="beyond the last bound"),
    ],
)
def test_quantiles_are_those_of_prometheus(ratio: float, seconds: float) -> None:
    """Linear inside a bucket, and the last bound for what is beyond it."""
    signal = ExpertSignals(ttft=Latencies(BOUNDS, (4.0, 4.0, 2.0))).ttft_quantile(ratio)

    assert _value(signal) == pytest.approx(seconds)


def test_quantile_of_no_request_is_unknown() -> None:
    """Nothing was answered, so nothing is said of how fast."""
    signal = Latencies(BOUNDS, (0.0, 0.0, 0.0)).quantile(0.95)

    assert isinstance(signal, Unknown)


@given(st.lists(st.floats(0, 100), min_size=3, max_size=3), st.floats(0, 2), st.floats(0, 2))
def test_fewer_are_late_for_a_laxer_objective(rates: list[float], one: float, other: float) -> None:
    """Bounded by all requests, and falling with the objective."""
    latencies = Latencies(BOUNDS, tuple(rates))

    strict, lax = (_value(latencies.above(each)) for each in sorted((one, other)))

    assert 0 <= lax <= strict + 1e-9
    assert strict <= sum(rates) + 1e-9


def test_losses_are_summed_by_group_and_by_cause() -> None:
    """A group or cause without a count is a confirmed zero."""
    found = (Loss("capacity", "Overloaded", 1.0), Loss("capacity", "NoReadyReplica", 0.5), Loss("quality", "X", 3.0))
    signals = ExpertSignals(losses=Losses(found, 7.0))

    assert signals.lost("capacity") == Known(1.5, 7.0)
    assert signals.lost_for("Overloaded") == Known(1.0, 7.0)
    assert signals.lost("fault") == Known(0.0, 7.0)


def test_unknown_stays_unknown_whatever_is_asked() -> None:
    """Each question about what was not measured has the reason for its answer."""
    why = Unknown("no router is scraped")
    signals = ExpertSignals(losses=why, ttft=why, prompt_tokens=why, generation_tokens=Known(2.0))

    answers = (signals.lost("capacity"), signals.lost_for("Rule"), signals.late(1.0), signals.ttft_quantile(0.5))

    assert set(answers) == {why}
    assert signals.tokens_per_request == why


def test_tokens_of_a_request_are_prompt_and_answer() -> None:
    """As old as the older of the two."""
    signals = ExpertSignals(prompt_tokens=Known(100.0, 1.0), generation_tokens=Known(20.0, 9.0))

    assert signals.tokens_per_request == Known(120.0, 9.0)
