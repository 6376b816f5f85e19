"""Forwards TCP from Service addresses to pods, as kube-proxy does with the kernel's help."""

from __future__ import annotations

import asyncio
import itertools
import logging
from collections.abc import Iterator, Mapping
from typing import cast

from localcluster.runner.model import NamespacedName
from localcluster.runner.routes import Endpoint, Frontend

log = logging.getLogger(__name__)

CONNECT_TIMEOUT_SECONDS = 5.0
BIND_RETRY_SECONDS = 1.0
BACKLOG = 1024


class Forwarder:
    """Listens on every frontend that has endpoints; one without refuses connections, as nobody listens there."""

    def __init__(self) -> None:
        self._routes: dict[NamespacedName, Mapping[Frontend, tuple[Endpoint, ...]]] = {}
        self._frontends: dict[Frontend, _Balancer] = {}
        self._listeners: dict[Frontend, asyncio.Server] = {}
        self._refused: set[Frontend] = set()
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
        """Open and close listeners until cancelled."""
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
                lambda: _Client(balancer), frontend.host, frontend.port, backlog=BACKLOG
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
        self.transport: asyncio.Transport | None = None
        self.peer: _Half | None = None
        self._lost = False
        self._ended = False
        self._early: list[bytes] = []

    @property
    def lost(self) -> bool:
        """Whether the connection is gone."""
        return self._lost

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        self.transport.pause_reading()  # until the other side is there; uvloop may still deliver a first read

    def data_received(self, data: bytes) -> None:
        if self.peer is None:
            self._early.append(data)
        elif self.peer.transport and not self.peer.lost:
            self.peer.transport.write(data)

    def join(self, peer: _Half) -> None:
        """From now on what is read goes to `peer`, what was read before first."""
        self.peer = peer
        early, self._early = self._early, []
        if peer.transport:
            peer.transport.writelines(early)
            if self._ended:
                peer.transport.write_eof()
        if self.transport:
            self.transport.resume_reading()

    def eof_received(self) -> bool:
        """The other direction goes on until it is at its end too."""
        self._ended = True
        if self.peer and self.peer.transport and self.transport and not self.peer.lost:
            self.peer.transport.write_eof()
            if self.peer._ended:
                self.transport.close()
                self.peer.transport.close()
        return True

    def pause_writing(self) -> None:
        if self.peer and self.peer.transport and not self.peer.lost:
            self.peer.transport.pause_reading()

    def resume_writing(self) -> None:
        if self.peer and self.peer.transport and not self.peer.lost:
            self.peer.transport.resume_reading()

    def connection_lost(self, exc: Exception | None) -> None:
        self._lost = True
        if self.peer and self.peer.transport and not self.peer.lost:
            if exc is None:
                self.peer.transport.close()
            else:
                self.peer.transport.abort()


class _Client(_Half):
    """The client's side: it finds an endpoint that takes the connection, or resets it."""

    def __init__(self, balancer: _Balancer) -> None:
        super().__init__()
        self._balancer = balancer
        self._connecting: asyncio.Task[None] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self._connecting = asyncio.ensure_future(self._connect())

    async def _connect(self) -> None:
        loop = asyncio.get_running_loop()
        for endpoint in self._balancer.order():
            try:
                async with asyncio.timeout(CONNECT_TIMEOUT_SECONDS):
                    _, upstream = await loop.create_connection(_Half, endpoint.host, endpoint.port)
            except OSError:
                continue
            self._join(upstream)
            return
        if self.transport:
            self.transport.abort()

    def _join(self, upstream: _Half) -> None:
        assert self.transport is not None
        assert upstream.transport is not None
        if self.lost or upstream.lost:
            self.transport.abort()
            upstream.transport.abort()
            return
        self.join(upstream)
        upstream.join(self)
