"""Dollars: what replicas cost against what lost requests cost. PURE."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import accumulate

from .types import Tuning

SECONDS_PER_HOUR = 3600.0


@dataclass(frozen=True, slots=True)
class Excess:
    """E[(d - x)+] over weighted samples of demand d."""

    ordered: Sequence[float]
    _above: Sequence[float] = field(repr=False)
    """Sums of weight x sample, from each place on."""
    _weights: Sequence[float] = field(repr=False)
    """Sums of weights, from each place on."""

    @classmethod
    def of(cls, samples: Sequence[tuple[float, float]]) -> Excess:
        """Over (sample, positive weight)."""
        ordered = sorted(samples)
        return cls(
            [sample for sample, _ in ordered],
            _sums_from_each(sample * weight for sample, weight in reversed(ordered)),
            _sums_from_each(weight for _, weight in reversed(ordered)),
        )

    def expected(self, capacity: float) -> float:
        """Requests a second above `capacity`, on average; 0 without samples."""
        if not self.ordered:
            return 0.0
        first = bisect_right(self.ordered, capacity)
        return max(0.0, (self._above[first] - self._weights[first] * capacity) / self._weights[0])

    def quantile(self, ratio: float) -> float:
        """The sample below which `ratio` of them lie, whatever their weights; 0 without samples."""
        return self.ordered[min(len(self.ordered) - 1, int(ratio * len(self.ordered)))] if self.ordered else 0.0


def _sums_from_each(reversed_values: Iterable[float]) -> Sequence[float]:
    sums = [0.0, *accumulate(reversed_values)]
    sums.reverse()
    return sums


@dataclass(frozen=True, slots=True)
class Losses:
    """Expected lost requests by number of replicas."""

    capacity: float
    """Requests a second of one replica."""
    hour: Excess
    """Of the last hour; a sample weighs the less, the older it is."""

    @classmethod
    def of(cls, demand: Sequence[tuple[float, float]], capacity: float, now: float, tuning: Tuning) -> Losses:
        """From (when, requests a second) of the last hour, oldest first.

        Weights are 1 / (age + recency), which prefers no time scale that the demand may change at.
        """
        fresh = tuning.recency_seconds
        return cls(capacity, Excess.of([(rate, 1.0 / (max(now - at, 0.0) + fresh)) for at, rate in demand]))

    def per_second(self, replicas: int) -> float:
        """L(n): the mean excess of demand over what `replicas` take; convex in `replicas`."""
        return self.hour.expected(replicas * self.capacity)


@dataclass(frozen=True, slots=True)
class Prices:
    """What a replica and a lost request cost."""

    replica_usd_per_hour: float
    loss_usd: float

    def total_usd_per_hour(self, replicas: int, losses: Losses) -> float:
        """GPUs and expected losses."""
        return replicas * self.replica_usd_per_hour + self.loss_usd * SECONDS_PER_HOUR * losses.per_second(replicas)

    @property
    def break_even_per_hour(self) -> float:
        """Saved requests an hour at which one more replica pays for itself; inf where they cost nothing."""
        return self.replica_usd_per_hour / self.loss_usd if self.loss_usd > 0 else float("inf")


def cheapest(prices: Prices, losses: Losses, least: int, most: int) -> int:
    """The number in [least, most] that costs least, the smallest of several.

    Losses are convex in the number, so the first replica that does not pay for itself is one too many.
    """
    found = least
    cost = prices.total_usd_per_hour(found, losses)
    while found < most:
        more = prices.total_usd_per_hour(found + 1, losses)
        if more >= cost:
            break
        found, cost = found + 1, more
    return found
