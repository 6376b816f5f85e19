"""Router artifacts: what is loaded is what the digest pins, and everything else is refused with its reason."""

from __future__ import annotations

import io
import json
import tarfile
import zipfile
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from artifacts import an_artifact, an_embedder, digest, hard_words, npz, sealed
from flotilla_api.artifact import (
    CALIBRATORS_FILE,
    GOLDEN_FILE,
    MANIFEST_FILE,
    MAX_ARTIFACT_BYTES,
    WEIGHTS_FILE,
    ArtifactFault,
    EmbedderOptions,
    Manifest,
    write_tar,
)
from flotilla_router.artifact import Artifact, load_artifact, read_tar
from flotilla_router.embedders import digest_of as embedder_digest
from flotilla_router.embedders import make_embedder
from flotilla_router.embedders.remote import scaled
from flotilla_router.errors import ArtifactError
from flotilla_router.strategies.scores import ClusterScores, PairScore

Files = dict[str, bytes]
WEIGHTS = {"weights": hard_words("prove"), "bias": np.zeros(1, np.float32)}
DIMS = an_embedder().dims


def loaded(files: Files) -> Artifact:
    return load_artifact(files, digest(files))


def fault_of(files: Files, named: str | None = None) -> ArtifactError:
    with pytest.raises(ArtifactError) as caught:
        load_artifact(files, named or digest(files))
    return caught.value


def score_of(artifact: Artifact, prompt: str) -> float:
    scores = artifact.judge(prompt)
    assert isinstance(scores, PairScore)
    return scores.score


def cluster_arrays(**changes: Any) -> dict[str, np.ndarray]:
    """Two clusters: prompts with `prove`, which `a` answers well, and all others."""
    centroids = np.zeros((DIMS, 2), np.float32)
    centroids[an_embedder().embed("prove").indices, 0] = 1
    own = {
        "centroids": centroids,
        "quality": np.array([[0.9, 0.1, 0.5], [0.2, 0.3, 0.8]], np.float32),
        "cost": np.array([[1, 2, 3], [1, 2, 3]], np.float32),
    }
    return own | changes


CLUSTERS: dict[str, Any] = {
    "strategy": "Cluster",
    "scorer": {"name": "Clusters", "options": {"nearest": 1}},
    "models": ["a", "b", "c"],
}
GOLDEN_CLUSTERS = [{"prompt": "prove", "scores": {"a": 1.0, "b": 0.15, "c": 0.35}}]


def a_cluster_artifact(golden: list[dict[str, Any]] = GOLDEN_CLUSTERS, **arrays: Any) -> Files:
    return an_artifact(manifest=CLUSTERS, arrays=cluster_arrays(**arrays), golden=golden)


def test_an_artifact_goes_through_a_tar_and_scores_prompts() -> None:
    """Hard words make a prompt hard, others easy, none leaves the bias."""
    files = an_artifact()
    artifact = load_artifact(read_tar(write_tar(files)), digest(files))

    assert score_of(artifact, "Prove the theorem.") > 0.9
    assert score_of(artifact, "Hello there") < 0.1
    assert score_of(artifact, "") == 0.5
    assert artifact.judge("Prove the theorem.").ranked(0.5) == ("strong", "weak")


def test_a_tar_of_the_same_files_is_the_same_bytes() -> None:
    """Its digest can be compared, whatever the order of the files."""
    files = an_artifact()

    assert write_tar(files) == write_tar(dict(reversed(files.items())))


def test_quality_gap_turns_the_probability_round() -> None:
    """The same weights say that small is good enough where WinRate says that strong wins."""
    winrate, gap = loaded(an_artifact()), loaded(an_artifact(manifest={"strategy": "QualityGap"}))

    assert score_of(gap, "prove it") == pytest.approx(1 - score_of(winrate, "prove it"))


def test_a_calibrator_maps_scores_along_its_points() -> None:
    """0.5 lies halfway from 0.4 to 0.6, so it becomes the middle of 0.1 and 0.3; beyond the ends the ends count."""
    points = {"score": {"x": [0.4, 0.6], "y": [0.1, 0.3]}}
    artifact = loaded(an_artifact(calibrators=points, golden=[{"prompt": "", "scores": {"strong": 0.2}}]))

    assert score_of(artifact, "") == pytest.approx(0.2)
    assert score_of(artifact, "prove") == 0.3
    assert score_of(artifact, "hello") == 0.1


def test_prototypes_score_by_similarity() -> None:
    """A prompt like the prototype that strong won is harder than one like the other."""
    embedder = an_embedder()
    prototypes = np.zeros((DIMS, 2), np.float32)
    prototypes[embedder.embed("prove").indices, 0] = 1
    prototypes[embedder.embed("hello").indices, 1] = 1
    arrays = {"prototypes": prototypes, "outcomes": np.array([1, 0]), "counts": np.array([3, 1])}
    manifest = {"scorer": {"name": "SimilarityWeighted", "options": {"gamma": 4}}}
    artifact = loaded(
        an_artifact(manifest=manifest, arrays=arrays, golden=[{"prompt": "", "scores": {"strong": 0.75}}])
    )

    assert score_of(artifact, "prove") == pytest.approx(12 / 13)
    assert score_of(artifact, "hello") == pytest.approx(3 / 7)


def test_clusters_score_every_model() -> None:
    """In the cluster of `prove` the cheapest model is the best too; elsewhere alpha decides."""
    artifact = loaded(a_cluster_artifact())
    proof, other = artifact.judge("prove"), artifact.judge("")

    assert isinstance(proof, ClusterScores)
    assert proof.ranked(1) == ("a", "c", "b")
    assert (other.ranked(1)[0], other.ranked(0)[0]) == ("c", "a")


def test_a_static_table_comes_with_the_artifact() -> None:
    """Vocabulary and vectors are arrays beside the weights."""
    table = {
        "vocabulary": np.frombuffer(b"prove\nhello", np.uint8),
        "vectors": np.array([[2, 0], [0, 2]], np.float16),
    }
    embedder = make_embedder("Static", EmbedderOptions(), table)
    arrays = {**table, "weights": np.array([3, -3], np.float16), "bias": np.zeros(1, np.float32)}
    artifact = loaded(an_artifact(manifest={"embedder": embedder.spec.model_dump()}, arrays=arrays))

    assert score_of(artifact, "prove") == pytest.approx(1 / (1 + np.exp(-3)))
    assert score_of(artifact, "hello") == pytest.approx(1 / (1 + np.exp(3)))


REMOTE = EmbedderOptions(model="embed", dimensions=2)


def a_remote_artifact(*golden: dict[str, Any], **changes: Any) -> Files:
    """Vectors of two numbers, the first of which means hard; where there is none, hashed words."""
    spec = {
        "name": "Remote",
        "digest": embedder_digest("Remote", REMOTE, {}),
        "options": {"model": "embed", "dimensions": 2},
        "fallback": an_embedder().spec.model_dump(exclude_defaults=True),
    }
    arrays = {
        "weights": np.array([5, 0], np.float32),
        "bias": np.zeros(1, np.float32),
        "fallback.weights": hard_words("prove"),
        "fallback.bias": np.zeros(1, np.float32),
    }
    return an_artifact(
        manifest={"embedder": spec | changes},
        arrays=arrays,
        golden=golden or [{"prompt": "", "vector": [0, 3], "scores": {"strong": 0.5}}],
    )


def test_a_remote_embedder_scores_vectors_and_falls_back_on_words() -> None:
    """sigmoid(5 x 0.6) for the vector, and the score of the hashed words where there is no vector."""
    artifact = loaded(a_remote_artifact())
    assert artifact.remote is not None
    scores = artifact.remote.score(scaled([3, 4], artifact.remote.dimensions))

    assert isinstance(scores, PairScore)
    assert scores.score == pytest.approx(1 / (1 + np.exp(-3)))
    assert artifact.remote.model == "embed"
    assert score_of(artifact, "prove") == pytest.approx(1 / (1 + np.exp(-4)))


@pytest.mark.parametrize(
    "prompt",
    [
        pytest.param("", id="empty"),
        pytest.param("theorem " * 131_072, id="1 MB"),
        pytest.param("素数が無限にあることを証明せよ", id="Japanese"),
        pytest.param("أثبت أن الأعداد الأولية لا نهائية", id="Arabic"),
        pytest.param("\ud800\x00\u200d🙂", id="half a pair, a null and a joiner"),
    ],
)
@pytest.mark.parametrize(
    "files", [pytest.param(an_artifact(), id="pair"), pytest.param(a_cluster_artifact(), id="fleet")]
)
def test_any_prompt_has_a_finite_score(files: Files, prompt: str) -> None:
    """No text stops a decision."""
    assert loaded(files).judge(prompt).finite


def changed(**manifest: Any) -> Files:
    return an_artifact(manifest=manifest)


def with_arrays(**arrays: Any) -> Files:
    return an_artifact(arrays=WEIGHTS | arrays)


def with_file(name: str, data: bytes) -> Files:
    files = {key: value for key, value in an_artifact().items() if key != MANIFEST_FILE}
    manifest = json.loads(an_artifact()[MANIFEST_FILE])
    return sealed(manifest, files | {name: data})


def npy_header(shape: str, descr: str = "'<f4'") -> bytes:
    text = f"{{'descr': {descr}, 'fortran_order': False, 'shape': {shape}, }}\n".encode()
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text


def zipped(name: str, data: bytes) -> bytes:
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(name, data)
    return target.getvalue()


@pytest.mark.parametrize(
    ("files", "reason", "says"),
    [
        pytest.param(dict, "Unreadable", "no manifest.json", id="nothing"),
        pytest.param(lambda: {MANIFEST_FILE: b"\xff{"}, "Unreadable", "not JSON", id="no JSON"),
        pytest.param(lambda: {MANIFEST_FILE: b"[" * 100_000}, "Unreadable", "not JSON", id="nested too deeply"),
        pytest.param(lambda: {MANIFEST_FILE: b"[]"}, "UnknownVersion", "None", id="no object"),
        pytest.param(lambda: changed(schemaVersion=2), "UnknownVersion", "is 2; this router knows 1", id="version 2"),
        pytest.param(lambda: changed(strategy="Dice"), "InvalidManifest", "strategy", id="unknown strategy"),
        pytest.param(lambda: changed(models=["a"]), "InvalidManifest", "models", id="one model"),
        pytest.param(lambda: changed(models=["a", "a"]), "InvalidManifest", "distinct", id="a model twice"),
        pytest.param(lambda: changed(models=["a", "b", "c"]), "InvalidManifest", "two models", id="three for a pair"),
        pytest.param(
            lambda: changed(scorer={"name": "Clusters"}), "InvalidManifest", "no scorer Clusters", id="other's scorer"
        ),
        pytest.param(lambda: changed(scores=[0.1, float("nan")]), "InvalidManifest", "scores", id="NaN in quantiles"),
        pytest.param(lambda: changed(models=["a" * 200, "b"]), "InvalidManifest", "128", id="an endless name"),
        pytest.param(
            lambda: changed(embedder={"name": "Hashed", "digest": "sha256:" + "0" * 64, "options": {"bits": 8}}),
            "EmbedderMismatch",
            "trained on the Hashed embedder sha256:000",
            id="another embedder",
        ),
        pytest.param(
            lambda: changed(embedder={"name": "Static", "digest": "sha256:" + "0" * 64}),
            "InvalidWeights",
            "vocabulary",
            id="a table is missing",
        ),
        pytest.param(lambda: with_file(WEIGHTS_FILE, b"PK\x03\x04"), "Unreadable", "weights.npz", id="no zip file"),
        pytest.param(
            lambda: with_file(WEIGHTS_FILE, npz(WEIGHTS)[:-30]), "Unreadable", "weights.npz", id="a truncated zip file"
        ),
        pytest.param(
            lambda: with_file(WEIGHTS_FILE, zipped("weights.npy", b"\x93NUMPY\x01\x00\xff")),
            "Unreadable",
            "weights.npy",
            id="a truncated header",
        ),
        pytest.param(
            lambda: with_file(WEIGHTS_FILE, zipped("weights.npy", npy_header("(2000000000000,)"))),
            "InvalidWeights",
            "0 bytes",
            id="an array that is not there",
        ),
        pytest.param(
            lambda: with_file(WEIGHTS_FILE, zipped("weights.npy", npy_header("(-1, -4)") + bytes(16))),
            "InvalidWeights",
            "shape",
            id="negative lengths",
        ),
        pytest.param(
            lambda: with_file(WEIGHTS_FILE, zipped("weights.npy", npy_header("(2,)", "'|O'") + bytes(16))),
            "InvalidWeights",
            "object",
            id="pickled objects",
        ),
        pytest.param(
            lambda: with_file(WEIGHTS_FILE, zipped("weights.npy", bytes(MAX_ARTIFACT_BYTES + 1))),
            "TooLarge",
            "64 MiB",
            id="a zip bomb",
        ),
        pytest.param(
            lambda: with_arrays(**{f"x{n}": np.zeros(1) for n in range(70)}), "TooLarge", "64 arrays", id="many arrays"
        ),
        pytest.param(
            lambda: with_arrays(weights=WEIGHTS["weights"].astype(np.float64)),
            "InvalidWeights",
            "float64",
            id="doubles",
        ),
        pytest.param(lambda: with_arrays(bias=np.array(["x"])), "InvalidWeights", "<U1", id="texts"),
        pytest.param(
            lambda: an_artifact(arrays={"weights": WEIGHTS["weights"]}), "InvalidWeights", "bias is missing", id="none"
        ),
        pytest.param(
            lambda: with_arrays(weights=np.zeros(7, np.float32)), "InvalidWeights", "(7,), not (256)", id="too short"
        ),
        pytest.param(
            lambda: with_arrays(bias=np.array([np.nan], np.float32)), "InvalidWeights", "finite", id="NaN in weights"
        ),
        pytest.param(
            lambda: with_arrays(bias=np.array([2e9], np.float32)), "InvalidWeights", "beyond 1e+09", id="a huge number"
        ),
        pytest.param(
            lambda: with_file(CALIBRATORS_FILE, b'{"score": {"x": [0, 1], "y": [1, 0]}}'),
            "InvalidManifest",
            "never falls",
            id="a calibrator that falls",
        ),
        pytest.param(lambda: with_file(GOLDEN_FILE, b""), "Unreadable", "0 rows", id="no golden row"),
        pytest.param(lambda: with_file(GOLDEN_FILE, b"{}"), "Unreadable", "row 1", id="no golden prompt"),
        pytest.param(
            lambda: an_artifact(golden=[{"prompt": "", "scores": {"strong": 0.6}}]),
            "GoldenMismatch",
            "row 1 should score 0.6 and scores 0.5",
            id="another golden score",
        ),
        pytest.param(
            lambda: an_artifact(golden=[{"prompt": "", "scores": {"weak": 0.5}}]),
            "GoldenMismatch",
            "other models",
            id="another golden model",
        ),
        pytest.param(
            lambda: a_cluster_artifact(cost=np.array([[1, 2, 3], [1, np.nan, 3]], np.float32)),
            "MissingCost",
            "cluster 1 lacks the cost of b",
            id="a missing cost",
        ),
        pytest.param(
            lambda: a_cluster_artifact(quality=np.array([[1, 1, np.nan], [1, 1, 1]], np.float32)),
            "UnseenModel",
            "cluster 0 lacks the quality of c",
            id="an unseen model",
        ),
        pytest.param(
            lambda: a_cluster_artifact(cost=np.array([[1, 2], [1, 2]], np.float32)),
            "InvalidWeights",
            "(2, 2), not (2, 3)",
            id="costs of fewer models",
        ),
        pytest.param(
            lambda: a_remote_artifact(fallback=None), "InvalidManifest", "has a fallback", id="remote and no fallback"
        ),
        pytest.param(
            lambda: a_remote_artifact(options={"model": "embed"}), "InvalidManifest", "dimensions", id="no dimensions"
        ),
        pytest.param(
            lambda: a_remote_artifact(options={"model": "other", "dimensions": 2}),
            "EmbedderMismatch",
            "Remote embedder",
            id="another endpoint's model",
        ),
        pytest.param(
            lambda: a_remote_artifact({"prompt": "", "vector": [1], "scores": {"strong": 0.5}}),
            "GoldenMismatch",
            "1 numbers, not 2",
            id="a golden vector of another length",
        ),
        pytest.param(
            lambda: an_artifact(golden=[{"prompt": "", "vector": [1], "scores": {"strong": 0.5}}]),
            "GoldenMismatch",
            "of no embedder",
            id="a golden vector for words",
        ),
        pytest.param(
            lambda: a_cluster_artifact(cost=np.full((2, 3), -1, np.float32)), "InvalidWeights", "below 0", id="cost < 0"
        ),
    ],
)
def test_a_bad_artifact_is_refused_with_its_reason(files: Callable[[], Files], reason: str, says: str) -> None:
    """The reason is one word, the message says what is wrong with which file, and neither is long."""
    made = files()
    error = fault_of(made, digest(made) if MANIFEST_FILE in made else "sha256:")

    assert error.reason == reason
    assert says in error.message
    assert len(error.message) < 400


@pytest.mark.parametrize("name", [MANIFEST_FILE, WEIGHTS_FILE, CALIBRATORS_FILE, GOLDEN_FILE])
def test_a_file_that_was_changed_is_refused(name: str) -> None:
    """The digest pins every byte of every file."""
    files = an_artifact()
    named = digest(files)

    assert fault_of(files | {name: files[name] + b" "}, named).reason == ArtifactFault.DIGEST_MISMATCH


def test_a_missing_file_is_named() -> None:
    """The message says which."""
    files = an_artifact()
    del files[GOLDEN_FILE]

    assert (fault_of(files).reason, "golden.jsonl" in fault_of(files).message) == (ArtifactFault.UNREADABLE, True)


def test_an_artifact_above_64_mib_is_refused_before_it_is_read() -> None:
    """Whatever its files are."""
    assert fault_of({MANIFEST_FILE: b"", "x": bytes(MAX_ARTIFACT_BYTES + 1)}).reason == ArtifactFault.TOO_LARGE


def tar_of(change: Callable[[tarfile.TarInfo], None]) -> bytes:
    target = io.BytesIO()
    with tarfile.open(fileobj=target, mode="w") as archive:
        member = tarfile.TarInfo(MANIFEST_FILE)
        change(member)
        archive.addfile(member, io.BytesIO(bytes(member.size)))
    return target.getvalue()


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        pytest.param(b"", "Unreadable", id="empty"),
        pytest.param(b"no tar" * 200, "Unreadable", id="no tar"),
        pytest.param(b"\x1f\x8b" + bytes(600), "Unreadable", id="compressed"),
        pytest.param(write_tar(an_artifact())[:2_000], "Unreadable", id="truncated"),
        pytest.param(bytes(MAX_ARTIFACT_BYTES + 1_000_000), "TooLarge", id="too large"),
        pytest.param(write_tar({f"x{n}": b"" for n in range(40)}), "TooLarge", id="too many files"),
        pytest.param(tar_of(lambda member: setattr(member, "type", tarfile.SYMTYPE)), "Unreadable", id="a link"),
        pytest.param(tar_of(lambda member: setattr(member, "type", tarfile.DIRTYPE)), "Unreadable", id="a folder"),
        pytest.param(tar_of(lambda member: setattr(member, "name", "../up")), "Unreadable", id="a path"),
    ],
)
def test_a_bad_tar_is_refused_with_its_reason(data: bytes, reason: str) -> None:
    """Nothing but flat, whole files is read."""
    with pytest.raises(ArtifactError) as caught:
        read_tar(data)

    assert caught.value.reason == reason


@given(st.data())
def test_no_damage_to_a_tar_raises_anything_else(data: st.DataObject) -> None:
    """Bytes changed or lost anywhere: the same artifact, or an ArtifactError."""
    files = an_artifact()
    tar = bytearray(write_tar(files))
    for position in data.draw(st.lists(st.integers(0, len(tar) - 1), min_size=1, max_size=4)):
        tar[position] = data.draw(st.integers(0, 255))
    cut = data.draw(st.integers(0, len(tar)))

    try:
        artifact = load_artifact(read_tar(bytes(tar[:cut])), digest(files))
    except ArtifactError:
        return
    assert artifact.digest == digest(files)


TABLE = {
    "vocabulary": np.frombuffer(b"prove\nhello", np.uint8),
    "vectors": np.array([[2, 0], [0, 2]], np.float16),
}
PROTOTYPES = {
    "prototypes": np.eye(DIMS, 3, dtype=np.float32),
    "outcomes": np.array([1, 0, 1], np.float16),
    "counts": np.array([3, 1, 1], np.float32),
}
GOLDEN = {"prompt": "", "scores": {"strong": 0.5}}
KINDS: dict[str, tuple[dict[str, Any], Mapping[str, np.ndarray], dict[str, Any]]] = {
    "linear": ({}, WEIGHTS, GOLDEN),
    "static": ({}, {**TABLE, "weights": np.array([3, -3], np.float16), "bias": np.zeros(1, np.float32)}, GOLDEN),
    "similarity": ({"scorer": {"name": "SimilarityWeighted"}}, PROTOTYPES, {**GOLDEN, "scores": {"strong": 0.8}}),
    "clusters": (CLUSTERS, cluster_arrays(), GOLDEN_CLUSTERS[0]),
}


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_artifact_loads_undamaged(kind: str) -> None:
    """What the next test damages."""
    manifest, arrays, golden = KINDS[kind]
    embedder = make_embedder("Static", EmbedderOptions(), TABLE) if kind == "static" else an_embedder()
    spec = embedder.spec.model_dump(exclude_defaults=True)

    files = an_artifact(manifest={**manifest, "embedder": spec}, arrays=arrays, golden=[golden])

    assert loaded(files).judge("prove").finite


@pytest.mark.parametrize("kind", KINDS)
@given(data=st.data())
def test_no_damage_to_arrays_raises_anything_else(kind: str, data: st.DataObject) -> None:
    """Also where the manifest was made to fit the damaged file, as an attacker would."""
    manifest, arrays, golden = KINDS[kind]
    name = data.draw(st.sampled_from(sorted(arrays)))
    raw = bytearray(arrays[name].tobytes())
    for position in data.draw(st.lists(st.integers(0, len(raw) - 1), min_size=1, max_size=4)):
        raw[position] = data.draw(st.integers(0, 255))
    damaged = np.frombuffer(bytes(raw), arrays[name].dtype).reshape(arrays[name].shape)
    whole = {**arrays, name: damaged}

    try:
        spec = make_embedder("Static", EmbedderOptions(), whole).spec if kind == "static" else an_embedder().spec
    except ValueError:
        return  # no digest can be made of it either
    fitting = {**manifest, "embedder": spec.model_dump(exclude_defaults=True)}
    files = an_artifact(manifest=fitting, arrays=whole, golden=[golden])

    try:
        artifact = loaded(files)
    except ArtifactError:
        return
    assert artifact.judge("prove").finite


@given(st.data())
def test_no_damage_to_weights_raises_anything_else(data: st.DataObject) -> None:
    """Also where the manifest was made to fit the damaged file, as an attacker would."""
    weights = bytearray(npz(WEIGHTS))
    for position in data.draw(st.lists(st.integers(0, len(weights) - 1), min_size=1, max_size=6)):
        weights[position] = data.draw(st.integers(0, 255))

    files = with_file(WEIGHTS_FILE, bytes(weights))

    try:
        artifact = loaded(files)
    except ArtifactError:
        return
    assert artifact.judge("prove").finite


def test_a_manifest_keeps_what_it_says_through_json() -> None:
    """And a field of a later release is ignored."""
    manifest = Manifest.model_validate_json(an_artifact(manifest={"later": 1})[MANIFEST_FILE])

    assert Manifest.model_validate_json(manifest.to_json()) == manifest
