"""A router on loopback, model servers that follow a script, and a client that sees every byte."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import msgspec

from flotilla_api.causes import Cause
from flotilla_api.snapshot import (
    SCHEMA_VERSION,
    Endpoint,
    EscalationConfig,
    ExternalTarget,
    Route,
    RoutingSnapshot,
    Target,
    TimeoutConfig,
    TimePrice,
    TokenPrice,
    WeightedTarget,
)
from flotilla_router.__main__ import Ports, RouterProcess
from flotilla_router.logs import RequestRecord
from flotilla_router.settings import RouterSettings

WAIT_SECONDS = 30.0
NAMESPACE, POLICY = "agents", "helpdesk"


async def until(condition: Callable[[], object]) -> None:
    """Wait until `condition` holds."""
    async with asyncio.timeout(WAIT_SECONDS):
        while not condition():  # noqa: ASYNC110 - conditions are read from outside, nobody could set an event
            await asyncio.sleep(0.005)


# Model servers


@dataclass
class Received:
    """A request as a model server got it."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> dict[str, Any]:
        return json.loads(self.body)


@dataclass
class Peer:
    """What a script writes to."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    async def write(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()

    async def closed(self) -> None:
        """Wait until the other side has closed."""
        async with asyncio.timeout(WAIT_SECONDS):
            try:
                while await self.reader.read(65536):
                    pass
            except ConnectionError:
                return

    def abort(self) -> None:
        self.writer.transport.abort()


Script = Callable[[Received, Peer], Awaitable[None]]


@dataclass
class ModelServer:
    """Plays a script for every request; counts connections."""

    address: str
    scripts: list[Script]
    received: list[Received] = field(default_factory=list[Received])
    connections: int = 0
    open: int = 0

    def script(self) -> Script:
        """The next script; the last one is played again and again."""
        return self.scripts.pop(0) if len(self.scripts) > 1 else self.scripts[0]


async def _read_request(reader: asyncio.StreamReader) -> Received | None:
    try:
        head = await reader.readuntil(b"\r\n\r\n")
    except (asyncio.IncompleteReadError, ConnectionError):
        return None
    lines = head.decode("latin-1").split("\r\n")
    method, path, _ = lines[0].split(" ")
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines[1:] if line)}
    body = await reader.readexactly(int(headers.get("content-length", "0")))
    return Received(method, path, headers, body)


@asynccontextmanager
async def model_server(*scripts: Script, tls: Any = None, port: int = 0) -> AsyncGenerator[ModelServer]:
    """A model server on loopback, until the block ends."""
    tasks: set[asyncio.Task[None]] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        tasks.add(task)
        model.connections += 1
        model.open += 1
        try:
            while (received := await _read_request(reader)) is not None:
                model.received.append(received)
                await model.script()(received, Peer(reader, writer))
                if writer.is_closing():
                    break
        except (ConnectionError, asyncio.CancelledError):
            pass
        finally:
            model.open -= 1
            writer.transport.abort()
            tasks.discard(task)

    server = await asyncio.start_server(serve, "127.0.0.1", port, ssl=tls, limit=1 << 20)
    model = ModelServer(f"127.0.0.1:{server.sockets[0].getsockname()[1]}", list(scripts))
    try:
        yield model
    finally:
        server.close()
        for task in tuple(tasks):
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await server.wait_closed()


def response(body: bytes, *, status: int = 200, content_type: str = "application/json", extra: str = "") -> bytes:
    """A whole HTTP response."""
    head = f"HTTP/1.1 {status} X\r\nserver: uvicorn\r\ncontent-type: {content_type}\r\ncontent-length: {len(body)}\r\n"
    return f"{head}{extra}\r\n".encode() + body


def replies(body: bytes, *, status: int = 200, extra: str = "") -> Script:
    """Answers every request with `body`."""

    async def script(received: Received, peer: Peer) -> None:
        await peer.write(response(body, status=status, extra=extra))

    return script


STREAM_HEAD = (
    b"HTTP/1.1 200 OK\r\nserver: uvicorn\r\ncontent-type: text/event-stream; charset=utf-8\r\n"
    b"transfer-encoding: chunked\r\n\r\n"
)
LAST_CHUNK = b"0\r\n\r\n"


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


def streams(*events: bytes) -> Script:
    """Answers with events, one chunk each."""

    async def script(received: Received, peer: Peer) -> None:
        await peer.write(STREAM_HEAD)
        for event in events:
            await peer.write(chunk(event))
        await peer.write(LAST_CHUNK)

    return script


def _entry(token: str, logprob: float | None) -> dict[str, Any]:
    return {"token": token, "logprob": logprob, "bytes": None, "top_logprobs": []}


def chat_answer(text: str, *, logprob: float | None = None, usage: tuple[int, int] | None = (10, 5)) -> bytes:
    """A chat completion whose every token has the same logprob."""
    tokens = text.split() or [""]
    entries = [_entry(token, logprob) for token in tokens]
    choice: dict[str, Any] = {
        "index": 0,
        "message": {"role": "assistant", "content": text},
        "logprobs": None if logprob is None else {"content": entries},
        "finish_reason": "stop",
    }
    answer: dict[str, Any] = {"id": "chatcmpl-1", "object": "chat.completion", "model": "m", "choices": [choice]}
    if usage is not None:
        answer["usage"] = {"prompt_tokens": usage[0], "completion_tokens": usage[1], "total_tokens": sum(usage)}
    return json.dumps(answer, separators=(",", ":")).encode()


def chat_event(
    text: str | None = None,
    *,
    logprob: float | None = None,
    finish: str | None = None,
    usage: tuple[int, int] | None = None,
) -> bytes:
    """One chunk of a chat stream, in vLLM's key order."""
    entries = [] if text is None else [_entry(text, logprob)]
    choice: dict[str, Any] = {
        "index": 0,
        "delta": {} if text is None else {"content": text},
        "logprobs": None if logprob is None else {"content": entries},
        "finish_reason": finish,
    }
    event: dict[str, Any] = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "model": "m", "choices": [choice]}
    if usage is not None:
        event["usage"] = {"prompt_tokens": usage[0], "completion_tokens": usage[1], "total_tokens": sum(usage)}
    return b"data: " + json.dumps(event, separators=(",", ":")).encode() + b"\n\n"


DONE = b"data: [DONE]\n\n"


def chat_stream(*words: str, logprob: float | None = None) -> tuple[bytes, ...]:
    """A whole chat stream."""
    return (*(chat_event(word, logprob=logprob) for word in words), chat_event(finish="stop"), DONE)


# Snapshots

TIMEOUTS = TimeoutConfig(
    connectSeconds=1, firstTokenSeconds=5, idleSeconds=5, totalSeconds=20, keepAliveAfterSeconds=10
)
ESCALATION = EscalationConfig(
    on=tuple(Cause),
    commitTokens=3,
    commitMaxWaitSeconds=5,
    noSignal="Accept",
    structuredMaxWaitSeconds=5,
    structuredMaxBytes=65536,
    minConfidence=0.5,
    deadlineSeconds=20,
    onFallbackFailure="UseExpert",
)


def expert(
    name: str, *addresses: str, price: TokenPrice | TimePrice | None = None, service: str | None = None
) -> Target:
    """An expert with one pod for each address."""
    return Target(
        kind="Expert",
        name=name,
        location="Local",
        model=f"{name}-model",
        endpoints=tuple(Endpoint(address=address, pod=f"{name}-{i}") for i, address in enumerate(addresses)),
        service=service,
        apis=("chat", "completions"),
        tools=True,
        jsonSchema=True,
        price=price,
    )


def served_fallback(name: str, *addresses: str, price: TokenPrice | None = None) -> Target:
    """A fallback in the cluster."""
    return expert(name, *addresses, price=price).model_copy(update={"kind": "Fallback"})


def external_fallback(name: str, url: str, **external: Any) -> Target:
    """A fallback behind an API."""
    fields: dict[str, Any] = {"credentials": name, "hasCredentials": False, "hasCa": False, **external}
    return expert(name).model_copy(
        update={
            "kind": "Fallback",
            "location": "External",
            "logprobs": False,
            "external": ExternalTarget(url=url, **fields),
        }
    )


def a_snapshot(
    *targets: Target,
    escalation: Mapping[str, Any] | None = None,
    timeouts: Mapping[str, Any] | None = None,
    **fields: Any,
) -> RoutingSnapshot:
    """A policy over these targets, in this order."""
    route = Route(
        experts=tuple(WeightedTarget(name=t.name, weight=1) for t in targets if t.kind == "Expert"),
        fallbacks=tuple(t.name for t in targets if t.kind == "Fallback"),
        boundary="Any",
        escalation=ESCALATION.model_copy(update=dict(escalation or {})),
    )
    defaults: dict[str, Any] = {
        "schemaVersion": SCHEMA_VERSION,
        "namespace": NAMESPACE,
        "policy": POLICY,
        "uid": "u",
        "generation": 1,
        "models": ("auto",),
        "pinnable": (),
        "targets": targets,
        "route": route,
        "rules": (),
        "timeouts": TIMEOUTS.model_copy(update=dict(timeouts or {})),
        "maxBodyBytes": 1 << 20,
        "anonymous": True,
    }
    return RoutingSnapshot(**(defaults | fields))


# The router


class ListLog:
    """Keeps log lines."""

    def __init__(self) -> None:
        self.lines: list[dict[str, Any]] = []
        self.dropped = 0

    def write(self, event: str, fields: Mapping[str, object]) -> None:
        self.lines.append({"event": event, **fields})

    def request(self, record: RequestRecord) -> None:
        self.lines.append(msgspec.to_builtins(record))

    def flush(self, seconds: float = 0.0) -> None:
        pass

    def of(self, event: str) -> list[dict[str, Any]]:
        return [line for line in self.lines if line["event"] == event]


@dataclass
class Rig:
    """A running router."""

    process: RouterProcess
    ports: Ports
    log: ListLog
    settings: RouterSettings

    @property
    def port(self) -> int:
        return self.ports.data

    def load(self, snapshot: RoutingSnapshot) -> None:
        """Bring a snapshot, as the control API does."""
        assert self.process.store.offer(snapshot.to_json()) is None

    def log_defects(self) -> None:
        """Mistakes of our own are logged, as they are in a running process."""
        asyncio.get_running_loop().set_exception_handler(self.process.report)

    async def request_line(self) -> dict[str, Any]:
        """The one canonical log line."""
        await until(lambda: self.log.of("request"))
        (line,) = self.log.of("request")
        return line

    def metric(self, start: str) -> float:
        """Sum of the samples that begin with `start`."""
        text = self.process.telemetry.exposition().decode()
        return sum(float(line.rsplit(" ", 1)[1]) for line in text.splitlines() if line.startswith(start))


def settings_for(folder: Path, **changes: Any) -> RouterSettings:
    """Settings whose folders are below `folder`."""
    settings = RouterSettings(
        namespace=NAMESPACE,
        policy=POLICY,
        data_host="127.0.0.1",
        data_port=0,
        admin_host="127.0.0.1",
        admin_port=0,
        snapshot_dir=folder / "snapshot",
        credentials_dir=folder / "credentials",
        api_keys_dir=folder / "keys",
        tls_dir=folder / "tls",
        control_token_dir=folder / "token",
        gateway_token_dir=folder / "gateway-token",
        gateway_ca_dir=folder / "gateway-ca",
        request_log_dir=folder / "requests",
        drain_seconds=5,
        settle_seconds=0,
    )
    return replace(settings, **changes)


@asynccontextmanager
async def router(folder: Path, snapshot: RoutingSnapshot | None, **changes: Any) -> AsyncGenerator[Rig]:
    """A router that serves `snapshot`, until the block ends."""
    settings = settings_for(folder, **changes)
    log = ListLog()
    process = RouterProcess(settings, log)
    if snapshot is not None:
        process.store.offer(snapshot.to_json())
    try:
        yield Rig(process, await process.start(), log, settings)
    finally:
        await process.close()
        await asyncio.sleep(0.01)


# The client


@dataclass
class Reply:
    """A response, whole."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


class RawClient:
    """One connection, byte by byte."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    async def send(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()

    async def head(self) -> tuple[int, dict[str, str]]:
        """Status and headers of the next response."""
        async with asyncio.timeout(WAIT_SECONDS):
            head = await self.reader.readuntil(b"\r\n\r\n")
        lines = head.decode("latin-1").split("\r\n")
        headers = {
            name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines[1:] if line)
        }
        return int(lines[0].split(" ")[1]), headers

    async def chunk(self) -> bytes:
        """The next chunk of a stream; empty: the last one."""
        async with asyncio.timeout(WAIT_SECONDS):
            size = int(await self.reader.readline(), 16)
            return (await self.reader.readexactly(size + 2))[:-2]

    async def body(self, headers: Mapping[str, str]) -> bytes:
        """The rest of the response."""
        if headers.get("transfer-encoding") == "chunked":
            chunks: list[bytes] = []
            while data := await self.chunk():
                chunks.append(data)
            return b"".join(chunks)
        async with asyncio.timeout(WAIT_SECONDS):
            if "content-length" in headers:
                return await self.reader.readexactly(int(headers["content-length"]))
            return await self.reader.read()

    async def reply(self) -> Reply:
        """The next response."""
        status, headers = await self.head()
        return Reply(status, headers, await self.body(headers))

    async def ended(self) -> bool:
        """Whether the router closes the connection without another byte."""
        async with asyncio.timeout(WAIT_SECONDS):
            try:
                return await self.reader.read() == b""
            except ConnectionError:
                return True

    def close(self) -> None:
        self.writer.transport.abort()


@asynccontextmanager
async def client(port: int, tls: Any = None, server_hostname: str | None = None) -> AsyncGenerator[RawClient]:
    """A connection to the router."""
    reader, writer = await asyncio.open_connection(
        "127.0.0.1", port, ssl=tls, server_hostname=server_hostname, limit=1 << 24
    )
    raw = RawClient(reader, writer)
    try:
        yield raw
    finally:
        raw.close()


def post(body: Mapping[str, Any] | bytes, *, path: str = "/v1/chat/completions", headers: Sequence[str] = ()) -> bytes:
    """A request's bytes."""
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    lines = [f"POST {path} HTTP/1.1", "host: router", f"content-length: {len(data)}", *headers]
    if not any(line.lower().startswith("content-type") for line in headers):
        lines.append("content-type: application/json")
    return "\r\n".join([*lines, "", ""]).encode() + data


def get(path: str, *, method: str = "GET", headers: Sequence[str] = ()) -> bytes:
    return "\r\n".join([f"{method} {path} HTTP/1.1", "host: router", *headers, "", ""]).encode()


def chat(*, model: str = "auto", stream: bool = False, **fields: Any) -> dict[str, Any]:
    """A chat request's body."""
    return {"model": model, "messages": [{"role": "user", "content": "2 + 2?"}], "stream": stream, **fields}


async def ask(port: int, request: bytes, **connection: Any) -> Reply:
    """The answer to one request over its own connection."""
    async with client(port, **connection) as raw:
        await raw.send(request)
        return await raw.reply()
