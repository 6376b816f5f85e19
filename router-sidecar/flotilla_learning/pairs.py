"""Scorers of two models: the probability that a row's target is 1, as the router computes it."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from flotilla_api.artifact import MAX_ARTIFACT_BYTES, MonotoneMap, ScorerOptions, ScorerSpec
from flotilla_router.strategies.winrate import MAX_PROTOTYPES, SimilarityWeighted

from .datasets import Example
from .errors import TrainingError
from .factorisation import fit_factorisation
from .fitting import Matrix, Plane, PromptEmbedder, embed_all, fit_clusters, fit_platt, fit_ridge, unit_rows
from .splits import folds

Floats = NDArray[np.float64]
Arrays = Mapping[str, NDArray[np.generic]]
FOLDS = 5
Kept = NDArray[np.intp]
RANK = 4
FACTOR_PENALTIES = (2.0, 5.0)
PENALTIES = (5.0, 12.0, 25.0, 50.0)
GAMMAS = (10.0, 100.0, 1_000.0, 10_000.0)
_MAP_POINTS = 65
_SURE = 1e-3
"""Scores this near to 0 and 1 have the log-odds of those that are so near."""


@dataclass(frozen=True, slots=True)
class PairFit:
    """A scorer's arrays, and the probability of each row where it was left out."""

    scorer: ScorerSpec
    arrays: Arrays
    held_out: Floats


@dataclass(frozen=True, slots=True)
class _Planes:
    """A way to fit planes to some of the rows."""

    rows: Matrix
    fit: Callable[[Kept, float], Plane]
    """Given the rows' positions and a penalty."""
    penalties: Sequence[float]
    link: Callable[[Floats], Floats]
    """What makes an estimate of the target of a plane's height."""


def fit_linear(examples: Sequence[Example], targets: Floats, embedder: PromptEmbedder, *, seed: int) -> PairFit:
    """sigmoid(w . x + b), where w is that of ridge regression: it ranks by the target's mean."""
    rows = embed_all(embedder, [example.prompt for example in examples])

    def fit(kept: Kept, penalty: float) -> Plane:
        return fit_ridge(rows[kept], targets[kept], penalty=penalty)

    return _fit_plane(examples, targets, _Planes(rows, fit, PENALTIES, lambda height: height), seed)


def fit_factorised(
    examples: Sequence[Example], targets: Floats, embedder: PromptEmbedder, models: tuple[str, str], *, seed: int
) -> PairFit:
    """The plane that matrix factorisation collapses to for the pair; all models of the rows teach it.

    Source: RouteLLM, arXiv 2406.18665, section 4.2.
    """
    rows = embed_all(embedder, [example.prompt for example in examples])
    others = sorted({model for example in examples for model in example.outcomes} - set(models))
    quality = np.array([_qualities(example, (*models, *others)) for example in examples])

    def fit(kept: Kept, penalty: float) -> Plane:
        return fit_factorisation(rows[kept], quality[kept], rank=RANK, penalty=penalty, seed=seed).collapsed(0, 1)

    return _fit_plane(examples, targets, _Planes(rows, fit, FACTOR_PENALTIES, _sigmoid), seed)


def _qualities(example: Example, models: Sequence[str]) -> list[float]:
    return [example.outcomes[model].quality if model in example.outcomes else math.nan for model in models]


def _fit_plane(examples: Sequence[Example], targets: Floats, planes: _Planes, seed: int) -> PairFit:
    """sigmoid(A w . x + B), with the penalty that did best on rows left out.

    A and B make probabilities of the ranking, from rows left out.
    """
    penalty, predicted = _choose(
        planes.penalties, targets, lambda value: _left_out(examples, planes, value, seed), planes.link
    )
    slope, bias = fit_platt(predicted, targets)
    plane = planes.fit(np.arange(len(examples)), penalty)
    arrays = {
        "weights": (slope * plane.weights).astype(np.float16),
        "bias": np.array([slope * plane.bias + bias], np.float32),
    }
    return PairFit(ScorerSpec(name="Linear"), arrays, _sigmoid(slope * predicted + bias))


def _sigmoid(logits: Floats) -> Floats:
    return np.exp(-np.logaddexp(0, -logits))


def _left_out(examples: Sequence[Example], planes: _Planes, penalty: float, seed: int) -> Floats:
    predicted = np.empty(len(examples))
    for rest, fold in folds(examples, count=FOLDS, seed=seed):
        predicted[fold] = planes.fit(rest, penalty)(planes.rows[fold])
    return predicted


def fit_similarity(examples: Sequence[Example], targets: Floats, embedder: PromptEmbedder, *, seed: int) -> PairFit:
    """Prototypes, the centroids of groups of similar rows, each with its rows' mean target and their number.

    Raises:
        TrainingError: so many prototypes of this embedder are more than an artifact may hold.
    """
    count = min(MAX_PROTOTYPES, max(len(examples) // 4, 1))
    if embedder.dims * count * 2 > MAX_ARTIFACT_BYTES * 3 // 4:
        raise TrainingError(f"{count} prototypes of {embedder.dims} numbers are too large: take fewer buckets (--bits)")
    rows = unit_rows(embed_all(embedder, [example.prompt for example in examples]))
    arrays = [
        _prototypes(rows[rest], targets[rest], count, seed) for rest, _ in folds(examples, count=FOLDS, seed=seed)
    ]

    def left_out(gamma: float) -> Floats:
        predicted = np.empty(len(targets))
        for made, (_, fold) in zip(arrays, folds(examples, count=FOLDS, seed=seed), strict=True):
            score = _scorer(made, gamma, embedder)
            predicted[fold] = [score(embedder.embed(examples[row].prompt)) for row in map(int, fold)]
        return predicted

    gamma, held_out = _choose(GAMMAS, targets, left_out)
    options = ScorerOptions(gamma=gamma)
    whole = _prototypes(rows, targets, count, seed)
    # Of weights in float32 a mean of ones may be a little more than 1.
    return PairFit(ScorerSpec(name="SimilarityWeighted", options=options), whole, np.clip(held_out, 0.0, 1.0))


def probability_map(scores: Floats, targets: Floats) -> MonotoneMap | None:
    """sigmoid(A log-odds(score) + B), at 65 places from 0 to 1; None: the targets or the scores tell nothing."""
    slope, bias = fit_platt(_log_odds(scores), targets)
    if slope == 0:
        return None
    x = np.linspace(0.0, 1.0, _MAP_POINTS)
    y = _sigmoid(slope * _log_odds(x) + bias)
    return MonotoneMap(x=tuple(map(float, x)), y=tuple(map(float, y)))


def _log_odds(scores: Floats) -> Floats:
    inside = np.clip(scores, _SURE, 1.0 - _SURE)
    return np.log(inside) - np.log1p(-inside)


def _prototypes(rows: Matrix, targets: Floats, count: int, seed: int) -> dict[str, NDArray[np.generic]]:
    members, centroids = fit_clusters(rows, count=min(count, rows.shape[0]), seed=seed)
    counts = np.bincount(members)
    return {
        "prototypes": unit_rows(centroids).T.astype(np.float16),
        "outcomes": (np.bincount(members, targets) / counts).astype(np.float32),
        "counts": counts.astype(np.float32),
    }


def _scorer(arrays: Mapping[str, NDArray[np.generic]], gamma: float, embedder: PromptEmbedder) -> SimilarityWeighted:
    prototypes, outcomes, counts = (arrays[name].astype(np.float32) for name in ("prototypes", "outcomes", "counts"))
    return SimilarityWeighted(prototypes, outcomes, counts, gamma=gamma, buckets=embedder.buckets)


def _choose(
    values: Sequence[float],
    targets: Floats,
    predict: Callable[[float], Floats],
    link: Callable[[Floats], Floats] = lambda predicted: predicted,
) -> tuple[float, Floats]:
    """The value whose predictions of rows left out have, linked, the least squared error, and those predictions."""
    predictions = [predict(value) for value in values]
    errors = [float(np.square(link(each) - targets).mean()) for each in predictions]
    best = int(np.argmin(errors))
    return values[best], predictions[best]
