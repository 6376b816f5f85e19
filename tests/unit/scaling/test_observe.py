"""One observation from what is measured and what pods say."""

from __future__ import annotations

import math

import pytest
from deciding import NOW, TUNING, a_target, past

from flotilla_operator.scaling.decide import decide
from flotilla_operator.scaling.fleet import ExpertSignals, Latencies, Loss, Losses
from flotilla_operator.scaling.observe import (
    COLD_STARTS_MAX,
    PodState,
    count_replicas,
    observe,
    remember_cold_starts,
)
from flotilla_operator.scaling.signals import NOT_MEASURED, Known, Unknown
from flotilla_operator.scaling.types import Objectives, Replicas

REPLICAS = Replicas(wanted=2, ready=1)


def a_pod(name: str, **fields: object) -> PodState:
    """A pod that answers."""
    values = {"name": name, "uid": f"uid-{name}", "age_seconds": 60.0, "ready": True} | fields
    return PodState(**values)  # type: ignore[arg-type]


def test_capacity_losses_are_those_of_full_replicas() -> None:
    """Requests that found no replica are among the arrivals, and say nothing of what a replica takes."""
    lost = {"Overloaded": 2.0, "NoReadyReplica": 0.7}
    causes = (*(Loss("capacity", cause, rate) for cause, rate in lost.items()), Loss("policy", "ColdStart", 0.5))

    observation = observe(ExpertSignals(losses=Losses(causes, 3.0)), REPLICAS, Objectives())

    assert observation.capacity_losses == Known(2.0, 3.0)
    assert observation.quality_losses == Known(0.0, 3.0)


@pytest.mark.parametrize("cause", ["ColdStart", "NoReadyReplica"])
def test_a_cold_start_that_ends_buys_no_second_replica(cause: str) -> None:
    """0.9/s were answered elsewhere meanwhile, as the window of rates still says; a replica takes 1/s."""
    lost = Losses((Loss("capacity", cause, 0.9),))

    observation = observe(ExpertSignals(Known(0.9), lost), Replicas(wanted=1, ready=1), Objectives())

    assert decide(observation, a_target(), past(0.0), NOW, TUNING).state.demand[-1] == (NOW, 0.9)


def test_losses_that_are_unknown_stay_unknown() -> None:
    """Unknown is no zero."""
    observation = observe(ExpertSignals(losses=Unknown("no answer")), REPLICAS, Objectives())

    assert observation.capacity_losses == Unknown("no answer")


def test_late_requests_are_those_over_the_experts_own_objective() -> None:
    """Without an objective nothing is late."""
    signals = ExpertSignals(ttft=Latencies((0.5, math.inf), (3.0, 1.0), 2.0))

    assert observe(signals, REPLICAS, Objectives(ttft_p95=0.5)).late == Known(1.0, 2.0)
    assert observe(signals, REPLICAS, Objectives()).late is NOT_MEASURED


def test_pods_are_counted_by_whether_they_answer() -> None:
    """Those that sleep would answer; those that do not answer are as old as they are."""
    pods = (a_pod("a"), a_pod("b", asleep=True), a_pod("d", ready=False, age_seconds=90.0), a_pod("c", ready=False))

    replicas = count_replicas(4, pods, {"uid-a": 33.0})

    assert replicas == Replicas(wanted=4, ready=2, pending_ages=(60.0, 90.0), cold_starts=(33.0,))


def test_each_pods_cold_start_counts_once_and_old_ones_are_forgotten() -> None:
    """Looking again adds nothing, however often; what is remembered is bounded."""
    pods = [a_pod(str(number), started_in=float(number)) for number in range(COLD_STARTS_MAX + 5)]
    known: dict[str, float] = {}
    for pod in pods:
        known = remember_cold_starts(known, [pod, pod])
    known = remember_cold_starts(known, [a_pod(str(COLD_STARTS_MAX), started_in=1.0), a_pod("slow", ready=False)])

    assert list(known.values()) == [float(number) for number in range(5, COLD_STARTS_MAX + 5)]
