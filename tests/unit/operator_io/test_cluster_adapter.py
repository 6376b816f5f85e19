"""The `Cluster` port on a fake API server: whom a surprise wakes, and what a burst of failures may take."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import pytest

from builders import (
    NAMESPACE,
    SETTINGS,
    a_policy,
    a_ready_pod,
    a_starting_pod,
    a_waiting_pod,
    an_expert,
    ending,
)
from fakes.apiserver import FakeApiServer, running_api_server
from fakes.clock import VirtualClock
from flotilla_operator.adapters.client import Client, Connection
from flotilla_operator.adapters.feed import Feed
from flotilla_operator.adapters.kinds import CORE_EVENT, KINDS, ref_of
from flotilla_operator.adapters.kubernetes_cluster import EVENT_LISTS_AT_A_TIME, KubernetesCluster, Surroundings
from flotilla_operator.adapters.store import Store
from flotilla_operator.ports import NotFoundError, OutdatedError, StepFailedError
from flotilla_operator.reconcile.dispatch import references
from flotilla_operator.reconcile.types import Key, Manifest, ObjectRef, Plan, Step
from flotilla_operator.resources.pods import make_endpoints
from flotilla_operator.telemetry import Telemetry

EXPERT = Key("Expert", NAMESPACE, "invoice")
POLICY = Key("RoutingPolicy", NAMESPACE, "billing")


@dataclass
class World:
    """An adapter and what it stands on."""

    api: FakeApiServer
    store: Store
    cluster: KubernetesCluster
    woken: list[Key] = field(default_factory=list[Key])

    def put(self, manifest: Manifest) -> Manifest:
        """The object is in the cluster and in the store, and nobody was told."""
        kind, ref = KINDS[manifest["kind"]], ObjectRef.of(manifest)
        stored = self.api.put(kind.path(ref.namespace, ref.name), manifest)
        self.store.apply(stored)
        return stored

    def put_pods(self, owner: Manifest, *pods: Manifest) -> None:
        """Pods that the owner's Deployment made."""
        parent = owner
        for kind in ("Deployment", "ReplicaSet"):
            name = f"{owner['metadata']['name']}-{kind.lower()}"
            metadata = {"name": name, "namespace": NAMESPACE, "ownerReferences": [controller(parent)]}
            parent = self.put({"kind": kind, "apiVersion": "apps/v1", "metadata": metadata})
        for pod in pods:
            self.put({**pod, "metadata": {**pod["metadata"], "ownerReferences": [controller(parent)]}})

    def change_unheard(self, pod: Manifest, after: Manifest) -> None:
        """The pod is as in `after`, and the watch has not said so yet."""
        path = KINDS["Pod"].path(NAMESPACE, pod["metadata"]["name"])
        live = self.api.objects[path]
        self.api.put(path, {**after, "metadata": {**live["metadata"], **after["metadata"]}})


def controller(manifest: Manifest) -> Manifest:
    """The reference that makes `manifest` another's controller."""
    metadata = manifest["metadata"]
    return {"kind": manifest["kind"], "name": metadata["name"], "uid": metadata["uid"], "controller": True}


@asynccontextmanager
async def a_world() -> AsyncGenerator[World]:
    """A policy that names an Expert."""
    async with running_api_server() as api:
        connection = Connection(
            api.url, None, verify=True, server_name=None, client_certificate=None, authorization=lambda: None
        )
        async with Client(connection, Telemetry()) as client:
            clock, store, woken = VirtualClock(), Store(references), list[Key]()
            feed = Feed(client, store, clock, namespaces=[], wake=woken.append, watches_outdated=lambda: None)
            surroundings = Surroundings(
                settings=SETTINGS,
                acknowledgements=lambda key: (),
                agents=lambda key: (),
                control_ca=lambda: "",
                leading=lambda: True,
                leading_seconds=lambda: 60.0,
                wake=woken.append,
                instance="operator-0",
            )
            cluster = KubernetesCluster(client, store, feed, clock, surroundings)
            world = World(api, store, cluster, woken)
            for manifest in (an_expert(), a_policy()):
                world.put(manifest)
            yield world


async def test_a_deletion_that_a_status_write_finds_wakes_who_names_the_object() -> None:
    """The watch's word of it comes too late to be news."""
    async with a_world() as world:
        expert = world.store.get(ref_of(EXPERT))
        assert expert is not None
        del world.api.objects[KINDS["Expert"].path(NAMESPACE, "invoice")]
        with pytest.raises(NotFoundError):
            await world.cluster.write_status(expert, {"conditions": []})

        assert world.store.get(ref_of(EXPERT)) is None
        assert set(world.woken) == {EXPERT, POLICY}


async def test_a_change_that_a_conflict_finds_wakes_who_names_the_object() -> None:
    """As above."""
    async with a_world() as world:
        expert = world.store.get(ref_of(EXPERT))
        assert expert is not None
        world.api.put(KINDS["Expert"].path(NAMESPACE, "invoice"), an_expert(generation=2))
        with pytest.raises(OutdatedError):
            await world.cluster.write_status(expert, {"conditions": []})

        assert set(world.woken) == {EXPERT, POLICY}


async def test_a_step_that_meets_an_error_is_named() -> None:
    """Who retries can say which object it was."""
    async with a_world() as world:
        manifest: Manifest = {
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": {"name": "invoice-expert", "namespace": NAMESPACE},
        }
        path = KINDS["Service"].path(NAMESPACE, "invoice-expert")
        world.api.failures["PATCH", path] = {
            "code": 500,
            "reason": "InternalError",
            "message": "failed calling webhook",
        }
        step = Step("create", manifest, "new")

        with pytest.raises(
            StepFailedError, match=r"Service agents/invoice-expert cannot .* failed calling webhook"
        ) as found:
            await world.cluster.execute(Plan((step,)))
        assert found.value.step is step


async def test_reading_warnings_leaves_connections_for_writing() -> None:
    """However many pods of however many owners fail at a time."""
    async with a_world() as world:
        events = ("GET", CORE_EVENT.collection_path(NAMESPACE))
        world.api.holds[events] = asyncio.Event()
        pods = [a_waiting_pod(an_expert(), "CrashLoopBackOff") for _ in range(20)]
        looks = [
            asyncio.create_task(world.cluster._warnings_about(pod))  # pyright: ignore[reportPrivateUsage]
            for pod in pods
        ]
        async with asyncio.timeout(10):
            while len(world.api.held) < EVENT_LISTS_AT_A_TIME:  # noqa: ASYNC110 - the server has nothing to wait for
                await asyncio.sleep(0.005)
            await world.cluster.observe(EXPERT)
        most = len(world.api.held)
        world.api.holds[events].set()
        await asyncio.gather(*looks)

        assert most == EVENT_LISTS_AT_A_TIME


async def test_a_successor_that_answers_is_known_when_only_the_end_of_the_last_replica_was_heard_of() -> None:
    """Watches tell of two pods in any order; a router that was told so would refuse every request for a moment."""
    async with a_world() as world:
        expert = world.store.get(ref_of(EXPERT))
        assert expert is not None
        old, new = ending(a_ready_pod(expert, "old")), a_starting_pod(expert, "new")
        world.put_pods(expert, old, new)
        world.change_unheard(new, a_ready_pod(expert, "new", ip="10.0.0.9"))

        observed = await world.cluster.observe(POLICY)

        assert observed is not None
        endpoints = make_endpoints(observed.reference_pods[ref_of(EXPERT)])
        assert [each.address for each in endpoints] == ["10.0.0.9:8000"]
        assert EXPERT in world.woken


async def test_pods_are_read_only_where_nobody_answers_and_somebody_starts() -> None:
    """Otherwise the store is believed: observing costs no request."""
    async with a_world() as world:
        expert = world.store.get(ref_of(EXPERT))
        assert expert is not None
        world.put_pods(expert, a_ready_pod(expert, "a"), a_starting_pod(expert, "b"))
        await world.cluster.observe(POLICY)
        pods = ("GET", KINDS["Pod"].collection_path(NAMESPACE))
        assert pods not in world.api.requests

        world.put_pods(expert, ending(a_ready_pod(expert, "a")))
        await world.cluster.observe(POLICY)
        assert world.api.requests.count(pods) == 1

        world.put_pods(expert, ending(a_starting_pod(expert, "b")))
        await world.cluster.observe(POLICY)
        assert world.api.requests.count(pods) == 1
