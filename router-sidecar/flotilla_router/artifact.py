"""A router artifact: read, checked whole, and ready to score prompts. It needs numpy: import it when it is used."""

from __future__ import annotations

import io
import json
import math
import tarfile
from bisect import bisect_right
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol, TypeVar, cast

import msgspec
import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ValidationError

from flotilla_api.artifact import (
    CALIBRATORS_FILE,
    FALLBACK_PREFIX,
    GOLDEN_FILE,
    MANIFEST_FILE,
    MAX_ARTIFACT_BYTES,
    MAX_GOLDEN_ROWS,
    SCHEMA_VERSION,
    WEIGHTS_FILE,
    ArtifactFault,
    Calibrators,
    EmbedderSpec,
    Manifest,
    MonotoneMap,
    ScorerSpec,
    digest_of,
)

from .embedders import Embedder, make_embedder
from .embedders import digest_of as embedder_digest
from .embedders.embedding import Embedding
from .embedders.remote import VectorError, scaled
from .errors import ArtifactError, quote
from .strategies import cluster, qualitygap, winrate
from .strategies.scores import PairScore, Scores
from .weights import FloatArray, array_of, invalid, read_arrays

Arrays = Mapping[str, NDArray[np.generic]]
Scorer = Callable[[Embedding], Scores]
GOLDEN_TOLERANCE = 1e-4
"""Of a score: sums are taken in another order on another machine."""
_MOST_MEMBERS = 16
_Model = TypeVar("_Model", bound=BaseModel)


class _Shape(Protocol):
    """How long an embedding is."""

    @property
    def dims(self) -> int: ...
    @property
    def buckets(self) -> int: ...


@dataclass(frozen=True, slots=True)
class _Dense:
    dims: int
    buckets: int = 0


class GoldenRow(msgspec.Struct):
    """One line of golden.jsonl."""

    prompt: str
    scores: dict[str, float]
    vector: list[float] | None = None
    """What a Remote embedder gave for the prompt; without it the row is of what runs in the router."""


@dataclass(frozen=True, slots=True)
class Remote:
    """What scores the vectors of an embedding Expert; `embedders.remote` asks for them."""

    model: str
    """Its id, which a policy maps to one of its Experts."""
    dimensions: int
    score: Scorer


@dataclass(frozen=True, slots=True)
class Artifact:
    """One that passed every check."""

    digest: str
    manifest: Manifest
    embedder: Embedder
    """Runs in the router; with a Remote embedder: its fallback."""
    score: Scorer
    remote: Remote | None = None

    def judge(self, text: str) -> Scores:
        """What it says of a prompt, which it clips itself."""
        return self.score(self.embedder.embed(text))


def read_tar(data: bytes) -> dict[str, bytes]:
    """The files of an uncompressed tar: flat, and nothing but plain files.

    Raises:
        ArtifactError: it is too large, truncated, or anything else than that.
    """
    if len(data) > MAX_ARTIFACT_BYTES + _MOST_MEMBERS * tarfile.RECORDSIZE:
        raise ArtifactError(ArtifactFault.TOO_LARGE, "The artifact is larger than 64 MiB.")
    files: dict[str, bytes] = {}
    try:
        with tarfile.open(fileobj=io.BytesIO(data), mode="r:") as archive:
            for member in archive:
                files[member.name] = _member(archive, member)
                if len(files) > _MOST_MEMBERS:
                    raise ArtifactError(ArtifactFault.TOO_LARGE, f"The tar has more than {_MOST_MEMBERS} files.")
    except (tarfile.TarError, EOFError, ValueError, OverflowError) as error:
        raise ArtifactError(ArtifactFault.UNREADABLE, f"The tar cannot be read: {quote(str(error))}.") from error
    return files


def _member(archive: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    packed = archive.extractfile(member) if member.isreg() and not member.issparse() else None
    if packed is None or "/" in member.name:
        raise ArtifactError(ArtifactFault.UNREADABLE, f"The tar holds {quote(member.name)}, which is no plain file.")
    data = packed.read()
    if len(data) != member.size:
        raise ArtifactError(ArtifactFault.UNREADABLE, f"The tar ends within {quote(member.name)}.")
    return data


def load_artifact(files: Mapping[str, bytes], digest: str) -> Artifact:
    """The artifact of these files, which has the digest and gives its golden rows their scores.

    Raises:
        ArtifactError: it is not what the digest pins, or it cannot be used as it says.
    """
    if sum(map(len, files.values())) > MAX_ARTIFACT_BYTES:
        raise ArtifactError(ArtifactFault.TOO_LARGE, "The artifact is larger than 64 MiB.")
    manifest = _manifest(files, digest)
    _check_files(files, manifest)
    arrays = read_arrays(files[WEIGHTS_FILE])
    calibrators = _parsed(Calibrators, CALIBRATORS_FILE, files[CALIBRATORS_FILE])
    artifact = assemble(digest, manifest, arrays, calibrators)
    _check_golden(artifact, files[GOLDEN_FILE])
    return artifact


def assemble(digest: str, manifest: Manifest, arrays: Arrays, calibrators: Calibrators) -> Artifact:
    """The artifact of these parts, whose golden rows nobody has checked: what writes them down scores with it.

    Raises:
        ArtifactError: the parts do not fit each other.
    """
    spec = manifest.embedder
    if spec.fallback is None:
        embedder = _embedder(spec, arrays)
        return Artifact(digest, manifest, embedder, _scorer(manifest, embedder, arrays, calibrators.score))
    options = spec.options
    assert options.model is not None
    assert options.dimensions is not None
    _check_embedder(spec, embedder_digest(spec.name, options, {}))
    remote = _scorer(manifest, _Dense(options.dimensions), arrays, calibrators.score)
    prefixed = {
        name.removeprefix(FALLBACK_PREFIX): array for name, array in arrays.items() if name.startswith(FALLBACK_PREFIX)
    }
    embedder = _embedder(spec.fallback, prefixed)
    score = _scorer(manifest, embedder, prefixed, calibrators.fallback)
    return Artifact(digest, manifest, embedder, score, Remote(options.model, options.dimensions, remote))


def _manifest(files: Mapping[str, bytes], digest: str) -> Manifest:
    data = files.get(MANIFEST_FILE)
    if data is None:
        raise ArtifactError(ArtifactFault.UNREADABLE, f"There is no {MANIFEST_FILE}.")
    if digest_of(data) != digest:
        raise ArtifactError(ArtifactFault.DIGEST_MISMATCH, f"{MANIFEST_FILE} is {digest_of(data)}, not {digest}.")
    try:
        fields: object = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise ArtifactError(ArtifactFault.UNREADABLE, f"{MANIFEST_FILE} is not JSON.") from error
    version = cast("dict[str, object]", fields).get("schemaVersion") if isinstance(fields, dict) else None
    if version != SCHEMA_VERSION:
        message = f"Its schema version is {quote(str(version))}; this router knows {SCHEMA_VERSION}."
        raise ArtifactError(ArtifactFault.UNKNOWN_VERSION, message)
    return _parsed(Manifest, MANIFEST_FILE, data)


def _parsed(model: type[_Model], name: str, data: bytes) -> _Model:
    try:
        return model.model_validate_json(data)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        field = ".".join(map(str, first["loc"]))
        raise ArtifactError(ArtifactFault.INVALID_MANIFEST, f"{name}: {field}: {quote(first['msg'])}.") from error


def _check_files(files: Mapping[str, bytes], manifest: Manifest) -> None:
    for name, digest in manifest.files.items():
        if name not in files:
            raise ArtifactError(ArtifactFault.UNREADABLE, f"There is no {name}.")
        if digest_of(files[name]) != digest:
            raise ArtifactError(ArtifactFault.DIGEST_MISMATCH, f"{name} is not the file that {MANIFEST_FILE} names.")


def _embedder(spec: EmbedderSpec, arrays: Arrays) -> Embedder:
    try:
        embedder = make_embedder(spec.name, spec.options, arrays)
    except ValueError as error:
        raise ArtifactError(ArtifactFault.INVALID_WEIGHTS, f"{WEIGHTS_FILE}: {error}.") from error
    _check_embedder(spec, embedder.spec.digest)
    return embedder


def _check_embedder(spec: EmbedderSpec, own: str) -> None:
    if own != spec.digest:
        message = f"It was trained on the {spec.name} embedder {spec.digest}; this router's is {own}."
        raise ArtifactError(ArtifactFault.EMBEDDER_MISMATCH, message)


def _scorer(manifest: Manifest, embedder: _Shape, arrays: Arrays, points: MonotoneMap | None) -> Scorer:
    if manifest.strategy == "Cluster":
        return _clusters(manifest, embedder, arrays)
    weak, strong = manifest.models
    probability = _probability(manifest.scorer, embedder, arrays)
    orient = winrate.score if manifest.strategy == "WinRate" else qualitygap.score
    calibrate = _calibrator(points)

    def score(embedding: Embedding) -> Scores:
        return PairScore(weak, strong, calibrate(orient(probability(embedding))))

    return score


def _probability(scorer: ScorerSpec, embedder: _Shape, arrays: Arrays) -> winrate.Probability:
    if scorer.name == "Linear":
        weights = array_of(arrays, "weights", (embedder.dims,))
        return winrate.Linear(weights, float(array_of(arrays, "bias", (1,))[0]), embedder.buckets)
    prototypes = array_of(arrays, "prototypes", (embedder.dims, None))
    count = prototypes.shape[1]
    if count > winrate.MAX_PROTOTYPES:
        raise invalid(f"there are {count} prototypes, and at most {winrate.MAX_PROTOTYPES} fit a decision's time")
    outcomes, counts = array_of(arrays, "outcomes", (count,)), array_of(arrays, "counts", (count,))
    if not (((outcomes >= 0) & (outcomes <= 1)).all() and (counts > 0).all()):
        raise invalid("outcomes are in [0, 1] and counts above 0")
    return winrate.SimilarityWeighted(
        prototypes, outcomes, counts, gamma=scorer.options.gamma, buckets=embedder.buckets
    )


def _clusters(manifest: Manifest, embedder: _Shape, arrays: Arrays) -> Scorer:
    centroids = array_of(arrays, "centroids", (embedder.dims, None))
    count = centroids.shape[1]
    if count > cluster.MAX_CLUSTERS:
        raise invalid(f"there are {count} clusters, and at most {cluster.MAX_CLUSTERS} fit a decision's time")
    shape = (count, len(manifest.models))
    cost = _known(manifest, array_of(arrays, "cost", shape, finite=False), ArtifactFault.MISSING_COST, "cost")
    quality = _known(manifest, array_of(arrays, "quality", shape, finite=False), ArtifactFault.UNSEEN_MODEL, "quality")
    if (cost < 0).any():
        raise invalid("no cost is below 0")
    nearest = manifest.scorer.options.nearest
    return cluster.Clusters(manifest.models, centroids, quality, cost, nearest=nearest, buckets=embedder.buckets)


def _known(manifest: Manifest, values: FloatArray, fault: ArtifactFault, name: str) -> FloatArray:
    """Refuses what is not known of a model in a cluster: taken for 0 it would be the best cost."""
    missing = np.argwhere(~np.isfinite(values))
    if missing.size:
        row, column = missing[0]
        raise ArtifactError(fault, f"{WEIGHTS_FILE}: cluster {row} lacks the {name} of {manifest.models[column]}.")
    return values


def _calibrator(points: MonotoneMap | None) -> Callable[[float], float]:
    if points is None:
        return lambda score: score
    xs, ys = points.x, points.y

    def calibrate(score: float) -> float:
        right = bisect_right(xs, score)
        if right == 0 or right == len(xs):
            return score if math.isnan(score) else ys[0 if right == 0 else -1]
        left = right - 1
        return ys[left] + (ys[right] - ys[left]) * (score - xs[left]) / (xs[right] - xs[left])

    return calibrate


def _check_golden(artifact: Artifact, data: bytes) -> None:
    lines = data.splitlines()
    if not 0 < len(lines) <= MAX_GOLDEN_ROWS:
        raise ArtifactError(ArtifactFault.UNREADABLE, f"{GOLDEN_FILE} has {len(lines)} rows, not 1 to 1000.")
    for number, line in enumerate(lines, 1):
        try:
            row = msgspec.json.decode(line, type=GoldenRow)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise ArtifactError(ArtifactFault.UNREADABLE, f"{GOLDEN_FILE}: row {number} cannot be read.") from error
        _check_row(artifact, row, number)


def _golden_scores(artifact: Artifact, row: GoldenRow, number: int) -> Mapping[str, float]:
    if row.vector is None:
        return artifact.judge(row.prompt).golden
    if artifact.remote is None:
        raise ArtifactError(ArtifactFault.GOLDEN_MISMATCH, f"{GOLDEN_FILE}: row {number} has a vector of no embedder.")
    try:
        return artifact.remote.score(scaled(row.vector, artifact.remote.dimensions)).golden
    except VectorError as error:
        raise ArtifactError(ArtifactFault.GOLDEN_MISMATCH, f"{GOLDEN_FILE}: row {number}: {error}") from error


def _check_row(artifact: Artifact, row: GoldenRow, number: int) -> None:
    scores = _golden_scores(artifact, row, number)
    if scores.keys() != row.scores.keys():
        raise ArtifactError(ArtifactFault.GOLDEN_MISMATCH, f"{GOLDEN_FILE}: row {number} names other models.")
    for model, expected in row.scores.items():
        if not math.isclose(scores[model], expected, rel_tol=0, abs_tol=GOLDEN_TOLERANCE):
            message = f"{GOLDEN_FILE}: row {number} should score {expected} and scores {scores[model]}."
            raise ArtifactError(ArtifactFault.GOLDEN_MISMATCH, message)
