"""A closed-loop load generator: a fixed number of connections, each sends its next request when its answer is complete.

Prints one JSON object: {"requests", "seconds", "events", "reads"}. Bounded by `--requests`.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import time
from typing import cast

import httptools
import uvloop

API_KEY = "sk-flotilla-bench"
PATH = "/v1/chat/completions"
HEADERS = {"content-type": "application/json", "authorization": f"Bearer {API_KEY}"}
PROMPT = "Read the invoice and give the total, the currency and the due date as one line. " * 10


def make_body(*, stream: bool) -> bytes:
    """A chat request of about 1 KB."""
    message = {"role": "user", "content": PROMPT}
    body = {"model": "auto", "messages": [message], "max_tokens": 80, "temperature": 0}
    return json.dumps(body | ({"stream": True} if stream else {}), separators=(",", ":")).encode()


def make_request(*, stream: bool) -> bytes:
    """The bytes of the request, with its head."""
    body = make_body(stream=stream)
    headers = {"host": "gateway", "accept": "*/*", "user-agent": "bench", **HEADERS, "content-length": str(len(body))}
    lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    return f"POST {PATH} HTTP/1.1\r\n{lines}\r\n".encode() + body


class Load:
    """What all connections share."""

    def __init__(self, requests: int, request: bytes) -> None:
        self.left = requests
        self.request = request
        self.finished = 0
        self.events = 0
        self.reads = 0
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.target = requests


class Connection(asyncio.Protocol):
    """One connection of the closed loop."""

    __slots__ = ("load", "parser", "status", "transport")

    def __init__(self, load: Load) -> None:
        self.load = load
        self.parser = httptools.HttpResponseParser(self)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)
        self._next()

    def data_received(self, data: bytes) -> None:
        self.load.events += data.count(b"data: ")
        self.load.reads += 1
        self.parser.feed_data(data)

    def on_message_complete(self) -> None:
        load = self.load
        if self.parser.get_status_code() != 200:
            load.done.set_exception(RuntimeError(f"status {self.parser.get_status_code()}"))
            return
        load.finished += 1
        if load.finished == load.target and not load.done.done():
            load.done.set_result(None)
        self.parser = httptools.HttpResponseParser(self)
        self._next()

    def _next(self) -> None:
        if self.load.left > 0:
            self.load.left -= 1
            self.transport.write(self.load.request)

    def connection_lost(self, exc: Exception | None) -> None:
        if not self.load.done.done():
            self.load.done.set_exception(RuntimeError("the server closed a connection"))


async def _run(port: int, requests: int, connections: int, stream: bool) -> dict[str, float]:
    load = Load(requests, make_request(stream=stream))
    loop = asyncio.get_running_loop()
    started = time.perf_counter()
    for _ in range(connections):
        await loop.create_connection(lambda: Connection(load), "127.0.0.1", port)
    await asyncio.wait_for(load.done, 300)
    return {"requests": requests, "seconds": time.perf_counter() - started, "events": load.events, "reads": load.reads}


def main() -> None:
    """Runs the load and prints what it was."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--requests", type=int, required=True)
    parser.add_argument("--connections", type=int, default=32)
    parser.add_argument("--stream", action="store_true")
    arguments = parser.parse_args()
    figures = uvloop.run(_run(arguments.port, arguments.requests, arguments.connections, arguments.stream))
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
