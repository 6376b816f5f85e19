"""Replays in parallel: each process keeps the scenario that it replayed last."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import lru_cache

from flotilla_simulation.oracle import oracle_dollars
from flotilla_simulation.replay import Outcome, Scenario, Series, replay
from scaling_bench.contenders import Contender
from scaling_bench.scenarios import PRICES, Trace, azure_code, scenario

CODE = Trace("azure-code", 1)
"""The code hour, as a trace of its own."""


@dataclass(frozen=True, slots=True)
class Result:
    """One contender on one trace."""

    gpu_hours: float
    requests: int
    lost: int
    late: int
    cold_starts: int
    reversals: int
    ttft_p95_seconds: float
    hourly_usd: float
    share_usd: float

    def dollars(self, price: float) -> float:
        """With a lost or late request at `price` shares of a full GPU."""
        return self.gpu_hours * self.hourly_usd + price * self.share_usd * (self.lost + self.late)

    @property
    def attainment(self) -> float:
        """Share of requests that started in time."""
        return 1 - (self.lost + self.late) / self.requests if self.requests else 1.0


Results = Mapping[tuple[Trace, Contender], Result]


def measure(
    work: Mapping[Trace, Sequence[Contender]], done: Callable[[int], None]
) -> dict[tuple[Trace, Contender], Result]:
    """Every contender on its traces; `done` is told how many replays are."""
    batches = [(trace, part) for trace, contenders in work.items() for part in _parts(contenders)]
    results: dict[tuple[Trace, Contender], Result] = {}
    with ProcessPoolExecutor(_processes()) as pool:
        for (trace, part), found in zip(batches, pool.map(_measure, batches), strict=True):
            results |= {(trace, contender): result for contender, result in zip(part, found, strict=True)}
            done(len(results))
    return results


def bounds_of(traces: Iterable[Trace]) -> dict[tuple[Trace, float], float]:
    """The oracle's dollars by trace and price."""
    pairs = [(trace, price) for trace in traces for price in PRICES]
    with ProcessPoolExecutor(_processes()) as pool:
        return dict(zip(pairs, pool.map(_bound, pairs, chunksize=len(PRICES)), strict=True))


def series_of(trace: Trace, contender: Contender) -> Series:
    """For a plot."""
    case = load(trace)
    return replay(case, contender.make(case)).series


@lru_cache(maxsize=2)
def load(trace: Trace) -> Scenario:
    """What the trace is replayed against."""
    return azure_code() if trace == CODE else scenario(trace)


def summary(case: Scenario, outcome: Outcome) -> Result:
    """The figures of an outcome."""
    return Result(
        outcome.gpu_hours,
        outcome.requests,
        outcome.lost,
        outcome.late,
        outcome.cold_starts,
        outcome.reversals,
        outcome.ttft_p95_seconds,
        case.hourly_usd,
        case.share_usd,
    )


def _parts(contenders: Sequence[Contender], size: int = 8) -> Iterable[Sequence[Contender]]:
    return (contenders[start : start + size] for start in range(0, len(contenders), size))


def _measure(batch: tuple[Trace, Sequence[Contender]]) -> list[Result]:
    trace, contenders = batch
    case = load(trace)
    return [summary(case, replay(case, each.make(case))) for each in contenders]


def _bound(pair: tuple[Trace, float]) -> float:
    trace, price = pair
    case = load(trace)
    return oracle_dollars(case, price * case.share_usd)


def _processes() -> int:
    return len(os.sched_getaffinity(0))
