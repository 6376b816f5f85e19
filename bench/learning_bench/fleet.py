"""Nine models and the six small ones among them: quality and cost of clusters, and of simpler ways to choose."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import cast

import numpy as np
from numpy.typing import NDArray

from flotilla_api.artifact import MANIFEST_FILE, EmbedderOptions, digest_of
from flotilla_learning.choices import ALPHAS, Table, chosen, table_of
from flotilla_learning.clusters import ClusterOptions
from flotilla_learning.datasets import Example
from flotilla_learning.fitting import Matrix, embed_all, fit_ridge, unit_rows
from flotilla_learning.metrics import Interval, resampled, weighted_means
from flotilla_learning.packing import pack
from flotilla_learning.training import TrainingOptions, train
from flotilla_router.artifact import load_artifact
from flotilla_router.embedders import make_embedder
from flotilla_router.strategies.scores import ClusterScores
from learning_bench.pairs import joint
from learning_bench.sets import Split, prices

Floats = NDArray[np.float64]
Choose = Callable[[Split, tuple[str, ...]], Floats]
"""Predicted quality of each test row's models, in [0, 1]."""
SMALL_USD = 0.5
COST_BOUND = 0.6
EMBEDDER = EmbedderOptions(bits=12, pairs=False, grams=(3, 4, 5), surface=True, surfaceScale=3.0)
RESAMPLES = 300
SMALL, NINE = "Cluster, the six of 7 to 9 B", f"Cluster, all nine, at most {COST_BOUND} of the cost"


@dataclass(frozen=True, slots=True)
class Routed:
    """What one split gives, over resamples: quality, share of the lead recovered, cost by the best large model's."""

    quality: Floats
    recovered: Floats
    cost_ratio: Floats


@dataclass(frozen=True, slots=True)
class Figures:
    """Over all splits."""

    quality: Interval
    recovered: Interval
    cost_ratio: Interval


def best_of(rows: Sequence[Example], models: Sequence[str]) -> str:
    """By the training rows."""
    return max(models, key=lambda model: sum(row.outcomes[model].quality for row in rows))


def clusters(models: tuple[str, ...]) -> TrainingOptions:
    """What is trained."""
    options = ClusterOptions(counts=(64,), nearest=(1, 3))
    return TrainingOptions("Cluster", models, make_embedder("Hashed", EMBEDDER), clusters=options)


def route_clusters(split: Split, models: tuple[str, ...], *, bound: float | None) -> NDArray[np.intp]:
    """Columns chosen for the test rows, at the alpha that rows left out of training choose."""
    trained = train(split.train, clusters(models))
    files = pack(trained)
    artifact = load_artifact(files, digest_of(files[MANIFEST_FILE]))
    held_out = [cast("ClusterScores", each) for each in trained.held_out]
    alpha = choose_alpha(held_out, trained.examples, models, bound)
    judged = [cast("ClusterScores", artifact.judge(row.prompt)) for row in split.test]
    return chosen(judged, alpha, models)


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


def predict_planes(split: Split, models: tuple[str, ...]) -> Floats:
    """A ridge regression for each model's quality."""
    train_rows, test_rows = _embedded(split)
    table = table_of(split.train, models)
    return np.stack(
        [fit_ridge(train_rows, table.quality[:, column], penalty=25.0)(test_rows) for column in range(len(models))],
        axis=1,
    )


def predict_neighbours(split: Split, models: tuple[str, ...]) -> Floats:
    """Each model's mean quality on the 50 most similar prompts."""
    train_rows, test_rows = _embedded(split)
    quality = table_of(split.train, models).quality
    similar = cast("Floats", (unit_rows(test_rows) @ unit_rows(train_rows).T).toarray())
    return quality[np.argsort(-similar, axis=1)[:, :50]].mean(axis=1)


def _embedded(split: Split) -> tuple[Matrix, Matrix]:
    train_rows, test_rows = ([row.prompt for row in part] for part in (split.train, split.test))
    embedder = make_embedder("Hashed", EMBEDDER)
    return embed_all(embedder, train_rows), embed_all(embedder, test_rows)


def route(split: Split, *, seed: int) -> dict[str, Routed]:
    """Every way to choose, on one split; single models are those that did best on the training rows."""
    models = tuple(split.train[0].outcomes)
    usd = prices()
    small = tuple(model for model in models if usd[model][0] < SMALL_USD)
    large = tuple(model for model in models if model not in small)
    lead = best_of(split.train, small), best_of(split.train, large)
    nine = table_of(split.test, models)
    at = {model: column for column, model in enumerate(models)}

    def measure(columns: NDArray[np.intp]) -> Routed:
        return measured(split, nine, columns, lead, seed=seed)

    six = table_of(split.test, small)
    small_columns = np.array([at[model] for model in small])
    return {
        SMALL: measure(small_columns[route_clusters(split, small, bound=None)]),
        NINE: measure(route_clusters(split, models, bound=COST_BOUND)),
        "the six, a ridge regression each": measure(small_columns[predict_planes(split, small).argmax(axis=1)]),
        "the six, 50 nearest neighbours": measure(small_columns[predict_neighbours(split, small).argmax(axis=1)]),
        "best small model": measure(np.full(len(split.test), at[lead[0]])),
        "best large model": measure(np.full(len(split.test), at[lead[1]])),
        "oracle of the six": measure(small_columns[_oracle(six)]),
        "oracle of the nine": measure(_oracle(nine)),
    }


def _oracle(table: Table) -> NDArray[np.intp]:
    """The best answer, of equals the cheapest."""
    return np.lexsort((table.usd, -table.quality), axis=1)[:, 0]


def measured(split: Split, table: Table, columns: NDArray[np.intp], lead: tuple[str, str], *, seed: int) -> Routed:
    """`lead` is the best small model and the best large one."""
    weights = resampled(table.groups, seed=seed, resamples=RESAMPLES)
    at = np.arange(len(columns))
    quality = weighted_means(table.quality[at, columns], weights)
    cost = weighted_means(table.usd[at, columns], weights)
    small, large = (np.array([row.outcomes[model].quality for row in split.test]) for model in lead)
    dear = np.array([row.outcomes[lead[1]].usd or 0.0 for row in split.test])
    low, high = weighted_means(small, weights), weighted_means(large, weights)
    return Routed(quality, (quality - low) / (high - low), cost / weighted_means(dear, weights))


def joined(splits: Sequence[Routed]) -> Figures:
    """Means over splits, and the joint spread."""
    return Figures(
        joint([each.quality for each in splits]),
        joint([each.recovered for each in splits]),
        joint([each.cost_ratio for each in splits]),
    )
