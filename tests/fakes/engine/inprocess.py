"""A simulated engine on the test's own event loop, on a free loopback port."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace

from fakes.engine import http
from fakes.engine.dialect import Dialect, VllmDialect
from fakes.engine.run import LoopClock
from fakes.engine.server import EngineServer
from fakes.engine.settings import EngineSettings


@dataclass(frozen=True, slots=True)
class RunningEngine:
    """Where it listens, and the server itself."""

    url: str
    port: int
    server: EngineServer


@asynccontextmanager
async def running_engine(
    settings: EngineSettings, dialect: Dialect | None = None, host: str = "127.0.0.1"
) -> AsyncGenerator[RunningEngine]:
    """Serve without TLS until the block ends; then every connection is closed."""
    loop = asyncio.get_running_loop()
    dialect = dialect or VllmDialect()
    engine = EngineServer(replace(settings, access_log=False), dialect, LoopClock(loop))
    server = http.Server(engine.handle, dialect.server_lines)
    listener = await loop.create_server(server.connect, host, 0)
    port: int = listener.sockets[0].getsockname()[1]
    try:
        yield RunningEngine(f"http://{host}:{port}", port, engine)
    finally:
        listener.close()
        engine.engine.abort_all()
        server.abort_all()
        await listener.wait_closed()
        await asyncio.sleep(0)  # connections learn of their end in the next turn of the loop
