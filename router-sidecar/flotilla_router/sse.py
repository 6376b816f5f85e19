"""Server-sent events as byte frames."""

from __future__ import annotations

import msgspec

from .errors import EventTooLarge, error_body
from .wire import ABSENT, DECODE_ERRORS, decode_envelope

__all__ = [
    "KEEP_ALIVE",
    "MAX_EVENT_BYTES",
    "EventSplitter",
    "EventTooLarge",
    "data_offset",
    "error_event",
    "is_comment",
    "is_done",
    "make_error_event",
]

KEEP_ALIVE = b": keep-alive\n\n"
MAX_EVENT_BYTES = 1 << 20


class EventSplitter:
    """Cuts a byte stream into events, terminators included; any split of the stream gives the same events.

    An event ends with an empty line; lines end with LF or CR LF.
    """

    __slots__ = ("_pending", "max_event_bytes")

    def __init__(self, max_event_bytes: int = MAX_EVENT_BYTES) -> None:
        self.max_event_bytes = max_event_bytes
        self._pending = b""

    def feed(self, chunk: bytes) -> list[bytes]:
        """Events that this chunk completes, in order.

        Raises:
            EventTooLarge: an event, also an unfinished one, is longer than max_event_bytes.
        """
        scanned = max(len(self._pending) - 2, 0)  # a terminator may have begun in what was pending
        data = self._pending + chunk if self._pending else chunk
        events: list[bytes] = []
        start = 0
        end = _event_end(data, scanned)
        while end:
            events.append(self._bounded(data[start:end]))
            start = end
            end = _event_end(data, start)
        self._pending = self._bounded(data[start:])
        return events

    def _bounded(self, data: bytes) -> bytes:
        if len(data) > self.max_event_bytes:
            raise EventTooLarge(f"An event is longer than {self.max_event_bytes} bytes.")
        return data


def _event_end(data: bytes, start: int) -> int:
    """Just after the first empty line that begins at `start` or later; 0 where there is none."""
    bare = data.find(b"\n\n", start)
    if b"\r" not in data:
        return bare + 2 if bare >= 0 else 0
    returned = data.find(b"\n\r\n", start, bare + 1 if bare >= 0 else len(data))
    if returned >= 0:
        return returned + 3
    return bare + 2 if bare >= 0 else 0


def make_error_event(message: str, type: str, code: str | None = None) -> bytes:  # noqa: A002 - the wire's name
    """An in-band error, as an event."""
    return b"data: %s\n\n" % error_body(message, type=type, code=code)


def error_event(body: bytes) -> bytes | None:
    """The error of an envelope, as an event of one line; None where `body` is no such envelope."""
    try:
        error = decode_envelope(body).error
    except DECODE_ERRORS:
        return None
    if error is ABSENT:
        return None
    return b'data: {"error":%b}\n\n' % msgspec.json.format(error, indent=-1)


def data_offset(event: bytes) -> int:
    """Where the text of the event's first data line begins; -1 where it has none."""
    if event.startswith(b"data:"):
        return 5
    line = event.find(b"\ndata:")
    return -1 if line < 0 else line + 6


def is_comment(event: bytes) -> bool:
    """Whether the event says nothing: it begins with a comment and has no data, as a keep-alive."""
    return event.startswith(b":") and data_offset(event) < 0


def is_done(event: bytes) -> bool:
    """Whether the event is [DONE], which ends a stream."""
    return len(event) < 24 and event.startswith(b"data:") and event[5:].strip() == b"[DONE]"
