"""TCP through a Service's address, on real sockets and on the event loop that the runner uses."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any

import pytest
import uvloop

from localcluster.runner.forwarding import Forwarder
from localcluster.runner.model import NamespacedName
from localcluster.runner.routes import Endpoint, Frontend

SERVICE = NamespacedName("shop", "web")
Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


def _on_uvloop(work: Coroutine[Any, Any, None]) -> None:
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(work)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@asynccontextmanager
async def _forwarding() -> AsyncGenerator[tuple[Forwarder, Frontend]]:
    forwarder = Forwarder()
    running = asyncio.ensure_future(forwarder.run())
    yield forwarder, Frontend("127.0.0.1", _free_port())
    running.cancel()
    await asyncio.wait([running])


@asynccontextmanager
async def _serving(serve: Serve) -> AsyncGenerator[Endpoint]:
    """Each connection is closed when it has been served."""
    served: set[asyncio.Task[None]] = set()

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await serve(reader, writer)
        except ConnectionError:
            return
        finally:
            await _close(writer)

    def take(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        served.add(asyncio.ensure_future(accept(reader, writer)))

    server = await asyncio.start_server(take, "127.0.0.1", 0)
    yield Endpoint("127.0.0.1", server.sockets[0].getsockname()[1])
    server.close()
    await asyncio.gather(*served)


async def _close(writer: asyncio.StreamWriter) -> None:
    writer.close()
    with contextlib.suppress(ConnectionError):
        await writer.wait_closed()


async def _connect(frontend: Frontend) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """A connection, once the forwarder listens."""
    while True:
        try:
            return await asyncio.open_connection(frontend.host, frontend.port)
        except ConnectionRefusedError:
            await asyncio.sleep(0)


async def _until_refused(frontend: Frontend) -> None:
    """Return once nobody listens there; the test's timeout bounds it."""
    with contextlib.suppress(ConnectionRefusedError):
        while True:
            _, writer = await asyncio.open_connection(frontend.host, frontend.port)
            await _close(writer)


async def _echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Answers only after the client has said everything."""
    writer.write(await reader.read())


def test_half_closed_connection_is_answered() -> None:
    """Megabytes pass unchanged both ways, and the end of one direction leaves the other open."""

    async def work() -> None:
        payload = bytes(range(256)) * 40_000
        async with _forwarding() as (forwarder, frontend), _serving(_echo) as endpoint:
            forwarder.set_routes(SERVICE, {frontend: (endpoint,)})
            reader, writer = await _connect(frontend)
            writer.write(payload)
            writer.write_eof()

            assert await reader.read() == payload
            await _close(writer)

    _on_uvloop(work())


def test_connection_ends_on_both_sides() -> None:
    """When the client goes, the pod learns of it."""
    gone = asyncio.Event()

    async def wait_for_end(reader: asyncio.StreamReader, _: asyncio.StreamWriter) -> None:
        await reader.read()
        gone.set()

    async def work() -> None:
        async with _forwarding() as (forwarder, frontend), _serving(wait_for_end) as endpoint:
            forwarder.set_routes(SERVICE, {frontend: (endpoint,)})
            _, writer = await _connect(frontend)
            await _close(writer)

            async with asyncio.timeout(5):
                await gone.wait()

    _on_uvloop(work())


def test_dead_endpoint_is_passed_over() -> None:
    """A pod that refuses connections is skipped while it still counts as ready."""

    async def work() -> None:
        dead = Endpoint("127.0.0.1", _free_port())
        async with _forwarding() as (forwarder, frontend), _serving(_echo) as endpoint:
            forwarder.set_routes(SERVICE, {frontend: (dead, endpoint)})
            for _ in range(4):
                reader, writer = await _connect(frontend)
                writer.write(b"x")
                writer.write_eof()
                assert await reader.read() == b"x"
                await _close(writer)

    _on_uvloop(work())


def test_only_dead_endpoints_reset_the_connection() -> None:
    """A client is not left waiting when nobody can answer."""

    async def work() -> None:
        dead = Endpoint("127.0.0.1", _free_port())
        async with _forwarding() as (forwarder, frontend):
            forwarder.set_routes(SERVICE, {frontend: (dead,)})
            reader, writer = await _connect(frontend)
            with pytest.raises(ConnectionResetError):
                await reader.read()
            await _close(writer)

    _on_uvloop(work())


def test_service_without_endpoints_refuses() -> None:
    """When the last endpoint goes, connections are refused, and when one comes they are taken again."""

    async def work() -> None:
        async with _forwarding() as (forwarder, frontend), _serving(_echo) as endpoint:
            forwarder.set_routes(SERVICE, {frontend: (endpoint,)})
            await _close((await _connect(frontend))[1])
            forwarder.set_routes(SERVICE, {frontend: ()})
            await _until_refused(frontend)
            forwarder.set_routes(SERVICE, {frontend: (endpoint,)})
            await _close((await _connect(frontend))[1])

    _on_uvloop(work())


def test_reader_that_pauses_holds_up_the_sender() -> None:
    """What a client does not read is not piled up in between."""
    sent = 0

    async def flood(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal sent
        while sent < 1 << 30:
            writer.write(bytes(1 << 16))
            await writer.drain()
            sent += 1 << 16

    async def work() -> None:
        async with _forwarding() as (forwarder, frontend), _serving(flood) as endpoint:
            forwarder.set_routes(SERVICE, {frontend: (endpoint,)})
            _, writer = await _connect(frontend)
            before = -1
            while before != sent:
                before = sent
                for _ in range(200):
                    await asyncio.sleep(0.001)
            writer.transport.abort()
            await _close(writer)

    _on_uvloop(work())

    assert sent < 64 << 20
