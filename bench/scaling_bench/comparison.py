"""From replays to ratios: everything is a geometric mean over traces and price regimes."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence

from flotilla_simulation.baselines import KINDS, Baseline
from scaling_bench.contenders import GRID, Contender
from scaling_bench.measure import Result, Results
from scaling_bench.scenarios import PRICES, Trace

Chosen = Mapping[tuple[str, float], Baseline]
"""The number of each kind of baseline that is best on the tuning set, by kind and price."""


def geometric_mean(values: Iterable[float]) -> float:
    """Of positive values."""
    found = list(values)
    return math.exp(sum(map(math.log, found)) / len(found))


def tune(
    results: Results, traces: Sequence[Trace], grid: Sequence[Baseline] = GRID
) -> dict[tuple[str, float], Baseline]:
    """The best of each kind by price."""
    return {
        (kind, price): min(
            (each for each in grid if each.kind == kind),
            key=lambda each: geometric_mean(results[trace, each].dollars(price) for trace in traces),
        )
        for kind in KINDS
        for price in PRICES
        if any(each.kind == kind for each in grid)
    }


def best_hpa(results: Results, traces: Sequence[Trace], chosen: Chosen) -> dict[float, Baseline]:
    """Of the two metrics for a HorizontalPodAutoscaler, the one that is better on the tuning set, by price."""
    return {
        price: min(
            (chosen["hpa-waiting", price], chosen["hpa-concurrency", price]),
            key=lambda each: geometric_mean(results[trace, each].dollars(price) for trace in traces),
        )
        for price in PRICES
    }


def ratio(
    results: Results,
    traces: Sequence[Trace],
    ours: Callable[[float], Contender],
    theirs: Callable[[float], Contender],
    prices: Sequence[float] = PRICES,
) -> float:
    """Our dollars over theirs."""
    return geometric_mean(
        results[trace, ours(price)].dollars(price) / results[trace, theirs(price)].dollars(price)
        for trace in traces
        for price in prices
    )


def hindsight(
    results: Results, traces: Sequence[Trace], ours: Callable[[float], Contender], grid: Sequence[Baseline] = GRID
) -> dict[tuple[Trace, float], float]:
    """Our dollars over those of the best baseline of the whole grid, chosen for each trace after the fact."""
    return {
        (trace, price): results[trace, ours(price)].dollars(price)
        / min(results[trace, each].dollars(price) for each in grid)
        for trace in traces
        for price in PRICES
    }


def interval(values: Sequence[float]) -> tuple[float, float]:
    """The least and the most over seeds."""
    return min(values), max(values)


def total(results: Sequence[Result], figure: Callable[[Result], float]) -> float:
    """Summed over traces."""
    return sum(figure(each) for each in results)
