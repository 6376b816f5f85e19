"""The bare splice: our transport's design with no features. Requests are parsed and passed on, answers copied back.

It reads the head with httptools, waits for the whole body, takes a pooled connection, and streams the answer's bytes
back until httptools says that the answer is complete. It has no policy, limits, timeouts, metrics
or log: the floor that any router on asyncio and httptools stands on.
"""

from __future__ import annotations

import argparse
import asyncio
from collections import deque
from typing import cast

import httptools
import uvloop


class Upstream(asyncio.Protocol):
    """One pooled connection to the upstream."""

    __slots__ = ("client", "parser", "pool", "transport")

    def __init__(self, pool: deque[Upstream]) -> None:
        self.pool = pool
        self.client: Client | None = None
        self.parser = httptools.HttpResponseParser(self)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        client = self.client
        if client:
            client.transport.write(data)
        self.parser.feed_data(data)

    def on_message_complete(self) -> None:
        self.client = None
        self.parser = httptools.HttpResponseParser(self)
        self.pool.append(self)

    def connection_lost(self, exc: Exception | None) -> None:
        if self.client:
            self.client.transport.close()


class Client(asyncio.Protocol):
    """One client connection."""

    __slots__ = ("body", "head", "parser", "pool", "port", "transport")

    def __init__(self, port: int, pool: deque[Upstream]) -> None:
        self.port = port
        self.pool = pool
        self.head: list[bytes] = []
        self.body: list[bytes] = []
        self.parser = httptools.HttpRequestParser(self)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        self.parser.feed_data(data)

    def on_url(self, url: bytes) -> None:
        self.head = [b"POST ", url, b" HTTP/1.1\r\n"]

    def on_header(self, name: bytes, value: bytes) -> None:
        self.head += [name, b": ", value, b"\r\n"]

    def on_body(self, body: bytes) -> None:
        self.body.append(body)

    def on_message_complete(self) -> None:
        parts = [*self.head, b"\r\n", *self.body]
        self.head, self.body = [], []
        self.parser = httptools.HttpRequestParser(self)
        if self.pool:
            self._send(self.pool.pop(), parts)
        else:
            task = asyncio.get_running_loop().create_task(self._connect(parts))
            task.add_done_callback(lambda done: done.exception())

    async def _connect(self, parts: list[bytes]) -> None:
        loop = asyncio.get_running_loop()
        _, upstream = await loop.create_connection(lambda: Upstream(self.pool), "127.0.0.1", self.port)
        self._send(upstream, parts)

    def _send(self, upstream: Upstream, parts: list[bytes]) -> None:
        upstream.client = self
        upstream.transport.write(b"".join(parts))


async def _serve(port: int, upstream_port: int) -> None:
    pool: deque[Upstream] = deque()
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: Client(upstream_port, pool), "127.0.0.1", port, backlog=2048)
    await server.serve_forever()


def main() -> None:
    """Serves until it is ended."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--upstream", type=int, required=True)
    arguments = parser.parse_args()
    uvloop.run(_serve(arguments.port, arguments.upstream))


if __name__ == "__main__":
    main()
