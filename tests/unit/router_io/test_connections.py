"""A client's connection: what it may hold, how long it lasts, and that it always ends with an answer."""

from __future__ import annotations

import json
import tracemalloc
from pathlib import Path

import pytest
from rig import (
    LAST_CHUNK,
    Reply,
    a_snapshot,
    ask,
    chat,
    chat_answer,
    chunk,
    client,
    expert,
    get,
    model_server,
    post,
    replies,
    router,
)

from flotilla_router.connection import ClientConnection
from flotilla_router.endpoints import Surface
from flotilla_router.incoming import Incoming, Problem

ANSWER = chat_answer("4")


def error_code(reply: Reply) -> str:
    """The code of an error in OpenAI's shape."""
    assert set(reply.json["error"]) == {"message", "type", "param", "code"}
    return reply.json["error"]["code"]


# Mistakes of our own


def fail_on_the_way_in(monkeypatch: pytest.MonkeyPatch) -> None:
    """Requests for /v1/fail meet a defect as soon as their headers are there."""
    admit = Surface.admit

    def fails(self: Surface, incoming: Incoming, connection: ClientConnection) -> Problem | None:
        if incoming.url == b"/v1/fail":
            raise ValueError("a defect")
        return admit(self, incoming, connection)

    monkeypatch.setattr(Surface, "admit", fails)


async def test_a_defect_on_the_way_in_is_answered_with_500(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The client is told, the defect is logged and counted, and the connection ends; other requests go on."""
    fail_on_the_way_in(monkeypatch)
    async with router(tmp_path, a_snapshot()) as rig, client(rig.port) as raw:
        rig.log_defects()
        await raw.send(post(chat(), path="/v1/fail"))
        reply = await raw.reply()

        assert (reply.status, error_code(reply)) == (500, "internal_error")
        assert reply.headers["connection"] == "close"
        assert await raw.ended()
        assert "ValueError: a defect" in rig.log.of("router error")[0]["trace"]
        assert rig.metric('flotilla_router_refused_total{code="internal_error"') == 1
        assert (await ask(rig.port, get("/healthz"))).status == 200


async def test_a_defect_on_the_way_in_leaves_the_answer_under_way_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A pipelined request that meets a defect is answered after the one before it."""
    fail_on_the_way_in(monkeypatch)
    async with (
        model_server(replies(ANSWER)) as model,
        router(tmp_path, a_snapshot(expert("maths", model.address))) as rig,
        client(rig.port) as raw,
    ):
        rig.log_defects()
        await raw.send(post(chat()) + get("/v1/fail"))

        assert (await raw.reply()).body == ANSWER
        assert (await raw.reply()).status == 500
        assert await raw.ended()


# What a request may hold

CHUNKED_HEAD = (
    b"POST /v1/chat/completions HTTP/1.1\r\nhost: r\r\ncontent-type: application/json\r\n"
    b"transfer-encoding: chunked\r\n\r\n"
)


@pytest.mark.parametrize(
    ("beginning", "more"),
    [
        pytest.param(b"1;", b"a=b;" * 1000, id="a chunk extension"),
        pytest.param(chunk(b"x" * 20_000) + b"0\r\nx-trailer: ", b"y" * 4000, id="one trailer"),
        pytest.param(chunk(b"x" * 20_000) + b"0\r\n", b"x: y\r\n" * 700, id="many trailers"),
        pytest.param(b"", (b"1;" + b"a" * 4000 + b"\r\nx\r\n"), id="extensions of many chunks"),
        pytest.param(b"", b"0" * 4000, id="leading zeros"),
    ],
)
async def test_what_is_wrapped_around_a_body_is_bounded(tmp_path: Path, beginning: bytes, more: bytes) -> None:
    """Chunk extensions and trailers that never end are cut off, and are not kept."""
    async with router(tmp_path, a_snapshot()) as rig, client(rig.port) as raw:
        await raw.send(CHUNKED_HEAD + beginning)
        for _ in range(60):
            await raw.send(more)
        reply = await raw.reply()

        assert (reply.status, error_code(reply)) == (400, "too_much_framing")
        assert await raw.ended()


async def test_a_body_of_tiny_chunks_is_the_same_body(tmp_path: Path) -> None:
    """Chunks of one byte, with extensions and a trailer, are an expensive way to send a request, but a valid one."""
    body = json.dumps(chat(padding="x" * 100_000)).encode()
    tiny = b"".join(b"1;e\r\n%c\r\n" % byte for byte in body)
    async with (
        model_server(replies(ANSWER)) as model,
        router(tmp_path, a_snapshot(expert("maths", model.address))) as rig,
        client(rig.port) as raw,
    ):
        await raw.send(CHUNKED_HEAD + tiny + b"0\r\nx-sum: 1\r\n\r\n")

        assert (await raw.reply()).body == ANSWER
        assert model.received[0].json == json.loads(body) | {"model": "maths-model"}


def test_a_body_in_tiny_parts_takes_no_more_memory_than_its_bytes() -> None:
    """No object is kept for each part."""
    incoming = Incoming()
    tracemalloc.start()
    try:
        for number in range(100_000):
            incoming.add(b"%05d" % number)
        kept, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()

    assert len(incoming.body()) == 500_000
    assert kept < 2 * 500_000


# Offers to speak another protocol

H2C = [
    "connection: Upgrade, HTTP2-Settings",
    "upgrade: h2c",
    "http2-settings: AAEAAEAAAAIAAAABAAMAAABkAAQBAAAAAAUAAEAA",
]
WEBSOCKET = ["connection: upgrade", "upgrade: websocket", "sec-websocket-key: eA==", "sec-websocket-version: 13"]


def chunked(body: bytes, *, size: int, headers: list[str]) -> bytes:
    """A request whose body comes in chunks of `size` bytes."""
    lines = "".join(f"{line}\r\n" for line in headers).encode()
    parts = [chunk(body[at : at + size]) for at in range(0, len(body), size)]
    return CHUNKED_HEAD[:-2] + lines + b"\r\n" + b"".join(parts) + LAST_CHUNK


@pytest.mark.parametrize("piece_bytes", [1, 7, 100_000])
async def test_an_offer_to_upgrade_is_passed_over(tmp_path: Path, piece_bytes: int) -> None:
    """Requests that offer another protocol are answered in HTTP/1.1, on one connection, however they are cut."""
    body = json.dumps(chat()).encode()
    sent = (
        post(body, headers=H2C)
        + chunked(body, size=50, headers=H2C)
        + get("/v1/models", headers=H2C)
        + get("/v1/chat/completions", headers=WEBSOCKET)
        + post(b"", headers=H2C)
        + post(body)
        + get("/healthz", headers=H2C)
    )
    async with (
        model_server(replies(ANSWER)) as model,
        router(tmp_path, a_snapshot(expert("maths", model.address))) as rig,
        client(rig.port) as raw,
    ):
        for at in range(0, len(sent), piece_bytes):
            await raw.send(sent[at : at + piece_bytes])
        answers = [await raw.reply() for _ in range(7)]

        assert [answer.status for answer in answers] == [200, 200, 200, 405, 400, 200, 200]
        assert [answer.body for answer in answers[:2]] == [ANSWER, ANSWER]
        assert [received.json for received in model.received] == [chat(model="maths-model")] * 3
        assert "connection" not in answers[-1].headers


async def test_a_broken_body_is_refused_beside_an_offer(tmp_path: Path) -> None:
    """What follows the offer is held to HTTP/1.1 like everything else."""
    async with router(tmp_path, a_snapshot()) as rig, client(rig.port) as raw:
        await raw.send(chunked(b"", size=1, headers=H2C)[: -len(LAST_CHUNK)] + b"no chunk\r\n")
        reply = await raw.reply()

        assert (reply.status, error_code(reply)) == (400, "invalid_http")


async def test_what_follows_a_connect_is_not_read_as_requests(tmp_path: Path) -> None:
    """A tunnel is refused, and what was meant for its other end is dropped."""
    async with router(tmp_path, a_snapshot()) as rig, client(rig.port) as raw:
        await raw.send(b"CONNECT example.com:443 HTTP/1.1\r\nhost: example.com\r\n\r\n" + get("/healthz"))

        assert (await raw.reply()).status == 404
        assert await raw.ended()


async def test_a_body_that_is_too_large_is_refused_beside_an_offer(tmp_path: Path) -> None:
    """An offer opens no way around the bounds."""
    async with router(tmp_path, a_snapshot(maxBodyBytes=1000)) as rig, client(rig.port) as raw:
        await raw.send(chunked(b"x" * 2000, size=100, headers=H2C))

        assert (await raw.reply()).status == 413
        assert await raw.ended()
