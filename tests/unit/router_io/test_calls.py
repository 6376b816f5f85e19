"""Single calls to model servers: trusted connections, what is sent twice, and what our own mistakes cost."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from rig import (
    DONE,
    LAST_CHUNK,
    STREAM_HEAD,
    Peer,
    Received,
    Rig,
    a_snapshot,
    ask,
    chat,
    chat_answer,
    chat_event,
    chat_stream,
    chunk,
    client,
    expert,
    model_server,
    post,
    replies,
    response,
    router,
    served_fallback,
    streams,
    until,
)

from flotilla_api.snapshot import TokenPrice
from flotilla_router.addresses import split_address
from flotilla_router.attempt import Attempt
from flotilla_router.cascade import StreamJudge, judge_whole
from flotilla_router.heads import ResponseHead
from flotilla_router.settings import MAX_ANSWER_BYTES
from flotilla_router.upstream import Failure, Origin, Upstreams

ANSWER = chat_answer("4")
PRICE = TokenPrice(inputPerMillionUSD=1, outputPerMillionUSD=10)


class Outcome:
    """A receiver that remembers what it was told."""

    def __init__(self) -> None:
        self.body = b""
        self.end: Failure | str | None = None

    def on_head(self, response: ResponseHead) -> None: ...

    def on_body(self, chunk: bytes) -> None:
        self.body += chunk

    def on_complete(self) -> None:
        self.end = "complete"

    def on_failed(self, failure: Failure) -> None:
        self.end = failure


# Connections that are kept


@pytest.mark.parametrize(
    ("moved_seconds", "sent"),
    [
        pytest.param(-60.0, 1, id="long after it was sent the server may have worked on it"),
        pytest.param(60.0, 2, id="at once, so the server had closed before it came"),
    ],
)
async def test_only_what_closes_at_once_is_sent_again(moved_seconds: float, sent: int) -> None:
    """A kept connection that closes without a byte was stale only if it closes within RESEND_SECONDS."""
    hang_up = asyncio.Event()

    async def hangs_up_on_the_second(received: Received, peer: Peer) -> None:
        if len(model.received) == 2:
            await hang_up.wait()
            peer.abort()
        else:
            await replies(ANSWER)(received, peer)

    upstreams = Upstreams(asyncio.get_running_loop())
    request = [b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 2\r\n\r\n{}"]
    async with model_server(hangs_up_on_the_second) as model:
        origin = Origin(*split_address(model.address))
        first, second = Outcome(), Outcome()
        upstreams.call(origin, request, first, connect_seconds=5)
        await until(lambda: first.end)
        call = upstreams.call(origin, request, second, connect_seconds=5)
        await until(lambda: len(model.received) == 2)
        call.sent_at += moved_seconds
        hang_up.set()
        await until(lambda: second.end)

        assert (first.end, second.end) == ("complete", Failure.CLOSED if sent == 1 else "complete")
        assert len(model.received) == 1 + sent
        upstreams.close()


@pytest.mark.parametrize(
    ("size", "kept"), [pytest.param(64 << 20, 0, id="part of it is unsent"), pytest.param(2, 1, id="all of it is sent")]
)
async def test_a_connection_is_kept_only_if_its_request_was_sent(size: int, kept: int) -> None:
    """A server that answers before it has read a request would take the rest of it for the next one."""
    gone = asyncio.Event()

    async def answers_without_reading(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(response(ANSWER))
        await gone.wait()
        writer.transport.abort()

    server = await asyncio.start_server(answers_without_reading, "127.0.0.1", 0)
    upstreams = Upstreams(asyncio.get_running_loop())
    origin = Origin("127.0.0.1", server.sockets[0].getsockname()[1])
    head = b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: %d\r\n\r\n" % size
    outcome = Outcome()
    try:
        upstreams.call(origin, [head, bytes(size)], outcome, connect_seconds=5)
        await until(lambda: outcome.end)

        assert (outcome.end, outcome.body, len(origin.idle)) == ("complete", ANSWER, kept)
    finally:
        upstreams.close()
        gone.set()
        server.close()


async def test_an_answer_that_never_ends_is_ended(tmp_path: Path) -> None:
    """Over the bound the model server is cut off, and the memory is free for others."""

    async def endless(received: Received, peer: Peer) -> None:
        await peer.write(b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ntransfer-encoding: chunked\r\n\r\n")
        for _ in range(MAX_ANSWER_BYTES // (1 << 20) + 8):
            await peer.write(chunk(bytes(1 << 20)))
        await peer.closed()

    async with (
        model_server(endless) as model,
        router(tmp_path, a_snapshot(expert("maths", model.address))) as rig,
    ):
        reply = await ask(rig.port, post(chat()))

        assert (reply.status, reply.json["error"]["code"]) == (502, "UpstreamError")
        assert f"larger than {MAX_ANSWER_BYTES} bytes" in reply.json["error"]["message"]
        await until(lambda: model.open == 0)


# Accounts and time


async def test_what_nobody_can_price_is_unknown_and_not_free(tmp_path: Path) -> None:
    """A model server that dies with the request may have charged for it: no cost header, and a metric says so."""

    async def dies(received: Received, peer: Peer) -> None:
        peer.abort()

    async with (
        model_server(dies) as small,
        model_server(replies(ANSWER)) as large,
        router(
            tmp_path,
            a_snapshot(expert("maths", small.address, price=PRICE), served_fallback("big", large.address, price=PRICE)),
        ) as rig,
    ):
        reply = await ask(rig.port, post(chat()))

        assert "x-flotilla-cost-usd" not in reply.headers
        line = await rig.request_line()
        assert [attempt["usd"] for attempt in line["attempts"]] == [None, pytest.approx(0.00006)]
        assert rig.metric('flotilla_router_unpriced_attempts_total{policy="helpdesk",target="maths"}') == 1


async def silent(received: Received, peer: Peer) -> None:
    """No byte of an answer."""
    await peer.closed()


async def test_a_slow_replica_is_left_for_a_fallback(tmp_path: Path) -> None:
    """A second slow replica would use up the time in which the fallback can still answer."""
    async with (
        model_server(silent) as one,
        model_server(silent) as other,
        model_server(streams(*chat_stream("four"))) as large,
        router(
            tmp_path,
            a_snapshot(
                expert("maths", one.address, other.address),
                served_fallback("big", large.address),
                timeouts={"firstTokenSeconds": 0.2},
            ),
        ) as rig,
    ):
        reply = await ask(rig.port, post(chat(stream=True)))

        assert reply.headers["x-flotilla-reason"] == "Timeout"
        line = await rig.request_line()
        assert [attempt["target"] for attempt in line["attempts"]] == ["maths", "big"]


@pytest.mark.parametrize(
    ("deadline", "attempts"), [pytest.param(20, 2, id="in time"), pytest.param(0.1, 1, id="the deadline is over")]
)
async def test_without_a_fallback_another_replica_is_tried_until_the_deadline(
    tmp_path: Path, deadline: float, attempts: int
) -> None:
    """A client does not wait for a second slow replica that only begins when the time is up."""
    async with (
        model_server(silent) as one,
        model_server(silent) as other,
        router(
            tmp_path,
            a_snapshot(
                expert("maths", one.address, other.address),
                timeouts={"firstTokenSeconds": 0.2},
                escalation={"deadlineSeconds": deadline},
            ),
        ) as rig,
    ):
        reply = await ask(rig.port, post(chat(stream=True)))

        assert (reply.status, reply.json["error"]["code"]) == (504, "Timeout")
        assert len((await rig.request_line())["attempts"]) == attempts


async def test_retries_are_bounded_by_the_total_time(tmp_path: Path) -> None:
    """The second try ends with the request."""
    async with (
        model_server(silent) as one,
        model_server(silent) as other,
        router(
            tmp_path,
            a_snapshot(
                expert("maths", one.address, other.address), timeouts={"firstTokenSeconds": 0.5, "totalSeconds": 0.7}
            ),
        ) as rig,
    ):
        reply = await ask(rig.port, post(chat(stream=True)))

        assert (reply.status, reply.json["error"]["message"]) == (504, "the request took longer than timeouts.total")
        assert len((await rig.request_line())["attempts"]) == 2


# Mistakes of our own


def defect(*_: object, **__: object) -> None:
    raise ValueError("a defect")


def report_to(told: list[dict[str, Any]]) -> None:
    asyncio.get_running_loop().set_exception_handler(lambda _, context: told.append(context))


def in_flight(rig: Rig) -> int:
    live = rig.process.registry.live
    assert live is not None
    return sum(replica.in_flight for state in live.states.values() for replica in state.everyone())


@pytest.mark.defect
@pytest.mark.parametrize(
    ("where", "stream"),
    [
        pytest.param(judge_whole, False, id="judging a whole answer"),
        pytest.param(StreamJudge.feed, True, id="judging an event"),
        pytest.param(StreamJudge.expire, True, id="judging when the time is up"),
        pytest.param(Attempt.on_head, False, id="reading a head"),
        pytest.param(Attempt.on_body, True, id="reading a body"),
    ],
)
async def test_a_defect_costs_its_attempt_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: Callable[..., object], stream: bool
) -> None:
    """It is told once, the fallback answers without waiting for a timeout, and no slot stays taken."""
    told: list[dict[str, Any]] = []
    report_to(told)
    broken = False

    def breaks_once(*args: Any, **fields: Any) -> object:
        nonlocal broken
        if broken:
            return where(*args, **fields)
        broken = True
        raise ValueError("a defect")

    async def unsure(received: Received, peer: Peer) -> None:
        await peer.write(STREAM_HEAD + chunk(chat_event("hm", logprob=-0.01)))
        await peer.closed()

    place = f"attempt.{where.__name__}" if where is judge_whole else f"{where.__module__[16:]}.{where.__qualname__}"
    monkeypatch.setattr(f"flotilla_router.{place}", breaks_once)
    async with (
        model_server(unsure if stream else replies(chat_answer("5", logprob=-0.01))) as small,
        model_server(streams(*chat_stream("four")) if stream else replies(ANSWER)) as large,
        router(
            tmp_path,
            a_snapshot(
                expert("maths", small.address),
                served_fallback("big", large.address),
                escalation={"commitMaxWaitSeconds": 0.05},
            ),
        ) as rig,
    ):
        reply = await ask(rig.port, post(chat(stream=stream)))

        assert (reply.status, reply.headers["x-flotilla-reason"]) == (200, "UpstreamError")
        assert [str(context["exception"]) for context in told] == ["a defect"]
        assert in_flight(rig) == 0
        line = await rig.request_line()
        assert [attempt["result"] for attempt in line["attempts"]] == ["UpstreamError", "ok"]
        await until(lambda: small.open == 0 or not stream)


@pytest.mark.defect
async def test_a_defect_after_the_commit_ends_the_stream_in_band(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The client is told, and the replica is not blamed."""
    told: list[dict[str, Any]] = []
    report_to(told)
    go_on = asyncio.Event()

    async def in_two_parts(received: Received, peer: Peer) -> None:
        await peer.write(STREAM_HEAD + chunk(chat_event("so")))
        await go_on.wait()
        await peer.write(chunk(chat_event("on")) + chunk(DONE) + LAST_CHUNK)

    async with (
        model_server(in_two_parts) as model,
        router(tmp_path, a_snapshot(expert("maths", model.address))) as rig,
        client(rig.port) as raw,
    ):
        await raw.send(post(chat(stream=True)))
        _, headers = await raw.head()
        assert await raw.chunk() == chat_event("so")
        monkeypatch.setattr(Attempt, "on_body", defect)
        go_on.set()
        rest = await raw.body(headers)

        assert rest.startswith(b'data: {"error":{"message":"the model server failed: its response could not be')
        assert [str(context["exception"]) for context in told] == ["a defect"]
        live = rig.process.registry.live
        assert live is not None
        assert live.state(live.snapshot.targets[0]).replicas[0].failures == 0
        assert in_flight(rig) == 0


@pytest.mark.defect
async def test_a_defect_while_an_answer_is_sent_ends_the_request(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its attempt is over, so nobody else would end it before its last timeout."""
    told: list[dict[str, Any]] = []
    report_to(told)
    monkeypatch.setattr("flotilla_router.exchange.cost_line", defect)
    async with (
        model_server(replies(ANSWER)) as model,
        router(tmp_path, a_snapshot(expert("maths", model.address))) as rig,
    ):
        reply = await ask(rig.port, post(chat()))

        assert (reply.status, reply.json["error"]["code"]) == (503, "service_unavailable")
        assert [str(context["exception"]) for context in told] == ["a defect"]
        assert not rig.process.dispatcher.under_way
