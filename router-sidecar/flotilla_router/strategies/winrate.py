"""WinRate: the probability that the strong model's answer wins. Source: RouteLLM, arXiv 2406.18665, section 4.2."""

from __future__ import annotations

import math
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from flotilla_router.embedders.embedding import Embedding, Projection

MAX_PROTOTYPES = 500
"""More do not fit the time of a decision."""


class Probability(Protocol):
    """What a strategy for two models asks of a scorer."""

    def __call__(self, embedding: Embedding) -> float:
        """In [0, 1]."""
        ...


class Linear:
    """sigmoid(w . x + b); matrix factorisation too, once it is collapsed for a pair of models."""

    __slots__ = ("_bias", "_project")

    def __init__(self, weights: NDArray[np.floating], bias: float, buckets: int) -> None:
        """`weights` has the shape (dims,)."""
        self._project = Projection(weights, buckets)
        self._bias = bias

    def __call__(self, embedding: Embedding) -> float:
        """The probability."""
        return sigmoid(float(self._project(embedding)) + self._bias)


class SimilarityWeighted:
    """The Bradley-Terry estimate from labelled prototypes, each weighing count x gamma^(1 + similarity).

    The similarity is the cosine over the largest cosine. For two models the weighted maximum likelihood,
    sigmoid(xi_strong - xi_weak), is the weighted mean of the outcomes. Source: section 4.2.
    """

    __slots__ = ("_counts", "_log_gamma", "_outcomes", "_project")

    def __init__(
        self,
        prototypes: NDArray[np.floating],
        outcomes: NDArray[np.floating],
        counts: NDArray[np.floating],
        *,
        gamma: float,
        buckets: int,
    ) -> None:
        """`prototypes` has the shape (dims, prototypes), its columns norm 1; an outcome is 1 where strong won."""
        self._project = Projection(prototypes, buckets)
        self._outcomes = outcomes.astype(np.float32)
        self._counts = counts.astype(np.float32)
        self._log_gamma = math.log(gamma)

    def __call__(self, embedding: Embedding) -> float:
        """The probability; that of all prototypes together where none is similar."""
        cosines = self._project(embedding)
        largest = float(cosines.max())
        weights = self._counts
        if largest > 0:
            weights = weights * np.exp(np.maximum(cosines, -largest) / largest * self._log_gamma)
        return float(weights @ self._outcomes) / float(weights.sum())


def sigmoid(logit: float) -> float:
    """1 / (1 + e^-logit), with no overflow."""
    if logit >= 0:
        return 1 / (1 + math.exp(-logit))
    power = math.exp(logit)
    return power / (1 + power)


def score(probability: float) -> float:
    """Of `probability` that the strong model wins: the score itself."""
    return probability
