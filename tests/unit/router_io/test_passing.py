"""Answers of model servers reach the client as they are."""

from __future__ import annotations

from pathlib import Path

from rig import (
    DONE,
    LAST_CHUNK,
    STREAM_HEAD,
    Peer,
    Received,
    a_snapshot,
    ask,
    chat,
    chat_answer,
    chat_event,
    chat_stream,
    chunk,
    expert,
    model_server,
    post,
    replies,
    router,
    streams,
)


async def test_a_whole_answer_passes_byte_for_byte_with_our_headers(tmp_path: Path) -> None:
    """A JSON answer is the model server's own, and the headers say who answered and why."""
    answer = chat_answer("4")
    async with (
        model_server(replies(answer)) as model,
        router(tmp_path, a_snapshot(expert("maths", model.address))) as rig,
    ):
        reply = await ask(rig.port, post(chat()))

        assert (reply.status, reply.body) == (200, answer)
        assert reply.headers["x-flotilla-model"] == "maths"
        assert reply.headers["x-flotilla-reason"] == "Static"
        assert model.received[0].json == chat(model="maths-model")


async def test_a_stream_passes_byte_for_byte(tmp_path: Path) -> None:
    """Events arrive unchanged and in order, [DONE] included."""
    events = chat_stream("four", "it", "is")
    async with (
        model_server(streams(*events)) as model,
        router(tmp_path, a_snapshot(expert("maths", model.address))) as rig,
    ):
        reply = await ask(rig.port, post(chat(stream=True)))

        assert (reply.status, reply.body) == (200, b"".join(events))
        assert reply.headers["content-type"] == "text/event-stream; charset=utf-8"


async def test_a_stream_is_known_by_its_type_in_any_case(tmp_path: Path) -> None:
    """Media types have no case (RFC 9110, 8.3.1): such a stream is metered and passed on as it comes."""
    events = (chat_event("four"), chat_event(finish="stop", usage=(10, 5)), DONE)

    async def capitals(received: Received, peer: Peer) -> None:
        await peer.write(STREAM_HEAD.replace(b"text/event-stream", b"Text/Event-Stream"))
        await peer.write(b"".join(map(chunk, events)) + LAST_CHUNK)

    async with (
        model_server(capitals) as model,
        router(tmp_path, a_snapshot(expert("maths", model.address))) as rig,
    ):
        reply = await ask(rig.port, post(chat(stream=True, stream_options={"include_usage": True})))

        assert reply.headers["transfer-encoding"] == "chunked"
        assert reply.headers["content-type"] == "Text/Event-Stream; charset=utf-8"
        (attempt,) = (await rig.request_line())["attempts"]
        assert (attempt["input_tokens"], attempt["output_tokens"]) == (10, 5)


async def test_only_headers_that_clients_read_are_passed(tmp_path: Path) -> None:
    """What SDKs look at reaches the client; a provider's accounts, cookies and infrastructure do not."""
    passed = {
        "cache-control": "no-store",
        "openai-processing-ms": "12",
        "openai-version": "2020-10-01",
        "retry-after": "7",
        "x-ratelimit-remaining-tokens": "99",
        "X-Request-Id": "req-1",
    }
    kept = {
        "alt-svc": 'h3=":443"',
        "cf-ray": "1",
        "connection": "keep-alive, X-RateLimit-Reset",
        "x-ratelimit-reset": "1s",
        "openai-organization": "acme",
        "openai-project": "p",
        "set-cookie": "a=b",
        "strict-transport-security": "max-age=1",
        "x-envoy-upstream-service-time": "3",
        "x-flotilla-model": "forged",
        "via": "1.1 proxy",
    }
    extra = "".join(f"{name}: {value}\r\n" for name, value in (passed | kept).items())
    async with (
        model_server(replies(chat_answer("4"), extra=extra)) as model,
        router(tmp_path, a_snapshot(expert("maths", model.address))) as rig,
    ):
        reply = await ask(rig.port, post(chat()))

        ours = {name for name in reply.headers if name.startswith("x-flotilla-")}
        wanted = {name.lower() for name in passed} | {"content-type", "content-length"}
        assert set(reply.headers) - ours == wanted
        assert reply.headers["x-flotilla-model"] == "maths"
        assert reply.headers["x-request-id"] == "req-1"
