"""What an engine's refusal says: a cause to go elsewhere for, or the client's own mistake."""

from __future__ import annotations

from dataclasses import dataclass

import msgspec
from msgspec import Raw

from flotilla_api.causes import Cause

from .chunks import is_filled
from .sse import data_offset
from .wire import DECODE_ERRORS, decode_envelope

STATUS_OF: dict[Cause, int] = {
    Cause.OVERLOADED: 503,
    Cause.NO_READY_REPLICA: 503,
    Cause.TIMEOUT: 504,
    Cause.UPSTREAM_ERROR: 502,
    Cause.CONTEXT_OVERFLOW: 400,
}
"""What a client is told where no model server has given a status."""
_OVERFLOW = (b"maximum context length", b"max_model_len", b"context_length_exceeded")
_OURS_TO_SOLVE = frozenset((401, 402, 403, 404, 405, 407))
_CAUSES = {
    408: Cause.TIMEOUT,
    429: Cause.OVERLOADED,
    503: Cause.OVERLOADED,
    504: Cause.TIMEOUT,
    529: Cause.OVERLOADED,
}


def is_ours_to_solve(status: int) -> bool:
    """Whether a refusal is about our credentials, model names or addresses: never shown to the client."""
    return status < 400 or status in _OURS_TO_SOLVE


def cause_of_response(status: int, body: bytes) -> Cause | None:
    """Cause of an answer that is none; None: the client's own mistake, which passes verbatim.

    | status                  | cause                                                    |
    |-------------------------|----------------------------------------------------------|
    | 429, 503, 529           | Overloaded                                               |
    | 408, 504                | Timeout                                                  |
    | below 400, 401-405, 407 | UpstreamError: the router chose model and credentials    |
    | other 5xx               | UpstreamError                                            |
    | 400, 413                | ContextOverflow if the message says so, else None        |
    | other 4xx               | None                                                     |
    """
    cause = _CAUSES.get(status)
    if cause is not None:
        return cause
    if status >= 500 or is_ours_to_solve(status):
        return Cause.UPSTREAM_ERROR
    if status in (400, 413) and any(phrase in body for phrase in _OVERFLOW):
        return Cause.CONTEXT_OVERFLOW
    return None


@dataclass(frozen=True, slots=True)
class InnerError:
    """An error that came under status 200."""

    cause: Cause
    status: int
    """What it should have come under."""
    body: bytes
    """The envelope with the engine's error; empty where that is not for the client's eyes."""


class _Error(msgspec.Struct, gc=False):
    code: int | str | None = None


_decode_error = msgspec.json.Decoder(_Error).decode


def error_in_answer(body: bytes) -> InnerError | None:
    """The error in a whole answer, or in the data of an event; None where there is none.

    The engine had accepted the request, so an error without a telling code is an UpstreamError.
    """
    if b'"error"' not in body:  # an unescaped quote stands in no string: this is a key, or a whole string
        return None
    try:
        error = decode_envelope(body).error
    except DECODE_ERRORS:
        return None
    return _inner_error(error) if is_filled(error) else None


def error_in_event(event: bytes) -> InnerError | None:
    """The error in an event of a stream."""
    if b'"error"' not in event:
        return None
    offset = data_offset(event)
    return None if offset < 0 else error_in_answer(event[offset:])


def _inner_error(error: Raw) -> InnerError:
    text, code = bytes(error), _code_of(error)
    cause = cause_of_response(code or 400, text) or Cause.UPSTREAM_ERROR
    if code in _OURS_TO_SOLVE:
        return InnerError(cause, STATUS_OF[cause], b"")
    status = code if code is not None and 400 <= code < 600 else STATUS_OF[cause]
    return InnerError(cause, status, b'{"error":%b}' % text)


def _code_of(error: Raw) -> int | None:
    try:
        code = _decode_error(error).code
    except DECODE_ERRORS:
        return None
    return code if isinstance(code, int) else None
