"""Log lines: what a request's line holds, and how lines go out without holding anything up."""

from __future__ import annotations

import os
import select
import sys
import time
from collections.abc import Mapping
from typing import Protocol

import msgspec

MAX_PENDING_BYTES = 4 * 1024 * 1024
"""Lines that wait for their reader; further ones are dropped."""
CLIENT_GONE = "ClientGone"
"""Result of an attempt that ended because nobody waits for it any more."""
_FLUSH_BYTES = 32 * 1024


class AttemptRecord(msgspec.Struct, kw_only=True):
    """One call to an endpoint, as it is logged and counted."""

    target: str
    endpoint: str | None
    """The pod; `external` for an API, `gateway` for one behind the policy's gateway, `service` for a Service."""
    ms: float = 0.0
    result: str = "ok"
    """`ok`, a cause, or `ClientGone`."""
    score: float | None = None
    input_tokens: int | None = None
    output_tokens: int | None = None
    usd: float | None = 0.0
    """None: the price is unknown."""


class ShadowRecord(msgspec.Struct, kw_only=True):
    """What a shadow's artifact says of a request."""

    artifact: str
    """Its digest."""
    score: float
    model: str | None
    """Whom it would have preferred; None: there is no operating point to say that by."""


class RequestRecord(msgspec.Struct, kw_only=True):
    """One request, as it is logged: the canonical line. It holds no prompt and no secret."""

    time: float = 0.0
    """Unix seconds of its end."""
    event: str = "request"
    request_id: str
    policy: str
    client: str | None = None
    """Name of the API key, or of the pod whose sidecar asks."""
    relayed: bool = False
    """A sidecar asks for a fallback by name: the request is its agent's, and counted there."""
    alias: str
    api: str
    stream: bool
    rule: str | None = None
    reason: str | None = None
    artifact: str | None = None
    """Digest of the artifact that ranked the models; None: they were drawn by weight, or one was asked for by name."""
    score: float | None = None
    """Its score: of a pair how hard the prompt is, of Cluster the best utility."""
    propensity: float | None = None
    """Probability with which the first model was chosen; None: it was asked for by name."""
    shadow: ShadowRecord | None = None
    """None: no shadow's artifact scored this request."""
    model: str | None = None
    """Who answered."""
    attempts: list[AttemptRecord] = []
    status: int = 0
    bytes: int = 0
    """Bytes of the answer that were sent to the client."""
    ttft_ms: float | None = None
    """From arrival to the first byte of the answer."""
    tpot_ms: float | None = None
    """Of a stream with known usage: from its first token to the last, for each token after the first."""
    held_ms: float | None = None
    """How long it waited for an expert that was asleep."""
    duration_ms: float = 0.0
    cost_usd: float = 0.0
    """Dollars of all attempts whose price is known."""
    client_gone: bool = False
    snapshot: str = ""
    error: str | None = None


class Log(Protocol):
    """Where log lines go."""

    @property
    def dropped(self) -> int:
        """Lines that were lost, because nobody took them."""
        ...

    def write(self, event: str, fields: Mapping[str, object]) -> None:
        """Write one line: a constant event and its fields."""
        ...

    def request(self, record: RequestRecord) -> None:
        """Write the line of a request."""
        ...

    def flush(self, seconds: float = 0.0) -> None:
        """Everything written is out, as far as its reader takes it within that time."""
        ...


class Lines:
    """Lines on their way to a descriptor whose reader may be slow, or gone."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._ready = select.poll()
        self._ready.register(descriptor, select.POLLOUT)
        self._pending = bytearray()
        self.dropped = 0
        """Lines that were lost."""

    def add(self, line: bytes) -> None:
        """Write a line, soon."""
        if len(self._pending) + len(line) >= MAX_PENDING_BYTES:
            self.dropped += 1
            return
        self._pending += line
        self._pending += b"\n"
        if len(self._pending) >= _FLUSH_BYTES:
            self.flush()

    def flush(self, seconds: float = 0.0) -> None:
        """What the reader takes is out; it is waited for no longer than that."""
        until = time.monotonic() + seconds
        try:
            while self._pending and self._ready.poll(max(until - time.monotonic(), 0.0) * 1000):
                # As much as a pipe that is ready takes without blocking, so that it can stay the blocking one it is.
                del self._pending[: os.write(self._descriptor, self._pending[: select.PIPE_BUF])]
        except BlockingIOError:
            return
        except OSError:  # nobody can take them any more
            self.dropped += self._pending.count(b"\n")
            self._pending.clear()


class JsonLog:
    """One JSON object a line; lines go out together."""

    def __init__(self, lines: Lines) -> None:
        self._lines = lines
        self._encode = msgspec.json.Encoder().encode

    @property
    def dropped(self) -> int:
        """Lines that were lost."""
        return self._lines.dropped

    def write(self, event: str, fields: Mapping[str, object]) -> None:
        """Add a line."""
        self._lines.add(self._encode({"time": round(time.time(), 3), "event": event, **fields}))

    def request(self, record: RequestRecord) -> None:
        """Add the line of a request."""
        self._lines.add(self._encode(record))

    def flush(self, seconds: float = 0.0) -> None:
        """Write what has been added."""
        self._lines.flush(seconds)


class TerminalLog:
    """Key-values for people; what could steer a terminal is shown as an escape."""

    def __init__(self, lines: Lines) -> None:
        self._lines = lines

    @property
    def dropped(self) -> int:
        """Lines that were lost."""
        return self._lines.dropped

    def write(self, event: str, fields: Mapping[str, object]) -> None:
        """Add a line."""
        shown = " ".join(f"{key}={_shown(value)}" for key, value in fields.items() if value not in (None, False, ""))
        self._lines.add(f"{time.strftime('%H:%M:%S')} {event:<18} {shown}".encode())

    def request(self, record: RequestRecord) -> None:
        """Add the line of a request."""
        fields = msgspec.structs.asdict(record)
        attempts = [f"{each.target}/{each.endpoint}:{each.result}:{each.ms:g}ms" for each in record.attempts]
        del fields["time"], fields["event"], fields["snapshot"], fields["policy"]
        self.write("request", fields | {"attempts": ",".join(attempts)})

    def flush(self, seconds: float = 0.0) -> None:
        """Write what has been added."""
        self._lines.flush(seconds)


def _shown(value: object) -> str:
    """Lines after the first are indented, so that none can pass for a line of the log."""
    lines = str(value).splitlines()
    return "\n    ".join(line if line.isprintable() else repr(line)[1:-1] for line in lines)


def open_log() -> Log:
    """Key-values on a terminal, JSON elsewhere."""
    lines = Lines(sys.stdout.fileno())
    return TerminalLog(lines) if sys.stdout.isatty() else JsonLog(lines)
