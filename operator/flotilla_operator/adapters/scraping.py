"""The `MetricsSource` port without a Prometheus: the operator scrapes its fleet itself, and remembers an hour.

It is right for a small fleet and for a first hour with Flotilla. What it remembers ends with the process.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from typing import Self

import aiohttp

from flotilla_operator.scaling import readings as r
from flotilla_operator.scaling.evidence import named
from flotilla_operator.scaling.fleet import Fleet, FleetSignals, History, NamespacedName
from flotilla_operator.scaling.past import Past, make_histories
from flotilla_operator.scaling.readings import READINGS, Reading, Rows, Scope
from flotilla_operator.scaling.reduce import reduce_signals
from flotilla_operator.scaling.scrapes import EXPOSITION, WORK, PodScrapes, Track, summed_growth, summed_values

SCRAPES_AT_A_TIME = 64
POD_TIMEOUT_SECONDS = 5.0
PAGE_MAX_BYTES = 8 * 2**20
"""A hundred times what vLLM 0.32 exposes."""
LOCATED_AT_A_TIME = 20
"""Sidecars whose address is looked up in one tick: there may be thousands of new ones."""

_HOURLY = tuple(reading for reading in READINGS if reading.window_seconds == r.HOUR_SECONDS)
_PodKey = tuple[str, str, str]
"""Namespace, name and uid."""

Locate = Callable[[str, str, str], Awaitable[str]]
"""(namespace, pod, uid) -> host:port of a sidecar's /metrics; '': unknown for now."""


class ScrapedMetrics:
    """Scrapes the fleet that `fleet` tells of. An async context manager: its connections end with the block."""

    def __init__(self, scope: Scope, *, fleet: Callable[[], Fleet], locate: Locate, timeout_seconds: float) -> None:
        self._scope = scope
        self._fleet = fleet
        self._locate = locate
        self._timeout_seconds = timeout_seconds
        self._session: aiohttp.ClientSession | None = None
        self._pods: dict[_PodKey, PodScrapes] = {}
        self._addresses: dict[_PodKey, str] = {}
        """Of sidecars."""
        self._failures: dict[str, str] = {}
        """Why pods could not be scraped this time, by namespace/name."""
        self._scraped_at = -math.inf
        ticks = math.ceil(r.HOUR_SECONDS / scope.scrape_seconds)
        self._demand, self._routers = Track(ticks), Track(ticks)
        self._grown = {reading: Track(ticks) for reading in (*_HOURLY, *WORK)}

    async def __aenter__(self) -> Self:
        connector = aiohttp.TCPConnector(limit=SCRAPES_AT_A_TIME, limit_per_host=2, force_close=True)
        self._session = aiohttp.ClientSession(connector=connector, cookie_jar=aiohttp.DummyCookieJar())
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._session:
            await self._session.close()
            self._session = None

    async def read(self, now: float) -> FleetSignals:
        """What is measured of every Expert; what is not says why. Pods are scraped once in a scrape's time."""
        fleet = self._fleet()
        if abs(now - self._scraped_at) >= self._scope.scrape_seconds / 2:
            await self._scrape(fleet, now)
            self._remember(fleet, now)
            self._scraped_at = now
        answers = {reading: self._answer(reading, now) for reading in READINGS}
        return reduce_signals(fleet, answers, now, self._scope, self._problems())

    async def history(self, now: float, seconds: float, step: float) -> Mapping[NamespacedName, History]:
        """As much of the last `seconds` as this process has seen."""
        fleet = self._fleet()
        experts = [(key.namespace, key.name) for key in fleet.experts]
        policies = [(key.namespace, key.name) for key in fleet.routers]
        slot_seconds, finished = (self._grown[reading].sums(now - seconds) for reading in WORK)
        routers = {labels: [point for point in self._routers.points(labels) if point[1] > 0] for labels in policies}
        demand = {labels: self._demand.points(labels) for labels in experts}
        past = Past(_counted(demand), routers, slot_seconds, finished, now - seconds, step)
        return make_histories(past, fleet, until=now, seconds=seconds)

    async def _scrape(self, fleet: Fleet, now: float) -> None:
        """Every pod that answers in time is read; what no longer belongs to the fleet is forgotten."""
        targets = await self._targets(fleet)
        self._pods = {key: self._pods.get(key) or PodScrapes(key[0], key[1]) for key in targets}
        self._failures = {}
        began = asyncio.get_running_loop().time()
        slots = asyncio.Semaphore(SCRAPES_AT_A_TIME)
        async with asyncio.TaskGroup() as group:
            for key, address in targets.items():
                if address:
                    group.create_task(self._scrape_pod(self._pods[key], address, slots, (now, began)))

    async def _scrape_pod(
        self, pod: PodScrapes, address: str, slots: asyncio.Semaphore, start: tuple[float, float]
    ) -> None:
        """The pod's answer is kept, or why there is none."""
        now, began = start
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout_at(began + self._timeout_seconds), slots, asyncio.timeout(POD_TIMEOUT_SECONDS):
                page = await self._page(address)
        except (aiohttp.ClientError, OSError, TimeoutError, ValueError) as error:
            self._failures[f"{pod.namespace}/{pod.pod}"] = str(error) or "no answer in time"
            return
        pod.add(now + loop.time() - began, EXPOSITION.samples(page))

    def _problems(self) -> list[str]:
        pods = sorted(self._failures)
        return [f"{named(pods)} cannot be scraped: {self._failures[pods[0]]}"] if pods else []

    async def _page(self, address: str) -> str:
        """The text of a pod's /metrics.

        Raises:
            ValueError: it is no success, no text, or too large.
        """
        assert self._session, "outside of the context manager's block"
        body = bytearray()
        async with self._session.get(f"http://{address}/metrics", allow_redirects=False) as response:
            if response.status != 200:
                raise ValueError(f"it answered {response.status}")
            async for chunk in response.content.iter_any():
                body += chunk
                if len(body) > PAGE_MAX_BYTES:
                    raise ValueError(f"its page is larger than {PAGE_MAX_BYTES} bytes")
        return body.decode()

    async def _targets(self, fleet: Fleet) -> dict[_PodKey, str]:
        """Addresses of all pods; '' of sidecars that could not be located yet."""
        found: dict[_PodKey, str] = {}
        for key, served in fleet.experts.items():
            found |= {(key.namespace, pod.name, pod.uid): pod.address for pod in served.engines}
        for policy, routers in fleet.routers.items():
            found |= {(policy.namespace, pod.name, pod.uid): pod.address for pod in routers.gateways}
            found |= {(policy.namespace, pod.name, pod.uid): pod.address for pod in routers.sidecars}
        self._addresses = {key: address for key, address in self._addresses.items() if key in found}
        await self._locate_some([key for key, address in found.items() if not address and key not in self._addresses])
        return {key: address or self._addresses.get(key, "") for key, address in found.items()}

    async def _locate_some(self, unknown: Sequence[_PodKey]) -> None:
        for key in unknown[:LOCATED_AT_A_TIME]:
            if address := await self._locate(*key):
                self._addresses[key] = address

    def _answer(self, reading: Reading, now: float) -> Rows:
        if reading in self._grown:
            sums = self._grown[reading].sums(now - r.HOUR_SECONDS)
            return {labels: value / r.HOUR_SECONDS for labels, value in sums.items()}
        return summed_values(reading, self._pods.values(), now, self._scope)

    def _remember(self, fleet: Fleet, now: float) -> None:
        """This tick becomes a part of the last hour."""
        experts = [(key.namespace, key.name) for key in fleet.experts]
        targets = {(key.namespace, target) for key, each in fleet.routers.items() for target in each.targets}
        policies = [(key.namespace, key.name) for key in fleet.routers]
        self._demand.put(now, self._answer(r.DEMAND, now), experts)
        self._routers.put(now, _policies(self._answer(r.SCRAPES, now)), policies)
        for reading, track in self._grown.items():
            track.put(now, summed_growth(reading, self._pods.values()), experts if reading in WORK else targets)


def _policies(scrapes: Rows) -> Rows:
    """1 for each policy of which a router was scraped twice in the window of rates."""
    return {(namespace, policy): 1.0 for (namespace, policy, _), count in scrapes.items() if count > 1}


def _counted(demand: Mapping[r.Labels, Iterable[tuple[float, float]]]) -> dict[r.Labels, list[tuple[float, float]]]:
    """Without zeroes: whether one is a zero or nobody counted is told by the routers."""
    return {labels: [(at, value) for at, value in points if value > 0] for labels, points in demand.items()}
