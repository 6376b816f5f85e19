"""One request and its whole response, for whoever may wait for it."""

from __future__ import annotations

import asyncio

from .heads import ResponseHead
from .upstream import Failure, Origin, Upstreams


class _Collector:
    """Receives one response as a whole."""

    def __init__(self, limit: int, done: asyncio.Future[tuple[ResponseHead, bytes]]) -> None:
        self._limit = limit
        self._done = done
        self._head = ResponseHead()
        self._body = bytearray()

    def on_head(self, response: ResponseHead) -> None:
        self._head = response

    def on_body(self, chunk: bytes) -> None:
        self._body += chunk
        if len(self._body) > self._limit and not self._done.done():
            self._done.set_exception(OSError(f"the response is larger than {self._limit} bytes"))

    def on_complete(self) -> None:
        if not self._done.done():
            self._done.set_result((self._head, bytes(self._body)))

    def on_failed(self, failure: Failure) -> None:
        if not self._done.done():
            self._done.set_exception(OSError(failure.value))


async def fetch(
    upstreams: Upstreams, origin: Origin, request: bytes, *, seconds: float, limit: int
) -> tuple[ResponseHead, bytes]:
    """The response to one request, whole.

    Raises:
        OSError: there was none, or it was larger than `limit` bytes.
        TimeoutError: it took longer than `seconds`.
    """
    done: asyncio.Future[tuple[ResponseHead, bytes]] = upstreams.loop.create_future()
    call = upstreams.call(origin, [request], _Collector(limit, done), connect_seconds=min(seconds, 5.0))
    try:
        async with asyncio.timeout(seconds):
            return await done
    finally:
        call.cancel()
