"""Heads of model servers' responses: what is read from them, and which headers reach the client."""

from __future__ import annotations

_PASSED = frozenset(
    (
        b"cache-control",
        b"content-encoding",
        b"content-type",
        b"openai-model",
        b"openai-processing-ms",
        b"openai-version",
        b"retry-after",
        b"retry-after-ms",
        b"x-request-id",
        b"x-should-retry",
    )
)
"""What clients and their SDKs read. Everything else is between a provider and us: cookies, accounts, infrastructure."""
_PASSED_PREFIX = b"x-ratelimit-"
_UNSIZED_STATUSES = (204, 304)


class ResponseHead:
    """Status and headers of a response."""

    __slots__ = ("content_type", "headers", "retry_after", "sized", "status")

    def __init__(self) -> None:
        self.status = 0
        self.headers: list[tuple[bytes, bytes]] = []
        """All of them, as they came."""
        self.content_type = b""
        """In lower case."""
        self.retry_after: float | None = None
        """Seconds."""
        self.sized = False
        """Whether the end of the body shows by itself; otherwise it is the connection's."""

    def add(self, name: bytes, value: bytes) -> None:
        """Take in a header."""
        self.headers.append((name, value))
        lower = name.lower()
        if lower == b"content-type":
            self.content_type = value.lower()
        elif lower == b"retry-after":
            self.retry_after = float(value) if value.isdigit() else None
        elif lower == b"content-length" or (lower == b"transfer-encoding" and b"chunked" in value.lower()):
            self.sized = True

    def complete(self, status: int) -> None:
        """The head is whole."""
        self.status = status
        self.sized = self.sized or status in _UNSIZED_STATUSES

    def value_of(self, name: bytes) -> bytes:
        """Value of a header, whose name is given in lower case; empty where it is not there."""
        return next((value for key, value in self.headers if key.lower() == name), b"")

    def passed(self) -> bytes:
        """`name: value CRLF` of the headers that reach the client, without those meant for this hop only."""
        lines: list[bytes] = []
        hop: set[bytes] = set()
        for name, value in self.headers:
            lower = name.lower()
            if lower in _PASSED or lower.startswith(_PASSED_PREFIX):
                lines.append(b"%b: %b\r\n" % (name, value))
            elif lower == b"connection":
                hop |= {token.strip().lower() for token in value.split(b",")}
        if hop:
            lines = [line for line in lines if line.partition(b":")[0].lower() not in hop]
        return b"".join(lines)

    def become_error(self, status: int) -> None:
        """As if the response had come as a JSON error under `status`."""
        self.status = status
        self.content_type = b"application/json"
        self.headers = [(name, value) for name, value in self.headers if name.lower() != b"content-type"]
        self.headers.append((b"content-type", self.content_type))
