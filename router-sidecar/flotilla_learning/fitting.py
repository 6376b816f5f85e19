"""What is fitted to embeddings: ridge and logistic regression, and k-means, by scikit-learn.

The only module that touches scikit-learn, whose types are not known to a type checker.
"""
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
# pyright: reportUnknownParameterType=false, reportMissingTypeArgument=false

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol, cast

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_matrix, hstack
from sklearn.cluster import MiniBatchKMeans
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.preprocessing import normalize
from threadpoolctl import threadpool_limits

from flotilla_router.embedders import Embedding

Floats = NDArray[np.float64]
_LEAST_PENALTY = 1e-6
"""Of the two numbers that make a probability of a score: as good as none."""
_SURE_LOG_ODDS = 7.0
"""Of what always or never happened in the rows: a thousand to one."""
Matrix = Any
"""scipy's csr_matrix, shape (rows, dims)."""


class PromptEmbedder(Protocol):
    """What makes numbers of prompts: in the router itself, or by an encoder elsewhere."""

    @property
    def dims(self) -> int:
        """Length of an embedding."""
        ...

    @property
    def buckets(self) -> int:
        """Length of its sparse part."""
        ...

    def embed(self, text: str) -> Embedding:
        """The same numbers for the same first and last 512 characters."""
        ...


@dataclass(frozen=True, slots=True)
class Plane:
    """x -> weights . x + bias."""

    weights: Floats
    bias: float

    def __call__(self, rows: Matrix) -> Floats:
        """Of each row."""
        return cast("Floats", rows @ self.weights + self.bias)


def embed_all(embedder: PromptEmbedder, prompts: Sequence[str]) -> Matrix:
    """The embeddings of the prompts, as the router makes or gets them."""
    embedded = [embedder.embed(prompt) for prompt in prompts]
    ends = np.cumsum([0, *(len(each.indices) for each in embedded)])
    indices = np.concatenate([each.indices for each in embedded])
    values = np.concatenate([each.values for each in embedded])
    sparse = csr_matrix((values, indices, ends), shape=(len(embedded), embedder.buckets))
    return hstack([sparse, csr_matrix(np.stack([each.dense for each in embedded]))], format="csr")


def fit_ridge(rows: Matrix, targets: Floats, *, penalty: float) -> Plane:
    """Least squares with `penalty` x |weights|^2, of targets that may be fractions."""
    model: Any = Ridge(alpha=penalty, solver="lsqr", tol=1e-4).fit(rows, targets)
    return Plane(np.asarray(model.coef_, np.float64).ravel(), float(model.intercept_))


def fit_logistic(rows: Matrix, targets: Floats, *, penalty: float, balanced: bool = False) -> Plane:
    """Logistic regression; a target of 0.3 counts as three tenths of a 1 and seven of a 0."""
    ones = np.flatnonzero(targets > 0)
    zeros = np.flatnonzero(targets < 1)
    both = np.concatenate([ones, zeros])
    labels = np.repeat([1, 0], [len(ones), len(zeros)])
    shares = np.concatenate([targets[ones], 1 - targets[zeros]])
    weight = "balanced" if balanced else None
    model: Any = LogisticRegression(C=1 / penalty, max_iter=1000, class_weight=weight)
    model.fit(rows[both], labels, sample_weight=shares)
    return Plane(np.asarray(model.coef_, np.float64).ravel(), float(model.intercept_[0]))


def fit_platt(scores: Floats, targets: Floats) -> tuple[float, float]:
    """A and B, with which sigmoid(A score + B) is a probability; A is 0 where the scores tell nothing.

    Source: Platt, 1999.
    """
    mean = float(targets.mean())
    if not 0.0 < mean < 1.0:
        return 0.0, math.copysign(_SURE_LOG_ODDS, mean - 0.5)
    plane = fit_logistic(scores[:, None], targets, penalty=_LEAST_PENALTY)
    return max(float(plane.weights[0]), 0.0), plane.bias


def fit_clusters(rows: Matrix, *, count: int, seed: int) -> tuple[NDArray[np.intp], Floats]:
    """Each row's cluster, numbered from 0 without gaps, and the centroids, shape (clusters, dims)."""
    kmeans: Any = MiniBatchKMeans
    with threadpool_limits(1):  # its threads wait for each other more than they work, and on a busy machine for minutes
        model: Any = kmeans(n_clusters=count, random_state=seed, n_init=1, batch_size=1024).fit(rows)
    kept, members = np.unique(np.asarray(model.labels_), return_inverse=True)
    return members.astype(np.intp), np.asarray(model.cluster_centers_, np.float64)[kept]


def unit_rows(rows: Any) -> Any:
    """The rows, each of Euclidean norm 1; a row of zeros stays one."""
    return normalize(rows)
