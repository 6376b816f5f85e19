"""An upstream that costs next to nothing: canned answers in vLLM's wire form from one asyncio.Protocol.

`/v1/chat/completions` with `"stream":true` in the body is answered with server-sent events: `--events` of them at once,
or with `--hold`, one event and then silence until the client goes.
"""

from __future__ import annotations

import argparse
import asyncio
from typing import cast

import uvloop

_TEXT = "The answer follows from the numbers given. " * 9
_MESSAGE = '{"role":"assistant","content":"' + _TEXT + '"}'
_CHOICE = f'{{"index":0,"message":{_MESSAGE},"logprobs":null,"finish_reason":"stop"}}'
_USAGE = '{"prompt_tokens":220,"total_tokens":300,"completion_tokens":80}'
_ANSWER = (
    '{"id":"chatcmpl-1","object":"chat.completion","created":1795342079,"model":"small",'
    f'"choices":[{_CHOICE}],"usage":{_USAGE}}}'
).encode()
JSON_RESPONSE = (
    b"HTTP/1.1 200 OK\r\nserver: uvicorn\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n" % len(_ANSWER)
) + _ANSWER
_STREAM_HEAD = (
    b"HTTP/1.1 200 OK\r\nserver: uvicorn\r\ncontent-type: text/event-stream; charset=utf-8\r\n"
    b"transfer-encoding: chunked\r\n\r\n"
)
_DELTA = (
    b'data: {"id":"chatcmpl-1","object":"chat.completion.chunk","created":1795342079,"model":"small",'
    b'"choices":[{"index":0,"delta":{"content":" word"},"logprobs":null,"finish_reason":null,"token_ids":null}]}\n\n'
)
_LAST = (
    b'data: {"id":"chatcmpl-1","object":"chat.completion.chunk","created":1795342079,"model":"small",'
    b'"choices":[{"index":0,"delta":{},"logprobs":null,"finish_reason":"stop","token_ids":null}]}\n\n'
)


def chunk(data: bytes) -> bytes:
    """One HTTP chunk."""
    return b"%x\r\n%s\r\n" % (len(data), data)


class Canned(asyncio.Protocol):
    """One connection: counts bytes to find where a request ends, answers, forgets."""

    __slots__ = ("_buffer", "_hold", "_stream", "_transport")

    def __init__(self, events: int, hold: bool) -> None:
        self._buffer = b""
        self._hold = hold
        self._stream = [_STREAM_HEAD, *(chunk(_DELTA) for _ in range(events)), chunk(_LAST)]
        self._stream += [chunk(b"data: [DONE]\n\n"), b"0\r\n\r\n"]

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        while (end := self._buffer.find(b"\r\n\r\n")) >= 0:
            head = self._buffer[:end].lower()
            at = head.find(b"content-length: ")
            length = int(head[at + 16 :].split(b"\r\n", 1)[0]) if at >= 0 else 0
            total = end + 4 + length
            if len(self._buffer) < total:
                return
            body, self._buffer = self._buffer[end + 4 : total], self._buffer[total:]
            self._answer(body)

    def _answer(self, body: bytes) -> None:
        if b'"stream":true' not in body:
            self._transport.write(JSON_RESPONSE)
        elif self._hold:
            self._transport.write(_STREAM_HEAD + chunk(_DELTA))
        else:
            for part in self._stream:
                self._transport.write(part)


async def _serve(port: int, events: int, hold: bool) -> None:
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: Canned(events, hold), "127.0.0.1", port, backlog=2048)
    await server.serve_forever()


def main() -> None:
    """Serves until it is ended."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--events", type=int, default=64)
    parser.add_argument("--hold", action="store_true")
    arguments = parser.parse_args()
    uvloop.run(_serve(arguments.port, arguments.events, arguments.hold))


if __name__ == "__main__":
    main()
