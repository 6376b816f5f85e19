"""The operator's Kubernetes adapter against a real API server: what it writes, and above all what it never touches."""

from __future__ import annotations

import asyncio
import json
import uuid
from collections.abc import AsyncGenerator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from flotilla_api.conditions import Reason
from flotilla_api.names import FIELD_MANAGER, MANAGED_BY, MANAGED_BY_LABEL
from flotilla_operator.adapters.client import Client, Connection
from flotilla_operator.adapters.clock import SystemClock
from flotilla_operator.adapters.feed import Feed
from flotilla_operator.adapters.kinds import KINDS
from flotilla_operator.adapters.kubernetes_cluster import KubernetesCluster, Surroundings
from flotilla_operator.adapters.store import Store
from flotilla_operator.ports import NotLeadingError, OutdatedError
from flotilla_operator.reconcile.dispatch import desired, references, verdict
from flotilla_operator.reconcile.plan import conflicts, plan
from flotilla_operator.reconcile.types import Event, Key, Manifest, ObjectRef, Observed, Plan, Step
from flotilla_operator.resources.settings import OperatorSettings
from flotilla_operator.telemetry import Telemetry
from localcluster.cluster import LocalCluster

CRDS = Path(__file__).parents[2] / "crds"
SETTINGS = OperatorSettings(
    engine_image="vllm/vllm-openai:v0.32.0", router_image="flotilla-router:1", control_url="https://control:9443"
)


@dataclass
class Adapter:
    """The adapter with its parts, on a real API server."""

    client: Client
    store: Store
    feed: Feed
    cluster: KubernetesCluster
    leading: bool = True
    woken: list[Key] = field(default_factory=list[Key])


@pytest.fixture(scope="module")
def api(control_plane: LocalCluster) -> LocalCluster:
    """A control plane with our CRDs."""
    control_plane.kubectl("apply", "--server-side", "-f", str(CRDS))
    control_plane.kubectl("wait", "--for=condition=Established", "crd", "--all", "--timeout=60s")
    return control_plane


@pytest.fixture
def place(api: LocalCluster) -> Iterator[str]:
    """A namespace of the test's own."""
    name = f"test-{uuid.uuid4().hex[:8]}"
    api.kubectl("create", "namespace", name)
    yield name
    api.kubectl("delete", "namespace", name, "--wait=false")


def connection_to(api: LocalCluster) -> Connection:
    """The administrator's connection."""
    return Connection(
        server=api.url,
        ca_path=str(api.ca_path),
        verify=True,
        server_name=None,
        client_certificate=None,
        authorization=lambda: f"Bearer {api.admin_token}",
    )


@asynccontextmanager
async def an_adapter(api: LocalCluster, namespace: str) -> AsyncGenerator[Adapter]:
    """An adapter whose store is filled from `namespace`."""
    clock, store, woken = SystemClock(), Store(references), list[Key]()
    async with Client(connection_to(api), Telemetry()) as client:
        feed = Feed(client, store, clock, namespaces=[namespace], wake=woken.append, watches_outdated=lambda: None)
        surroundings = Surroundings(
            settings=SETTINGS,
            acknowledgements=lambda key: (),
            agents=lambda key: (),
            control_ca=lambda: "-----BEGIN CERTIFICATE-----\n",
            leading=lambda: adapter.leading,
            leading_seconds=lambda: 3600.0,
            wake=woken.append,
            instance="operator-0",
        )
        adapter = Adapter(client, store, feed, KubernetesCluster(client, store, feed, clock, surroundings), woken=woken)
        await feed.fill()
        woken.clear()
        yield adapter


def create(api: LocalCluster, path: str, manifest: Manifest) -> Manifest:
    """The object as the administrator created it."""
    response = api.api.post(path, json=manifest)
    assert response.is_success, response.text
    return response.json()


def own(api: LocalCluster, key: Key, spec: dict[str, Any]) -> Manifest:
    """An object of our group."""
    manifest = {"apiVersion": "flotilla.dev/v1alpha1", "kind": key.kind, "metadata": {"name": key.name}, "spec": spec}
    return create(api, KINDS[key.kind].collection_path(key.namespace), manifest)


def a_policy(api: LocalCluster, namespace: str) -> Key:
    """A policy over one external fallback."""
    external = {"url": "https://api.example.com/v1", "model": "big-1"}
    own(api, Key("Fallback", namespace, "big"), {"external": external})
    policy = Key("RoutingPolicy", namespace, "router")
    own(api, policy, {"experts": [], "fallbacks": [{"name": "big"}], "auth": {"anonymous": True}})
    return policy


async def observe(adapter: Adapter, key: Key) -> Observed:
    """What the adapter sees; the owner exists."""
    observed = await adapter.cluster.observe(key)
    assert observed is not None
    return observed


async def carry_out(adapter: Adapter, key: Key) -> Observed:
    """Rounds as the runtime does them, without status, until one finds that nothing has changed under it."""
    while True:
        observed = await observe(adapter, key)
        try:
            assert not await adapter.cluster.execute(plan(desired(observed), observed))
        except OutdatedError:
            continue
        return observed


def config_map(namespace: str, name: str, **metadata: Any) -> Manifest:
    """A ConfigMap."""
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": name, "namespace": namespace, **metadata},
        "data": {"owner": "us"},
    }


async def test_children_are_created_once_and_then_the_plan_is_empty(api: LocalCluster, place: str) -> None:
    """The live objects, as the API server normalises them, are what was wanted."""
    async with an_adapter(api, place) as adapter:
        key = a_policy(api, place)
        await carry_out(adapter, key)

        observed = await observe(adapter, key)
        assert {child["kind"] for child in observed.children} >= {"Deployment", "ConfigMap", "Role", "Service"}
        assert plan(desired(observed), observed).steps == ()


async def test_what_is_created_belongs_to_one_field_manager(api: LocalCluster, place: str) -> None:
    """A field that is wanted no more goes away with the next apply, also if it was there from the creation."""
    async with an_adapter(api, place) as adapter:
        first = config_map(place, "mine") | {"data": {"kept": "1", "dropped": "1"}}
        await adapter.cluster.execute(Plan((Step("create", first, "new"),)))
        live = api.api.get(f"/api/v1/namespaces/{place}/configmaps/mine").json()
        second = config_map(place, "mine") | {"data": {"kept": "1"}}
        await adapter.cluster.execute(Plan((Step("apply", second, "changed", live["metadata"]["uid"]),)))

        assert api.api.get(f"/api/v1/namespaces/{place}/configmaps/mine").json()["data"] == {"kept": "1"}
        managers = {(each["manager"], each["operation"]) for each in live["metadata"]["managedFields"]}
        assert managers == {(FIELD_MANAGER, "Apply")}


async def test_a_stranger_under_a_childs_name_is_reported_and_never_touched(api: LocalCluster, place: str) -> None:
    """Somebody else's ConfigMap stays byte for byte what it was, and the condition can name it."""
    stranger = create(api, f"/api/v1/namespaces/{place}/configmaps", config_map(place, "router-snapshot"))
    async with an_adapter(api, place) as adapter:
        key = a_policy(api, place)
        observed = await carry_out(adapter, key)

        assert observed.strangers == {ObjectRef("ConfigMap", place, "router-snapshot")}
        assert [ObjectRef.of(failure.step.manifest).kind for failure in conflicts(desired(observed), observed)] == [
            "ConfigMap"
        ]
        assert api.api.get(f"/api/v1/namespaces/{place}/configmaps/router-snapshot").json() == stranger


async def test_a_stranger_that_bears_our_label_is_a_stranger(api: LocalCluster, place: str) -> None:
    """Only the controller reference makes a child ours."""
    labelled = config_map(place, "router-snapshot", labels={MANAGED_BY_LABEL: MANAGED_BY})
    create(api, f"/api/v1/namespaces/{place}/configmaps", labelled)
    async with an_adapter(api, place) as adapter:
        key = a_policy(api, place)

        assert ObjectRef("ConfigMap", place, "router-snapshot") in (await carry_out(adapter, key)).strangers


async def test_a_stranger_that_goes_away_makes_room(api: LocalCluster, place: str) -> None:
    """Once the name is free the child is created."""
    create(api, f"/api/v1/namespaces/{place}/configmaps", config_map(place, "router-snapshot"))
    async with an_adapter(api, place) as adapter:
        key = a_policy(api, place)
        await carry_out(adapter, key)
        api.api.delete(f"/api/v1/namespaces/{place}/configmaps/router-snapshot")
        await carry_out(adapter, key)

        assert (await observe(adapter, key)).strangers == frozenset()
        data = api.api.get(f"/api/v1/namespaces/{place}/configmaps/router-snapshot").json()["data"]
        assert "snapshot.json" in data


async def test_a_stranger_that_comes_between_observation_and_creation_is_not_adopted(
    api: LocalCluster, place: str
) -> None:
    """The creation itself conflicts; no live read can race with it."""
    async with an_adapter(api, place) as adapter:
        planned = Plan((Step("create", config_map(place, "mine"), "new"),))
        theirs = config_map(place, "mine") | {"data": {"owner": "they"}}
        stranger = create(api, f"/api/v1/namespaces/{place}/configmaps", theirs)

        with pytest.raises(OutdatedError):
            await adapter.cluster.execute(planned)
        assert api.api.get(f"/api/v1/namespaces/{place}/configmaps/mine").json() == stranger


@pytest.mark.parametrize("verb", ["apply", "delete"])
async def test_an_object_of_another_uid_is_neither_patched_nor_deleted(
    api: LocalCluster, place: str, verb: Any
) -> None:
    """What was observed is gone and its name is somebody else's: observe again."""
    theirs = create(api, f"/api/v1/namespaces/{place}/configmaps", config_map(place, "mine"))
    async with an_adapter(api, place) as adapter:
        step = Step(verb, config_map(place, "mine") | {"data": {"owner": "we"}}, "changed", str(uuid.uuid4()))

        with pytest.raises(OutdatedError):
            await adapter.cluster.execute(Plan((step,)))
        assert api.api.get(f"/api/v1/namespaces/{place}/configmaps/mine").json() == theirs


async def test_an_object_that_is_gone_is_not_created_by_a_patch(api: LocalCluster, place: str) -> None:
    """A patch of what was deleted meanwhile creates nothing."""
    async with an_adapter(api, place) as adapter:
        step = Step("apply", config_map(place, "mine"), "changed", str(uuid.uuid4()))

        with pytest.raises(OutdatedError):
            await adapter.cluster.execute(Plan((step,)))
        assert api.api.get(f"/api/v1/namespaces/{place}/configmaps/mine").status_code == 404


async def test_a_child_whose_label_was_taken_away_is_still_ours(api: LocalCluster, place: str) -> None:
    """It has left the watch, but a live read finds our controller reference on it, and the label comes back."""
    async with an_adapter(api, place) as adapter:
        key = a_policy(api, place)
        await carry_out(adapter, key)
        api.kubectl("label", "configmap", "router-snapshot", f"{MANAGED_BY_LABEL}-", "-n", place)
        live = api.api.get(f"/api/v1/namespaces/{place}/configmaps/router-snapshot").json()
        adapter.feed.receive(KINDS["ConfigMap"], "DELETED", live)

        observed = await carry_out(adapter, key)

        assert observed.strangers == frozenset()
        labels = api.api.get(f"/api/v1/namespaces/{place}/configmaps/router-snapshot").json()["metadata"]["labels"]
        assert labels[MANAGED_BY_LABEL] == MANAGED_BY


async def test_a_refusal_is_a_value_and_the_other_steps_are_carried_out(api: LocalCluster, place: str) -> None:
    """One object that the API server refuses does not keep the next from being written."""
    async with an_adapter(api, place) as adapter:
        bad = config_map(place, "Not-A-Name")
        steps = (Step("create", bad, "new"), Step("create", config_map(place, "good"), "new"))

        (failure,) = await adapter.cluster.execute(Plan(steps))

        assert failure.step.manifest is bad
        assert "Not-A-Name" in failure.message
        assert api.api.get(f"/api/v1/namespaces/{place}/configmaps/good").is_success


def an_expert(api: LocalCluster, namespace: str, **spec: Any) -> Key:
    """An Expert and its profile."""
    path = KINDS["AcceleratorProfile"].collection_path("")
    if not api.api.get(f"{path}/l4").is_success:
        profile = {"resource": "nvidia.com/gpu", "memoryGiB": 24}
        head = {"apiVersion": "flotilla.dev/v1alpha1", "kind": "AcceleratorProfile", "metadata": {"name": "l4"}}
        create(api, path, {**head, "spec": profile})
    key = Key("Expert", namespace, "invoice")
    own(api, key, {"model": {"uri": "hf://a/b"}, "accelerator": {"profile": "l4"}, **spec})
    return key


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        pytest.param(
            {"podOverrides": {"affinity": {"podAntiAfinity": {}}}},
            ".spec.template.spec.affinity.podAntiAfinity: field not declared in schema",
            id="a misspelt affinity",
        ),
        pytest.param(
            {"podOverrides": {"topologySpreadConstraints": [{"maxSkew": "one"}]}},
            ".spec.template.spec.topologySpreadConstraints",
            id="constraints of another form",
        ),
    ],
)
async def test_a_template_that_fits_no_schema_is_refused_for_good(
    api: LocalCluster, place: str, spec: dict[str, Any], expected: str
) -> None:
    """The API server calls it an internal error; the condition says what is wrong with which field."""
    async with an_adapter(api, place) as adapter:
        observed = await observe(adapter, an_expert(api, place, **spec))

        wanted = desired(observed)
        failures = await adapter.cluster.execute(plan(wanted, observed))

        conditions = {each["type"]: each for each in verdict(observed, wanted, failures).status["conditions"]}
        assert conditions["Accepted"]["status"] == conditions["Ready"]["status"] == "False"
        assert conditions["Accepted"]["reason"] == Reason.INVALID_POD_TEMPLATE
        assert expected in conditions["Accepted"]["message"]


@pytest.mark.parametrize(
    "patch",
    [
        pytest.param({"spec": {"template": {"spec": {"containers": [{"name": "spy", "image": "s"}]}}}}, id="container"),
        pytest.param(
            {
                "spec": {
                    "template": {"spec": {"containers": [{"name": "engine", "env": [{"name": "D", "value": "1"}]}]}}
                }
            },
            id="variable",
        ),
        pytest.param(
            {
                "spec": {
                    "template": {
                        "spec": {
                            "volumes": [{"name": "spy", "emptyDir": {"medium": "Memory"}}],
                            "containers": [{"name": "engine", "volumeMounts": [{"name": "spy", "mountPath": "/spy"}]}],
                        }
                    }
                }
            },
            id="volume and mount",
        ),
        pytest.param({"spec": {"template": {"spec": {"tolerations": [{"operator": "Exists"}]}}}}, id="toleration"),
        pytest.param(
            {
                "spec": {
                    "template": {
                        "spec": {
                            "nodeSelector": {"disk": "ssd"},
                            "affinity": {"podAntiAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": []}},
                            "priorityClassName": "high",
                            "runtimeClassName": "other",
                            "hostNetwork": True,
                            "hostPID": True,
                        }
                    }
                }
            },
            id="placement and the node's namespaces",
        ),
        pytest.param(
            {
                "spec": {
                    "template": {
                        "spec": {
                            "containers": [
                                {
                                    "name": "engine",
                                    "resources": {"limits": {"memory": "1Gi"}, "requests": {"cpu": "64"}},
                                }
                            ]
                        }
                    }
                }
            },
            id="limits and requests",
        ),
        pytest.param(
            {
                "spec": {
                    "template": {
                        "spec": {
                            "containers": [
                                {
                                    "name": "engine",
                                    "ports": [{"name": "debug", "containerPort": 5678}],
                                    "command": ["sh"],
                                }
                            ]
                        }
                    }
                }
            },
            id="port and command",
        ),
    ],
)
async def test_what_kubectl_patch_added_is_removed(api: LocalCluster, place: str, patch: Manifest) -> None:
    """The Deployment's spec is again what it was, to the last byte, and the plan is empty."""
    async with an_adapter(api, place) as adapter:
        key = an_expert(api, place)
        await carry_out(adapter, key)
        path = f"/apis/apps/v1/namespaces/{place}/deployments/invoice-expert"
        before = api.api.get(path).json()["spec"]
        api.kubectl("patch", "deployment", "invoice-expert", "-n", place, "-p", json.dumps(patch))
        adapter.feed.learn(KINDS["Deployment"], api.api.get(path).json())
        assert plan(desired(await observe(adapter, key)), await observe(adapter, key)).steps

        await carry_out(adapter, key)

        assert api.api.get(path).json()["spec"] == before
        observed = await observe(adapter, key)
        assert plan(desired(observed), observed).steps == ()


@pytest.mark.parametrize(
    "command",
    [
        pytest.param(("set", "env", "deploy/invoice-expert", "DEBUG=1"), id="set env"),
        pytest.param(("rollout", "pause", "deploy/invoice-expert"), id="rollout pause"),
    ],
)
async def test_what_kubectl_did_to_a_deployment_is_undone(api: LocalCluster, place: str, command: tuple[str]) -> None:
    """Commands that people reach for leave nothing behind that nobody sees."""
    async with an_adapter(api, place) as adapter:
        key = an_expert(api, place)
        await carry_out(adapter, key)
        path = f"/apis/apps/v1/namespaces/{place}/deployments/invoice-expert"
        before = api.api.get(path).json()["spec"]
        api.kubectl(*command, "-n", place)
        edited = api.api.get(path).json()
        assert edited["spec"] != before
        adapter.feed.learn(KINDS["Deployment"], edited)

        await carry_out(adapter, key)

        assert api.api.get(path).json()["spec"] == before


async def test_what_somebody_changes_between_observation_and_removal_is_not_lost(api: LocalCluster, place: str) -> None:
    """The patch replaces lists, so it is for one version; the next look sees the newer one."""
    async with an_adapter(api, place) as adapter:
        key = an_expert(api, place)
        await carry_out(adapter, key)
        path = f"/apis/apps/v1/namespaces/{place}/deployments/invoice-expert"
        api.kubectl("rollout", "pause", "deploy/invoice-expert", "-n", place)
        adapter.feed.learn(KINDS["Deployment"], api.api.get(path).json())
        observed = await observe(adapter, key)
        api.kubectl("annotate", "deployment", "invoice-expert", "note=kept", "-n", place)

        with pytest.raises(OutdatedError):
            await adapter.cluster.execute(plan(desired(observed), observed))
        await carry_out(adapter, key)

        live = api.api.get(path).json()
        assert live["metadata"]["annotations"]["note"] == "kept"
        assert "paused" not in live["spec"]


async def test_an_owner_counts_as_gone_only_after_a_live_read(api: LocalCluster, place: str) -> None:
    """A deletion event is a hint: while the API server has the object, it exists."""
    async with an_adapter(api, place) as adapter:
        key = a_policy(api, place)
        path = f"/apis/flotilla.dev/v1alpha1/namespaces/{place}/routingpolicies/router"
        adapter.feed.receive(KINDS["RoutingPolicy"], "DELETED", api.api.get(path).json())
        assert await adapter.cluster.observe(key) is not None

        api.api.delete(path)

        assert await adapter.cluster.observe(key) is None


async def test_references_that_the_store_lacks_are_read_live(api: LocalCluster, place: str) -> None:
    """A fallback that no event has told of yet, and one that does not exist, are told apart."""
    async with an_adapter(api, place) as adapter:
        key = a_policy(api, place)

        observed = await observe(adapter, key)
        found = observed.references[ObjectRef("Fallback", place, "big")]
        api.api.delete(f"/apis/flotilla.dev/v1alpha1/namespaces/{place}/fallbacks/big")

        assert found is not None
        assert found["spec"]["external"]["model"] == "big-1"
        assert (await observe(adapter, key)).references[ObjectRef("Fallback", place, "big")] is None


async def test_status_is_written_whole_and_wakes_who_names_the_owner(api: LocalCluster, place: str) -> None:
    """A field that the new status lacks is gone, the spec is untouched, and policies look again."""
    async with an_adapter(api, place) as adapter:
        key = a_policy(api, place)
        await adapter.feed._sweep()  # pyright: ignore[reportPrivateUsage]
        fallback = await observe(adapter, Key("Fallback", place, "big"))
        await adapter.cluster.write_status(fallback.owner, {"observedGeneration": 1, "model": "big-1"})
        fallback = await observe(adapter, Key("Fallback", place, "big"))
        adapter.woken.clear()

        await adapter.cluster.write_status(fallback.owner, {"observedGeneration": 1})

        live = api.api.get(f"/apis/flotilla.dev/v1alpha1/namespaces/{place}/fallbacks/big").json()
        assert live["status"] == {"observedGeneration": 1}
        assert live["metadata"]["generation"] == 1
        assert adapter.woken == [key]


async def test_the_status_of_a_successor_is_not_written(api: LocalCluster, place: str) -> None:
    """An owner that was deleted and made anew is observed anew; the store knows it by then."""
    async with an_adapter(api, place) as adapter:
        a_policy(api, place)
        key = Key("Fallback", place, "big")
        await adapter.feed._sweep()  # pyright: ignore[reportPrivateUsage]
        before = await observe(adapter, key)
        api.api.delete(f"/apis/flotilla.dev/v1alpha1/namespaces/{place}/fallbacks/big")
        external = {"url": "https://api.example.com/v1", "model": "big-2"}
        successor = own(api, key, {"external": external})

        with pytest.raises(OutdatedError):
            await adapter.cluster.write_status(before.owner, {"observedGeneration": 1})

        assert (await observe(adapter, key)).owner["metadata"]["uid"] == successor["metadata"]["uid"]


async def test_events_are_recorded_about_the_owner(api: LocalCluster, place: str) -> None:
    """`kubectl describe` shows them."""
    async with an_adapter(api, place) as adapter:
        key = a_policy(api, place)
        observed = await observe(adapter, key)
        ref, uid = ObjectRef.of(observed.owner), observed.owner["metadata"]["uid"]
        await adapter.cluster.emit(ref, uid, [Event("Warning", "NoReadyModel", "x" * 5000)])

        (event,) = api.api.get(f"/api/v1/namespaces/{place}/events").json()["items"]
        assert (event["reason"], event["type"], event["involvedObject"]["uid"]) == ("NoReadyModel", "Warning", uid)


async def test_a_replica_without_the_lease_writes_nothing(api: LocalCluster, place: str) -> None:
    """Every kind of write asks for the Lease."""
    async with an_adapter(api, place) as adapter:
        key = a_policy(api, place)
        observed = await observe(adapter, key)
        adapter.leading = False

        with pytest.raises(NotLeadingError):
            await adapter.cluster.execute(Plan((Step("create", config_map(place, "mine"), "new"),)))
        with pytest.raises(NotLeadingError):
            await adapter.cluster.write_status(observed.owner, {})
        await adapter.cluster.emit(ObjectRef.of(observed.owner), "uid", [Event("Normal", "Ready", "it answers")])
        assert api.api.get(f"/api/v1/namespaces/{place}/configmaps/mine").status_code == 404
        assert api.api.get(f"/api/v1/namespaces/{place}/events").json()["items"] == []


async def test_pods_are_ours_only_through_our_replica_sets(api: LocalCluster, place: str) -> None:
    """A pod that wears our labels becomes no endpoint."""
    async with an_adapter(api, place) as adapter:
        key = a_policy(api, place)
        await adapter.feed._sweep()  # pyright: ignore[reportPrivateUsage]
        observed = await carry_out(adapter, key)
        deployment = next(m for m in desired(observed) if m["kind"] == "Deployment")
        labels = deployment["spec"]["template"]["metadata"]["labels"]
        container = {"name": "c", "image": "i"}
        impostor: Manifest = {"metadata": {"name": "impostor", "labels": labels}, "spec": {"containers": [container]}}
        create(api, f"/api/v1/namespaces/{place}/pods", impostor)
        await asyncio.to_thread(api.wait_for, lambda: len(pods_of(api, place)) == 3, "three pods")
        await adapter.feed._sweep()  # pyright: ignore[reportPrivateUsage]

        names = {pod["metadata"]["name"] for pod in (await observe(adapter, key)).pods}
        assert len(names) == 2
        assert "impostor" not in names


async def test_warnings_are_read_for_pods_that_are_not_ready_newest_last(api: LocalCluster, place: str) -> None:
    """The scheduler's own words reach the observation, and a warning that came later comes later."""
    async with an_adapter(api, place) as adapter:
        key = a_policy(api, place)
        await adapter.feed._sweep()  # pyright: ignore[reportPrivateUsage]
        await carry_out(adapter, key)
        await asyncio.to_thread(api.wait_for, lambda: len(pods_of(api, place)) == 2, "two pods")
        await adapter.feed._sweep()  # pyright: ignore[reportPrivateUsage]
        pod = (await observe(adapter, key)).pods[0]["metadata"]
        involved = {"kind": "Pod", "namespace": place, "name": pod["name"], "uid": pod["uid"]}
        for name, moment in (("a", "2030-01-02T00:00:00Z"), ("b", "2030-01-01T00:00:00Z")):
            event: Manifest = {"metadata": {"name": name}, "involvedObject": involved, "type": "Warning"}
            create(api, f"/api/v1/namespaces/{place}/events", {**event, "reason": name, "lastTimestamp": moment})

        warnings = (await observe(adapter, key)).warnings
        ours = [event["reason"] for event in warnings if event["involvedObject"]["uid"] == pod["uid"]]
        assert ours[-2:] == ["b", "a"]
        assert all(event["type"] == "Warning" for event in warnings)


async def test_warnings_about_evicted_pods_are_not_read(api: LocalCluster, place: str) -> None:
    """They stay as Failed by the thousand, and must not crowd out those that replace them."""
    async with an_adapter(api, place) as adapter:
        key = a_policy(api, place)
        await adapter.feed._sweep()  # pyright: ignore[reportPrivateUsage]
        await carry_out(adapter, key)
        await asyncio.to_thread(api.wait_for, lambda: len(pods_of(api, place)) == 2, "two pods")
        evicted = pods_of(api, place)[0]["metadata"]
        status = '{"status": {"phase": "Failed", "reason": "Evicted", "message": "low on memory"}}'
        api.kubectl("patch", "pod", evicted["name"], "-n", place, "--subresource=status", "-p", status)
        involved = {"kind": "Pod", "namespace": place, "name": evicted["name"], "uid": evicted["uid"]}
        event: Manifest = {
            "metadata": {"name": "e"},
            "involvedObject": involved,
            "type": "Warning",
            "reason": "Evicted",
        }
        create(api, f"/api/v1/namespaces/{place}/events", event)
        await adapter.feed._sweep()  # pyright: ignore[reportPrivateUsage]

        observed = await observe(adapter, key)
        assert evicted["uid"] in {pod["metadata"]["uid"] for pod in observed.pods}
        assert evicted["uid"] not in {event["involvedObject"]["uid"] for event in observed.warnings}


def pods_of(api: LocalCluster, namespace: str) -> list[Manifest]:
    """Live pods."""
    return api.api.get(f"/api/v1/namespaces/{namespace}/pods").json()["items"]
