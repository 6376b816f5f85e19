"""`flotilla pack` as it is typed: what a policy can name, and what a router takes."""

from __future__ import annotations

import base64
import json
from pathlib import Path

import numpy as np
import pytest
import yaml
from command_line import Ended, Run

from artifacts import an_artifact, an_embedder, digest
from flotilla_learning.artifacts import write_artifact
from flotilla_router.artifact import load_artifact, read_tar

FILES = an_artifact()


@pytest.fixture
def run(flotilla: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Run:
    """Runs `flotilla pack` in a folder that holds an artifact in `mine`."""
    monkeypatch.chdir(tmp_path)
    write_artifact(Path("mine"), FILES)

    def command(*arguments: str) -> Ended:
        return flotilla("pack", *arguments)

    return command


def test_tar_holds_the_artifact_and_its_digest_is_said(run: Run) -> None:
    """A tar of a tar is the same tar."""
    first = run("mine", "-o", "a.tar")
    second = run("a.tar", "-o", "b.tar", "--summary", "json")

    assert (first.code, first.out) == (0, f"{digest(FILES)}  a.tar\n")
    size = Path("b.tar").stat().st_size
    assert json.loads(second.out) == {"digest": digest(FILES), "bytes": size, "file": "b.tar"}
    assert Path("a.tar").read_bytes() == Path("b.tar").read_bytes()
    assert read_tar(Path("a.tar").read_bytes()) == FILES


def test_configmap_holds_every_file_to_the_byte(run: Run) -> None:
    """As text where it is one; it cannot be changed, and its comment is what the policy needs."""
    ended = run("mine", "--configmap", "router-11", "-n", "agents")

    found = yaml.safe_load(ended.out)
    assert (ended.code, ended.error) == (0, "")
    line = f'# artifact: {{configMapRef: {{name: router-11}}, digest: "{digest(FILES)}"}}\n'
    assert ended.out.startswith(line)
    assert found["metadata"] == {"name": "router-11", "namespace": "agents"}
    assert found["immutable"] is True
    texts = {name: text.encode() for name, text in found["data"].items()}
    binary = {name: base64.b64decode(text) for name, text in found["binaryData"].items()}
    assert texts | binary == FILES
    assert set(binary) == {"weights.npz"}
    assert load_artifact(texts | binary, digest(FILES)).judge("prove").ranked(0.5)[0] == "strong"


def test_prompts_of_any_script_stay_as_they_are(run: Run) -> None:
    """YAML has its own mind about some characters."""
    prompt = "théorème 🙂 \u2028\u0085 \t: # |\ud7ff\ufffe ' \" \\n"
    neutral = float(1 / (1 + np.exp(-an_embedder().embed(prompt).values.sum() * -4.0)))
    files = an_artifact(
        golden=[{"prompt": prompt, "scores": {"strong": neutral}}], manifest={"models": ["é", "strong"]}
    )
    write_artifact(Path("other"), files)

    ended = run("other", "--configmap", "x")

    found = yaml.safe_load(ended.out)
    assert {name: text.encode() for name, text in found["data"].items()} == {
        name: data for name, data in files.items() if name != "weights.npz"
    }


@pytest.mark.parametrize(
    ("buckets", "said"),
    [
        pytest.param(8, "", id="small"),
        pytest.param(16, "more than kubectl apply takes without --server-side", id="too large for an annotation"),
        pytest.param(19, "more than a ConfigMap holds", id="too large"),
    ],
)
def test_large_configmap_is_warned_of(run: Run, buckets: int, said: str) -> None:
    """With what to do instead."""
    from flotilla_api.artifact import EmbedderOptions
    from flotilla_router.embedders import make_embedder

    embedder = make_embedder("Hashed", EmbedderOptions(bits=buckets, pairs=False))
    weights = np.random.default_rng(0).normal(0, 1e-3, embedder.dims).astype(np.float32)
    weights[embedder.embed("").indices] = 0
    spec = embedder.spec.model_dump(exclude_defaults=True)
    arrays = {"weights": weights, "bias": np.zeros(1, np.float32)}
    write_artifact(Path("large"), an_artifact(manifest={"embedder": spec}, arrays=arrays))

    ended = run("large", "--configmap", "x")

    assert ended.code == 0
    assert said in ended.error
    assert bool(said) == bool(ended.error)


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        pytest.param(("mine",), 2, "", id="neither"),
        pytest.param(("mine", "-o", "a.tar", "--configmap", "x"), 2, "", id="both"),
        pytest.param(("mine", "--configmap", "Router_11"), 2, "", id="name"),
        pytest.param(("none", "-o", "a.tar"), 1, "none: No such file", id="nothing there"),
        pytest.param((".", "-o", "a.tar"), 1, "Unreadable: There is no manifest.json", id="another folder"),
        pytest.param(("mine/weights.npz", "-o", "a.tar"), 1, "Unreadable: The tar", id="another file"),
        pytest.param(("mine", "-o", "no/a.tar"), 1, "no/a.tar: No such file", id="nowhere to write"),
    ],
)
def test_what_cannot_be_packed_is_told(run: Run, arguments: tuple[str, ...], code: int, said: str) -> None:
    """And nothing is written."""
    ended = run(*arguments)

    assert (ended.code, ended.out) == (code, "")
    assert said in ended.error


def test_tampered_artifact_is_not_packed(run: Run) -> None:
    """Nobody finds out in the cluster."""
    Path("mine/weights.npz").write_bytes(FILES["weights.npz"] + b" ")

    ended = run("mine", "-o", "a.tar")

    assert ended.code == 1
    assert "mine: DigestMismatch: weights.npz" in ended.error
    assert not Path("a.tar").exists()
