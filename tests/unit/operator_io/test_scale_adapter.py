"""The `ScaleTargets` port on a fake API server: who is scaled, what was written, and who else scales."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import pytest

from builders import NAMESPACE, a_fallback, a_policy, a_profile, a_ready_pod, an_expert
from fakes.apiserver import FakeApiServer, running_api_server
from flotilla_api.names import ASLEEP_ANNOTATION, SCALER_MANAGER
from flotilla_operator.adapters.client import Client, Connection
from flotilla_operator.adapters.kinds import AUTOSCALER, KINDS, ref_of
from flotilla_operator.adapters.scale import KubernetesScales, Reach
from flotilla_operator.adapters.store import Store
from flotilla_operator.ports import NotLeadingError, UnavailableError
from flotilla_operator.reconcile.dispatch import references
from flotilla_operator.reconcile.scaled import ScaledExpert
from flotilla_operator.reconcile.types import Key, Manifest, ObjectRef
from flotilla_operator.telemetry import Telemetry

EXPERT = Key("Expert", NAMESPACE, "invoice")
DEPLOYMENT = ObjectRef("Deployment", NAMESPACE, "invoice-expert")
SCALING = {"min": 0, "max": 4}


@dataclass
class World:
    """The adapter and what it stands on."""

    api: FakeApiServer
    store: Store
    scales: KubernetesScales
    telemetry: Telemetry
    leading: bool = True
    namespaces: Sequence[str] = ()
    unreadable: Mapping[str, str] = field(default_factory=dict[str, str])

    def put(self, manifest: Manifest) -> Manifest:
        """The object is in the cluster and in the store."""
        kind, ref = KINDS[manifest["kind"]], ObjectRef.of(manifest)
        stored = self.api.put(kind.path(ref.namespace, ref.name), manifest)
        self.store.apply(stored)
        return stored

    def deploy(self, replicas: int = 2, *managers: str) -> Manifest:
        """The Expert's Deployment, whose number has these owners beside the reconciler."""
        owner = self.store.get(ref_of(EXPERT))
        assert owner is not None
        controller = {"kind": "Expert", "name": "invoice", "uid": owner["metadata"]["uid"], "controller": True}
        entries: list[Manifest] = [
            {"manager": each, "operation": "Apply", "fieldsV1": {"f:spec": {"f:replicas": {}}}}
            for each in ("flotilla", *managers)
        ]
        metadata: Manifest = {
            "name": DEPLOYMENT.name,
            "namespace": NAMESPACE,
            "ownerReferences": [controller],
            "managedFields": entries,
        }
        return self.put(
            {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": metadata, "spec": {"replicas": replicas}}
        )

    def find(self) -> ScaledExpert:
        """The Expert."""
        found = self.scales.find(EXPERT)
        assert found is not None
        return found

    def add_autoscaler(self, kind: str = "Deployment", namespace: str = NAMESPACE) -> None:
        """One that somebody made."""
        target = {"apiVersion": "apps/v1", "kind": kind, "name": DEPLOYMENT.name}
        metadata = {"name": "mine", "namespace": namespace}
        item = {"metadata": metadata, "spec": {"scaleTargetRef": target}}
        self.api.put(AUTOSCALER.path("", f"{namespace}-mine"), item)
        self.api.put(AUTOSCALER.path(namespace, "mine"), item)


@asynccontextmanager
async def a_world() -> AsyncGenerator[World]:
    """A scaled Expert that a policy with a fallback names."""
    async with running_api_server() as api:
        telemetry = Telemetry()
        connection = Connection(
            api.url, None, verify=True, server_name=None, client_certificate=None, authorization=lambda: None
        )
        async with Client(connection, telemetry) as client:
            store = Store(references)
            reach = Reach(
                leading=lambda: world.leading,
                namespaces=lambda: world.namespaces,
                unreadable=lambda: world.unreadable,
            )
            world = World(api, store, KubernetesScales(client, store, reach), telemetry)
            expert = an_expert(scaling=SCALING)
            for manifest in (expert, a_policy(), a_fallback(), a_profile(), an_expert("other", replicas=1)):
                world.put(manifest)
            yield world


async def test_only_experts_with_scaling_are_scaled() -> None:
    """An Expert's own number is nobody else's business."""
    async with a_world() as world:
        assert [scaled.key for scaled in world.scales.experts()] == [EXPERT]


@pytest.mark.parametrize("gone", ["unreadable", "deleted"])
async def test_an_expert_that_is_leaving_or_cannot_be_read_is_not_scaled(gone: str) -> None:
    """What is known of it is old, or about to be nothing."""
    async with a_world() as world:
        if gone == "unreadable":
            world.unreadable = {NAMESPACE: "no Role"}
        else:
            expert = an_expert(scaling=SCALING)
            world.put(expert | {"metadata": expert["metadata"] | {"deletionTimestamp": "2026-01-01T00:00:00Z"}})

        assert world.scales.experts() == ()


async def test_an_expert_is_seen_with_what_its_price_depends_on() -> None:
    """Its profile, the policies that name it and their fallbacks; nobody else's."""
    async with a_world() as world:
        world.put(a_fallback("unrelated"))

        around = {ref.kind: ref.name for ref in world.find().around}

        assert around == {"AcceleratorProfile": "l4", "RoutingPolicy": "billing", "Fallback": "big"}


@pytest.mark.parametrize(
    ("managers", "owned", "writer"),
    [
        pytest.param((), False, "", id="the reconciler alone"),
        pytest.param((SCALER_MANAGER,), True, "", id="the scaler"),
        pytest.param(("kubectl-scale",), True, "kubectl-scale", id="somebody else"),
    ],
)
async def test_who_owns_the_number_is_known(managers: tuple[str, ...], owned: bool, writer: str) -> None:
    """While the reconciler alone does, its next apply would reset it."""
    async with a_world() as world:
        world.deploy(3, *managers)

        found = world.find()

        assert (found.replicas, found.owned, found.last_writer) == (3, owned, writer)


async def test_a_deployment_of_somebody_else_is_not_scaled() -> None:
    """A name alone makes it not ours."""
    async with a_world() as world:
        deployment = world.deploy()
        world.put(deployment | {"metadata": deployment["metadata"] | {"ownerReferences": []}})

        assert world.find().deployment is None


async def test_what_was_written_holds_until_the_watch_tells_of_it() -> None:
    """Else the next look would take the old number for somebody's change."""
    async with a_world() as world:
        deployment = world.deploy(2)
        path = KINDS["Deployment"].path(NAMESPACE, DEPLOYMENT.name)
        world.api.objects[f"{path}/scale"] = deployment

        await world.scales.scale(world.find(), 5)
        assert (world.find().replicas, world.find().owned) == (5, True)
        world.deploy(7, "kubectl-scale")

        assert (world.find().replicas, world.find().last_writer) == (7, "kubectl-scale")
        assert ("PATCH", f"{path}/scale") in world.api.requests


async def test_a_number_is_written_about_one_deployment_and_no_other() -> None:
    """By its uid, so that one which was made anew under the name is not meant."""
    async with a_world() as world:
        deployment = world.deploy(2)
        path = KINDS["Deployment"].path(NAMESPACE, DEPLOYMENT.name)
        world.api.objects[f"{path}/scale"] = deployment

        await world.scales.scale(world.find(), 5)

        written = world.api.objects[f"{path}/scale"]
        assert written["metadata"]["uid"] == deployment["metadata"]["uid"]
        assert (written["kind"], written["spec"]) == ("Scale", {"replicas": 5})


async def test_nothing_is_written_without_the_lease() -> None:
    """Another replica decides."""
    async with a_world() as world:
        world.deploy()
        pod = world.put(a_ready_pod(an_expert()))
        world.leading = False

        with pytest.raises(NotLeadingError):
            await world.scales.scale(world.find(), 5)
        with pytest.raises(NotLeadingError):
            await world.scales.annotate(pod, {ASLEEP_ANNOTATION: "true"})

        assert {method for method, _ in world.api.requests} <= {"GET"}


@pytest.mark.parametrize("namespaces", [(), (NAMESPACE,)])
async def test_other_autoscalers_are_found_by_the_deployment_that_they_scale(namespaces: Sequence[str]) -> None:
    """In all served namespaces; KEDA makes such objects too."""
    async with a_world() as world:
        world.namespaces = namespaces
        world.add_autoscaler()

        await world.scales.look_for_others()

        assert world.find().other_scaler == f"HorizontalPodAutoscaler {NAMESPACE}/mine"


async def test_autoscalers_of_other_kinds_are_no_matter() -> None:
    """A StatefulSet may have the same name."""
    async with a_world() as world:
        world.add_autoscaler("StatefulSet")

        await world.scales.look_for_others()

        assert not world.find().other_scaler


async def test_autoscalers_that_cannot_be_listed_are_as_they_were(caplog: pytest.LogCaptureFixture) -> None:
    """And that is told of once, not every minute."""
    async with a_world() as world:
        world.add_autoscaler()
        await world.scales.look_for_others()
        found = world.find().other_scaler
        forbidden = {"code": 403, "reason": "Forbidden", "message": "no right"}
        world.api.failures["GET", AUTOSCALER.collection_path("")] = forbidden

        for _ in range(3):
            await world.scales.look_for_others()

        assert world.find().other_scaler == found
        assert len([record for record in caplog.records if record.message == "autoscalers not listed"]) == 1


async def test_autoscalers_that_have_never_been_listed_are_not_known_to_be_none() -> None:
    """An API server that was broken at that moment is asked again; those that were found elsewhere are known."""
    async with a_world() as world:
        world.namespaces = ("broken", NAMESPACE)
        world.add_autoscaler()
        broken = {"code": 503, "reason": "ServiceUnavailable", "message": "etcd is slow"}
        world.api.failures["GET", AUTOSCALER.collection_path("broken")] = broken

        with pytest.raises(UnavailableError):
            await world.scales.look_for_others()

        assert world.find().other_scaler


async def test_autoscalers_that_may_not_be_listed_are_taken_for_none() -> None:
    """A right that is missing stays missing: scaling cannot wait for it."""
    async with a_world() as world:
        forbidden = {"code": 403, "reason": "Forbidden", "message": "no right"}
        world.api.failures["GET", AUTOSCALER.collection_path("")] = forbidden

        await world.scales.look_for_others()

        assert not world.find().other_scaler


async def test_a_write_that_the_api_server_cannot_take_is_an_error() -> None:
    """Whoever asked tries again."""
    async with a_world() as world:
        world.deploy()
        path = KINDS["Deployment"].path(NAMESPACE, DEPLOYMENT.name)
        world.api.failures["PATCH", f"{path}/scale"] = {"code": 429, "reason": "TooManyRequests", "message": "later"}

        with pytest.raises(UnavailableError):
            await world.scales.scale(world.find(), 5)

        assert world.find().replicas == 2
