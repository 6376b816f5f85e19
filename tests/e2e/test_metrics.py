"""Autoscaling's signals from a real fleet: by a Prometheus pod that scrapes it, and by the operator's own scraping."""

from __future__ import annotations

import asyncio
import json
import os
import time
from collections.abc import Awaitable, Callable, Generator
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

import fakes
from e2e.fixtures import new_space
from e2e.load import load_on
from e2e.objects import Manifest, a_policy, an_expert
from e2e.sidecars import start_agent
from e2e.steps import Space
from flotilla_api.names import ENGINE_PORT, ROUTER_ADMIN_PORT, SIDECAR_ADMIN_PORT
from flotilla_operator.adapters.prometheus import PrometheusMetrics
from flotilla_operator.adapters.prometheus_server import PrometheusServer, PrometheusSettings
from flotilla_operator.adapters.scraping import ScrapedMetrics
from flotilla_operator.ports import MetricsSource
from flotilla_operator.scaling.fleet import ExpertSignals, Fleet, MeasuredPod, NamespacedName, Routers, ServedExpert
from flotilla_operator.scaling.readings import READINGS, Scope, promql
from flotilla_operator.scaling.signals import Known, Signal, Unknown
from stack.flotilla import Stack
from stack.prometheus import PrometheusAccess, start_prometheus

RECORDINGS = Path(fakes.__file__).parent / "recordings" / "prometheus"
POLICY, EXPERT = "assist", "small"
SCRAPE_SECONDS = 1
WAIT_SECONDS = 60.0
SLOW = {"SIM_SEQUENCE_TOKENS_PER_SECOND": "200"}
"""A request takes a tenth of a second or so: long enough to be counted as work."""


@pytest.fixture(scope="module")
def prometheus(stack: Stack) -> PrometheusAccess:
    return start_prometheus(stack.cluster, scrape_seconds=SCRAPE_SECONDS)


@pytest.fixture(scope="module")
def space(stack: Stack, prometheus: PrometheusAccess) -> Generator[Space]:
    """One policy with one expert of two replicas."""
    with new_space(stack) as space:
        space.apply(a_policy(POLICY, experts=[EXPERT]), an_expert(EXPERT, env=SLOW, replicas=2))
        space.wait_ready("Expert", EXPERT)
        space.wait_ready("RoutingPolicy", POLICY)
        yield space


def fleet_of(space: Space, *sidecars: Manifest) -> Fleet:
    """As the Kubernetes API has it; every pod is old enough to be missed."""
    engines = tuple(_pod(each, ENGINE_PORT) for each in space.ready_pods("Expert", EXPERT))
    gateways = tuple(_pod(each, ROUTER_ADMIN_PORT) for each in space.ready_pods("RoutingPolicy", POLICY))
    beside = tuple(_pod(each, SIDECAR_ADMIN_PORT) for each in sidecars)
    return Fleet(
        {NamespacedName(space.name, EXPERT): ServedExpert(engines, frozenset({POLICY}))},
        {NamespacedName(space.name, POLICY): Routers(gateways, beside)},
    )


def _pod(pod: Manifest, port: int) -> MeasuredPod:
    return MeasuredPod(pod["metadata"]["name"], f"{pod['status']['podIP']}:{port}", 0.0, pod["metadata"]["uid"])


@dataclass
class Observer:
    """Reads one source until it says what is awaited."""

    space: Space
    source: MetricsSource

    async def expert(self) -> ExpertSignals:
        signals = await self.source.read(time.time())
        return signals.experts[NamespacedName(self.space.name, EXPERT)]

    async def until(self, condition: Callable[[ExpertSignals], bool]) -> ExpertSignals:
        found = await self.expert()
        try:
            async with asyncio.timeout(WAIT_SECONDS):
                while not condition(found):
                    await asyncio.sleep(SCRAPE_SECONDS / 2)
                    found = await self.expert()
        except TimeoutError:
            raise AssertionError(f"at last: {found}") from None
        return found


async def observed(
    space: Space,
    prometheus: PrometheusAccess,
    *sidecars: Manifest,
    then: Callable[[Observer, Observer], Awaitable[None]],
) -> None:
    """`then` is called with an observer of Prometheus and one of the operator's own scraping."""
    scope = Scope(SCRAPE_SECONDS, namespaces=(space.name,))

    def fleet() -> Fleet:
        return fleet_of(space, *sidecars)

    async def locate(namespace: str, pod: str, uid: str) -> str:
        raise AssertionError("every address is known")

    own = ScrapedMetrics(scope, fleet=fleet, locate=locate, timeout_seconds=5)
    async with PrometheusServer(PrometheusSettings(prometheus.url)) as server, own:
        theirs = PrometheusMetrics(server, scope, fleet=fleet, timeout_seconds=10)
        await then(Observer(space, theirs), Observer(space, own))


def known(signal: Signal) -> float:
    assert isinstance(signal, Known), signal
    return signal.value


def is_busy(signals: ExpertSignals) -> bool:
    """Requests arrive, and finish."""
    found = (signals.arrivals, signals.finished, signals.slot_seconds, signals.prompt_tokens, signals.queue_p95)
    return all(isinstance(each, Known) for each in found) and known(signals.arrivals) > 1 < known(signals.finished)


def is_idle(signals: ExpertSignals) -> bool:
    return isinstance(signals.arrivals, Known) and signals.arrivals.value == 0


async def test_both_sources_say_the_same_of_a_real_fleet(space: Space, prometheus: PrometheusAccess) -> None:
    """Demand, work and tokens under load, and a confirmed zero afterwards; within what sampling allows."""

    async def compare(theirs: Observer, own: Observer) -> None:
        with load_on(space.gateway(POLICY)) as load:
            await asyncio.to_thread(load.wait_for_more, 100)
            one, other = await asyncio.gather(theirs.until(is_busy), own.until(is_busy))
            record(prometheus, space)
        for name in ("arrivals", "finished", "slot_seconds"):
            assert known(getattr(one, name)) == pytest.approx(known(getattr(other, name)), rel=0.6), name
        assert known(one.prompt_tokens) == pytest.approx(known(other.prompt_tokens), rel=0.1)
        assert known(one.kv_tokens) == known(other.kv_tokens) > 0
        assert known(one.late(0.0)) > 1
        assert known(one.ttft_quantile(0.5)) > 0
        assert [pod.name for pod in one.pods] == [pod.name for pod in other.pods]
        assert [pod.sleep for pod in one.pods] == [pod.sleep for pod in other.pods] == ["Awake", "Awake"]

        one, other = await asyncio.gather(theirs.until(is_idle), own.until(is_idle))
        assert (known(one.running), known(other.running)) == (0, 0)

    await observed(space, prometheus, then=compare)


async def test_gateway_that_is_replaced_never_reads_as_no_demand(space: Space, prometheus: PrometheusAccess) -> None:
    """Its pod is deleted under load: demand is known, or unknown with a reason, and never zero."""

    async def replace(theirs: Observer, own: Observer) -> None:
        (gateway,) = space.ready_pods("RoutingPolicy", POLICY)
        name = gateway["metadata"]["name"]
        with load_on(space.gateway(POLICY)) as load:
            await asyncio.to_thread(load.wait_for_more, 50)
            await asyncio.gather(theirs.until(is_busy), own.until(is_busy))
            space.delete("Pod", name)
            seen: list[Signal] = []

            def is_new(signals: ExpertSignals) -> bool:
                seen.append(signals.arrivals)
                pods = [pod["metadata"]["name"] for pod in space.ready_pods("RoutingPolicy", POLICY)]
                return name not in pods and is_busy(signals)

            await theirs.until(is_new)
            await own.until(is_new)
        assert all(isinstance(each, Unknown) or each.value > 0 for each in seen)

    await observed(space, prometheus, then=replace)


async def test_sidecars_are_scraped_and_count(space: Space, prometheus: PrometheusAccess) -> None:
    """An agent's requests are its expert's demand, though no gateway sees them."""
    sidecar = await asyncio.to_thread(start_agent, space, "agent", POLICY)
    (pod,) = sidecar.live_pods()

    async def ask(theirs: Observer, own: Observer) -> None:
        await asyncio.gather(theirs.until(is_idle), own.until(is_idle))
        for number in range(30):
            await asyncio.to_thread(sidecar.ask, f"question {number}")

        def has_demand(signals: ExpertSignals) -> bool:
            return isinstance(signals.arrivals, Known) and signals.arrivals.value > 0

        stop = asyncio.Event()

        async def go_on() -> None:
            while not stop.is_set():
                await asyncio.to_thread(sidecar.ask, "one more")

        asking = asyncio.create_task(go_on())
        await asyncio.gather(theirs.until(has_demand), own.until(has_demand))
        stop.set()
        await asking

    await observed(space, prometheus, pod, then=ask)


def record(prometheus: PrometheusAccess, space: Space) -> None:
    """With UPDATE_RECORDINGS=1 the answers to all readings are kept for tests that have no Prometheus."""
    if not os.environ.get("UPDATE_RECORDINGS"):
        return
    scope = Scope(SCRAPE_SECONDS, namespaces=(space.name,))
    answers = {}
    for reading in READINGS:
        query = {"query": promql(reading, scope)}
        response = httpx.get(f"{prometheus.url}/api/v1/query", params=query, trust_env=False)
        answers[reading.name] = json.loads(response.text.replace(space.name, "agents"))
    RECORDINGS.mkdir(parents=True, exist_ok=True)
    (RECORDINGS / "busy.json").write_text(json.dumps(answers, indent=1) + "\n")
