"""The embedder that is trained on, by the name that people give it."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from flotilla_api.artifact import EmbedderOptions
from flotilla_router.embedders import Embedder, make_embedder

from .distill import TableError, read_table
from .errors import TrainingError
from .training import DEFAULT_EMBEDDER

Kind = Literal["hashed", "static", "both"]
_STATIC_SCALE = 0.5
"""Of the word vectors beside hashed n-grams, both of norm 1: folds of MMLU prefer it to 0.25, 0.35, 0.7, 1, 2 and 3."""


def embedder_of(kind: Kind, table: Path | None, *, bits: int = DEFAULT_EMBEDDER.bits) -> Embedder:
    """Hashed n-grams in 2^bits buckets, whole-word vectors of a table's file (`flotilla distill` makes it), or both.

    Raises:
        TrainingError: a table is needed and there is none, or the file is no table.
        OSError: it cannot be read.
    """
    hashed = DEFAULT_EMBEDDER.model_copy(update={"bits": bits})
    if kind == "hashed":
        return make_embedder("Hashed", hashed)
    if table is None:
        raise TrainingError(f"the embedder {kind} needs a table of word vectors: flotilla distill makes one")
    try:
        arrays = read_table(table.read_bytes())
    except TableError as error:
        raise TrainingError(f"{table}: {error}") from error
    if kind == "static":
        alone = EmbedderOptions(surface=True, surfaceScale=DEFAULT_EMBEDDER.surfaceScale)
        return make_embedder("Static", alone, arrays)
    return make_embedder("HashedStatic", hashed.model_copy(update={"staticScale": _STATIC_SCALE}), arrays)
