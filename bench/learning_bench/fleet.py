"""Nine models and the six small ones among them: quality and cost of clusters, and of simpler ways to choose."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import cast

import numpy as np
from numpy.typing import NDArray

from flotilla_learning.choices import ALPHAS, Table, chosen, table_of
from flotilla_learning.clusters import ClusterOptions
from flotilla_learning.datasets import Example
from flotilla_learning.fitting import Matrix, embed_all, fit_logistic, fit_ridge, unit_rows
from flotilla_learning.metrics import Interval, resampled, weighted_means
from flotilla_learning.splits import folds
from flotilla_learning.training import DEFAULT_BITS, TrainingOptions, train
from flotilla_router.embedders import Embedder
from flotilla_router.strategies.scores import ClusterScores
from learning_bench.embedders import BOTH, HASHED, embedders, hashed
from learning_bench.pairs import joint, loaded
from learning_bench.sets import Split, prices

Floats = NDArray[np.float64]
Predict = Callable[[Matrix, Floats, Matrix], Floats]
"""Of rows and their models' quality, and of other rows: a number for each of those and each model, the best highest."""
SMALL_USD = 0.5
COST_BOUND = 0.6
RESAMPLES = 300
SMALL, NINE = "Cluster, the six of 7 to 9 B", f"Cluster, all nine, at most {COST_BOUND} of the cost"


@dataclass(frozen=True, slots=True)
class Routed:
    """What one split gives, over resamples: quality, share of the lead recovered, cost by the best large model's."""

    quality: Floats
    recovered: Floats
    cost_ratio: Floats
    by_folds: Floats | None
    """Quality of the training rows, each chosen for by the fold that leaves it out."""


@dataclass(frozen=True, slots=True)
class Columns:
    """The place among `models` of the one that is chosen for each row."""

    models: tuple[str, ...]
    test: NDArray[np.intp]
    left_out: NDArray[np.intp] | None = None
    """For each training row, by the fold that leaves it out; None: there is nothing to train."""


@dataclass(frozen=True, slots=True)
class Figures:
    """Over all splits."""

    quality: Interval
    recovered: Interval
    cost_ratio: Interval
    by_folds: Interval | None


def best_of(rows: Sequence[Example], models: Sequence[str]) -> str:
    """By the training rows."""
    return max(models, key=lambda model: sum(row.outcomes[model].quality for row in rows))


def clusters(models: tuple[str, ...], embedder: Embedder) -> TrainingOptions:
    """What is trained."""
    options = ClusterOptions(counts=(64,), nearest=(1, 3))
    return TrainingOptions("Cluster", models, embedder, clusters=options)


def choose_clusters(
    split: Split, models: tuple[str, ...], embedder: Embedder, *, bound: float | None = None
) -> Columns:
    """At the alpha that rows left out of training choose."""
    trained = train(split.train, clusters(models, embedder))
    artifact = loaded(trained)
    left_out = [cast("ClusterScores", each) for each in trained.held_out]
    alpha = choose_alpha(left_out, trained.examples, models, bound)
    judged = [cast("ClusterScores", artifact.judge(row.prompt)) for row in split.test]
    return Columns(models, chosen(judged, alpha, models), chosen(left_out, alpha, models))


def choose_alpha(
    scores: Sequence[ClusterScores], rows: Sequence[Example], models: tuple[str, ...], bound: float | None
) -> float:
    """The one of the best quality; with a bound, among those that cost no more than that share of the best model."""
    table = table_of(rows, models)
    at = np.arange(len(scores))
    limit = np.inf if bound is None else bound * table.usd[:, models.index(best_of(rows, models))].mean()
    best, found = -1.0, 0.0
    for alpha in ALPHAS:
        columns = chosen(scores, alpha, models)
        quality = float(table.quality[at, columns].mean())
        if quality > best and table.usd[at, columns].mean() <= limit:
            best, found = quality, alpha
    return found


def choose_by(split: Split, models: tuple[str, ...], predict: Predict) -> Columns:
    """The model that a simpler method says is the best, on the default's embeddings."""
    embedder = hashed(DEFAULT_BITS["Clusters"])
    rows, others = (embed_all(embedder, [row.prompt for row in part]) for part in (split.train, split.test))
    quality = table_of(split.train, models).quality
    left_out = np.empty(len(split.train), np.intp)
    for rest, fold in folds(split.train, count=5, seed=0):
        left_out[fold] = predict(rows[rest], quality[rest], rows[fold]).argmax(axis=1)
    return Columns(models, predict(rows, quality, others).argmax(axis=1), left_out)


def predict_planes(rows: Matrix, quality: Floats, others: Matrix) -> Floats:
    """A ridge regression for each model's quality."""
    return np.stack([fit_ridge(rows, each, penalty=25.0)(others) for each in quality.T], axis=1)


def predict_logistic(rows: Matrix, quality: Floats, others: Matrix) -> Floats:
    """A logistic regression for each; a quality of 0.3 counts as three tenths of a right answer."""
    return np.stack([fit_logistic(rows, each, penalty=1.0)(others) for each in quality.T], axis=1)


def predict_neighbours(rows: Matrix, quality: Floats, others: Matrix) -> Floats:
    """Each model's mean quality on the 50 most similar prompts."""
    similar = cast("Floats", (unit_rows(others) @ unit_rows(rows).T).toarray())
    return quality[np.argsort(-similar, axis=1)[:, :50]].mean(axis=1)


def route(split: Split, *, seed: int) -> dict[str, Routed]:
    """Every way to choose, on one split; single models are those that did best on the training rows."""
    models = tuple(split.train[0].outcomes)
    usd = prices()
    small = tuple(model for model in models if usd[model][0] < SMALL_USD)
    large = tuple(model for model in models if model not in small)
    lead = best_of(split.train, small), best_of(split.train, large)
    by_embedder = embedders(DEFAULT_BITS["Clusters"])
    ways = {
        SMALL: choose_clusters(split, small, by_embedder[HASHED]),
        **{
            f"the six, {name}": choose_clusters(split, small, each)
            for name, each in by_embedder.items()
            if name != HASHED
        },
        "the six, a ridge regression each": choose_by(split, small, predict_planes),
        "the six, a logistic regression each": choose_by(split, small, predict_logistic),
        "the six, 50 nearest neighbours": choose_by(split, small, predict_neighbours),
        NINE: choose_clusters(split, models, by_embedder[HASHED], bound=COST_BOUND),
        "all nine, the same beside word vectors": choose_clusters(split, models, by_embedder[BOTH], bound=COST_BOUND),
        "best small model": Columns(lead[:1], np.zeros(len(split.test), np.intp)),
        "best large model": Columns(lead[1:], np.zeros(len(split.test), np.intp)),
        "oracle of the six": Columns(small, _oracle(table_of(split.test, small))),
        "oracle of the nine": Columns(models, _oracle(table_of(split.test, models))),
    }
    return {name: measured(split, columns, lead, seed=seed) for name, columns in ways.items()}


def _oracle(table: Table) -> NDArray[np.intp]:
    """The best answer, of equals the cheapest."""
    return np.lexsort((table.usd, -table.quality), axis=1)[:, 0]


def measured(split: Split, columns: Columns, lead: tuple[str, str], *, seed: int) -> Routed:
    """`lead` is the best small model and the best large one."""
    table = table_of(split.test, columns.models)
    weights = resampled(table.groups, seed=seed, resamples=RESAMPLES)
    at = np.arange(len(columns.test))
    quality = weighted_means(table.quality[at, columns.test], weights)
    cost = weighted_means(table.usd[at, columns.test], weights)
    ends = table_of(split.test, lead)
    low, high = (weighted_means(each, weights) for each in ends.quality.T)
    dear = weighted_means(ends.usd[:, 1], weights)
    return Routed(quality, (quality - low) / (high - low), cost / dear, _by_folds(split, columns, seed))


def _by_folds(split: Split, columns: Columns, seed: int) -> Floats | None:
    if columns.left_out is None:
        return None
    table = table_of(split.train, columns.models)
    answered = table.quality[np.arange(len(columns.left_out)), columns.left_out]
    return weighted_means(answered, resampled(table.groups, seed=seed, resamples=RESAMPLES))


def joined(splits: Sequence[Routed]) -> Figures:
    """Means over splits, and the joint spread."""
    by_folds = [each.by_folds for each in splits if each.by_folds is not None]
    return Figures(
        joint([each.quality for each in splits]),
        joint([each.recovered for each in splits]),
        joint([each.cost_ratio for each in splits]),
        joint(by_folds) if by_folds else None,
    )
