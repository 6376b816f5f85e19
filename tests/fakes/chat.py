"""A chat API on loopback whose answers a test puts in its mouth."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, cast

Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Said:
    """One answer: a text, or a status with a body."""

    text: str | None = None
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict[str, str])
    body: bytes | None = None

    def bytes(self) -> bytes:
        if self.body is not None:
            return self.body
        if self.status != 200:
            return json.dumps({"error": {"message": f"no: {self.status}"}}).encode()
        return json.dumps({"choices": [{"message": {"role": "assistant", "content": self.text}}]}).encode()


@dataclass(slots=True)
class ChatApi:
    """`url` and what was asked there."""

    url: str
    requests: list[tuple[dict[str, str], Json]] = field(default_factory=list[tuple[dict[str, str], Json]])

    @property
    def questions(self) -> list[str]:
        return [body["messages"][0]["content"] for _, body in self.requests]


@contextmanager
def chat_api(say: Callable[[Json], Said]) -> Generator[ChatApi]:
    """It answers each request's body by `say`, which is called by as many threads as there are requests."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["content-length"])))
            api.requests.append((dict(self.headers), body | {"path": self.path}))
            said = say(body)
            data = said.bytes()
            self.send_response(said.status)
            for name, value in {**said.headers, "content-length": str(len(data))}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - its base's name
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    host, port = cast("tuple[str, int]", server.server_address[:2])
    api = ChatApi(f"http://{host}:{port}/v1")
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield api
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
