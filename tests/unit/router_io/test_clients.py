"""What clients may do, and what becomes of those that do something else."""

from __future__ import annotations

import asyncio
import gc
import json
import tracemalloc
from pathlib import Path
from typing import Any

import pytest
from rig import (
    LAST_CHUNK,
    POLICY,
    STREAM_HEAD,
    Peer,
    Received,
    Reply,
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
    external_fallback,
    get,
    model_server,
    post,
    replies,
    router,
    streams,
    until,
)

from flotilla_api.control import Problem, ProblemKind

ANSWER = chat_answer("4")


def error_of(reply: Reply) -> dict[str, Any]:
    """The error of a reply, in the shape of OpenAI's."""
    assert reply.headers["content-type"] == "application/json"
    error = reply.json["error"]
    assert set(error) == {"message", "type", "param", "code"}
    return error


async def expect_still_serving(rig: Rig) -> None:
    """Nothing of what came before has hurt the router."""
    assert (await ask(rig.port, post(chat()))).status == 200


@pytest.mark.parametrize(
    ("request_bytes", "status", "code"),
    [
        pytest.param(post(b"{not json"), 400, "invalid_json", id="broken JSON"),
        pytest.param(post(b"[]"), 400, "invalid_json", id="not an object"),
        pytest.param(post(chat(model="nope")), 404, "model_not_found", id="unknown model"),
        pytest.param(
            post(chat(), headers=["content-type: text/plain"]), 415, "unsupported_media_type", id="content type"
        ),
        pytest.param(get("/v1/nothing"), 404, "not_found", id="unknown path"),
        pytest.param(get("/v1/chat/completions"), 405, "method_not_allowed", id="wrong method"),
        pytest.param(post(b"x" * 3000), 413, "request_too_large", id="body over the limit"),
        pytest.param(
            get("/v1/models", headers=[f"x-h{i}: 1" for i in range(200)]), 431, "headers_too_large", id="many headers"
        ),
        pytest.param(
            get("/v1/models", headers=["x: " + "y" * 70_000]), 431, "headers_too_large", id="one enormous header"
        ),
        pytest.param(get("/" + "y" * 9000), 414, "uri_too_long", id="long URL"),
        pytest.param(b"this is not HTTP\r\n\r\n", 400, "invalid_http", id="not HTTP"),
        pytest.param(
            b"POST /v1/chat/completions HTTP/1.1\r\nhost: r\r\ncontent-type: application/json\r\n"
            b"transfer-encoding: chunked\r\n\r\n" + b"800\r\n" + b"x" * 2048 + b"\r\n" + b"800\r\n" + b"x" * 2048,
            413,
            "request_too_large",
            id="chunked body over the limit",
        ),
        pytest.param(
            b"POST /v1/chat/completions HTTP/1.1\r\nhost: r\r\ncontent-length: 4\r\ntransfer-encoding: chunked\r\n\r\n",
            400,
            "invalid_http",
            id="two lengths",
        ),
    ],
)
async def test_bad_requests_are_refused_in_openais_shape(
    tmp_path: Path, request_bytes: bytes, status: int, code: str
) -> None:
    """The right 4xx, one log line, one count, and nothing reaches a model."""
    async with (
        model_server(replies(ANSWER)) as model,
        router(tmp_path, a_snapshot(expert("maths", model.address), maxBodyBytes=2500)) as rig,
    ):
        reply = await ask(rig.port, request_bytes)

        assert reply.status == status
        assert error_of(reply)["code"] == code
        (line,) = rig.log.of("refused")
        assert (line["code"], line["request_id"]) == (code, reply.headers["x-flotilla-request-id"])
        assert reply.headers["x-flotilla-policy"] == line["policy"] == POLICY
        assert rig.metric(f'flotilla_router_refused_total{{code="{code}"') == 1
        assert model.received == []
        await expect_still_serving(rig)


@pytest.mark.parametrize(
    ("request_bytes", "beginning", "end"),
    [
        pytest.param(
            post(chat(model="m" * 9000)),
            "The model `mmm",
            "mm...` does not exist. Models here: auto, maths.",
            id="model",
        ),
        pytest.param(
            post(chat(), headers=["x-flotilla-boundary: " + "b" * 9000]),
            'x-flotilla-boundary is "bbb',
            'bb..."; it must be LocalOnly or Any.',
            id="boundary",
        ),
        pytest.param(get("/v1/models/" + "n" * 8000), "The model `nnn", "nn...` does not exist.", id="name"),
        pytest.param(get("/" + "p" * 8000), "there is nothing at /ppp", "pp...", id="path"),
    ],
)
async def test_long_texts_of_clients_are_cut(tmp_path: Path, request_bytes: bytes, beginning: str, end: str) -> None:
    """An error quotes what the client sent, in the answer and in the log, but not thousands of characters of it."""
    async with router(tmp_path, a_snapshot(expert("maths"))) as rig:
        message = error_of(await ask(rig.port, request_bytes))["message"]

        assert (message.startswith(beginning), message.endswith(end), len(message) < 500) == (True, True, True)
        assert rig.log.of("refused")[0]["error"] == message


async def test_a_wrong_method_names_the_right_ones(tmp_path: Path) -> None:
    """405 carries Allow."""
    async with router(tmp_path, a_snapshot()) as rig:
        reply = await ask(rig.port, get("/v1/chat/completions"))

        assert reply.headers["allow"] == "POST, OPTIONS"


async def test_an_early_answer_is_not_lost_while_the_client_still_sends(tmp_path: Path) -> None:
    """A client that sends a body which is too large reads the whole 413, and then the connection ends."""
    async with router(tmp_path, a_snapshot(maxBodyBytes=1000)) as rig, client(rig.port) as raw:
        await raw.send(post(b"x" * 400_000))
        reply = await raw.reply()

        assert reply.status == 413
        assert reply.headers["connection"] == "close"
        assert await raw.ended()


async def test_a_header_bomb_is_cut_off_while_it_arrives(tmp_path: Path) -> None:
    """A header that never ends is not kept."""
    async with router(tmp_path, a_snapshot()) as rig, client(rig.port) as raw:
        await raw.send(b"GET /v1/models HTTP/1.1\r\nx-bomb: ")
        for _ in range(40):
            await raw.send(b"y" * 4096)
        reply = await raw.reply()

        assert reply.status == 431


@pytest.mark.parametrize(
    "beginning",
    [
        pytest.param(b"GET /v1/mod", id="within the request line"),
        pytest.param(b"POST /v1/chat/completions HTTP/1.1\r\nhost: r\r\n", id="within the headers"),
        pytest.param(post(chat())[:-5], id="within the body"),
    ],
)
async def test_a_slow_request_ends_in_408(tmp_path: Path, beginning: bytes) -> None:
    """Whoever does not finish a request in time is told so."""
    async with (
        router(tmp_path, a_snapshot(expert("maths", "127.0.0.1:9")), head_seconds=0.1, body_seconds=0.1) as rig,
        client(rig.port) as raw,
    ):
        await raw.send(beginning)
        reply = await raw.reply()

        assert reply.status == 408
        assert error_of(reply)["code"] == "request_timeout"
        assert await raw.ended()


async def test_a_request_that_is_cut_off_leaves_nothing_behind(tmp_path: Path) -> None:
    """A client that goes half way through a request is no event at all."""
    async with (
        model_server(replies(ANSWER)) as model,
        router(tmp_path, a_snapshot(expert("maths", model.address))) as rig,
    ):
        async with client(rig.port) as raw:
            await raw.send(post(chat())[:-5])
        await expect_still_serving(rig)

        assert len(model.received) == 1
        assert [line["event"] for line in rig.log.lines if line["event"] in ("request", "refused")] == ["request"]


async def test_an_idle_connection_is_closed(tmp_path: Path) -> None:
    """Silence between requests is bounded."""
    async with router(tmp_path, a_snapshot(), keep_alive_seconds=0.5) as rig, client(rig.port) as raw:
        await raw.send(get("/healthz"))
        await raw.reply()

        assert await raw.ended()


async def test_pipelined_requests_are_answered_in_order(tmp_path: Path) -> None:
    """Requests that arrive together, refused ones among them, get their answers one after the other."""

    async def by_id(received: Received, peer: Peer) -> None:
        await replies(received.headers["x-request-id"].encode())(received, peer)

    async with (
        model_server(by_id) as model,
        router(tmp_path, a_snapshot(expert("maths", model.address))) as rig,
        client(rig.port) as raw,
    ):
        first, second = (post(chat(), headers=[f"x-request-id: {name}"]) for name in ("one", "two"))
        await raw.send(first + get("/healthz") + post(b"{") + second + post(chat(), path="/v1/nothing"))
        answers = [await raw.reply() for _ in range(5)]

        assert [(a.status, a.body[:3]) for a in answers[:2]] == [(200, b"one"), (200, b"ok\n")]
        assert answers[2].status == 400
        assert (answers[3].status, answers[3].body) == (200, b"two")
        assert answers[4].status == 404
        assert await raw.ended()


async def test_many_pipelined_requests_do_not_pile_up(tmp_path: Path) -> None:
    """Thousands of requests in one write are all answered."""
    async with router(tmp_path, a_snapshot()) as rig, client(rig.port) as raw:
        await raw.send(get("/healthz") * 3000)

        for _ in range(3000):
            assert (await raw.reply()).status == 200


async def test_a_connection_is_kept_after_an_error_in_the_body(tmp_path: Path) -> None:
    """An unknown model costs a request, not a connection."""
    async with (
        model_server(replies(ANSWER)) as model,
        router(tmp_path, a_snapshot(expert("maths", model.address))) as rig,
        client(rig.port) as raw,
    ):
        await raw.send(post(chat(model="nope")))
        refused = await raw.reply()
        await raw.send(post(chat()))
        answered = await raw.reply()

        assert (refused.status, answered.status) == (404, 200)


async def test_expect_100_continue_asks_for_the_body(tmp_path: Path) -> None:
    """A client that waits for permission gets it; one whose headers are refused gets the refusal."""
    body = json.dumps(chat()).encode()
    head = post(body, headers=["expect: 100-continue"])[: -len(body)]
    async with (
        model_server(replies(ANSWER)) as model,
        router(tmp_path, a_snapshot(expert("maths", model.address), maxBodyBytes=1000)) as rig,
        client(rig.port) as raw,
        client(rig.port) as other,
    ):
        await raw.send(head)
        assert (await raw.head())[0] == 100
        await raw.send(body)
        assert (await raw.reply()).status == 200

        await other.send(post(b"x" * 2000, headers=["expect: 100-continue"])[:-2000])
        assert (await other.reply()).status == 413


async def test_chunked_bodies_and_one_byte_at_a_time_are_the_same(tmp_path: Path) -> None:
    """How a request is cut into packets does not matter."""
    body = json.dumps(chat()).encode()
    head = (
        b"POST /v1/chat/completions HTTP/1.1\r\nhost: r\r\ncontent-type: application/json\r\n"
        b"transfer-encoding: chunked\r\n\r\n"
    )
    async with (
        model_server(replies(ANSWER)) as model,
        router(tmp_path, a_snapshot(expert("maths", model.address))) as rig,
        client(rig.port) as raw,
    ):
        for byte in head + chunk(body[:20]) + chunk(body[20:]) + LAST_CHUNK:
            await raw.send(bytes([byte]))
        reply = await raw.reply()

        assert reply.body == ANSWER
        assert model.received[0].json == chat(model="maths-model")
        assert model.received[0].headers["content-length"]


@pytest.mark.parametrize("path", ["/healthz", "/v1/models"])
async def test_head_is_get_without_a_body(tmp_path: Path, path: str) -> None:
    """HEAD has GET's headers, and the next response follows at once."""
    async with router(tmp_path, a_snapshot()) as rig, client(rig.port) as raw:
        await raw.send(get(path, method="HEAD") + get("/readyz"))
        status, headers = await raw.head()

        assert (status, int(headers["content-length"]) > 0) == (200, True)
        assert (await raw.reply()).body == b"ok\n"


async def test_options_names_the_methods(tmp_path: Path) -> None:
    """OPTIONS is answered without a key and without a body."""
    async with router(tmp_path, a_snapshot()) as rig, client(rig.port) as raw:
        await raw.send(get("/v1/models", method="OPTIONS") + get("/healthz"))
        status, headers = await raw.head()

        assert (status, headers["allow"]) == (204, "GET, HEAD, OPTIONS")
        assert (await raw.reply()).status == 200


async def test_connection_close_and_http_1_0_are_honoured(tmp_path: Path) -> None:
    """The connection ends after the answer; HTTP/1.0 gets a stream without chunks."""
    events = chat_stream("four")
    async with (
        model_server(streams(*events)) as model,
        router(tmp_path, a_snapshot(expert("maths", model.address))) as rig,
        client(rig.port) as closing,
        client(rig.port) as old,
    ):
        await closing.send(get("/healthz", headers=["connection: close"]))
        assert (await closing.reply()).headers["connection"] == "close"
        assert await closing.ended()

        await old.send(post(chat(stream=True)).replace(b"HTTP/1.1", b"HTTP/1.0"))
        reply = await old.reply()
        assert "transfer-encoding" not in reply.headers
        assert reply.body == b"".join(events)


@pytest.mark.parametrize("stream", [False, True])
async def test_a_client_that_leaves_before_the_first_byte_ends_the_call(tmp_path: Path, stream: bool) -> None:
    """The model server's connection is closed at once, and the log says why."""

    async def silent(received: Received, peer: Peer) -> None:
        await peer.closed()
        peer.abort()

    async with (
        model_server(silent) as model,
        router(tmp_path, a_snapshot(expert("maths", model.address))) as rig,
    ):
        async with client(rig.port) as raw:
            await raw.send(post(chat(stream=stream)))
            await until(lambda: model.received)

        await until(lambda: model.open == 0)
        line = await rig.request_line()
        assert (line["client_gone"], line["status"], line["attempts"][0]["result"]) == (True, 499, "ClientGone")
        assert rig.process.dispatcher.under_way == set()


async def test_a_client_that_leaves_within_a_stream_ends_the_call(tmp_path: Path) -> None:
    """So does one that has already read a part."""

    async def endless(received: Received, peer: Peer) -> None:
        await peer.write(STREAM_HEAD + chunk(chat_event("so")))
        await peer.closed()
        peer.abort()

    async with (
        model_server(endless) as model,
        router(tmp_path, a_snapshot(expert("maths", model.address))) as rig,
    ):
        async with client(rig.port) as raw:
            await raw.send(post(chat(stream=True)))
            await raw.head()
            await raw.chunk()

        await until(lambda: model.open == 0)
        assert (await rig.request_line())["client_gone"] is True


async def test_a_slow_reader_slows_the_model_server_down(tmp_path: Path) -> None:
    """What the client does not read stays where it is: the router holds no more than its buffers."""
    event = chat_event("x" * 16_000)
    written = 0

    async def eager(received: Received, peer: Peer) -> None:
        nonlocal written
        await peer.write(STREAM_HEAD)
        while True:
            await peer.write(chunk(event))
            written += len(event)

    async with (
        model_server(eager) as model,
        router(tmp_path, a_snapshot(expert("maths", model.address))) as rig,
        client(rig.port) as raw,
    ):
        raw.reader._limit = 1024  # type: ignore[attr-defined]  # the client itself must not read ahead
        await raw.send(post(chat(stream=True)))
        await raw.head()
        raw.writer.transport.pause_reading()  # type: ignore[attr-defined]
        steady = -1
        while steady != written:
            steady = written
            await asyncio.sleep(0.3)

        assert written < 16 * 1024 * 1024
        raw.writer.transport.resume_reading()  # type: ignore[attr-defined]
        while written == steady:
            assert (await raw.chunk()).startswith(b"data: ")


# Keys


async def test_a_key_is_needed_unless_the_policy_is_anonymous(tmp_path: Path) -> None:
    """401 in OpenAI's shape without a key or with a wrong one; the holder's name is logged, the key is not."""
    (tmp_path / "keys").mkdir()
    (tmp_path / "keys" / "alice").write_text("sk-alice\n")
    (tmp_path / "keys" / "..data").mkdir()
    async with (
        model_server(replies(ANSWER)) as model,
        router(tmp_path, a_snapshot(expert("maths", model.address), anonymous=False)) as rig,
    ):
        missing = await ask(rig.port, post(chat()))
        wrong = await ask(rig.port, post(chat(), headers=["authorization: Bearer sk-mallory"]))
        right = await ask(rig.port, post(chat(), headers=["authorization: bearer sk-alice"]))

        assert [missing.status, wrong.status, right.status] == [401, 401, 200]
        assert error_of(wrong)["code"] == "invalid_api_key"
        assert (await rig.request_line())["client"] == "alice"
        assert "sk-" not in json.dumps(rig.log.lines)
        assert [(await ask(rig.port, get(path))).status for path in ("/healthz", "/readyz", "/metrics")] == [
            200,
            200,
            401,
        ]
        metrics = await ask(rig.port, get("/metrics", headers=["authorization: Bearer sk-alice"]))
        assert b"flotilla_router_requests_total" in metrics.body


async def test_keys_that_are_not_mounted_are_a_problem(tmp_path: Path) -> None:
    """A policy that asks for keys refuses everybody without them, and says so."""
    async with router(tmp_path, a_snapshot(anonymous=False)) as rig:
        assert (await ask(rig.port, get("/v1/models", headers=["authorization: Bearer "]))).status == 401
        assert rig.process.store.problems() == [
            Problem(ProblemKind.API_KEYS, "", "no API key is mounted: every request is refused")
        ]


async def test_keys_are_read_again_when_they_change(tmp_path: Path) -> None:
    """A key that is added works, one that is removed does not, without a restart."""
    (tmp_path / "keys").mkdir()
    (tmp_path / "keys" / "alice").write_text("sk-alice")
    async with router(tmp_path, a_snapshot(anonymous=False)) as rig:

        async def status(key: str) -> int:
            return (await ask(rig.port, get("/v1/models", headers=[f"authorization: Bearer {key}"]))).status

        assert (await status("sk-alice"), await status("sk-bob")) == (200, 401)
        (tmp_path / "keys" / "alice").unlink()
        (tmp_path / "keys" / "bob").write_text("sk-bob")
        async with asyncio.timeout(10):
            while await status("sk-bob") != 200:  # noqa: ASYNC110 - the answer is what counts
                await asyncio.sleep(0.05)
        assert await status("sk-alice") == 401


async def test_credentials_and_hop_by_hop_headers_never_go_upstream(tmp_path: Path) -> None:
    """Only what is on the list passes; the request id is ours or the client's."""
    headers = [
        "authorization: Bearer sk-client",
        "x-api-key: sk-client",
        "api-key: sk-client",
        "cookie: session=1",
        "connection: keep-alive, x-hop",
        "x-hop: 1",
        "te: trailers",
        "proxy-authorization: Basic x",
        "x-forwarded-for: 10.0.0.1",
        "traceparent: 00-1-2-01",
        "user-agent: sdk",
        "x-request-id: mine-1",
    ]
    async with (
        model_server(replies(ANSWER)) as model,
        router(tmp_path, a_snapshot(expert("maths", model.address))) as rig,
    ):
        reply = await ask(rig.port, post(chat(), headers=headers))

        assert set(model.received[0].headers) == {
            "host",
            "content-length",
            "content-type",
            "traceparent",
            "user-agent",
            "x-request-id",
        }
        assert model.received[0].headers["x-request-id"] == reply.headers["x-flotilla-request-id"] == "mine-1"


async def test_long_headers_go_upstream_and_are_not_kept(tmp_path: Path) -> None:
    """Whoever sends other ones each time fills no memory."""
    async with (
        model_server(replies(ANSWER)) as model,
        router(tmp_path, a_snapshot(expert("maths", model.address))) as rig,
    ):
        await ask(rig.port, post(chat(), headers=["user-agent: sdk"]))
        tracemalloc.start()
        try:
            for number in range(100):
                await ask(rig.port, post(chat(), headers=[f"user-agent: {number:050000}"]))
                assert model.received.pop().headers["user-agent"] == f"{number:050000}"
            gc.collect()
            kept, _ = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()

        assert kept < 1_000_000


async def test_hop_by_hop_headers_of_a_model_server_do_not_reach_the_client(tmp_path: Path) -> None:
    """Framing and connection headers are the router's own; others pass, ours cannot be forged."""
    extra = "keep-alive: timeout=5\r\nconnection: keep-alive\r\nx-flotilla-model: forged\r\nx-ratelimit-limit: 7\r\n"
    async with (
        model_server(replies(ANSWER, extra=extra)) as model,
        router(tmp_path, a_snapshot(expert("maths", model.address))) as rig,
    ):
        reply = await ask(rig.port, post(chat()))

        assert reply.headers["x-flotilla-model"] == "maths"
        assert reply.headers["x-ratelimit-limit"] == "7"
        assert not {"keep-alive", "connection"} & set(reply.headers)


async def test_a_boundary_cannot_be_widened_by_saying_it_twice(tmp_path: Path) -> None:
    """A second x-flotilla-boundary does not hide the first: such a request is refused."""
    headers = ["x-flotilla-boundary: LocalOnly", "X-Flotilla-Boundary: Any"]
    async with (
        model_server(replies(ANSWER)) as provider,
        router(tmp_path, a_snapshot(external_fallback("big", f"http://{provider.address}/v1"))) as rig,
    ):
        local = await ask(rig.port, post(chat(), headers=headers[:1]))
        both = await ask(rig.port, post(chat(), headers=headers))

        assert (local.status, error_of(local)["code"]) == (403, "boundary")
        assert (both.status, error_of(both)["code"]) == (400, "invalid_boundary")
        assert provider.received == []


# Models and explanations


async def test_models_lists_what_clients_may_ask_for(tmp_path: Path) -> None:
    """Aliases and experts, in OpenAI's shape, and one by one."""
    async with router(tmp_path, a_snapshot(expert("maths"))) as rig:
        listed = (await ask(rig.port, get("/v1/models"))).json
        one = (await ask(rig.port, get("/v1/models/maths"))).json
        unknown = await ask(rig.port, get("/v1/models/nope"))
        inside = await ask(rig.port, get("/v1/models/maths/nope?x=1"))
        nowhere = await ask(rig.port, get("/v1/modelsx/maths"))

        assert [model["id"] for model in listed["data"]] == ["auto", "maths"]
        assert (one["id"], one["object"]) == ("maths", "model")
        assert (unknown.status, error_of(unknown)["code"]) == (404, "model_not_found")
        assert (inside.status, error_of(inside)["code"]) == (404, "model_not_found")
        assert (nowhere.status, error_of(nowhere)["code"]) == (404, "not_found")


async def test_explain_decides_and_calls_nobody(tmp_path: Path) -> None:
    """The decision for a request, without its price."""
    async with (
        model_server(replies(ANSWER)) as model,
        router(tmp_path, a_snapshot(expert("maths", model.address))) as rig,
    ):
        reply = await ask(rig.port, post(chat(), path="/v1/route:explain"))

        assert (reply.json["model"], reply.json["reason"]) == ("maths", "Static")
        assert model.received == []


async def test_the_admin_listener_serves_health_and_metrics_only(tmp_path: Path) -> None:
    """Without keys, and nothing else."""
    async with router(tmp_path, a_snapshot(anonymous=False)) as rig:
        statuses = [(await ask(rig.ports.admin, get(path))).status for path in ("/healthz", "/readyz", "/metrics")]

        assert statuses == [200, 200, 200]
        assert (await ask(rig.ports.admin, get("/v1/models"))).status == 404


async def test_without_a_snapshot_nothing_is_served_yet(tmp_path: Path) -> None:
    """The router is alive but not ready, and says so."""
    async with router(tmp_path, None) as rig:
        assert (await ask(rig.ports.admin, get("/healthz"))).status == 200
        assert (await ask(rig.ports.admin, get("/readyz"))).status == 503
        assert (await ask(rig.port, post(chat()))).status == 503
