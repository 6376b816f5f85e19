"""Artifacts that score by an encoder's vectors: `flotilla train`, `eval`, `calibrate` and `diff` as they are typed."""

from __future__ import annotations

import json
import random
from collections.abc import Generator
from pathlib import Path

import pytest
from command_line import Ended, Run

from fakes.chat import ChatApi, Json, Said, chat_api
from flotilla_api.artifact import MANIFEST_FILE, digest_of
from flotilla_learning.datasets import Example, Outcome, format_example
from flotilla_router.artifact import load_artifact
from flotilla_router.embedders.remote import read_vector
from flotilla_router.strategies.scores import PairScore

WORDS = [f"w{number}" for number in range(100, 400)]
TRAIN = ("train", "data.jsonl", "--models", "small,big", "--bits", "8", "--summary", "json", "-o")


def is_hard(prompt: str) -> bool:
    """What the encoder knows, and no word tells: whether the first word's number is larger than the last one's."""
    words = prompt.split()
    return words[0] > words[-1]


def outcomes(*, hard: bool) -> dict[str, Outcome]:
    """The small model is a little better at what is easy."""
    small, big = (0.0, 1.0) if hard else (1.0, 0.9)
    return {"small": Outcome(small, 0.001), "big": Outcome(big, 0.02)}


def vector_of(text: str) -> list[float]:
    return [3.0, 1.0, 0.5] if text.strip() and is_hard(text) else [-3.0, 1.0, 0.5]


def embedded(body: Json) -> Said:
    """As vLLM answers."""
    return Said(body=json.dumps({"data": [{"index": 0, "embedding": vector_of(body["input"])}]}).encode())


@pytest.fixture
def encoder() -> Generator[ChatApi]:
    """Listens on loopback."""
    with chat_api(embedded) as api:
        yield api


@pytest.fixture
def run(flotilla: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Run:
    """Runs `flotilla` in a folder with labelled rows, one of them without a word."""
    monkeypatch.chdir(tmp_path)
    draw = random.Random(3)
    prompts = [" ".join(draw.sample(WORDS, 12)) for _ in range(200)]
    rows = [Example(str(number), prompt, outcomes(hard=is_hard(prompt))) for number, prompt in enumerate(prompts)]
    blank = Example("blank", " \n", outcomes(hard=False))
    Path("data.jsonl").write_text("".join(format_example(row) + "\n" for row in [*rows, blank]))

    def command(*arguments: str) -> Ended:
        return flotilla(*arguments)

    return command


def trained(run: Run, encoder: ChatApi, folder: str = "mine") -> Json:
    ended = run(*TRAIN, folder, "--embed-url", encoder.url, "--embed-model", "minilm")
    assert ended.code == 0, ended.error
    return json.loads(ended.out)["heldOut"]["figures"]


def test_strategy_is_trained_on_an_encoders_vectors_and_on_words_for_when_none_comes(
    run: Run, encoder: ChatApi
) -> None:
    """A router that loads it scores by vectors; what only the encoder sees is learned, and each text is asked once."""
    figures = trained(run, encoder)

    files = {path.name: path.read_bytes() for path in Path("mine").iterdir() if path.name != "test.jsonl"}
    artifact = load_artifact(files, digest_of(files[MANIFEST_FILE]))
    spec = artifact.manifest.embedder
    assert artifact.remote is not None
    assert (spec.name, spec.options.model, spec.options.dimensions) == ("Remote", "minilm", 3)
    assert spec.fallback is not None
    assert spec.fallback.name == "Hashed"
    hard, easy = (
        artifact.remote.score(read_vector(embedded({"input": text}).bytes(), 3)) for text in ("w2 w1", "w1 w2")
    )
    assert isinstance(hard, PairScore)
    assert isinstance(easy, PairScore)
    assert hard.score - easy.score > 0.3
    assert figures["apgr"]["value"] > 0.65
    texts = [body["input"] for _, body in encoder.requests]
    assert len(texts) == len(set(texts))
    assert all(text.strip() for text in texts)
    assert {body["model"] for _, body in encoder.requests} == {"minilm"}


@pytest.mark.parametrize(
    ("kind", "figure"),
    [
        pytest.param(("--strategy", "Cluster"), "hypervolume", id="Cluster"),
        pytest.param(("--scorer", "SimilarityWeighted"), "apgr", id="SimilarityWeighted"),
        pytest.param(("--scorer", "Factorised"), "apgr", id="Factorised"),
        pytest.param(("--strategy", "QualityGap"), "apgr", id="QualityGap"),
    ],
)
def test_every_strategy_and_scorer_can_go_by_vectors(
    run: Run, encoder: ChatApi, kind: tuple[str, ...], figure: str
) -> None:
    """And finds in them what words do not say."""
    by_words = run(*TRAIN, "words", *kind)
    by_vectors = run(*TRAIN, "mine", "--embed-url", encoder.url, "--embed-model", "minilm", *kind)

    less, more = (json.loads(each.out)["heldOut"]["figures"][figure]["value"] for each in (by_words, by_vectors))
    assert more > less + 0.05


def test_golden_rows_hold_vectors_of_made_up_prompts_only(run: Run, encoder: ChatApi) -> None:
    """As of words: a vector of a user's prompt could be compared with that of a guess."""
    trained(run, encoder)

    rows = [json.loads(line) for line in Path("mine/golden.jsonl").read_text().splitlines()]
    prompts = {json.loads(line)["prompt"] for line in Path("data.jsonl").read_text().splitlines()}
    assert any("vector" in row for row in rows)
    assert any("vector" not in row for row in rows)
    assert not {row["prompt"] for row in rows if row["prompt"].strip()} & prompts


def test_evaluation_asks_the_encoder_too_or_says_that_words_score(run: Run, encoder: ChatApi) -> None:
    """By vectors the figures are those of training; by words, which tell nothing here, they are worse."""
    figures = trained(run, encoder)
    by_vectors = run("eval", "mine", "mine/test.jsonl", "-o", "json", "--embed-url", encoder.url)
    by_words = run("eval", "mine", "mine/test.jsonl", "-o", "json")

    assert json.loads(by_vectors.out)["figures"]["apgr"]["value"] == pytest.approx(figures["apgr"]["value"])
    assert json.loads(by_words.out)["figures"]["apgr"]["value"] < figures["apgr"]["value"] - 0.1
    assert "warning: words score here, not the vectors of minilm: give --embed-url" in by_words.error


def test_calibration_and_comparison_go_by_vectors(run: Run, encoder: ChatApi) -> None:
    """The table keeps two levels of scores, and an artifact does not differ from itself."""
    trained(run, encoder)
    url = ("--embed-url", encoder.url)

    calibrated = run("calibrate", "mine", "data.jsonl", "-o", "other", "--summary", "json", *url)
    compared = run("diff", "mine", "other", "data.jsonl", "--strong-ratio", "0.4", "-o", "json", *url)

    scores = json.loads(Path("other/manifest.json").read_text())["scores"]
    assert (calibrated.code, compared.code) == (0, 0)
    assert scores[10] == pytest.approx(scores[30])
    assert scores[80] - scores[20] > 0.2
    assert json.loads(compared.out)["moved"] == 0


def test_vectors_are_not_calibrated_by_words(run: Run, encoder: ChatApi) -> None:
    """The artifact would aim at a share, and look for drift, by scores that its router does not have."""
    trained(run, encoder)
    before = Path("mine/manifest.json").read_bytes()

    ended = run("calibrate", "mine", "data.jsonl")

    assert (ended.code, ended.out) == (1, "")
    assert "it scores by the vectors of minilm: give --embed-url" in ended.error
    assert Path("mine/manifest.json").read_bytes() == before


def test_key_of_the_encoder_is_that_of_the_environment(
    run: Run, encoder: ChatApi, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Such as a gateway's."""
    monkeypatch.setenv("ENCODER_KEY", "s3cret")

    run(*TRAIN, "mine", "--embed-url", encoder.url, "--embed-model", "minilm", "--embed-key-env", "ENCODER_KEY")

    assert {headers["Authorization"] for headers, _ in encoder.requests} == {"Bearer s3cret"}


@pytest.mark.parametrize(
    ("said", "reason"),
    [
        pytest.param(Said(status=404), "says 404", id="no such model"),
        pytest.param(Said("text"), "no list of embeddings", id="no encoder"),
        pytest.param(Said(body=b'{"data": [{"embedding": []}]}'), "zero or not finite", id="an empty vector"),
    ],
)
def test_encoder_that_gives_no_vectors_is_told_before_anything_is_trained(run: Run, said: Said, reason: str) -> None:
    """In a sentence with its address; nothing is written."""
    with chat_api(lambda _: said) as api:
        ended = run(*TRAIN, "mine", "--embed-url", api.url, "--embed-model", "minilm")

    assert (ended.code, ended.out, Path("mine").exists()) == (1, "", False)
    assert ended.error.startswith(f"error: {api.url}")
    assert reason in ended.error


def test_encoder_that_fails_in_the_middle_ends_the_training(run: Run) -> None:
    """Weights of half of the rows would be weights of other rows."""
    with chat_api(lambda body: embedded(body) if body["input"] == "Hello" else Said(status=422)) as api:
        ended = run(*TRAIN, "mine", "--embed-url", api.url, "--embed-model", "minilm")

    assert (ended.code, Path("mine").exists()) == (1, False)
    assert "says 422" in ended.error


def test_vectors_of_another_length_are_refused(run: Run, encoder: ChatApi) -> None:
    """It is another encoder than the one that the artifact was trained on."""
    trained(run, encoder)

    with chat_api(lambda _: Said(body=b'{"data": [{"embedding": [1.0, 2.0]}]}')) as api:
        ended = run("eval", "mine", "mine/test.jsonl", "--embed-url", api.url)

    assert (ended.code, ended.out) == (1, "")
    assert "has 2 numbers, not 3" in ended.error


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        pytest.param((*TRAIN, "a", "--embed-url", "http://x/v1"), "need each other", id="no model"),
        pytest.param((*TRAIN, "a", "--embed-model", "m"), "need each other", id="no address"),
        pytest.param((*TRAIN, "a", "--embed-key-env", "K"), "it belongs to --embed-url", id="a key for nobody"),
        pytest.param((*TRAIN, "a", "--embed-url", "x", "--embed-model", "m"), "no http(s) URL", id="no URL"),
        pytest.param(("eval", "words", "data.jsonl", "--embed-url", "http://x"), "scores by vectors", id="words"),
        pytest.param(("eval", "words", "data.jsonl", "--embed-key-env", "K"), "it belongs to", id="a key alone"),
    ],
)
def test_wrong_usage_of_vectors_is_told(run: Run, arguments: tuple[str, ...], said: str) -> None:
    """Exit code 2, before anybody is asked."""
    run(*TRAIN, "words")

    ended = run(*arguments)

    assert (ended.code, ended.out, Path("a").exists()) == (2, "", False)
    assert said in " ".join(ended.error.split())
