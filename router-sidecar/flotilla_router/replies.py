"""Who waits for an answer, and what is told besides the answer itself: header lines of our own."""

from __future__ import annotations

from http import HTTPStatus
from typing import Protocol

from .cost import dollars
from .logs import RequestRecord

_REASONS = {status.value: status.phrase.encode() for status in HTTPStatus} | {499: b"Client Closed Request"}
_STATUS_LINES = {status: b"HTTP/1.1 %d %b\r\n" % (status, phrase) for status, phrase in _REASONS.items()}
JSON_LINES = b"content-type: application/json\r\n"
EVENT_LINES = b"content-type: text/event-stream; charset=utf-8\r\ncache-control: no-cache\r\n"


class Client(Protocol):
    """Whoever waits for the answer. Header lines end in CRLF; framing is the client's own business."""

    def respond(self, status: int, headers: bytes, body: bytes) -> None:
        """Send a whole answer; the exchange is over."""
        ...

    def begin_stream(self, status: int, headers: bytes) -> None:
        """Send the head of a stream."""
        ...

    def send(self, data: bytes) -> None:
        """Send more of the stream."""
        ...

    def end(self) -> None:
        """End the stream; the exchange is over."""
        ...


def retry_line(seconds: int | None) -> bytes:
    """When to ask again; None: nobody says."""
    return b"" if seconds is None else b"retry-after: %d\r\n" % seconds


def status_line(status: int) -> bytes:
    """The first line of an answer."""
    return _STATUS_LINES.get(status) or b"HTTP/1.1 %d Unknown\r\n" % status


def request_lines(policy: str, request_id: str) -> bytes:
    """Which policy, and which request."""
    return f"x-flotilla-policy: {policy}\r\nx-flotilla-request-id: {request_id}\r\n".encode()


def answer_lines(record: RequestRecord, *, model: str, reason: str | None, score: float | None) -> bytes:
    """The same, and who answers, why, after how many calls, and how sure of it."""
    lines = f"x-flotilla-model: {model}\r\nx-flotilla-reason: {reason}\r\n"
    lines += f"x-flotilla-attempts: {len(record.attempts)}\r\n"
    if score is not None:
        lines += f"x-flotilla-score: {score:.4f}\r\n"
    return request_lines(record.policy, record.request_id) + lines.encode()


def cost_line(record: RequestRecord) -> bytes:
    """Dollars of all attempts; nothing where one of them is unknown."""
    total = 0.0
    for attempt in record.attempts:
        if attempt.usd is None:
            return b""
        total += attempt.usd
    return b"x-flotilla-cost-usd: %b\r\n" % dollars(total).encode()
