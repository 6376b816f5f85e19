"""The feed: filled before anything else, and swept after every hint of a gap."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest

from fakes.apiserver import FakeApiServer, running_api_server
from fakes.clock import VirtualClock
from flotilla_operator.adapters.client import Client, Connection, Reachability
from flotilla_operator.adapters.feed import SWEEP_INTERVAL_SECONDS, UNREADABLE_INTERVAL_SECONDS, Feed, complete
from flotilla_operator.adapters.kinds import KINDS, OWN_KINDS
from flotilla_operator.adapters.store import Store
from flotilla_operator.ports import RefusedError, UnreachableError
from flotilla_operator.reconcile.dispatch import references
from flotilla_operator.reconcile.types import Key, Manifest
from flotilla_operator.telemetry import Telemetry

DISCOVERY = "/apis/flotilla.dev/v1alpha1"
EXPERTS = "/apis/flotilla.dev/v1alpha1/experts"
KEY = Key("Expert", "agents", "invoice")
EXPERT: dict[str, Any] = {
    "metadata": {"name": "invoice", "namespace": "agents", "uid": "uid-1", "managedFields": [{"manager": "kubectl"}]},
    "spec": {"model": {"uri": "hf://a/b"}, "accelerator": {"profile": "l4"}},
}


@dataclass
class World:
    """A feed on an API server, in virtual time."""

    api: FakeApiServer
    client: Client
    clock: VirtualClock
    store: Store
    feed: Feed
    woken: list[Key] = field(default_factory=list[Key])
    returned: list[str] = field(default_factory=list[str])

    def feed_of(self, *namespaces: str) -> Feed:
        """A feed of the same cluster that is told of some namespaces only."""
        return Feed(
            self.client,
            self.store,
            self.clock,
            namespaces=namespaces,
            wake=self.woken.append,
            watches_outdated=lambda: self.returned.append("returned"),
        )

    def lists(self) -> int:
        """How many times experts were listed."""
        return self.api.requests.count(("GET", EXPERTS))

    async def until_swept(self, times: int) -> None:
        """Time passes until experts were listed `times` times in all."""
        async with asyncio.timeout(20):
            while self.lists() < times:
                await self.clock.advance(1)
                await asyncio.sleep(0.01)


@asynccontextmanager
async def a_world(*, crds: bool = True) -> AsyncGenerator[World]:
    """One expert is in the cluster."""
    async with running_api_server() as api:
        connection = Connection(
            api.url, None, verify=True, server_name=None, client_certificate=None, authorization=lambda: None
        )
        async with Client(connection, Telemetry()) as client:
            clock, store = VirtualClock(), Store(references)
            woken, returned = list[Key](), list[str]()
            feed = Feed(
                client,
                store,
                clock,
                namespaces=[],
                wake=woken.append,
                watches_outdated=lambda: returned.append("returned"),
            )
            world = World(api, client, clock, store, feed, woken, returned)
            if not crds:
                api.unserved = frozenset(kind.plural for kind in OWN_KINDS)
            api.put(f"{EXPERTS}/invoice", EXPERT)
            yield world


def install_crds(world: World) -> None:
    """The API server serves our kinds."""
    world.api.unserved = frozenset()


@asynccontextmanager
async def running(world: World, feed: Feed | None = None) -> AsyncGenerator[None]:
    """The feed sweeps; `feed` in place of the world's own."""
    feed = feed or world.feed
    await feed.fill()
    task = asyncio.create_task(feed.run())
    try:
        yield
    finally:
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task


async def test_fill_lists_everything_and_wakes_the_owners() -> None:
    """After it the store can be relied upon, and is small."""
    async with a_world() as world:
        await world.feed.fill()

        assert world.feed.filled
        assert world.store.owners() == world.woken == [KEY]
        listed = {path.rpartition("/")[2] for method, path in world.api.requests if method == "GET"}
        assert {kind.plural for kind in KINDS.values()} <= listed


async def test_fill_waits_for_the_crds() -> None:
    """Started before its CRDs, the operator neither ends nor goes on half blind."""
    async with a_world(crds=False) as world:
        task = asyncio.create_task(world.feed.fill())
        async with asyncio.timeout(10):
            while world.api.requests.count(("GET", DISCOVERY)) < 3:
                await world.clock.advance(1)
                await asyncio.sleep(0.01)
        waiting = not world.feed.filled
        install_crds(world)
        while not task.done():
            await world.clock.advance(1)
            await asyncio.sleep(0.01)

        assert waiting
        assert world.feed.filled


async def test_a_deletion_that_no_watch_told_of_is_noticed_by_the_next_sweep() -> None:
    """Every five minutes at the latest."""
    async with a_world() as world, running(world):
        del world.api.objects[f"{EXPERTS}/invoice"]
        world.woken.clear()
        await world.clock.advance(SWEEP_INTERVAL_SECONDS - 2)
        before = world.lists()
        await world.until_swept(2)
        await world.until_swept(3)

        assert before == 1
        assert world.store.owners() == []
        assert KEY in world.woken


async def test_a_watch_that_lists_again_causes_sweeps() -> None:
    """A watch that had to begin anew may have missed deletions."""
    async with a_world() as world, running(world):
        world.feed.receive(KINDS["Expert"], None, world.api.objects[f"{EXPERTS}/invoice"])
        started = world.clock.monotonic()
        await world.until_swept(3)

        assert world.clock.monotonic() - started < 60


async def test_an_outage_that_ends_causes_sweeps() -> None:
    """What was deleted while the API server was away is noticed soon after it is back."""
    async with a_world() as world, running(world):
        world.client.reachability.failed(ConnectionError())
        await world.clock.advance(30)
        during = world.lists()
        await world.client.get(DISCOVERY)
        started = world.clock.monotonic()
        await world.until_swept(3)

        assert during == 1
        assert world.clock.monotonic() - started < 60


async def test_a_failed_sweep_is_repeated_soon() -> None:
    """One error does not cost five minutes."""
    async with a_world() as world, running(world):
        world.api.failures["GET", EXPERTS] = {"code": 500, "message": "broken"}
        await world.clock.advance(SWEEP_INTERVAL_SECONDS + 1)
        started = world.clock.monotonic()
        await world.until_swept(4)

        assert world.clock.monotonic() - started < 60


async def test_watches_are_made_anew_when_a_deleted_kind_returns() -> None:
    """A CRD that was removed and installed again is watched again."""
    async with a_world() as world, running(world):
        world.api.failures["GET", EXPERTS] = {"code": 404, "message": "no such kind"}
        await world.clock.advance(SWEEP_INTERVAL_SECONDS + 1)
        await world.until_swept(3)
        before = list(world.returned)
        del world.api.failures["GET", EXPERTS]
        async with asyncio.timeout(20):
            while not world.returned:
                await world.clock.advance(1)
                await asyncio.sleep(0.01)

        assert before == []


async def test_events_change_the_store_and_wake() -> None:
    """An event that tells nothing new wakes nobody."""
    async with a_world() as world:
        await world.feed.fill()
        newer = world.api.put(f"{EXPERTS}/invoice", EXPERT)
        world.woken.clear()
        world.feed.receive(KINDS["Expert"], "MODIFIED", newer)
        world.feed.receive(KINDS["Expert"], "MODIFIED", newer)

        assert world.woken == [KEY]


async def test_what_we_wrote_ourselves_wakes_nobody() -> None:
    """The event of an own write is no news."""
    async with a_world() as world:
        await world.feed.fill()
        newer = world.api.put(f"{EXPERTS}/invoice", EXPERT)
        world.woken.clear()
        world.feed.learn(KINDS["Expert"], newer)
        world.feed.receive(KINDS["Expert"], "MODIFIED", newer)

        assert world.woken == []


def test_complete_names_the_kind_and_drops_what_nobody_reads() -> None:
    """Lists leave out the kind of their items; managedFields are half of an object's size."""
    completed = complete(KINDS["Expert"], EXPERT)

    assert (completed["apiVersion"], completed["kind"]) == ("flotilla.dev/v1alpha1", "Expert")
    assert "managedFields" not in completed["metadata"]
    assert "managedFields" in EXPERT["metadata"]


def test_complete_keeps_who_owns_the_replicas_of_a_deployment() -> None:
    """Whether ours may say the number depends on it; nothing else of managedFields is read."""
    ours: Manifest = {"f:spec": {"f:replicas": {}, "f:template": {}}, "f:metadata": {"f:labels": {}}}
    fields: list[Manifest] = [
        {"manager": "flotilla", "operation": "Apply", "apiVersion": "apps/v1", "fieldsV1": ours},
        {"manager": "kubectl", "operation": "Update", "fieldsV1": {"f:spec": {"f:paused": {}}}},
    ]
    deployment: Manifest = {"metadata": {"name": "invoice-expert", "managedFields": fields}, "spec": {"replicas": 3}}

    completed = complete(KINDS["Deployment"], deployment)

    kept: Manifest = {"manager": "flotilla", "operation": "Apply", "fieldsV1": {"f:spec": {"f:replicas": {}}}}
    assert completed["metadata"]["managedFields"] == [kept]


async def test_a_namespace_that_may_not_be_read_is_left_out(caplog: pytest.LogCaptureFixture) -> None:
    """The others are served, it is said which one is not and why, and it is taken in when it can be read."""
    pods = "/api/v1/namespaces/closed/pods"
    async with a_world() as world:
        feed = world.feed_of("agents", "closed")
        world.api.failures["GET", pods] = {"code": 403, "reason": "Forbidden", "message": "pods is forbidden"}
        world.api.put(f"{DISCOVERY}/namespaces/agents/experts/invoice", EXPERT)
        await feed.fill()
        left_out, namespaces = dict(feed.unreadable), feed.namespaces
        del world.api.failures["GET", pods]
        await feed._sweep()  # pyright: ignore[reportPrivateUsage]

        assert list(left_out) == ["closed"]
        assert "pods is forbidden" in left_out["closed"]
        assert namespaces == ("agents",)
        assert world.woken == [KEY]
        assert [record.message for record in caplog.records if record.levelname == "WARNING"] == ["namespace left out"]
        assert (feed.namespaces, dict(feed.unreadable)) == (("agents", "closed"), {})
        assert world.returned == ["returned"], "its watches are made"


async def test_a_namespace_that_was_left_out_is_tried_again_soon() -> None:
    """Whoever grants the missing right does not wait for the next of the rare sweeps."""
    pods = "/api/v1/namespaces/closed/pods"
    async with a_world() as world:
        world.api.failures["GET", pods] = {"code": 403, "reason": "Forbidden", "message": "pods is forbidden"}
        feed = world.feed_of("agents", "closed")
        async with running(world, feed):
            left_out = list(feed.unreadable)
            del world.api.failures["GET", pods]
            await world.clock.advance(UNREADABLE_INTERVAL_SECONDS + 1)
            async with asyncio.timeout(20):
                while feed.unreadable:  # noqa: ASYNC110 - the server has nothing else to wait for
                    await asyncio.sleep(0.01)

            assert left_out == ["closed"]
            assert UNREADABLE_INTERVAL_SECONDS < SWEEP_INTERVAL_SECONDS


async def test_where_no_namespace_may_be_read_nothing_is_served() -> None:
    """An operator without any right waits for one and says so, instead of taking everything for absent."""
    async with a_world() as world:
        feed = world.feed_of("agents", "closed")
        for namespace in ("agents", "closed"):
            world.api.failures["GET", f"/api/v1/namespaces/{namespace}/pods"] = {"code": 403, "message": "forbidden"}
        with pytest.raises(RefusedError):
            await feed._sweep()  # pyright: ignore[reportPrivateUsage]

        assert not feed.filled


async def test_an_outage_is_counted_once() -> None:
    """However many requests fail in it."""
    async with a_world() as world:
        world.client._session._base_url = None  # pyright: ignore[reportPrivateUsage]
        for _ in range(3):
            with pytest.raises(UnreachableError):
                await world.client.get("http://127.0.0.1:1/api")

        assert world.client.reachability.outages == 1
        assert not world.client.reachability.reachable


@pytest.mark.parametrize(
    ("errors", "outages"),
    [
        pytest.param([TimeoutError()], 0, id="one request was slow"),
        pytest.param([TimeoutError()] * 3, 1, id="nothing answers"),
        pytest.param([TimeoutError()] * 9, 1, id="nothing answers for long"),
        pytest.param([TimeoutError(), None, TimeoutError(), None, TimeoutError()], 0, id="some requests are slow"),
        pytest.param([ConnectionError()], 1, id="a connection broke"),
    ],
)
def test_an_outage_is_more_than_a_slow_request(errors: list[Exception | None], outages: int) -> None:
    """Else one slow list would cause two sweeps of everything, which are slow lists."""
    reachability = Reachability()
    for error in errors:
        if error is None:
            reachability.answered()
        else:
            reachability.failed(error)

    assert reachability.outages == outages
