"""What others scale with does as published, on cases made by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest

from flotilla_simulation.kernel import TTFT_BINS
from flotilla_simulation.policies import Bounds, HpaBehavior, HpaPods, Keda, Knative, Static, plain_metric_replicas
from flotilla_simulation.replicas import Sample

WIDE = Bounds(1, 100)


def a_sample(
    at: float = 0.0,
    *,
    wanted: int = 1,
    ready: int | None = None,
    arrived: float = 0.0,
    in_flight_seconds: float = 0.0,
    running: int = 0,
    waiting: int = 0,
) -> Sample:
    """What is measured, with nothing else going on."""
    return Sample(
        at=at,
        arrived=arrived,
        lost=0.0,
        late=0.0,
        finished=0.0,
        slot_seconds=0.0,
        in_flight_seconds=in_flight_seconds,
        running=running,
        waiting=waiting,
        wanted=wanted,
        ready=wanted if ready is None else ready,
        pending_ages=(),
        kv_usage=0.0,
        ttft=np.zeros(TTFT_BINS, np.int64),
    )


def test_static_asks_for_its_number_within_the_bounds() -> None:
    """Whatever happens."""
    assert Static(7, Bounds(1, 5)).wanted(a_sample()) == 5


@pytest.mark.parametrize(
    ("total", "measured", "current", "expected"),
    [
        pytest.param(10.0, 2, 2, 3, id="25 percent above the target grows to the ceiling"),
        pytest.param(8.7, 2, 2, 2, id="within ten percent nothing changes"),
        pytest.param(3.0, 2, 2, 1, id="below the target shrinks"),
        pytest.param(16.0, 2, 4, 4, id="growing takes pods without metrics for idle, and 16 are the target of 4"),
        pytest.param(20.0, 2, 4, 5, id="and grows when they are not enough"),
        pytest.param(2.0, 2, 4, 3, id="shrinking takes pods without metrics for full"),
        pytest.param(9.0, 0, 3, 3, id="without any metric nothing changes"),
    ],
)
def test_pods_metric_follows_the_replica_calculator(total: float, measured: int, current: int, expected: int) -> None:
    """kubernetes/pkg/controller/podautoscaler/replica_calculator.go, calcPlainMetricReplicas; the target is 4 a pod."""
    assert plain_metric_replicas(total, measured, current, 4.0) == expected


def test_hpa_grows_at_most_by_the_larger_of_double_and_four() -> None:
    """autoscaling/v2: scaleUp has 100 % and 4 pods in 15 s, selectPolicy Max."""
    assert HpaBehavior(WIDE).settle(0.0, 2, 50) == 6
    assert HpaBehavior(WIDE).settle(0.0, 10, 50) == 20


def test_hpa_shrinks_to_the_highest_recommendation_of_five_minutes() -> None:
    """autoscaling/v2: scaleDown has a stabilization window of 300 s."""
    behavior = HpaBehavior(WIDE)
    behavior.settle(0.0, 8, 8)
    behavior.settle(15.0, 8, 3)

    assert behavior.settle(299.0, 8, 2) == 8
    assert behavior.settle(314.0, 8, 2) == 3
    assert behavior.settle(316.0, 3, 2) == 2


def test_hpa_on_waiting_ignores_what_runs_and_on_concurrency_counts_it() -> None:
    """Both are averages per pod."""
    full = a_sample(wanted=2, running=32, waiting=2)

    assert HpaPods(4.0, WIDE).wanted(full) == 2
    assert HpaPods(10.0, WIDE, concurrency=True).wanted(full) == 4


def test_keda_divides_the_rate_by_the_threshold() -> None:
    """GetExternalPerPodMetricReplicas: AverageValue, tolerance of ten percent."""
    keda = Keda(2.0, WIDE)
    keda.wanted(a_sample(0.0, wanted=2))

    assert keda.wanted(a_sample(60.0, wanted=2, arrived=60 * 4.2)) == 2
    assert keda.wanted(a_sample(120.0, wanted=2, arrived=60 * 4.2 + 60 * 9)) == 5


def test_keda_goes_to_zero_after_the_cooldown_and_back_with_the_first_request() -> None:
    """keda.sh, scaling deployments: cooldownPeriod 300 s applies from 1 to 0 only; activation is above 0."""
    keda = Keda(2.0, Bounds(0, 10))
    keda.wanted(a_sample(0.0))
    keda.wanted(a_sample(60.0, arrived=6.0))
    still = [keda.wanted(a_sample(float(at), arrived=6.0)) for at in range(120, 360, 15)]

    assert set(still) == {1}
    assert keda.wanted(a_sample(420.0, arrived=6.0)) == 0
    assert keda.wanted(a_sample(435.0, wanted=0, arrived=7.0)) == 1


def _knative(concurrency: list[float], *, ready: int = 1, policy: Knative | None = None) -> list[int]:
    """What it wants every 2 s while this much is in flight and `ready` never changes."""
    knative = policy or Knative(10.0, WIDE)
    total = 0.0
    found: list[int] = []
    for tick, each in enumerate(concurrency):
        total += 2.0 * each
        found.append(
            knative.wanted(a_sample(2.0 * (tick + 1), wanted=ready, in_flight_seconds=total, running=math.ceil(each)))
        )
    return found


def test_knative_averages_over_the_stable_window() -> None:
    """pkg/autoscaler/scaling/autoscaler.go: ceil(stable concurrency / target)."""
    assert _knative([15.0] * 60)[-1] == 2
    assert _knative([0.0] * 30 + [15.0] * 15, ready=2)[-1] == 1


def test_knative_panics_when_six_seconds_ask_for_twice_what_is_ready() -> None:
    """panic-threshold-percentage 200, panic-window-percentage 10; while it panics it never shrinks."""
    found = _knative([5.0] * 30 + [40.0] * 3 + [5.0] * 20)

    assert found[29] == 1
    assert found[32] == 4
    assert set(found[33:]) == {4}


def test_knative_ends_its_panic_a_stable_window_after_the_last_reason() -> None:
    """Only then may it shrink."""
    found = _knative([5.0] * 30 + [40.0] * 3 + [5.0] * 40)

    assert found[-1] == 1


def test_knative_halves_at_most() -> None:
    """max-scale-down-rate 2."""
    assert _knative([5.0] * 40, ready=9)[-1] == 4


def test_knative_delays_shrinking_by_the_highest_of_the_delay() -> None:
    """scale-down-delay: the maximum over the window."""
    delayed = Knative(10.0, WIDE, scale_down_delay_seconds=300.0)
    found = _knative([15.0] * 40 + [5.0] * 200, policy=delayed, ready=2)

    assert found[39] == 2
    assert found[150] == 2
    assert found[-1] == 1


def test_knative_goes_to_zero_after_the_stable_window_and_the_grace() -> None:
    """scale-to-zero-grace-period 30 s."""
    found = _knative([5.0] * 3 + [0.0] * 60, policy=Knative(10.0, Bounds(0, 10)))

    assert found[3 + 40] == 1
    assert found[3 + 46] == 0
