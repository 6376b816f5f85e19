"""What the scaler and the snapshot read of engines' pods."""

from __future__ import annotations

import pytest

from builders import NOW, a_pod, a_ready_pod, ago, an_expert, ending
from flotilla_api.names import ASLEEP_ANNOTATION
from flotilla_operator.reconcile.pod_states import pod_states
from flotilla_operator.reconcile.types import Manifest
from flotilla_operator.resources.pods import make_endpoints
from flotilla_operator.scaling.observe import PodState

EXPERT = an_expert()
NOW_SECONDS = NOW.timestamp()


def created(pod: Manifest, seconds: float) -> Manifest:
    """The pod, as old as that."""
    return pod | {"metadata": pod["metadata"] | {"creationTimestamp": ago(seconds)}}


def asleep(pod: Manifest) -> Manifest:
    """The pod, while it sleeps."""
    return pod | {"metadata": pod["metadata"] | {"annotations": {ASLEEP_ANNOTATION: "true"}}}


def with_ready(status: str, since_seconds: float, *, restarts: int = 0) -> Manifest:
    """A pod that began on its node 90 seconds ago, with its Ready condition as of then."""
    condition = {"type": "Ready", "status": status, "lastTransitionTime": ago(since_seconds)}
    containers = [{"name": "engine", "restartCount": restarts}]
    return created(
        a_pod(
            EXPERT,
            conditions=[condition],
            containerStatuses=containers,
            startTime=ago(90),
            podIP="10.0.0.1",
            phase="Running",
        ),
        100,
    )


def state(pod: Manifest, now: float = NOW_SECONDS) -> PodState:
    """The only state."""
    (found,) = pod_states([pod], now)
    return found


def test_a_pod_that_answers_tells_how_long_it_took() -> None:
    """From its creation, so that waiting for a node and the download count."""
    found = state(with_ready("True", 40))

    assert (found.ready, found.started_in, found.age_seconds) == (True, 60.0, 100.0)


def test_an_engine_that_was_restarted_tells_nothing_of_cold_starts() -> None:
    """Its last answer began after the restart, not after the creation."""
    assert state(with_ready("True", 40, restarts=1)).started_in is None


@pytest.mark.parametrize(
    ("pod", "age"),
    [
        pytest.param(created(a_pod(EXPERT), 100), 100.0, id="no node yet"),
        pytest.param(with_ready("False", 90), 100.0, id="starting"),
        pytest.param(with_ready("False", 30), 30.0, id="it had answered until half a minute ago"),
    ],
)
def test_a_pod_that_does_not_answer_is_as_old_as_its_silence(pod: Manifest, age: float) -> None:
    """An old pod that fails its probe for a moment has not been starting for days."""
    found = state(pod)

    assert (found.ready, found.started_in, found.age_seconds) == (False, None, age)


def test_a_pod_from_the_future_is_new() -> None:
    """Clocks differ."""
    assert state(with_ready("False", 90), NOW_SECONDS - 3600).age_seconds == 0.0


def test_pods_that_end_do_not_count() -> None:
    """They take nothing any more."""
    assert pod_states([ending(with_ready("True", 40))], NOW_SECONDS) == ()


def test_an_engine_that_sleeps_is_ready_and_gets_no_requests() -> None:
    """It says that it is healthy, and completions hang until it is woken."""
    awake, sleeping = a_ready_pod(EXPERT, "a"), asleep(a_ready_pod(EXPERT, "b", ip="10.0.0.2"))

    endpoints = make_endpoints([awake, sleeping])

    assert [endpoint.address for endpoint in endpoints] == ["10.0.0.1:8000"]
    assert [each.asleep for each in pod_states([created(awake, 1), created(sleeping, 1)], NOW_SECONDS)] == [False, True]
