"""Server-sent events as byte frames."""

from __future__ import annotations

KEEP_ALIVE = b": keep-alive\n\n"
DONE = b"data: [DONE]\n\n"
MAX_EVENT_BYTES = 1 << 20


class EventTooLarge(Exception):
    """An event is longer than the splitter's bound."""


class EventSplitter:
    """Cuts a byte stream into events, terminators included; any split of the stream gives the same events."""

    def __init__(self, max_event_bytes: int = MAX_EVENT_BYTES) -> None:
        self.max_event_bytes = max_event_bytes
        self._pending = b""

    @property
    def pending(self) -> bytes:
        """The beginning of an event that has not ended yet."""
        return self._pending

    def feed(self, chunk: bytes) -> list[bytes]:
        """Events that this chunk completes, in order.

        Raises:
            EventTooLarge: an event, also an unfinished one, is longer than max_event_bytes.
        """
        raise NotImplementedError


def make_error_event(message: str, type: str, code: str | None = None) -> bytes:  # noqa: A002 - the wire's name
    """An in-band error, as an event."""
    raise NotImplementedError
