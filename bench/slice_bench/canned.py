"""An upstream that costs next to nothing: canned answers in vLLM's wire form from one asyncio.Protocol.

`/v1/chat/completions` with `"stream":true` in the body is answered with server-sent events: `--events` tokens, each in
a TCP segment of its own, one every `--pace-ms`; or with `--hold`, a few at once and then silence until the client goes.
With `"logprobs":true` answers carry logprobs, and streams usage too, as a router that judges answers asks for.
"""

from __future__ import annotations

import argparse
import asyncio
import json
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import count
from typing import Any, cast

import uvloop

TOKENS = 80
"""Length of a whole answer."""
HELD_EVENTS = 16
"""More tokens than a router waits for before it sends a stream on."""
_WORD = " word"
_LOGPROB = -0.10536051565782628
_GOLDEN = 0.6180339887498949
_HEAD = "HTTP/1.1 200 OK\r\nserver: uvicorn\r\ncontent-type: {}\r\n{}\r\n\r\n"
STREAM_HEAD = _HEAD.format("text/event-stream; charset=utf-8", "transfer-encoding: chunked").encode()


def make_whole(*, judged: bool) -> bytes:
    """The response to a request that is not streamed; judged: with a logprobs entry for each token."""
    logprobs = {"content": [_entry(0)] * TOKENS} if judged else None
    message = {"role": "assistant", "content": _WORD * TOKENS}
    choice = {"index": 0, "message": message, "logprobs": logprobs, "finish_reason": "stop"}
    body = _encode({**_identity("chat.completion"), "choices": [choice], "usage": _usage(TOKENS)})
    return _HEAD.format("application/json", f"content-length: {len(body)}").encode() + body


def make_stream(events: int, *, judged: bool) -> list[bytes]:
    """The chunks of a streamed answer of so many tokens; judged: with five alternatives a token, and usage."""
    choices = [_delta({"role": "assistant", "content": ""})]
    choices += [_delta({"content": _WORD}, {"content": [_entry(5)]} if judged else None)] * events
    choices += [_delta({}, finish="stop")]
    chunks = [_event([choice], number, judged=judged) for number, choice in enumerate(choices)]
    if judged:
        chunks.append(_event([], events, judged=True))
    return [*chunks, _chunk(b"data: [DONE]\n\n"), b"0\r\n\r\n"]


def _event(choices: list[dict[str, Any]], tokens: int, *, judged: bool) -> bytes:
    usage = {"usage": _usage(tokens)} if judged else {}
    return _chunk(b"data: " + _encode({**_identity("chat.completion.chunk"), "choices": choices, **usage}) + b"\n\n")


def _delta(delta: dict[str, str], logprobs: object = None, finish: str | None = None) -> dict[str, Any]:
    return {"index": 0, "delta": delta, "logprobs": logprobs, "finish_reason": finish, "token_ids": None}


def _entry(alternatives: int) -> dict[str, Any]:
    token = {"token": _WORD, "logprob": _LOGPROB, "bytes": list(_WORD.encode())}
    return {**token, "top_logprobs": [token] * alternatives}


def _identity(kind: str) -> dict[str, Any]:
    return {"id": "chatcmpl-1", "object": kind, "created": 1795342079, "model": "small"}


def _usage(tokens: int) -> dict[str, int]:
    return {"prompt_tokens": 220, "total_tokens": 220 + tokens, "completion_tokens": tokens}


def _encode(value: object) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()


def _chunk(data: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(data), data)


@dataclass(frozen=True, slots=True)
class Answers:
    """All that is ever answered; the second of each pair has logprobs."""

    whole: tuple[bytes, bytes]
    stream: tuple[Sequence[bytes], Sequence[bytes]]
    pace_seconds: float
    hold: bool


class Canned(asyncio.Protocol):
    """One connection: counts bytes to find where a request ends, answers, forgets."""

    __slots__ = ("_answers", "_buffer", "_loop", "_phase_seconds", "_transport")

    def __init__(self, answers: Answers, number: int) -> None:
        self._answers = answers
        self._buffer = b""
        self._loop = asyncio.get_running_loop()
        # Streams that begin together do not send together, whatever their number.
        self._phase_seconds = answers.pace_seconds * (number * _GOLDEN % 1)

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
        judged = b'"logprobs":true' in body
        if b'"stream":true' not in body:
            self._transport.write(self._answers.whole[judged])
            return
        chunks = self._answers.stream[judged]
        if self._answers.hold:
            self._transport.write(STREAM_HEAD + b"".join(chunks[:HELD_EVENTS]))
        else:
            self._transport.write(STREAM_HEAD)
            self._send(chunks, 0, self._loop.time() + self._phase_seconds)

    def _send(self, chunks: Sequence[bytes], index: int, due: float) -> None:
        """Everything from `index` on is sent, one event at a time; what ends the stream goes with the last."""
        if self._transport.is_closing():
            return
        if index < len(chunks) - 2:
            self._transport.write(chunks[index])
            due += self._answers.pace_seconds
            self._loop.call_at(due, self._send, chunks, index + 1, due)
        else:
            self._transport.write(b"".join(chunks[index:]))


async def _serve(port: int, answers: Answers) -> None:
    loop, numbers = asyncio.get_running_loop(), count()
    server = await loop.create_server(lambda: Canned(answers, next(numbers)), "127.0.0.1", port, backlog=2048)
    await server.serve_forever()


def main() -> None:
    """Serves until it is ended."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--events", type=int, default=64)
    parser.add_argument("--pace-ms", type=float, default=10.0)
    parser.add_argument("--hold", action="store_true")
    given = parser.parse_args()
    whole = (make_whole(judged=False), make_whole(judged=True))
    stream = (make_stream(given.events, judged=False), make_stream(given.events, judged=True))
    uvloop.run(_serve(given.port, Answers(whole, stream, given.pace_ms / 1000, given.hold)))


if __name__ == "__main__":
    main()
