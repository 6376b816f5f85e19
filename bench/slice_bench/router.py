"""Router CPU per request and per event, requests per second, memory per open stream."""

from __future__ import annotations

import asyncio
import json
import subprocess
from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from slice_bench.load import make_request
from slice_bench.processes import (
    CLIENT_CPU,
    cpu_seconds,
    free_port,
    module,
    resident_bytes,
    running,
    wait_for_port,
)
from slice_bench.proxies import Proxy, envoy, ours, splice

ROUNDS = 5
JSON_REQUESTS = 20_000
STREAM_REQUESTS = 1_500
EVENTS = 64
CONNECTIONS = 32
OPEN_STREAMS = 1_000

Starter = Callable[[int, Path], AbstractContextManager[Proxy]]
STARTERS: tuple[Starter, ...] = (ours, envoy, splice)


@dataclass(frozen=True, slots=True)
class Cost:
    """What one load cost a proxy."""

    cpu_us_per_request: float
    requests_per_second: float
    requests: int
    events: int


def measure(proxy: Proxy, *, requests: int, stream: bool) -> Cost:
    """One load of `requests` on `proxy`."""
    flags = ["--port", str(proxy.port), "--requests", str(requests), "--connections", str(CONNECTIONS)]
    before = cpu_seconds(proxy.pid)
    command = ["taskset", "-c", str(CLIENT_CPU), *module("slice_bench.load", *flags, *(["--stream"] if stream else []))]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=320)
    used = cpu_seconds(proxy.pid) - before
    figures = json.loads(done.stdout)
    return Cost(used / requests * 1e6, requests / figures["seconds"], requests, int(figures["events"]))


def compare(*, stream: bool, requests: int, scratch: Path, tick: Callable[[], None]) -> dict[str, list[Cost]]:
    """Name -> a cost per round; the proxies take turns, so that a change of the machine's speed meets all of them."""
    with ExitStack() as stack:
        port = free_port()
        log = scratch / "canned.log"
        command = module("slice_bench.canned", "--port", str(port), "--events", str(EVENTS))
        wait_for_port(port, stack.enter_context(running(command, cpu=CLIENT_CPU, log=log)), log)
        proxies = [stack.enter_context(start(port, scratch)) for start in STARTERS]
        costs: dict[str, list[Cost]] = {proxy.name: [] for proxy in proxies}
        for proxy in proxies:
            measure(proxy, requests=max(requests // 10, 50), stream=stream)
        for _ in range(ROUNDS):
            for proxy in proxies:
                costs[proxy.name].append(measure(proxy, requests=requests, stream=stream))
                tick()
    return costs


def kb_per_open_stream(scratch: Path) -> float:
    """Resident KB that each of `OPEN_STREAMS` open, silent streams adds to our router."""
    with ExitStack() as stack:
        port = free_port()
        log = scratch / "hold.log"
        command = module("slice_bench.canned", "--port", str(port), "--hold")
        wait_for_port(port, stack.enter_context(running(command, cpu=CLIENT_CPU, log=log)), log)
        proxy = stack.enter_context(ours(port, scratch))
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


def middle(costs: list[Cost], figure: Callable[[Cost], float]) -> float:
    """The median of a figure over the rounds."""
    return median(figure(cost) for cost in costs)


def ratio(ours_costs: list[Cost], others: list[Cost], figure: Callable[[Cost], float]) -> float:
    """The median of the ratio ours / other, round by round."""
    return median(figure(mine) / figure(theirs) for mine, theirs in zip(ours_costs, others, strict=True))
