"""The operator's own scraping: pods on loopback, and a clock that the test sets."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from dataclasses import dataclass, field

import pytest
from aiohttp import web

from fakes.exporter import Engine, Router
from flotilla_operator.adapters.scraping import ScrapedMetrics
from flotilla_operator.scaling.fleet import (
    ExpertSignals,
    Fleet,
    FleetSignals,
    MeasuredPod,
    NamespacedName,
    Routers,
    ServedExpert,
)
from flotilla_operator.scaling.readings import Scope
from flotilla_operator.scaling.signals import Known, Signal, Unknown

KEY, POLICY = NamespacedName("team", "invoice"), NamespacedName("team", "router")
GATEWAY, ENGINE = "router-gateway-1-a", "invoice-expert-1-a"
START = 1_000_000.0
TICK = 15.0


@dataclass
class Pods:
    """Pods that answer on ports of their own."""

    pages: dict[str, Router | Engine | str | None] = field(default_factory=dict[str, "Router | Engine | str | None"])
    """By pod's name; None: it answers 503."""
    addresses: dict[str, str] = field(default_factory=dict[str, str])
    runners: list[web.AppRunner] = field(default_factory=list[web.AppRunner])
    asked: list[str] = field(default_factory=list[str])
    hangs: asyncio.Event | None = None

    async def add(self, name: str, page: Router | Engine | str) -> None:
        async def answer(_: web.Request) -> web.Response:
            self.asked.append(name)
            if self.hangs:
                await self.hangs.wait()
            current = self.pages[name]
            if current is None:
                return web.Response(status=503)
            return web.Response(text=current if isinstance(current, str) else current.text())

        application = web.Application()
        application.router.add_get("/metrics", answer)
        runner = web.AppRunner(application, shutdown_timeout=0.1)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        self.pages[name] = page
        self.addresses[name] = f"127.0.0.1:{runner.addresses[0][1]}"
        self.runners.append(runner)


@dataclass
class World:
    """A fleet of one Expert, its clock, and who scrapes it."""

    pods: Pods
    source: ScrapedMetrics = field(init=False)
    now: float = START
    engines: list[str] = field(default_factory=lambda: [ENGINE])
    gateways: list[str] = field(default_factory=lambda: [GATEWAY])
    sidecars: list[str] = field(default_factory=list[str])
    targets: set[str] = field(default_factory=lambda: {"invoice", "big"})

    def __post_init__(self) -> None:
        self.source = ScrapedMetrics(Scope(TICK), fleet=self.fleet, locate=self.locate, timeout_seconds=5.0)

    async def locate(self, namespace: str, name: str, uid: str) -> str:
        assert (namespace, uid) == ("team", f"uid-of-{name}")
        return self.pods.addresses.get(name, "")

    def fleet(self) -> Fleet:
        sidecars = tuple(MeasuredPod(name, "", 0.0, f"uid-of-{name}") for name in self.sidecars)
        routers = Routers(tuple(self._pod(name) for name in self.gateways), sidecars, frozenset(self.targets))
        served = ServedExpert(tuple(self._pod(name) for name in self.engines), frozenset({POLICY.name}))
        return Fleet({KEY: served}, {POLICY: routers})

    def _pod(self, name: str) -> MeasuredPod:
        return MeasuredPod(name, self.pods.addresses.get(name, "127.0.0.1:9"), 0.0)

    async def read(self) -> FleetSignals:
        return await self.source.read(self.now)

    async def tick(self) -> ExpertSignals:
        """The signals after one more tick."""
        self.now += TICK
        return (await self.read()).experts[KEY]


@pytest.fixture
async def world() -> AsyncGenerator[World]:
    pods = Pods()
    await pods.add(GATEWAY, Router("router"))
    await pods.add(ENGINE, Engine("invoice"))

    world = World(pods)
    async with world.source:
        yield world
    if pods.hangs:
        pods.hangs.set()
    for runner in pods.runners:
        await runner.cleanup()


def known(signal: Signal) -> float:
    assert isinstance(signal, Known), signal
    return signal.value


def why(signal: Signal) -> str:
    assert isinstance(signal, Unknown), signal
    return signal.why


async def test_zero_is_confirmed_after_two_scrapes(world: World) -> None:
    """A rate takes two samples; until then nothing is known, and nothing is zero."""
    before, after = await world.tick(), await world.tick()

    assert "scraped twice" in why(before.arrivals)
    assert known(after.arrivals) == 0
    assert known(after.lost("capacity")) == 0
    assert known(after.finished) == 0


async def test_rates_are_growth_over_the_window(world: World) -> None:
    """Requests, losses, late answers and work, each a second."""
    await world.tick()
    world.pods.pages[GATEWAY] = Router(
        "router", {"invoice": 30}, {("invoice", "Overloaded", "capacity"): 15}, {"invoice": (9, 3)}
    )
    world.pods.pages[ENGINE] = Engine(
        "invoice", running=4, waiting=2, kv_usage=0.5, finished=15, slot_seconds=45, prompt_tokens=1500
    )
    found = await world.tick()

    assert known(found.arrivals) == pytest.approx(2.0, rel=0.01)
    assert known(found.lost("capacity")) == pytest.approx(1.0, rel=0.01)
    assert known(found.late(0.5)) == pytest.approx(0.2, rel=0.01)
    assert known(found.finished) == pytest.approx(1.0, rel=0.01)
    assert known(found.slot_seconds) == pytest.approx(3.0, rel=0.01)
    assert known(found.prompt_tokens) == pytest.approx(100.0)
    assert (known(found.running), known(found.waiting), known(found.kv_usage)) == (4, 2, 0.5)
    assert known(found.queue_p95) == pytest.approx(0.475)
    assert known(found.kv_tokens) == 1600
    assert found.pods[0].sleep == "Awake"


async def test_counter_that_begins_again_is_no_loss(world: World) -> None:
    """A container that restarted has counted from zero."""
    world.pods.pages[GATEWAY] = Router("router", {"invoice": 1000})
    await world.tick()
    world.pods.pages[GATEWAY] = Router("router", {"invoice": 30})

    found = await world.tick()

    assert known(found.arrivals) == pytest.approx(2.0, rel=0.01)


async def test_pod_that_fails_keeps_its_gauges_for_a_while_and_is_then_unknown(world: World) -> None:
    """One missed scrape changes nothing; after three, nothing is known any more."""
    world.pods.pages[ENGINE] = Engine("invoice", running=4)
    await world.tick()
    await world.tick()

    world.pods.pages[ENGINE] = None
    once = await world.tick()
    problems = (await world.read()).problems
    later = [await world.tick() for _ in range(6)][-1]

    assert isinstance(once.running, Known)
    assert (once.running.value, once.running.age_seconds) == (4.0, pytest.approx(TICK, abs=1))
    assert problems == (f"team/{ENGINE} cannot be scraped: it answered 503",)
    assert ENGINE in why(later.running)
    assert known(later.arrivals) == 0


async def test_pod_that_hangs_holds_nobody_up(world: World) -> None:
    """The tick ends within its time."""
    world.pods.hangs = asyncio.Event()
    impatient = ScrapedMetrics(Scope(TICK), fleet=world.fleet, locate=world.locate, timeout_seconds=0.05)

    async with impatient:
        found = await impatient.read(START)

    assert "cannot be scraped: no answer in time" in found.problems[0]
    assert isinstance(found.experts[KEY].running, Unknown)


@pytest.mark.parametrize(
    ("page", "reason"),
    [
        pytest.param("x" * (9 * 2**20), "larger than", id="huge"),
        pytest.param("<html>no metrics</html>", "", id="no metrics"),
        pytest.param('vllm:num_requests_running{model_name="invoice"} NaN\n', "", id="no number"),
    ],
)
async def test_page_that_is_none_is_unknown(world: World, page: str, reason: str) -> None:
    """Whatever the pod answers, it is no zero."""
    world.pods.pages[ENGINE] = page
    await world.tick()
    world.now += TICK
    found = await world.read()

    assert isinstance(found.experts[KEY].running, Unknown)
    assert reason in "".join(found.problems)


async def test_pods_are_scraped_once_in_a_ticks_time(world: World) -> None:
    """A decision between two ticks uses what is known."""
    await world.tick()
    asked = len(world.pods.asked)
    world.now += 1.0
    await world.read()

    assert len(world.pods.asked) == asked


async def test_sidecars_are_located_and_count(world: World) -> None:
    """Their demand is added to the gateway's, once their address is known."""
    world.sidecars = ["agent-1"]
    await world.tick()
    await world.pods.add("agent-1", Router("router"))
    await world.tick()
    world.pods.pages["agent-1"] = Router("router", {"invoice": 30})
    found = await world.tick()

    assert known(found.arrivals) == pytest.approx(2.0, rel=0.01)


async def test_sidecar_that_cannot_be_located_is_missed(world: World) -> None:
    """Nobody knows what it counts."""
    world.sidecars = ["agent-1"]
    await world.tick()
    found = await world.tick()

    assert "1 of 1 sidecars" in why(found.arrivals)


async def test_dollars_of_a_request_are_those_of_the_last_hour(world: World) -> None:
    """The mean over all that was priced, though nothing was called in the last minute."""
    await world.tick()
    world.pods.pages[GATEWAY] = Router("router", usd={"big": (0.09, 20)})
    for _ in range(10):
        await world.tick()

    signals = await world.read()

    assert known(signals.request_usd[NamespacedName("team", "big")]) == pytest.approx(0.0045)


async def test_dollars_of_targets_that_no_policy_names_are_forgotten(world: World) -> None:
    """Of Fallbacks that are gone, and whatever an agent's pod makes up: it leaves no less room for others."""
    for spent in (0.0, 0.09, 0.18):
        made_up = {f"target-{number}": (spent, 1000 * spent) for number in range(500)}
        world.pods.pages[GATEWAY] = Router("router", usd={**made_up, "big": (spent, 1000 * spent)})
        await world.tick()
    assert set((await world.read()).request_usd) == {NamespacedName("team", "big")}

    world.targets = {"invoice"}
    await world.tick()

    assert not (await world.read()).request_usd


async def test_history_is_as_long_as_the_process_has_seen(world: World) -> None:
    """Demand a second at each tick; what was before the first is unknown, and idle ticks are zeroes."""
    for requests in (0, 0, 30, 60, 60, 60, 60):
        world.pods.pages[GATEWAY] = Router("router", {"invoice": requests} if requests else {})
        world.pods.pages[ENGINE] = Engine("invoice", finished=requests, slot_seconds=4 * requests)
        await world.tick()

    found = (await world.source.history(world.now, 150.0, TICK))[KEY]

    assert found.demand[:4] == (None, None, None, None)
    assert found.demand[5:] == pytest.approx((0.0, 2.0, 2.0, 0.0, 0.0, 0.0), rel=0.02)
    assert known(found.slot_seconds) == pytest.approx(4.0)


async def test_history_forgets_what_is_older_than_an_hour(world: World) -> None:
    """Its memory is a ring."""
    for number in range(250):
        world.pods.pages[GATEWAY] = Router("router", {"invoice": 15.0 * number})
        await world.tick()

    found = (await world.source.history(world.now, 7200.0, TICK))[KEY]

    assert sum(each is not None for each in found.demand) == 240
