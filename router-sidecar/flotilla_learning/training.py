"""A strategy trained on rows of outcomes: the arrays that a router scores with, and a score of every row.

What is chosen (a penalty, a number of clusters) is chosen by folds of the given rows, parted by group. The scores that
calibrate, and that drift is measured against, are of rows that were not trained on: each row's from the fold that
leaves it out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from flotilla_api.artifact import EmbedderOptions, LearnedStrategy, MonotoneMap, ScorerName, ScorerSpec
from flotilla_router.embedders import Embedder, make_embedder
from flotilla_router.strategies.scores import PairScore, Scores

from .clusters import ClusterOptions, fit_voters
from .datasets import Example
from .errors import TrainingError
from .fitting import PromptEmbedder
from .labels import Answers, GapLabel, gap_labels, win_rate
from .pairs import Arrays, Floats, fit_factorised, fit_linear, fit_similarity, probability_map

__all__ = ["DEFAULT_EMBEDDER", "Trained", "TrainingError", "TrainingOptions", "default_embedder", "train"]

PlaneFit = Literal["Ridge", "Factorised"]
DEFAULT_EMBEDDER = EmbedderOptions(pairs=False, grams=(5,), surface=True, surfaceScale=3.0)
"""Words, runs of five characters and what the text looks like: docs/benchmarks.md shows the folds that chose them."""


DEFAULT_BITS: Mapping[ScorerName, int] = {"Linear": DEFAULT_EMBEDDER.bits, "SimilarityWeighted": 10, "Clusters": 12}
"""By scorer: each of 500 prototypes or 64 centroids has a number of every bucket, and a ConfigMap should hold them."""


def default_embedder() -> Embedder:
    """Hashed n-grams, which need no table."""
    return make_embedder("Hashed", DEFAULT_EMBEDDER)


@dataclass(frozen=True, slots=True)
class TrainingOptions:
    """What to train."""

    strategy: LearnedStrategy
    models: tuple[str, ...]
    """WinRate and QualityGap: the weak model and the strong one."""
    embedder: PromptEmbedder
    scorer: ScorerName = "Linear"
    """WinRate and QualityGap only; Cluster has but one."""
    label: GapLabel = "Prob"
    """QualityGap only."""
    seed: int = 0
    clusters: ClusterOptions = field(default_factory=ClusterOptions)
    """Cluster only."""
    plane: PlaneFit = "Ridge"
    """Linear only; Factorised is RouteLLM's matrix factorisation, and WinRate's only."""


@dataclass(frozen=True, slots=True)
class Trained:
    """What `packing.pack` makes an artifact of."""

    options: TrainingOptions
    scorer: ScorerSpec
    arrays: Arrays
    examples: tuple[Example, ...]
    """The rows that it was trained on: those with an outcome of every model."""
    held_out: tuple[Scores, ...]
    """What each of those rows scores where it was left out, as a router would say it."""
    skipped: int
    """Rows that lack an outcome."""
    probability: MonotoneMap | None = None
    """What makes probabilities of the scorer's scores; None: they are."""


def train(examples: Sequence[Example], options: TrainingOptions) -> Trained:
    """The same rows and options always give the same.

    Raises:
        TrainingError: there is too little to learn from.
    """
    if options.plane == "Factorised" and (options.strategy, options.scorer) != ("WinRate", "Linear"):
        raise TrainingError("matrix factorisation gives WinRate a Linear scorer, and nothing else")
    used = tuple(row for row in examples if all(model in row.outcomes for model in options.models))
    if len({row.group or row.id for row in used}) < 2:
        names = ", ".join(options.models)
        raise TrainingError(f"{len(used)} of {len(examples)} rows have outcomes of {names}: two that differ are needed")
    if options.strategy == "Cluster":
        voters = fit_voters(used, options.models, options.embedder, options.clusters, seed=options.seed)
        return Trained(options, voters.scorer, voters.arrays, used, voters.held_out, len(examples) - len(used))
    return _train_pair(used, options, len(examples) - len(used))


def _train_pair(examples: tuple[Example, ...], options: TrainingOptions, skipped: int) -> Trained:
    if len(options.models) != 2:
        raise TrainingError(f"{options.strategy} chooses between two models: a weak one and a strong one")
    weak, strong = options.models
    targets = pair_targets(examples, options)
    if options.plane == "Factorised":
        fitted = fit_factorised(examples, targets, options.embedder, (weak, strong), seed=options.seed)
    else:
        fit = fit_linear if options.scorer == "Linear" else fit_similarity
        fitted = fit(examples, targets, options.embedder, seed=options.seed)
    wins = options.strategy == "WinRate"
    scores, hard = (fitted.held_out, targets) if wins else (1 - fitted.held_out, 1 - targets)
    probability = probability_map(scores, hard) if options.scorer == "SimilarityWeighted" else None
    if probability is not None:
        scores = np.interp(scores, probability.x, probability.y)
    held_out = tuple(PairScore(weak, strong, float(score)) for score in scores)
    return Trained(options, fitted.scorer, fitted.arrays, examples, held_out, skipped, probability)


def pair_targets(examples: Sequence[Example], options: TrainingOptions) -> Floats:
    """What the scorer should say of each row, in [0, 1]; rows of one prompt are several answers to it."""
    rows_of: dict[str, list[int]] = {}
    for position, example in enumerate(examples):
        rows_of.setdefault(example.prompt, []).append(position)
    answers = [_answers([examples[row] for row in rows], options.models) for rows in rows_of.values()]
    if options.strategy == "WinRate":
        labels = np.array([win_rate(weak, strong) for weak, strong in answers])
    else:
        labels = gap_labels(answers, options.label)
    targets = np.empty(len(examples))
    for rows, label in zip(rows_of.values(), labels, strict=True):
        targets[rows] = label
    return targets


def _answers(rows: Sequence[Example], models: tuple[str, ...]) -> Answers:
    weak, strong = (np.array([row.outcomes[model].quality for row in rows]) for model in models)
    return weak, strong
