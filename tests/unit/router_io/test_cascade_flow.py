"""From a bad or missing answer to a better one, before the client has seen a byte."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from rig import (
    DONE,
    LAST_CHUNK,
    STREAM_HEAD,
    Peer,
    Received,
    Script,
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
    router,
    served_fallback,
    streams,
    until,
)

from flotilla_api.snapshot import TimePrice, TokenPrice

SURE, UNSURE = -0.01, -3.0
PRICE = TokenPrice(inputPerMillionUSD=1, outputPerMillionUSD=10)


async def dies(received: Received, peer: Peer) -> None:
    """Closes before a byte of a response."""
    peer.abort()


def dies_after(*events: bytes) -> Script:
    async def script(received: Received, peer: Peer) -> None:
        await peer.write(STREAM_HEAD + b"".join(map(chunk, events)))
        await asyncio.sleep(0)
        peer.writer.close()

    return script


def waits_after(*events: bytes) -> Script:
    """Sends events and then nothing, until the router closes."""

    async def script(received: Received, peer: Peer) -> None:
        await peer.write(STREAM_HEAD + b"".join(map(chunk, events)))
        await peer.closed()
        peer.abort()

    return script


async def silent(received: Received, peer: Peer) -> None:
    await peer.closed()
    peer.abort()


async def test_an_unsure_whole_answer_is_replaced(tmp_path: Path) -> None:
    """Below the bar, the client gets the fallback's answer and learns why; both attempts are paid for."""
    strong = chat_answer("four", usage=(10, 2))
    async with (
        model_server(replies(chat_answer("five", logprob=UNSURE))) as small,
        model_server(replies(strong)) as large,
        router(
            tmp_path, a_snapshot(expert("maths", small.address, price=PRICE), served_fallback("big", large.address))
        ) as rig,
    ):
        reply = await ask(rig.port, post(chat()))

        assert reply.body == strong
        assert reply.headers["x-flotilla-model"] == "big"
        assert reply.headers["x-flotilla-reason"] == "LowConfidence"
        assert reply.headers["x-flotilla-attempts"] == "2"
        assert small.received[0].json["logprobs"] is True
        assert "logprobs" not in large.received[0].json
        line = await rig.request_line()
        assert [(a["target"], a["result"]) for a in line["attempts"]] == [("maths", "LowConfidence"), ("big", "ok")]
        assert line["attempts"][0]["usd"] == pytest.approx(0.00006)
        assert rig.metric("flotilla_router_escalations_total{") == 1
        assert rig.metric('flotilla_router_unpriced_attempts_total{policy="helpdesk",target="big"}') == 1


async def test_a_sure_whole_answer_stays_and_shows_no_trace_of_the_judging(tmp_path: Path) -> None:
    """Above the bar, injected logprobs are gone again and the score is in a header."""
    async with (
        model_server(replies(chat_answer("four", logprob=SURE))) as small,
        model_server(replies(b"{}")) as large,
        router(
            tmp_path, a_snapshot(expert("maths", small.address, price=PRICE), served_fallback("big", large.address))
        ) as rig,
    ):
        reply = await ask(rig.port, post(chat()))

        assert reply.body == chat_answer("four")
        assert reply.headers["x-flotilla-model"] == "maths"
        assert reply.headers["x-flotilla-score"] == "0.9900"
        assert reply.headers["x-flotilla-cost-usd"] == "0.00006"
        assert large.received == []


async def test_an_unsure_stream_is_replaced_before_its_first_byte(tmp_path: Path) -> None:
    """The client sees only the fallback's events, and the expert's connection is closed."""
    better = chat_stream("four")
    async with (
        model_server(waits_after(*(chat_event("hm", logprob=UNSURE, usage=(10, n)) for n in range(1, 5)))) as small,
        model_server(streams(*better)) as large,
        router(
            tmp_path, a_snapshot(expert("maths", small.address, price=PRICE), served_fallback("big", large.address))
        ) as rig,
    ):
        reply = await ask(rig.port, post(chat(stream=True)))

        assert reply.body == b"".join(better)
        assert reply.headers["x-flotilla-reason"] == "LowConfidence"
        await until(lambda: small.open == 0)
        line = await rig.request_line()
        assert line["attempts"][0]["output_tokens"] == 4
        assert line["attempts"][0]["usd"] == pytest.approx((10 * 1 + 4 * 10) / 1e6)


async def test_a_sure_stream_commits_at_once_and_is_stripped(tmp_path: Path) -> None:
    """Once enough tokens are sure the stream flows, while the expert is still writing."""
    async with (
        model_server(waits_after(*(chat_event("so", logprob=SURE) for _ in range(3)))) as small,
        model_server(replies(b"{}")) as large,
        router(tmp_path, a_snapshot(expert("maths", small.address), served_fallback("big", large.address))) as rig,
        client(rig.port) as raw,
    ):
        await raw.send(post(chat(stream=True)))
        status, headers = await raw.head()

        assert (status, headers["x-flotilla-score"]) == (200, "0.9900")
        assert await raw.chunk() == chat_event("so") * 3


@pytest.mark.parametrize(
    "failing",
    [
        pytest.param(replies(b'{"error": {}}', status=500), id="the fallback fails"),
        pytest.param(replies(b'{"error": {}}', status=401), id="our credentials are refused"),
        pytest.param(replies(b'{"error": {}}', status=400), id="the fallback refuses the request"),
        pytest.param(dies, id="the fallback dies"),
        pytest.param(dies_after(), id="the fallback dies after its head"),
    ],
)
async def test_the_held_stream_resumes_when_every_fallback_fails(tmp_path: Path, failing: Script) -> None:
    """UseExpert: the expert's events flow from the first on, and the rest follows."""
    events = [chat_event("hm", logprob=UNSURE) for _ in range(4)]
    sent: list[int] = []

    async def keeps_writing(received: Received, peer: Peer) -> None:
        await peer.write(STREAM_HEAD + b"".join(map(chunk, events)))
        await until(lambda: large.received)
        await peer.write(chunk(chat_event(finish="stop")) + chunk(DONE) + LAST_CHUNK)
        sent.append(1)

    async with (
        model_server(keeps_writing) as small,
        model_server(failing) as large,
        router(tmp_path, a_snapshot(expert("maths", small.address), served_fallback("big", large.address))) as rig,
    ):
        reply = await ask(rig.port, post(chat(stream=True)))

        assert reply.body == chat_event("hm") * 4 + chat_event(finish="stop") + DONE
        assert reply.headers["x-flotilla-model"] == "maths"
        assert (await rig.request_line())["attempts"][0]["result"] == "ok"


async def test_the_held_whole_answer_is_used_when_every_fallback_fails(tmp_path: Path) -> None:
    """UseExpert for JSON: an unsure answer is better than none."""
    async with (
        model_server(replies(chat_answer("five", logprob=UNSURE))) as small,
        model_server(replies(b"{}", status=500)) as large,
        router(tmp_path, a_snapshot(expert("maths", small.address), served_fallback("big", large.address))) as rig,
    ):
        reply = await ask(rig.port, post(chat()))

        assert (reply.status, reply.body) == (200, chat_answer("five"))


async def test_on_fallback_failure_error_gives_the_error(tmp_path: Path) -> None:
    """Error: the fallback's own error passes, the expert's answer does not."""
    failure = b'{"error": {"message": "no"}}'
    async with (
        model_server(replies(chat_answer("five", logprob=UNSURE))) as small,
        model_server(replies(failure, status=500)) as large,
        router(
            tmp_path,
            a_snapshot(
                expert("maths", small.address),
                served_fallback("big", large.address),
                escalation={"onFallbackFailure": "Error"},
            ),
        ) as rig,
    ):
        reply = await ask(rig.port, post(chat()))

        assert (reply.status, reply.body) == (500, failure)


@pytest.mark.parametrize(
    ("script", "cause"),
    [
        pytest.param(dies, "UpstreamError", id="dies before a byte"),
        pytest.param(replies(b"{}", status=500), "UpstreamError", id="answers 500"),
        pytest.param(replies(b"<html>", status=200), "UpstreamError", id="answers no JSON"),
        pytest.param(replies(b"{}", status=429), "Overloaded", id="is overloaded"),
        pytest.param(replies(chat_answer("", usage=None)), "EmptyAnswer", id="answers with nothing"),
        pytest.param(
            replies(
                b'{"error": {"message": "This model\'s maximum context length is 10 tokens.", "code": 400}}', status=400
            ),
            "ContextOverflow",
            id="the prompt does not fit",
        ),
    ],
)
async def test_causes_escalate_whole_answers(tmp_path: Path, script: Script, cause: str) -> None:
    """Every cause leads to the fallback and is named."""
    async with (
        model_server(script) as small,
        model_server(replies(chat_answer("4"))) as large,
        router(tmp_path, a_snapshot(expert("maths", small.address), served_fallback("big", large.address))) as rig,
    ):
        reply = await ask(rig.port, post(chat()))

        assert (reply.status, reply.headers["x-flotilla-reason"]) == (200, cause)
        assert rig.metric(f'flotilla_router_escalations_total{{cause="{cause}"') == 1


@pytest.mark.parametrize(
    ("script", "cause"),
    [
        pytest.param(dies_after(), "UpstreamError", id="dies after its head"),
        pytest.param(dies_after(chat_event("hm", logprob=SURE)), "UpstreamError", id="dies before the verdict"),
        pytest.param(streams(b'data: {"error": {"message": "x"}}\n\n', DONE), "UpstreamError", id="error event"),
        pytest.param(streams(chat_event(finish="stop"), DONE), "EmptyAnswer", id="empty"),
        pytest.param(silent, "Timeout", id="no first token in time"),
        pytest.param(waits_after(chat_event("hm", logprob=SURE)), "Timeout", id="stalls before the verdict"),
    ],
)
async def test_causes_escalate_streams(tmp_path: Path, script: Script, cause: str) -> None:
    """Every cause leads to the fallback before the first byte."""
    better = chat_stream("four")
    async with (
        model_server(script) as small,
        model_server(streams(*better)) as large,
        router(
            tmp_path,
            a_snapshot(
                expert("maths", small.address),
                served_fallback("big", large.address),
                timeouts={"firstTokenSeconds": 1, "idleSeconds": 1},
            ),
        ) as rig,
    ):
        reply = await ask(rig.port, post(chat(stream=True)))

        assert reply.body == b"".join(better)
        assert reply.headers["x-flotilla-reason"] == cause


async def test_another_replica_is_tried_before_the_fallback(tmp_path: Path) -> None:
    """A failed attempt is retried once on another replica of the same expert."""
    async with (
        model_server(dies) as bad,
        model_server(dies) as worse,
        model_server(replies(chat_answer("4"))) as good,
        router(tmp_path, a_snapshot(expert("maths", bad.address, good.address, price=PRICE))) as rig,
        router(
            tmp_path, a_snapshot(expert("maths", bad.address, worse.address), served_fallback("big", good.address))
        ) as other,
    ):
        replies_ = [await ask(rig.port, post(chat())) for _ in range(4)]
        escalated = await ask(other.port, post(chat()))

        assert {reply.headers["x-flotilla-model"] for reply in replies_} == {"maths"}
        assert escalated.headers["x-flotilla-reason"] == "UpstreamError"
        assert escalated.headers["x-flotilla-attempts"] == "3"


async def test_the_service_is_tried_when_every_endpoint_refuses(tmp_path: Path) -> None:
    """Addresses may be out of date; the Service knows better."""
    async with model_server(replies(b"")) as gone:
        refusing = gone.address
    async with (
        model_server(replies(chat_answer("4"))) as behind,
        router(tmp_path, a_snapshot(expert("maths", refusing, service=behind.address))) as rig,
    ):
        reply = await ask(rig.port, post(chat()))

        assert reply.status == 200
        line = await rig.request_line()
        assert [a["endpoint"] for a in line["attempts"]] == ["maths-0", "service"]


async def test_a_death_after_commit_ends_in_an_error_event(tmp_path: Path) -> None:
    """Never a silent end: the error is in band and [DONE] is missing."""
    async with (
        model_server(dies_after(chat_event("so"), chat_event("on"))) as small,
        model_server(replies(b"{}")) as large,
        router(tmp_path, a_snapshot(expert("maths", small.address), served_fallback("big", large.address))) as rig,
        client(rig.port) as raw,
    ):
        await raw.send(post(chat(stream=True)))
        reply = await raw.reply()

        events = reply.body.split(b"\n\n")
        assert events[0] + b"\n\n" == chat_event("so")
        assert events[-2].startswith(b'data: {"error":')
        assert b"[DONE]" not in reply.body
        assert large.received == []
        line = await rig.request_line()
        assert line["attempts"][0]["result"] == "UpstreamError"
        await raw.send(post(chat(stream=True)))  # the connection is still good
        assert (await raw.reply()).status == 200


async def test_a_stall_after_commit_ends_in_an_error_event(tmp_path: Path) -> None:
    """The idle timeout also bounds a committed stream."""
    async with (
        model_server(waits_after(chat_event("so"))) as small,
        router(tmp_path, a_snapshot(expert("maths", small.address), timeouts={"idleSeconds": 0.2})) as rig,
    ):
        reply = await ask(rig.port, post(chat(stream=True)))

        assert b'"code":"Timeout"' in reply.body
        await until(lambda: small.open == 0)


async def test_a_whole_answer_that_is_cut_is_asked_for_elsewhere(tmp_path: Path) -> None:
    """JSON is buffered until it is whole, so a cut is not the client's problem."""

    async def cut(received: Received, peer: Peer) -> None:
        await peer.write(b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 100\r\n\r\n{")
        peer.writer.close()

    async with (
        model_server(cut) as small,
        model_server(replies(chat_answer("4"))) as large,
        router(tmp_path, a_snapshot(expert("maths", small.address), served_fallback("big", large.address))) as rig,
    ):
        reply = await ask(rig.port, post(chat()))

        assert (reply.status, reply.body) == (200, chat_answer("4"))


async def test_every_request_is_bounded_in_time(tmp_path: Path) -> None:
    """total also ends a whole answer that never comes."""
    async with (
        model_server(silent) as small,
        router(tmp_path, a_snapshot(expert("maths", small.address), timeouts={"totalSeconds": 0.3})) as rig,
    ):
        reply = await ask(rig.port, post(chat()))

        assert (reply.status, reply.json["error"]["code"]) == (504, "Timeout")
        await until(lambda: small.open == 0)


async def test_waiting_streams_get_comments_and_later_failures_in_band(tmp_path: Path) -> None:
    """Keep-alive comments fix the status, so what fails after them is an event."""
    async with (
        model_server(silent) as small,
        router(
            tmp_path,
            a_snapshot(
                expert("maths", small.address), timeouts={"keepAliveAfterSeconds": 0.1, "firstTokenSeconds": 0.5}
            ),
        ) as rig,
    ):
        reply = await ask(rig.port, post(chat(stream=True)))

        assert reply.status == 200
        assert reply.body.startswith(b":")
        assert b'data: {"error":' in reply.body


async def test_no_escalation_starts_after_the_deadline(tmp_path: Path) -> None:
    """An unsure answer that comes too late is used."""

    async def late(received: Received, peer: Peer) -> None:
        await asyncio.sleep(0.15)
        await replies(chat_answer("five", logprob=UNSURE))(received, peer)

    async with (
        model_server(late) as small,
        model_server(replies(b"{}")) as large,
        router(
            tmp_path,
            a_snapshot(
                expert("maths", small.address),
                served_fallback("big", large.address),
                escalation={"deadlineSeconds": 0.05},
            ),
        ) as rig,
    ):
        reply = await ask(rig.port, post(chat()))

        assert (reply.status, reply.body) == (200, chat_answer("five"))
        assert large.received == []


async def test_a_pinned_expert_is_neither_judged_nor_replaced(tmp_path: Path) -> None:
    """A model asked for by name answers, unsure or not."""
    async with (
        model_server(replies(chat_answer("five"))) as small,
        model_server(replies(b"{}")) as large,
        router(tmp_path, a_snapshot(expert("maths", small.address), served_fallback("big", large.address))) as rig,
    ):
        reply = await ask(rig.port, post(chat(model="maths")))

        assert reply.headers["x-flotilla-reason"] == "Pinned"
        assert "logprobs" not in small.received[0].json
        assert large.received == []


async def test_a_policy_without_ready_experts_uses_its_fallback(tmp_path: Path) -> None:
    """No ready replica is an escalation too."""
    async with (
        model_server(replies(chat_answer("4"))) as large,
        router(tmp_path, a_snapshot(expert("maths"), served_fallback("big", large.address))) as rig,
    ):
        reply = await ask(rig.port, post(chat()))

        assert reply.headers["x-flotilla-reason"] == "NoReadyReplica"
        assert rig.metric('flotilla_router_escalations_total{cause="NoReadyReplica",expert="maths"') == 1


async def test_the_clients_own_mistake_passes_verbatim(tmp_path: Path) -> None:
    """A 400 that is about the request is not escalated."""
    mistake = b'{"error": {"message": "temperature must be a number", "type": "Bad Request", "code": 400}}'
    async with (
        model_server(replies(mistake, status=400)) as small,
        model_server(replies(b"{}")) as large,
        router(tmp_path, a_snapshot(expert("maths", small.address), served_fallback("big", large.address))) as rig,
    ):
        reply = await ask(rig.port, post(chat()))

        assert (reply.status, reply.body) == (400, mistake)
        assert large.received == []


async def test_time_is_priced_by_the_second(tmp_path: Path) -> None:
    """An expert without token prices costs its share of the GPU's time."""
    async with (
        model_server(replies(chat_answer("4"))) as small,
        router(tmp_path, a_snapshot(expert("maths", small.address, price=TimePrice(perSecondUSD=1)))) as rig,
    ):
        await ask(rig.port, post(chat()))

        attempt = (await rig.request_line())["attempts"][0]
        assert attempt["usd"] * 1000 == pytest.approx(attempt["ms"], abs=0.1)
