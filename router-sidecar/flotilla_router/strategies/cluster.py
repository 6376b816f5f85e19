"""Cluster: the clusters nearest to a prompt vote for models. Source: Avengers-Pro, arXiv 2508.12631, section 2."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from flotilla_router.embedders.embedding import Embedding, Projection

from .scores import ClusterScores

MAX_CLUSTERS = 512


class Clusters:
    """Per cluster and model, p~ and q~: quality and cost, scaled so that the least is 0 and the largest 1."""

    __slots__ = ("_half_squares", "_models", "_nearest", "_project", "_quality", "_thrift")

    def __init__(
        self,
        models: tuple[str, ...],
        centroids: NDArray[np.floating],
        quality: NDArray[np.floating],
        cost: NDArray[np.floating],
        *,
        nearest: int,
        buckets: int,
    ) -> None:
        """`centroids` has the shape (dims, clusters); `quality` and `cost` have (clusters, models)."""
        self._models = models
        self._project = Projection(centroids, buckets)
        self._half_squares = (np.square(centroids.astype(np.float64)).sum(axis=0) / 2).astype(np.float32)
        self._quality = min_max(quality)
        self._thrift = 1 - min_max(cost)
        self._nearest = min(nearest, centroids.shape[1])

    def __call__(self, embedding: Embedding) -> ClusterScores:
        """The mean over the nearest clusters, which orders models as the paper's sum does, and stays in [0, 1]."""
        closeness = self._project(embedding) - self._half_squares
        nearest = np.argpartition(closeness, -self._nearest)[-self._nearest :]
        quality = self._quality[nearest].mean(axis=0)
        thrift = self._thrift[nearest].mean(axis=0)
        return ClusterScores(self._models, tuple(quality.tolist()), tuple(thrift.tolist()))


def min_max(values: NDArray[np.floating]) -> NDArray[np.float64]:
    """Each row scaled to [0, 1]; 0 throughout where all of a row are the same."""
    whole = values.astype(np.float64)
    least = whole.min(axis=1, keepdims=True)
    span = whole.max(axis=1, keepdims=True) - least
    return (whole - least) / np.where(span > 0, span, 1)
