"""Dollars: what replicas cost against what lost requests cost. PURE."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import accumulate

from .types import Tuning

SECONDS_PER_HOUR = 3600.0


@dataclass(frozen=True, slots=True)
class Excess:
    """E[(d - x)+] over samples of demand d."""

    ordered: Sequence[float]
    _above: Sequence[float] = field(repr=False)
    """Sums of the samples from each place on."""

    @classmethod
    def of(cls, samples: Sequence[float]) -> Excess:
        """Over these samples, each with the same weight."""
        ordered = sorted(samples)
        above = [0.0, *accumulate(reversed(ordered))]
        above.reverse()
        return cls(ordered, above)

    def expected(self, capacity: float) -> float:
        """Requests a second above `capacity`, on average; 0 without samples."""
        count = len(self.ordered)
        if count == 0:
            return 0.0
        first = bisect_right(self.ordered, capacity)
        return max(0.0, (self._above[first] - (count - first) * capacity) / count)

    def quantile(self, ratio: float) -> float:
        """The sample below which `ratio` of them lie; 0 without samples."""
        return self.ordered[min(len(self.ordered) - 1, int(ratio * len(self.ordered)))] if self.ordered else 0.0


@dataclass(frozen=True, slots=True)
class Losses:
    """Expected lost requests by number of replicas."""

    capacity: float
    """Requests a second of one replica."""
    recent: Excess
    hour: Excess
    recent_share: float

    @classmethod
    def of(cls, demand: Sequence[tuple[float, float]], capacity: float, now: float, tuning: Tuning) -> Losses:
        """From (when, requests a second) of the last hour, oldest first."""
        recent = [rate for at, rate in demand if at > now - tuning.recent_seconds]
        return cls(capacity, Excess.of(recent), Excess.of([rate for _, rate in demand]), tuning.recent_share)

    def per_second(self, replicas: int) -> float:
        """L(n): part of the last minute's and part of the last hour's mean excess; convex in `replicas`."""
        taken = replicas * self.capacity
        if not self.recent.ordered:
            return self.hour.expected(taken)
        return self.recent_share * self.recent.expected(taken) + (1 - self.recent_share) * self.hour.expected(taken)


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
