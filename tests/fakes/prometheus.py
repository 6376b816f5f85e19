"""The outside of a Prometheus server: it answers as a test scripts it, lies included."""

from __future__ import annotations

import asyncio
import json
import ssl
import time
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from email.utils import formatdate
from typing import Any

from aiohttp import web

Json = dict[str, Any]
Row = tuple[Mapping[str, str], float | str]


@dataclass
class FakePrometheus:
    """Answers each query with what was put there for it, others with an empty vector."""

    url: str = ""
    vectors: dict[str, list[Row]] = field(default_factory=dict[str, list[Row]])
    """By query."""
    matrices: dict[str, list[tuple[Mapping[str, str], list[tuple[float, float]]]]] = field(
        default_factory=dict[str, list[tuple[Mapping[str, str], list[tuple[float, float]]]]]
    )
    bodies: dict[str, bytes] = field(default_factory=dict[str, bytes])
    """By query: what is sent instead; '' for all."""
    statuses: dict[str, int] = field(default_factory=dict[str, int])
    """By query, likewise."""
    hold: asyncio.Event | None = None
    """What every answer waits for."""
    clock_ahead: float = 0.0
    """Seconds."""
    answers_late: float = 0.0
    """Seconds by which the moment of an answer is older than its date."""
    dated: bool = True
    queries: list[str] = field(default_factory=list[str])
    parameters: list[Mapping[str, str]] = field(default_factory=list[Mapping[str, str]])
    authorizations: list[str] = field(default_factory=list[str])
    now: Callable[[], float] = time.time

    async def answer(self, request: web.Request) -> web.StreamResponse:
        """The answer to one query."""
        query = request.query["query"]
        self.queries.append(query)
        self.parameters.append(dict(request.query))
        self.authorizations.append(request.headers.get("Authorization", ""))
        if self.hold:
            await self.hold.wait()
        status = self.statuses.get(query, self.statuses.get("", 200))
        body = self.bodies.get(query, self.bodies.get(""))
        if body is None:
            body = self._matrix(query) if request.path.endswith("query_range") else self._vector(query)
        headers = {"Date": formatdate(self.now() + self.clock_ahead, usegmt=True)} if self.dated else {"Date": ""}
        if 300 <= status < 400:
            headers["Location"] = f"{self.url}/elsewhere"
        return web.Response(status=status, body=body, headers=headers, content_type="application/json")

    def _vector(self, query: str) -> bytes:
        at = self.now() + self.clock_ahead - self.answers_late
        result = [{"metric": dict(labels), "value": [at, str(value)]} for labels, value in self.vectors.get(query, [])]
        return success("vector", result)

    def _matrix(self, query: str) -> bytes:
        result = [
            {"metric": dict(labels), "values": [[at, str(value)] for at, value in points]}
            for labels, points in self.matrices.get(query, [])
        ]
        return success("matrix", result)


def success(kind: str, result: object, **more: object) -> bytes:
    """The body of an answer."""
    return json.dumps({"status": "success", "data": {"resultType": kind, "result": result}, **more}).encode()


@asynccontextmanager
async def running_prometheus_fake(tls: ssl.SSLContext | None = None) -> AsyncGenerator[FakePrometheus]:
    """Serves on loopback until the block ends."""
    fake = FakePrometheus()
    application = web.Application()
    application.router.add_get("/prefix/api/v1/{path}", fake.answer)
    runner = web.AppRunner(application, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0, ssl_context=tls)
    await site.start()
    host, port = runner.addresses[0][:2]
    fake.url = f"{'https' if tls else 'http'}://{host}:{port}/prefix"
    try:
        yield fake
    finally:
        if fake.hold:
            fake.hold.set()
        await runner.cleanup()
