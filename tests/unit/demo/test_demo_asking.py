"""What the demo's caller sees, against a server that says exactly these bytes."""

from __future__ import annotations

import socket
import threading
from collections.abc import Generator
from contextlib import contextmanager

import pytest
from openai import OpenAI

from demo.asking import Answer, Ending, ask
from demo.questions import Question

HEADERS = (
    "x-flotilla-model: small\r\nx-flotilla-reason: Static\r\nx-flotilla-attempts: 2\r\nx-flotilla-request-id: r-1\r\n"
)
WORDS = 'data: {"id":"1","object":"chat.completion.chunk","created":1,"model":"m","choices":[{"index":0,"delta":{"content":"hi"},"finish_reason":null}]}\n\n'  # noqa: E501
FINISH = WORDS.replace("null", '"stop"')
ERROR = 'data: {"error":{"message":"the model server failed","type":"server_error","param":null,"code":null}}\n\n'
WHOLE = '{"id":"1","object":"chat.completion","created":1,"model":"m","choices":[{"index":0,"message":{"role":"assistant","content":"hi"},"finish_reason":"stop"}]}'  # noqa: E501


def _whole(body: str) -> str:
    return f"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n{HEADERS}content-length: {len(body)}\r\n\r\n{body}"


def _stream(*events: str, ended: bool = True) -> str:
    chunks = "".join(f"{len(event):x}\r\n{event}\r\n" for event in events)
    head = f"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n{HEADERS}transfer-encoding: chunked\r\n\r\n"
    return head + chunks + ("0\r\n\r\n" if ended else "")


@contextmanager
def _server(says: str) -> Generator[int]:
    """A port whose first connection is answered with these bytes and closed."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def answer_one() -> None:
            connection, _ = listener.accept()
            with connection:
                connection.recv(65536)
                connection.sendall(says.encode())

        thread = threading.Thread(target=answer_one)
        thread.start()
        yield listener.getsockname()[1]
        thread.join()


def _ask(says: str, *, stream: bool) -> Answer:
    with (
        _server(says) as port,
        OpenAI(base_url=f"http://127.0.0.1:{port}/v1", api_key="key", max_retries=0) as client,
    ):
        return ask(client, Question("q", "hello", stream))


@pytest.mark.parametrize(
    ("says", "stream"),
    [
        pytest.param(_whole(WHOLE), False, id="whole"),
        pytest.param(_stream(WORDS, FINISH, "data: [DONE]\n\n"), True, id="streamed"),
    ],
)
def test_an_answer_tells_who_gave_it_and_what_it_was(says: str, *, stream: bool) -> None:
    """Its model, reason, attempts and request id are the response's headers."""
    answer = _ask(says, stream=stream)

    assert answer.is_complete
    assert (answer.model, answer.reason, answer.attempts, answer.request_id) == ("small", "Static", 2, "r-1")
    assert answer.text == ("hihi" if stream else "hi")
    assert answer.events == (2 if stream else 0)


@pytest.mark.parametrize(
    ("says", "stream", "ending"),
    [
        pytest.param(_stream(WORDS, ERROR), True, Ending.ERROR_EVENT, id="a stream with an error event"),
        pytest.param(_stream(WORDS), True, Ending.SILENT, id="a stream that stops without a reason to finish"),
        pytest.param(_stream(WORDS, ended=False), True, Ending.FAILED, id="a stream whose connection is cut"),
        pytest.param(_stream("data: {\n\n"), True, Ending.FAILED, id="an event that is no JSON"),
        pytest.param(_whole(WHOLE)[:-20], False, Ending.FAILED, id="a whole answer whose connection is cut"),
        pytest.param(_whole('{"id'), False, Ending.FAILED, id="an answer that is no JSON"),
        pytest.param("", False, Ending.FAILED, id="a connection closed without an answer"),
        pytest.param("HTTP/1.1 503 No\r\ncontent-length: 0\r\n\r\n", True, Ending.FAILED, id="a refusal"),
    ],
)
def test_an_answer_that_is_not_whole_says_how_it_ended(says: str, ending: Ending, *, stream: bool) -> None:
    """Whatever goes wrong on the way is an answer of its own kind, never an exception of the caller's."""
    answer = _ask(says, stream=stream)

    assert answer.ending is ending
    assert bool(answer.error) == (ending is not Ending.SILENT)
    assert answer.events == (says.count("content") > 1 and WORDS in says)
