"""Who waits for an answer, what is sent there, and what is told besides: header lines of our own."""

from __future__ import annotations

from http import HTTPStatus
from typing import Protocol

from .cost import dollars
from .errors import error_body
from .logs import RequestRecord
from .sse import KEEP_ALIVE, error_event, make_error_event

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


class Reply:
    """What the client of one request is sent. Times are monotonic seconds.

    What ends it returns the status that the request has ended with.
    """

    __slots__ = ("_client", "_record", "begun", "last_sent")

    def __init__(self, client: Client, record: RequestRecord, arrived: float) -> None:
        self._client = client
        self._record = record
        self.begun = False
        """Whether its head is out, and with it its status: it is a stream."""
        self.last_sent = arrived
        """When the client last got something."""

    def begin(self, lines: bytes) -> None:
        """Send the head of a stream."""
        self.begun = True
        self._client.begin_stream(200, lines)

    def pass_on(self, data: bytes, now: float) -> None:
        """Send more of the stream."""
        self.last_sent = now
        self._record.bytes += len(data)
        self._client.send(data)

    def keep_alive(self, now: float) -> None:
        """Send a comment, so that nobody takes the stream for dead; it fixes the status."""
        if not self.begun:
            self.begin(EVENT_LINES + self._request_lines())
        self.last_sent = now
        self._client.send(KEEP_ALIVE)

    def end(self) -> int:
        """End the stream."""
        self._client.end()
        return 200

    def send(self, status: int, lines: bytes, body: bytes) -> int:
        """Send a whole answer."""
        self._record.bytes = len(body)
        self._client.respond(status, lines, body)
        return status

    def send_error(
        self,
        status: int,
        message: str,
        code: str,
        *,
        kind: str = "server_error",
        param: str | None = None,
        lines: bytes = b"",
    ) -> int:
        """Our own error: whole, or in band where the head is out already. lines: more header lines."""
        self._record.error = message
        if self.begun:
            return self.end_in_band(make_error_event(message, kind, code))
        body = error_body(message, type=kind, param=param, code=code)
        return self.send(status, JSON_LINES + lines + self._request_lines(), body)

    def pass_error_in_band(self, body: bytes, status: int) -> int:
        """A model server's own error, where the head is out already."""
        message = f"the model server answered with status {status}"
        self._record.error = self._record.error or message
        return self.end_in_band(error_event(body) or make_error_event(message, "server_error", "upstream_error"))

    def end_in_band(self, event: bytes) -> int:
        """End the stream with an error event."""
        self._record.bytes += len(event)
        self._client.send(event)
        return self.end()

    def _request_lines(self) -> bytes:
        return request_lines(self._record.policy, self._record.request_id)
