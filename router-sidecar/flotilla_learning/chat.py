"""Questions to a model behind an OpenAI-compatible API, and texts to an encoder, for as long as that takes."""

from __future__ import annotations

import email.utils
import json
import math
import random
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from email.message import Message
from http.client import HTTPException
from typing import Any, cast

MAX_ANSWER_BYTES = 4 * 1024 * 1024
_MOST_WAIT_SECONDS = 60.0
_PASSING = frozenset({408, 409, 425, 429, 500, 502, 503, 504, 529})
"""Statuses after which the same question may be answered."""
_HOPELESS = frozenset({401, 403, 404})
"""Statuses that every further question would get as well."""


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    """A key is shown to the address that was given and to no other."""

    def redirect_request(self, *_: Any, **__: Any) -> None:
        """None: the redirect itself is the answer."""


_OPENER = urllib.request.build_opener(_NoRedirects)


class ChatError(Exception):
    """A question has no answer; the message says why."""


class HopelessError(ChatError):
    """Nor would another question have one: wrong address, model or key."""


@dataclass(frozen=True, slots=True)
class Reply:
    """What a model said."""

    text: str
    model: str
    """Who answered: as the gateway says, else as was asked."""
    usd: float | None
    """As the gateway says; None: not known."""


@dataclass(frozen=True, slots=True)
class Endpoint:
    """A model and how it is asked."""

    url: str
    """Base URL, the part before /chat/completions or /embeddings."""
    model: str
    key: str | None = None
    timeout_seconds: float = 120.0
    attempts: int = 6
    """The first one included; between them it is waited for 1, 2, 4 ... seconds, or as the server says, at most 60."""


def ask(endpoint: Endpoint, text: str, *, max_tokens: int, sleep: Callable[[float], None] = time.sleep) -> Reply:
    """What the model says to `text`, at temperature 0.

    Raises:
        ChatError: the question is refused, the answer has no text, or all attempts failed.
    """
    messages = [{"role": "user", "content": text}]
    body = {"model": endpoint.model, "temperature": 0, "max_tokens": max_tokens, "messages": messages}
    data, found = send(endpoint, "/chat/completions", json.dumps(body).encode(), sleep=sleep)
    text = _content(endpoint, data)
    return Reply(text, found.get("x-flotilla-model") or endpoint.model, _dollars(found.get("x-flotilla-cost-usd")))


def send(
    endpoint: Endpoint, path: str, body: bytes, *, sleep: Callable[[float], None] = time.sleep
) -> tuple[bytes, Message]:
    """The body and the headers of what is answered to one request.

    Raises:
        ChatError: it is refused, larger than MAX_ANSWER_BYTES, or all attempts failed.
    """
    failure = ""
    for attempt in range(endpoint.attempts):
        try:
            return _send_once(endpoint, path, body)
        except urllib.error.HTTPError as error:
            with error:
                said = f"{endpoint.url} says {error.code}: {_said(error)}"
            if error.code in _HOPELESS:
                raise HopelessError(said) from error
            if error.code not in _PASSING:
                raise ChatError(said) from error
            wait, failure = _wait_seconds(attempt, error.headers), said
        except (OSError, HTTPException) as error:
            wait, failure = _wait_seconds(attempt, None), f"{endpoint.url} does not answer: {error}"
        if attempt + 1 < endpoint.attempts:
            sleep(wait)
    raise ChatError(f"{failure}, {endpoint.attempts} times")


def _send_once(endpoint: Endpoint, path: str, body: bytes) -> tuple[bytes, Message]:
    headers = {"content-type": "application/json", "accept": "application/json"}
    if endpoint.key is not None:
        headers["authorization"] = f"Bearer {endpoint.key}"
    url = endpoint.url.rstrip("/") + path
    request = urllib.request.Request(url, body, headers)  # noqa: S310 - the command lets only http and https in
    with _OPENER.open(request, timeout=endpoint.timeout_seconds) as response:
        data = response.read(MAX_ANSWER_BYTES + 1)
        found: Message = response.headers
    if len(data) > MAX_ANSWER_BYTES:
        raise ChatError(f"{endpoint.url} answers with more than {MAX_ANSWER_BYTES} bytes")
    return data, found


def _content(endpoint: Endpoint, data: bytes) -> str:
    try:
        content = cast("Mapping[str, Any]", json.loads(data))["choices"][0]["message"]["content"]
    except (ValueError, LookupError, TypeError, RecursionError) as error:
        raise ChatError(f"{endpoint.url} answers with something else than a chat completion") from error
    if not isinstance(content, str):
        raise ChatError(f"{endpoint.model} answered without a text")
    return content


def _dollars(text: str | None) -> float | None:
    """What a header says; None: nothing, or what no answer can cost."""
    try:
        usd = math.nan if text is None else float(text)
    except ValueError:
        return None
    return usd if 0 <= usd < math.inf else None


def _wait_seconds(attempt: int, headers: Message | None) -> float:
    """As the server says, else twice as long each time; spread, so that many do not come back at once."""
    said = _retry_after(None if headers is None else headers.get("retry-after"))
    spread = random.uniform(1.0, 1.25)  # noqa: S311 - no secret
    return min(2.0**attempt if said is None else said, _MOST_WAIT_SECONDS) * spread


def _retry_after(text: str | None) -> float | None:
    """Seconds, of either form that HTTP knows; None: it says nothing that can be read."""
    if text is None:
        return None
    try:
        return max(0.0, float(text))
    except ValueError:
        pass
    try:
        return max(0.0, email.utils.parsedate_to_datetime(text).timestamp() - time.time())
    except ValueError:
        return None


def _said(error: urllib.error.HTTPError) -> str:
    """The first 200 characters of the message in an error's body, without what could steer a terminal."""
    try:
        body = error.read(4096).decode(errors="replace")
    except (OSError, HTTPException):
        return str(error.reason)
    try:
        message = json.loads(body)["error"]["message"]
    except (ValueError, LookupError, TypeError, RecursionError):
        message = body
    shown = "".join(each if each.isprintable() else " " for each in str(message))
    return " ".join(shown.split())[:200] or str(error.reason)
