"""What is compared on MMLU, on prompts that nobody trained on and on folds of the training rows, which alone choose."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import cast

import numpy as np

from flotilla_learning.datasets import Example
from flotilla_learning.metrics import pair_of
from flotilla_learning.training import DEFAULT_BITS, TrainingOptions, train
from flotilla_router.strategies.scores import PairScore
from learning_bench.embedders import BOTH, HASHED, embedders, hashed
from learning_bench.pairs import (
    MODELS,
    Fit,
    Floats,
    Replicates,
    crossvalidated,
    fit_classifier,
    fit_length,
    fit_neighbours,
    fit_oracle,
    loaded,
    scores_of,
    win_rate,
)
from learning_bench.sets import Split, sample
from slice_bench.progress import Stage

OURS, WITH_VECTORS = f"WinRate, linear: {HASHED}", f"WinRate, linear: {BOTH}"
LENGTH, ORACLE, SIMILARITY = "prompt length alone", "oracle", "WinRate, similarity-weighted"
Rows = Sequence[Example]
Contender = Callable[[Rows, Rows], tuple[Floats, Floats]]
"""Trains on the first rows: the scores of each of them, by the fold that leaves it out, and of the second rows."""


@dataclass(frozen=True, slots=True)
class Standing:
    """How one of them does."""

    test: Replicates = field(default_factory=Replicates)
    folds: Replicates = field(default_factory=Replicates)
    """Of the training rows."""


def contenders() -> dict[str, Contender]:
    """Strategies and embedders that can be served, and simple baselines."""
    few = hashed(DEFAULT_BITS["SimilarityWeighted"])
    options = {
        **{f"WinRate, linear: {name}": win_rate(each) for name, each in embedders().items()},
        "WinRate, matrix factorisation": replace(win_rate(), plane="Factorised"),
        SIMILARITY: replace(win_rate(few), scorer="SimilarityWeighted"),
        "QualityGap, linear": replace(win_rate(), strategy="QualityGap"),
    }
    return {
        **{name: _served(each) for name, each in options.items()},
        "k nearest neighbours": _baseline(fit_neighbours),
        "logistic regression": _baseline(fit_classifier),
        LENGTH: _baseline(fit_length),
        ORACLE: _baseline(fit_oracle),
    }


def _served(options: TrainingOptions) -> Contender:
    def scores(rows: Rows, others: Rows) -> tuple[Floats, Floats]:
        trained = train(rows, options)
        left_out = np.array([cast("PairScore", each).score for each in trained.held_out])
        return left_out, scores_of(loaded(trained), others)

    return scores


def _baseline(fit: Fit) -> Contender:
    return lambda rows, others: (crossvalidated(rows, fit, seed=0), fit(rows, others))


def contest(stage: Stage, splits: Sequence[Split], labels: int) -> Mapping[str, Standing]:
    """Each with so many labels of every split."""
    compared = contenders()
    done = stage("MMLU", len(compared) * len(splits))
    found = {name: Standing() for name in compared}
    for number, split in enumerate(splits):
        rows = sample(split.train, labels, seed=0)
        pair, left_out = pair_of(split.test, *MODELS), pair_of(rows, *MODELS)
        for position, (name, contender) in enumerate(compared.items(), 1):
            by_folds, scores = contender(rows, split.test)
            found[name].folds.add(by_folds, left_out, seed=number)
            found[name].test.add(scores, pair, seed=number)
            done(number * len(compared) + position)
    return found
