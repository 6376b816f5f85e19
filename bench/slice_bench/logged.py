"""What a request log costs a router: on its loop, where every request waits, and in the thread that writes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from typing import Literal, get_args

from flotilla_api.snapshot import RequestLogConfig
from flotilla_api.strategy import LoggedPrompts
from slice_bench.policies import pass_through_snapshot
from slice_bench.processes import loop_cpu_seconds
from slice_bench.progress import Progress
from slice_bench.proxies import Proxy, router
from slice_bench.router import ROUNDS, WHOLE, measure, upstream

Part = Literal["loop", "process"]
OFF = "off"
SETTINGS: Mapping[str, LoggedPrompts | None] = {OFF: None} | {each: each for each in get_args(LoggedPrompts)}
LOADS = ROUNDS * len(SETTINGS)
LOG_BYTES = 64 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Spent:
    """CPU microseconds for one request."""

    loop: float
    process: float
    """Of all threads, the loop's included."""


def compare(scratch: Path, progress: Progress) -> dict[str, list[Spent]]:
    """Setting -> a cost per round of 1 KB JSON requests; routers with different settings take turns."""
    costs: dict[str, list[Spent]] = {name: [] for name in SETTINGS}
    with ExitStack() as stack:
        port = stack.enter_context(upstream(scratch))
        proxies = [stack.enter_context(start_logged(name, port, scratch)) for name in SETTINGS]
        for proxy in proxies:
            measure(proxy, replace(WHOLE, requests=WHOLE.requests // 10))
        for turn in range(ROUNDS):
            for number, proxy in enumerate(proxies, 1):
                costs[proxy.name].append(_spent(proxy))
                progress(turn * len(proxies) + number)
    return costs


def figures_of(costs: Mapping[str, Sequence[Spent]]) -> dict[str, float]:
    """What each setting adds to a request without a log, in microseconds: differences of medians."""
    figures: dict[str, float] = {}
    for name in [each for each in costs if each != OFF]:
        for part in get_args(Part):
            added = _middle(costs[name], part) - _middle(costs[OFF], part)
            figures[f"request_log_{part}_us_{name.lower()}"] = round(added, 1)
    return figures


def spread(costs: Sequence[Spent], part: Part) -> str:
    """Median, least and most of one part."""
    values = [_of(each, part) for each in costs]
    return f"{median(values):.1f} ({min(values):.1f}-{max(values):.1f})"


def _middle(costs: Sequence[Spent], part: Part) -> float:
    return median([_of(each, part) for each in costs])


def _of(spent: Spent, part: Part) -> float:
    return spent.loop if part == "loop" else spent.process


def start_logged(name: str, upstream_port: int, scratch: Path) -> AbstractContextManager[Proxy]:
    """A gateway that judges nothing, with this setting."""
    folder, prompts = scratch / f"log-{name}", SETTINGS[name]
    rows = folder / "requests"
    rows.mkdir(parents=True)
    log = None if prompts is None else RequestLogConfig(prompts=prompts, maxBytes=LOG_BYTES)
    snapshot = pass_through_snapshot(upstream_port).model_copy(update={"requestLog": log})
    return router(name, snapshot, folder, judges=False, env={"FLOTILLA_REQUEST_LOG_DIR": str(rows)})


def _spent(proxy: Proxy) -> Spent:
    before = loop_cpu_seconds(proxy.pid)
    cost = measure(proxy, WHOLE)
    loop = loop_cpu_seconds(proxy.pid) - before
    return Spent(loop / cost.requests * 1e6, cost.cpu_us_per_request)
