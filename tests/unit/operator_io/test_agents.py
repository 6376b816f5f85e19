"""Agents' pods on a fake API server: who asks, who is woken, and what each pod without a sidecar is told, once."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from builders import NAMESPACE, SETTINGS, a_policy
from fakes.apiserver import FakeApiServer, running_api_server
from fakes.clock import VirtualClock
from flotilla_api.names import INJECTED_ANNOTATION, KIND_LABEL, POLICY_LABEL
from flotilla_operator.adapters import agents as module
from flotilla_operator.adapters.agents import (
    LOOK_SECONDS,
    PULSE_SECONDS,
    READ_AT_A_LOOK,
    SILENT_SECONDS,
    Agents,
    Outside,
    event_name,
)
from flotilla_operator.adapters.client import Client, Connection
from flotilla_operator.adapters.store import Store
from flotilla_operator.reconcile.dispatch import references
from flotilla_operator.reconcile.types import AgentPod, Event, Key, Manifest
from flotilla_operator.resources.sidecar import SidecarInputs, inject_sidecar
from flotilla_operator.resources.specs import parse_policy
from flotilla_operator.telemetry import Telemetry

KEY = Key("RoutingPolicy", NAMESPACE, "billing")
PODS = f"/api/v1/namespaces/{NAMESPACE}/pods"
EVENTS = f"/apis/events.k8s.io/v1/namespaces/{NAMESPACE}/events"
POLICY_PATH = f"/apis/flotilla.dev/v1alpha1/namespaces/{NAMESPACE}/routingpolicies/billing"


@dataclass
class World:
    """The component, and the API server that it looks at."""

    api: FakeApiServer
    client: Client
    clock: VirtualClock
    store: Store
    agents: Agents
    leading: bool = True
    woken: list[Key] = field(default_factory=list[Key])
    connected: set[str] = field(default_factory=set[str])
    """Pods whose sidecars call."""
    running: asyncio.Task[None] | None = None

    def put_pod(self, name: str, *, injected: bool = False, policy: str = "billing", **spec: Any) -> None:
        """A pod asks for a sidecar."""
        metadata: Manifest = {"name": name, "namespace": NAMESPACE, "labels": {POLICY_LABEL: policy}}
        pod = {"metadata": metadata, "spec": {"containers": [{"name": "agent"}], **spec}}
        if injected:
            inputs = SidecarInputs(NAMESPACE, policy, parse_policy(a_policy()), SETTINGS)
            pod = inject_sidecar(pod, inputs).pod
        self.api.put(f"{PODS}/{name}", pod)

    def put_policy(self, **spec: Any) -> None:
        """The store knows the policy."""
        self.store.apply(self.api.put(POLICY_PATH, a_policy(**spec)))

    async def look(self) -> None:
        """It looks once more; the first time at once."""
        if self.running is None:
            self.running = asyncio.create_task(self.agents.run())
            await self._rest()
            return
        before = self.looks
        while self.looks == before:
            await self.wait(PULSE_SECONDS)

    async def wait(self, seconds: float) -> None:
        """Time passes, pulse by pulse; what each of them brings about takes none."""
        for _ in range(round(seconds / PULSE_SECONDS)):
            await self.clock.advance(PULSE_SECONDS)
            await self._rest()

    async def _rest(self) -> None:
        async with asyncio.timeout(10):
            await asyncio.sleep(0)
            while not self.clock.sleepers:  # noqa: ASYNC110 - it does nothing else that could be waited for
                await asyncio.sleep(0.001)

    @property
    def looks(self) -> int:
        """How often pods were listed."""
        return self.api.requests.count(("GET", PODS))

    def told(self) -> list[tuple[str, str]]:
        """The pods that have events, and their reasons."""
        events = [each for path, each in self.api.objects.items() if path.startswith(EVENTS)]
        return sorted((each["regarding"]["name"], each["reason"]) for each in events)

    def injected(self) -> dict[str, bool] | None:
        """Who asks for the policy's sidecar, and has it."""
        found = self.agents.of(KEY)
        return None if found is None else {agent.name: agent.injected for agent in found}


@asynccontextmanager
async def a_world() -> AsyncGenerator[World]:
    """It looks at one namespace, which has a policy."""
    async with running_api_server() as api:
        connection = Connection(
            api.url, None, verify=True, server_name=None, client_certificate=None, authorization=lambda: None
        )
        async with Client(connection, Telemetry()) as client:
            clock, store, woken = VirtualClock(), Store(references), list[Key]()
            outside = Outside(
                settings=SETTINGS,
                namespaces=lambda: [NAMESPACE],
                leading=lambda: world.leading,
                wake=woken.append,
                connected=lambda _: frozenset(f"uid-of-{PODS}/{name}" for name in world.connected),
                instance="operator-0",
            )
            world = World(api, client, clock, store, Agents(client, store, clock, outside), woken=woken)
            world.put_policy()
            yield world
            if world.running:
                world.running.cancel()
                await asyncio.wait((world.running,))


async def test_who_asks_and_who_has_a_sidecar_is_known() -> None:
    """Children of ours, and pods that are being deleted, do not ask."""
    async with a_world() as world:
        world.put_pod("with", injected=True)
        world.put_pod("without")
        world.put_pod("ours")
        world.api.objects[f"{PODS}/ours"]["metadata"]["labels"][KIND_LABEL] = "Expert"
        world.put_pod("ending")
        world.api.objects[f"{PODS}/ending"]["metadata"]["deletionTimestamp"] = "2026-11-23T12:00:00Z"
        world.put_pod("relabelled", injected=True)
        world.api.objects[f"{PODS}/relabelled"]["metadata"]["annotations"][INJECTED_ANNOTATION] = "second"
        before = world.injected()
        await world.look()

        assert before is None, "before the first list nothing is known"
        assert world.injected() == {"with": True, "without": False, "relabelled": False}
        assert world.agents.of(Key("RoutingPolicy", NAMESPACE, "other")) == ()


async def test_what_the_annotation_says_is_checked_once() -> None:
    """A template carries it that was never given a sidecar, or the sidecar is another policy's."""
    async with a_world() as world:
        world.put_pod("with", injected=True)
        world.put_pod("without")
        world.api.objects[f"{PODS}/without"]["metadata"]["annotations"] = {INJECTED_ANNOTATION: "billing"}
        world.put_pod("another", injected=True, policy="second")
        metadata = world.api.objects[f"{PODS}/another"]["metadata"]
        metadata["labels"][POLICY_LABEL] = metadata["annotations"][INJECTED_ANNOTATION] = "billing"
        await world.look()
        await world.look()
        found = world.agents.of(KEY)
        before = len(world.api.requests)
        await world.look()
        reads = [path for verb, path in world.api.requests[before:] if verb == "GET" and path != PODS]

        assert found is not None
        assert {agent.name: (agent.injected, agent.refused) for agent in found} == {
            "with": (True, ""),
            "without": (False, ""),
            "another": (False, "it has the sidecar of policy second: inject the original again"),
        }
        assert world.told() == [("another", "SidecarRefused"), ("without", "SidecarMissing")]
        assert not reads


async def test_a_policy_is_woken_when_its_agents_change_and_at_rest_never() -> None:
    """The first list is news for every policy: until then nothing was known."""
    async with a_world() as world:
        await world.look()
        first = list(world.woken)
        world.put_pod("agent", injected=True)
        await world.look()
        with_agent = list(world.woken)
        await world.look()
        writes = [request for request in world.api.requests if request[0] != "GET"]

        assert first == [KEY]
        assert with_agent == [KEY, KEY]
        assert world.woken == with_agent
        assert not writes


async def test_each_pod_without_a_sidecar_is_told_why_once() -> None:
    """Another look, and another leader, do not repeat it."""
    async with a_world() as world:
        world.put_pod("late")
        world.put_pod("networked", hostNetwork=True)
        world.put_pod("lost", policy="nowhere")
        world.put_pod("fine", injected=True)
        await world.look()
        told = world.told()
        await world.look()
        world.leading = False
        await world.wait(PULSE_SECONDS)
        forgotten = world.injected()
        world.leading = True
        await world.look()

        assert told == [("late", "SidecarMissing"), ("lost", "PolicyNotFound"), ("networked", "SidecarRefused")]
        assert forgotten is None
        assert world.told() == told
        found = world.agents.of(KEY)
        assert found is not None
        assert {agent.name: agent.refused for agent in found if agent.refused} == {
            "networked": "it uses the host's network, where the sidecar would be open to the whole node"
        }


async def test_pods_of_a_policy_that_wants_no_sidecars_are_told_so() -> None:
    """And nobody reads them whole."""
    async with a_world() as world:
        world.put_policy(placement={"sidecar": {"enabled": False}})
        world.put_pod("late")
        await world.look()

        assert world.told() == [("late", "SidecarDisabled")]
        assert ("GET", f"{PODS}/late") not in world.api.requests


async def test_a_policy_that_does_not_parse_tells_its_pods_nothing() -> None:
    """Its own status says it."""
    async with a_world() as world:
        world.put_policy(experts="many")
        world.put_pod("late")
        await world.look()

        assert world.injected() == {"late": False}
        assert world.told() == []


async def test_a_refusal_is_judged_anew_when_the_policy_changes() -> None:
    """A pod that its policy's ports kept from having a sidecar is one that slipped through once they are right."""
    async with a_world() as world:
        world.put_policy(placement={"sidecar": {"port": 9999, "adminPort": 9999}})
        world.put_pod("agent")
        await world.look()
        first = world.told()
        world.put_policy()
        await world.look()

        assert first == [("agent", "SidecarRefused")]
        assert world.told() == [("agent", "SidecarMissing"), ("agent", "SidecarRefused")]


async def test_a_great_many_pods_are_told_over_several_looks() -> None:
    """A webhook that was down for an hour makes no flood of requests; the status knows all of them at once."""
    async with a_world() as world:
        for number in range(READ_AT_A_LOOK + 10):
            world.put_pod(f"agent-{number:03}")
            world.put_pod(f"lost-{number:03}", policy="nowhere")
        await world.look()
        first = world.told()
        await world.look()
        await world.look()

        assert len(first) == READ_AT_A_LOOK
        assert len(world.told()) == 2 * (READ_AT_A_LOOK + 10)
        assert world.injected() == {f"agent-{number:03}": False for number in range(READ_AT_A_LOOK + 10)}


async def test_thousands_are_looked_at_less_often(monkeypatch: Any) -> None:
    """So that the work at rest does not grow with them."""
    monkeypatch.setattr(module, "PODS_PER_SECOND", 1)
    async with a_world() as world:
        for number in range(30):
            world.put_pod(f"agent-{number}", injected=True)
        await world.look()
        await world.wait(29)
        early = world.looks
        await world.wait(1)

        assert (early, world.looks) == (1, 2)


async def test_what_cannot_be_listed_is_left_as_it_was() -> None:
    """A burst of errors makes no agent vanish."""
    async with a_world() as world:
        world.put_pod("agent", injected=True)
        await world.look()
        world.woken.clear()
        world.api.failures["GET", PODS] = {"code": 500, "message": "broken"}
        await world.look()
        failed = world.injected()
        del world.api.failures["GET", PODS]
        del world.api.objects[f"{PODS}/agent"]
        await world.look()

        assert failed == {"agent": True}
        assert (world.injected(), world.woken) == ({}, [KEY])


async def test_an_event_that_the_api_server_refuses_is_not_tried_again_and_one_that_it_fails_is() -> None:
    """A namespace that is being deleted takes no events; an overload passes."""
    async with a_world() as world:
        world.put_pod("late")
        world.api.failures["POST", EVENTS] = {"code": 500, "message": "overloaded"}
        await world.look()
        world.api.failures["POST", EVENTS] = {"code": 403, "message": "the namespace is being terminated"}
        await world.look()
        tried = world.api.requests.count(("POST", EVENTS))
        await world.look()

        assert tried == 2
        assert world.api.requests.count(("POST", EVENTS)) == tried


async def test_a_replica_that_does_not_lead_looks_at_nothing() -> None:
    """Only the leader writes events, and only it reports."""
    async with a_world() as world:
        world.leading = False
        world.put_pod("late")
        world.running = asyncio.create_task(world.agents.run())
        await world.wait(60)

        assert world.api.requests == []


def test_an_events_name_is_one_whatever_the_pods() -> None:
    """The longest pod's name, and one that a cut leaves with a dot at its end."""
    event = Event("Warning", "SidecarMissing", "")
    long, dotted = (
        event_name(AgentPod("x" * 253, "u", False), event),
        event_name(AgentPod("x" * 219 + ".y", "u", False), event),
    )

    assert len(long) <= 253
    assert ".." not in dotted


def _silent(world: World) -> set[str]:
    """The pods whose sidecars do not call."""
    return {agent.name for agent in world.agents.of(KEY) or () if agent.silent}


async def test_a_sidecar_that_does_not_call_for_a_minute_is_known() -> None:
    """Counted from when its pod was first seen, or from its last call; one that calls again is no longer named."""
    async with a_world() as world:
        world.put_pod("cut-off", injected=True)
        world.put_pod("calls", injected=True)
        world.put_pod("has-none")
        world.connected = {"calls"}
        await world.look()
        await world.wait(SILENT_SECONDS)
        within = _silent(world)
        world.woken.clear()
        await world.look()
        after, woken = _silent(world), list(world.woken)
        world.connected = {"cut-off"}
        await world.look()

        assert (within, after, woken) == (set(), {"cut-off"}, [KEY])
        assert _silent(world) == set()
        await world.wait(SILENT_SECONDS + LOOK_SECONDS)
        assert _silent(world) == {"calls"}


async def test_a_pod_that_has_not_started_is_not_waited_for() -> None:
    """Its sidecar may not run yet; that it waits is seen in the pod."""
    async with a_world() as world:
        world.put_pod("starting", injected=True)
        world.api.objects[f"{PODS}/starting"]["status"] = {"phase": "Pending"}
        await world.look()
        await world.wait(2 * SILENT_SECONDS)

        assert _silent(world) == set()


async def test_who_leads_anew_gives_sidecars_their_minute() -> None:
    """They have to find it first."""
    async with a_world() as world:
        world.put_pod("agent", injected=True)
        await world.look()
        await world.wait(2 * SILENT_SECONDS)
        before = _silent(world)
        world.leading = False
        await world.wait(PULSE_SECONDS)
        world.leading = True
        await world.wait(SILENT_SECONDS)

        assert (before, _silent(world)) == ({"agent"}, set())


async def test_sidecars_of_a_policy_that_allows_none_are_not_expected_to_call() -> None:
    """The control API refuses them."""
    async with a_world() as world:
        world.put_policy(placement={"sidecar": {"enabled": False}})
        world.put_pod("agent", injected=True)
        await world.look()
        await world.wait(2 * SILENT_SECONDS)

        assert _silent(world) == set()
