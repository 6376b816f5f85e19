"""How well a strategy for any number of models chooses: its curve of quality and cost, beside single models.

Source: Avengers-Pro, arXiv 2508.12631, section 3 (one point for each alpha).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from flotilla_router.strategies.scores import ClusterScores

from .datasets import Example
from .errors import TrainingError
from .metrics import Floats, Interval, interval, resampled, weighted_means

ALPHAS = tuple(step / 50 for step in range(51))


@dataclass(frozen=True, slots=True)
class Point:
    """What one setting, or one model alone, gives."""

    quality: Interval
    usd: Interval
    """Per request."""


@dataclass(frozen=True, slots=True)
class ClusterEvaluation:
    """How scores of several models choose on rows with all outcomes."""

    rows: int
    by_alpha: tuple[tuple[float, Point], ...]
    singles: tuple[tuple[str, Point], ...]
    oracle: Point
    """The best answer of each row, of equals the cheapest."""
    random: Point
    hypervolume: Interval
    """Area under the best quality that a cost allows, both from the worst and the dearest model; 1 at most."""


@dataclass(frozen=True, slots=True)
class Table:
    """Outcomes as arrays of shape (rows, models)."""

    models: tuple[str, ...]
    quality: Floats
    usd: Floats
    groups: NDArray[np.intp]


def table_of(examples: Sequence[Example], models: tuple[str, ...]) -> Table:
    """The rows as arrays; every row has all outcomes.

    Raises:
        TrainingError: what an answer cost is not known.
    """
    names = [example.group or f"row {position}" for position, example in enumerate(examples)]
    usd = np.array([[example.outcomes[model].usd for model in models] for example in examples], np.float64)
    for model, missing in zip(models, np.isnan(usd).sum(axis=0), strict=True):
        if missing:
            raise TrainingError(f"{missing} of {len(examples)} rows do not say what {model} cost: it is not zero")
    return Table(
        models,
        np.array([[example.outcomes[model].quality for model in models] for example in examples]),
        usd,
        np.unique(np.array(names), return_inverse=True)[1].astype(np.intp),
    )


def chosen(scores: Sequence[ClusterScores], alpha: float, models: tuple[str, ...]) -> NDArray[np.intp]:
    """The column of the model that each row is sent to."""
    columns = {model: column for column, model in enumerate(models)}
    return np.array([columns[each.ranked(alpha)[0]] for each in scores], np.intp)


def evaluate_choices(scores: Sequence[ClusterScores], table: Table, *, seed: int = 0) -> ClusterEvaluation:
    """The curve over ALPHAS, and what it is to be compared with."""
    weights = resampled(table.groups, seed=seed, resamples=500)
    columns = [chosen(scores, alpha, table.models) for alpha in ALPHAS]
    picked = [_picked(table, column, weights) for column in columns]
    best = np.lexsort((table.usd, -table.quality), axis=1)[:, 0]
    singles = [np.full(len(table.quality), column) for column in range(len(table.models))]
    alone = [_picked(table, column, weights) for column in singles]
    return ClusterEvaluation(
        rows=len(scores),
        by_alpha=tuple(zip(ALPHAS, map(_point, picked), strict=True)),
        singles=tuple(zip(table.models, map(_point, alone), strict=True)),
        oracle=_point(_picked(table, best, weights)),
        random=_point(
            (weighted_means(table.quality.mean(axis=1), weights), weighted_means(table.usd.mean(axis=1), weights))
        ),
        hypervolume=interval(_hypervolumes(picked, alone)),
    )


def _picked(table: Table, columns: NDArray[np.intp], weights: Floats) -> tuple[Floats, Floats]:
    rows = np.arange(len(columns))
    return weighted_means(table.quality[rows, columns], weights), weighted_means(table.usd[rows, columns], weights)


def _point(figures: tuple[Floats, Floats]) -> Point:
    return Point(interval(figures[0]), interval(figures[1]))


def _hypervolumes(points: Sequence[tuple[Floats, Floats]], alone: Sequence[tuple[Floats, Floats]]) -> Floats:
    """Of each resample; what is worse than the worst model, or dearer than the dearest, adds nothing."""
    quality, usd = (np.array([point[axis] for point in points]) for axis in (0, 1))
    least = np.min([point[0] for point in alone], axis=0)
    dearest = np.max([point[1] for point in alone], axis=0)
    height = np.clip((quality - least) / np.maximum(1 - least, 1e-12), 0, None)
    reach = np.clip(1 - usd / dearest, 0, None)
    return np.array([_area(height[:, column], reach[:, column]) for column in range(height.shape[1])])


def _area(heights: Floats, reaches: Floats) -> float:
    """Of the union of the rectangles from (0, 0) to (reach, height)."""
    area, covered = 0.0, 0.0
    for position in np.argsort(-heights, kind="stable"):
        reach = float(reaches[position])
        if reach > covered:
            area += (reach - covered) * float(heights[position])
            covered = reach
    return area
