"""Forty real questions through the gateway with the OpenAI SDK, and what came back for each."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from openai import APIError, OpenAI

SAMPLE = Path(__file__).parents[2] / "examples" / "questions" / "sample.jsonl"
MAX_TOKENS = 48


@dataclass(frozen=True, slots=True)
class Question:
    """One question; half of them are asked as streams."""

    id: str
    source: str
    prompt: str
    stream: bool


@dataclass(frozen=True, slots=True)
class Answer:
    """What the caller saw. `cost_usd` is the router's own figure, None where it gives none (streams)."""

    question: Question
    model: str
    reason: str
    attempts: int
    milliseconds: float
    request_id: str
    text: str
    error: str = ""


def read_questions() -> list[Question]:
    """The sample, sources taking turns, every other pair streamed."""
    rows = [json.loads(line) for line in SAMPLE.read_text().splitlines()]
    by_source = [[row for row in rows if row["source"] == source] for source in ("gsm8k", "mmlu")]
    mixed = [row for pair in zip(*by_source, strict=True) for row in pair]
    return [Question(row["id"], row["source"], row["prompt"], index % 4 >= 2) for index, row in enumerate(mixed)]


def ask(client: OpenAI, question: Question) -> Answer:
    """The answer to `question`; a failed request is an answer with its error."""
    started = time.perf_counter()
    try:
        headers, text = _stream(client, question) if question.stream else _whole(client, question)
    except APIError as error:
        return Answer(question, "-", "-", 0, _since(started), "-", "", error=error.message)
    return Answer(
        question,
        headers.get("x-flotilla-model", "-"),
        headers.get("x-flotilla-reason", "-"),
        int(headers.get("x-flotilla-attempts", "0")),
        _since(started),
        headers.get("x-flotilla-request-id", "-"),
        text,
    )


def _whole(client: OpenAI, question: Question) -> tuple[Mapping[str, str], str]:
    response = client.chat.completions.with_raw_response.create(
        model="auto",
        messages=[{"role": "user", "content": question.prompt}],
        max_tokens=MAX_TOKENS,
        temperature=0,
        extra_headers=_headers(question),
    )
    return response.headers, response.parse().choices[0].message.content or ""


def _stream(client: OpenAI, question: Question) -> tuple[Mapping[str, str], str]:
    with client.chat.completions.with_streaming_response.create(
        model="auto",
        messages=[{"role": "user", "content": question.prompt}],
        max_tokens=MAX_TOKENS,
        temperature=0,
        extra_headers=_headers(question),
        stream=True,
    ) as response:
        chunks = response.parse()
        pieces = [chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices]
    return response.headers, "".join(pieces)


def _headers(question: Question) -> dict[str, str]:
    return {"x-task": "math"} if question.source == "gsm8k" else {}


def _since(started: float) -> float:
    return (time.perf_counter() - started) * 1000
