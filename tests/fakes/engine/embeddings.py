"""What an embedding model answers: vectors in which each word has a direction of its own."""

from __future__ import annotations

import math
from zlib import crc32

from pydantic import BaseModel, ConfigDict


class EmbeddingRequest(BaseModel):
    """The body of /v1/embeddings; other fields are ignored, as vLLM ignores them."""

    model_config = ConfigDict(extra="ignore")

    model: str | None = None
    input: str | list[str]

    @property
    def texts(self) -> list[str]:
        """What is to be embedded."""
        return [self.input] if isinstance(self.input, str) else self.input


def direction_of(word: str, dimensions: int) -> int:
    """Which number of a vector grows with the word."""
    return crc32(word.lower().encode()) % dimensions


def vector_of(text: str, dimensions: int) -> list[float]:
    """The text's words, counted, at norm 1; a text without words has its first number alone."""
    counts = [0.0] * dimensions
    for word in text.split() or [""]:
        counts[direction_of(word, dimensions) if word else 0] += 1.0
    norm = math.hypot(*counts)
    return [count / norm for count in counts]


def make_embeddings(texts: list[str], model: str, dimensions: int, created: int) -> dict[str, object]:
    """The answer's body."""
    data = [
        {"index": index, "object": "embedding", "embedding": vector_of(text, dimensions)}
        for index, text in enumerate(texts)
    ]
    tokens = sum(len(text.split()) for text in texts)
    usage = {"prompt_tokens": tokens, "total_tokens": tokens, "completion_tokens": 0}
    head = {"id": f"embd-{created:x}", "object": "list", "created": created, "model": model}
    return {**head, "data": data, "usage": usage}
