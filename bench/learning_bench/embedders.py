"""The embedders that are compared: what training takes by itself, and what it might take instead."""

from __future__ import annotations

from flotilla_api.artifact import EmbedderOptions
from flotilla_learning.embedding import embedder_of
from flotilla_learning.training import DEFAULT_EMBEDDER
from flotilla_router.embedders import Embedder, make_embedder
from learning_bench.sets import WORD_VECTORS

HASHED = "words, runs of 5 characters, surface (default)"
BOTH = "the same beside word vectors (default with a table)"


def embedders(bits: int = DEFAULT_EMBEDDER.bits) -> dict[str, Embedder]:
    """By what they look at; the hashed ones have 2^bits buckets."""
    surface = EmbedderOptions(bits=bits, surface=True, surfaceScale=DEFAULT_EMBEDDER.surfaceScale)
    runs = surface.model_copy(update={"pairs": False, "grams": (3, 4, 5)})
    return {
        HASHED: hashed(bits),
        BOTH: with_vectors(bits),
        "word vectors, surface": embedder_of("static", WORD_VECTORS),
        "words alone": make_embedder("Hashed", EmbedderOptions(bits=bits, pairs=False)),
        "words, pairs of words, surface": make_embedder("Hashed", surface),
        "words, runs of 3 to 5 characters, surface": make_embedder("Hashed", runs),
    }


def hashed(bits: int = DEFAULT_EMBEDDER.bits) -> Embedder:
    """What training takes where there is no table of word vectors."""
    return embedder_of("hashed", None, bits=bits)


def with_vectors(bits: int = DEFAULT_EMBEDDER.bits) -> Embedder:
    """What it takes where there is one."""
    return embedder_of("both", WORD_VECTORS, bits=bits)
