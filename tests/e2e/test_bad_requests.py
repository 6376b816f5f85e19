"""What a gateway does with requests that are wrong: the right 4xx in OpenAI's shape, and it goes on serving."""

from __future__ import annotations

import socket
from collections.abc import Generator, Iterator

import pytest

from e2e.fixtures import new_space
from e2e.gateway import Gateway, a_question
from e2e.objects import CLIENT_KEY, a_policy, an_external_fallback
from e2e.steps import Space, provider_of
from flotilla_api import metrics
from stack.flotilla import Stack

BODY_LIMIT = 64 * 1024


@pytest.fixture(scope="module")
def fleet(stack: Stack) -> Generator[Space]:
    """A policy with a fallback only, and a small bound on bodies."""
    with new_space(stack) as space:
        space.apply(
            an_external_fallback("big"), a_policy("assist", fallbacks=["big"], pinnable=["big"], maxBodyBytes="64Ki")
        )
        space.wait_ready("RoutingPolicy", "assist")
        yield space


@pytest.fixture
def gateway(fleet: Space) -> Generator[Gateway]:
    """The gateway; whatever a test did to it, it still answers, and nothing was logged as a crash."""
    gateway = fleet.gateway("assist")
    yield gateway
    assert gateway.ask("still there?").status_code == 200
    log = gateway.raw_log()
    assert "Traceback" not in log
    assert "Exception" not in log


def _connect(gateway: Gateway) -> socket.socket:
    host, _, port = gateway.url.removeprefix("http://").removesuffix("/v1").partition(":")
    return socket.create_connection((host, int(port)), timeout=20)


def _read_all(connection: socket.socket) -> bytes:
    return b"".join(iter(lambda: connection.recv(65536), b""))


def _head(length: int, *lines: str) -> bytes:
    head = [
        "POST /v1/chat/completions HTTP/1.1",
        "host: gateway",
        f"authorization: Bearer {CLIENT_KEY}",
        "content-type: application/json",
        f"content-length: {length}",
        *lines,
    ]
    return "\r\n".join([*head, "", ""]).encode()


@pytest.mark.parametrize(
    ("body", "media_type", "status", "code"),
    [
        pytest.param(b'{"model": "auto", ', "application/json", 400, "invalid_json", id="broken JSON"),
        pytest.param(b"[]", "application/json", 400, "invalid_json", id="not an object"),
        pytest.param(b"{}", "application/json", 400, "missing_model", id="no model"),
        pytest.param(b'{"model": 7}', "application/json", 400, "invalid_type", id="a model that is a number"),
        pytest.param(b'{"model": "auto"}', "text/plain", 415, "unsupported_media_type", id="a wrong content type"),
        pytest.param(b'{"model": "gpt-9"}', "application/json", 404, "model_not_found", id="an unknown model"),
    ],
)
def test_a_wrong_request_is_refused_in_openais_shape(
    gateway: Gateway, body: bytes, media_type: str, status: int, code: str
) -> None:
    """The status, the code and a message that a person can act on."""
    with gateway.client() as client:
        answer = client.post("/chat/completions", content=body, headers={"content-type": media_type})

    error = answer.json()["error"]
    assert answer.status_code == status
    assert error["code"] == code
    assert {"message", "type", "param", "code"} == error.keys()
    assert len(error["message"]) > 10


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        pytest.param("GET", "/chat/completions", 405, "method_not_allowed", id="a wrong method"),
        pytest.param("POST", "/nothing", 404, "not_found", id="an unknown path"),
    ],
)
def test_a_wrong_address_is_refused(gateway: Gateway, method: str, path: str, status: int, code: str) -> None:
    """Methods and paths that are not there are answered as such."""
    with gateway.client() as client:
        answer = client.request(method, path)

    assert answer.status_code == status
    assert answer.json()["error"]["code"] == code


def test_a_refusal_is_counted(gateway: Gateway) -> None:
    """The metric of refused requests tells the code."""
    before = gateway.metric(metrics.ROUTER_REFUSED, code="model_not_found")

    gateway.ask("hello", model="gpt-9")

    assert gateway.metric(metrics.ROUTER_REFUSED, code="model_not_found") == before + 1


def test_a_body_over_the_limit_is_a_413(gateway: Gateway) -> None:
    """The bound of the policy holds for a body whose length is declared."""
    answer = gateway.ask("x" * BODY_LIMIT)

    assert answer.status_code == 413
    assert answer.json()["error"]["code"] == "request_too_large"
    assert str(BODY_LIMIT) in answer.json()["error"]["message"]


def test_a_body_that_grows_over_the_limit_is_a_413(gateway: Gateway) -> None:
    """The same for a body that comes in chunks, whose length nobody knows before."""

    def chunks() -> Iterator[bytes]:
        yield b'{"model": "auto", "messages": [{"role": "user", "content": "'
        for _ in range(20):
            yield b"x" * 8192
        yield b'"}]}'

    with gateway.client() as client:
        answer = client.post("/chat/completions", content=chunks(), headers={"content-type": "application/json"})

    assert answer.status_code == 413


def test_a_body_just_under_the_limit_is_answered(gateway: Gateway) -> None:
    """The bound is the policy's, not less: the model is asked, whatever it makes of so many words."""
    answer = gateway.ask("x " * (BODY_LIMIT // 2 - 100), max_tokens=4)

    assert answer.status_code != 413
    assert answer.headers["x-flotilla-model"] == "big"


@pytest.mark.parametrize(
    "headers",
    [
        pytest.param({f"x-{number}": "1" for number in range(200)}, id="too many"),
        pytest.param({"x-bomb": "x" * 70_000}, id="too long"),
    ],
)
def test_a_header_bomb_is_a_431(gateway: Gateway, headers: dict[str, str]) -> None:
    """Too many or too large headers are refused before anything else is looked at."""
    with gateway.client() as client:
        answer = client.post("/chat/completions", json=a_question("hi"), headers=headers)

    assert answer.status_code == 431
    assert answer.json()["error"]["code"] == "headers_too_large"


def test_what_is_not_http_is_a_400(gateway: Gateway) -> None:
    """Bytes that are no HTTP are answered and the connection is closed."""
    with _connect(gateway) as connection:
        connection.sendall(b"\x16\x03\x01 this is no request\r\n\r\n")
        answer = _read_all(connection)

    assert answer.startswith(b"HTTP/1.1 400 ")
    assert b"invalid_http" in answer


def test_a_client_that_leaves_half_way_through_its_request_does_no_harm(gateway: Gateway) -> None:
    """Half a head, half a body: the connection is dropped and nothing else."""
    for sent in (b"POST /v1/chat/comp", _head(500) + b'{"model": "au'):
        with _connect(gateway) as connection:
            connection.sendall(sent)


def test_a_client_that_stops_sending_gets_a_400_or_nothing(gateway: Gateway) -> None:
    """A client that half-closes within its request is never answered as if the request were whole."""
    with _connect(gateway) as connection:
        connection.sendall(_head(500) + b'{"model": "au')
        connection.shutdown(socket.SHUT_WR)
        answer = _read_all(connection)

    assert answer == b"" or answer.startswith(b"HTTP/1.1 400 ")


def test_a_client_that_leaves_within_its_answer_is_noted(stack: Stack, gateway: Gateway) -> None:
    """The log says that the client is gone, and the model server is not kept busy for nobody."""
    provider = provider_of(stack)
    provider.inject("hang", after_events=2)
    body = b'{"model": "auto", "stream": true, "messages": [{"role": "user", "content": "left alone"}]}'
    with _connect(gateway) as connection:
        connection.sendall(_head(len(body), "x-request-id: leaves-early") + body)
        connection.recv(1)

    line = gateway.line_of("leaves-early")
    assert line["client_gone"]
    (seen,) = provider.requests("left alone")
    assert seen["outcome"] == "client_gone"
