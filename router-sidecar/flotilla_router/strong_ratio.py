"""The threshold that keeps a share of the requests on the strong model, whatever scores the traffic has.

A threshold that was calibrated on one kind of prompts gives another share on the next. So the share is what is held:
the threshold is a quantile of the last scores, and the quantile itself leans against the requests that went to the
strong model too often, or too rarely, of late. The artifact's calibration is only where it begins.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right, insort
from collections import deque
from collections.abc import Sequence
from math import isfinite
from typing import NamedTuple

WINDOW_SCORES = 200
"""Live scores that the quantile is taken of: few enough to follow a shift within some hundred requests."""
SEED_SCORES = 40
"""Scores that the calibration stands for at the start; each live one takes the place of one of them."""
REPAY_REQUESTS = 50.0
"""Requests within which about 63 % of a share too much, or too little, is made good."""
FORGET_REQUESTS = 500.0
"""Requests after which a third of what was owed is still remembered: a strange hour is not repaid for a day."""
WIDEST_RATIO = 2.0
"""The share that is aimed at is never more than this many times the wanted one, and never less than its half."""


class Verdict(NamedTuple):
    """What a threshold says of one score."""

    strong: bool
    probability: float
    """Of `strong` being true: 0 or 1, unless the score lies on the threshold."""
    threshold: float


class StrongRatio:
    """Holds a share of the requests on the strong model."""

    __slots__ = ("_balance", "_ordered", "_recent", "_seeds", "_target")

    def __init__(self, target: float, calibration: Sequence[tuple[float, float]]) -> None:
        """target: the share, in [0, 1]. calibration: thresholds, each with the share of scores from it on.

        Raises:
            ValueError: there is no calibration to begin with.
        """
        if not calibration:
            raise ValueError("the artifact has no calibration, which targetStrongRatio starts from")
        seeds = _seed(calibration)
        self._target = target
        self._recent = deque(seeds)
        self._ordered = sorted(seeds)
        self._seeds = len(seeds)
        self._balance = 0.0
        """Requests that the strong model is owed; below 0: that it had too many."""

    def decide(self, score: float, draw: float) -> Verdict:
        """The same as `look`, for a request that is counted and whose score is remembered."""
        verdict = self.look(score, draw)
        self._balance += self._target - verdict.strong - self._balance / FORGET_REQUESTS
        self.note(score)
        return verdict

    def look(self, score: float, draw: float) -> Verdict:
        """Whether a prompt of this score would go to the strong model now. draw: uniform in [0, 1).

        Scores on the threshold are drawn, so that the share is held where many prompts have the same score.
        """
        threshold, share = self._threshold()
        if 0.0 < self._target < 1.0:
            probability = 1.0 if score > threshold else share if score == threshold else 0.0
        else:
            probability = self._target
        return Verdict(draw < probability, probability, threshold)

    def note(self, score: float) -> None:
        """Remember a score about which something else decides."""
        if not isfinite(score):
            return
        if self._seeds or len(self._recent) == WINDOW_SCORES:
            del self._ordered[bisect_left(self._ordered, self._recent.popleft())]
            self._seeds = max(self._seeds - 1, 0)
        self._recent.append(score)
        insort(self._ordered, score)

    @property
    def threshold(self) -> float:
        """The score from which prompts go to the strong model now."""
        return self._threshold()[0]

    def _threshold(self) -> tuple[float, float]:
        """The score, and the share of the prompts with exactly this score that go to the strong model."""
        scores, ratio = self._ordered, self._aim()
        wanted = ratio * len(scores)
        threshold = scores[max(min(int(len(scores) - wanted), len(scores) - 1), 0)]
        first, beyond = bisect_left(scores, threshold), bisect_right(scores, threshold)
        above = len(scores) - beyond
        return threshold, min(max((wanted - above) / (beyond - first), 0.0), 1.0)

    def _aim(self) -> float:
        """The share to aim at now: the wanted one and what is owed, within bounds."""
        target = self._target
        most = min(target * WIDEST_RATIO, (1.0 + target) / 2)
        return min(max(target + self._balance / REPAY_REQUESTS, target / WIDEST_RATIO), most)


def _seed(calibration: Sequence[tuple[float, float]]) -> list[float]:
    """Scores, in an even order of ratios, that give the calibration's share at each of its thresholds."""
    rows = sorted(calibration, key=lambda row: row[1])
    return [_score_at((index * 7 % SEED_SCORES + 0.5) / SEED_SCORES, rows) for index in range(SEED_SCORES)]


def _score_at(ratio: float, rows: Sequence[tuple[float, float]]) -> float:
    """The threshold of a share, between those of the rows; beyond the last ones, theirs. rows: by rising share."""
    after = bisect_left(rows, ratio, key=lambda row: row[1])
    if after == 0 or after == len(rows):
        return rows[min(after, len(rows) - 1)][0]
    (low, low_ratio), (high, high_ratio) = rows[after - 1], rows[after]
    return low + (high - low) * (ratio - low_ratio) / (high_ratio - low_ratio)
