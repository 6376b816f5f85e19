"""What reached the engine: the last requests, for tests that assert on them over `GET /sim/requests`."""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal

from fakes.engine.http import Exchange, Request
from fakes.engine.wire import Object

MAX_REQUESTS = 1000
MAX_BODY_BYTES = 256 * 1024
"""Of one body; what is longer is cut and marked."""

Outcome = Literal["pending", "answered", "client_gone"]


@dataclass(slots=True)
class Entry:
    """One request and what became of it."""

    number: int
    at: float
    """Unix time."""
    request: Request
    status: int | None = None
    outcome: Outcome = "pending"
    fault: str | None = None
    """The kind of the injected fault that it met."""

    def to_json(self) -> Object:
        """Return it as `/sim/requests` shows it."""
        return {
            "number": self.number,
            "at": self.at,
            "method": self.request.method,
            "path": self.request.path,
            "headers": dict(self.request.headers),
            "body": _shown(self.request.body, self.request.headers),
            "truncated": len(self.request.body) > MAX_BODY_BYTES,
            "status": self.status,
            "outcome": self.outcome,
            "fault": self.fault,
        }


class RequestLog:
    """The last `MAX_REQUESTS` requests, oldest first."""

    def __init__(self) -> None:
        self._entries: deque[Entry] = deque(maxlen=MAX_REQUESTS)
        self._count = 0

    def add(self, request: Request, at: float) -> Entry:
        """Note a request; return the entry, to be completed."""
        self._count += 1
        if len(request.body) > MAX_BODY_BYTES:
            request = replace(request, body=request.body[: MAX_BODY_BYTES + 1])
        entry = Entry(self._count, at, request)
        self._entries.append(entry)
        return entry

    def clear(self) -> None:
        """Forget all; numbers go on."""
        self._entries.clear()

    def listing(self) -> Object:
        """Return all that is kept, and how many there ever were."""
        return {"count": self._count, "requests": [entry.to_json() for entry in self._entries]}


def complete(entry: Entry, exchange: Exchange) -> None:
    """Note how the request ended."""
    entry.status = exchange.status
    entry.outcome = "client_gone" if exchange.client_gone else "answered"


def _shown(body: bytes, headers: Mapping[str, str]) -> object:
    if len(body) <= MAX_BODY_BYTES and headers.get("content-type", "").startswith("application/json"):
        try:
            return json.loads(body)
        except ValueError:
            pass
    return body[:MAX_BODY_BYTES].decode("utf-8", "replace")
