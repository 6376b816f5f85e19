"""What was scraped of pods, and the rates and the last hour that follow from it. PURE: bounded memory, time is given.

What Prometheus would be asked is computed here the same way: growth over a window of samples, where a counter that
fell has begun again at zero. One thing is known better: a series that a pod did not have before began at zero.
"""

from __future__ import annotations

import itertools
import math
from array import array
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from .exposition import Exposition, parse_series
from .readings import READINGS, Labels, Reading, Rows, Scope, Series, believable, past_work, summed

SNAPSHOTS_MAX = 5
"""Of one pod: a window of rates and the one before it."""
SERIES_MAX = 5_000
"""Of one pod that are kept: 50 policies' worth of a router's, or 70 engines in one pod."""

EXPOSITION = Exposition(metric for reading in READINGS for metric in reading.metrics)


@dataclass(frozen=True, slots=True)
class _Snapshot:
    at: float
    samples: Mapping[str, float]
    """By the series' own text."""


@dataclass(slots=True)
class PodScrapes:
    """The last few scrapes of one pod."""

    namespace: str
    pod: str
    _snapshots: deque[_Snapshot] = field(default_factory=lambda: deque[_Snapshot](maxlen=SNAPSHOTS_MAX))
    _labels: dict[str, dict[str, Mapping[str, str]]] = field(default_factory=dict[str, dict[str, Mapping[str, str]]])
    """By metric and the series' text; the pod's own are among them."""
    _texts: frozenset[str] = frozenset()
    """Of all series of the last scrape."""

    def add(self, at: float, samples: Mapping[str, float]) -> None:
        """The pod answered `samples` at `at`; one that goes back in time replaces what came after it."""
        while self._snapshots and self._snapshots[-1].at >= at:
            self._snapshots.pop()
        kept = dict(itertools.islice(samples.items(), SERIES_MAX))
        self._snapshots.append(_Snapshot(at, kept))
        if kept.keys() != self._texts:
            self._learn(kept)

    @property
    def at(self) -> float | None:
        """When it answered last."""
        return self._snapshots[-1].at if self._snapshots else None

    def values(self, reading: Reading, now: float, scope: Scope) -> Iterator[Series]:
        """What `reading` makes of each of its series."""
        if not self._snapshots:
            return
        window, last = self._window(now, scope), self._snapshots[-1]
        for text, labels in self._series(reading):
            if reading.kind == "age":
                yield labels, max(0.0, now - last.at)
            elif reading.kind == "count":
                yield labels, float(sum(text in snapshot.samples for snapshot in window))
            elif reading.kind == "gauge" and window:
                yield labels, last.samples[text]
            elif reading.kind == "rate" and len(window) > 1:
                since = window if reading.quantile is not None else window[-2:]
                yield labels, growth([each.samples.get(text) for each in since]) / (last.at - since[0].at)

    def grown(self, reading: Reading) -> Iterator[Series]:
        """How much each of a reading's counters grew from the scrape before to the last."""
        if len(self._snapshots) < 2:
            return
        before, last = self._snapshots[-2].samples, self._snapshots[-1].samples
        for text, labels in self._series(reading):
            yield labels, growth([before.get(text), last[text]])

    def _series(self, reading: Reading) -> Iterator[tuple[str, Mapping[str, str]]]:
        for metric in reading.metrics:
            for text, labels in self._labels.get(metric, {}).items():
                if not reading.where or all(labels.get(name) == value for name, value in reading.where):
                    yield text, labels

    def _learn(self, samples: Mapping[str, float]) -> None:
        """What is said of series that are there is known; labels of others are forgotten."""
        known = {text: labels for found in self._labels.values() for text, labels in found.items()}
        self._labels, self._texts = {}, frozenset(samples)
        for text in samples:
            series = parse_series(text)
            labels = known.get(text) or {**series.labels, "namespace": self.namespace, "pod": self.pod}
            self._labels.setdefault(series.metric, {})[text] = labels

    def _window(self, now: float, scope: Scope) -> list[_Snapshot]:
        """With half a scrape of slack, because scrapes are not exactly on time."""
        since = now - scope.window_seconds - scope.scrape_seconds / 2
        return [each for each in self._snapshots if each.at >= since]


def growth(counts: Iterable[float | None]) -> float:
    """Of a counter, None where it was not there; one that fell has begun again, and so has one that came later."""
    total, before = 0.0, None
    for index, count in enumerate(counts):
        current = 0.0 if count is None else count
        if index and before is not None:
            total += current - before if current >= before else current
        before = current
    return total if math.isfinite(total) else math.nan


class Track:
    """The values of rows over a span of ticks, in a ring: eight bytes a value, whatever comes."""

    def __init__(self, ticks: int) -> None:
        self._ticks = ticks
        self._moments: deque[float] = deque(maxlen=ticks)
        self._values: dict[Labels, array[float]] = {}
        self._cursor = -1

    def put(self, at: float, rows: Rows, wanted: Iterable[Labels]) -> None:
        """The rows of one tick; a row that is not there is zero, and one that is not wanted is forgotten.

        Pods say what they like: that only so much is remembered is up to who reads them.
        """
        self._cursor = (self._cursor + 1) % self._ticks
        self._moments.append(at)
        known = self._values
        self._values = {
            labels: known.get(labels) or array("d", bytes(8 * self._ticks))
            for labels in wanted
            if labels in known or labels in rows
        }
        for labels, values in self._values.items():
            values[self._cursor] = rows.get(labels, 0.0)

    def points(self, labels: Labels) -> list[tuple[float, float]]:
        """(when, value), oldest first."""
        values = self._values.get(labels)
        count = len(self._moments)
        if values is None:
            return []
        numbers = ((self._cursor - count + 1 + index) % self._ticks for index in range(count))
        return [(at, values[number]) for at, number in zip(self._moments, numbers, strict=True)]

    def sums(self, since: float) -> dict[Labels, float]:
        """The sum of each row after `since`."""
        return {
            labels: sum(value for at, value in self.points(labels) if at > since and math.isfinite(value))
            for labels in self._values
        }


WORK = past_work(3600.0)
"""Slot-seconds and finished requests, by Expert."""


def summed_values(reading: Reading, pods: Iterable[PodScrapes], now: float, scope: Scope) -> Rows:
    """What `promql(reading)` would answer."""
    rows = summed(reading, (series for pod in pods for series in pod.values(reading, now, scope)))
    return {labels: believable(reading, value) for labels, value in rows.items()}


def summed_growth(reading: Reading, pods: Iterable[PodScrapes]) -> Rows:
    """How much a reading's counters grew between the last two scrapes."""
    return summed(reading, (series for pod in pods for series in pod.grown(reading)))
