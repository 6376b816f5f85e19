"""Router CPU per request and per event, requests per second, memory per open stream."""

from __future__ import annotations

import asyncio
import json
import subprocess
from collections.abc import Callable, Generator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median

from slice_bench.load import make_request
from slice_bench.processes import (
    CLIENT,
    cpu_seconds,
    environment,
    free_port,
    module,
    on_processor,
    resident_bytes,
    running,
    wait_for_port,
)
from slice_bench.proxies import Proxy, envoy, ours, ours_passing, splice

ROUNDS = 5
EVENTS = 64
"""Tokens of a stream; role, finish and end are events, too."""
PACE_SECONDS = 0.01
"""Between two events of a stream."""
OPEN_STREAMS = 1_000
LOAD_SECONDS = 320

Starter = Callable[[int, Path], AbstractContextManager[Proxy]]
STARTERS: tuple[Starter, ...] = (ours, ours_passing, envoy, splice)


@dataclass(frozen=True, slots=True)
class Plan:
    """One round of load on one proxy: so many requests, on so many connections that each wait for their answer."""

    stream: bool
    requests: int
    connections: int


WHOLE = Plan(stream=False, requests=12_000, connections=32)
STREAMS = Plan(stream=True, requests=640, connections=128)


@dataclass(frozen=True, slots=True)
class Cost:
    """What one load cost a proxy."""

    cpu_seconds: float
    seconds: float
    requests: int
    events: int
    reads: int
    """How often the client found something to read."""

    @property
    def cpu_us_per_request(self) -> float:
        """CPU microseconds for a request and all of its answer."""
        return self.cpu_seconds / self.requests * 1e6

    @property
    def cpu_us_per_event(self) -> float:
        """CPU microseconds for an event, with its share of the request's."""
        return self.cpu_seconds / self.events * 1e6

    @property
    def requests_per_second(self) -> float:
        """With the proxy's processor as the limit, where answers are not paced."""
        return self.requests / self.seconds

    @property
    def events_per_read(self) -> float:
        """Near 1 when every event travelled alone."""
        return self.events / self.reads


def measure(proxy: Proxy, plan: Plan) -> Cost:
    """What one round of load costs the proxy."""
    flags = ["--port", str(proxy.port), "--requests", str(plan.requests), "--connections", str(plan.connections)]
    command = module("slice_bench.load", *flags, *(["--stream"] if plan.stream else []))
    before = cpu_seconds(proxy.pid)
    with on_processor(CLIENT):
        done = subprocess.run(
            command, env=environment(), stdout=subprocess.PIPE, text=True, check=True, timeout=LOAD_SECONDS
        )
    used = cpu_seconds(proxy.pid) - before
    figures = json.loads(done.stdout)
    return Cost(used, figures["seconds"], plan.requests, figures["events"], figures["reads"])


def compare(
    plan: Plan, scratch: Path, progress: Callable[[int], None], starters: Sequence[Starter] = STARTERS
) -> dict[str, list[Cost]]:
    """Name -> a cost per round; the proxies take turns, so that a change of the machine's speed meets all of them.

    `progress` is told how many loads of `ROUNDS` times the proxies are done.
    """
    with ExitStack() as stack:
        port = stack.enter_context(upstream(scratch))
        proxies = [stack.enter_context(start(port, scratch)) for start in starters]
        return take_turns(plan, proxies, progress)


def take_turns(plan: Plan, proxies: Sequence[Proxy], progress: Callable[[int], None]) -> dict[str, list[Cost]]:
    """Name -> a cost per round, of proxies that run."""
    costs: dict[str, list[Cost]] = {proxy.name: [] for proxy in proxies}
    for proxy in proxies:
        measure(proxy, replace(plan, requests=max(plan.requests // 10, plan.connections)))
    for turn in range(ROUNDS):
        for number, proxy in enumerate(proxies, 1):
            costs[proxy.name].append(measure(proxy, plan))
            progress(turn * len(proxies) + number)
    return costs


@contextmanager
def upstream(scratch: Path, *, hold: bool = False) -> Generator[int]:
    """The port of the canned upstream."""
    port = free_port()
    log = scratch / "canned.log"
    flags = ["--port", str(port), "--events", str(EVENTS), "--pace-ms", str(PACE_SECONDS * 1000)]
    command = module("slice_bench.canned", *flags, *(["--hold"] if hold else []))
    with running(command, cpu=CLIENT, log=log) as process:
        wait_for_port(port, process, log)
        yield port


def kb_per_open_stream(scratch: Path) -> float:
    """Resident KB that each of `OPEN_STREAMS` open, silent streams adds to our router with the quickstart's policy."""
    with upstream(scratch, hold=True) as port, ours(port, scratch) as proxy:
        return asyncio.run(_hold_streams(proxy)) / 1024


async def _hold_streams(proxy: Proxy) -> float:
    # The first streams pay for what the process keeps anyway (arenas, tables), so they are opened before measuring.
    warm = [await _open_stream(proxy.port) for _ in range(OPEN_STREAMS // 4)]
    before = resident_bytes(proxy.pid)
    held = [await _open_stream(proxy.port) for _ in range(OPEN_STREAMS)]
    grown = resident_bytes(proxy.pid) - before
    for writer in warm + held:
        writer.close()
    return grown / OPEN_STREAMS


async def _open_stream(port: int) -> asyncio.StreamWriter:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(make_request(stream=True))
    await asyncio.wait_for(reader.readuntil(b"data: "), 10)
    return writer


def middle(costs: Sequence[Cost], figure: Callable[[Cost], float]) -> float:
    """The median of a figure over the rounds."""
    return median(figure(cost) for cost in costs)


def spread(costs: list[Cost], figure: Callable[[Cost], float], digits: int) -> str:
    """The median of a figure over the rounds, and its least and most."""
    values = [figure(cost) for cost in costs]
    return f"{median(values):,.{digits}f} ({min(values):,.{digits}f}-{max(values):,.{digits}f})"


def ratio(ours_costs: Sequence[Cost], others: Sequence[Cost], figure: Callable[[Cost], float]) -> float:
    """The median of the ratio ours / other, round by round."""
    return median(figure(mine) / figure(theirs) for mine, theirs in zip(ours_costs, others, strict=True))
