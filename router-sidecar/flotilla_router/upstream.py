"""Calls to model servers: HTTP/1.1 over pooled connections, with callbacks instead of tasks.

A call ends in exactly one of `on_complete` and `on_failed`, or in silence after `cancel`.
"""

from __future__ import annotations

import asyncio
import ssl
from collections import deque
from collections.abc import Callable, Sequence
from enum import Enum
from functools import partial
from typing import Protocol, cast

from httptools import HttpParserCallbackError, HttpParserError, HttpResponseParser

from .heads import ResponseHead

MAX_IDLE_PER_ORIGIN = 256
"""Idle connections that are kept to one origin."""
IDLE_SECONDS = 4.0
"""How long a connection to a model server stays idle; below the 5 s after which uvicorn closes it."""
EXTERNAL_IDLE_SECONDS = 30.0
"""The same for TLS origins, where a new connection is dear."""
RESEND_SECONDS = 0.1
"""A kept connection that closes this soon was stale: the server cannot have worked on the request."""
MAX_RESPONSE_HEADER_BYTES = 64 * 1024


class Failure(Enum):
    """Why a call ended without a whole response."""

    REFUSED = "connection refused"
    CONNECT_TIMEOUT = "no connection in time"
    TLS = "TLS handshake failed"
    CLOSED = "closed before a response"
    CUT = "closed within a response"
    MALFORMED = "not an HTTP response"
    BROKEN = "its response could not be processed"
    """A mistake of our own: it says nothing about the server."""

    @property
    def before_sending(self) -> bool:
        """Whether the server cannot have seen the request."""
        return self in (Failure.REFUSED, Failure.CONNECT_TIMEOUT, Failure.TLS)


class Receiver(Protocol):
    """Who made a call. Whatever it raises fails the call, and is reported once."""

    def on_head(self, response: ResponseHead) -> None:
        """The status and headers are there."""
        ...

    def on_body(self, chunk: bytes) -> None:
        """More of the body is there: all that one read brought."""
        ...

    def on_complete(self) -> None:
        """The response is whole."""
        ...

    def on_failed(self, failure: Failure) -> None:
        """There will be no more."""
        ...


class Origin:
    """A server, how it is reached, and its idle connections."""

    __slots__ = ("host", "idle", "idle_seconds", "port", "server_hostname", "tls")

    def __init__(self, host: str, port: int, tls: ssl.SSLContext | None = None) -> None:
        self.host = host
        self.port = port
        self.tls = tls
        self.server_hostname = host if tls else None
        self.idle: deque[Connection] = deque()
        self.idle_seconds = EXTERNAL_IDLE_SECONDS if tls else IDLE_SECONDS


class Upstreams:
    """Makes calls and keeps connections."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self._pooled: set[Origin] = set()
        self._connects: set[asyncio.Task[None]] = set()

    def call(self, origin: Origin, parts: Sequence[bytes], receiver: Receiver, *, connect_seconds: float) -> Call:
        """Send `parts`, one whole request, to `origin`; `receiver` hears of the response."""
        call = Call(self, origin, parts, receiver, connect_seconds)
        self.start(call)
        return call

    def start(self, call: Call) -> None:
        """Send `call` over an idle connection, or over a new one."""
        idle = call.origin.idle
        while idle:
            connection = idle.pop()
            if connection.usable:
                call.reused = True
                connection.send(call)
                return
        self.connect(call)

    def connect(self, call: Call) -> None:
        """Send `call` over a new connection."""
        call.reused = False
        task = self.loop.create_task(self._connect(call))
        self._connects.add(task)
        task.add_done_callback(self._connects.discard)
        call.connecting = task

    async def _connect(self, call: Call) -> None:
        failure = Failure.REFUSED
        origin = call.origin
        try:
            async with asyncio.timeout(call.connect_seconds):
                _, connection = await self.loop.create_connection(
                    lambda: Connection(self, origin),
                    origin.host,
                    origin.port,
                    ssl=origin.tls,
                    server_hostname=origin.server_hostname,
                )
        except TimeoutError:
            failure = Failure.CONNECT_TIMEOUT
        except ssl.SSLError:
            failure = Failure.TLS
        except (OSError, ValueError):  # ValueError: a host name too long for DNS
            failure = Failure.REFUSED
        except Exception as error:
            self.report(error)
            failure = Failure.BROKEN
        else:
            call.connecting = None
            if call.receiver is None:
                connection.close()
            else:
                connection.send(call)
            return
        call.connecting = None
        call.fail(failure)

    def keep(self, connection: Connection) -> None:
        """Keep a connection for the next call to its origin."""
        idle = connection.origin.idle
        if len(idle) >= MAX_IDLE_PER_ORIGIN:
            connection.close()
            return
        connection.idle_since = self.loop.time()
        idle.append(connection)
        self._pooled.add(connection.origin)

    def expire(self, now: float) -> None:
        """Close connections that have been idle for too long."""
        for origin in tuple(self._pooled):
            idle = origin.idle
            while idle and (idle[0].idle_since + origin.idle_seconds <= now or not idle[0].usable):
                idle.popleft().close()
            if not idle:
                self._pooled.discard(origin)

    def report(self, error: Exception) -> None:
        """Tell of a mistake of our own."""
        self.loop.call_exception_handler(
            {"message": "a model server's response could not be processed", "exception": error}
        )

    def close(self) -> None:
        """Close idle connections and end attempts to connect."""
        for origin in self._pooled:
            for connection in origin.idle:
                connection.close()
            origin.idle.clear()
        self._pooled.clear()
        for task in self._connects:
            task.cancel()


class Call:
    """One request to one origin."""

    __slots__ = (
        "_upstreams",
        "connect_seconds",
        "connecting",
        "connection",
        "origin",
        "parts",
        "receiver",
        "reused",
        "sent_at",
    )

    def __init__(
        self, upstreams: Upstreams, origin: Origin, parts: Sequence[bytes], receiver: Receiver, connect_seconds: float
    ) -> None:
        self._upstreams = upstreams
        self.origin = origin
        self.parts: Sequence[bytes] = parts
        self.receiver: Receiver | None = receiver
        self.connect_seconds = connect_seconds
        self.connecting: asyncio.Task[None] | None = None
        self.connection: Connection | None = None
        self.reused = False
        self.sent_at = 0.0
        """Monotonic seconds."""

    def cancel(self) -> None:
        """End the call at once: the server sees its connection close; the receiver hears no more."""
        self.receiver = None
        if self.connecting is not None:
            self.connecting.cancel()
            self.connecting = None
        elif self.connection is not None:
            self.connection.abort()

    def pause(self) -> None:
        """Read no more for now."""
        if self.connection is not None:
            self.connection.transport.pause_reading()

    def resume(self) -> None:
        """Read on."""
        if self.connection is not None:
            self.connection.transport.resume_reading()

    def fail(self, failure: Failure) -> None:
        """Tell the receiver, or try once more where a kept connection was closed by the server in the meantime."""
        self.connection = None
        if self.receiver is None:
            return
        waited = self._upstreams.loop.time() - self.sent_at
        if failure is Failure.CLOSED and self.reused and waited < RESEND_SECONDS:
            self._upstreams.connect(self)
            return
        receiver, self.receiver = self.receiver, None
        self.guard(receiver, partial(receiver.on_failed, failure))

    def complete(self) -> None:
        """Tell the receiver."""
        self.connection = None
        receiver, self.receiver = self.receiver, None
        if receiver is not None:
            self.guard(receiver, receiver.on_complete)

    def guard(self, receiver: Receiver, step: Callable[[], None]) -> None:
        """Run a step of the receiver's; if it raises, the call has failed."""
        try:
            step()
        except Exception as error:  # without this nobody would end the request before its last timeout
            self._upstreams.report(error)
            self.cancel()
            receiver.on_failed(Failure.BROKEN)


class Connection(asyncio.Protocol):
    """One connection to an origin; at most one call at a time."""

    __slots__ = (
        "_body",
        "_call",
        "_complete",
        "_head",
        "_head_bytes",
        "_head_told",
        "_parser",
        "_parts",
        "_response",
        "_upstreams",
        "idle_since",
        "on_body",
        "origin",
        "transport",
        "usable",
    )
    transport: asyncio.Transport

    def __init__(self, upstreams: Upstreams, origin: Origin) -> None:
        self._upstreams = upstreams
        self.origin = origin
        self.usable = True
        self.idle_since = 0.0
        self._call: Call | None = None
        self._head: ResponseHead | None = None
        """While it arrives."""
        self._response: ResponseHead | None = None
        """Once it is whole."""
        self._head_bytes = 0
        self._head_told = False
        self._parts = 0
        """Pieces of the body that belong to the response, once it is complete."""
        self._body: list[bytes] = []
        self.on_body = self._body.append
        self._complete = False
        self._parser: HttpResponseParser | None = HttpResponseParser(self)

    def send(self, call: Call) -> None:
        """Send a call whose response is the next that arrives."""
        self._call = call
        call.connection = self
        call.sent_at = self._upstreams.loop.time()
        self._head = ResponseHead()
        self._response = None
        self._head_bytes = 0
        self._head_told = self._complete = False
        self.transport.writelines(call.parts)

    def close(self) -> None:
        """Close an idle connection."""
        self.usable = False
        self.transport.close()

    def abort(self) -> None:
        """Close at once, whatever is under way."""
        self.usable = False
        self._call = None
        self.transport.abort()

    # asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """The connection is there."""
        self.transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        """Parse what was read and tell the receiver once."""
        if self._call is None or self._parser is None:
            self.close()
            return
        failure = None
        if not self._head_told:
            self._head_bytes += len(data)
        try:
            self._parser.feed_data(data)
        except HttpParserCallbackError as error:
            self._upstreams.report(error)
            failure = Failure.BROKEN
        except HttpParserError:
            failure = Failure.MALFORMED
        self._tell(failure)

    def eof_received(self) -> None:
        """A response without a length ends here."""
        self.usable = False
        if self._call is not None and self._ends_with_connection():
            self._finish()

    def connection_lost(self, exc: Exception | None) -> None:
        """The call, if any, has failed."""
        self.usable = False
        self._parser = None
        call, self._call = self._call, None
        if call is None:
            return
        if exc is None and self._ends_with_connection():
            call.complete()
            return
        call.fail(Failure.CUT if self._head_bytes else Failure.CLOSED)

    # httptools; on_body is the list's own append

    def on_header(self, name: bytes, value: bytes) -> None:
        """One header; trailers are dropped."""
        if self._head is not None:
            self._head.add(name, value)

    def on_message_begin(self) -> None:
        """A response begins; after the one that was asked for, there is none to begin."""
        if self._complete:
            self.usable = False

    def on_headers_complete(self) -> None:
        """The head is whole; an interim response is passed over."""
        head, parser = self._head, self._parser
        if head is None or parser is None:  # a second response to one request
            self.usable = False
            return
        status = parser.get_status_code()
        if status < 200:
            self._head = ResponseHead()
            return
        head.complete(status)
        self._head = None
        self._response = head

    def on_message_complete(self) -> None:
        """The response is whole, unless it was an interim one."""
        if self._response is None or self._parser is None or self._complete:
            return
        self._complete = True
        self._parts = len(self._body)
        if not self._parser.should_keep_alive():
            self.usable = False

    # What the receiver is told

    def _tell(self, failure: Failure | None) -> None:
        if not self._head_told and self._response is not None:
            self._head_told = True
            self._tell_head(self._response)
        body = self._body
        if self._complete:
            del body[self._parts :]  # of a response that nobody asked for
        if body:
            chunk = body[0] if len(body) == 1 else b"".join(body)
            body.clear()
            call = self._call
            if call is not None and call.receiver is not None:
                call.guard(call.receiver, partial(call.receiver.on_body, chunk))
        if self._complete:
            self.usable = self.usable and failure is None
            self._finish()
        elif failure is not None or (not self._head_told and self._head_bytes > MAX_RESPONSE_HEADER_BYTES):
            self._fail(failure or Failure.MALFORMED)

    def _tell_head(self, response: ResponseHead) -> None:
        call = self._call
        if call is not None:
            call.parts = ()  # it will not be sent again
            if call.receiver is not None:
                call.guard(call.receiver, partial(call.receiver.on_head, response))

    def _ends_with_connection(self) -> bool:
        return self._head_told and self._response is not None and not self._response.sized

    def _finish(self) -> None:
        call, self._call = self._call, None
        if call is None:
            return
        if self.usable and not self.transport.get_write_buffer_size():  # else part of the request is still unsent
            self.transport.resume_reading()
            self._upstreams.keep(self)
        else:
            self.transport.close()
        call.complete()

    def _fail(self, failure: Failure) -> None:
        call, self._call = self._call, None
        self.usable = False
        self.transport.abort()
        if call is not None:
            call.fail(failure)
