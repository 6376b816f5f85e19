"""WinRate's matrix factorisation: models and prompts in one space, fitted to comparisons of any two models.

The score of model M for a prompt q is delta(M, q) = w2 . (v_M o (W1^T q + b)), where o multiplies number by number,
and P(A beats B | q) = sigmoid(delta(A, q) - delta(B, q)). Every comparison of the data teaches W1 and b, also of models
that no policy routes between; for two models it collapses to a plane. Source: RouteLLM, arXiv 2406.18665, section 4.2.
"""
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import optimize, special
from threadpoolctl import threadpool_limits

from .fitting import Floats, Matrix, Plane

_sigmoid: Any = special.expit
_INITIAL_SCALE = 0.1
_ITERATIONS = 60


@dataclass(frozen=True, slots=True)
class Factorisation:
    """The numbers of the model, of `rank` dimensions."""

    vectors: Floats
    """v, shape (models, rank)."""
    projection: Floats
    """W1, shape (dims, rank)."""
    offset: Floats
    """b, shape (rank,)."""
    readout: Floats
    """w2, shape (rank,)."""

    def deltas(self, rows: Matrix) -> Floats:
        """delta of each prompt and model, shape (rows, models)."""
        return (rows @ self.projection + self.offset) @ (self.readout * self.vectors).T

    def collapsed(self, weak: int, strong: int) -> Plane:
        """The plane x -> delta(strong, x) - delta(weak, x) of two models, which costs a router one product."""
        direction = self.readout * (self.vectors[strong] - self.vectors[weak])
        return Plane(self.projection @ direction, float(self.offset @ direction))


def fit_factorisation(rows: Matrix, quality: Floats, *, rank: int, penalty: float, seed: int) -> Factorisation:
    """The factorisation of least mean cross entropy of all comparisons, and `penalty` x |numbers|^2 / (2 x rows).

    `quality` has the shape (rows, models) and is NaN where a model did not answer. A comparison's target is the share
    of wins, (1 + quality of A - quality of B) / 2.
    """
    shapes = Shapes(rows.shape[1], quality.shape[1], rank)
    comparisons = list(comparisons_of(quality))

    def loss(numbers: Floats) -> tuple[float, Floats]:
        return loss_and_gradient(shapes.parted(numbers), rows, comparisons, penalty / rows.shape[0])

    start = np.random.default_rng(seed).normal(scale=_INITIAL_SCALE, size=shapes.size)
    minimize: Any = optimize.minimize
    with threadpool_limits(1):  # on a busy machine threads wait for each other longer than they work
        found = minimize(loss, start, jac=True, method="L-BFGS-B", options={"maxiter": _ITERATIONS})
    return shapes.parted(np.asarray(found.x, np.float64))


@dataclass(frozen=True, slots=True)
class Comparison:
    """Of two models, over the rows that both answered."""

    first: int
    second: int
    known: NDArray[np.bool_]
    targets: Floats
    """Of the rows that are known."""


def comparisons_of(quality: Floats) -> Iterator[Comparison]:
    """Of every two models that have a row in common."""
    for first, second in combinations(range(quality.shape[1]), 2):
        gaps = quality[:, first] - quality[:, second]
        known = np.isfinite(gaps)
        if known.any():
            yield Comparison(first, second, known, (1 + gaps[known]) / 2)


@dataclass(frozen=True, slots=True)
class Shapes:
    """How many numbers a factorisation has."""

    dims: int
    models: int
    rank: int

    @property
    def size(self) -> int:
        """All of them."""
        return (self.models + self.dims + 2) * self.rank

    def parted(self, numbers: Floats) -> Factorisation:
        """The model whose numbers are the rows of one matrix: vectors, projection, offset, readout."""
        matrix = numbers.reshape(-1, self.rank)
        vectors, projection, ends = np.split(matrix, (self.models, self.models + self.dims))
        return Factorisation(vectors, projection, ends[0], ends[1])


def loss_and_gradient(
    model: Factorisation, rows: Matrix, comparisons: Sequence[Comparison], penalty: float
) -> tuple[float, Floats]:
    """The loss of `fit_factorisation`, and its gradient in the order of `Shapes.parted`."""
    prompts = rows @ model.projection + model.offset
    readouts = model.readout * model.vectors
    deltas = prompts @ readouts.T
    by_delta = np.zeros_like(deltas)
    count = sum(each.targets.size for each in comparisons)
    entropy = 0.0
    for each in comparisons:
        logits = deltas[each.known, each.first] - deltas[each.known, each.second]
        entropy += float((np.logaddexp(0, logits) - each.targets * logits).sum()) / count
        slopes = (_sigmoid(logits) - each.targets) / count
        by_delta[each.known, each.first] += slopes
        by_delta[each.known, each.second] -= slopes
    by_prompt, by_readout = by_delta @ readouts, by_delta.T @ prompts
    parts = (
        by_readout * model.readout + penalty * model.vectors,
        rows.T @ by_prompt + penalty * model.projection,
        by_prompt.sum(axis=0, keepdims=True) + penalty * model.offset,
        (by_readout * model.vectors).sum(axis=0, keepdims=True) + penalty * model.readout,
    )
    numbers = (model.vectors, model.projection, model.offset, model.readout)
    squares = sum(float(np.square(each).sum()) for each in numbers)
    return entropy + penalty * squares / 2, np.concatenate(parts).ravel()
