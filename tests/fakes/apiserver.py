"""A Kubernetes API server's outside: objects by path, versions, and answers that a test puts in its mouth."""

from __future__ import annotations

import asyncio
import itertools
import json
import ssl
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, cast

from aiohttp import web

from flotilla_operator.adapters.client import STRATEGIC_MERGE
from flotilla_operator.adapters.kinds import AUTOSCALER, CORE_EVENT, KINDS, MANAGED_SELECTOR, NODE, QUOTA, Kind

Json = dict[str, Any]
NAMESPACE = Kind("Namespace", "", "v1", "namespaces", namespaced=False)
"""kopf waits until it is served."""
_COLLECTIONS = frozenset(kind.plural for kind in (*KINDS.values(), CORE_EVENT, AUTOSCALER, NODE, QUOTA))
_GROUPS = frozenset(kind.collection_path("").rpartition("/")[0] for kind in KINDS.values())


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
    authorizations: set[str] = field(default_factory=set[str])
    """What requests showed."""
    holds: dict[tuple[str, str], asyncio.Event] = field(default_factory=dict[tuple[str, str], asyncio.Event])
    """By method and path: what the answer waits for."""
    held: list[tuple[str, str]] = field(default_factory=list[tuple[str, str]])
    """Method and path of requests that wait."""
    unserved: frozenset[str] = frozenset()
    """Plurals of kinds that discovery does not know yet."""
    reviews: dict[str, Json | Callable[[Json], Json]] = field(
        default_factory=dict[str, "Json | Callable[[Json], Json]"]
    )
    """By path of a review kind: the `status` that it gets, or what makes it from the review's spec."""
    watches: list[str] = field(default_factory=list[str])
    """Paths of watches that were begun."""
    ended: asyncio.Event = field(default_factory=asyncio.Event)
    """Set at the end, for watches."""
    _versions: itertools.count[int] = field(default_factory=lambda: itertools.count(10))

    def put(self, path: str, manifest: Json) -> Json:
        """The object is there."""
        metadata = {"uid": f"uid-of-{path}", **manifest["metadata"], "resourceVersion": str(next(self._versions))}
        self.objects[path] = {**manifest, "metadata": metadata}
        return self.objects[path]

    async def answer(self, request: web.Request) -> web.StreamResponse:
        """The answer to one request."""
        self.requests.append((request.method, request.path))
        self.authorizations.add(request.headers.get("Authorization", ""))
        if "watch" in request.query:
            return await self._watch(request)
        await self._wait(request.method, request.path)
        failure = self.failures.get((request.method, request.path))
        if failure:
            return web.json_response(failure, status=failure["code"])
        if request.method == "GET":
            selectors = (request.query.get("fieldSelector", ""), request.query.get("labelSelector", ""))
            return self._get(request.path, *selectors)
        patch = self._merge if request.content_type == STRATEGIC_MERGE else self._patch
        answers = {"POST": self._post, "PUT": self._put, "PATCH": patch}
        if request.method not in answers:
            return _status(405, "MethodNotAllowed")
        return answers[request.method](request.path, cast("Json", json.loads(await request.read())))

    async def _wait(self, method: str, path: str) -> None:
        hold = self.holds.get((method, path))
        if hold is None:
            return
        self.held.append((method, path))
        try:
            await hold.wait()
        finally:
            self.held.remove((method, path))

    async def _watch(self, request: web.Request) -> web.StreamResponse:
        """A watch in which nothing happens."""
        self.watches.append(request.path)
        response = web.StreamResponse()
        await response.prepare(request)
        await self.ended.wait()
        return response

    def _get(self, path: str, fields: str, labels: str) -> web.Response:
        if path in self.objects:
            return web.json_response(self.objects[path])
        if path in _GROUPS:
            return web.json_response({"resources": self._discover(path)})
        if path in ("/api", "/apis"):
            return web.json_response(_discovery(path))
        if path.rpartition("/")[2] in _COLLECTIONS:
            held = [item for name, item in self.objects.items() if name.rpartition("/")[0] == path]
            items = [item for item in held if _has_phase(item, fields) and _has_labels(item, labels)]
            return web.json_response({"metadata": {"resourceVersion": str(next(self._versions))}, "items": items})
        return _status(404, "NotFound")

    def _discover(self, path: str) -> list[Json]:
        return [
            {
                "name": kind.plural,
                "singularName": kind.kind.lower(),
                "kind": kind.kind,
                "namespaced": kind.namespaced,
                "verbs": ["list", "watch", "patch"],
            }
            for kind in (*KINDS.values(), NAMESPACE)
            if kind.collection_path("").rpartition("/")[0] == path and kind.plural not in self.unserved
        ]

    def _post(self, path: str, body: Json) -> web.Response:
        if path in self.reviews:
            review = self.reviews[path]
            status = review(body["spec"]) if callable(review) else review
            return web.json_response({**body, "status": status}, status=201)
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

    def _patch(self, path: str, body: Json) -> web.Response:
        """A server-side apply, which replaces whole top-level fields."""
        path, subresource = (path.removesuffix("/status"), path.endswith("/status"))
        live = self.objects.get(path)
        wanted = body["metadata"].get("resourceVersion")
        if live is None and (subresource or wanted is None):
            return _status(404, "NotFound")
        if live is not None and wanted not in (None, live["metadata"]["resourceVersion"]):
            return _status(409, "Conflict")
        metadata = {**(live or body)["metadata"], **body["metadata"]}
        return web.json_response(self.put(path, {**(live or {}), **body, "metadata": metadata}))

    def _merge(self, path: str, body: Json) -> web.Response:
        """A strategic merge patch."""
        live = self.objects.get(path)
        if live is None:
            return _status(404, "NotFound")
        if body["metadata"].get("resourceVersion") not in (None, live["metadata"]["resourceVersion"]):
            return _status(409, "Conflict")
        return web.json_response(self.put(path, _merged(live, body)))


def _has_phase(item: Json, fields: str) -> bool:
    """Whether a pod, running unless it says otherwise, is of a field selector's phases; of nothing else is asked."""
    phase = item.get("status", {}).get("phase", "Running")
    wanted = [term.rpartition("=")[::2] for term in fields.split(",") if term.startswith("status.phase")]
    return all((phase == value) is not name.endswith("!") for name, value in wanted)


def _has_labels(item: Json, labels: str) -> bool:
    """Whether an object has what a selector's equalities say; its other terms, and whose it is, are not looked at."""
    own: dict[str, str] = item["metadata"].get("labels") or {}
    terms = [term.partition("=") for term in labels.split(",") if term != MANAGED_SELECTOR]
    return all(own.get(name) == value for name, equal, value in terms if equal and not name.endswith("!"))


def _merged(live: Any, patch: Any) -> Any:
    """Mappings by field, lists by their entries' names."""
    if isinstance(live, list) and isinstance(patch, list):
        patches = {each["name"]: each for each in cast("list[Json]", patch)}
        return [_merged(each, patches.get(each["name"], {})) for each in cast("list[Json]", live)]
    if isinstance(live, dict) and isinstance(patch, dict):
        before, fields = cast("Json", live), cast("Json", patch)
        return {**before, **{name: _merged(before.get(name), each) for name, each in fields.items()}}
    return patch


@asynccontextmanager
async def running_api_server(tls: ssl.SSLContext | None = None) -> AsyncGenerator[FakeApiServer]:
    """The fake, listening on loopback."""
    fake = FakeApiServer()
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", fake.answer)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0, ssl_context=tls).start()
        fake.url = f"{'https' if tls else 'http'}://127.0.0.1:{runner.addresses[0][1]}"
        yield fake
    finally:
        fake.ended.set()
        await runner.cleanup()


def _discovery(path: str) -> Json:
    if path == "/api":
        return {"versions": ["v1"]}
    groups = {kind.group: kind for kind in KINDS.values() if kind.group}
    versions = {name: {"groupVersion": kind.api_version, "version": kind.version} for name, kind in groups.items()}
    return {
        "groups": [
            {"name": name, "versions": [version], "preferredVersion": version} for name, version in versions.items()
        ]
    }


def _status(code: int, reason: str) -> web.Response:
    return web.json_response({"kind": "Status", "code": code, "reason": reason, "message": reason}, status=code)
