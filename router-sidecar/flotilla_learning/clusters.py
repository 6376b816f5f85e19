"""Cluster: groups of similar prompts, with each model's mean quality and cost in them.

Source: Avengers-Pro, arXiv 2508.12631, section 2.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from flotilla_api.artifact import ScorerOptions, ScorerSpec
from flotilla_router.strategies.cluster import Clusters
from flotilla_router.strategies.scores import ClusterScores, Scores

from .datasets import Example
from .errors import TrainingError
from .fitting import Matrix, PromptEmbedder, embed_all, fit_clusters
from .splits import folds

Floats = NDArray[np.float64]
FOLDS = 5


@dataclass(frozen=True, slots=True)
class ClusterOptions:
    """What folds choose from, by the quality of what the best model of each row's clusters answered."""

    counts: tuple[int, ...] = (32, 64)
    nearest: tuple[int, ...] = (1, 3)
    prior_rows: float = 10.0
    """Rows of the whole's means that each cluster has beside its own: a cluster of two rows says little."""


@dataclass(frozen=True, slots=True)
class Voters:
    """The arrays of the scorer Clusters, and what each row scores where it was left out."""

    scorer: ScorerSpec
    arrays: Mapping[str, NDArray[np.generic]]
    held_out: tuple[Scores, ...]


def fit_voters(
    examples: Sequence[Example],
    models: tuple[str, ...],
    embedder: PromptEmbedder,
    options: ClusterOptions,
    *,
    seed: int,
) -> Voters:
    """Clusters whose number, and whose number of votes, did best on rows left out.

    Raises:
        TrainingError: what an answer cost is not known.
    """
    quality, cost = _table(examples, models)
    rows = embed_all(embedder, [example.prompt for example in examples])
    best: tuple[float, int, int, tuple[ClusterScores, ...]] | None = None
    for count in options.counts:
        fitted = [
            (_fit(rows[rest], quality[rest], cost[rest], (count, options.prior_rows, seed)), fold)
            for rest, fold in folds(examples, count=FOLDS, seed=seed)
        ]
        for nearest in options.nearest:
            held_out = _left_out(examples, models, embedder, fitted, nearest)
            value = _best_quality(held_out, quality, models)
            if best is None or value > best[0]:
                best = value, count, nearest, held_out
    assert best is not None
    _, count, nearest, held_out = best
    arrays = _fit(rows, quality, cost, (count, options.prior_rows, seed))
    return Voters(ScorerSpec(name="Clusters", options=ScorerOptions(nearest=nearest)), arrays, held_out)


def _table(examples: Sequence[Example], models: tuple[str, ...]) -> tuple[Floats, Floats]:
    quality = np.array([[example.outcomes[model].quality for model in models] for example in examples])
    cost = np.array([[example.outcomes[model].usd for model in models] for example in examples], np.float64)
    unknown = np.isnan(cost).sum(axis=0)
    for model, missing in zip(models, unknown, strict=True):
        if missing:
            raise TrainingError(f"{missing} of {len(examples)} rows do not say what {model} cost: it is not zero")
    return quality, cost


def _fit(
    rows: Matrix, quality: Floats, cost: Floats, settings: tuple[int, float, int]
) -> dict[str, NDArray[np.generic]]:
    count, prior_rows, seed = settings
    members, centroids = fit_clusters(rows, count=min(count, rows.shape[0]), seed=seed)
    return {
        "centroids": centroids.T.astype(np.float16),
        "quality": _means(quality, members, prior_rows).astype(np.float32),
        "cost": _means(cost, members, prior_rows).astype(np.float32),
    }


def _means(values: Floats, members: NDArray[np.intp], prior_rows: float) -> Floats:
    counts = np.bincount(members)
    sums = np.zeros((len(counts), values.shape[1]))
    np.add.at(sums, members, values)
    return (sums + prior_rows * values.mean(axis=0)) / (counts[:, None] + prior_rows)


def _left_out(
    examples: Sequence[Example],
    models: tuple[str, ...],
    embedder: PromptEmbedder,
    fitted: Sequence[tuple[Mapping[str, NDArray[np.generic]], NDArray[np.intp]]],
    nearest: int,
) -> tuple[ClusterScores, ...]:
    scores: dict[int, ClusterScores] = {}
    for arrays, fold in fitted:
        centroids, quality, cost = (arrays[name].astype(np.float32) for name in ("centroids", "quality", "cost"))
        score = Clusters(models, centroids, quality, cost, nearest=nearest, buckets=embedder.buckets)
        for row in map(int, fold):
            scores[row] = score(embedder.embed(examples[row].prompt))
    return tuple(scores[row] for row in range(len(examples)))


def _best_quality(scores: Sequence[ClusterScores], quality: Floats, models: tuple[str, ...]) -> float:
    chosen = [models.index(each.ranked(1.0)[0]) for each in scores]
    return float(quality[np.arange(len(chosen)), chosen].mean())
