"""What an engine's refusal says: a cause to go elsewhere for, or the client's own mistake."""

from __future__ import annotations

import msgspec
from msgspec import Raw

from flotilla_api.policy import Cause

from .chunks import DECODE_ERRORS, Answer, is_present

_OVERFLOW = (b"maximum context length", b"max_model_len", b"context_length_exceeded")
_CAUSES = {
    401: Cause.UPSTREAM_ERROR,  # our credentials, our model names: never the client's doing
    402: Cause.UPSTREAM_ERROR,
    403: Cause.UPSTREAM_ERROR,
    404: Cause.UPSTREAM_ERROR,
    408: Cause.TIMEOUT,
    429: Cause.OVERLOADED,
    503: Cause.OVERLOADED,
    504: Cause.TIMEOUT,
    529: Cause.OVERLOADED,
}


def cause_of_response(status: int, body: bytes) -> Cause | None:
    """Cause of an answer with status >= 400; None: the client's own mistake, which passes verbatim.

    | status             | cause                                                    |
    |--------------------|----------------------------------------------------------|
    | 429, 503, 529      | Overloaded                                               |
    | 408, 504           | Timeout                                                  |
    | 401, 402, 403, 404 | UpstreamError: the router chose model and credentials    |
    | other 5xx          | UpstreamError                                            |
    | 400, 413           | ContextOverflow if the message says so, else None        |
    | other 4xx          | None                                                     |
    """
    cause = _CAUSES.get(status)
    if cause is not None:
        return cause
    if status >= 500:
        return Cause.UPSTREAM_ERROR
    if status in (400, 413) and any(phrase in body for phrase in _OVERFLOW):
        return Cause.CONTEXT_OVERFLOW
    return None


class _Error(msgspec.Struct, gc=False):
    code: int | str | None = None


_decode_error = msgspec.json.Decoder(_Error).decode


def cause_of_error(answer: Answer) -> Cause | None:
    """Cause of an error that came as an event; None where the chunk is none.

    The stream had begun, so an error without a telling code is an UpstreamError.
    """
    if not is_present(answer.error):
        return None
    return _cause_of_code(answer.error) or Cause.UPSTREAM_ERROR


def _cause_of_code(error: Raw) -> Cause | None:
    try:
        code = _decode_error(error).code
    except DECODE_ERRORS:
        return None
    return cause_of_response(code, bytes(error)) if isinstance(code, int) else None
