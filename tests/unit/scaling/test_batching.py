"""Slot-seconds of a request by how full the batches are."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flotilla_operator.scaling.batching import full_batch_seconds, learn_batching
from flotilla_operator.scaling.types import TUNING, Batching, BatchTick, Tuning

LEARNING = replace(
    TUNING, smoothing_weight=1.0, learning_weight=0.05, line_weight=0.01, batching_prior=2.0, batching_ridge=0.003
)


@dataclass(frozen=True)
class Sample:
    """One tick's."""

    load: float
    seconds: float


def learned(samples: list[Sample], tuning: Tuning = LEARNING) -> Batching:
    """After these ticks, in each of which two requests a second finish."""
    known: Batching | None = None
    for sample in samples:
        known = learn_batching(known, BatchTick(2.0 * sample.seconds, 2.0, sample.load), tuning)
    assert known
    return known


def test_loads_that_differ_show_what_a_full_batch_takes() -> None:
    """An engine that needs 2 s for a request alone and 6 s in a full batch: 6 s, though it was never full."""
    loads = [0.2, 0.4, 0.6, 0.8] * 200

    found = learned([Sample(load, 2.0 * 3.0**load) for load in loads])

    assert full_batch_seconds(found, LEARNING) == pytest.approx(6.0, rel=0.03)


def test_prompts_that_become_longer_do_not_change_how_the_engine_slows_down() -> None:
    """Seconds follow within minutes, the line within hours."""
    loads = [0.1, 0.9] * 200
    before = [Sample(load, 2.0 * 2.0**load) for load in loads]
    after = [Sample(0.5, 10.0)] * 100

    found = learned(before + after, replace(LEARNING, batching_prior=1.0, line_weight=0.001))

    assert full_batch_seconds(found, LEARNING) == pytest.approx(10.0 * 2.0**0.5, rel=0.05)


def test_noise_of_busy_slots_is_no_slope() -> None:
    """Busy slots that swing around a steady load are in the load and in the seconds alike."""
    known: Batching | None = None
    tuning = replace(LEARNING, smoothing_weight=0.02, batching_prior=1.0)
    for swing in [0.8, 1.2] * 500:
        known = learn_batching(known, BatchTick(5.0 * swing, 1.0, 0.5 * swing), tuning)

    assert known
    assert full_batch_seconds(known, tuning) == pytest.approx(5.0, rel=0.03)


def test_shorter_prompts_while_replicas_come_do_not_run_away() -> None:
    """Seconds and loads that fall together look like a steep line; no more than a threefold one is believed."""
    falling = [Sample(0.6 - 0.001 * tick, 8.0 * 0.99**tick) for tick in range(400)]

    found = learned(falling)

    assert full_batch_seconds(found, LEARNING) < 3.0 * found.seconds


def test_all_ticks_count_alike_until_there_are_many() -> None:
    """The first one is not believed for hours."""
    found = learned([Sample(0.0, 1.0), *[Sample(0.5, 4.0)] * 9])

    assert found.line
    assert found.line.ticks == 10
    assert found.line.load == pytest.approx(0.45)
    assert found.line.log_seconds == pytest.approx(0.9 * math.log(4.0))


def test_an_engine_that_does_not_mind_is_believed() -> None:
    """Where fuller batches take no longer, the prior goes."""
    loads = [0.1, 0.9] * 400

    found = learned([Sample(load, 3.0) for load in loads])

    assert full_batch_seconds(found, LEARNING) == pytest.approx(3.0, rel=0.02)


@pytest.mark.parametrize(("load", "seconds"), [(0.0, 4.0), (0.5, 2.0 * 2**0.5), (1.0, 2.0)])
def test_one_load_shows_nothing_so_the_prior_holds(load: float, seconds: float) -> None:
    """Twice as long in a full batch as alone; what is measured in full batches is what it is."""
    assert full_batch_seconds(learned([Sample(load, 2.0)] * 100), LEARNING) == pytest.approx(seconds)


def test_what_others_remember_is_taken_for_half_full_batches() -> None:
    """Until the first tick says how full they are."""
    remembered = Batching(2.0)

    assert full_batch_seconds(remembered, LEARNING) == pytest.approx(2.0 * 2**0.5)
    assert learn_batching(remembered, BatchTick(2.0, 1.0, 0.8), LEARNING).load == pytest.approx(0.8)


SAMPLES = st.lists(st.builds(Sample, st.floats(0.0, 1.0), st.floats(0.01, 600.0)), min_size=1, max_size=60)


@given(SAMPLES)
def test_a_full_batch_never_takes_less_than_the_average(samples: list[Sample]) -> None:
    """Nor more than three times as long, whatever noise says."""
    found = learned(samples)

    assert 3.000001 * found.seconds >= full_batch_seconds(found, LEARNING) >= found.seconds > 0


@given(SAMPLES, st.floats(0.1, 10.0))
def test_seconds_scale_with_the_requests_length(samples: list[Sample], factor: float) -> None:
    """Requests that are all twice as long take twice as long."""
    longer = [Sample(each.load, each.seconds * factor) for each in samples]

    assert full_batch_seconds(learned(longer), LEARNING) == pytest.approx(
        factor * full_batch_seconds(learned(samples), LEARNING), rel=1e-6
    )
