"""kopf's decorators: each event is handed over as it comes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

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
    def login(**_: Any) -> kopf.ConnectionInfo:  # pyright: ignore[reportUnusedFunction]
        return _login(connection)

    for kind in KINDS.values():
        _watch(registry, kind, receive)
    return registry


def _watch(registry: kopf.OperatorRegistry, kind: Kind, receive: Receive) -> None:
    @kopf.on.event(kind.group, kind.version, kind.plural, registry=registry, id=kind.plural)
    async def on_event(event: kopf.RawEvent, **_: Any) -> None:  # pyright: ignore[reportUnusedFunction]
        receive(kind, event["type"], cast("Manifest", event["object"]))


def _login(connection: Connection) -> kopf.ConnectionInfo:
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
