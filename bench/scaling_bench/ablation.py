"""Each rule switched off, on the tuning set."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TypedDict

from flotilla_operator.scaling.types import TUNING, Tuning
from scaling_bench.comparison import ratio
from scaling_bench.contenders import Ours
from scaling_bench.measure import Results
from scaling_bench.scenarios import Trace


class Options(TypedDict, total=False):
    """Of `Ours`."""

    tuning: Tuning
    window_seconds: float


ABLATIONS: Mapping[str, Options] = {
    "all rules": {},
    "capacity is not learned: the prior of 4 slot-seconds": {
        "tuning": replace(TUNING, learning_weight=0.0, learning_requests=1e9)
    },
    "capacity is that of the mean load, 60 % of it": {
        "tuning": replace(TUNING, batching_prior=1.0, batching_ridge=1e9, utilization=0.60)
    },
    "how capacity falls with the load is learned from single ticks": {"tuning": replace(TUNING, smoothing_weight=1.0)},
    "demand is the arrivals, whatever is lost": {"tuning": replace(TUNING, censoring=False)},
    "the whole hour counts the same": {"tuning": replace(TUNING, recency_seconds=1e9)},
    "only the last minute counts": {"tuning": replace(TUNING, history_seconds=60.0)},
    "all of the slots are planned with": {"tuning": replace(TUNING, utilization=1.0)},
    "shrink at once, all of it": {
        "tuning": replace(TUNING, shrink_after_seconds=0.0, shrink_again_seconds=0.0, shrink_ratio=1.0)
    },
    "shrink after 300 s, all of it": {"tuning": replace(TUNING, shrink_again_seconds=0.0, shrink_ratio=1.0)},
    "rates over 45 s": {"window_seconds": 45.0},
}


def ablate(results: Results, traces: Sequence[Trace]) -> dict[str, float]:
    """Dollars over those of all rules."""
    return {name: ratio(results, traces, _variant(options), Ours) for name, options in ABLATIONS.items()}


def _variant(options: Options) -> Callable[[float], Ours]:
    def make(price: float) -> Ours:
        return Ours(price, **options)

    return make
