"""An expert that is scaled: it grows under load, goes to zero when idle, and one request wakes it."""

from __future__ import annotations

import time
from collections.abc import Generator
from contextlib import contextmanager
from itertools import pairwise

import httpx
import pytest

from e2e.load import load_on
from e2e.objects import Manifest, a_policy, an_expert, an_external_fallback
from e2e.scaled import a_scaled_expert, replica_owners, wanted
from e2e.steps import Space
from flotilla_api.names import FIELD_MANAGER, SCALER_MANAGER

CLIENTS = 10
GROWTH_SECONDS = 150.0
"""Three scrapes for a rate, one tick, and a start."""
IDLE_SECONDS = 150.0


def _fleet(space: Space, expert: Manifest, *fallbacks: str, **policy: object) -> None:
    name = expert["metadata"]["name"]
    space.apply(expert, *map(an_external_fallback, fallbacks))
    space.apply(a_policy("assist", experts=[name], fallbacks=list(fallbacks), **policy))
    space.wait_ready("RoutingPolicy", "assist")
    space.wait_condition("RoutingPolicy", "assist", "ConfigPropagated", "True")


@contextmanager
def _timed(record: dict[str, float], what: str) -> Generator[None]:
    began = time.monotonic()
    yield
    record[what] = round(time.monotonic() - began, 1)


@pytest.mark.timeout(600)
def test_load_grows_an_expert_idleness_ends_it_and_a_request_wakes_it(
    space: Space, capsys: pytest.CaptureFixture[str]
) -> None:
    """From 1 to several under load, to zero after idleAfter, and back by one request that the fallback answers at once;
    no request fails all along, and every change has its decision in the status."""
    _fleet(space, a_scaled_expert("elastic", min=0, idleAfter="30s", objectives={"ttftP95": "500ms"}), "big")
    space.wait_for(lambda: space.engines("elastic"), "the first engine")
    space.wait_condition("RoutingPolicy", "assist", "ConfigPropagated", "True")
    gateway, seconds = space.gateway("assist"), dict[str, float]()

    with load_on(gateway, clients=CLIENTS) as load:
        with _timed(seconds, "load step to two replicas that answer"):
            space.wait_for(lambda: len(space.engines("elastic")) >= 2, "a second engine", GROWTH_SECONDS)
        load.wait_for_more(CLIENTS)
    assert load.failures == []
    with _timed(seconds, "end of the load to zero"):
        space.wait_for(lambda: wanted(space, "elastic") == 0, "zero replicas", IDLE_SECONDS)
    space.wait_for(lambda: not space.owned("Pod", "Expert", "elastic"), "the pods to have drained")
    space.wait_condition("Expert", "elastic", "Available", "False", "ScaledToZero")
    with _timed(seconds, "first request at zero"):
        bridged = gateway.ask("is anybody there?")
    with _timed(seconds, "wake to the expert's own answer"):
        space.wait_for(
            lambda: gateway.ask("and now?").headers["x-flotilla-model"] == "elastic", "the expert to answer", 60
        )

    assert (bridged.status_code, bridged.headers["x-flotilla-model"]) == (200, "big")
    assert bridged.headers["x-flotilla-reason"] == "ColdStart"
    decisions = space.get("Expert", "elastic")["status"]["scaling"]["decisions"]
    assert ("Woken", "Idle") in pairwise(each["rule"] for each in decisions)
    assert all(each["message"] and each["inputs"] for each in decisions)
    with capsys.disabled():
        print("", *(f"{what}: {value} s" for what, value in seconds.items()), sep="\n  ")


@pytest.mark.timeout(600)
def test_an_expert_sleeps_before_it_goes_and_a_request_wakes_it(
    space: Space, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its pod stays, gets no request while it sleeps, and answers again as soon as its engine is awake."""
    _fleet(space, a_scaled_expert("drowsy", min=0, idleAfter="10m", sleep={"after": "15s"}), "big")
    space.wait_for(lambda: space.engines("drowsy"), "the engine")
    space.wait_condition("RoutingPolicy", "assist", "ConfigPropagated", "True")
    gateway, seconds, pods = space.gateway("assist"), dict[str, float](), space.owned("Pod", "Expert", "drowsy")
    assert gateway.ask("hello").headers["x-flotilla-model"] == "drowsy"

    with _timed(seconds, "last request to sleep"):
        space.wait_for(lambda: _is_asleep(space, "drowsy"), "the engine to sleep", IDLE_SECONDS)
    with _timed(seconds, "first request while it sleeps"):
        bridged = gateway.ask("is anybody there?")
    with _timed(seconds, "wake to the expert's own answer"):
        space.wait_for(
            lambda: gateway.ask("and now?").headers["x-flotilla-model"] == "drowsy", "the expert to answer", 30
        )

    assert (bridged.status_code, bridged.headers["x-flotilla-model"]) == (200, "big")
    assert bridged.headers["x-flotilla-reason"] == "ColdStart"
    assert [each["metadata"]["uid"] for each in space.owned("Pod", "Expert", "drowsy")] == [
        each["metadata"]["uid"] for each in pods
    ]
    with capsys.disabled():
        print("", *(f"{what}: {value} s" for what, value in seconds.items()), sep="\n  ")


def _is_asleep(space: Space, expert: str) -> bool:
    """As its engine says itself."""
    return httpx.get(f"{space.engine(expert).url}/is_sleeping", timeout=5).json()["is_sleeping"]


def test_scaling_and_replicas_hand_over_without_a_dip(space: Space) -> None:
    """From replicas: 2 to scaling and back to a larger number, no pod is lost, and the last word is always heard."""
    space.apply(an_expert("steady", replicas=2))
    space.wait_for(lambda: len(space.engines("steady")) == 2, "two engines")
    before = {engine.name for engine in space.engines("steady")}

    space.apply(an_expert("steady", scaling={"min": 2, "max": 4, "objectives": {"ttftP95": "500ms"}}))
    space.wait_for(lambda: replica_owners(space, "steady") == {SCALER_MANAGER}, "the scaler to own the number")
    space.wait_condition("Expert", "steady", "ScalingActive", "True")
    assert {engine.name for engine in space.engines("steady")} == before

    space.apply(an_expert("steady", replicas=3))
    space.wait_for(lambda: len(space.engines("steady")) == 3, "three engines")
    assert {engine.name for engine in space.engines("steady")} > before
    assert FIELD_MANAGER in replica_owners(space, "steady")
