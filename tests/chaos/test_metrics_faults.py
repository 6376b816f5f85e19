"""Prometheus is down, slow or lies, and the operator loses its memory: nothing shrinks on what is not known."""

from __future__ import annotations

import os
import re
import signal
from collections.abc import Callable, Generator
from contextlib import AbstractContextManager, contextmanager
from datetime import UTC, datetime, timedelta
from urllib.parse import urlsplit

import pytest

from e2e.fixtures import new_space
from e2e.objects import Manifest, a_policy, an_external_fallback
from e2e.scaled import a_scaled_expert, bound_by, deployment, kill_leader, leader, numbers, wanted
from e2e.steps import OPERATOR, Space, is_ready, system_of
from localcluster.runner.control import container_pid
from stack import lying
from stack.flotilla import CHART, SYSTEM_NAMESPACE, Stack, chart_values
from stack.lying import Relay, running_relay
from stack.prometheus import NAME, NAMESPACE, PORT, start_prometheus

UPGRADE_SECONDS = 120
WINDOW_SECONDS = 9
"""Of rates, over scrapes that are one second apart: a busy machine misses some."""
SLOW = "did not answer all queries"
SEEN_SECONDS = 75.0
"""A fault begins, and two ticks of which one waits for all of its time."""
IDLE_SECONDS = 150.0
TAKEOVER_SECONDS = 60.0
KNOWN_FROM_BIRTH_SECONDS = 61.0
"""An Expert that a new leader sees later than this has a past that it must learn."""
IDLE_AFTER_SECONDS = 120
"""Longer than it takes until another leader leads, and has read the past at its second try."""
OVERRIDE_SECONDS = 30.0
LEARNED_SECONDS = 100.0
"""The past is asked for every 60 s."""


@pytest.fixture(scope="module")
def relay(stack: Stack) -> Generator[Relay]:
    """The operator reads a real Prometheus through it; afterwards it scrapes by itself again."""
    prometheus = start_prometheus(stack.cluster)
    host = urlsplit(stack.cluster.url).hostname
    assert host
    with running_relay(prometheus.url, host) as relay:
        values = chart_values()
        metered = {"url": relay.url, "scrapeInterval": f"{WINDOW_SECONDS // 3}s"}
        _upgrade(stack, {**values, "prometheus": metered})
        yield relay
        _upgrade(stack, values)


@pytest.fixture
def space(stack: Stack, relay: Relay) -> Generator[Space]:
    """A namespace with a fallback, on a cluster whose operator reads Prometheus."""
    with new_space(stack) as space:
        space.apply(an_external_fallback("big"))
        yield space


def _upgrade(stack: Stack, values: dict[str, object]) -> None:
    stack.cluster.helm.upgrade(
        "flotilla", CHART, namespace=SYSTEM_NAMESPACE, values=values, wait_seconds=UPGRADE_SECONDS
    )


@contextmanager
def _down(stack: Stack) -> Generator[None]:
    """There is no server; the one that comes back knows nothing of what was."""
    monitoring = Space(stack, NAMESPACE)
    monitoring.merge("Deployment", NAME, {"spec": {"replicas": 0}})
    try:
        yield
    finally:
        monitoring.merge("Deployment", NAME, {"spec": {"replicas": 1}})
        start_prometheus(stack.cluster)


@contextmanager
def _hanging(stack: Stack, relay: Relay) -> Generator[None]:
    """The server takes connections and answers nothing. It is asked at its pod, which its Service drops by and by."""
    (pod,) = (pod for pod in Space(stack, NAMESPACE).list("Pod", app=NAME) if is_ready(pod))
    pid = container_pid(stack.cluster.directory / "runner", NAMESPACE, pod["metadata"]["name"], NAME)
    os.kill(pid, signal.SIGSTOP)
    try:
        with relay.asking(f"http://{pod['status']['podIP']}:{PORT}"):
            yield
    finally:
        os.kill(pid, signal.SIGCONT)


Fault = Callable[[], AbstractContextManager[None]]


def _faults(stack: Stack, relay: Relay) -> dict[str, Fault]:
    """By what the status says while it lasts."""
    return {
        "RoutingPolicy assist is scraped": lambda: relay.lying(lying.empty),
        "cannot be asked": lambda: _down(stack),
        SLOW: lambda: _hanging(stack, relay),
        "is it cached": lambda: relay.lying(lying.kept),
        "as no amount": lambda: relay.lying(lying.huge),
        "is scraped: the newest sample": lambda: relay.lying(lying.old),
    }


def _says(space: Space, expert: str, words: str) -> bool:
    """Whether ScalingActive says so. An edit that changes nothing has the status written anew: other words for the
    same complaint are no reason to do that."""
    stamp = datetime.now(UTC).isoformat()
    space.merge("Expert", expert, {"metadata": {"annotations": {"tests/looked-at": stamp}}})
    return words in space.condition("Expert", expert, "ScalingActive").get("message", "")


@pytest.mark.timeout(600)
def test_nothing_shrinks_while_prometheus_is_down_slow_or_lies(stack: Stack, space: Space, relay: Relay) -> None:
    """An idle expert that would be at zero within a tick keeps its replica through every fault, requests are answered,
    and one at zero is woken by a request; once the truth is told again both go to zero."""
    stops_soon: Manifest = {"min": 0, "max": 2, "idleAfter": "1s"}
    space.apply(a_scaled_expert("asleep", **stops_soon))
    space.apply(a_policy("rare", experts=["asleep"], fallbacks=["big"]))
    space.apply(a_policy("assist", experts=["idle"], fallbacks=["big"]))
    space.wait_for(lambda: wanted(space, "asleep") == 0, "an expert at zero", IDLE_SECONDS)
    space.wait_for(lambda: not space.owned("Pod", "Expert", "asleep"), "its pods to be gone")
    space.wait_condition("RoutingPolicy", "rare", "ConfigPropagated", "True")
    rare = space.gateway("rare")

    with relay.lying(lying.empty):
        space.apply(a_scaled_expert("idle", **stops_soon))
        space.wait_for(lambda: space.engines("idle"), "the first engine")
        space.wait_condition("RoutingPolicy", "assist", "ConfigPropagated", "True")
        first, assist = deployment(space, "idle"), space.gateway("assist")
        assert assist.ask("hello").headers["x-flotilla-model"] == "idle"

        for words, fault in _faults(stack, relay).items():
            with fault():
                space.wait_for(
                    lambda words=words: _says(space, "idle", words), f"'{words}' in the status", SEEN_SECONDS
                )
                assert numbers(space, first) == [1], words
                space.wait_condition("Expert", "idle", "ScalingActive", "False", "MetricsStale")
                assert bound_by(space, "idle", "MetricsUnknown"), words
                if words == SLOW:
                    _wakes(space)
        awake = deployment(space, "asleep")

    space.wait_for(lambda: wanted(space, "idle") == 0, "the idle expert to go to zero", IDLE_SECONDS)
    space.wait_for(lambda: wanted(space, "asleep") == 0, "the woken one too", IDLE_SECONDS)
    assert numbers(space, awake) == [1, 0]
    assert rare.ask("and now?").status_code == 200


def _wakes(space: Space) -> None:
    rare = space.gateway("rare")
    bridged = rare.ask("is anybody there?")
    space.wait_for(lambda: space.engines("asleep"), "the wake")
    space.wait_for(lambda: rare.ask("and now?").headers["x-flotilla-model"] == "asleep", "its own answer")
    assert (bridged.status_code, bridged.headers["x-flotilla-model"]) == (200, "big")
    assert bridged.headers["x-flotilla-reason"] == "ColdStart"


@pytest.mark.timeout(600)
def test_a_new_leader_learns_from_prometheus_before_anything_shrinks(stack: Stack, space: Space, relay: Relay) -> None:
    """Two replicas of which one would do stay, for want of history as long as the past cannot be read; an idle time
    that began before the leader died counts in full. No number dips meanwhile."""
    until = f"{datetime.now(UTC) + timedelta(seconds=OVERRIDE_SECONDS):%Y-%m-%dT%H:%M:%SZ}"
    space.apply(
        a_policy("assist", experts=["idle", "pair"], fallbacks=["big"]),
        a_scaled_expert("idle", min=0, idleAfter=f"{IDLE_AFTER_SECONDS}s"),
        a_scaled_expert("pair", override={"replicas": 2, "until": until}),
    )
    space.wait_for(lambda: len(space.engines("pair")) == 2, "what the override says")
    space.wait_condition("RoutingPolicy", "assist", "ConfigPropagated", "True")
    assert space.gateway("assist").ask("hello", model="idle").status_code == 200
    space.wait_for(lambda: bound_by(space, "pair", "ShrinkDelayed"), "one to be enough", 2 * OVERRIDE_SECONDS)
    space.wait_for(lambda: _age(space, "pair") > KNOWN_FROM_BIRTH_SECONDS, "an expert with a past")
    first, idle = deployment(space, "pair"), deployment(space, "idle")

    with relay.forgetful():
        before = kill_leader(stack)
        space.wait_for(lambda: leader(stack) not in {"", before}, "another leader", TAKEOVER_SECONDS)
        space.wait_for(lambda: bound_by(space, "pair", "HistoryMissing"), "the past to be missed", SEEN_SECONDS)
    space.wait_for(lambda: bound_by(space, "pair", "ShrinkDelayed"), "the past to be known", LEARNED_SECONDS)
    space.wait_for(lambda: wanted(space, "idle") == 0, "the idle expert to go to zero", IDLE_SECONDS)

    assert numbers(space, first) == [2]
    assert numbers(space, idle) == [1, 0]
    gone = space.get("Expert", "idle")["status"]["scaling"]["decisions"][0]
    (idle_seconds,) = re.findall(r"no request for (\d+) s", gone["message"])
    assert float(idle_seconds) > _seconds(_led_since(stack), gone["at"])


def _age(space: Space, expert: str) -> float:
    created = space.get("Expert", expert)["metadata"]["creationTimestamp"]
    return _seconds(created, datetime.now(UTC).isoformat())


def _led_since(stack: Stack) -> str:
    return system_of(stack).get("Lease", OPERATOR)["spec"]["acquireTime"]


def _seconds(begin: str, end: str) -> float:
    return (datetime.fromisoformat(end) - datetime.fromisoformat(begin)).total_seconds()
