"""Engines that sleep and wake as the operator asks them to."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import pytest
from aiohttp import web

from fakes.engine.inprocess import running_engine
from fakes.engine.settings import EngineSettings
from flotilla_operator.adapters.engines import VllmEngines
from flotilla_operator.ports import EngineError, NotLeadingError

SETTINGS = EngineSettings(model="acme/small", served_names=("small",), dev_mode=True)


@asynccontextmanager
async def an_engine(status: int) -> AsyncGenerator[tuple[str, list[str]]]:
    """An engine's address, and what it is asked."""
    asked: list[str] = []

    async def answer(request: web.Request) -> web.Response:
        asked.append(f"{request.method} {request.path_qs}")
        return web.Response(status=status)

    app = web.Application()
    app.router.add_route("*", "/{path:.*}", answer)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    host, port = runner.addresses[0][:2]
    try:
        yield f"{host}:{port}", asked
    finally:
        await runner.cleanup()


async def test_an_engine_sleeps_with_its_weights_at_hand_and_wakes() -> None:
    """Level 1: waking takes seconds. Asked twice, it does nothing more."""
    async with running_engine(SETTINGS) as simulated, VllmEngines(lambda: True) as engines:
        address, engine = f"127.0.0.1:{simulated.port}", simulated.server.engine
        for _ in range(2):
            await engines.sleep(address)
        asleep = engine.sleep_level
        for _ in range(2):
            await engines.wake_up(address)

        assert (asleep, engine.sleep_level) == (1, 0)


@pytest.mark.parametrize("status", [404, 500])
async def test_an_engine_that_does_not_sleep_says_so(status: int) -> None:
    """One that was started without sleep mode knows no such path."""
    async with an_engine(status) as (address, _), VllmEngines(lambda: True) as engines:
        with pytest.raises(EngineError, match=str(status)):
            await engines.sleep(address)


async def test_an_engine_without_sleep_mode_is_awake() -> None:
    """So its mark may go."""
    async with an_engine(404) as (address, _), VllmEngines(lambda: True) as engines:
        await engines.wake_up(address)


async def test_an_engine_that_does_not_wake_says_so() -> None:
    """And gets no requests."""
    async with an_engine(500) as (address, _), VllmEngines(lambda: True) as engines:
        with pytest.raises(EngineError, match="500"):
            await engines.wake_up(address)


async def test_an_engine_that_cannot_be_reached_says_so() -> None:
    """Its pod may be going."""
    async with VllmEngines(lambda: True) as engines:
        with pytest.raises(EngineError, match=r"127\.0\.0\.1:1"):
            await engines.wake_up("127.0.0.1:1")


async def test_without_the_lease_no_engine_is_called() -> None:
    """Another replica of the operator decides about it by now."""
    async with an_engine(200) as (address, asked), VllmEngines(lambda: False) as engines:
        for call in (engines.sleep, engines.wake_up):
            with pytest.raises(NotLeadingError):
                await call(address)

        assert not asked
