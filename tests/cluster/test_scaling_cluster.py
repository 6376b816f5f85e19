"""The scaler on a real API server: it takes the number over without a dip, writes nothing else, and steps back."""

from __future__ import annotations

import asyncio
import json
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest
from operator_world import Manifest, Replica, World
from scaled_expert import DEPLOYMENT, ask, create, given_away, live, managers, numbers, replicas

from e2e.gateway import sample_sum
from flotilla_api import metrics
from flotilla_api.names import DELETION_COST_ANNOTATION, FIELD_MANAGER, SCALER_MANAGER
from flotilla_operator.acting import Actor
from flotilla_operator.adapters.client import Client, Connection
from flotilla_operator.adapters.clock import SystemClock
from flotilla_operator.adapters.feed import Feed
from flotilla_operator.adapters.kinds import ref_of
from flotilla_operator.adapters.scale import KubernetesScales, Reach
from flotilla_operator.adapters.store import Store
from flotilla_operator.ledger import Ledger, Moment
from flotilla_operator.ports import OutdatedError
from flotilla_operator.reconcile.dispatch import references
from flotilla_operator.reconcile.scaled import ScaledExpert
from flotilla_operator.reconcile.types import Key
from flotilla_operator.scaling.fleet import PodSignals
from flotilla_operator.scaling.signals import Known
from flotilla_operator.scaling.victims import VICTIM_COST
from flotilla_operator.telemetry import Telemetry

STATUS = {"Content-Type": "application/merge-patch+json"}


def told_to_have(number: int) -> Manifest:
    """A spec under which the scaler wants a number that does not depend on anything measured."""
    until = f"{datetime.now(UTC) + timedelta(hours=1):%Y-%m-%dT%H:%M:%SZ}"
    return {"scaling": {"min": 0, "max": 8, "override": {"replicas": number, "until": until}}}


def counted(replica: Replica, name: str, **labels: str) -> float:
    """A metric of the operator's."""
    return sample_sum(httpx.get(f"{replica.admin}/metrics", timeout=10).text, name, labels)


def writes(replica: Replica) -> float:
    """To the Kubernetes API, those of the Lease apart."""
    every = counted(replica, metrics.OPERATOR_API_WRITES)
    return every - counted(replica, metrics.OPERATOR_API_WRITES, resource="leases")


def ticks(replica: Replica) -> float:
    """How often the scaler has looked."""
    return counted(replica, f"{metrics.SCALER_TICK_SECONDS}_count")


def condition(world: World, kind: str) -> Manifest:
    """One of the Expert's conditions; {} where it has none."""
    conditions: list[Manifest] = world.own("experts", "invoice").get("status", {}).get("conditions") or []
    nothing: Manifest = {}
    return next((each for each in conditions if each["type"] == kind), nothing)


def test_the_scaler_takes_the_number_over_and_gives_it_back_without_a_dip(world: World) -> None:
    """Every number that the Deployment ever has is one that a spec asked for."""
    world.start()
    first = create(world, replicas=3)

    ask(world, **told_to_have(3))
    world.until(lambda: given_away(world), "the reconciler to leave the number")
    ask(world, **told_to_have(5))
    world.until(lambda: replicas(world) == 5, "more replicas")
    ask(world, **told_to_have(0))
    world.until(lambda: replicas(world) == 0, "none")
    ask(world, replicas=2)
    world.until(lambda: replicas(world) == 2, "the spec's number")

    assert numbers(world, first) == [3, 5, 0, 2]
    assert FIELD_MANAGER in managers(world)


def test_the_scaler_writes_nothing_at_rest(world: World) -> None:
    """Tick after tick the number is right: nothing is written, and no object gets a new version."""
    replica = world.start()
    create(world, **told_to_have(2))
    world.until(lambda: given_away(world), "the reconciler to leave the number")
    settled = ticks(replica) + 2
    world.until(lambda: ticks(replica) >= settled, "the beginnings to be over")

    before, versions = writes(replica), [live(world), world.own("experts", "invoice")]
    world.until(lambda: ticks(replica) >= settled + 2, "two more ticks")

    assert writes(replica) == before
    assert [live(world), world.own("experts", "invoice")] == versions


def test_another_autoscaler_on_the_deployment_is_left_alone_and_named(world: World) -> None:
    """Two writers of one number would fight for ever."""
    world.start()
    create(world, **told_to_have(2))
    world.until(lambda: managers(world) == frozenset({SCALER_MANAGER}), "the scaler to own the number")
    autoscaler: Manifest = {
        "apiVersion": "autoscaling/v2",
        "kind": "HorizontalPodAutoscaler",
        "metadata": {"name": "theirs"},
        "spec": {
            "scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": DEPLOYMENT},
            "maxReplicas": 6,
        },
    }
    world.create(f"/apis/autoscaling/v2/namespaces/{world.namespace}/horizontalpodautoscalers", autoscaler)
    world.until(
        lambda: condition(world, "ScalingActive").get("reason") == "OtherAutoscaler", "the scaler to notice", 120
    )

    world.cluster.kubectl("scale", f"deployment/{DEPLOYMENT}", "--replicas=6", "-n", world.namespace)
    first = live(world)
    ask(world, **told_to_have(4))
    world.until(lambda: world.own("experts", "invoice")["status"]["scaling"]["recommended"] == 4, "the new number")

    assert numbers(world, first) == [6]
    assert "HorizontalPodAutoscaler" in condition(world, "ScalingActive")["message"]


# The adapter and who goes first, without the operator's process


def a_client(world: World) -> Client:
    """The administrator's."""
    connection = Connection(
        server=world.cluster.url,
        ca_path=str(world.cluster.ca_path),
        verify=True,
        server_name=None,
        client_certificate=None,
        authorization=lambda: f"Bearer {world.cluster.admin_token}",
    )
    return Client(connection, Telemetry())


async def look(client: Client, world: World) -> tuple[KubernetesScales, ScaledExpert]:
    """The Expert as the API server has it now."""
    store = Store(references)
    feed = Feed(
        client,
        store,
        SystemClock(),
        namespaces=[world.namespace],
        wake=lambda key: None,
        watches_outdated=lambda: None,
    )
    await feed.fill()
    reach = Reach(leading=lambda: True, namespaces=lambda: [world.namespace], unreadable=dict[str, str])
    scales = KubernetesScales(client, store, reach)
    key = Key("Expert", world.namespace, "invoice")
    assert store.get(ref_of(key))
    found = scales.find(key)
    assert found is not None
    return scales, found


def pods(world: World) -> list[Manifest]:
    """The Deployment's."""
    items: list[Manifest] = world.get(f"/api/v1/namespaces/{world.namespace}/pods")["items"]
    return [pod for pod in items if not pod["metadata"].get("deletionTimestamp")]


def make_ready(world: World, pod: Manifest) -> None:
    """As a kubelet would say; all are as old, so that nothing but their cost tells them apart."""
    name = pod["metadata"]["name"]
    since = "2026-01-01T00:00:00Z"
    status: dict[str, Any] = {
        "phase": "Running",
        "podIP": "127.0.0.1",
        "conditions": [{"type": "Ready", "status": "True", "lastTransitionTime": since}],
    }
    path = f"/api/v1/namespaces/{world.namespace}/pods/{name}/status"
    answer = world.cluster.api.patch(path, headers=STATUS, content=json.dumps({"status": status}))
    assert answer.is_success, answer.text


def _marked(metadata: Manifest) -> str:
    """The pod's name, where it is to go first."""
    annotations: dict[str, str] = metadata.get("annotations") or {}
    return metadata["name"] if annotations.get(DELETION_COST_ANNOTATION) == VICTIM_COST else ""


@pytest.mark.parametrize("idle", [0, 1, 2])
async def test_the_pod_that_does_least_goes_first(world: World, idle: int) -> None:
    """Its deletion cost makes the ReplicaSet choose it, whichever it would have been."""
    replica = world.start()
    await asyncio.to_thread(create, world, replicas=3)
    await asyncio.to_thread(world.until, lambda: len(pods(world)) == 3, "three pods")
    replica.process.terminate()
    await asyncio.to_thread(replica.process.wait, 30)
    ask(world, **told_to_have(2))
    found = sorted(pods(world), key=lambda pod: pod["metadata"]["name"])
    for pod in found:
        make_ready(world, pod)
    names = [pod["metadata"]["name"] for pod in found]
    measured = [PodSignals(name, Known(0.0 if name == names[idle] else 4.0), Known(0.0)) for name in names]

    async with a_client(world) as client:
        scales, expert = await look(client, world)
        ledger, now = Ledger(expert), Moment(datetime.now(UTC).timestamp(), 0.0)
        ledger.look(expert, now)
        assert await Actor(scales, lambda: now).act(ledger, 2, measured)
    marked = [pod["metadata"] for pod in world.get(f"/api/v1/namespaces/{world.namespace}/pods")["items"]]

    assert {name for name in map(_marked, marked) if name} <= {names[idle]}
    await asyncio.to_thread(world.until, lambda: len(pods(world)) == 2, "two pods")
    assert names[idle] not in [pod["metadata"]["name"] for pod in pods(world)]


async def test_a_number_meant_for_a_deployment_that_was_made_anew_is_refused(world: World) -> None:
    """By its uid."""
    world.start()
    await asyncio.to_thread(create, world, **told_to_have(2))
    await asyncio.to_thread(world.until, lambda: given_away(world), "the reconciler to leave the number")

    async with a_client(world) as client:
        scales, expert = await look(client, world)
        before = live(world)["metadata"]["uid"]
        world.cluster.kubectl("delete", "deployment", DEPLOYMENT, "-n", world.namespace)
        await asyncio.to_thread(
            world.until, lambda: (live(world).get("metadata") or {"uid": before})["uid"] != before, "a new Deployment"
        )

        with pytest.raises(OutdatedError):
            await scales.scale(expert, 8)

    assert replicas(world) != 8
