"""What is read of requests and of whole answers: msgspec's structs, which are never compiled."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from msgspec import Meta, Raw

from .splice import Span

Api = Literal["chat", "completions"]
ABSENT = Raw(b"")
DECODE_ERRORS = (msgspec.DecodeError, RecursionError, UnicodeDecodeError)
TokenCount = Annotated[int, Meta(ge=0, le=10**12)]
"""What lies outside is no count, and would not fit into a price."""


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
    """As the client sent it; re-encoded only where it was JSON to Python but not to the standard."""
    model: str
    stream: bool
    choices: int
    """Answers asked for: n times the number of prompts."""
    max_tokens: int | None
    tool_count: int
    """Exact up to thousands."""
    tools_possible: bool
    """There are tools, and tool_choice is not "none"."""
    tools_forced: bool
    """A tool call is the only possible answer: tool_choice is "required" or names a function."""
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


class StreamOptions(msgspec.Struct, gc=False):
    """stream_options, as far as it is read."""

    include_usage: bool | None = None
    continuous_usage_stats: bool | None = None


class ResponseFormat(msgspec.Struct, gc=False):
    """response_format, as far as it is read."""

    type: str


class RequestWire(msgspec.Struct, gc=False):
    """The fields that are read; a Raw is a view of the body."""

    model: Raw = ABSENT
    messages: Raw = ABSENT
    prompt: Raw = ABSENT
    stream: bool | None = None
    n: int | None = None
    max_tokens: int | None = None
    max_completion_tokens: int | None = None
    tools: Raw = ABSENT
    tool_choice: Raw = ABSENT
    response_format: Raw = ABSENT
    structured_outputs: Raw = ABSENT
    guided_json: Raw = ABSENT
    guided_regex: Raw = ABSENT
    guided_choice: Raw = ABSENT
    guided_grammar: Raw = ABSENT
    logprobs: Raw = ABSENT
    top_logprobs: Raw = ABSENT
    stream_options: Raw = ABSENT
    echo: bool | None = None


class UsageWire(msgspec.Struct, gc=False):
    """usage, as far as it is read."""

    prompt_tokens: TokenCount = 0
    completion_tokens: TokenCount = 0


class Metered(msgspec.Struct, gc=False):
    """A whole answer, as far as it is metered."""

    usage: UsageWire | None = None


class Prompted(msgspec.Struct, gc=False):
    """What tells a completion request from a chat request."""

    prompt: Raw | None = None


class ErrorEnvelope(msgspec.Struct, gc=False):
    """An error, as OpenAI's API words it."""

    error: Raw = ABSENT


decode_envelope = msgspec.json.Decoder(ErrorEnvelope).decode
