"""Small router artifacts, written by hand: what training would make, without training."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flotilla_api.artifact import (
    CALIBRATORS_FILE,
    GOLDEN_FILE,
    MANIFEST_FILE,
    WEIGHTS_FILE,
    EmbedderOptions,
    digest_of,
)
from flotilla_router.embedders import Embedder, make_embedder

Arrays = Mapping[str, NDArray[np.generic]]
BITS = 8


def an_embedder() -> Embedder:
    """Hashed words in 256 buckets."""
    return make_embedder("Hashed", EmbedderOptions(bits=BITS, pairs=False))


def hard_words(*words: str) -> NDArray[np.float32]:
    """Weights of `an_embedder` with which these words make a prompt hard, and others easy."""
    embedder = an_embedder()
    weights = np.full(embedder.dims, -4.0, np.float32)
    for word in words:
        weights[embedder.embed(word).indices] = 4.0
    return weights


def npz(arrays: Arrays) -> bytes:
    """The arrays as a file."""
    target = io.BytesIO()
    np.savez(target, allow_pickle=False, **arrays)  # pyright: ignore[reportArgumentType]
    return target.getvalue()


def sealed(manifest: Mapping[str, Any], files: Mapping[str, bytes]) -> dict[str, bytes]:
    """The files and a manifest that names their digests."""
    digests = {name: digest_of(data) for name, data in files.items()}
    return {**files, MANIFEST_FILE: json.dumps({**manifest, "files": digests}).encode()}


def digest(files: Mapping[str, bytes]) -> str:
    """The artifact's."""
    return digest_of(files[MANIFEST_FILE])


def an_artifact(
    *,
    manifest: Mapping[str, Any] | None = None,
    arrays: Arrays | None = None,
    calibrators: Mapping[str, Any] | None = None,
    golden: Sequence[Mapping[str, Any]] = ({"prompt": "", "scores": {"strong": 0.5}},),
) -> dict[str, bytes]:
    """Linear over hashed words; the words `prove` and `theorem` are hard; what is given takes the place of its own."""
    own: dict[str, Any] = {
        "schemaVersion": 1,
        "strategy": "WinRate",
        "scorer": {"name": "Linear"},
        "embedder": an_embedder().spec.model_dump(exclude_defaults=True),
        "models": ["weak", "strong"],
        "data": {"digest": digest_of(b""), "rows": 2, "splitSeed": 0},
    }
    weights = {"weights": hard_words("prove", "theorem"), "bias": np.zeros(1, np.float32)}
    return sealed(
        {**own, **(manifest or {})},
        {
            WEIGHTS_FILE: npz(weights if arrays is None else arrays),
            CALIBRATORS_FILE: json.dumps(calibrators or {}).encode(),
            GOLDEN_FILE: b"\n".join(json.dumps(row).encode() for row in golden),
        },
    )
