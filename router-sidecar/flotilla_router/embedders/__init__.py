"""What turns a prompt into numbers; training and serving run this very code.

It needs numpy, so it is imported where a policy has a learned strategy, and nowhere else.
"""

from __future__ import annotations

from collections.abc import Mapping
from hashlib import sha256

import numpy as np
from numpy.typing import NDArray

from flotilla_api.artifact import EmbedderName, EmbedderOptions, EmbedderSpec
from flotilla_router.text import clip

from . import surface
from .embedding import NONE_SPARSE, Embedding, Projection
from .hashed import HashedGrams
from .static import WordVectors
from .tokens import tokens_of, words_of

__all__ = ["VECTORS", "VOCABULARY", "Embedder", "Embedding", "Projection", "clip", "make_embedder", "words_of"]

VERSION = 1
"""Raised when any embedding changes, so that no weights are used with numbers that they were not trained on."""
VOCABULARY = "vocabulary"
"""Array of uint8: the words in UTF-8, a line feed between two."""
VECTORS = "vectors"
"""Array of float16, shape (words, dims)."""
_NONE_DENSE = np.zeros(0, np.float32)


class Embedder:
    """Hashed n-grams, whole-word vectors or both, and what the text looks like."""

    __slots__ = ("_grams", "_words", "buckets", "dims", "name", "options")

    def __init__(self, name: EmbedderName, options: EmbedderOptions, words: WordVectors | None = None) -> None:
        """`words` are needed by Static and HashedStatic only."""
        self.name: EmbedderName = name
        self.options = options
        self._words = words
        self._grams = None if name == "Static" else HashedGrams(options.bits, options.pairs, options.grams)
        self.buckets = 1 << options.bits if self._grams else 0
        """Length of the sparse part."""
        self.dims = self.buckets + (words.dims if words else 0) + (surface.DIMS if options.surface else 0)
        """Length of the whole."""

    def embed(self, text: str) -> Embedding:
        """The same numbers for the same first and last 512 characters, on every machine."""
        text = clip(text)
        tokens = tokens_of(text)
        indices, values = self._grams.embed(tokens) if self._grams else NONE_SPARSE
        dense: list[NDArray[np.float32]] = []
        if self._words:
            vector = self._words.embed(tokens.spaced.split())
            dense.append(vector if self._grams is None else vector * np.float32(self.options.staticScale))
        if self.options.surface:
            dense.append(surface.embed(text, tokens.word_count) * np.float32(self.options.surfaceScale))
        return Embedding(indices, values, _joined(dense))

    @property
    def arrays(self) -> dict[str, NDArray[np.generic]]:
        """What an artifact has to carry for it."""
        if self._words is None:
            return {}
        vocabulary = np.frombuffer(self._words.vocabulary, np.uint8)
        return {VOCABULARY: vocabulary, VECTORS: self._words.vectors.astype(np.float16)}

    @property
    def spec(self) -> EmbedderSpec:
        """What a manifest says of it."""
        return EmbedderSpec(
            name=self.name, digest=digest_of(self.name, self.options, self.arrays), options=self.options
        )


def _joined(parts: list[NDArray[np.float32]]) -> NDArray[np.float32]:
    if not parts:
        return _NONE_DENSE
    return parts[0] if len(parts) == 1 else np.concatenate(parts)


def make_embedder(
    name: EmbedderName, options: EmbedderOptions, arrays: Mapping[str, NDArray[np.generic]] | None = None
) -> Embedder:
    """The embedder of that name; `arrays` has VOCABULARY and VECTORS where it needs them.

    Raises:
        ValueError: it needs arrays and there are none, or they do not fit each other.
    """
    if name == "Hashed":
        return Embedder(name, options)
    if name == "Remote":
        raise ValueError("a Remote embedder is an endpoint; what runs here is its fallback")
    try:
        vocabulary, vectors = (arrays or {})[VOCABULARY], (arrays or {})[VECTORS]
    except KeyError as error:
        raise ValueError(f"{name} needs the array {error}") from error
    if vectors.ndim != 2 or vectors.dtype != np.float16 or vocabulary.dtype != np.uint8:
        raise ValueError(f"{VECTORS} is a matrix of float16 and {VOCABULARY} of uint8")
    if not np.isfinite(vectors).all():
        raise ValueError(f"{VECTORS} holds what is not a finite number")
    return Embedder(name, options, WordVectors(vocabulary.tobytes(), vectors.astype(np.float16, copy=False)))


def digest_of(name: EmbedderName, options: EmbedderOptions, arrays: Mapping[str, NDArray[np.generic]]) -> str:
    """`sha256:` and the digest of everything that its embeddings depend on."""
    state = sha256(f"{name} {VERSION} {options.model_dump_json(exclude_defaults=True)}".encode())
    for key in sorted(arrays):
        state.update(f" {key} {arrays[key].dtype} {arrays[key].shape} ".encode())
        state.update(np.ascontiguousarray(arrays[key]).tobytes())
    return "sha256:" + state.hexdigest()
