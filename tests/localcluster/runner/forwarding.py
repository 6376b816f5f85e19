"""Forwards TCP from Service addresses to pods, as kube-proxy does with the kernel's help."""

from __future__ import annotations

import asyncio
import itertools
import logging
import socket
import struct
from collections.abc import Iterator, Mapping
from typing import cast

from localcluster.runner.model import NamespacedName
from localcluster.runner.routes import Endpoint, Frontend

log = logging.getLogger(__name__)

CONNECT_TIMEOUT_SECONDS = 5.0
BIND_RETRY_SECONDS = 1.0
BACKLOG = 1024
RESET_ON_CLOSE = struct.pack("ii", 1, 0)


class Forwarder:
    """Listens on every frontend that has endpoints; one without refuses connections, as nobody listens there."""

    def __init__(self) -> None:
        self._routes: dict[NamespacedName, Mapping[Frontend, tuple[Endpoint, ...]]] = {}
        self._frontends: dict[Frontend, _Balancer] = {}
        self._listeners: dict[Frontend, asyncio.Server] = {}
        self._refused: set[Frontend] = set()
        self._clients: set[_Client] = set()
        self._changed = asyncio.Event()

    def set_routes(self, service: NamespacedName, routes: Mapping[Frontend, tuple[Endpoint, ...]]) -> None:
        """From now on new connections to this Service go where `routes` say."""
        if self._routes.get(service, {}) == routes:
            return
        for frontend in self._routes.get(service, {}).keys() - routes.keys():
            self._frontends.pop(frontend, None)
        self._routes[service] = routes
        for frontend, endpoints in routes.items():
            self._frontends.setdefault(frontend, _Balancer()).endpoints = endpoints
        self._changed.set()

    async def run(self) -> None:
        """Open and close listeners until cancelled; then all connections are cut."""
        try:
            while True:
                self._changed.clear()
                await self._adjust()
                try:
                    async with asyncio.timeout(BIND_RETRY_SECONDS if self._refused else None):
                        await self._changed.wait()
                except TimeoutError:
                    continue
        finally:
            for listener in self._listeners.values():
                listener.close()
            for client in list(self._clients):
                client.cut()

    async def _adjust(self) -> None:
        wanted = {frontend for frontend, balancer in self._frontends.items() if balancer.endpoints}
        for frontend in self._listeners.keys() - wanted:
            self._listeners.pop(frontend).close()
        self._refused &= wanted
        for frontend in sorted(wanted - self._listeners.keys()):
            await self._listen(frontend)

    async def _listen(self, frontend: Frontend) -> None:
        loop, balancer = asyncio.get_running_loop(), self._frontends[frontend]
        try:
            listener = await loop.create_server(
                lambda: _Client(balancer, self._clients), frontend.host, frontend.port, backlog=BACKLOG
            )
        except OSError as error:
            if frontend not in self._refused:
                log.error("cannot listen on service address %s:%d: %s", frontend.host, frontend.port, error)
            self._refused.add(frontend)
            return
        self._refused.discard(frontend)
        self._listeners[frontend] = listener


class _Balancer:
    """Takes the endpoints in turn."""

    def __init__(self) -> None:
        self.endpoints: tuple[Endpoint, ...] = ()
        self._turn = itertools.count()

    def order(self) -> Iterator[Endpoint]:
        """All endpoints, beginning with the one whose turn it is."""
        endpoints, first = self.endpoints, next(self._turn)
        return (endpoints[(first + i) % len(endpoints)] for i in range(len(endpoints)))


class _Half(asyncio.Protocol):
    """One side of a forwarded connection: what it reads, the other side writes."""

    def __init__(self) -> None:
        self._transport: asyncio.Transport | None = None
        self._peer: _Half | None = None
        self._early: list[bytes] = []  # what came before there was another side
        self._ended = False  # nothing more will be read
        self._lost = False  # the connection is gone

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        if self._peer is not None:
            self._peer.write(data)
            return
        self._early.append(data)
        if self._transport:
            self._transport.pause_reading()

    def eof_received(self) -> bool:
        """The other direction goes on until it is at its end too."""
        self._ended = True
        if self._peer is not None:
            self._peer.end()
        return True

    def pause_writing(self) -> None:
        if self._peer and self._peer._transport and not self._peer._lost:
            self._peer._transport.pause_reading()

    def resume_writing(self) -> None:
        if self._peer and self._peer._transport and not self._peer._lost:
            self._peer._transport.resume_reading()

    def connection_lost(self, exc: Exception | None) -> None:
        self._lost = True
        if self._peer is not None:
            self._peer.drop(reset=exc is not None)

    def write(self, data: bytes) -> None:
        """Send on this side."""
        if self._transport and not self._lost:
            self._transport.write(data)

    def end(self) -> None:
        """Nothing more will be sent on this side; once nothing more will be read either, it is closed."""
        if self._transport and not self._lost:
            self._transport.write_eof()
            if self._ended:
                self.drop(reset=False)
                if self._peer is not None:
                    self._peer.drop(reset=False)

    def drop(self, *, reset: bool) -> None:
        """This side is closed, after what is still to be sent unless it is reset."""
        if self._transport and not self._lost:
            if reset:
                self._transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET_ON_CLOSE)
                self._transport.abort()
            else:
                self._transport.close()

    def join(self, peer: _Half) -> None:
        """From now on what either side reads goes to the other; so does what this one has read already."""
        self._peer, peer._peer = peer, self
        if self._lost or peer._lost:
            self.drop(reset=True)
            peer.drop(reset=True)
            return
        for half in (self, peer):
            half._hand_over()

    def _hand_over(self) -> None:
        assert self._peer is not None
        early, self._early = self._early, []
        for data in early:
            self._peer.write(data)
        if self._ended:
            self._peer.end()
        elif early and self._transport and not self._lost:
            self._transport.resume_reading()


class _Client(_Half):
    """The client's side: it finds an endpoint that takes the connection, or resets it. `live` holds it meanwhile."""

    def __init__(self, balancer: _Balancer, live: set[_Client]) -> None:
        super().__init__()
        self._balancer, self._live = balancer, live
        self._connecting: asyncio.Task[None] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self._live.add(self)
        self._connecting = asyncio.ensure_future(self._connect())

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self._live.discard(self)

    def cut(self) -> None:
        """Both sides are reset."""
        if self._connecting:
            self._connecting.cancel()
        self.drop(reset=True)
        if self._peer is not None:
            self._peer.drop(reset=True)

    async def _connect(self) -> None:
        loop = asyncio.get_running_loop()
        for endpoint in self._balancer.order():
            try:
                async with asyncio.timeout(CONNECT_TIMEOUT_SECONDS):
                    _, upstream = await loop.create_connection(_Half, endpoint.host, endpoint.port)
            except OSError:
                continue
            self.join(upstream)
            return
        self.drop(reset=True)
