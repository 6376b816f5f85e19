"""Listening sockets for clients."""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import Collection, Sequence
from typing import Protocol

from .connection import ClientConnection, Host, Service
from .serving import Patience

SWEEP_SECONDS = 1.0


class _Server(Protocol):
    """A listening server; its sockets are a list with uvloop and a tuple without."""

    @property
    def sockets(self) -> Sequence[socket.socket]: ...

    def close(self) -> None: ...


def _port_of(server: _Server) -> int:
    return int(server.sockets[0].getsockname()[1])


class Listener:
    """A listening socket and its connections."""

    def __init__(
        self, loop: asyncio.AbstractEventLoop, service: Service, patience: Patience, most_connections: int
    ) -> None:
        self._loop = loop
        self._host = Host(loop, service, patience, most_connections)
        self.connections: Collection[ClientConnection] = self._host.connections
        self._server: _Server | None = None
        self._sweep_timer: asyncio.TimerHandle | None = None

    async def start(self, host: str, port: int, tls: ssl.SSLContext | None = None) -> int:
        """Listen; the port that was bound (the kernel's choice for 0)."""
        self._server = await self._loop.create_server(
            lambda: ClientConnection(self._host),
            host,
            port,
            ssl=tls,
            ssl_handshake_timeout=self._host.patience.first_byte if tls is not None else None,
            backlog=1024,
            reuse_address=True,
        )
        self._sweep_timer = self._loop.call_later(SWEEP_SECONDS, self._sweep)
        return _port_of(self._server)

    @property
    def busy(self) -> bool:
        """Whether a request is arriving or under way."""
        return any(connection.busy for connection in self.connections)

    def stop_accepting(self) -> None:
        """New connections are refused; idle ones are closed."""
        if self._server is not None:
            self._server.close()
        for connection in tuple(self.connections):
            connection.close_if_idle()

    async def close(self) -> None:
        """Nothing is left open; answers that are being sent get a moment to arrive."""
        self.stop_accepting()
        for _ in range(20):
            if not self.connections:
                break
            await asyncio.sleep(0.01)
        if self._sweep_timer is not None:
            self._sweep_timer.cancel()
        for connection in tuple(self.connections):
            connection.abort()

    def _sweep(self) -> None:
        self._sweep_timer = self._loop.call_later(SWEEP_SECONDS, self._sweep)
        now = self._loop.time()
        for connection in [connection for connection in self.connections if connection.due <= now]:
            connection.expire()
