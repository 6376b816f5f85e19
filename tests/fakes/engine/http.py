"""HTTP/1.1 on a raw transport, with the headers and the manners of uvicorn: keep-alive, pipelining, chunked streams.

An application is a callable that gets a `Request` and an `Exchange` and answers through the exchange, now or later,
without ever blocking. A client that goes away is told to the exchange's `on_disconnect`.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from email.utils import formatdate
from http import HTTPStatus
from time import time
from typing import cast
from urllib.parse import parse_qsl, unquote

import httptools

MAX_QUEUED_REQUESTS = 16
"""Pipelined requests of one connection that are read ahead."""

MAX_HEADER_BYTES = 64 * 1024

_PHRASES = {status.value: status.phrase for status in HTTPStatus}


@dataclass(frozen=True, slots=True)
class Request:
    """One request, read whole. Header names are in lower case."""

    method: str
    path: str
    query: Mapping[str, str]
    headers: Mapping[str, str]
    body: bytes
    peer: str
    keep_alive: bool


class Exchange:
    """The answer to one request. Call `respond` once, or `start_stream`, then `write`s and `end`."""

    __slots__ = ("_connection", "_finished", "client_gone", "on_disconnect", "on_end", "request", "status")

    def __init__(self, connection: Connection, request: Request) -> None:
        self._connection = connection
        self.request = request
        self.status: int | None = None
        self.client_gone = False
        self._finished = False
        self.on_disconnect: Callable[[], None] | None = None
        self.on_end: Callable[[Exchange], None] | None = None

    @property
    def is_finished(self) -> bool:
        """Whether the answer is out, or the client is gone."""
        return self._finished

    def respond(self, status: int, body: bytes, headers: Mapping[str, str]) -> None:
        """Send a whole answer."""
        if self._finished:
            return
        self._send_head(status, {"content-length": str(len(body)), **headers}, body)
        self._finish()

    def start_stream(self, headers: Mapping[str, str]) -> None:
        """Send the head of a chunked answer with status 200."""
        if not self._finished:
            self._send_head(200, {**headers, "transfer-encoding": "chunked"}, b"")

    def write(self, data: bytes) -> None:
        """Send one chunk."""
        if not self._finished:
            self._connection.send(b"%x\r\n%b\r\n" % (len(data), data))

    def end(self) -> None:
        """End a chunked answer."""
        if not self._finished:
            self._connection.send(b"0\r\n\r\n")
            self._finish()

    def kill(self, *, flush: bool = False) -> None:
        """Close the connection without a word more; with `flush`, after what was written is out."""
        self._connection.kill(flush=flush)

    def disconnected(self) -> None:
        """Note that the client is gone."""
        if self._finished:
            return
        self._finished = self.client_gone = True
        if self.on_disconnect:
            self.on_disconnect()
        if self.on_end:
            self.on_end(self)

    def _send_head(self, status: int, headers: Mapping[str, str], body: bytes) -> None:
        self.status = status
        lines = [f"HTTP/1.1 {status} {_PHRASES.get(status, '')}", *self._connection.server.common_headers()]
        lines += [f"{name}: {value}" for name, value in headers.items()]
        if not self._connection.stays_open(self.request):
            lines.append("connection: close")
        self._connection.send("\r\n".join([*lines, "\r\n"]).encode("latin-1", "replace") + body)

    def _finish(self) -> None:
        self._finished = True
        if self.on_end:
            self.on_end(self)
        self._connection.finished(self)


Application = Callable[[Request, Exchange], None]


@dataclass(slots=True)
class Server:
    """What the connections share."""

    application: Application
    headers: tuple[str, ...] = ("server: uvicorn",)
    connections: set[Connection] = field(default_factory=set["Connection"])
    closing: bool = False
    empty: asyncio.Event = field(default_factory=asyncio.Event)
    """Set while no client is connected, from the first one's leaving on."""
    _date: tuple[int, str] = (0, "")

    def connect(self) -> Connection:
        """Return the protocol of a new connection."""
        return Connection(self)

    def common_headers(self) -> tuple[str, ...]:
        """Return the lines that every answer starts with."""
        now = int(time())
        if self._date[0] != now:
            self._date = (now, f"date: {formatdate(now, usegmt=True)}")
        return (self._date[1], *self.headers)

    def close_idle(self) -> None:
        """Close connections that wait for a request; the others close after their answer."""
        self.closing = True
        if not self.connections:
            self.empty.set()
        for connection in tuple(self.connections):
            connection.close_if_idle()

    def abort_all(self) -> None:
        """Close every connection at once."""
        for connection in tuple(self.connections):
            connection.kill(flush=False)


class Connection(asyncio.Protocol):
    """One client connection."""

    def __init__(self, server: Server) -> None:
        self.server = server
        self._transport: asyncio.Transport | None = None
        self._parser = httptools.HttpRequestParser(self)
        self._queue: deque[Request] = deque()
        self._current: Exchange | None = None
        self._peer = ""
        self._paused = False
        self._url = b""
        self._headers: dict[str, str] = {}
        self._header_bytes = 0
        self._body: list[bytes] = []

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's are not instances of it
        peer = transport.get_extra_info("peername")
        self._peer = f"{peer[0]}:{peer[1]}" if peer else ""
        self.server.connections.add(self)
        self.server.empty.clear()

    def connection_lost(self, exc: Exception | None) -> None:
        self.server.connections.discard(self)
        if not self.server.connections:
            self.server.empty.set()
        self._queue.clear()
        self._transport = None
        if self._current:
            self._current.disconnected()
            self._current = None

    def data_received(self, data: bytes) -> None:
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            self._refuse()
        except httptools.HttpParserError:
            self._refuse()

    def on_message_begin(self) -> None:
        """Start a request."""
        self._url, self._headers, self._body, self._header_bytes = b"", {}, [], 0

    def on_url(self, url: bytes) -> None:
        """Take a part of the target."""
        self._url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        """Take a header; too many bytes of them end the connection."""
        self._header_bytes += len(name) + len(value)
        if self._header_bytes > MAX_HEADER_BYTES:
            raise httptools.HttpParserError("headers too large")
        key = name.decode("latin-1").lower()
        self._headers[key] = value.decode("latin-1")

    def on_headers_complete(self) -> None:
        """Ask for a body that waits for permission."""
        if self._headers.get("expect", "").lower() == "100-continue":
            self.send(b"HTTP/1.1 100 Continue\r\n\r\n")

    def on_body(self, body: bytes) -> None:
        """Take a part of the body."""
        self._body.append(body)

    def on_message_complete(self) -> None:
        """Serve the request, or queue it behind the one that is being served."""
        path, _, query = self._url.partition(b"?")
        request = Request(
            method=self._parser.get_method().decode(),
            path=unquote(path.decode("latin-1")),
            query=dict(parse_qsl(query.decode("latin-1"))) if query else {},
            headers=self._headers,
            body=b"".join(self._body),
            peer=self._peer,
            keep_alive=self._parser.should_keep_alive(),
        )
        self._queue.append(request)
        if self._current is None:
            self._serve_next()
        elif len(self._queue) >= MAX_QUEUED_REQUESTS and self._transport and not self._paused:
            self._paused = True
            self._transport.pause_reading()

    def stays_open(self, request: Request) -> bool:
        """Return whether the connection outlives the answer to `request`."""
        return request.keep_alive and not self.server.closing

    def send(self, data: bytes) -> None:
        """Write to the client, if it is still there."""
        if self._transport:
            self._transport.write(data)

    def kill(self, *, flush: bool) -> None:
        """Drop the connection, after or without what is still to be sent."""
        if self._transport and flush:
            self._transport.close()
        elif self._transport:
            self._transport.abort()

    def close_if_idle(self) -> None:
        """Close it unless a request is being served."""
        if self._current is None and self._transport:
            self._transport.close()

    def finished(self, exchange: Exchange) -> None:
        """Go on to the next request after an answer is out."""
        self._current = None
        if self._transport is None:
            return
        if not self.stays_open(exchange.request):
            self._transport.close()
            return
        if self._paused:
            self._paused = False
            self._transport.resume_reading()
        if self._queue:
            asyncio.get_running_loop().call_soon(self._serve_next)

    def _serve_next(self) -> None:
        if self._queue and self._current is None and self._transport:
            request = self._queue.popleft()
            self._current = Exchange(self, request)
            self.server.application(request, self._current)

    def _refuse(self) -> None:
        body = b"Invalid HTTP request received."
        head = "HTTP/1.1 400 Bad Request\r\ncontent-type: text/plain; charset=utf-8\r\n"
        self.send(f"{head}content-length: {len(body)}\r\nconnection: close\r\n\r\n".encode() + body)
        if self._transport:
            self._transport.close()
