"""Forty real questions, and the long requests that keep an engine busy while something happens to it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

SAMPLE = Path(__file__).parents[2] / "examples" / "questions" / "sample.jsonl"
ANSWER_TOKENS = 48
LONG_ANSWER_TOKENS = 800  # long enough to be running when a pod goes, short enough for a context of 1,024
LONG_PROMPT = "Tell me at length how a small model and a large one share the work."


@dataclass(frozen=True, slots=True)
class Question:
    """One request for the gateway; what it does not say is as most of the forty have it."""

    id: str
    prompt: str
    stream: bool
    task: str = ""
    """Sent as the header x-task, which the quickstart's rule reads."""
    model: str = "auto"
    tokens: int = ANSWER_TOKENS
    to_the_end: bool = False
    """The answer has all of its tokens: the model may not end it earlier."""


def read_questions() -> list[Question]:
    """The sample, sources taking turns, every other pair streamed; those of GSM8K say that they are about math."""
    rows = [json.loads(line) for line in SAMPLE.read_text().splitlines()]
    by_source = [[row for row in rows if row["source"] == source] for source in ("gsm8k", "mmlu")]
    mixed = [row for pair in zip(*by_source, strict=True) for row in pair]
    return [
        Question(row["id"], row["prompt"], index % 4 >= 2, task="math" if row["source"] == "gsm8k" else "")
        for index, row in enumerate(mixed)
    ]


def make_long_questions(*, streams: int, whole: int, model: str = "auto", task: str = "") -> list[Question]:
    """Requests that run for seconds: so many streamed ones, then so many that are answered whole."""
    return list(_long_questions("stream", streams, model, task)) + list(_long_questions("whole", whole, model, task))


def _long_questions(kind: str, count: int, model: str, task: str) -> Iterator[Question]:
    for number in range(1, count + 1):
        prompt = f"{LONG_PROMPT} ({kind} {number})"
        yield Question(f"{kind}-{number}", prompt, kind == "stream", task, model, LONG_ANSWER_TOKENS, to_the_end=True)
