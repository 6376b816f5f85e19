"""kopf's decorators: each event is handed over as it comes."""

from __future__ import annotations

import socket
from collections.abc import Callable
from typing import Any, cast
from urllib.parse import urlsplit

import aiohttp
import aiohttp.abc
import kopf

from .adapters.client import Connection
from .adapters.kinds import KINDS, Kind
from .reconcile.types import Manifest

Receive = Callable[[Kind, str | None, Manifest], None]
"""Takes an object's kind, the event's type (None: it was listed) and the object; called in the watches' thread."""


def make_registry(connection: Connection, receive: Receive) -> kopf.OperatorRegistry:
    """Handlers for every kind that the store holds, and a login as `connection` says."""
    registry = kopf.OperatorRegistry()

    @kopf.on.login(registry=registry)
    async def login(**_: Any) -> kopf.ConnectionInfo | kopf.AiohttpSession:  # pyright: ignore[reportUnusedFunction]
        return _login(connection)

    for kind in KINDS.values():
        _watch(registry, kind, receive)
    return registry


def _watch(registry: kopf.OperatorRegistry, kind: Kind, receive: Receive) -> None:
    @kopf.on.event(kind.group, kind.version, kind.plural, registry=registry, id=kind.plural)
    async def on_event(event: kopf.RawEvent, **_: Any) -> None:  # pyright: ignore[reportUnusedFunction]
        receive(kind, event["type"], cast("Manifest", event["object"]))


def _login(connection: Connection) -> kopf.ConnectionInfo | kopf.AiohttpSession:
    if connection.server_name:
        return _named_session(connection, connection.server_name)
    scheme, _, token = (connection.authorization() or "").rpartition(" ")
    certificate, private_key = connection.client_certificate or (None, None)
    return kopf.ConnectionInfo(
        server=connection.server,
        ca_path=connection.ca_path,
        insecure=not connection.verify,
        scheme=scheme or None,
        token=token or None,
        certificate_path=certificate,
        private_key_path=private_key,
    )


def _named_session(connection: Connection, server_name: str) -> kopf.AiohttpSession:
    """For an API server whose certificate is for another name than its address: it is called by that name."""
    url = urlsplit(connection.server)
    authorization = connection.authorization()
    session = aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=0, ssl=connection.ssl_context(), resolver=_Elsewhere(url.hostname or "")),
        headers={"Authorization": authorization} if authorization else {},
    )
    return kopf.AiohttpSession(
        server=url._replace(netloc=f"{server_name}:{url.port or 443}").geturl(), aiohttp_session=session
    )


class _Elsewhere(aiohttp.abc.AbstractResolver):
    """Finds every name at one host."""

    def __init__(self, host: str) -> None:
        self._host = host
        self._resolver = aiohttp.DefaultResolver()

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[aiohttp.abc.ResolveResult]:
        """Where that host is."""
        found = await self._resolver.resolve(self._host, port, family)
        return [{**each, "hostname": host} for each in found]

    async def close(self) -> None:
        """Nothing is left open."""
        await self._resolver.close()
