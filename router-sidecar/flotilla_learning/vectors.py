"""Vectors of prompts by an encoder behind an OpenAI-compatible API, asked as a router asks its embedding Expert."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from flotilla_api.artifact import EmbedderOptions, EmbedderSpec
from flotilla_router.artifact import Artifact
from flotilla_router.embedders import Embedding, clip, digest_of
from flotilla_router.embedders.embedding import NONE_SPARSE
from flotilla_router.embedders.remote import read_numbers, request_body, scaled
from flotilla_router.strategies.scores import Scores

from .chat import ChatError, Endpoint, send
from .errors import TrainingError

CONCURRENCY = 8
_PROBE = "Hello"


class PromptVectors:
    """Vectors of texts, each asked for once. Implements fitting.PromptEmbedder."""

    def __init__(self, endpoint: Endpoint, dims: int) -> None:
        """dims: length of a vector."""
        self._endpoint = endpoint
        self._known: dict[str, Embedding] = {}
        self._dims = dims

    @property
    def dims(self) -> int:
        """Length of a vector."""
        return self._dims

    @property
    def buckets(self) -> int:
        """There is no sparse part."""
        return 0

    def embed(self, text: str) -> Embedding:
        """The vector of a text, scaled to norm 1; zero where it has no word, which no router asks about.

        Raises:
            TrainingError: there is none.
        """
        text = clip(text)
        if text not in self._known:
            self._known[text] = self._ask(text)
        return self._known[text]

    def fetch(self, texts: Iterable[str], advance: Callable[[int], object]) -> None:
        """The vectors of these are known; `advance` is told of how many.

        Raises:
            TrainingError: one cannot be had.
        """
        wanted = [text for text in dict.fromkeys(map(clip, texts)) if text not in self._known]
        with ThreadPoolExecutor(CONCURRENCY) as pool:
            try:
                for number, (text, vector) in enumerate(zip(wanted, pool.map(self._ask, wanted), strict=True), 1):
                    self._known[text] = vector
                    advance(number)
            finally:
                pool.shutdown(cancel_futures=True)

    def spec(self, fallback: EmbedderSpec) -> EmbedderSpec:
        """What a manifest says of it. fallback: what embeds where no vector comes."""
        options = EmbedderOptions(model=self._endpoint.model, dimensions=self._dims)
        return EmbedderSpec(name="Remote", digest=digest_of("Remote", options, {}), options=options, fallback=fallback)

    def judge(self, artifact: Artifact, text: str) -> Scores:
        """What an artifact says of a prompt by its vector; by words where it has none to be asked about.

        Raises:
            TrainingError: there is no vector.
        """
        if artifact.remote is None or not text.strip():
            return artifact.judge(text)
        return artifact.remote.score(self.embed(text))

    def _ask(self, text: str) -> Embedding:
        if not text.strip():
            return Embedding(*NONE_SPARSE, np.zeros(self._dims, np.float32))
        try:
            return scaled(_numbers(self._endpoint, text), self._dims)
        except ValueError as error:
            raise TrainingError(f"{self._endpoint.url}: {error}") from error


def connect(endpoint: Endpoint, dims: int | None = None) -> PromptVectors:
    """The encoder at an endpoint, whose vectors have that length; None: whatever it has.

    Raises:
        TrainingError: it does not answer, or with vectors of another length.
    """
    try:
        numbers = _numbers(endpoint, _PROBE)
        scaled(numbers, len(numbers) if dims is None else dims)
    except ValueError as error:
        raise TrainingError(f"{endpoint.url}: {error}") from error
    return PromptVectors(endpoint, len(numbers))


def golden_vectors(vectors: PromptVectors, prompts: Iterable[str]) -> Mapping[str, list[float]]:
    """Vectors as golden rows hold them, to six digits, of the prompts that have a word."""
    return {prompt: vectors.embed(prompt).dense.astype(float).round(6).tolist() for prompt in prompts if prompt.strip()}


def _numbers(endpoint: Endpoint, text: str) -> list[float]:
    """Raises: TrainingError; ValueError: it is no vector."""
    try:
        data, _ = send(endpoint, "/embeddings", request_body(endpoint.model, text))
    except ChatError as error:
        raise TrainingError(str(error)) from error
    return read_numbers(data)
