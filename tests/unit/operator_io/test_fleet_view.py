"""Who is measured: what the store and the connections of routers say."""

from __future__ import annotations

import itertools

from builders import NAMESPACE, NOW, SETTINGS, a_pod, a_policy, a_ready_pod, ago, an_expert
from fakes.apiserver import running_api_server
from fakes.clock import VirtualClock
from flotilla_operator.adapters.client import Client, Connection
from flotilla_operator.adapters.fleet import FleetView, SidecarLocator
from flotilla_operator.adapters.store import Store
from flotilla_operator.reconcile.dispatch import references
from flotilla_operator.reconcile.types import AgentPod, Key, Manifest
from flotilla_operator.resources.sidecar import SidecarInputs, inject_sidecar
from flotilla_operator.resources.specs import parse_policy
from flotilla_operator.scaling.fleet import MeasuredPod, NamespacedName
from flotilla_operator.telemetry import Telemetry

INVOICE, BILLING = NamespacedName(NAMESPACE, "invoice"), NamespacedName(NAMESPACE, "billing")


class World:
    """A store that a test fills, and the view of it."""

    def __init__(self) -> None:
        self.store = Store(references)
        self.clock = VirtualClock()
        self.agents: dict[Key, tuple[AgentPod, ...]] = {}
        self.connected: set[str] = set()
        self.view = FleetView(
            self.store, self.clock, agents=self.agents.get, connected=lambda _: frozenset(self.connected)
        )
        self._versions = itertools.count(1)

    def put(self, manifest: Manifest) -> Manifest:
        metadata = {**manifest["metadata"], "resourceVersion": str(next(self._versions))}
        stored = {**manifest, "metadata": metadata}
        self.store.apply(stored)
        return stored

    def put_pods(self, owner: Manifest, *pods: Manifest) -> None:
        """Pods that the owner's Deployment made."""
        parent = owner
        for kind in ("Deployment", "ReplicaSet"):
            name = f"{owner['metadata']['name']}-{kind.lower()}"
            parent = self.put({"kind": kind, "apiVersion": "apps/v1", "metadata": _child_of(parent, name)})
        for pod in pods:
            self.put({**pod, "metadata": {**pod["metadata"], "ownerReferences": [_controller(parent)]}})


def _child_of(parent: Manifest, name: str) -> Manifest:
    return {"name": name, "namespace": NAMESPACE, "uid": f"uid-of-{name}", "ownerReferences": [_controller(parent)]}


def _controller(parent: Manifest) -> Manifest:
    metadata = parent["metadata"]
    return {"kind": parent["kind"], "name": metadata["name"], "uid": metadata["uid"], "controller": True}


def since(pod: Manifest, seconds: float) -> Manifest:
    """The pod, which became ready that long ago."""
    conditions = [{**each, "lastTransitionTime": ago(seconds)} for each in pod["status"]["conditions"]]
    return {**pod, "status": {**pod["status"], "conditions": conditions}}


def scaled() -> Manifest:
    return an_expert(scaling={"min": 0, "max": 4})


def test_experts_with_scaling_are_measured_and_others_are_not() -> None:
    """What is not scaled costs no query and no scrape."""
    world = World()
    world.put(scaled())
    world.put(an_expert("sql"))

    assert list(world.view.now().experts) == [INVOICE]


def test_engines_are_the_pods_of_the_deployment_that_answer() -> None:
    """One that starts, and one that only bears the labels, count nothing."""
    world = World()
    expert = world.put(scaled())
    world.put_pods(expert, since(a_ready_pod(expert, "a", ip="10.0.0.7"), 60), a_pod(expert, "starting"))
    world.put(a_ready_pod(expert, "stranger"))

    (engine,) = world.view.now().experts[INVOICE].engines

    ready_at = NOW.timestamp() - 60
    assert engine == MeasuredPod("invoice-a", "10.0.0.7:8000", ready_at, "uid-pod-invoice-a")


def test_policies_are_those_that_name_the_expert_in_their_namespace() -> None:
    """In their list or in a rule; one of another namespace means another Expert."""
    world = World()
    world.put(scaled())
    world.put(a_policy(experts=[{"name": "invoice"}]))
    world.put(a_policy("ruled", experts=[{"name": "sql"}], rules=[{"name": "r", "experts": [{"name": "invoice"}]}]))
    world.put(a_policy("other", experts=[{"name": "sql"}]))
    elsewhere = a_policy("elsewhere", experts=[{"name": "invoice"}])
    world.put({**elsewhere, "metadata": {**elsewhere["metadata"], "namespace": "elsewhere"}})

    fleet = world.view.now()

    assert fleet.experts[INVOICE].policies == {"billing", "ruled"}
    assert set(fleet.routers) == {BILLING, NamespacedName(NAMESPACE, "ruled")}
    assert fleet.routers[NamespacedName(NAMESPACE, "ruled")].targets == {"sql", "invoice", "big"}


def test_gateways_are_scraped_at_their_admin_port() -> None:
    """The pods of the policy's Deployment."""
    world = World()
    world.put(scaled())
    policy = world.put(a_policy(experts=[{"name": "invoice"}]))
    world.put_pods(policy, a_ready_pod(policy, ip="fd00::7"))

    (gateway,) = world.view.now().routers[BILLING].gateways

    assert (gateway.name, gateway.address) == ("billing-a", "[fd00::7]:9090")


def test_sidecars_count_from_their_first_call_on() -> None:
    """A pod whose sidecar does not call has none that counts, whatever it says."""
    world = World()
    world.put(scaled())
    world.put(a_policy(experts=[{"name": "invoice"}]))
    pods = (AgentPod("one", "uid-1", True), AgentPod("two", "uid-2", True), AgentPod("three", "uid-3", False))
    world.agents[Key("RoutingPolicy", NAMESPACE, "billing")] = pods
    world.connected = {"uid-1", "uid-3"}

    (first,) = world.view.now().routers[BILLING].sidecars
    began = world.clock.now()
    world.clock.jump(30)
    (later,) = world.view.now().routers[BILLING].sidecars

    assert first == later == MeasuredPod("one", "", began.timestamp(), "uid-1")


async def test_sidecar_is_located_by_its_pod() -> None:
    """At the port that it was given, unless another pod has the name by now."""
    pod: Manifest = {
        "metadata": {"name": "agent", "namespace": NAMESPACE},
        "spec": {"containers": [{"name": "agent"}]},
        "status": {"podIP": "10.0.0.9"},
    }
    inputs = SidecarInputs(NAMESPACE, "billing", parse_policy(a_policy()), SETTINGS)
    path = f"/api/v1/namespaces/{NAMESPACE}/pods/agent"
    async with running_api_server() as api:
        connection = Connection(
            api.url, None, verify=True, server_name=None, client_certificate=None, authorization=lambda: None
        )
        async with Client(connection, Telemetry()) as client:
            locate = SidecarLocator(client).locate
            before = await locate(NAMESPACE, "agent", "uid")
            uid = api.put(path, {**inject_sidecar(pod, inputs).pod, "status": pod["status"]})["metadata"]["uid"]
            found = await locate(NAMESPACE, "agent", uid)
            another = await locate(NAMESPACE, "agent", "uid-of-an-earlier-one")
            api.put(path, pod)
            without = await locate(NAMESPACE, "agent", uid)

    assert (before, another, without) == ("", "", "")
    assert found == f"10.0.0.9:{SETTINGS.sidecar_admin_port}"
