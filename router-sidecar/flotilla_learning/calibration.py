"""What a threshold, or an alpha, gives on rows that were not trained on: an artifact's table, and its quantiles."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from flotilla_api.artifact import CalibrationPoint
from flotilla_router.strategies.scores import ClusterScores, PairScore, Scores

from .choices import ALPHAS, chosen, table_of
from .datasets import Example

QUANTILES = 101


def calibrate(scores: Sequence[Scores], examples: Sequence[Example]) -> tuple[CalibrationPoint, ...]:
    """The table, by rising threshold or alpha; `scores` are those of `examples`, row by row."""
    pairs = [score for score in scores if isinstance(score, PairScore)]
    if len(pairs) == len(scores):
        return _by_threshold(pairs, examples)
    return _by_alpha([score for score in scores if isinstance(score, ClusterScores)], examples)


def quantiles(scores: Sequence[Scores]) -> tuple[float, ...]:
    """101 of them, evenly spaced from 0 to 1: a manifest's `scores`."""
    values = np.quantile([score.reference for score in scores], np.linspace(0, 1, QUANTILES))
    return tuple(float(value) for value in values)


def _by_threshold(scores: Sequence[PairScore], examples: Sequence[Example]) -> tuple[CalibrationPoint, ...]:
    """At the quantiles of the scores, so that each point has about one percent more of the requests."""
    values = np.array([score.score for score in scores])
    names = scores[0].weak, scores[0].strong
    quality = np.array([[example.outcomes[name].quality for name in names] for example in examples])
    usd = np.array([[example.outcomes[name].usd for name in names] for example in examples], np.float64)
    rows = np.arange(len(values))
    points: list[CalibrationPoint] = []
    for threshold in np.unique([0.0, *np.quantile(values, np.linspace(0, 1, QUANTILES)), 1.0]):
        column = (values >= threshold).astype(np.intp)
        cost = float(usd[rows, column].mean())
        points.append(
            CalibrationPoint(
                threshold=float(threshold),
                strongRatio=float(column.mean()),
                quality=float(quality[rows, column].mean()),
                usdPerRequest=None if np.isnan(cost) else cost,
            )
        )
    return tuple(points)


def _by_alpha(scores: Sequence[ClusterScores], examples: Sequence[Example]) -> tuple[CalibrationPoint, ...]:
    table = table_of(examples, scores[0].models)
    rows = np.arange(len(scores))
    dearest = int(table.usd.mean(axis=0).argmax())
    points: list[CalibrationPoint] = []
    for alpha in ALPHAS:
        column = chosen(scores, alpha, table.models)
        points.append(
            CalibrationPoint(
                alpha=alpha,
                strongRatio=float((column == dearest).mean()),
                quality=float(table.quality[rows, column].mean()),
                usdPerRequest=float(table.usd[rows, column].mean()),
            )
        )
    return tuple(points)
