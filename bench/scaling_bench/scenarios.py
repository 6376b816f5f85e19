"""The traces of this benchmark, which are for tuning and which for reporting, and how they are scaled.

Neither a client nor a day of the tuning set is in the report set. A client's rates are multiplied so that its mean
over the fourteen days keeps MEAN_REPLICAS replicas busy when their batches are full; arrivals are drawn from each
window's own distribution. Every day begins with the hour before it, which is replayed and not counted.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from flotilla_simulation.policies import Bounds
from flotilla_simulation.replay import Scenario
from flotilla_simulation.traces import CONVERSATION, Client, Lengths, read_azure, read_client
from flotilla_simulation.workload import Engine, Rules, Workload

TRACES = Path(__file__).parents[1] / "data" / "traces"
PRICES = (2, 10, 60)
"""What a lost or late request costs, in shares of a full GPU."""
TUNE_CLIENTS = ("m-small-chunk-38", "m-large-chunk-89", "m-small-chunk-14", "m-mid-chunk-60")
TUNE_DAYS = (2, 3)
REPORT_CLIENTS = ("m-small-chunk-11", "m-small-chunk-5", "m-large-chunk-20", "m-large-chunk-112")
REPORT_DAYS = (8, 9, 12)
MEAN_REPLICAS = {
    "m-small-chunk-38": 3.0,
    "m-large-chunk-89": 4.0,
    "m-small-chunk-14": 5.0,
    "m-mid-chunk-60": 6.0,
    "m-small-chunk-11": 3.0,
    "m-small-chunk-5": 4.0,
    "m-large-chunk-20": 5.0,
    "m-large-chunk-112": 6.0,
}
FACTORS = (0.4, 0.7, 1.2, 2.0)
"""Of both token lengths, for the experts under one shared threshold."""
DAY = 86_400.0
HOUR = 3_600.0
ENGINE = Engine()
RULES = Rules()
BOUNDS = Bounds(1, 24)


@dataclass(frozen=True, slots=True)
class Trace:
    """One client's day, or one of Azure's hours."""

    client: str
    day: int
    seed: int = 0
    factor: float = 1.0
    """Of token lengths; rates are divided by it, so that the work stays."""

    @property
    def name(self) -> str:
        """For tables."""
        return f"{self.client} day {self.day}"


def tune_set() -> list[Trace]:
    """What thresholds and constants may be chosen on."""
    return [Trace(client, day) for client in TUNE_CLIENTS for day in TUNE_DAYS]


def report_set(seed: int) -> list[Trace]:
    """What figures are of; nothing is chosen on it."""
    return [Trace(client, day, seed) for client in REPORT_CLIENTS for day in REPORT_DAYS]


def mixed(traces: list[Trace]) -> Iterator[Trace]:
    """The same traces with token lengths that differ from client to client."""
    clients = sorted({trace.client for trace in traces})
    for trace in traces:
        factor = FACTORS[clients.index(trace.client) % len(FACTORS)]
        yield Trace(trace.client, trace.day, trace.seed, factor)


@cache
def _client(name: str) -> Client:
    return read_client(TRACES / "servegen" / f"{name}.csv.gz")


@cache
def _mean_work(factor: float) -> float:
    return _lengths(factor).mean_work_seconds(ENGINE)


def _lengths(factor: float) -> Lengths:
    return Lengths(factor=factor) if factor != 1.0 else CONVERSATION


def scenario(trace: Trace) -> Scenario:
    """The day, with the hour before it."""
    client = _client(trace.client)
    rate_factor = MEAN_REPLICAS[trace.client] / _mean_work(trace.factor) / client.mean_rate
    start = (trace.day - 1) * DAY
    seed = 1000 * trace.seed + 10 * trace.day + sum(map(ord, trace.client))
    load = client.sample(start - HOUR, start + DAY, rate_factor=rate_factor, lengths=_lengths(trace.factor), seed=seed)
    return Scenario(load, ENGINE, RULES, BOUNDS, HOUR)


def azure_code() -> Scenario:
    """The code hour; its first ten minutes, over and over, are the hour before it."""
    load = read_azure(TRACES / "azure2023_code.csv.gz")
    first = load.between(0.0, 600.0)
    before = Workload(first.arrivals[:0], first.prompt_tokens[:0], first.output_tokens[:0], 0.0)
    for _ in range(6):
        before = first.after(before)
    return Scenario(load.after(before), ENGINE, RULES, BOUNDS, HOUR)
