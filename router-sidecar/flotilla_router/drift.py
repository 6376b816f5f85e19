"""How far the scores of the traffic have moved from those that an artifact was trained and calibrated on."""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter, deque
from collections.abc import Iterable, Sequence
from math import isfinite, log

WINDOW_SCORES = 500
LEAST_SCORES = 200
"""Fewer say nothing: by chance alone the index of 200 scores in ten bins is about 0.05."""
DRIFTED_INDEX = 0.25
"""From here on a shift is usually called significant; below 0.1 it is none."""
_BINS = 10


class Drift:
    """The last scores, compared with an artifact's own."""

    __slots__ = ("_edges", "_expected", "_scores")

    def __init__(self, quantiles: Sequence[float]) -> None:
        """quantiles: of the artifact's scores, evenly spaced from the lowest to the highest."""
        ordered = sorted(quantiles)
        steps = len(ordered) - 1
        inner = {ordered[round(steps * cut / _BINS)] for cut in range(1, _BINS)} if ordered else set[float]()
        self._edges = sorted(inner)
        """Upper edges of all bins but the last; fewer than nine where many scores are alike."""
        self._expected = _shares(self._edges, ordered)
        self._scores: deque[float] = deque(maxlen=WINDOW_SCORES)

    def note(self, score: float) -> None:
        """Remember a live score."""
        if isfinite(score):
            self._scores.append(score)

    @property
    def index(self) -> float | None:
        """The population stability index of the last scores; None: there are too few, or nothing to compare them with.

        PSI = sum over the bins of (live - expected) x ln(live / expected), shares smoothed by half a score a bin.

        Source: Siddiqi, Credit Risk Scorecards (2006), ch. 9; Yurdakul and Naranjo (2020), on its chance level.
        """
        if len(self._scores) < LEAST_SCORES or not self._edges:
            return None
        live = _shares(self._edges, self._scores)
        return sum([(seen - wanted) * log(seen / wanted) for seen, wanted in zip(live, self._expected, strict=True)])


def _shares(edges: Sequence[float], scores: Iterable[float]) -> list[float]:
    """The share of the scores in each bin; a score on an edge is in the lower one."""
    counts = Counter[int](bisect_left(edges, score) for score in scores)
    total = counts.total() + 0.5 * (len(edges) + 1)
    return [(counts[each] + 0.5) / total for each in range(len(edges) + 1)]
