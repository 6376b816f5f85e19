"""Errors that come under status 200: before the commit as good as any other failure, after it told by the outcome."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
from rig import (
    DONE,
    Peer,
    Received,
    Script,
    a_snapshot,
    ask,
    chat,
    chat_answer,
    chat_event,
    chat_stream,
    client,
    expert,
    model_server,
    post,
    replies,
    router,
    served_fallback,
    streams,
)

from flotilla_api.causes import Cause
from flotilla_api.snapshot import TokenPrice

SURE = -0.01
ERROR = b'{"error":{"message":"out of memory","type":"server_error"}}'
EVENT = b"data:%b\n\n" % ERROR
PRICE = TokenPrice(inputPerMillionUSD=1, outputPerMillionUSD=10)
JUDGED: dict[str, Any] = {}
UNJUDGED: dict[str, Any] = {"on": tuple(c for c in Cause if c not in (Cause.LOW_CONFIDENCE, Cause.EMPTY_ANSWER))}


@pytest.mark.parametrize("escalation", [pytest.param(JUDGED, id="judged"), pytest.param(UNJUDGED, id="not judged")])
@pytest.mark.parametrize(
    ("script", "stream"),
    [
        pytest.param(replies(ERROR), False, id="a whole answer"),
        pytest.param(replies(ERROR), True, id="a whole answer for a stream"),
        pytest.param(streams(EVENT, DONE), True, id="an event without a blank"),
        pytest.param(streams(b": hi\n\n", b"event: error\n" + EVENT), True, id="a named event after a comment"),
    ],
)
async def test_it_escalates_before_the_commit(
    tmp_path: Path, script: Script, stream: bool, escalation: dict[str, Any]
) -> None:
    """The fallback answers, whether or not the expert's answer is judged, and the cause is no quality cause."""
    better = streams(*chat_stream("four")) if stream else replies(chat_answer("4"))
    async with (
        model_server(script) as small,
        model_server(better) as large,
        router(
            tmp_path,
            a_snapshot(expert("maths", small.address), served_fallback("big", large.address), escalation=escalation),
        ) as rig,
    ):
        reply = await ask(rig.port, post(chat(stream=stream)))

        assert (reply.status, reply.headers["x-flotilla-reason"]) == (200, "UpstreamError")
        assert reply.body == (b"".join(chat_stream("four")) if stream else chat_answer("4"))
        assert [a["result"] for a in (await rig.request_line())["attempts"]] == ["UpstreamError", "ok"]


@pytest.mark.parametrize(
    "on", [pytest.param((Cause.LOW_CONFIDENCE,), id="judged"), pytest.param((Cause.OVERLOADED,), id="not judged")]
)
@pytest.mark.parametrize(
    ("script", "stream"),
    [
        pytest.param(replies(ERROR), False, id="a whole answer"),
        pytest.param(streams(EVENT, DONE), True, id="an event"),
    ],
)
async def test_it_is_passed_on_as_the_error_that_it_is_where_it_is_no_cause(
    tmp_path: Path, script: Script, stream: bool, on: tuple[Cause, ...]
) -> None:
    """Never as a good answer: the status, the log and the metrics say so, and the engine's words reach the client."""
    async with (
        model_server(script) as small,
        model_server(replies(b"{}")) as large,
        router(
            tmp_path,
            a_snapshot(
                expert("maths", small.address, price=PRICE),
                served_fallback("big", large.address),
                escalation={"on": on},
            ),
        ) as rig,
    ):
        reply = await ask(rig.port, post(chat(stream=stream)))

        assert (reply.status, reply.body, large.received) == (502, ERROR, [])
        assert reply.headers["content-type"] == "application/json"
        assert reply.headers["x-flotilla-cost-usd"] == "0"
        line = await rig.request_line()
        assert (line["status"], line["model"], line["attempts"][0]["result"]) == (502, None, "UpstreamError")
        assert line["error"] == "the model server answered with an error under status 200"
        assert rig.metric('flotilla_router_requests_total{api="chat",code="502"') == 1


async def test_an_error_about_our_credentials_is_not_shown(tmp_path: Path) -> None:
    """A provider that says so under status 200 is treated as if it had said 401."""
    wrong = b'{"error":{"message":"Incorrect API key provided: sk-secret","code":401}}'
    async with (
        model_server(replies(wrong)) as small,
        router(tmp_path, a_snapshot(expert("maths", small.address))) as rig,
    ):
        reply = await ask(rig.port, post(chat()))

        assert (reply.status, reply.json["error"]["code"]) == (502, "UpstreamError")
        assert b"sk-secret" not in reply.body


@pytest.mark.parametrize("tail", [pytest.param((), id="the end"), pytest.param((DONE,), id="[DONE]")])
@pytest.mark.parametrize("escalation", [pytest.param(JUDGED, id="judged"), pytest.param({"on": ()}, id="not judged")])
async def test_after_the_commit_it_is_passed_on_once_and_told(
    tmp_path: Path, tail: tuple[bytes, ...], escalation: dict[str, Any]
) -> None:
    """The stream is what the engine wrote, no second error follows, and neither log nor metrics call it a success."""
    events = (*(chat_event("so", logprob=SURE) for _ in range(3)), EVENT, *tail)
    async with (
        model_server(streams(*events)) as small,
        model_server(replies(b"{}")) as large,
        router(
            tmp_path,
            a_snapshot(
                expert("maths", small.address, price=PRICE),
                served_fallback("big", large.address),
                escalation=escalation,
            ),
        ) as rig,
    ):
        reply = await ask(rig.port, post(chat(stream=True, logprobs=True)))

        assert (reply.status, reply.body, large.received) == (200, b"".join(events), [])
        line = await rig.request_line()
        assert line["attempts"][0]["result"] == "UpstreamError"
        assert line["error"] == "the model server ended its stream with an error"
        assert line["attempts"][0]["usd"] is None
        assert rig.metric('flotilla_router_attempts_total{policy="helpdesk",result="ok"') == 0


async def test_replicas_that_answer_with_errors_are_left_out(tmp_path: Path) -> None:
    """Status 200 does not make an error a success: after three in a row the replica gets no requests for a while."""
    async with (
        model_server(replies(ERROR)) as bad,
        model_server(replies(chat_answer("4"))) as good,
        router(tmp_path, a_snapshot(expert("maths", bad.address, good.address))) as rig,
    ):
        while len(bad.received) < 3:
            assert (await ask(rig.port, post(chat()))).status == 200
        for _ in range(10):
            await ask(rig.port, post(chat()))

        live = rig.process.registry.live
        assert live is not None
        (failing,) = [r for r in live.state(live.snapshot.targets[0]).replicas if r.address == bad.address]
        assert failing.failures >= 3
        assert failing.open_at > asyncio.get_running_loop().time()


async def test_replicas_that_break_off_their_streams_are_left_out(tmp_path: Path) -> None:
    """Tokens that came first do not make up for it: only a stream's end counts as an answer."""

    async def breaks_off(received: Received, peer: Peer) -> None:
        await streams(chat_event("so"), chat_event("so"))(received, peer)
        peer.abort()

    async with (
        model_server(breaks_off) as model,
        router(tmp_path, a_snapshot(expert("maths", model.address))) as rig,
    ):
        for _ in range(3):
            reply = await ask(rig.port, post(chat(stream=True)))
            assert b'"error"' in reply.body

        live = rig.process.registry.live
        assert live is not None
        (replica,) = live.state(live.snapshot.targets[0]).replicas
        assert replica.failures == 3


@pytest.mark.parametrize("status", [pytest.param(400, id="the client's mistake"), pytest.param(500, id="its own")])
async def test_an_error_after_keep_alive_comments_keeps_the_engines_words(tmp_path: Path, status: int) -> None:
    """The head is out, so the engine's error object comes as an event of one line."""
    commented = asyncio.Event()
    error = b'{\n  "error": {"message": "temperature must be a number", "code": %d}\n}' % status

    async def late(received: Received, peer: Peer) -> None:
        await commented.wait()
        await replies(error, status=status)(received, peer)

    async with (
        model_server(late) as model,
        router(tmp_path, a_snapshot(expert("maths", model.address), timeouts={"keepAliveAfterSeconds": 0.1})) as rig,
    ):
        async with client(rig.port) as raw:
            await raw.send(post(chat(stream=True)))
            status_of_head, headers = await raw.head()
            assert await raw.chunk() == b": keep-alive\n\n"
            commented.set()
            body = await raw.body(headers)

        assert status_of_head == 200
        comments, data = body.split(b"data: ", 1)
        assert comments.replace(b": keep-alive\n\n", b"") == b""
        assert data == b'{"error":{"message":"temperature must be a number","code":%d}}\n\n' % status
