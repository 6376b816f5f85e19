"""What the router writes: bodies for one attempt, error envelopes; and the request types that it reads.

A rewrite replaces spans of present fields and inserts absent ones after the opening brace; every other byte stays what
the client sent, unknown fields, duplicates and whitespace included.
"""

from __future__ import annotations

import json
from dataclasses import dataclass

import msgspec
from msgspec import Raw

from flotilla_api.snapshot import RequestEdits

from .errors import BadRequest, error_body
from .request import Api, ParsedRequest, Spans, parse_request
from .splice import Span, replace_spans
from .wire import DECODE_ERRORS, Metered, UsageWire

__all__ = [
    "Api",
    "BadRequest",
    "Injection",
    "ParsedRequest",
    "Span",
    "Spans",
    "Usage",
    "decode_usage",
    "error_body",
    "parse_request",
    "plan_injection",
    "rewrite",
    "usage_of",
]

STREAM_TOP_LOGPROBS = 5
WHOLE_TOP_LOGPROBS = 0
"""Whole answers are judged by the mean alone: five alternatives a token would cost five times the bytes."""


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


def plan_injection(request: ParsedRequest, *, judged: bool, external: bool = False) -> Injection:
    """Decide what an attempt needs that the client did not ask for.

    judged: the answer goes through a StreamJudge or judge_whole. external: vLLM's own options are left out.
    Streams are always metered. Logprobs that the client asked for stay as it asked.
    """
    continuous = request.stream and not external
    return Injection(
        top_logprobs=_top_logprobs(request) if judged else None,
        usage=request.stream and not request.wants_usage,
        continuous_usage=continuous and not request.wants_continuous_usage,
    )


def _top_logprobs(request: ParsedRequest) -> int | None:
    """K of injected logprobs; None where they are there, would have no meaning, or would hide the client's mistake."""
    if request.logprobs is not None or request.echo:
        return None
    stray = request.spans.top_logprobs
    if request.api == "chat" and stray is not None and request.body[stray[0] : stray[1]] not in (b"null", b"0"):
        return None
    return STREAM_TOP_LOGPROBS if request.stream else WHOLE_TOP_LOGPROBS


def rewrite(
    request: ParsedRequest,
    *,
    model: str,
    injection: Injection,
    edits: RequestEdits | None = None,
    strict: bool = False,
) -> list[bytes]:
    """Parts that concatenate to the body for one attempt.

    strict: for targets whose parser we do not know, which might take another of several "model" keys than we judged:
    they get each key of the top level once, unless there clearly is but one of that name.

    Raises:
        BadRequest: the body is nested too deeply.
    """
    try:
        parts = _with_fields(request, model, injection)
        edited = edits is not None and edits != _NO_EDITS
        if edited or (strict and _may_repeat_model(request.body)):
            return [_edit(b"".join(parts), edits or _NO_EDITS)]
    except RecursionError as error:
        raise BadRequest("The body is nested too deeply.", code="invalid_json") from error
    return parts


def _with_fields(request: ParsedRequest, model: str, injection: Injection) -> list[bytes]:
    """The body with another model and what is injected."""
    spans = request.spans
    changes = [(*spans.model, msgspec.json.encode(model))]
    inserted = b""
    for key, span, text in _injected_fields(request, injection):
        if span is None:
            inserted += b'"%s":%s,' % (key, text)
        else:
            changes.append((*span, text))
    if inserted:
        changes.append((spans.opening, spans.opening, inserted))
    return replace_spans(request.body, changes)


_NO_EDITS = RequestEdits()
_USAGE_OPTION = b'{"include_usage":true}'
_CONTINUOUS_USAGE_OPTION = b'{"include_usage":true,"continuous_usage_stats":true}'


def _injected_fields(request: ParsedRequest, injection: Injection) -> list[tuple[bytes, Span | None, bytes]]:
    """Key, span if present, and text of each field that is set."""
    spans = request.spans
    fields: list[tuple[bytes, Span | None, bytes]] = []
    if injection.top_logprobs is not None:
        count = b"%d" % injection.top_logprobs
        if request.api == "chat":
            fields.append((b"logprobs", spans.logprobs, b"true"))
            fields.append((b"top_logprobs", spans.top_logprobs, count))
        else:
            fields.append((b"logprobs", spans.logprobs, count))
    if injection.usage or injection.continuous_usage:
        options = _CONTINUOUS_USAGE_OPTION if injection.continuous_usage else _USAGE_OPTION
        span = spans.stream_options
        fields.append(
            (b"stream_options", span, _merge_options(request.body[span[0] : span[1]], options) if span else options)
        )
    return fields


def _merge_options(present: bytes, injected: bytes) -> bytes:
    """The client's stream_options with ours put in."""
    if present == b"null":
        return injected
    options = _decode_members(present) | _decode_members(injected)
    return _encode_members(options)


_decode_members = msgspec.json.Decoder(dict[str, Raw]).decode


def _encode_members(members: dict[str, Raw]) -> bytes:
    """Keys in ASCII, because one that only Python's json reads may have no other form."""
    return b"{%s}" % b",".join([b"%s:%s" % (json.dumps(key).encode(), text) for key, text in members.items()])


def _edit(body: bytes, edits: RequestEdits) -> bytes:
    """Drop, rename, then set top-level fields; a rename never overwrites a field that is there.

    Values stay byte for byte; the text between fields is normalised, and of duplicates the last remains.
    """
    members = _members(body)
    for name in edits.drop:
        members.pop(name, None)
    for old, new in edits.rename.items():
        text = members.pop(old, None)
        if text is not None:
            members.setdefault(new, text)
    for name, value in edits.set.items():
        members[name] = Raw(msgspec.json.encode(value))
    return _encode_members(members)


def _members(body: bytes) -> dict[str, Raw]:
    try:
        return _decode_members(body)
    except msgspec.DecodeError:  # a re-encoded body may hold what only Python's json reads
        fields: dict[str, object] = json.loads(body)
        return {key: Raw(json.dumps(value).encode()) for key, value in fields.items()}


def _may_repeat_model(body: bytes) -> bool:
    """Whether "model" is there more than once, at whatever depth, or may be spelt with escapes: \\u0064 to \\u006f."""
    return body.count(b'"model"') != 1 or b"\\u006" in body


_decode_usage = msgspec.json.Decoder(UsageWire).decode
_decode_metered = msgspec.json.Decoder(Metered).decode


def usage_of(body: bytes) -> Usage | None:
    """Usage of a whole answer; None where it has none."""
    try:
        usage = _decode_metered(body).usage
    except DECODE_ERRORS:
        return None
    return None if usage is None else Usage(usage.prompt_tokens, usage.completion_tokens)


def decode_usage(text: bytes | Raw) -> Usage | None:
    """A usage object; None where it is none."""
    try:
        usage = _decode_usage(text)
    except msgspec.DecodeError:
        return None
    return Usage(usage.prompt_tokens, usage.completion_tokens)
