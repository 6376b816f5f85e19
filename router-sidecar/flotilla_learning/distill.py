"""A table of whole-word vectors, distilled from a sentence encoder: what Static and HashedStatic look up.

Each word is encoded by itself; principal components keep what tells the words apart; a rare word's vector is longer
than a frequent one's. Sources: Tulkens and van Dongen, Model2Vec, 2024; Arora et al., A Simple but Tough-to-Beat
Baseline for Sentence Embeddings, ICLR 2017, section 3, for the lengths.
"""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from flotilla_api.artifact import EmbedderOptions
from flotilla_router.embedders import VECTORS, VOCABULARY, clip, make_embedder, words_of
from flotilla_router.errors import ArtifactError
from flotilla_router.weights import read_arrays

Floats = NDArray[np.float32]
_LOT = 1_024


class TableError(ValueError):
    """No table of words can be made of this, or read from it."""


class TextEncoder(Protocol):
    """A model that is distilled."""

    def encode(self, texts: Sequence[str]) -> Floats:
        """A vector of each text, shape (texts, hidden)."""
        ...


@dataclass(frozen=True, slots=True)
class DistillOptions:
    """How large the table is, and how much frequent words count."""

    dims: int = 128
    words: int = 30_000
    """At most so many, the most frequent ones."""
    least_count: int = 3
    """A word of the prompts that the encoder's vocabulary lacks is taken if it occurs so often."""
    smoothing: float = 3e-4
    """A word of frequency p has the length smoothing / (smoothing + p)."""
    prior_words: float = 100_000
    """Words of the prompts that weigh as much as Zipf's law, 1 / rank, of the vocabulary's order."""


def distill(
    encoder: TextEncoder,
    vocabulary: Iterable[str],
    prompts: Iterable[str],
    options: DistillOptions,
    advance: Callable[[int], object] | None = None,
) -> dict[str, NDArray[np.generic]]:
    """The arrays VOCABULARY and VECTORS; `vocabulary` is the encoder's own, by falling frequency.

    Frequencies are those in the prompts, and Zipf's where the prompts are few. `advance` is told how many words, of at
    most `options.words`, are encoded.

    Raises:
        TableError: there are no more words than dims.
    """
    counts = Counter(word for prompt in prompts for word in words_of(clip(prompt)))
    words = _words(vocabulary, counts, options)
    if len(words) <= options.dims:
        raise TableError(f"{len(words)} words are too few for vectors of {options.dims} numbers")
    vectors = principal_components(_encoded(encoder, words, advance), options.dims)
    lengths = options.smoothing / (options.smoothing + frequencies(words, counts, options.prior_words))
    return {
        VOCABULARY: np.frombuffer(b"\n".join(words), np.uint8),
        VECTORS: (vectors * lengths[:, None]).astype(np.float16),
    }


def _encoded(encoder: TextEncoder, words: Sequence[bytes], advance: Callable[[int], object] | None) -> Floats:
    """In lots, so that somebody can be told how far it is."""
    lots: list[Floats] = []
    for start in range(0, len(words), _LOT):
        lots.append(encoder.encode([word.decode() for word in words[start : start + _LOT]]))
        if advance:
            advance(min(start + _LOT, len(words)))
    return np.concatenate(lots)


def _words(vocabulary: Iterable[str], counts: Mapping[bytes, int], options: DistillOptions) -> list[bytes]:
    """Whole words as the router's embedders divide them: no pieces of words, no marks.

    Single characters, with which vocabularies begin whatever their frequency, come after words.
    """
    own = [word.encode() for word in vocabulary if words_of(word) == [word.encode()]]
    more = sorted(
        (word for word, count in counts.items() if count >= options.least_count), key=lambda word: -counts[word]
    )
    known = set(own)
    own.sort(key=lambda word: len(word.decode()) == 1)
    return [*own, *(word for word in more if word not in known)][: options.words]


def principal_components(vectors: Floats, dims: int) -> Floats:
    """The projection of the centred vectors on the `dims` directions in which they vary the most."""
    centred = vectors - vectors.mean(axis=0)
    _, directions = np.linalg.eigh(centred.T.astype(np.float64) @ centred)
    return centred @ directions[:, : -dims - 1 : -1].astype(np.float32)


def frequencies(words: Sequence[bytes], counts: Mapping[bytes, int], prior_words: float) -> NDArray[np.float64]:
    """Of each word, (count + prior_words x zipf) / (all counts + prior_words), zipf = (1 / rank) / sum of 1 / rank."""
    zipf = 1 / np.arange(1, len(words) + 1)
    counted = np.array([counts.get(word, 0) for word in words]) + prior_words * zipf / zipf.sum()
    return counted / (sum(counts.values()) + prior_words)


def write_table(table: Mapping[str, NDArray[np.generic]]) -> bytes:
    """The table as a file in numpy's format npz."""
    target = io.BytesIO()
    np.savez(target, allow_pickle=False, **{name: table[name] for name in (VOCABULARY, VECTORS)})
    return target.getvalue()


def read_table(data: bytes) -> dict[str, NDArray[np.generic]]:
    """The table of such a file, which is trusted no more than an artifact's arrays are.

    Raises:
        TableError: it holds none.
    """
    try:
        arrays = read_arrays(data)
        table = {name: arrays[name] for name in (VOCABULARY, VECTORS)}
        make_embedder("Static", EmbedderOptions(), table)
    except (ArtifactError, KeyError, ValueError) as error:
        raise TableError(f"this is no table of words: {error}") from error
    return table
