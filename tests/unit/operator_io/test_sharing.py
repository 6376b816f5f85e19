"""What scaled Experts get of the accelerators: from nodes, quotas and pods as the API server tells of them."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest

from builders import NAMESPACE, a_pod, a_profile, a_served_fallback, an_expert
from fakes.apiserver import FakeApiServer, running_api_server
from fakes.clock import VirtualClock
from flotilla_operator.adapters.accelerators import LOOK_SECONDS, Accelerators
from flotilla_operator.adapters.client import Client, Connection
from flotilla_operator.adapters.kinds import AGENT_POD, KINDS, NODE, QUOTA, Kind
from flotilla_operator.adapters.scale import KubernetesScales, Reach
from flotilla_operator.adapters.store import Store
from flotilla_operator.describing import Describer
from flotilla_operator.ledger import Ledger, Moment
from flotilla_operator.reconcile.dispatch import references
from flotilla_operator.reconcile.types import Key, Manifest, ObjectRef
from flotilla_operator.resources.manifest import child_of
from flotilla_operator.scaling.fleet import ExpertSignals, FleetSignals
from flotilla_operator.scaling.types import TUNING
from flotilla_operator.sharing import Sharing
from flotilla_operator.telemetry import Telemetry

GPU = "nvidia.com/gpu"


@dataclass
class World:
    """Accelerators of one cluster, and the Experts that share them."""

    api: FakeApiServer
    store: Store
    clock: VirtualClock
    scales: KubernetesScales
    accelerators: Accelerators
    namespaces: list[str] = field(default_factory=list[str])

    def put(self, manifest: Manifest) -> Manifest:
        """The object is in the cluster and in the store."""
        kind, ref = KINDS[manifest["kind"]], ObjectRef.of(manifest)
        stored = self.api.put(kind.path(ref.namespace, ref.name), manifest)
        self.store.apply(stored)
        return stored

    def add_node(
        self, name: str = "gpu-1", gpus: int = 4, *, allocatable: Mapping[str, str] | None = None, **spec: Any
    ) -> None:
        """A node of the L4 pool."""
        labels = {"flotilla.dev/accelerator": "l4"}
        devices = {GPU: str(gpus)} if allocatable is None else allocatable
        status = {"allocatable": {"cpu": "8", **devices}}
        self.api.put(
            NODE.path("", name), {"metadata": {"name": name, "labels": labels}, "spec": spec, "status": status}
        )

    def add_stranger(
        self, gpus: int, node: str = "gpu-1", *, namespace: str = "others", phase: str = "Running"
    ) -> None:
        """Somebody else's pod."""
        container = {"name": "c", "resources": {"limits": {GPU: str(gpus)}}}
        pod = {
            "metadata": {"name": f"theirs-{gpus}", "namespace": namespace},
            "spec": {"nodeName": node, "containers": [container]},
            "status": {"phase": phase},
        }
        for listed in ("", namespace):
            self.api.put(AGENT_POD.path(listed, f"theirs-{gpus}"), pod)

    def add_quota(self, hard: int, used: int, **spec: Any) -> None:
        """A ResourceQuota in the Experts' namespace."""
        amounts = {"hard": {f"requests.{GPU}": str(hard)}}
        quota = {
            "metadata": {"name": "team", "namespace": NAMESPACE},
            "spec": amounts | spec,
            "status": {"used": {f"requests.{GPU}": str(used)}},
        }
        self.api.put(QUOTA.path("", "team"), quota)

    def serve(self, owner: Manifest, replicas: int, *, pods: int) -> Manifest:
        """The owner with its Deployment and so many pods, one GPU each, on the first node."""
        owner = self.put(owner)
        deployment = self.put(_controlled("Deployment", child_of(owner), owner, spec={"replicas": replicas}))
        self.put(_controlled("ReplicaSet", f"{child_of(owner)}-1", deployment))
        for number in range(pods):
            self.add_pod(owner, str(number))
        return owner

    def add_pod(self, owner: Manifest, name: str, *, node: str = "gpu-1", heard: bool = True) -> Manifest:
        """One more pod of the owner's Deployment; lists have it also where the store has not heard of it."""
        made = self.store.get(ObjectRef("ReplicaSet", NAMESPACE, f"{child_of(owner)}-1"))
        assert made is not None
        pod = a_pod(owner, name)
        pod["metadata"]["ownerReferences"] = [_controller(made)]
        pod["metadata"]["creationTimestamp"] = "2026-01-01T00:00:00Z"
        pod["spec"] = {"nodeName": node, "containers": [{"name": "engine", "resources": {"limits": {GPU: "1"}}}]}
        stored = self.api.put(AGENT_POD.path("", pod["metadata"]["name"]), pod)
        if heard:
            self.store.apply(stored)
        return stored

    def drain(self, owner: Manifest, name: str) -> None:
        """That pod is being deleted."""
        pod = self.store.get(ObjectRef.of(a_pod(owner, name)))
        assert pod is not None
        self.put({**pod, "metadata": {**pod["metadata"], "deletionTimestamp": "2026-01-01T01:00:00Z"}})

    def wants(self, name: str, replicas: int, *, pods: int = 0) -> Ledger:
        """The ledger of a scaled Expert whose team asks for so many replicas."""
        override = {"replicas": replicas, "until": "2099-01-01T00:00:00Z"}
        self.serve(an_expert(name, scaling={"min": 0, "max": 8, "override": override}), pods, pods=pods)
        scaled = self.scales.find(Key("Expert", NAMESPACE, name))
        assert scaled is not None
        return Ledger(scaled)

    async def share(self, *ledgers: Ledger) -> list[int | None]:
        """What each one gets."""
        describer = Describer()
        sharing = Sharing(describer, self.accelerators)
        await sharing.look()
        now = self.clock.now()
        for ledger in ledgers:
            ledger.look(ledger.expert, Moment(now.timestamp(), now.timestamp()))
            scaling = describer.describe(ledger.expert, FleetSignals({}, {}), now)
            assert scaling is not None
            ledger.target = scaling.target
            ledger.decide(ExpertSignals(), now.timestamp(), now.timestamp(), TUNING)
        sharing.share(ledgers)
        return [ledger.wanted for ledger in ledgers]


@asynccontextmanager
async def a_world(**profile: Any) -> AsyncGenerator[World]:
    """A cluster with a profile and no nodes."""
    async with running_api_server() as api:
        connection = Connection(
            api.url, None, verify=True, server_name=None, client_certificate=None, authorization=lambda: None
        )
        async with Client(connection, Telemetry()) as client:
            store, clock, namespaces = Store(references), VirtualClock(), list[str]()
            reach = Reach(leading=lambda: True, namespaces=lambda: namespaces, unreadable=dict[str, str])
            world = World(
                api,
                store,
                clock,
                KubernetesScales(client, store, reach),
                Accelerators(client, store, clock, reach),
                namespaces,
            )
            world.put(a_profile(nodeSelector={"flotilla.dev/accelerator": "l4"}, tolerations=[], **profile))
            yield world


def _controller(owner: Manifest) -> Manifest:
    return {
        "kind": owner["kind"],
        "name": owner["metadata"]["name"],
        "uid": owner["metadata"]["uid"],
        "controller": True,
    }


def _controlled(kind: str, name: str, owner: Manifest, **fields: Any) -> Manifest:
    metadata = {"name": name, "namespace": NAMESPACE, "ownerReferences": [_controller(owner)]}
    return {"apiVersion": "apps/v1", "kind": kind, "metadata": metadata, **fields}


async def test_nobody_gets_more_than_nodes_have() -> None:
    """And why is said."""
    async with a_world() as world:
        world.add_node(gpus=3)
        ledger = world.wants("invoice", 5)

        assert await world.share(ledger) == [3]
        assert ledger.limited


async def test_what_strangers_hold_is_not_there() -> None:
    """A pod that has ended holds nothing."""
    async with a_world() as world:
        world.add_node(gpus=4)
        world.add_stranger(1)
        world.add_stranger(2, phase="Succeeded")

        assert await world.share(world.wants("invoice", 5)) == [3]


async def test_engines_with_a_number_of_their_own_keep_theirs() -> None:
    """Those that run, and those that still lack a node."""
    async with a_world() as world:
        world.add_node(gpus=6)
        world.serve(an_expert("fixed", replicas=2), 2, pods=1)
        world.serve(a_served_fallback("large", replicas=1), 1, pods=1)

        assert await world.share(world.wants("invoice", 8)) == [3]


@pytest.mark.parametrize("successors", [0, 1])
async def test_a_rollout_of_another_engine_takes_nothing_that_runs(successors: int) -> None:
    """What a pod that drains holds is what its successor gets, not one accelerator more."""
    async with a_world() as world:
        world.add_node(gpus=4)
        fixed = world.serve(an_expert("fixed", replicas=2), 2, pods=2)
        world.drain(fixed, "0")
        if successors:
            world.add_pod(fixed, "2", node="")

        assert await world.share(world.wants("invoice", 3, pods=2)) == [2]


async def test_a_rollout_of_an_experts_own_costs_it_no_replica() -> None:
    """Whatever others lack: its successor gets what the pod that drains holds."""
    async with a_world() as world:
        world.add_node(gpus=3)
        world.serve(an_expert("fixed", replicas=9), 9, pods=1)
        ledger = world.wants("invoice", 2, pods=2)
        world.drain(ledger.expert.expert, "0")
        world.add_pod(ledger.expert.expert, "2", node="")

        assert await world.share(ledger) == [2]


async def test_an_engine_that_lacks_more_than_there_is_takes_nothing_that_runs() -> None:
    """A number with a digit too many must not end other experts; they do not grow meanwhile."""
    async with a_world() as world:
        world.add_node(gpus=4)
        world.serve(an_expert("fixed", replicas=9), 9, pods=1)

        assert await world.share(world.wants("invoice", 4, pods=2)) == [2]


@pytest.mark.parametrize("allocatable", [{GPU: "0"}, {GPU: "1"}, {}])
async def test_an_expert_keeps_what_runs_on_a_node_that_has_lost_accelerators(allocatable: Mapping[str, str]) -> None:
    """While a device plugin starts anew, or for an unhealthy device: its pods run on, and other nodes take more."""
    async with a_world() as world:
        world.add_node(gpus=2)
        world.add_node("gpu-2", gpus=1)
        ledger = world.wants("invoice", 4, pods=2)
        assert await world.share(ledger) == [3]

        world.add_node(allocatable=allocatable)
        await world.clock.advance(LOOK_SECONDS)

        assert await world.share(ledger) == [3]


async def test_an_expert_keeps_what_it_holds() -> None:
    """Its own pods are not others'."""
    async with a_world() as world:
        world.add_node(gpus=3)

        assert await world.share(world.wants("invoice", 3, pods=2)) == [3]


async def test_a_quota_bounds_what_a_namespace_gets() -> None:
    """Less what others of the namespace use of it."""
    async with a_world() as world:
        world.add_node(gpus=8)
        world.add_quota(hard=4, used=1)

        assert await world.share(world.wants("invoice", 5)) == [3]


async def test_a_quota_on_some_pods_bounds_nothing() -> None:
    """Which pods it is about is not known."""
    async with a_world() as world:
        world.add_node(gpus=8)
        world.add_quota(hard=1, used=0, scopes=["Terminating"])

        assert await world.share(world.wants("invoice", 5)) == [5]


@pytest.mark.parametrize(("capacity", "given"), [("Unbounded", 5), (2, 2)])
async def test_a_pool_whose_capacity_is_said_needs_no_nodes(capacity: str | int, given: int) -> None:
    """Nodes are made when pods ask for them, or the number says it all."""
    async with a_world(capacity=capacity) as world:
        assert await world.share(world.wants("invoice", 5)) == [given]


async def test_nodes_that_cannot_be_listed_bound_nothing(caplog: pytest.LogCaptureFixture) -> None:
    """A right that is missing must not stop an Expert; it is told of once."""
    async with a_world() as world:
        forbidden = {"code": 403, "reason": "Forbidden", "message": "no right"}
        world.api.failures["GET", NODE.collection_path("")] = forbidden
        ledger = world.wants("invoice", 5)

        for _ in range(3):
            assert await world.share(ledger) == [5]
            await world.clock.advance(LOOK_SECONDS)

        assert len([record for record in caplog.records if record.message == "accelerators not counted"]) == 1


async def test_nodes_are_listed_once_a_minute() -> None:
    """Not at every tick; and what our own pods hold is known at once."""
    async with a_world() as world:
        world.add_node(gpus=4)
        ledger = world.wants("invoice", 8)
        for _ in range(5):
            await world.share(ledger)

        world.serve(an_expert("fixed", replicas=1), 1, pods=1)
        assert await world.share(ledger) == [3]

        lists = [path for method, path in world.api.requests if (method, path) == ("GET", NODE.collection_path(""))]
        assert len(lists) == 1


@pytest.mark.parametrize(
    ("kind", "hard", "given"),
    [
        pytest.param(NODE, 9, 3, id="nodes"),
        pytest.param(AGENT_POD, 9, 3, id="pods"),
        pytest.param(QUOTA, 2, 2, id="quotas"),
    ],
)
async def test_what_cannot_be_listed_any_more_is_as_it_was(kind: Kind, hard: int, given: int) -> None:
    """A list that fails says nothing about who holds what, or what a namespace may hold."""
    async with a_world() as world:
        world.add_node(gpus=5)
        world.add_stranger(2)
        world.add_quota(hard=hard, used=0)
        ledger = world.wants("invoice", 5)
        assert await world.share(ledger) == [given]

        world.api.failures["GET", kind.collection_path("")] = {"code": 500, "message": "etcd is away"}
        await world.clock.advance(LOOK_SECONDS)

        assert await world.share(ledger) == [given]


async def test_a_pod_that_the_store_hears_of_after_the_list_is_no_stranger() -> None:
    """It would count twice; nor does it become one when it is gone."""
    async with a_world() as world:
        world.add_node(gpus=3)
        ledger = world.wants("invoice", 3, pods=1)
        late = world.add_pod(ledger.expert.expert, "1", heard=False)
        assert await world.share(ledger) == [2]

        world.store.apply(late)
        assert await world.share(ledger) == [3]
        world.store.forget(ObjectRef.of(late))
        assert await world.share(ledger) == [3]


async def test_where_only_some_namespaces_are_served_only_these_are_looked_at() -> None:
    """The operator may read no others."""
    async with a_world() as world:
        world.namespaces.append(NAMESPACE)
        world.add_node(gpus=4)
        world.add_stranger(1, namespace=NAMESPACE)

        assert await world.share(world.wants("invoice", 5)) == [3]
        pods = [path for _, path in world.api.requests if path.endswith("/pods")]
        assert pods == [AGENT_POD.collection_path(NAMESPACE)]


async def test_two_experts_part_what_there_is() -> None:
    """Never more together than there is."""
    async with a_world() as world:
        world.add_node(gpus=3)
        one, two = world.wants("one", 2), world.wants("two", 2)

        found: Sequence[int | None] = await world.share(one, two)

        assert sum(number or 0 for number in found) == 3
