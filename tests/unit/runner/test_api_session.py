"""The runner's view of the API server: local copies that survive its restarts, and events that do not flood it."""

from __future__ import annotations

import asyncio
import json
import ssl
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from pod_builders import a_pod

from localcluster.runner.api import Api, ApiError
from localcluster.runner.event_posts import BURST, REFILL_SECONDS, Allowance, EventPosts
from localcluster.runner.model import ConfigMap, NamespacedName
from localcluster.runner.state import Emit
from localcluster.runner.watching import Watched

Handler = Callable[[web.Request], Any]


@asynccontextmanager
async def _serving(handler: Handler) -> AsyncGenerator[Api]:
    """An API session with a server that answers every request with `handler`."""
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", handler)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    host, port = runner.addresses[0][:2]
    async with aiohttp.ClientSession() as session:
        yield Api(f"http://{host}:{port}", session, ssl.create_default_context())
    await runner.cleanup()


def _config_map(name: str, version: int, **data: str) -> dict[str, Any]:
    return {"metadata": {"name": name, "namespace": "shop", "resourceVersion": str(version)}, "data": data}


class _ConfigMaps:
    """A server of ConfigMaps: each watch gets the next script of lines, and then ends or hangs."""

    def __init__(self, lists: list[list[dict[str, Any]]], watches: list[list[dict[str, Any]]]) -> None:
        self.lists, self.watches = lists, watches
        self.watched_from: list[str] = []

    async def answer(self, request: web.Request) -> web.StreamResponse:
        if request.query.get("watch") != "1":
            items = self.lists.pop(0)
            return web.json_response({"metadata": {"resourceVersion": "10"}, "items": items})
        self.watched_from.append(request.query["resourceVersion"])
        response = web.StreamResponse()
        await response.prepare(request)
        if not self.watches:
            await asyncio.Event().wait()
        for event in self.watches.pop(0):
            await response.write(json.dumps(event).encode() + b"\n")
        return response


async def _changes(server: _ConfigMaps, *, count: int) -> list[tuple[str, str | None]]:
    """The first `count` changes that are told: name, and its value (None: it is gone)."""
    told: asyncio.Queue[tuple[str, str | None]] = asyncio.Queue()

    def note(key: NamespacedName, new: ConfigMap | None) -> None:
        told.put_nowait((key.name, new.data["v"] if new else None))

    async with _serving(server.answer) as api:
        running = asyncio.ensure_future(Watched(api, "/api/v1/configmaps", ConfigMap, note).run())
        async with asyncio.timeout(10):
            changes = [await told.get() for _ in range(count)]
        running.cancel()
        await asyncio.wait([running])
    assert told.empty()
    return changes


async def test_watch_follows_a_list() -> None:
    """What a list holds and what a watch adds, changes and deletes is told once each; bookmarks are not."""
    server = _ConfigMaps(
        [[_config_map("a", 1, v="1")]],
        [
            [
                {"type": "ADDED", "object": _config_map("b", 11, v="1")},
                {"type": "BOOKMARK", "object": {"metadata": {"resourceVersion": "12"}}},
                {"type": "MODIFIED", "object": _config_map("a", 13, v="2")},
                {"type": "DELETED", "object": _config_map("b", 14, v="1")},
            ]
        ],
    )

    assert await _changes(server, count=4) == [("a", "1"), ("b", "1"), ("a", "2"), ("b", None)]


async def test_watch_goes_on_where_it_ended() -> None:
    """When the server ends a watch in time, the next one starts from the last version, without a list."""
    server = _ConfigMaps(
        [[]],
        [
            [{"type": "BOOKMARK", "object": {"metadata": {"resourceVersion": "20"}}}],
            [{"type": "ADDED", "object": _config_map("a", 21, v="1")}],
        ],
    )

    await _changes(server, count=1)

    assert server.watched_from[:2] == ["10", "20"]


async def test_what_went_unseen_is_told_after_a_new_list() -> None:
    """After an expired version everything is listed anew: what is missing counts as deleted, the rest is not told."""
    expired = {"type": "ERROR", "object": {"code": 410, "message": "too old"}}
    server = _ConfigMaps(
        [[_config_map("a", 1, v="1"), _config_map("b", 2, v="1")], [_config_map("a", 1, v="1")]], [[expired]]
    )

    assert await _changes(server, count=3) == [("a", "1"), ("b", "1"), ("b", None)]


async def test_object_that_cannot_be_read_counts_as_absent() -> None:
    """One object that makes no sense does not stop the others."""
    broken = {**_config_map("bad", 1), "data": {"v": 5}}
    server = _ConfigMaps([[broken, _config_map("good", 2, v="1")]], [])

    assert await _changes(server, count=1) == [("good", "1")]


async def test_refusal_carries_the_servers_message() -> None:
    """A refused request is an ApiError with the status code and the message of the Status object."""

    async def refuse(_: web.Request) -> web.Response:
        return web.json_response({"kind": "Status", "message": "pods is forbidden"}, status=403)

    async with _serving(refuse) as api:
        with pytest.raises(ApiError, match="403: pods is forbidden") as refused:
            await api.get("/api/v1/pods")

    assert refused.value.status == 403


async def test_repeated_event_raises_a_count() -> None:
    """The same event about the same container is one object whose count goes up; another message is another one."""
    seen: asyncio.Queue[tuple[str, dict[str, Any]]] = asyncio.Queue()

    async def record(request: web.Request) -> web.Response:
        seen.put_nowait((request.method, await request.json()))
        return web.json_response({})

    pod = a_pod(initContainers=[{"name": "init", "image": "toolbox"}])
    async with _serving(record) as api:
        posts = EventPosts(api)
        running = asyncio.ensure_future(posts.run())
        for reason in ("Failed", "Failed", "Started"):
            posts.post(pod, Emit(reason, "it is what it is", "init", warning=reason == "Failed"))
        async with asyncio.timeout(10):
            (first, event), (second, raised), (third, _) = [await seen.get() for _ in range(3)]
        running.cancel()
        await asyncio.wait([running])

    assert (first, second, third) == ("POST", "PATCH", "POST")
    assert raised["count"] == 2
    assert event["involvedObject"]["fieldPath"] == "spec.initContainers{init}"
    assert (event["type"], event["source"]) == ("Warning", {"component": "kubelet", "host": "cpu-0"})


def test_events_of_one_pod_are_bounded() -> None:
    """A pod may post a burst of events, and then one in five minutes."""
    allowance = Allowance(at=0.0)

    burst = [allowance.take(0.0) for _ in range(BURST + 1)]

    assert burst == [*[True] * BURST, False]
    assert not allowance.take(REFILL_SECONDS / 2)
    assert allowance.take(REFILL_SECONDS)
