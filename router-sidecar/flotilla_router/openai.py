"""What the router reads of OpenAI requests and answers, and what it writes into them; everything else passes untouched.

A request is decoded once, into the few fields that routing needs. The body stays the bytes that the client sent: a
rewrite replaces spans of present fields and inserts absent ones after the opening brace.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import msgspec
from flotilla_api.snapshot import RequestEdits

Api = Literal["chat", "completions"]
Span = tuple[int, int]
"""Start and end of a value in a body."""


class BadRequest(Exception):
    """The client's own mistake, in the shape of OpenAI's errors."""

    def __init__(
        self,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
        status: int = 400,
        type: str = "invalid_request_error",  # noqa: A002 - the wire's name
    ) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.type = type
        self.param = param
        self.code = code


class Spans(msgspec.Struct, frozen=True):
    """Where the fields that a rewrite may touch are; None: absent."""

    opening: int
    """Just after the opening brace."""
    model: Span
    logprobs: Span | None = None
    top_logprobs: Span | None = None
    stream_options: Span | None = None


class ParsedRequest(msgspec.Struct, frozen=True, kw_only=True):
    """What routing and the cascade know about a request."""

    api: Api
    body: bytes
    model: str
    stream: bool
    choices: int
    """Answers asked for: n times the number of prompts."""
    max_tokens: int | None
    tool_count: int
    tools_forced: bool
    """A tool call is the only possible answer: tool_choice is "required" or names a function."""
    tools_possible: bool
    """There are tools, and tool_choice is not "none"."""
    json_schema: bool
    """The answer is constrained by a grammar: JSON, a schema, a regular expression or a choice."""
    logprobs: int | None
    """Alternatives a token that the client asked for; None: it asked for no logprobs."""
    echo: bool
    """The prompt comes back in the answer, with its tokens: such an answer has no signal."""
    wants_usage: bool
    wants_continuous_usage: bool
    prompt_tokens: int
    """Estimate, bytes / 4: give or take 30 %."""
    spans: Spans

    @property
    def wants_logprobs(self) -> bool:
        """Whether the client asked for logprobs itself."""
        return self.logprobs is not None

    @property
    def structured(self) -> bool:
        """Whether the answer may have to be judged whole."""
        return self.json_schema or self.tools_possible


@dataclass(frozen=True, slots=True)
class Injection:
    """What is asked for on top of what the client asked for, and stripped from the answer again."""

    top_logprobs: int | None = None
    """Alternatives a token; None: logprobs are not injected."""
    usage: bool = False
    """stream_options.include_usage."""
    continuous_usage: bool = False
    """stream_options.continuous_usage_stats, which only vLLM knows."""


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens by the engine's own count."""

    prompt_tokens: int
    completion_tokens: int


def parse_request(api: Api, body: bytes) -> ParsedRequest:
    """Read what routing needs of a body.

    Raises:
        BadRequest: it is not a JSON object, has no `model`, or a field that routing reads has the wrong type.
    """
    raise NotImplementedError


def plan_injection(request: ParsedRequest, *, judged: bool, external: bool = False) -> Injection:
    """Decide what an attempt needs that the client did not ask for.

    judged: the answer goes through a StreamJudge or judge_whole. external: vLLM's own options are left out.
    """
    raise NotImplementedError


def rewrite(
    request: ParsedRequest,
    *,
    model: str,
    injection: Injection,
    edits: RequestEdits | None = None,
    strict: bool = False,
) -> list[bytes]:
    """Parts that concatenate to the body for one attempt.

    strict: for targets whose parser we do not know, which might take another of several "model" keys than we judged.

    Raises:
        BadRequest: strict, and a "model" key is there twice or spelt with escapes.
    """
    raise NotImplementedError


def error_body(message: str, *, type: str, param: str | None = None, code: str | None = None) -> bytes:  # noqa: A002
    """OpenAI's error envelope."""
    raise NotImplementedError


def usage_of(body: bytes) -> Usage | None:
    """Usage of a whole answer; None where it has none."""
    raise NotImplementedError
