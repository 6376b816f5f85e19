"""Times decisions as the router takes them: the text of a parsed request, its scores, the order of the models."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from artifacts import an_artifact, digest
from flotilla_api.artifact import EmbedderOptions
from flotilla_learning.training import DEFAULT_EMBEDDER, default_embedder
from flotilla_router.artifact import Artifact, load_artifact
from flotilla_router.embedders import VECTORS, VOCABULARY, Embedder, make_embedder, words_of
from flotilla_router.request import parse_request
from flotilla_router.strategies.cluster import Clusters
from flotilla_router.strategies.winrate import MAX_PROTOTYPES
from flotilla_router.text import prompt_text
from flotilla_router.wire import ParsedRequest

DOCS = Path(__file__).parents[2] / "docs"
PROMPT_CHARACTERS = 1_024
WORDS = 20_000
DIMS = 256
CLUSTERS = 64
FLEET = tuple(f"model-{number}" for number in range(9))
ROUNDS = 5
"""How often each prompt is decided about, after a round that is not counted."""


@dataclass(frozen=True, slots=True)
class Timing:
    """Microseconds of one decision."""

    p50_us: float
    p99_us: float


def decision_us() -> Mapping[str, float]:
    """Median microseconds of a decision, by the name of the router's embedder and scorer."""
    return {name: timing.p50_us for name, timing in measure().items()}


def measure() -> dict[str, Timing]:
    """Of every artifact, over the same prompts."""
    requests = [parse_request("chat", body) for body in bodies(prompts())]
    return {name: _timed(artifact, requests) for name, artifact in artifacts().items()}


def prompts() -> list[str]:
    """Prose of our own documentation, in pieces of 1,024 characters."""
    prose = " ".join(re.sub(r"[`|*#\s]+", " ", path.read_text()) for path in sorted(DOCS.glob("*.md")))
    starts = range(0, len(prose) - PROMPT_CHARACTERS, PROMPT_CHARACTERS)
    return [prose[start : start + PROMPT_CHARACTERS] for start in starts]


def bodies(texts: Sequence[str]) -> list[bytes]:
    """Chat requests with these texts."""
    return [
        json.dumps({"model": "auto", "messages": [{"role": "user", "content": text}]}, ensure_ascii=False).encode()
        for text in texts
    ]


def artifacts() -> dict[str, Artifact]:
    """One of each kind, at the size that training makes them; `hashed` is what training takes by default."""
    rng = np.random.default_rng(0)
    words = sorted({word for text in prompts() for word in words_of(text)})
    words += [f"word{number}".encode() for number in range(WORDS - len(words))]
    table = {
        VOCABULARY: np.frombuffer(b"\n".join(words), np.uint8),
        VECTORS: rng.normal(size=(len(words), DIMS)).astype(np.float16),
    }
    grams = make_embedder("Hashed", EmbedderOptions(pairs=False, grams=(3, 4, 5), surface=True))
    small = make_embedder("Hashed", EmbedderOptions(bits=10))
    static = make_embedder("Static", EmbedderOptions(), table)
    both = make_embedder("HashedStatic", DEFAULT_EMBEDDER, table)
    return {
        "hashed": _linear(default_embedder(), rng),
        "hashed_words": _linear(make_embedder("Hashed", EmbedderOptions(pairs=False)), rng),
        "hashed_pairs_surface": _linear(make_embedder("Hashed", EmbedderOptions(surface=True)), rng),
        "hashed_grams_surface": _linear(grams, rng),
        "static": _linear(static, rng),
        "hashed_static_surface": _linear(both, rng),
        "static_prototypes": _prototypes(static, rng),
        "static_clusters": _clusters(static, rng),
        "hashed_clusters": _clusters(small, rng),
    }


def _linear(embedder: Embedder, rng: np.random.Generator) -> Artifact:
    weights = rng.normal(size=embedder.dims).astype(np.float32)
    return _loaded(embedder, {"weights": weights, "bias": np.zeros(1, np.float32)}, {"strong": 0.5})


def _prototypes(embedder: Embedder, rng: np.random.Generator) -> Artifact:
    count = MAX_PROTOTYPES
    arrays = {
        "prototypes": _unit_columns(embedder.dims, count, rng),
        "outcomes": np.tile(np.array([0, 1], np.float32), count // 2),
        "counts": np.ones(count, np.float32),
    }
    return _loaded(embedder, arrays, {"strong": 0.5}, scorer={"name": "SimilarityWeighted"})


def _clusters(embedder: Embedder, rng: np.random.Generator) -> Artifact:
    shape = (CLUSTERS, len(FLEET))
    centroids = _unit_columns(embedder.dims, CLUSTERS, rng)
    quality, cost = rng.random(shape).astype(np.float32), rng.random(shape).astype(np.float32)
    scorer = Clusters(FLEET, centroids, quality, cost, nearest=3, buckets=embedder.buckets)
    return _loaded(
        embedder,
        {"centroids": centroids, "quality": quality, "cost": cost},
        scorer(embedder.embed("")).golden,
        strategy="Cluster",
        scorer={"name": "Clusters"},
        models=FLEET,
    )


def _unit_columns(rows: int, columns: int, rng: np.random.Generator) -> NDArray[np.float32]:
    matrix = rng.normal(size=(rows, columns))
    return (matrix / np.linalg.norm(matrix, axis=0)).astype(np.float32)


def _loaded(
    embedder: Embedder, arrays: Mapping[str, NDArray[np.generic]], empty: Mapping[str, float], **manifest: object
) -> Artifact:
    """The artifact, by way of its files; `empty` is what the empty prompt scores."""
    spec = embedder.spec.model_dump(exclude_defaults=True)
    files = an_artifact(
        manifest={"embedder": spec, **manifest},
        arrays={**embedder.arrays, **arrays},
        golden=[{"prompt": "", "scores": empty}],
    )
    return load_artifact(files, digest(files))


def _timed(artifact: Artifact, requests: Sequence[ParsedRequest]) -> Timing:
    nanoseconds: list[int] = []
    for round_number in range(ROUNDS + 1):
        for request in requests:
            started = time.perf_counter_ns()
            artifact.judge(prompt_text(request)).ranked(0.5)
            if round_number:
                nanoseconds.append(time.perf_counter_ns() - started)
    p50, p99 = np.percentile(nanoseconds, (50, 99)) / 1_000
    return Timing(p50_us=float(p50), p99_us=float(p99))
