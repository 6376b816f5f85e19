"""A client's connection: what it may hold, how long it lasts, and that it always ends with an answer."""

from __future__ import annotations

from pathlib import Path

import pytest
from rig import Reply, a_snapshot, ask, chat, chat_answer, client, expert, get, model_server, post, replies, router

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
