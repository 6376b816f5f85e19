"""The chat client against an API that is slow to agree."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator

import pytest

from fakes.chat import ChatApi, Json, Said, chat_api
from flotilla_learning.chat import ChatError, Endpoint, HopelessError, Reply, ask


def asked(*answers: Said, key: str | None = None, attempts: int = 6) -> tuple[Reply, ChatApi, list[float]]:
    """The reply to one question where the API gives these answers, and how long was waited between them."""
    waits: list[float] = []
    script: Iterator[Said] = iter(answers)
    with chat_api(lambda _: next(script)) as api:
        endpoint = Endpoint(api.url, "big", key, attempts=attempts)
        try:
            return ask(endpoint, "why?", max_tokens=9, sleep=waits.append), api, waits
        except ChatError as error:
            error.add_note(json.dumps(waits))
            raise


def test_question_is_asked_as_openai_clients_do() -> None:
    """With the key, at temperature 0, and what a gateway says of its answer is read."""
    headers = {"x-flotilla-model": "invoice", "x-flotilla-cost-usd": "0.0021"}
    reply, api, waits = asked(Said("because", headers=headers), key="s3cret")

    sent, body = api.requests[0]
    assert reply == Reply("because", "invoice", 0.0021)
    assert sent["Authorization"] == "Bearer s3cret"
    assert body == {
        "path": "/v1/chat/completions",
        "model": "big",
        "temperature": 0,
        "max_tokens": 9,
        "messages": [{"role": "user", "content": "why?"}],
    }
    assert waits == []


def test_question_is_asked_again_with_growing_waits() -> None:
    """After overload and faults, until it is answered."""
    reply, _, waits = asked(Said(status=429), Said(status=500), Said(status=503), Said("at last"))

    assert reply == Reply("at last", "big", None)
    assert [1 <= waits[0] <= 1.25, 2 <= waits[1] <= 2.5, 4 <= waits[2] <= 5] == [True] * 3


@pytest.mark.parametrize(
    ("said", "low", "high"),
    [
        pytest.param("7", 7, 8.75, id="seconds"),
        pytest.param("86400", 60, 75, id="a day is too long"),
        pytest.param("Thu, 01 Jan 2015 00:00:00 GMT", 0, 0, id="a date that has passed"),
        pytest.param("soon", 1, 1.25, id="something else"),
    ],
)
def test_retry_after_is_honoured(said: str, low: float, high: float) -> None:
    """As far as it makes sense."""
    _, _, waits = asked(Said(status=429, headers={"retry-after": said}), Said("yes"))

    assert low <= waits[0] <= high


def test_attempts_end() -> None:
    """With what was said last."""
    with pytest.raises(ChatError, match=r"says 503: no: 503, 3 times") as ended:
        asked(Said(status=503), Said(status=500), Said(status=503), attempts=3)

    assert len(json.loads(ended.value.__notes__[0])) == 2


@pytest.mark.parametrize("status", [401, 403, 404])
def test_wrong_key_or_address_is_hopeless(status: int) -> None:
    """Nothing is tried again."""
    with pytest.raises(HopelessError, match=f"says {status}: no: {status}"):
        asked(Said(status=status))


@pytest.mark.parametrize(
    ("said", "reason"),
    [
        pytest.param(Said(status=400), "says 400: no: 400", id="refused"),
        pytest.param(Said(status=422, body=b"<html>\n no"), "says 422: <html> no", id="refused without JSON"),
        pytest.param(Said(status=400, body=b"\x1b[2Jgone"), r"says 400: \[2Jgone", id="refused with a terminal's code"),
        pytest.param(Said(body=b"{}"), "something else than a chat completion", id="another shape"),
        pytest.param(Said(body=b"[" * 100_000), "something else than a chat completion", id="nested without end"),
        pytest.param(Said(status=400, body=b"[" * 4096), r"says 400: \[\[", id="refused with nesting without end"),
        pytest.param(Said(body=b"<html>"), "something else than a chat completion", id="no JSON"),
        pytest.param(Said(None), "answered without a text", id="no text"),
        pytest.param(Said("x" * 5_000_000), "more than 4194304 bytes", id="too long"),
    ],
)
def test_answer_that_is_none_is_an_error(said: Said, reason: str) -> None:
    """It would be the same again, so it is not asked again."""
    with pytest.raises(ChatError, match=reason) as ended:
        asked(said)

    assert not isinstance(ended.value, HopelessError)


def test_redirect_is_not_followed() -> None:
    """The key would go to an address that nobody named."""
    with (
        chat_api(lambda _: Said("stolen")) as other,
        pytest.raises(ChatError, match="says 302"),
    ):
        asked(Said(status=302, headers={"location": other.url}), key="s3cret")

    assert other.requests == []


def test_nobody_there_is_an_error_after_all_attempts() -> None:
    """A port that nothing listens on."""
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{unused.getsockname()[1]}"
        with pytest.raises(ChatError, match=f"{url} does not answer: .*, 2 times"):
            ask(Endpoint(url, "big", attempts=2), "why?", max_tokens=9, sleep=lambda _: None)


def test_prompts_of_any_script_arrive() -> None:
    """Half a surrogate pair as well, as it stands in a log."""
    said: list[Json] = []

    def echo(body: Json) -> Said:
        said.append(body)
        return Said(body["messages"][0]["content"])

    with chat_api(echo) as api:
        reply = ask(Endpoint(api.url, "big"), "日本語 \ud800 🙂", max_tokens=9)

    assert reply.text == "日本語 \ud800 🙂"


@pytest.mark.parametrize("said", ["nan", "inf", "-0.01", "much"])
def test_cost_that_cannot_be_is_not_known(said: str) -> None:
    """It is no reason to lose the answer, and would make a row that nobody can read."""
    reply, _, _ = asked(Said("yes", headers={"x-flotilla-cost-usd": said}))

    assert reply.usd is None
