"""One question through the gateway with the OpenAI SDK, and what its caller saw."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from openai import APIError, OpenAI

from demo.questions import Question


class Ending(StrEnum):
    """How an answer ended."""

    COMPLETE = "complete"
    ERROR_EVENT = "error event"
    """A stream told that the rest is missing."""
    SILENT = "silent"
    """A stream stopped as if it were whole, with no reason to finish."""
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class Answer:
    """What the caller of one question saw."""

    question: Question
    model: str
    reason: str
    attempts: int
    request_id: str
    """These four are the response's x-flotilla-* headers; '-' or 0 where there was no response."""
    milliseconds: float
    events: int
    """Events of a stream that carried a choice."""
    text: str
    ending: Ending
    error: str = ""
    """What went wrong, in the server's or the SDK's words; '' when the answer is complete or silent."""

    @property
    def is_complete(self) -> bool:
        """Whether the caller has the whole answer."""
        return self.ending is Ending.COMPLETE


@dataclass(slots=True)
class _Seen:
    """What has come so far."""

    headers: Mapping[str, str] = field(default_factory=dict[str, str])
    pieces: list[str] = field(default_factory=list[str])
    events: int = 0
    is_finished: bool = False


def ask(client: OpenAI, question: Question, on_event: Callable[[], None] = lambda: None) -> Answer:
    """The answer to `question`, complete or not; `on_event` is called at each event of a stream."""
    started, seen, error = time.perf_counter(), _Seen(), ""
    try:
        if question.stream:
            _stream(client, question, seen, on_event)
        else:
            _whole(client, question, seen)
        ending = Ending.COMPLETE if seen.is_finished else Ending.SILENT
    except (APIError, ValueError) as failure:  # ValueError: JSON that is none
        error = str(failure)
        ending = Ending.ERROR_EVENT if type(failure) is APIError else Ending.FAILED
    milliseconds = (time.perf_counter() - started) * 1000
    return Answer(
        question,
        seen.headers.get("x-flotilla-model", "-"),
        seen.headers.get("x-flotilla-reason", "-"),
        int(seen.headers.get("x-flotilla-attempts", "0")),
        seen.headers.get("x-flotilla-request-id", "-"),
        milliseconds,
        seen.events,
        "".join(seen.pieces),
        ending,
        error,
    )


def _whole(client: OpenAI, question: Question, seen: _Seen) -> None:
    response = client.chat.completions.with_raw_response.create(
        model=question.model,
        messages=[{"role": "user", "content": question.prompt}],
        max_tokens=question.tokens,
        temperature=0,
        extra_headers=_headers(question),
        extra_body=_extensions(question),
    )
    seen.headers = response.headers
    choice = response.parse().choices[0]
    seen.pieces.append(choice.message.content or "")
    seen.is_finished = bool(choice.finish_reason)


def _stream(client: OpenAI, question: Question, seen: _Seen, on_event: Callable[[], None]) -> None:
    with client.chat.completions.with_streaming_response.create(
        model=question.model,
        messages=[{"role": "user", "content": question.prompt}],
        max_tokens=question.tokens,
        temperature=0,
        extra_headers=_headers(question),
        extra_body=_extensions(question),
        stream=True,
    ) as response:
        seen.headers = response.headers
        for chunk in response.parse():
            if chunk.choices:
                seen.events += 1
                seen.pieces.append(chunk.choices[0].delta.content or "")
                seen.is_finished = seen.is_finished or bool(chunk.choices[0].finish_reason)
                on_event()


def _headers(question: Question) -> dict[str, str]:
    return {"x-task": question.task} if question.task else {}


def _extensions(question: Question) -> dict[str, bool]:
    """vLLM's own request fields."""
    return {"ignore_eos": True} if question.to_the_end else {}
