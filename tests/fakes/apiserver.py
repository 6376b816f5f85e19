"""A Kubernetes API server's outside: objects by path, versions, and answers that a test puts in its mouth."""

from __future__ import annotations

import itertools
import json
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, cast

from aiohttp import web

from flotilla_operator.adapters.kinds import KINDS

Json = dict[str, Any]
_COLLECTIONS = frozenset(kind.plural for kind in KINDS.values())


@dataclass
class FakeApiServer:
    """Stores what is created and updated; knows nothing of schemas, admission or watches."""

    url: str = ""
    objects: dict[str, Json] = field(default_factory=dict[str, Json])
    """By path."""
    requests: list[tuple[str, str]] = field(default_factory=list[tuple[str, str]])
    """Method and path, in order."""
    failures: dict[tuple[str, str], Json] = field(default_factory=dict[tuple[str, str], Json])
    """By method and path: the metav1.Status, whose `code` is the answer's, instead of the usual answer."""
    reviews: dict[str, Json] = field(default_factory=dict[str, Json])
    """By path of a review kind: the `status` that it gets."""
    _versions: itertools.count[int] = field(default_factory=lambda: itertools.count(10))

    def put(self, path: str, manifest: Json) -> Json:
        """The object is there."""
        metadata = {"uid": f"uid-of-{path}", **manifest["metadata"], "resourceVersion": str(next(self._versions))}
        self.objects[path] = {**manifest, "metadata": metadata}
        return self.objects[path]

    async def answer(self, request: web.Request) -> web.Response:
        """The answer to one request."""
        self.requests.append((request.method, request.path))
        failure = self.failures.get((request.method, request.path))
        if failure:
            return web.json_response(failure, status=failure["code"])
        body = cast("Json", json.loads(await request.read() or b"{}"))
        if request.method == "GET":
            return self._get(request.path)
        if request.method == "POST":
            return self._post(request.path, body)
        if request.method == "PUT":
            return self._put(request.path, body)
        return _status(405, "MethodNotAllowed")

    def _get(self, path: str) -> web.Response:
        if path in self.objects:
            return web.json_response(self.objects[path])
        if path.rpartition("/")[2] in _COLLECTIONS:
            items = [item for name, item in self.objects.items() if name.rpartition("/")[0] == path]
            return web.json_response({"metadata": {"resourceVersion": str(next(self._versions))}, "items": items})
        return _status(404, "NotFound")

    def _post(self, path: str, body: Json) -> web.Response:
        if path in self.reviews:
            return web.json_response({**body, "status": self.reviews[path]}, status=201)
        name = f"{path}/{body['metadata']['name']}"
        if name in self.objects:
            return _status(409, "AlreadyExists")
        return web.json_response(self.put(name, body), status=201)

    def _put(self, path: str, body: Json) -> web.Response:
        live = self.objects.get(path)
        if live is None:
            return _status(404, "NotFound")
        if body["metadata"]["resourceVersion"] != live["metadata"]["resourceVersion"]:
            return _status(409, "Conflict")
        return web.json_response(self.put(path, body))


@asynccontextmanager
async def running_api_server() -> AsyncGenerator[FakeApiServer]:
    """The fake, listening on loopback."""
    fake = FakeApiServer()
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", fake.answer)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        fake.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
        yield fake
    finally:
        await runner.cleanup()


def _status(code: int, reason: str) -> web.Response:
    return web.json_response({"kind": "Status", "code": code, "reason": reason, "message": reason}, status=code)
