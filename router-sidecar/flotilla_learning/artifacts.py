"""Artifacts on disk: a folder of their files, or the tar of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from flotilla_api.artifact import FILES, MANIFEST_FILE, MAX_ARTIFACT_BYTES, ArtifactFault, digest_of
from flotilla_router.artifact import Artifact, load_artifact, read_tar
from flotilla_router.errors import ArtifactError
from flotilla_router.strategies.scores import Scores

from .calibration import calibrate, quantiles
from .datasets import Example
from .files import replace_files
from .packing import Files, seal
from .vectors import PromptVectors


class UnusableError(Exception):
    """What is stored there is no artifact that a router would take; the message says why."""


@dataclass(frozen=True, slots=True)
class Stored:
    """An artifact's files, and the artifact that a router makes of them."""

    files: Mapping[str, bytes]
    artifact: Artifact
    vectors: PromptVectors | None = None
    """Of its encoder, where that can be asked."""

    def judge(self, text: str) -> Scores:
        """What a router says of a prompt: by its vector, where that can be had, else by its words.

        Raises:
            TrainingError: the encoder has no vector of it.
        """
        return self.artifact.judge(text) if self.vectors is None else self.vectors.judge(self.artifact, text)


def read_artifact(path: Path) -> Stored:
    """The artifact of a folder or of a tar, with all the checks of a router.

    Raises:
        UnusableError: a router would refuse it.
        OSError: it cannot be read.
    """
    try:
        files = _folder(path) if path.is_dir() else read_tar(_bounded(path))
        return Stored(files, load_artifact(files, digest_of(files.get(MANIFEST_FILE, b""))))
    except ArtifactError as error:
        raise UnusableError(f"{error.reason}: {error.message}") from error


def write_artifact(path: Path, files: Mapping[str, bytes]) -> None:
    """The folder holds these files; the manifest, which pins the others, is written last.

    Raises:
        OSError: it cannot be written.
    """
    path.mkdir(parents=True, exist_ok=True)
    names = sorted(files, key=lambda name: (name == MANIFEST_FILE, name))
    replace_files({path / name: files[name] for name in names})


def recalibrated(stored: Stored, scores: Sequence[Scores], examples: Sequence[Example]) -> Files:
    """The same artifact with the table, and the distribution of scores, of these rows; `scores` are theirs.

    Raises:
        TrainingError: a row of a Cluster's does not say what an answer cost.
    """
    manifest = stored.artifact.manifest.model_copy(
        update={"calibration": calibrate(scores, examples), "scores": quantiles(scores)}
    )
    return seal(manifest, {name: data for name, data in stored.files.items() if name in manifest.files})


def _folder(path: Path) -> dict[str, bytes]:
    return {name: _bounded(path / name) for name in FILES if (path / name).exists()}


def _bounded(path: Path) -> bytes:
    """The file, unless it is larger than an artifact may be; a tar has a head for each file."""
    with path.open("rb") as file:
        data = file.read(MAX_ARTIFACT_BYTES + (1 << 20) + 1)
    if len(data) > MAX_ARTIFACT_BYTES + (1 << 20):
        raise ArtifactError(ArtifactFault.TOO_LARGE, "The artifact is larger than 64 MiB.")
    return data
