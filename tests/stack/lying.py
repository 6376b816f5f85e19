"""A Prometheus server that can be made to lie: a relay in front of a real one."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Generator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

import httpx

RELAY_SECONDS = 60.0
"""Longer than anybody waits for an answer."""

Series = dict[str, Any]
Lie = Callable[[str, list[Series]], list[Series]]
"""What is answered to a query in place of the true result."""


def empty(_query: str, _result: list[Series]) -> list[Series]:
    """Nothing was ever measured."""
    return []


def kept(_query: str, result: list[Series]) -> list[Series]:
    """Each answer is about two minutes ago, as that of a proxy which keeps them."""
    return [{**each, "value": [each["value"][0] - 120, each["value"][1]]} for each in result]


def old(query: str, result: list[Series]) -> list[Series]:
    """Nobody has been scraped for ten minutes."""
    return _changed(result, lambda value: value + 600) if "timestamp(" in query else result


def huge(query: str, result: list[Series]) -> list[Series]:
    """All that is counted is more than there can be."""
    return result if "timestamp(" in query or "count_over_time(" in query else _changed(result, lambda _: 1e300)


def _changed(result: list[Series], change: Callable[[float], float]) -> list[Series]:
    return [{**each, "value": [each["value"][0], str(change(float(each["value"][1])))]} for each in result]


class Relay:
    """Tells the truth of the server behind it, unless it is told to lie."""

    def __init__(self, upstream: str, url: str) -> None:
        self.upstream = upstream
        self.url = url
        self._lie: Lie | None = None
        self._forgetful = False

    @contextmanager
    def lying(self, lie: Lie) -> Generator[None]:
        """Answers about the present are false while the block runs; afterwards they are as before."""
        before, self._lie = self._lie, lie
        try:
            yield
        finally:
            self._lie = before

    @contextmanager
    def asking(self, upstream: str) -> Generator[None]:
        """Another server is behind it while the block runs."""
        before, self.upstream = self.upstream, upstream
        try:
            yield
        finally:
            self.upstream = before

    @contextmanager
    def forgetful(self) -> Generator[None]:
        """Questions about the past are refused while the block runs."""
        self._forgetful = True
        try:
            yield
        finally:
            self._forgetful = False

    def answer(self, target: str) -> tuple[int, bytes]:
        """Status and body.

        Raises:
            httpx.HTTPError: the server behind it does not answer.
        """
        parts = urlsplit(target)
        if self._forgetful and parts.path.endswith("query_range"):
            return 503, json.dumps({"status": "error", "error": "the past cannot be read"}).encode()
        true = httpx.get(self.upstream + target, timeout=RELAY_SECONDS, trust_env=False)
        if self._lie is None or not parts.path.endswith("/query") or not true.is_success:
            return true.status_code, true.content
        said = true.json()
        said["data"]["result"] = self._lie(parse_qs(parts.query)["query"][0], said["data"]["result"])
        return true.status_code, json.dumps(said).encode()


@contextmanager
def running_relay(upstream: str, host: str) -> Generator[Relay]:
    """In front of the server at that address; it listens at `host`, which pods must reach: loopback is their own."""
    with ThreadingHTTPServer((host, 0), BaseHTTPRequestHandler) as server:
        relay = Relay(upstream, f"http://{host}:{server.server_port}")
        server.RequestHandlerClass = _handler(relay)
        server.daemon_threads = True
        thread = threading.Thread(target=server.serve_forever, name="relay")
        thread.start()
        try:
            yield relay
        finally:
            server.shutdown()
            thread.join()


def _handler(relay: Relay) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            try:
                status, body = relay.answer(self.path)
            except httpx.HTTPError:
                self.close_connection = True  # without a word, as a server that is not there
                return
            self.send_response(status)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def handle(self) -> None:
            try:
                super().handle()
            except ConnectionError:
                return  # whoever asked has given up

        def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the base class's name
            """Nothing."""

    return Handler
