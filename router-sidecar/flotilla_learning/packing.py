"""A trained strategy as the files of an artifact, which the router's own loader accepts."""

from __future__ import annotations

import io
import json
import zipfile
from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from flotilla_api.artifact import (
    CALIBRATORS_FILE,
    FALLBACK_PREFIX,
    FILES,
    GOLDEN_FILE,
    MANIFEST_FILE,
    WEIGHTS_FILE,
    CalibrationPoint,
    Calibrators,
    DataSource,
    EmbedderSpec,
    Manifest,
    Metric,
    ModelPrice,
    digest_of,
)
from flotilla_router.artifact import Artifact, assemble, load_artifact
from flotilla_router.embedders import Embedder
from flotilla_router.embedders.remote import scaled
from flotilla_router.redaction import redact

from .calibration import calibrate, quantiles
from .datasets import Example, data_digest
from .training import Trained
from .vectors import PromptVectors, golden_vectors

GOLDEN_ROWS = 50
_EDGE_PROMPTS = ("", "zażółć gęślą jaźń 日本語 ไทย", "0 " * 2_000)
"""An empty one, other scripts, one that is clipped."""
_GOLDEN_WORDS = 12
_GOLDEN_VECTORS = 8
"""Made-up prompts whose vectors are written down, too."""
_VOCABULARY = 500
_SHARED_BY_PROMPTS = 5
"""A word of fewer prompts may be a name, and stays out of the artifact."""
_EPOCH = (1980, 1, 1, 0, 0, 0)
Files = dict[str, bytes]


def pack(
    trained: Trained,
    *,
    fallback: Trained | None = None,
    prices: Mapping[str, ModelPrice] | None = None,
    metrics: Sequence[Metric] = (),
    calibration: Sequence[CalibrationPoint] | None = None,
) -> Files:
    """The files; the same training always gives the same bytes. Calibrated by the rows left out, unless it is given.

    fallback: of a strategy that was trained on an encoder's vectors, the same trained on words.

    Raises:
        ArtifactError: a router would refuse it.
        TrainingError: the encoder does not answer.
    """
    options = trained.options
    spec, arrays = _embedding(trained, fallback)
    table = calibrate(trained.held_out, trained.examples) if calibration is None else calibration
    manifest = Manifest(
        schemaVersion=1,
        strategy=options.strategy,
        scorer=trained.scorer,
        embedder=spec,
        models=options.models,
        prices=dict(prices or {}),
        data=DataSource(digest=data_digest(trained.examples), rows=len(trained.examples), splitSeed=options.seed),
        metrics=tuple(metrics),
        calibration=tuple(table),
        scores=quantiles(trained.held_out),
        files=dict.fromkeys(FILES[1:], digest_of(b"")),
    )
    calibrators = Calibrators(score=trained.probability, fallback=fallback.probability if fallback else None)
    parts = {
        WEIGHTS_FILE: _npz(arrays),
        CALIBRATORS_FILE: calibrators.model_dump_json(exclude_defaults=True).encode(),
        GOLDEN_FILE: _golden(assemble("", manifest, arrays, calibrators), trained),
    }
    files = seal(manifest, parts)
    load_artifact(files, digest_of(files[MANIFEST_FILE]))
    return files


def _embedding(trained: Trained, fallback: Trained | None) -> tuple[EmbedderSpec, Mapping[str, NDArray[np.generic]]]:
    """What the manifest says of the embedder, and all arrays."""
    embedder = trained.options.embedder
    if isinstance(embedder, Embedder):
        return embedder.spec, {**embedder.arrays, **trained.arrays}
    assert isinstance(embedder, PromptVectors)
    assert fallback is not None
    words, arrays = _embedding(fallback, None)
    prefixed = {f"{FALLBACK_PREFIX}{name}": array for name, array in arrays.items()}
    return embedder.spec(words), {**trained.arrays, **prefixed}


def seal(manifest: Manifest, parts: Mapping[str, bytes]) -> Files:
    """The parts with a manifest that pins them, whatever it pinned before."""
    pinned = manifest.model_copy(update={"files": {name: digest_of(data) for name, data in parts.items()}})
    return {**parts, MANIFEST_FILE: pinned.to_json()}


def golden_prompts(examples: Sequence[Example], *, seed: int) -> list[str]:
    """Prompts made up of the most frequent words that several prompts share, redacted; none where there are none."""
    prompts = {example.prompt for example in examples}
    counts = Counter(word for prompt in prompts for word in set(prompt.split()))
    shared = sorted((-count, word) for word, count in counts.items() if count >= _SHARED_BY_PROMPTS)
    words = [redact(word) for _, word in shared[:_VOCABULARY]]
    draw = np.random.default_rng(seed)
    return [" ".join(draw.choice(words, _GOLDEN_WORDS)) for _ in range(GOLDEN_ROWS)] if words else []


def _golden(artifact: Artifact, trained: Trained) -> bytes:
    made = golden_prompts(trained.examples, seed=trained.options.seed)
    rows: list[dict[str, object]] = [
        {"prompt": prompt, "scores": artifact.judge(prompt).golden} for prompt in (*_EDGE_PROMPTS, *made)
    ]
    embedder, remote = trained.options.embedder, artifact.remote
    if remote is not None and isinstance(embedder, PromptVectors):
        for prompt, vector in golden_vectors(embedder, (*_EDGE_PROMPTS, *made[:_GOLDEN_VECTORS])).items():
            scores = remote.score(scaled(vector, remote.dimensions)).golden
            rows.append({"prompt": prompt, "vector": vector, "scores": scores})
    return "\n".join(json.dumps(row) for row in rows).encode()


def _npz(arrays: Mapping[str, NDArray[np.generic]]) -> bytes:
    """numpy's own format, without the time of day that `numpy.savez` writes into it."""
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in sorted(arrays):
            content = io.BytesIO()
            np.lib.format.write_array(content, np.ascontiguousarray(arrays[name]), allow_pickle=False)
            archive.writestr(zipfile.ZipInfo(f"{name}.npy", _EPOCH), content.getvalue(), zipfile.ZIP_DEFLATED)
    return target.getvalue()
