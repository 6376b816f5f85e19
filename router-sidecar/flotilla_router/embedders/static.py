"""Whole-word vectors that the artifact ships: a prompt is the mean of its words'.

How rare a word is, its vector says by its length. Source: Arora et al., A Simple but Tough-to-Beat Baseline for
Sentence Embeddings, ICLR 2017.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray


class WordVectors:
    """A table of words, in UTF-8, and their vectors in the rows of `vectors`, shape (words, dims)."""

    __slots__ = ("_rows", "vectors", "vocabulary")

    def __init__(self, vocabulary: bytes, vectors: NDArray[np.float16]) -> None:
        """`vocabulary` is the words, a line feed between two.

        Raises:
            ValueError: there are not as many words as vectors, or two of them are the same.
        """
        words = vocabulary.split(b"\n")
        self.vocabulary = vocabulary
        self.vectors: NDArray[np.float32] = vectors.astype(np.float32)
        self._rows = {word: row for row, word in enumerate(words)}
        if not len(self._rows) == len(words) == len(vectors):
            raise ValueError(f"{len(self._rows)} distinct words for {len(vectors)} vectors")

    @property
    def dims(self) -> int:
        """Length of a vector."""
        return self.vectors.shape[1]

    def embed(self, words: Sequence[bytes]) -> NDArray[np.float32]:
        """The sum of the vectors of the words that the table has, of Euclidean norm 1; zero where it has none."""
        get = self._rows.get
        rows = [row for word in words if (row := get(word)) is not None]
        total = self.vectors[rows].sum(axis=0)
        norm = float(np.sqrt(total @ total))
        return total / norm if norm > 0 else total
