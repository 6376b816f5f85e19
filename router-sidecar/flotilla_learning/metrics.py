"""How well scores choose: curves, their areas and crossings, each with the interval of a bootstrap over groups.

A curve of two models is the share of the strong model's lead that is recovered, by the share of requests it answers.
Source: RouteLLM, arXiv 2406.18665, section 3.3 (PGR, APGR, CPT).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .datasets import Example

Floats = NDArray[np.float64]
RESAMPLES = 1000


@dataclass(frozen=True, slots=True)
class Interval:
    """A figure and its 95 % interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Evaluation:
    """How scores of two models choose on rows with both outcomes."""

    rows: int
    apgr: Interval
    """Mean of the recovered share of the lead over all shares of strong calls; 0.5 by chance."""
    cpt50: Interval
    """Least share of strong calls that recovers half of the lead."""
    cpt80: Interval
    weak: Interval
    """Mean quality of the weak model alone."""
    strong: Interval
    oracle_apgr: float
    """Of scores that know both outcomes."""
    length_apgr: Interval
    """Of the prompt's length alone."""
    hypervolume: Interval
    """Mean quality over all shares of strong calls."""
    curve: tuple[tuple[float, float], ...]
    """Share of strong calls and mean quality, at 101 shares."""


class NoLeadError(ValueError):
    """The strong model is no better on these rows: there is no lead to recover."""


@dataclass(frozen=True, slots=True)
class Pair:
    """Qualities of both models, and each row's group as a number from 0."""

    weak: Floats
    strong: Floats
    groups: NDArray[np.intp]
    lengths: Floats

    @property
    def gaps(self) -> Floats:
        """What the strong model adds, row by row."""
        return self.strong - self.weak


def pair_of(examples: Sequence[Example], weak: str, strong: str) -> Pair:
    """The rows as arrays; every row has both outcomes."""
    names = [example.group or f"row {position}" for position, example in enumerate(examples)]
    return Pair(
        np.array([example.outcomes[weak].quality for example in examples]),
        np.array([example.outcomes[strong].quality for example in examples]),
        np.unique(np.array(names), return_inverse=True)[1].astype(np.intp),
        np.array([float(len(example.prompt)) for example in examples]),
    )


def evaluate(scores: Sequence[float] | Floats, pair: Pair, *, seed: int = 0, resamples: int = RESAMPLES) -> Evaluation:
    """Every figure of one scorer.

    Raises:
        NoLeadError: the strong model is no better than the weak one.
    """
    if not pair.gaps.sum() > 0:
        raise NoLeadError("the strong model is not better on these rows: there is no lead to recover")
    values = np.asarray(scores, np.float64)
    weights = resampled(pair.groups, seed=seed, resamples=resamples)
    share, recovered = recovery(values, pair.gaps, weights)
    weak, strong = weighted_means(pair.weak, weights), weighted_means(pair.strong, weights)
    apgr = areas(share, recovered)
    return Evaluation(
        rows=len(values),
        apgr=interval(apgr),
        cpt50=interval(crossings(share, recovered, 0.5)),
        cpt80=interval(crossings(share, recovered, 0.8)),
        weak=interval(weak),
        strong=interval(strong),
        oracle_apgr=apgr_of(pair.gaps, pair),
        length_apgr=interval(areas(*recovery(pair.lengths, pair.gaps, weights))),
        hypervolume=interval(weak + (strong - weak) * apgr),
        curve=_curve(share[0], weak[0] + (strong[0] - weak[0]) * recovered[0]),
    )


def apgr_of(scores: Sequence[float] | Floats, pair: Pair) -> float:
    """The area alone, without an interval."""
    ones = np.ones((1, len(pair.gaps)))
    return float(areas(*recovery(np.asarray(scores, np.float64), pair.gaps, ones))[0])


def apgr_difference(
    first: Sequence[float] | Floats, second: Sequence[float] | Floats, pair: Pair, *, seed: int = 0
) -> Interval:
    """APGR of `first` less that of `second`, with the interval of the same resamples of both."""
    weights = resampled(pair.groups, seed=seed, resamples=RESAMPLES)
    found = [areas(*recovery(np.asarray(each, np.float64), pair.gaps, weights)) for each in (first, second)]
    return interval(found[0] - found[1])


def recovery(scores: Floats, gaps: Floats, weights: Floats) -> tuple[Floats, Floats]:
    """Shares of strong calls and of the lead recovered, both from 0 to 1, shape (resamples, distinct scores + 1).

    The highest scores go to the strong model first; prompts of one score go together.
    """
    order = np.argsort(-scores, kind="stable")
    ends = np.append(np.flatnonzero(np.diff(scores[order])), len(scores) - 1)
    ordered = weights[:, order]
    return _shares(ordered, ends), _shares(ordered * gaps[order], ends)


def _shares(values: Floats, ends: NDArray[np.intp]) -> Floats:
    """NaN in a resample whose sum is not above 0: there is no share of a lead that is not there."""
    sums = np.cumsum(values, axis=1)[:, ends]
    totals = np.where(sums[:, -1:] > 0, sums[:, -1:], np.nan)
    return np.concatenate([np.zeros((len(values), 1)), sums / totals], axis=1)


def areas(share: Floats, recovered: Floats) -> Floats:
    """The area under each curve: APGR."""
    heights = (recovered[:, 1:] + recovered[:, :-1]) / 2
    return (heights * np.diff(share, axis=1)).sum(axis=1)


def crossings(share: Floats, recovered: Floats, level: float) -> Floats:
    """The share at which each curve first reaches the level, between its points in a straight line."""
    rows = np.arange(len(share))
    right = np.argmax(recovered >= level, axis=1)
    left = right - 1
    low, high = recovered[rows, left], recovered[rows, right]
    portion = (level - low) / (high - low)
    return share[rows, left] + portion * (share[rows, right] - share[rows, left])


def _curve(share: Floats, quality: Floats) -> tuple[tuple[float, float], ...]:
    at = np.linspace(0, 1, 101)
    return tuple(zip(at.tolist(), np.interp(at, share, quality).tolist(), strict=True))


def resampled(groups: NDArray[np.intp], *, seed: int, resamples: int) -> Floats:
    """How often each row counts: first once each, then in each resample of the groups, shape (resamples + 1, rows)."""
    count = int(groups.max()) + 1
    draws = np.random.default_rng(seed).multinomial(count, np.full(count, 1 / count), size=resamples)
    return np.concatenate([np.ones((1, len(groups))), draws[:, groups].astype(np.float64)])


def weighted_means(values: Floats, weights: Floats) -> Floats:
    """The mean in each resample."""
    return (weights @ values) / weights.sum(axis=1)


def interval(figures: Floats) -> Interval:
    """The first of the figures, and the middle 95 % of the others that exist."""
    rest = figures[1:][np.isfinite(figures[1:])]
    low, high = np.quantile(rest, [0.025, 0.975]) if len(rest) else (figures[0], figures[0])
    return Interval(float(figures[0]), float(low), float(high))


def bootstrap(figure: Callable[[Floats], Floats], groups: NDArray[np.intp], *, seed: int = 0) -> Interval:
    """The interval of any figure of weighted rows: `figure` maps weights, shape (resamples + 1, rows), to figures."""
    return interval(figure(resampled(groups, seed=seed, resamples=RESAMPLES)))
