"""Connections to model servers: kept, replaced, balanced, encrypted."""

from __future__ import annotations

import asyncio
import json
import sys
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
from certificates import Authority
from rig import (
    DONE,
    Peer,
    Received,
    a_snapshot,
    ask,
    chat,
    chat_answer,
    chat_event,
    chat_stream,
    client,
    expert,
    external_fallback,
    model_server,
    post,
    replies,
    response,
    router,
    streams,
    until,
)

from flotilla_api.control import Problem, ProblemKind

ANSWER = chat_answer("4")


async def test_a_connection_is_used_again(tmp_path: Path) -> None:
    """Requests one after the other share a connection."""
    async with (
        model_server(replies(ANSWER)) as model,
        router(tmp_path, a_snapshot(expert("maths", model.address))) as rig,
    ):
        for _ in range(5):
            await ask(rig.port, post(chat()))

        assert (len(model.received), model.connections) == (5, 1)


async def test_a_stale_connection_is_replaced_without_an_error(tmp_path: Path) -> None:
    """A server that restarts between two requests, or closes just as one is sent, costs no request."""
    asked = 0

    async def hangs_up_on_the_second(received: Received, peer: Peer) -> None:
        nonlocal asked
        asked += 1
        if asked == 2:
            peer.abort()
        else:
            await replies(ANSWER)(received, peer)

    async with (
        model_server(hangs_up_on_the_second) as model,
        router(tmp_path, a_snapshot(expert("maths", model.address))) as rig,
    ):
        both = [await ask(rig.port, post(chat())) for _ in range(2)]

        assert [reply.status for reply in both] == [200, 200]
        assert model.connections == 2
        assert both[1].headers["x-flotilla-attempts"] == "1"
        assert rig.metric('flotilla_router_attempts_total{policy="helpdesk",result="ok"') == 2


async def test_a_restarted_server_is_found_again(tmp_path: Path) -> None:
    """Idle connections to a server that went away are no longer used."""
    async with AsyncExitStack() as servers:
        first = await servers.enter_async_context(model_server(replies(ANSWER)))
        async with router(tmp_path, a_snapshot(expert("maths", first.address))) as rig:
            before = await ask(rig.port, post(chat()))
            await servers.aclose()
            async with model_server(replies(ANSWER), port=int(first.address.rsplit(":", 1)[1])) as second:
                after = await ask(rig.port, post(chat()))

        assert (before.status, after.status, len(second.received)) == (200, 200, 1)


async def test_requests_go_to_the_least_loaded_replica(tmp_path: Path) -> None:
    """With two replicas, one busy, the other gets the request, always."""
    gate = asyncio.Event()

    async def slow(received: Received, peer: Peer) -> None:
        await gate.wait()
        await replies(ANSWER)(received, peer)

    async with (
        model_server(slow) as one,
        model_server(slow) as other,
        router(tmp_path, a_snapshot(expert("maths", one.address, other.address))) as rig,
    ):
        asking = [asyncio.create_task(ask(rig.port, post(chat()))) for _ in range(8)]
        await until(lambda: len(one.received) + len(other.received) == 8)
        gate.set()
        await asyncio.gather(*asking)

        assert len(one.received) == len(other.received) == 4


async def test_retry_after_is_honoured(tmp_path: Path) -> None:
    """A replica that asks for a pause gets no requests for that long; the other one answers."""
    async with (
        model_server(replies(b"{}", status=429, extra="retry-after: 30\r\n")) as busy,
        model_server(replies(ANSWER)) as free,
        router(tmp_path, a_snapshot(expert("maths", busy.address, free.address))) as rig,
    ):
        statuses = [(await ask(rig.port, post(chat()))).status for _ in range(20)]

        assert set(statuses) == {200}
        assert len(busy.received) <= 1


async def test_an_overloaded_answer_passes_when_there_is_nobody_else(tmp_path: Path) -> None:
    """429 and Retry-After reach the client verbatim."""
    body = b'{"error": {"message": "slow down"}}'
    async with (
        model_server(replies(body, status=429, extra="retry-after: 7\r\n")) as busy,
        router(tmp_path, a_snapshot(expert("maths", busy.address))) as rig,
    ):
        reply = await ask(rig.port, post(chat()))

        assert (reply.status, reply.body, reply.headers["retry-after"]) == (429, body, "7")


async def test_a_replica_that_refuses_connections_is_left_out(tmp_path: Path) -> None:
    """After one refusal the other replica gets everything for a while."""
    async with model_server(replies(b"")) as gone:
        refusing = gone.address
    async with (
        model_server(replies(ANSWER)) as model,
        router(tmp_path, a_snapshot(expert("maths", refusing, model.address))) as rig,
    ):
        statuses = {(await ask(rig.port, post(chat()))).status for _ in range(20)}

        assert statuses == {200}
        assert rig.metric('flotilla_router_attempts_total{policy="helpdesk",result="UpstreamError"') <= 1


@pytest.mark.parametrize(
    ("raw", "body"),
    [
        pytest.param(
            b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n\r\n" + ANSWER, ANSWER, id="ends with the connection"
        ),
        pytest.param(b"HTTP/1.1 100 Continue\r\n\r\n" + response(ANSWER), ANSWER, id="an interim response first"),
        pytest.param(
            b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ntransfer-encoding: chunked\r\n\r\n"
            b"%x\r\n%b\r\n0\r\nx-trailer: 1\r\n\r\n" % (len(ANSWER), ANSWER),
            ANSWER,
            id="chunked with a trailer",
        ),
    ],
)
async def test_every_framing_of_a_response_is_read(tmp_path: Path, raw: bytes, body: bytes) -> None:
    """Whatever tells the end of a body, the client gets it with a length."""

    async def script(received: Received, peer: Peer) -> None:
        await peer.write(raw)
        if raw.startswith(b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n\r\n"):
            peer.writer.close()

    async with (
        model_server(script) as model,
        router(tmp_path, a_snapshot(expert("maths", model.address))) as rig,
    ):
        reply = await ask(rig.port, post(chat()))

        assert (reply.status, reply.body) == (200, body)
        assert reply.headers["content-length"] == str(len(body))


@pytest.mark.parametrize(
    "raw",
    [
        pytest.param(b"SSH-2.0-OpenSSH_9\r\n", id="not HTTP"),
        pytest.param(b"HTTP/1.1 200 OK\r\nx: " + b"y" * 200_000, id="a head without end"),
        pytest.param(b"HTTP/1.1 302 Found\r\nlocation: /\r\ncontent-length: 0\r\n\r\n", id="a redirect"),
    ],
)
async def test_nonsense_from_a_server_is_an_upstream_error(tmp_path: Path, raw: bytes) -> None:
    """The client gets a 502 in OpenAI's shape."""

    async def script(received: Received, peer: Peer) -> None:
        await peer.write(raw)
        await peer.closed()

    async with (
        model_server(script) as model,
        router(tmp_path, a_snapshot(expert("maths", model.address))) as rig,
    ):
        reply = await ask(rig.port, post(chat()))

        assert (reply.status, reply.json["error"]["code"]) == (502, "UpstreamError")


# External fallbacks


async def test_an_external_fallback_is_called_over_tls_with_its_own_credentials(tmp_path: Path) -> None:
    """Its authority is its own, its key is the mounted one, and the client's key stays here; edits are made."""
    authority = Authority.make()
    folder = tmp_path / "credentials" / "big"
    folder.mkdir(parents=True)
    (folder / "api-key").write_text("sk-provider\n")
    (folder / "ca.crt").write_bytes(authority.pem)
    async with model_server(replies(ANSWER), tls=authority.server_context(tmp_path / "server")) as provider:
        big = external_fallback(
            "big",
            f"https://localhost:{provider.address.rsplit(':', 1)[1]}/api/v1",
            hasCredentials=True,
            hasCa=True,
            edits={"rename": {"max_tokens": "max_completion_tokens"}},
        )
        async with router(tmp_path, a_snapshot(expert("maths"), big)) as rig:
            reply = await ask(
                rig.port, post(chat(max_tokens=5), headers=["authorization: Bearer sk-client", "cookie: a=b"])
            )

            assert (reply.status, reply.headers["x-flotilla-model"]) == (200, "big")
            (received,) = provider.received
            assert received.path == "/api/v1/chat/completions"
            assert received.headers["authorization"] == "Bearer sk-provider"
            assert "cookie" not in received.headers
            assert received.json["max_completion_tokens"] == 5
            assert "sk-" not in json.dumps(rig.log.lines)


async def test_an_external_stream_is_metered_without_vllms_own_options(tmp_path: Path) -> None:
    """Usage is asked for in OpenAI's way, counted, and not shown to a client that did not ask."""
    usage = chat_event(usage=(10, 5)).replace(
        b'"choices":[{"index":0,"delta":{},"logprobs":null,"finish_reason":null}]', b'"choices":[]'
    )
    events = (chat_event("four"), chat_event(finish="stop"), usage, DONE)
    async with (
        model_server(streams(*events)) as provider,
        router(tmp_path, a_snapshot(external_fallback("big", f"http://{provider.address}/v1"))) as rig,
    ):
        reply = await ask(rig.port, post(chat(stream=True)))

        assert reply.body == chat_event("four") + chat_event(finish="stop") + DONE
        assert provider.received[0].json["stream_options"] == {"include_usage": True}
        assert rig.metric("flotilla_router_tokens_total{") == 15


async def test_a_certificate_of_another_authority_is_refused(tmp_path: Path) -> None:
    """Nothing is sent to a server that cannot prove its name."""
    authority, other = Authority.make(), Authority.make("other")
    folder = tmp_path / "credentials" / "big"
    folder.mkdir(parents=True)
    (folder / "ca.crt").write_bytes(other.pem)
    async with model_server(replies(ANSWER), tls=authority.server_context(tmp_path / "server")) as provider:
        big = external_fallback("big", f"https://localhost:{provider.address.rsplit(':', 1)[1]}/v1", hasCa=True)
        async with router(tmp_path, a_snapshot(big)) as rig:
            reply = await ask(rig.port, post(chat()))

            assert (reply.status, provider.received) == (502, [])


async def test_a_missing_credential_is_a_problem_and_a_new_one_is_used(tmp_path: Path) -> None:
    """The fallback is not eligible until its key is mounted, and the problem is said."""
    async with (
        model_server(replies(ANSWER)) as provider,
        router(
            tmp_path, a_snapshot(external_fallback("big", f"http://{provider.address}/v1", hasCredentials=True))
        ) as rig,
    ):
        assert (await ask(rig.port, post(chat()))).status == 503
        assert rig.process.store.problems() == [
            Problem(ProblemKind.CREDENTIAL, "big", "Fallback big: its API key is not mounted")
        ]
        assert rig.metric("flotilla_router_problems{") == 1
        assert rig.log.of("problem")[0]["problem"] == "Fallback big: its API key is not mounted"

        folder = tmp_path / "credentials" / "big"
        folder.mkdir(parents=True)
        (folder / "api-key").write_text("sk-1")
        await until(lambda: not rig.process.store.problems())
        assert (await ask(rig.port, post(chat()))).status == 200
        assert provider.received[0].headers["authorization"] == "Bearer sk-1"
        assert rig.metric("flotilla_router_problems{") == 0


async def test_of_two_models_in_one_body_a_provider_is_sent_the_one_that_was_judged(tmp_path: Path) -> None:
    """A parser that takes the first of two would get another model than the one that was judged."""
    body = b'{"model": "dear-one", "model": "auto", "messages": []}'
    async with (
        model_server(replies(ANSWER)) as provider,
        router(tmp_path, a_snapshot(external_fallback("big", f"http://{provider.address}/v1"))) as rig,
    ):
        reply = await ask(rig.port, post(body))

        assert reply.status == 200
        assert b"dear-one" not in provider.received[0].body
        assert list(provider.received[0].json) == ["model", "messages"]


async def test_a_body_is_sent_or_refused_however_deeply_it_is_nested(tmp_path: Path) -> None:
    """A provider's edits need a second reading, deeper in the stack; what only the first one can follow is a 400."""
    async with model_server(replies(ANSWER)) as provider:
        big = external_fallback("big", f"http://{provider.address}/v1", edits={"drop": ["min_p"]})
        async with router(tmp_path, a_snapshot(big)) as rig, client(rig.port) as raw:
            limit = sys.getrecursionlimit()
            statuses: list[int] = []
            for depth in range(limit - 120, limit):
                await raw.send(post(b'{"model":"auto","messages":[],"x":%b%b}' % (b"[" * depth, b"]" * depth)))
                statuses.append((await raw.reply()).status)

            assert set(statuses) <= {200, 400}
            assert len(provider.received) == statuses.count(200)
            assert rig.process.telemetry.in_flight == 0


async def test_clients_may_be_served_over_tls(tmp_path: Path) -> None:
    """With a mounted certificate the data listener speaks TLS, and a renewed one is used without a restart."""
    authority, renewed = Authority.make(), Authority.make("renewed")
    authority.issue(tmp_path / "tls", "gateway")
    events = chat_stream("four")
    async with (
        model_server(streams(*events)) as model,
        router(tmp_path, a_snapshot(expert("maths", model.address))) as rig,
    ):
        reply = await ask(
            rig.port, post(chat(stream=True)), tls=authority.client_context(), server_hostname="localhost"
        )
        assert reply.body == b"".join(events)

        renewed.issue(tmp_path / "tls", "gateway")
        async with asyncio.timeout(10):
            while True:
                try:
                    async with client(rig.port, renewed.client_context(), "localhost") as raw:
                        await raw.send(post(chat(stream=True)))
                        assert (await raw.reply()).status == 200
                        break
                except OSError:
                    await asyncio.sleep(0.1)
