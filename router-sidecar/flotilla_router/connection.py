"""A client's connection: HTTP/1.1 with keep-alive and pipelining, bounds on everything, one request at a time.

A request is admitted when its headers are there and served when its body is; what is refused early is answered at once,
and the connection is then closed without losing the answer.
"""

from __future__ import annotations

import asyncio
from collections import deque
from dataclasses import dataclass, field
from functools import partial
from math import inf
from typing import Protocol, cast

from httptools import HttpParserCallbackError, HttpParserError, HttpParserUpgrade, HttpRequestParser

from .incoming import (
    TOO_LARGE_HEAD,
    TOO_MANY_CONNECTIONS,
    TOO_MUCH_FRAMING,
    Incoming,
    Problem,
    framing_only,
    head_size,
    make_problem,
    too_large,
)
from .replies import JSON_LINES, status_line
from .serving import LINGER_SECONDS, MOST_QUEUED, MOST_QUEUED_BYTES, OVERHEAD_PER_BYTE, SLOWEST_BYTES, Patience, Running
from .settings import MAX_HEADER_BYTES, MAX_HEADERS, MAX_URL_BYTES
from .verdicts import Verdict

_SMALL = 16 * 1024
_FAILED = Problem(status=500, message="the router failed on this request", code="internal_error", type="server_error")


class Service(Protocol):
    """What a listener serves."""

    @property
    def draining(self) -> bool:
        """Whether connections end with their current request."""
        ...

    @property
    def max_body_bytes(self) -> int:
        """Largest body."""
        ...

    def admit(self, incoming: Incoming, connection: ClientConnection) -> Problem | None:
        """Whether the body should be read, by the headers; where a review goes on, as far as it is known."""
        ...

    def judge(self, incoming: Incoming) -> Problem | None:
        """Why a request may not pass after all, by the review's verdict."""
        ...

    def serve(self, incoming: Incoming, connection: ClientConnection) -> None:
        """Answer: `respond`, now or later through an exchange that is given to `connection.exchange` first."""
        ...

    def refused(self, problem: Problem, incoming: Incoming) -> bytes:
        """A request is refused; the header lines that name it in the answer."""
        ...


@dataclass(frozen=True, slots=True)
class Host:
    """What the connections of one listener share."""

    loop: asyncio.AbstractEventLoop
    service: Service
    patience: Patience
    most_connections: int
    connections: set[ClientConnection] = field(default_factory=set["ClientConnection"])


class ClientConnection(asyncio.Protocol):
    """One client's connection. It is the Client of its exchange."""

    __slots__ = (
        "_broken",
        "_chunked",
        "_current",
        "_discarding",
        "_headers",
        "_host",
        "_in_head",
        "_incoming",
        "_loop",
        "_overhead",
        "_parser",
        "_queue",
        "_transport",
        "_unsent",
        "_write_paused",
        "due",
        "exchange",
    )
    _transport: asyncio.Transport

    def __init__(self, host: Host) -> None:
        self._host = host
        self._loop = host.loop
        self._parser: HttpRequestParser | None = HttpRequestParser(self)
        self._incoming: Incoming | None = None
        self._current: Incoming | None = None
        self._queue: deque[tuple[Incoming, Problem | None]] | None = None
        self._in_head = True
        self._overhead = 0
        """Bytes that have arrived of a head, or of a body beyond what its framing may take."""
        self._headers: list[tuple[bytes, bytes]] = []
        """Of the request whose head is arriving."""
        self._broken = False
        self._discarding = False
        self._chunked = False
        self._write_paused = False
        self._unsent = 0
        """Bytes of answers that the client had not read when patience began."""
        self.exchange: Running | None = None
        """The request under way, if a model is called for it."""
        self.due = inf
        """Monotonic seconds when patience ends."""

    # asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """A client is there."""
        self._transport = cast("asyncio.Transport", transport)
        if len(self._host.connections) >= self._host.most_connections:
            self._refuse(TOO_MANY_CONNECTIONS)
            return
        self._host.connections.add(self)
        self.due = self._loop.time() + self._host.patience.first_byte

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - asyncio's name
        """The client is gone."""
        self._host.connections.discard(self)
        self._parser = None
        self._incoming = self._current = self._queue = None
        self._broken = True
        exchange, self.exchange = self.exchange, None
        if exchange is not None:
            exchange.client_gone()

    def data_received(self, data: bytes) -> None:
        """Parse; what follows a refused request is dropped."""
        parser = self._parser
        if self._broken or parser is None:
            return
        self._overhead += len(data)
        try:
            try:
                parser.feed_data(data)
            except HttpParserUpgrade as offer:
                self._pass_over(parser, data[offer.args[0] :])
        except HttpParserCallbackError as error:
            self._failed(error)
        except HttpParserError:
            self._refuse(make_problem(400, "the request is not valid HTTP/1.1", "invalid_http"))
        else:
            if self._overhead > MAX_HEADER_BYTES:
                self._refuse(TOO_LARGE_HEAD if self._in_head else TOO_MUCH_FRAMING)
            elif self._incoming is not None and self._incoming.undecided and not self._transport.is_closing():
                self._transport.pause_reading()  # what one read has brought is all that is held for a stranger

    def _pass_over(self, parser: HttpRequestParser, rest: bytes) -> None:
        """An offer to speak another protocol may be ignored (RFC 9110, 7.8): what follows is parsed as HTTP/1.1.

        The parser has left a body to the other protocol, so it is given the same head again, without the offer.
        """
        while not self._broken:
            if parser.get_method() == b"CONNECT":
                self._broken = True
                return
            try:
                if self._incoming is not None:
                    parser.feed_data(framing_only(self._incoming.headers))
                parser.feed_data(rest)
            except HttpParserUpgrade as offer:
                rest = rest[offer.args[0] :]
            else:
                return

    def pause_writing(self) -> None:
        """The client reads too slowly."""
        self._write_paused = True
        if self.exchange is not None:
            self.exchange.pause()

    def resume_writing(self) -> None:
        """The client reads on."""
        self._write_paused = False
        if self.exchange is not None:
            self.exchange.resume()
        elif self._current is None:
            self._serve_next()

    # httptools

    def on_message_begin(self) -> None:
        """A request begins, unless it is one whose body is due."""
        if self._broken or self._incoming is not None:
            return
        self._incoming = Incoming()
        if self._current is None:
            self._wait()

    def on_url(self, url: bytes) -> None:
        """The request's target, or more of it."""
        incoming = self._incoming
        if incoming is None or self._broken or not self._in_head:
            return
        incoming.url += url
        if len(incoming.url) > MAX_URL_BYTES:
            self._refuse(make_problem(414, f"the URL is longer than {MAX_URL_BYTES} bytes", "uri_too_long"))

    def on_header(self, name: bytes, value: bytes) -> None:
        """One header; trailers are dropped."""
        if self._in_head:
            self._headers.append((name, value))

    def on_headers_complete(self) -> None:
        """The head is whole: refuse, or ask for the body."""
        incoming, parser = self._incoming, self._parser
        if incoming is None or parser is None or self._broken or not self._in_head:
            return
        given, self._headers = self._headers, []
        large = self._overhead > MAX_HEADER_BYTES and head_size(incoming.url, given) > MAX_HEADER_BYTES
        if large or len(given) > MAX_HEADERS:
            self._refuse(TOO_LARGE_HEAD)
            return
        self._in_head = False
        self._overhead = 0
        incoming.take_headers(given)
        incoming.method = parser.get_method()
        incoming.http_1_0 = parser.get_http_version() == "1.0"
        incoming.keep_alive = not incoming.http_1_0 and parser.should_keep_alive() and incoming.method != b"CONNECT"
        problem = self._host.service.admit(incoming, self)
        if problem is None:
            if incoming.review is not None and incoming.undecided:
                incoming.review.add_done_callback(partial(self._decided, incoming))
            if incoming.has_body and self._current is None:
                self._wait()
        elif incoming.has_body:
            self._refuse(problem)
        else:
            self._submit(incoming, problem)

    def _decided(self, incoming: Incoming, _review: asyncio.Future[Verdict]) -> None:
        """It is known who sends a request; if its body is still arriving, read it or refuse it at once."""
        if incoming is not self._incoming or self._transport.is_closing():
            return
        self._read_on()
        problem = self._host.service.judge(incoming)
        if problem is not None:
            self._refuse(problem)
        elif self._current is None:
            self._wait()

    def on_body(self, body: bytes) -> None:
        """More of the body."""
        incoming = self._incoming
        if incoming is None or self._broken:
            return
        size = len(body)
        self._overhead = max(self._overhead - OVERHEAD_PER_BYTE * size, 0)
        if len(incoming.data) + size > self._host.service.max_body_bytes:
            self._refuse(too_large(self._host.service.max_body_bytes))
            return
        incoming.add(body)

    def on_message_complete(self) -> None:
        """The request is whole."""
        incoming, parser = self._incoming, self._parser
        if incoming is not None and incoming.has_body and parser is not None and parser.should_upgrade():
            return  # the body comes after the offer is passed over
        self._incoming = None
        self._in_head = True
        self._overhead = 0
        if incoming is not None and not self._broken:
            self._submit(incoming, None)

    # exchange.Client

    def respond(self, status: int, headers: bytes, body: bytes) -> None:
        """Send a whole answer."""
        current = self._current
        if current is None or self._transport.is_closing():
            return
        sent = b"" if current.method == b"HEAD" else body
        length = b"" if status == 204 else b"content-length: %d\r\n" % len(body)
        head = b"%b%b%b%b\r\n" % (status_line(status), headers, length, self._closing())
        if len(sent) < _SMALL:
            self._transport.write(head + sent)
        else:
            self._transport.writelines((head, sent))
        self._done()

    def begin_stream(self, status: int, headers: bytes) -> None:
        """Send the head of a stream."""
        current = self._current
        if current is None or self._transport.is_closing():
            return
        self._chunked = not current.http_1_0
        framing = b"transfer-encoding: chunked\r\n" if self._chunked else b""
        self._transport.write(b"%b%b%b%b\r\n" % (status_line(status), headers, framing, self._closing()))

    def send(self, data: bytes) -> None:
        """Send more of a stream."""
        if self._transport.is_closing():
            return
        if not self._chunked:
            self._transport.write(data)
        elif len(data) < _SMALL:
            self._transport.write(b"%x\r\n%b\r\n" % (len(data), data))
        else:
            self._transport.writelines((b"%x\r\n" % len(data), data, b"\r\n"))

    def end(self) -> None:
        """End a stream."""
        if self._current is None or self._transport.is_closing():
            return
        if self._chunked:
            self._transport.write(b"0\r\n\r\n")
        self._done()

    # What the listener calls

    def expire(self) -> None:
        """Patience has ended, unless the client reads on."""
        if self._discarding:
            self._transport.abort()
        elif self._write_paused or self._transport.is_closing():
            self._expect_reading()
        elif self._incoming is None:
            self._transport.close()
        else:
            self._refuse(make_problem(408, "the request did not arrive in time", "request_timeout"))

    def _expect_reading(self) -> None:
        """An answer waits to be read: whoever has read a little of it since the last time gets as long again."""
        before, self._unsent = self._unsent, self._transport.get_write_buffer_size()
        if before - self._unsent < SLOWEST_BYTES:
            self._transport.abort()
        else:
            self.due = self._loop.time() + self._host.patience.keep_alive

    @property
    def peer(self) -> str:
        """The client's address; empty: it is not known."""
        name = self._transport.get_extra_info("peername")
        return str(name[0]) if name else ""

    @property
    def busy(self) -> bool:
        """Whether a request is arriving or under way, or an answer is not yet sent."""
        if self._current is not None or self._incoming is not None or self._queue:
            return True
        return self._transport.get_write_buffer_size() > 0

    def close_if_idle(self) -> None:
        """Close between requests."""
        if self._current is None and self._incoming is None and not self._queue and not self._discarding:
            self._transport.close()

    def abort(self) -> None:
        """Close at once."""
        self._transport.abort()

    # One request after the other

    def _wait(self) -> None:
        """No request is under way: the client is waited for."""
        patience, incoming = self._host.patience, self._incoming
        if incoming is None:
            self.due = self._loop.time() + patience.keep_alive
        elif self._in_head:
            self.due = self._loop.time() + patience.head
        else:
            self.due = self._loop.time() + patience.body
            if incoming.awaits_permission:
                self._transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")

    def _failed(self, error: Exception) -> None:
        """Our own mistake on a request that arrives: it is told, and the client gets its answer in turn."""
        self._report(error)
        if self._broken or (self._current is not None and self.exchange is None):
            self._transport.abort()
        else:
            self._refuse(_FAILED)

    def _report(self, error: Exception) -> None:
        self._loop.call_exception_handler({"message": "a request failed", "exception": error})

    def _refuse(self, problem: Problem) -> None:
        """Answer before the request is whole; nothing that follows is looked at."""
        if self._broken:
            return
        incoming, self._incoming = self._incoming, None
        self._headers = []
        self._broken = True
        incoming = incoming or Incoming()
        incoming.keep_alive = False
        self._submit(incoming, problem)

    def _submit(self, incoming: Incoming, problem: Problem | None) -> None:
        self._incoming = None
        if self._transport.is_closing():
            return
        if self._current is None and not self._queue and not self._write_paused:
            self._serve(incoming, problem)
            return
        if self._queue is None:
            self._queue = deque()
        self._queue.append((incoming, problem))
        if self._enough_queued():
            self._transport.pause_reading()

    def _enough_queued(self) -> bool:
        """Until then reading goes on, because a client that leaves is only noticed by reading."""
        queue = self._queue or ()
        return len(queue) >= MOST_QUEUED or sum([len(each.data) for each, _ in queue]) >= MOST_QUEUED_BYTES

    def _read_on(self) -> None:
        """Read more, unless enough waits for its turn or the request that arrives is a stranger's."""
        if not self._enough_queued() and (self._incoming is None or not self._incoming.undecided):
            self._transport.resume_reading()

    def _serve(self, incoming: Incoming, problem: Problem | None) -> None:
        self._current = incoming
        self.due = inf
        if problem is not None:
            self.refuse(problem)
            return
        try:
            self._host.service.serve(incoming, self)
        except Exception as error:  # our own mistake: it is told, and the client gets an answer all the same
            self._report(error)
            if self._current is incoming and self.exchange is None:
                self.refuse(_FAILED)
            else:
                self.abort()

    def serve_again(self) -> None:
        """Serve the current request, now that what its service waited for is there; its client may be gone."""
        self.exchange = None
        if self._current is not None:
            self._serve(self._current, None)

    def refuse(self, problem: Problem) -> None:
        """Answer the current request with an error."""
        if self._current is not None:
            name = self._host.service.refused(problem, self._current)
            self.respond(problem.status, JSON_LINES + problem.headers + name, problem.body())

    def _serve_next(self) -> None:
        """Serve a pipelined request, if there is one and the client reads."""
        if self._current is not None or not self._queue or self._write_paused:
            return
        incoming, problem = self._queue.popleft()
        self._read_on()
        self._serve(incoming, problem)

    def _closing(self) -> bytes:
        current = self._current
        if self._host.service.draining and current is not None:
            current.keep_alive = False
        return b"" if current is not None and current.keep_alive else b"connection: close\r\n"

    def _done(self) -> None:
        """The current request is answered."""
        current, self._current = self._current, None
        self.exchange = None
        self._unsent = self._transport.get_write_buffer_size()
        if current is not None and not current.keep_alive:
            self._close()
            return
        self._wait()
        if self._queue:
            self._loop.call_soon(self._serve_next)

    def _close(self) -> None:
        """Close; if the client may still be sending, only after it has had time to read the answer."""
        if self._broken and self in self._host.connections and self._transport.can_write_eof():
            self._discarding = True
            self.due = self._loop.time() + LINGER_SECONDS
            self._transport.write_eof()
            self._transport.resume_reading()
        else:
            self._broken = True
            self.due = self._loop.time() + self._host.patience.keep_alive
            self._transport.close()
