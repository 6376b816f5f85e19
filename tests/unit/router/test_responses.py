"""Refusals of an engine, under whatever status they come."""

from __future__ import annotations

import pytest
from cases import recording

from flotilla_api.causes import Cause
from flotilla_router.responses import (
    InnerError,
    cause_of_response,
    error_in_answer,
    error_in_event,
    is_ours_to_solve,
)


@pytest.mark.parametrize(
    ("status", "body", "cause"),
    [
        pytest.param(400, recording("error_context_overflow").body, Cause.CONTEXT_OVERFLOW, id="prompt too long"),
        pytest.param(
            400, recording("error_max_tokens_too_large").body, Cause.CONTEXT_OVERFLOW, id="max_tokens too large"
        ),
        pytest.param(400, recording("error_bad_type").body, None, id="the client's mistake"),
        pytest.param(400, recording("error_missing_messages").body, None, id="missing messages"),
        pytest.param(422, b"", None, id="unprocessable"),
        pytest.param(404, recording("error_unknown_model").body, Cause.UPSTREAM_ERROR, id="a model that we named"),
        pytest.param(401, b"", Cause.UPSTREAM_ERROR, id="credentials that we sent"),
        pytest.param(405, b"", Cause.UPSTREAM_ERROR, id="a path that we chose"),
        pytest.param(302, b"", Cause.UPSTREAM_ERROR, id="a redirect from the address that we have"),
        pytest.param(529, b"", Cause.OVERLOADED, id="overloaded, in Anthropic's way"),
        pytest.param(429, b"", Cause.OVERLOADED, id="too many requests"),
        pytest.param(503, b"", Cause.OVERLOADED, id="unavailable"),
        pytest.param(408, b"", Cause.TIMEOUT, id="timeout"),
        pytest.param(504, b"", Cause.TIMEOUT, id="gateway timeout"),
        pytest.param(500, b"", Cause.UPSTREAM_ERROR, id="server error"),
    ],
)
def test_cause_of_response_tells_the_engines_fault_from_the_clients(
    status: int, body: bytes, cause: Cause | None
) -> None:
    """Only the client's own mistakes pass verbatim."""
    assert cause_of_response(status, body) is cause


@pytest.mark.parametrize(
    ("status", "ours"), [(302, True), (400, False), (401, True), (404, True), (407, True), (422, False), (500, False)]
)
def test_what_is_ours_to_solve_is_not_for_the_client(status: int, ours: bool) -> None:
    """Credentials, addresses and names that the router chose."""
    assert is_ours_to_solve(status) is ours


@pytest.mark.parametrize(
    ("body", "error"),
    [
        pytest.param(b'{"choices":[],"error":null}', None, id="null"),
        pytest.param(b'{"choices":[{"text":"\\"error\\""}]}', None, id="within a string"),
        pytest.param(b'{"choices":[{"finish_reason":"error"}]}', None, id="as a value"),
        pytest.param(b'{"choices":[{"error":{"message":"x"}}]}', None, id="deeper"),
        pytest.param(b'"error"', None, id="no object"),
        pytest.param(b'{"error": ', None, id="no JSON"),
        pytest.param(
            b'{"error": {"message":"x"}}',
            InnerError(Cause.UPSTREAM_ERROR, 502, b'{"error":{"message":"x"}}'),
            id="without a code",
        ),
        pytest.param(
            b'{"id": 1, "choices": [{}], "error": "x"}',
            InnerError(Cause.UPSTREAM_ERROR, 502, b'{"error":"x"}'),
            id="beside choices, as text",
        ),
        pytest.param(
            b'{"error":{"code":503}}', InnerError(Cause.OVERLOADED, 503, b'{"error":{"code":503}}'), id="overloaded"
        ),
        pytest.param(
            b'{"error":{"code":422}}',
            InnerError(Cause.UPSTREAM_ERROR, 422, b'{"error":{"code":422}}'),
            id="a code that should have come earlier",
        ),
        pytest.param(
            b'{"error":{"code":"context_length_exceeded"}}',
            InnerError(Cause.CONTEXT_OVERFLOW, 400, b'{"error":{"code":"context_length_exceeded"}}'),
            id="too long, in OpenAI's words",
        ),
        pytest.param(b'{"error":{"code":1}}', InnerError(Cause.UPSTREAM_ERROR, 502, b'{"error":{"code":1}}'), id="odd"),
        pytest.param(
            b'{"error":{"code":401,"message":"sk-1 is wrong"}}', InnerError(Cause.UPSTREAM_ERROR, 502, b""), id="ours"
        ),
    ],
)
def test_an_error_under_status_200_is_found(body: bytes, error: InnerError | None) -> None:
    """With its cause, the status that it should have had, and what the client may see of it."""
    assert error_in_answer(body) == error
    assert error_in_event(b"data: %b\n\n" % body) == error
    assert error_in_event(b"event: error\ndata:%b\r\n\r\n" % body) == error


def test_a_comment_is_no_error() -> None:
    """Whatever it says."""
    assert error_in_event(b': "error"\n\n') is None
