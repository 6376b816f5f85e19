"""How long clients are waited for, how many there may be, and how much of what they send is held."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping
from math import inf
from pathlib import Path

import pytest
from certificates import Authority
from rig import (
    Peer,
    RawClient,
    Received,
    Reply,
    Rig,
    a_snapshot,
    ask,
    chat,
    chat_answer,
    client,
    expert,
    get,
    model_server,
    post,
    replies,
    router,
    until,
)

from flotilla_router.connection import ClientConnection, Host
from flotilla_router.incoming import TOO_MANY_CONNECTIONS, Incoming, Problem
from flotilla_router.serving import MOST_QUEUED, SLOWEST_BYTES, Patience
from flotilla_router.verdicts import Admitted, Refused, Verdict

ANSWER = chat_answer("4")
LONG_ANSWER = chat_answer("4" * 16_000_000)
A_GET = get("/healthz")


async def silent(received: Received, peer: Peer) -> None:
    """Says nothing until the other side goes."""
    await peer.closed()
    peer.abort()


# A connection without a network


class Wire(asyncio.Transport):
    """The other end neither reads nor writes by itself; as strict as uvloop's transports are."""

    def __init__(self) -> None:
        super().__init__()
        self.written = b""
        self.unsent = 0
        self.reading = True
        self.closing = self.aborted = False

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.written += data

    def writelines(self, list_of_data: Iterable[bytes | bytearray | memoryview]) -> None:
        self.write(b"".join(list_of_data))

    def get_write_buffer_size(self) -> int:
        return self.unsent

    def can_write_eof(self) -> bool:
        return True

    def write_eof(self) -> None:
        pass

    def pause_reading(self) -> None:
        if self.closing:
            raise RuntimeError("closing")
        self.reading = False

    def resume_reading(self) -> None:
        if self.closing:
            raise RuntimeError("closing")
        self.reading = True

    def is_closing(self) -> bool:
        return self.closing

    def close(self) -> None:
        self.closing = True

    def abort(self) -> None:
        self.closing = self.aborted = True


class Endless:
    """An exchange that goes on."""

    def client_gone(self) -> None:
        pass

    def pause(self) -> None:
        pass

    def resume(self) -> None:
        pass


class Held:
    """Answers no request before it is told to. Implements connection.Service."""

    draining = False
    max_body_bytes = 1 << 20

    def __init__(self) -> None:
        self.served: list[bytes] = []

    def admit(self, incoming: Incoming, connection: ClientConnection) -> Problem | None:
        return None

    def judge(self, incoming: Incoming) -> Problem | None:
        return None

    def serve(self, incoming: Incoming, connection: ClientConnection) -> None:
        connection.exchange = Endless()
        self.served.append(incoming.url)

    def refused(self, problem: Problem, incoming: Incoming) -> bytes:
        return b""


def connected(service: Held) -> tuple[ClientConnection, Wire]:
    """A connection that has just been made."""
    host = Host(asyncio.get_running_loop(), service, Patience(10, 10, 60, 75), most_connections=10)
    connection, wire = ClientConnection(host), Wire()
    connection.connection_made(wire)
    return connection, wire


async def test_reading_stops_while_many_requests_wait_for_their_turn() -> None:
    """A client that pipelines without end is made to wait; what it has sent is answered in order."""
    service = Held()
    connection, wire = connected(service)
    sent = 0
    while wire.reading and sent < 1_000:
        connection.data_received(get(f"/{sent}"))
        sent += 1
    assert sent == MOST_QUEUED + 1

    for number in range(sent):
        await until(lambda seen=number: len(service.served) > seen)
        assert wire.reading == (number > 0)
        connection.respond(200, b"", b"ok")
    assert service.served == [b"/%d" % number for number in range(sent)]
    assert wire.written.count(b"HTTP/1.1 200 OK") == sent


async def test_reading_stops_while_long_requests_wait_for_their_turn() -> None:
    """Bodies that wait are bounded too."""
    connection, wire = connected(Held())
    for _ in range(3):
        connection.data_received(post(b"x" * 40_000))

    assert not wire.reading


async def test_a_request_that_waits_for_its_turn_is_served_in_a_drain() -> None:
    """The moment between two answers is no idleness."""
    service = Held()
    connection, wire = connected(service)
    connection.data_received(A_GET * 2)
    connection.respond(200, b"", b"ok")

    assert connection.busy
    connection.close_if_idle()
    assert not wire.closing
    await until(lambda: len(service.served) == 2)


async def test_a_connection_that_closes_takes_no_more_requests() -> None:
    """What still arrives is neither kept nor an error."""
    service = Held()
    connection, wire = connected(service)
    connection.data_received(A_GET)
    wire.closing = True
    connection.data_received(A_GET * 100)
    connection.respond(200, b"", b"ok")

    assert (len(service.served), wire.written) == (1, b"")


async def test_a_pipelined_body_has_a_bodys_time_and_is_asked_for() -> None:
    """Its time begins when the answer before it is out, and so does permission to send it."""
    connection, wire = connected(Held())
    now = asyncio.get_running_loop().time()
    connection.data_received(A_GET + post(b"x" * 9, headers=["expect: 100-continue"])[:-9])
    assert (connection.due, wire.written) == (inf, b"")
    connection.respond(200, b"", b"ok")

    assert now + 50 < connection.due < inf
    assert wire.written.endswith(b"ok" + b"HTTP/1.1 100 Continue\r\n\r\n")


class Undecided(Held):
    """Knows nobody before the verdict is there."""

    def __init__(self) -> None:
        super().__init__()
        self.reviews: list[asyncio.Future[Verdict]] = []

    def admit(self, incoming: Incoming, connection: ClientConnection) -> Problem | None:
        review = incoming.review = asyncio.get_running_loop().create_future()
        self.reviews.append(review)
        return None

    def judge(self, incoming: Incoming) -> Problem | None:
        assert incoming.review is not None
        return None if isinstance(incoming.review.result(), Admitted) else TOO_MANY_CONNECTIONS


HALF = post(b"x" * 9)[:-1]


async def test_nothing_more_is_read_before_it_is_known_who_sends_it() -> None:
    """What one read has brought is all that a stranger can make the router hold."""
    service = Undecided()
    connection, wire = connected(service)
    connection.data_received(HALF)
    before = wire.reading
    service.reviews[0].set_result(Admitted("agent-1"))
    await until(lambda: wire.reading)
    connection.data_received(b"x")

    assert (before, wire.written, service.served) == (False, b"", [b"/v1/chat/completions"])


async def test_who_is_refused_while_a_body_arrives_is_told_at_once() -> None:
    """As by any other refusal at the head: the connection ends, and what still comes is dropped."""
    service = Undecided()
    connection, wire = connected(service)
    connection.data_received(HALF)
    service.reviews[0].set_result(Refused("gone"))
    await until(lambda: wire.written)
    connection.data_received(b"x")

    assert wire.written.startswith(b"HTTP/1.1 503")
    assert b"connection: close" in wire.written
    assert (service.served, connection.busy, wire.reading) == ([], False, True)


@pytest.mark.parametrize("verdict", [Admitted("agent-1"), Refused("gone")])
async def test_a_body_behind_another_request_waits_for_its_verdict_too(verdict: Verdict) -> None:
    """Whatever happens to the request before it, it is not read on; then it is answered in its turn."""
    service = Undecided()
    connection, wire = connected(service)
    connection.data_received(A_GET + HALF)
    connection.respond(200, b"", b"ok")
    before = (wire.reading, wire.written.count(b"HTTP/1.1"))
    service.reviews[1].set_result(verdict)
    await until(lambda: wire.reading)
    connection.data_received(b"x")

    assert before == (False, 1)
    assert (len(service.served), wire.written.count(b"HTTP/1.1 503")) == (
        (2, 0) if verdict == Admitted("agent-1") else (1, 1)
    )


async def test_a_verdict_on_a_client_that_has_left_changes_nothing() -> None:
    """There is nobody to be answered."""
    service = Undecided()
    connection, wire = connected(service)
    connection.data_received(HALF)
    wire.closing = True
    service.reviews[0].set_result(Admitted("agent-1"))
    await asyncio.sleep(0)

    assert (wire.reading, wire.written, service.served) == (False, b"", [])


async def test_a_client_of_http_1_0_is_not_asked_for_its_body() -> None:
    """It does not know interim responses and would take one for its answer."""
    connection, wire = connected(Held())
    request = post(b"x" * 9, headers=["expect: 100-continue"])[:-9]
    connection.data_received(request.replace(b"HTTP/1.1", b"HTTP/1.0"))

    assert connection.busy
    assert wire.written == b""


async def test_a_client_that_does_not_read_a_long_answer_is_let_go() -> None:
    """One that reads on gets as long again, and again."""
    connection, wire = connected(Held())
    connection.data_received(A_GET)
    connection.pause_writing()
    wire.unsent = 10 * SLOWEST_BYTES
    connection.respond(200, b"", b"long")
    now = asyncio.get_running_loop().time()

    for _ in range(3):
        wire.unsent -= SLOWEST_BYTES
        connection.due = now
        connection.expire()
        assert (wire.aborted, connection.due > now + 70) == (False, True)
    wire.unsent -= 1
    connection.expire()
    assert wire.aborted


# A router on loopback


def connections(rig: Rig) -> float:
    return rig.metric("flotilla_router_connections{")


async def trickle(raw: RawClient, data: bytes) -> Reply:
    """Send a byte now and then, until there is an answer."""
    reply = asyncio.ensure_future(raw.reply())
    for byte in data:
        done, _ = await asyncio.wait({reply}, timeout=0.02)
        if done:
            return await reply
        await raw.send(bytes([byte]))
    raise AssertionError("the whole request was taken")


@pytest.mark.parametrize("tls", [False, True])
async def test_a_new_connection_that_says_nothing_is_closed(tmp_path: Path, tls: bool) -> None:
    """Before its first request, or its handshake, a client has less time than between two requests."""
    if tls:
        Authority.make().issue(tmp_path / "tls", "gateway")
    async with router(tmp_path, a_snapshot(), first_byte_seconds=0.1) as rig, client(rig.port) as raw:
        assert await raw.ended()


@pytest.mark.parametrize(
    ("at_once", "slowly"),
    [
        pytest.param(b"", b"GET /v1/models HTTP/1.1\r\n" + b"x-a: 1\r\n" * 1000, id="head"),
        pytest.param(post(b"x" * 9000)[:-9000], b"x" * 9000, id="body"),
        pytest.param(A_GET, b"GET /v1/models HTTP/1.1\r\n" + b"x-a: 1\r\n" * 1000, id="head of a second request"),
    ],
)
async def test_a_trickle_ends_in_408(tmp_path: Path, at_once: bytes, slowly: bytes) -> None:
    """Another byte buys no more time."""
    async with (
        router(tmp_path, a_snapshot(), head_seconds=0.1, body_seconds=0.1) as rig,
        client(rig.port) as raw,
    ):
        await raw.send(at_once)
        if at_once is A_GET:
            assert (await raw.reply()).status == 200
        reply = await trickle(raw, slowly)

        assert (reply.status, reply.json["error"]["code"]) == (408, "request_timeout")
        assert await raw.ended()


async def test_connections_over_the_bound_get_503(tmp_path: Path) -> None:
    """Those that are there go on; when one leaves there is room again."""
    async with router(tmp_path, a_snapshot(), max_connections=2) as rig, client(rig.port) as first:
        async with client(rig.port) as second:
            for raw in (first, second):
                await raw.send(A_GET)
                assert (await raw.reply()).status == 200
            async with client(rig.port) as third:
                refused = await third.reply()
                assert await third.ended()

            assert (refused.status, refused.json["error"]["code"]) == (503, "too_many_connections")
            assert rig.metric('flotilla_router_refused_total{code="too_many_connections"') == 1
            assert connections(rig) == 2
        await until(lambda: connections(rig) == 1)
        assert (await ask(rig.port, A_GET)).status == 200
        assert (await ask(rig.ports.admin, A_GET)).status == 200


async def test_a_client_that_leaves_while_another_of_its_requests_waits_ends_the_call(tmp_path: Path) -> None:
    """Pipelining does not hide that nobody is there any more."""
    async with (
        model_server(silent) as model,
        router(tmp_path, a_snapshot(expert("maths", model.address))) as rig,
    ):
        async with client(rig.port) as raw:
            await raw.send(post(chat()) + post(chat()) + A_GET)
            await until(lambda: model.received)

        await until(lambda: model.open == 0)
        assert (await rig.request_line())["client_gone"] is True
        assert rig.process.dispatcher.under_way == set()
        await until(lambda: connections(rig) == 0)


@pytest.mark.parametrize(
    "request_bytes",
    [
        pytest.param(post(b"x" * 3000), id="refused while the body arrives"),
        pytest.param(b"nonsense\r\n\r\n", id="not HTTP"),
        pytest.param(get("/healthz", headers=["connection: close"]), id="closed by request"),
        pytest.param(post(b"{}", path="/v1/nothing") * 50, id="requests behind a refused one"),
    ],
)
async def test_a_client_that_never_closes_is_not_kept(tmp_path: Path, request_bytes: bytes) -> None:
    """After an answer that ends the connection, the router forgets it whatever the client does."""
    async with router(tmp_path, a_snapshot(maxBodyBytes=1000)) as rig, client(rig.port) as raw:
        await raw.send(request_bytes)
        await raw.reply()

        await until(lambda: connections(rig) == 0)


async def test_a_get_with_a_body_is_refused(tmp_path: Path) -> None:
    """With 413, before the body is there; the body is not taken for another request."""
    async with router(tmp_path, a_snapshot()) as rig, client(rig.port) as raw:
        await raw.send(get("/v1/models", headers=[f"content-length: {len(A_GET)}"]) + A_GET)
        reply = await raw.reply()

        assert (reply.status, reply.json["error"]["code"]) == (413, "body_not_allowed")
        assert await raw.ended()


async def test_a_drain_waits_for_answers_that_are_not_yet_read(tmp_path: Path) -> None:
    """An answer that is written but still in the router is not cut off."""
    async with (
        model_server(replies(LONG_ANSWER)) as model,
        router(tmp_path, a_snapshot(expert("maths", model.address)), drain_seconds=60) as rig,
        client(rig.port) as raw,
    ):
        raw.writer.transport.pause_reading()  # type: ignore[attr-defined]
        await raw.send(post(chat()))
        await rig.request_line()
        draining = asyncio.create_task(rig.process.drain())
        await until(lambda: rig.log.of("draining"))
        done, _ = await asyncio.wait({draining}, timeout=0.3)
        assert not done
        raw.writer.transport.resume_reading()  # type: ignore[attr-defined]

        assert (await raw.reply()).body == LONG_ANSWER
        await draining
        await until(lambda: connections(rig) == 0)


async def test_a_long_answer_that_nobody_reads_is_given_up(tmp_path: Path) -> None:
    """Its connection ends, and the memory with it."""
    async with (
        model_server(replies(LONG_ANSWER)) as model,
        router(tmp_path, a_snapshot(expert("maths", model.address)), keep_alive_seconds=0.2) as rig,
        client(rig.port) as raw,
    ):
        raw.writer.transport.pause_reading()  # type: ignore[attr-defined]
        await raw.send(post(chat()))
        await rig.request_line()

        await until(lambda: connections(rig) == 0)


async def test_patience_ends_for_others_after_one_of_them_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A mistake of our own about one client leaves no other one connected for ever."""

    def fail(event: str, fields: Mapping[str, object]) -> None:
        raise ValueError("a defect")

    told: list[str] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: told.append(str(context.get("exception"))))
    async with router(tmp_path, a_snapshot(expert("maths")), first_byte_seconds=0.1, head_seconds=0.1) as rig:
        with monkeypatch.context() as patched:
            patched.setattr(rig.log, "write", fail)
            async with client(rig.port) as slow:
                await slow.send(b"GET /")
                await until(lambda: told)
        async with client(rig.port) as silent_one:
            assert await silent_one.ended()

        assert told[0] == "a defect"
