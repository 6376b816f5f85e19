"""A router artifact: the flat set of files from which a learned strategy scores prompts.

`manifest.json` names the digest of every other file, so the digest of its bytes pins the whole. In a ConfigMap the keys are
the files' names; anywhere else the files are one uncompressed tar.
"""

from __future__ import annotations

import hashlib
import io
import tarfile
from collections.abc import Mapping
from enum import StrEnum
from itertools import pairwise
from typing import Annotated, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

SCHEMA_VERSION: Final = 1
"""Raised for what a router must not ignore."""
MANIFEST_FILE = "manifest.json"
WEIGHTS_FILE = "weights.npz"
CALIBRATORS_FILE = "calibrators.json"
GOLDEN_FILE = "golden.jsonl"
FILES = (MANIFEST_FILE, WEIGHTS_FILE, CALIBRATORS_FILE, GOLDEN_FILE)
MAX_ARTIFACT_BYTES = 64 * 1024**2
"""Of all files together, and of all arrays together."""
MAX_GOLDEN_ROWS = 1_000
FALLBACK_PREFIX = "fallback."

LearnedStrategy = Literal["WinRate", "QualityGap", "Cluster"]
ScorerName = Literal["Linear", "SimilarityWeighted", "Clusters"]
EmbedderName = Literal["Hashed", "Static", "HashedStatic", "Remote"]
Digest = Annotated[str, Field(pattern="^sha256:[0-9a-f]{64}$")]
ModelId = Annotated[str, Field(min_length=1, max_length=128)]

SCORERS_OF: Final[Mapping[str, frozenset[str]]] = {
    "WinRate": frozenset({"Linear", "SimilarityWeighted"}),
    "QualityGap": frozenset({"Linear", "SimilarityWeighted"}),
    "Cluster": frozenset({"Clusters"}),
}
"""Which scorers a strategy has."""


class ArtifactFault(StrEnum):
    """Why an artifact is refused."""

    UNREADABLE = "Unreadable"
    """A file is missing, truncated or not in its format."""
    TOO_LARGE = "TooLarge"
    """It is larger than 64 MiB, or than the router's container has memory for."""
    DIGEST_MISMATCH = "DigestMismatch"
    """A file's bytes, or the manifest's, are not those that the digest names."""
    UNKNOWN_VERSION = "UnknownVersion"
    """Its schema version is not one that this router knows."""
    INVALID_MANIFEST = "InvalidManifest"
    """A field of the manifest is missing or wrong."""
    EMBEDDER_MISMATCH = "EmbedderMismatch"
    """It was trained on another embedder than the one that this router would use."""
    INVALID_WEIGHTS = "InvalidWeights"
    """An array is missing, not a number, or of the wrong type or shape."""
    MISSING_COST = "MissingCost"
    """A cluster lacks the cost of a model."""
    UNSEEN_MODEL = "UnseenModel"
    """A cluster lacks the quality of a model."""
    GOLDEN_MISMATCH = "GoldenMismatch"
    """The scores of the golden rows are not those that were written down when it was made."""


class _Part(BaseModel):
    """Base of the manifest's parts: frozen; a field that is not known is ignored; infinity and NaN are refused."""

    model_config = ConfigDict(extra="ignore", frozen=True, allow_inf_nan=False)


class EmbedderOptions(_Part):
    """What an embedder looks at; each field says which embedders read it. A default never changes: digests hold none."""

    bits: int = Field(default=16, ge=6, le=20)
    """Hashed, HashedStatic: 2^bits buckets."""
    pairs: bool = True
    """Hashed, HashedStatic: pairs of neighbouring words have buckets too."""
    grams: tuple[Annotated[int, Field(ge=1, le=8)], ...] = Field(default=(), max_length=4)
    """Hashed, HashedStatic: so have runs of so many characters."""
    surface: bool = False
    """Ten numbers more, about the length and the kinds of characters."""
    staticScale: float = Field(default=1.0, gt=0, le=100)
    """HashedStatic: what the static part is multiplied by; both parts have norm 1."""
    surfaceScale: float = Field(default=1.0, gt=0, le=100)
    """What the ten numbers, each in [0, 1], are multiplied by."""
    model: str | None = Field(default=None, min_length=1, max_length=128)
    """Remote: its id, which a policy maps to one of its Experts."""
    dimensions: int | None = Field(default=None, ge=1, le=8192)
    """Remote: length of its vectors."""


class EmbedderSpec(_Part):
    """What turns a prompt into numbers."""

    name: EmbedderName
    digest: Digest
    """Of its algorithm, options and tables: weights fit no other."""
    options: EmbedderOptions = EmbedderOptions()
    fallback: EmbedderSpec | None = None
    """Remote only: what embeds a prompt when the endpoint does not answer in time. The names of its arrays, and of those
    of its scorer, begin with FALLBACK_PREFIX."""

    @model_validator(mode="after")
    def _remote_falls_back(self) -> EmbedderSpec:
        remote = self.name == "Remote"
        if remote and (self.options.model is None or self.options.dimensions is None):
            raise ValueError("a Remote embedder names its model and dimensions")
        if remote != (self.fallback is not None) or (self.fallback and self.fallback.name == "Remote"):
            raise ValueError("a Remote embedder has a fallback that is not Remote, and no other has one")
        return self


class ScorerOptions(_Part):
    """How a scorer weighs what is near to the prompt."""

    gamma: float = Field(default=10.0, gt=1, le=1e6)
    """SimilarityWeighted: a prototype weighs gamma^(1 + similarity / the largest similarity)."""
    nearest: int = Field(default=3, ge=1, le=64)
    """Clusters: how many of them vote."""


class ScorerSpec(_Part):
    """What turns the prompt's numbers into scores."""

    name: ScorerName
    options: ScorerOptions = ScorerOptions()


class ModelPrice(_Part):
    """Dollars per million tokens, as they were when the artifact was made."""

    inputPerMillionUSD: float = Field(ge=0)
    outputPerMillionUSD: float = Field(ge=0)


class DataSource(_Part):
    """What it was trained on."""

    digest: Digest
    rows: int = Field(ge=0)
    splitSeed: int


class Metric(_Part):
    """A figure on data that were not trained on, and its 95 % interval."""

    name: str
    value: float
    low: float
    high: float


class CalibrationPoint(_Part):
    """What a setting gives on the validation part."""

    threshold: float | None = Field(default=None, ge=0, le=1)
    """Pairs of models."""
    alpha: float | None = Field(default=None, ge=0, le=1)
    """Cluster."""
    strongRatio: float = Field(ge=0, le=1)
    """Share of prompts that go to the strong model; Cluster: to the dearest."""
    quality: float
    usdPerRequest: float | None = Field(default=None, ge=0)

    @model_validator(mode="after")
    def _one_setting(self) -> CalibrationPoint:
        if (self.threshold is None) == (self.alpha is None):
            raise ValueError("a point has a threshold or an alpha")
        return self


class Manifest(_Part):
    """manifest.json."""

    schemaVersion: Literal[1]
    strategy: LearnedStrategy
    scorer: ScorerSpec
    embedder: EmbedderSpec
    models: tuple[ModelId, ...] = Field(min_length=2, max_length=64)
    """In the order of the arrays' columns; WinRate and QualityGap have two, the weak one first."""
    prices: dict[ModelId, ModelPrice] = {}
    data: DataSource
    metrics: tuple[Metric, ...] = ()
    calibration: tuple[CalibrationPoint, ...] = Field(default=(), max_length=1_001)
    """Sorted by threshold or alpha."""
    scores: tuple[float, ...] = Field(default=(), max_length=101)
    """Quantiles, evenly spaced from 0 to 1, of the scores of prompts that were not trained on: live scores that are
    distributed otherwise have drifted. Of Cluster: of the best utility at an alpha of GOLDEN_ALPHA."""
    files: dict[str, Digest]
    """Of every other file."""

    @model_validator(mode="after")
    def _consistent(self) -> Manifest:
        if len(set(self.models)) != len(self.models):
            raise ValueError("models are distinct")
        if self.strategy != "Cluster" and len(self.models) != 2:
            raise ValueError(f"{self.strategy} chooses between two models")
        if self.scorer.name not in SCORERS_OF[self.strategy]:
            raise ValueError(f"{self.strategy} has no scorer {self.scorer.name}")
        if set(self.files) != set(FILES) - {MANIFEST_FILE}:
            raise ValueError(f"files are {', '.join(FILES[1:])}")
        return self

    def to_json(self) -> bytes:
        """Canonical bytes: the same manifest always gives the same."""
        return self.model_dump_json(exclude_defaults=True).encode()


class MonotoneMap(_Part):
    """A piecewise linear map that never falls; constant outside its points."""

    x: tuple[float, ...] = Field(min_length=2, max_length=1_001)
    y: tuple[Annotated[float, Field(ge=0, le=1)], ...] = Field(min_length=2, max_length=1_001)

    @model_validator(mode="after")
    def _rises(self) -> MonotoneMap:
        if len(self.x) != len(self.y) or list(self.y) != sorted(self.y):
            raise ValueError("x and y are of one length, and y never falls")
        if any(right <= left for left, right in pairwise(self.x)):
            raise ValueError("x rises")
        return self


class Calibrators(_Part):
    """calibrators.json: what makes probabilities of scores."""

    score: MonotoneMap | None = None
    """WinRate and QualityGap; None: the scorer's own score is the probability."""
    fallback: MonotoneMap | None = None
    """The same, of scores from a Remote embedder's fallback."""


GOLDEN_ALPHA: Final = 0.7
"""The trade-off at which a Cluster artifact's golden scores and quantiles are written down."""


def digest_of(data: bytes) -> str:
    """`sha256:` and the hex digest; of manifest.json's bytes: the artifact's digest."""
    return "sha256:" + hashlib.sha256(data).hexdigest()


def write_tar(files: Mapping[str, bytes]) -> bytes:
    """The files as one uncompressed tar; the same files always give the same bytes."""
    target = io.BytesIO()
    with tarfile.open(fileobj=target, mode="w", format=tarfile.USTAR_FORMAT) as archive:
        for name in sorted(files):
            member = tarfile.TarInfo(name)
            member.size = len(files[name])
            archive.addfile(member, io.BytesIO(files[name]))
    return target.getvalue()
