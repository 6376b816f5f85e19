"""A request as routing sees it: decoded once, into the few fields that matter; the body stays what the client sent."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import TypeVar, cast

import msgspec
from msgspec import Raw

from .errors import BadRequest
from .splice import Span, span_in
from .wire import ABSENT, Api, ParsedRequest, RequestWire, ResponseFormat, Spans, StreamOptions

_T = TypeVar("_T")
_ESCAPE_SAMPLE_BYTES = 16_384
_ESCAPE_SURPLUS_BYTES = 4
"""`\\u00e9` takes six bytes where UTF-8 takes two."""
_EMBEDDED_DATA_FROM_BYTES = 8_192
_MOST_EMBEDDED = 1_000
_MOST_MEASURED = 4_096
"""Prompts of one request that are looked at for the longest."""
_MOST_DECODED = 100_000
"""Commas in what is decoded item by item; a million would hold up everybody else."""
_SPANNED_FIELDS = ("model", "logprobs", "top_logprobs", "stream_options")


_decode_wire = msgspec.json.Decoder(RequestWire).decode
_decode_items = msgspec.json.Decoder(list[Raw]).decode
_decode_options = msgspec.json.Decoder(StreamOptions).decode
_decode_format = msgspec.json.Decoder(ResponseFormat).decode
_decode_text = msgspec.json.Decoder(str).decode
_decode_int = msgspec.json.Decoder(int).decode
_RAW_FIELDS = frozenset(f.name for f in msgspec.structs.fields(RequestWire) if f.type is Raw)
_SCALAR_FIELDS = frozenset(RequestWire.__struct_fields__) - _RAW_FIELDS


def parse_request(api: Api, body: bytes) -> ParsedRequest:
    """Read what routing needs of a body.

    Raises:
        BadRequest: it is not a JSON object, has no `model`, or a field that routing reads has the wrong type.
    """
    try:
        return _parse(api, body)
    except msgspec.ValidationError as error:
        raise _wrong_type(error) from error
    except RecursionError as error:
        raise BadRequest("The body is nested too deeply.", code="invalid_json") from error
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise BadRequest(f"The body is not valid JSON: {error}", code="invalid_json") from error


def _parse(api: Api, body: bytes) -> ParsedRequest:
    try:
        wire = _decode_wire(body)
        if not body.isascii():
            body.decode()  # the decoder looks at the bytes of what it reads only
    except msgspec.ValidationError:
        raise
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        body, wire, spans = _reencode(body, error)
    else:
        _require_model(wire)
        spans = _spans(body, wire)
    prompts, prompt_tokens = _measure(api, body, wire)
    tool_count = _count_tools(wire.tools) if _present(wire.tools) else 0
    tool_choice = bytes(wire.tool_choice)
    options = _NO_OPTIONS
    if _present(wire.stream_options):
        options = _nested("stream_options", _decode_options, wire.stream_options)
    return ParsedRequest(
        api=api,
        body=body,
        model=_model_name(wire.model),
        stream=bool(wire.stream),
        choices=max(wire.n or 1, 1) * prompts,
        max_tokens=wire.max_tokens if wire.max_completion_tokens is None else wire.max_completion_tokens,
        tool_count=tool_count,
        tools_possible=tool_count > 0 and tool_choice != b'"none"',
        tools_forced=tool_count > 0 and tool_choice not in _OPTIONAL_TOOLS,
        json_schema=_constrained(wire),
        logprobs=_logprobs(api, wire),
        echo=bool(wire.echo),
        wants_usage=bool(options.include_usage),
        wants_continuous_usage=bool(options.include_usage and options.continuous_usage_stats),
        prompt_tokens=prompt_tokens,
        spans=spans,
    )


_NO_OPTIONS = StreamOptions()
_OPTIONAL_TOOLS = (b"", b"null", b'"none"', b'"auto"')


def _present(part: Raw) -> bool:
    return part is not ABSENT and bytes(part) != b"null"


def _require_model(wire: RequestWire) -> None:
    if wire.model is ABSENT:
        raise BadRequest("You must provide a model parameter.", param="model", code="missing_model")


def _spans(body: bytes, wire: RequestWire) -> Spans:
    return Spans(
        body.index(b"{") + 1,
        span_in(body, wire.model),
        None if wire.logprobs is ABSENT else span_in(body, wire.logprobs),
        None if wire.top_logprobs is ABSENT else span_in(body, wire.top_logprobs),
        None if wire.stream_options is ABSENT else span_in(body, wire.stream_options),
    )


def _model_name(part: Raw) -> str:
    quoted = bytes(part)
    if quoted[:1] != b'"':
        raise BadRequest("`model` must be a string.", param="model", code="invalid_type")
    return _decode_text(quoted) if b"\\" in quoted else quoted[1:-1].decode()


def _constrained(wire: RequestWire) -> bool:
    if _present(wire.response_format):
        form = _nested("response_format", _decode_format, wire.response_format)
        if form.type != "text":
            return True
    return (
        _present(wire.structured_outputs)
        or _present(wire.guided_json)
        or _present(wire.guided_regex)
        or _present(wire.guided_choice)
        or _present(wire.guided_grammar)
    )


def _logprobs(api: Api, wire: RequestWire) -> int | None:
    """Alternatives a token; chat says `logprobs: true, top_logprobs: K`, completions `logprobs: K`."""
    if not _present(wire.logprobs):
        return None
    if api == "completions":
        return _nested("logprobs", _decode_int, wire.logprobs)
    asked = bytes(wire.logprobs)
    if asked == b"false":
        return None
    if asked != b"true":
        raise BadRequest("`logprobs` must be a boolean.", param="logprobs", code="invalid_type")
    return _nested("top_logprobs", _decode_int, wire.top_logprobs) if _present(wire.top_logprobs) else 0


def _measure(api: Api, body: bytes, wire: RequestWire) -> tuple[int, int]:
    """How many prompts there are, and about how many tokens the longest has, tools included.

    A completions prompt is a text, a list of texts, a list of token ids or a list of such lists.
    """
    if api == "completions":
        if bytes(memoryview(wire.prompt)[:1]) == b"[":
            return _measure_list(bytes(wire.prompt))
        return 1, _text_bytes(body, wire.prompt) // 4
    size = _text_bytes(body, wire.messages)
    if wire.tools is not ABSENT:
        size += len(memoryview(wire.tools))
    return 1, size // 4


def _measure_list(text: bytes) -> tuple[int, int]:
    """By counting bytes, because the list may have millions of items."""
    kind = text[1:].lstrip()[:1]
    if kind == b"]":
        return 1, 0
    if kind == b'"':
        return _measure_texts(text)
    if kind == b"[":
        return text.count(b"[") - 1, max(_ids_in(each) for each in text.split(b"]", _MOST_MEASURED)[:-1])
    return 1, text.count(b",") + 1


def _measure_texts(text: bytes) -> tuple[int, int]:
    if b"\\" in text:
        text = text.replace(b"\\\\", b"__").replace(b'\\"', b"__")  # now every quote begins or ends a text
    longest = max(len(each) + 2 for each in text.split(b'"', 2 * _MOST_MEASURED)[1::2])
    return text.count(b'"') // 2, longest // 4


def _ids_in(text: bytes) -> int:
    """Token ids of the list that ends where `text` does."""
    return text[text.rfind(b"[") + 1 :].count(b",") + 1


def _count_tools(part: Raw) -> int:
    """Exact, unless there are so many items that decoding them would take long: then their braces are counted."""
    text = bytes(part)
    if text[:1] == b"[" and text.count(b",") > _MOST_DECODED:
        return text.count(b"{")
    return len(_nested("tools", _decode_items, part))


def _text_bytes(body: bytes, text: Raw) -> int:
    """UTF-8 bytes of a part, about: without embedded images, `\\u` escapes counted as what they stand for."""
    size = len(memoryview(text))
    if size > _EMBEDDED_DATA_FROM_BYTES and b";base64," in body:
        size -= _embedded_bytes(bytes(text))
    escapes = body.count(b"\\u", 0, _ESCAPE_SAMPLE_BYTES) if b"\\" in body else 0
    if escapes:
        size -= int(escapes * _ESCAPE_SURPLUS_BYTES * size / min(len(body), _ESCAPE_SAMPLE_BYTES))
    return max(size, 0)


def _embedded_bytes(text: bytes) -> int:
    """Bytes of base64 data, from the first thousand places: they say nothing about tokens."""
    return sum(each.find(b'"') for each in text.split(b";base64,", _MOST_EMBEDDED)[1:])


def _reencode(body: bytes, error: msgspec.DecodeError | UnicodeDecodeError) -> tuple[bytes, RequestWire, Spans]:
    """The same for what Python's json reads and the standard does not: NaN, a BOM, UTF-16, half a surrogate pair.

    The engine's parser takes it too, so it is passed on, in one encoding and without duplicates, unless it is so long
    that reading it would hold up everybody else.
    """
    if body.count(b",") > _MOST_DECODED:
        raise error
    try:
        fields: object = json.loads(body)
    except ValueError:
        raise error from None
    if not isinstance(fields, dict):
        raise BadRequest("The body must be a JSON object.", code="invalid_json")
    texts = {key: json.dumps(value).encode() for key, value in cast("dict[str, object]", fields).items()}
    scalars = {key: value for key, value in cast("dict[str, object]", fields).items() if key in _SCALAR_FIELDS}
    wire = msgspec.convert(scalars, RequestWire)
    for key in texts.keys() & _RAW_FIELDS:
        setattr(wire, key, Raw(texts[key]))
    _require_model(wire)
    body, spans = _assemble(texts)
    return body, wire, Spans(opening=1, **spans)


def _assemble(texts: dict[str, bytes]) -> tuple[bytes, dict[str, Span]]:
    """A body of these fields, and the spans of those that a rewrite may touch."""
    parts: list[bytes] = []
    spans: dict[str, Span] = {}
    position = 0
    for key, text in texts.items():
        lead = b"%s%s:" % (b"," if parts else b"{", json.dumps(key).encode())
        position += len(lead) + len(text)
        parts += (lead, text)
        if key in _SPANNED_FIELDS:
            spans[key] = (position - len(text), position)
    parts.append(b"}")
    return b"".join(parts), spans


def _nested(field: str, decode: Callable[[Raw], _T], part: Raw) -> _T:
    """A part of the body, decoded; its errors name the field."""
    try:
        return decode(part)
    except msgspec.ValidationError as error:
        raise BadRequest(f"`{field}`: {error}.", param=field, code="invalid_type") from error


def _wrong_type(error: msgspec.ValidationError) -> BadRequest:
    """msgspec ends its messages with a path: "... - at `$.stream`"."""
    message, _, path = str(error).partition(" - at `$")
    param = path.strip("`.") or None
    if param is None:
        return BadRequest(f"The body must be a JSON object: {message}.", code="invalid_json")
    return BadRequest(f"`{param}`: {message}.", param=param, code="invalid_type")
