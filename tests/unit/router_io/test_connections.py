"""A client's connection: what it may hold, how long it lasts, and that it always ends with an answer."""

from __future__ import annotations

import json
import tracemalloc
from pathlib import Path

import pytest
from rig import (
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

    def fails(self: Surface, incoming: Incoming) -> Problem | None:
        if incoming.url == b"/v1/fail":
            raise ValueError("a defect")
        return admit(self, incoming)

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
