"""A prompt in numbers: a sparse part, hashed buckets, followed by a dense one."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

NONE_SPARSE = (np.zeros(0, np.intp), np.zeros(0, np.float32))
"""Indices and values of a vector without buckets."""


class Embedding(NamedTuple):
    """A vector of `buckets + len(dense)` numbers, of which only these are not zero."""

    indices: NDArray[np.intp]
    """Buckets, in rising order."""
    values: NDArray[np.float32]
    """Of those buckets."""
    dense: NDArray[np.float32]

    @property
    def norm(self) -> float:
        """Euclidean; 0 of a text without a word."""
        return float(np.sqrt(self.values @ self.values + self.dense @ self.dense))


class Projection:
    """The product of embeddings with `matrix`, of shape (dims,) or (dims, columns)."""

    __slots__ = ("_dense", "_sparse")

    def __init__(self, matrix: NDArray[np.floating], buckets: int) -> None:
        """`buckets` is the length of the sparse part."""
        whole = np.ascontiguousarray(matrix, dtype=np.float32)
        self._sparse = whole[:buckets]
        self._dense = whole[buckets:]

    def __call__(self, embedding: Embedding) -> NDArray[np.float32]:
        """Shape () or (columns,)."""
        indices, values, dense = embedding
        if not len(self._dense):
            return values @ self._sparse[indices]
        if not len(self._sparse):
            return dense @ self._dense
        product = values @ self._sparse[indices]
        product += dense @ self._dense
        return product
