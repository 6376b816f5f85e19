"""A request as it arrives, and why it may be refused before a model is called."""

from __future__ import annotations

import asyncio
import random
from dataclasses import dataclass
from typing import TYPE_CHECKING

from .openai import error_body
from .settings import MAX_HEADER_BYTES, MAX_HEADERS
from .verdicts import Verdict

if TYPE_CHECKING:
    from .embedders.embedding import Embedding

_SAFE_IN_ID = b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_.:/+="
_MOST_ID_BYTES = 128


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """Why a request is refused, in OpenAI's shape."""

    status: int
    message: str
    code: str
    type: str = "invalid_request_error"
    param: str | None = None
    headers: bytes = b""
    """Lines that end in CRLF."""

    def body(self) -> bytes:
        """The error envelope."""
        return error_body(self.message, type=self.type, param=self.param, code=self.code)


class Incoming:
    """A request as it arrives."""

    __slots__ = (
        "_id",
        "client",
        "data",
        "has_body",
        "headers",
        "http_1_0",
        "keep_alive",
        "method",
        "review",
        "url",
        "vectors",
    )

    def __init__(self) -> None:
        self.method = b""
        self.url = b""
        self.headers: dict[bytes, bytes] = {}
        """Names in lower case; values of repeated ones are joined with ", "."""
        self.data: bytes | bytearray = b""
        """The body so far."""
        self.has_body = False
        self.client: str | None = None
        """Name of the API key that was shown, or of the pod whose sidecar asks."""
        self.review: asyncio.Future[Verdict] | None = None
        """Of a sidecar's token, which may take a moment; None: the request is a client's own."""
        self.vectors: asyncio.Future[dict[str, Embedding]] | None = None
        """What embedding Experts make of its prompt; None: nobody has been asked."""
        self.http_1_0 = False
        self.keep_alive = True
        self._id = ""

    @property
    def request_id(self) -> str:
        """The client's own id where it is harmless, else a new one; the same whenever it is asked for."""
        if not self._id:
            self._id = _make_id(self.headers.get(b"x-request-id", b""))
        return self._id

    @property
    def undecided(self) -> bool:
        """Whether it is not yet known who sends it."""
        return self.review is not None and not self.review.done()

    @property
    def awaits_permission(self) -> bool:
        """Whether the client wants to be asked for its body, and now may be."""
        expects = self.headers.get(b"expect", b"").lower() == b"100-continue"
        return expects and not self.http_1_0 and not self.undecided

    def take_headers(self, given: list[tuple[bytes, bytes]]) -> None:
        """The head is whole."""
        headers = self.headers = by_name(given)
        self.has_body = b"transfer-encoding" in headers or headers.get(b"content-length", b"0") != b"0"

    def add(self, part: bytes) -> None:
        """More of the body; the first part is kept as it is, since there often is no other."""
        if not self.data:
            self.data = part
            return
        if isinstance(self.data, bytes):
            self.data = bytearray(self.data)
        self.data += part

    def body(self) -> bytes:
        """The whole body."""
        return bytes(self.data)

    def release(self) -> None:
        """Forget what is no longer needed while the answer is awaited; the id is known by now."""
        self.data = b""
        self.headers = {}


def _make_id(given: bytes) -> str:
    if given and len(given) <= _MOST_ID_BYTES and not given.translate(None, _SAFE_IN_ID):
        return given.decode("ascii")
    return f"{random.getrandbits(64):016x}"


def head_size(url: bytes, headers: list[tuple[bytes, bytes]]) -> int:
    """Bytes of a request's head, about: the method, the version and the spaces aside."""
    return len(url) + sum(len(name) + len(value) + 4 for name, value in headers)


def by_name(given: list[tuple[bytes, bytes]]) -> dict[bytes, bytes]:
    """Values by name in lower case; those of a repeated one are joined with ", ", so that none is overlooked."""
    headers = {name.lower(): value for name, value in given}
    if len(headers) < len(given):
        headers.clear()
        for name, value in given:
            lower = name.lower()
            headers[lower] = b"%b, %b" % (headers[lower], value) if lower in headers else value
    return headers


def framing_only(headers: dict[bytes, bytes]) -> bytes:
    """A request's head that says nothing but how the body is framed."""
    name = b"transfer-encoding" if b"transfer-encoding" in headers else b"content-length"
    return b"POST / HTTP/1.1\r\n%b: %b\r\n\r\n" % (name, headers[name])


def make_problem(status: int, message: str, code: str) -> Problem:
    """A problem of the request as a whole."""
    return Problem(status=status, message=message, code=code)


def too_large(limit: int) -> Problem:
    """The body is over the policy's bound."""
    return make_problem(413, f"the request body is larger than {limit} bytes", "request_too_large")


TOO_LARGE_HEAD = make_problem(
    431, f"the request has more than {MAX_HEADERS} headers or {MAX_HEADER_BYTES} bytes of them", "headers_too_large"
)
TOO_MUCH_FRAMING = make_problem(
    400, f"the body has more than {MAX_HEADER_BYTES} bytes of chunk extensions or trailers", "too_much_framing"
)
TOO_MANY_CONNECTIONS = Problem(
    status=503,
    message="the router has as many connections as it may have",
    code="too_many_connections",
    type="server_error",
)
