"""One clock looks after all requests."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
from rig import a_snapshot, ask, chat, expert, model_server, post, router, until

from flotilla_router.exchange import Exchange
from flotilla_router.logs import RequestRecord


async def test_a_request_whose_clock_fails_ends_with_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The client gets an answer, and nothing of the request stays under way."""

    async def silent(*_: object) -> None:
        await asyncio.Event().wait()

    def fail(self: Exchange, now: float) -> None:
        raise ValueError("a defect")

    told: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: told.append(context))
    monkeypatch.setattr(Exchange, "tick", fail)
    async with (
        model_server(silent) as model,
        router(tmp_path, a_snapshot(expert("maths", model.address), timeouts={"totalSeconds": 0.2})) as rig,
    ):
        reply = await ask(rig.port, post(chat()))

        assert (reply.status, reply.json["error"]["code"]) == (503, "service_unavailable")
        assert [str(context["exception"]) for context in told] == ["a defect"]


async def test_a_request_whose_log_line_fails_ends_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What fails after a request's end does not end it again: it would count as less than no request under way."""

    async def silent(*_: object) -> None:
        await asyncio.Event().wait()

    def fail(record: RequestRecord) -> None:
        raise ValueError("a defect")

    told: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: told.append(context))
    async with (
        model_server(silent) as model,
        router(tmp_path, a_snapshot(expert("maths", model.address), timeouts={"totalSeconds": 0.2})) as rig,
    ):
        monkeypatch.setattr(rig.log, "request", fail)
        reply = await ask(rig.port, post(chat()))
        await until(lambda: told)

        assert (reply.status, reply.json["error"]["code"]) == (504, "Timeout")
        assert rig.process.telemetry.in_flight == 0
        assert len(told) == 1
