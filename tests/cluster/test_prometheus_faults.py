"""The Prometheus adapter on a real server that scrapes what a test lets it see."""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import AsyncGenerator, Callable, Generator, Mapping
from dataclasses import dataclass, field

import pytest

from fakes.exporter import Engine, Exporter, Router, running_exporter
from flotilla_operator.adapters.prometheus import PrometheusMetrics
from flotilla_operator.adapters.prometheus_server import PrometheusServer, PrometheusSettings
from flotilla_operator.scaling.fleet import (
    ExpertSignals,
    Fleet,
    FleetSignals,
    History,
    MeasuredPod,
    NamespacedName,
    Routers,
    ServedExpert,
)
from flotilla_operator.scaling.readings import Scope
from flotilla_operator.scaling.signals import Known, Signal, Unknown
from stack.prometheus import PrometheusProcess, Target, running_prometheus

SCRAPE_SECONDS = 0.5
SCOPE = Scope(scrape_seconds=SCRAPE_SECONDS)
LONG_AGO = 0.0
EXPERT, POLICY = NamespacedName("team", "invoice"), NamespacedName("team", "router")
GATEWAY, ENGINE = "router-gateway-5b6c7d-abcde", "invoice-expert-5b6c7d-abcde"
WAIT_SECONDS = 20.0


@pytest.fixture(scope="module")
def server() -> Generator[PrometheusProcess]:
    with running_prometheus(SCRAPE_SECONDS) as running:
        yield running


@dataclass
class World:
    """One Expert behind one policy, as the operator and the server see it."""

    server: PrometheusProcess
    exporter: Exporter
    namespace: str
    targets: list[Target] = field(default_factory=list[Target])
    routers: list[str] = field(default_factory=list[str])
    engines: list[str] = field(default_factory=list[str])
    metrics: PrometheusMetrics | None = None

    def add_router(self, page: Router, pod: str = GATEWAY, **more: str) -> Router:
        """A gateway's pod that is scraped; `more` are labels of the job that scrapes it."""
        self._add(pod, page, more)
        self.routers += [] if pod in self.routers else [pod]
        return page

    def add_engine(self, page: Engine, pod: str = ENGINE, **more: str) -> Engine:
        self._add(pod, page, more)
        self.engines += [] if pod in self.engines else [pod]
        return page

    def _add(self, pod: str, page: Router | Engine, more: dict[str, str]) -> None:
        path = f"/{self.namespace}/{pod}"
        self.exporter.pages[path] = page
        self.targets.append(Target(self.exporter.address, path, {"namespace": self.namespace, "pod": pod, **more}))
        self.server.scrape(self.targets)

    def hide(self, pod: str) -> None:
        """The pod is no target any more."""
        self.targets = [target for target in self.targets if target.labels["pod"] != pod]
        self.server.scrape(self.targets)

    def fail(self, pod: str) -> None:
        """The pod answers 503."""
        del self.exporter.pages[f"/{self.namespace}/{pod}"]

    def fleet(self) -> Fleet:
        served = ServedExpert(tuple(_pod(name) for name in self.engines), frozenset({POLICY.name}))
        routers = Routers(tuple(_pod(name) for name in self.routers))
        return Fleet(
            {NamespacedName(self.namespace, EXPERT.name): served},
            {NamespacedName(self.namespace, POLICY.name): routers},
        )

    async def read(self) -> FleetSignals:
        assert self.metrics
        return await self.metrics.read(time.time())

    async def expert(self) -> ExpertSignals:
        return (await self.read()).experts[NamespacedName(self.namespace, EXPERT.name)]

    async def until(self, condition: Callable[[ExpertSignals], bool]) -> ExpertSignals:
        """The signals, once they are as wanted."""
        found = await self.expert()
        async with asyncio.timeout(WAIT_SECONDS):
            while not condition(found):
                await asyncio.sleep(0.1)
                found = await self.expert()
        return found


def _pod(name: str) -> MeasuredPod:
    return MeasuredPod(name, "127.0.0.1:1", LONG_AGO)


@pytest.fixture
async def world(server: PrometheusProcess) -> AsyncGenerator[World]:
    namespace = f"team-{uuid.uuid4().hex[:8]}"
    scope = Scope(SCRAPE_SECONDS, namespaces=(namespace,))
    settings = PrometheusSettings(server.access.url, timeout_seconds=5)
    with running_exporter() as exporter:
        async with PrometheusServer(settings) as api:
            world = World(server, exporter, namespace)
            world.metrics = PrometheusMetrics(api, scope, fleet=world.fleet, timeout_seconds=5)
            yield world
    server.scrape([])


def known(signal: Signal) -> float:
    assert isinstance(signal, Known), signal
    return signal.value


def is_known(signal: Signal) -> bool:
    return isinstance(signal, Known)


def _why(signal: Signal) -> str:
    return signal.why if isinstance(signal, Unknown) else ""


async def grow(count: Callable[[float], None], stop: asyncio.Event) -> None:
    """`count` is called with the seconds since the start, until `stop`."""
    began = time.monotonic()
    while not stop.is_set():
        count(time.monotonic() - began)
        await asyncio.sleep(0.02)


async def test_no_request_is_a_confirmed_zero_where_routers_are_scraped(world: World) -> None:
    """A router that counted nothing for an Expert has no series of it; nor has one that nobody scrapes."""
    world.add_engine(Engine("invoice", kv_usage=0.25))
    world.routers.append(GATEWAY)
    before = await world.until(lambda signals: is_known(signals.running))

    world.add_router(Router("router"))
    after = await world.until(lambda signals: is_known(signals.arrivals))

    assert isinstance(before.arrivals, Unknown)
    assert "no router of RoutingPolicy router is scraped" in before.arrivals.why
    assert known(after.arrivals) == 0
    assert known(after.lost("capacity")) == 0
    assert known(after.late(1.0)) == 0
    assert known(after.kv_usage) == 0.25
    assert known(after.kv_tokens) == 1600
    assert after.pods[0].sleep == "Awake"


async def test_rates_survive_a_restart_of_a_container(world: World) -> None:
    """A counter that begins again at zero is a reset: the rate is that of both lives."""
    router = world.add_router(Router("router", {"invoice": 1000.0}))
    stop = asyncio.Event()
    life = {"began": 0.0, "count": 1000.0}
    elapsed = {"seconds": 0.0}

    def count(seconds: float) -> None:
        elapsed["seconds"] = seconds
        router.demand = {"invoice": life["count"] + 10 * (seconds - life["began"])}

    counting = asyncio.create_task(grow(count, stop))
    await world.until(lambda signals: is_known(signals.arrivals) and known(signals.arrivals) > 5)
    life |= {"began": elapsed["seconds"], "count": 0.0}
    seen = [(await world.expert()).arrivals for _ in range(20) if not await asyncio.sleep(0.1)]
    await world.until(lambda signals: is_known(signals.arrivals) and known(signals.arrivals) > 5)
    stop.set()
    await counting

    assert all(1 < signal.value < 100 for signal in seen if isinstance(signal, Known))


async def test_pod_that_two_jobs_scrape_counts_once(world: World) -> None:
    """Series of one pod that differ in labels of the jobs are one, for counters and gauges alike."""
    router = Router("router", {"invoice": 0.0})
    for replica in ("a", "b"):
        world.add_router(router, job="other" if replica == "b" else "test", prometheus_replica=replica)
        world.add_engine(Engine("invoice", running=3), prometheus_replica=replica)
    stop = asyncio.Event()

    def count(seconds: float) -> None:
        router.demand = {"invoice": 20 * seconds}

    counting = asyncio.create_task(grow(count, stop))
    found = await world.until(lambda signals: is_known(signals.arrivals) and known(signals.arrivals) > 10)
    stop.set()
    await counting

    assert known(found.arrivals) < 35
    assert known(found.running) == 3


async def test_pods_are_added_up(world: World) -> None:
    """Two engines and two routers count together; the fullest engine is what the KV cache's usage is about."""
    world.add_router(Router("router"))
    world.add_router(Router("router"), "router-gateway-5b6c7d-fghij")
    world.add_engine(Engine("invoice", running=3, kv_usage=0.5))
    world.add_engine(
        Engine("invoice", running=4, kv_usage=0.25, kv_usage_name="vllm:gpu_cache_usage_perc"),
        "invoice-expert-5b6c7d-fghij",
    )

    found = await world.until(lambda signals: is_known(signals.running) and is_known(signals.finished))

    assert known(found.running) == 7
    assert known(found.kv_usage) == 0.5
    assert [known(pod.running) for pod in found.pods] == [3, 4]


async def test_engine_that_fails_to_answer_is_no_idle_engine(world: World) -> None:
    """A target that answers with an error makes its Expert unknown, and says which pod it is."""
    world.add_engine(Engine("invoice", running=3))
    await world.until(lambda signals: is_known(signals.running))

    world.fail(ENGINE)
    found = await world.until(lambda signals: not is_known(signals.running))

    assert isinstance(found.running, Unknown)
    assert ENGINE in found.running.why


async def test_router_that_vanishes_is_missed_while_it_should_be_there(world: World) -> None:
    """One of two gateways is no target any more: demand is unknown until the operator knows that it is gone."""
    other = "router-gateway-5b6c7d-fghij"
    world.add_router(Router("router"))
    world.add_router(Router("router"), other)
    await world.until(lambda signals: is_known(signals.arrivals))

    world.hide(other)
    missed = await world.until(lambda signals: not is_known(signals.arrivals))
    world.routers.remove(other)
    after = await world.until(lambda signals: is_known(signals.arrivals))

    assert isinstance(missed.arrivals, Unknown)
    assert other in missed.arrivals.why
    assert known(after.arrivals) == 0


async def test_server_that_hangs_is_no_zero_and_comes_back(world: World) -> None:
    """A server that accepts and never answers ends the read in time; after the gap, old samples are no rate."""
    world.add_router(Router("router", {"invoice": 5.0}))
    await world.until(lambda signals: is_known(signals.arrivals))

    world.server.stop()
    began = time.monotonic()
    during = await world.read()
    seconds = time.monotonic() - began
    world.server.go_on()
    after = await world.until(lambda signals: is_known(signals.arrivals))

    signals = during.experts[NamespacedName(world.namespace, EXPERT.name)]
    assert isinstance(signals.arrivals, Unknown)
    assert "within 5 s" in signals.arrivals.why
    assert seconds < 20
    assert any("within 5 s" in problem for problem in during.problems)
    assert known(after.arrivals) == 0


async def test_what_is_no_number_is_unknown(world: World) -> None:
    """An engine that says NaN, another that says less than nothing: neither is a load."""
    world.add_engine(Engine("invoice", running=float("nan"), waiting=-1, kv_usage=17))

    found = await world.until(lambda signals: "amount" in _why(signals.running) and is_known(signals.finished))

    assert isinstance(found.waiting, Unknown)
    assert isinstance(found.kv_usage, Unknown)
    assert known(found.finished) == 0


async def test_targets_without_pod_labels_are_told_of(world: World) -> None:
    """They cannot be told apart, so they count nothing, and whoever set up the scraping hears why."""
    path = "/unnamed"
    world.exporter.pages[path] = Router("router", {"invoice": 5.0})
    world.targets.append(Target(world.exporter.address, path, {"namespace": world.namespace}))
    world.server.scrape(world.targets)
    await asyncio.to_thread(world.server.access.wait, 'flotilla_router_requests_in_flight{pod=""}', "the series")

    found = await world.read()

    assert any("no label namespace, pod" in problem for problem in found.problems)
    assert isinstance(found.experts[NamespacedName(world.namespace, EXPERT.name)].arrivals, Unknown)


async def test_history_has_gaps_where_nobody_was_scraped(world: World) -> None:
    """Before the first scrape nothing is known, which is no zero; afterwards demand is there, evenly spaced."""
    router = world.add_router(Router("router", {"invoice": 0.0}))
    engine = world.add_engine(Engine("invoice"))
    stop = asyncio.Event()

    counted = {"seconds": 0.0}

    def count(seconds: float) -> None:
        counted["seconds"] = seconds
        router.demand = {"invoice": 20 * seconds}
        engine.finished, engine.slot_seconds = 10 * seconds, 30 * seconds

    counting = asyncio.create_task(grow(count, stop))
    await world.until(lambda signals: is_known(signals.arrivals) and counted["seconds"] > 8 * SCRAPE_SECONDS)
    assert world.metrics
    histories: Mapping[NamespacedName, History] = {}
    async with asyncio.timeout(WAIT_SECONDS):
        while not histories:  # a busy machine may take longer than the read's timeout
            histories = await world.metrics.history(time.time(), 60.0, 1.0)
    found = histories[NamespacedName(world.namespace, EXPERT.name)]
    stop.set()
    await counting

    assert len(found.demand) == 61
    assert found.demand[0] is None
    assert found.demand[-1] == pytest.approx(20, rel=0.5)
    assert known(found.slot_seconds) == pytest.approx(3.0, rel=0.1)
    assert time.time() - found.until < WAIT_SECONDS
