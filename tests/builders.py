"""Objects for tests: each builder gives a valid, small one, and names only what a test is about."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any, cast

from flotilla_api.meta import API_VERSION
from flotilla_api.names import FIELD_MANAGER, POD_HASH_ANNOTATION, selector_labels
from flotilla_operator.reconcile import dispatch
from flotilla_operator.reconcile.plan import plan
from flotilla_operator.reconcile.types import (
    Acknowledgement,
    Manifest,
    ObjectRef,
    Observed,
    OperatorSettings,
    StepFailure,
    Verdict,
)
from flotilla_operator.resources.quantity import parse_quantity
from flotilla_operator.resources.replicas import replica_managers

NAMESPACE = "agents"
NOW = datetime(2026, 11, 23, 12, 0, 0, tzinfo=UTC)
SETTINGS = OperatorSettings(
    engine_image="vllm/vllm-openai:v0.32.0",
    router_image="flotilla-router:0.1.0",
    control_url="https://flotilla-control.flotilla-system.svc:9443",
)


# Owners and what they refer to


def an_expert(name: str = "invoice", *, generation: int = 1, **spec: Any) -> Manifest:
    """An Expert on one L4; `spec` replaces top-level fields."""
    return _owner("Expert", name, generation, _served_spec() | spec)


def a_fallback(
    name: str = "big", *, generation: int = 1, cost: Mapping[str, str] | None = None, **external: Any
) -> Manifest:
    """A Fallback behind an API; `external` replaces fields of spec.external."""
    base = {"url": "https://api.example.com/v1", "model": "big-1"}
    spec: Manifest = {"external": base | external} | ({"cost": dict(cost)} if cost else {})
    return _owner("Fallback", name, generation, spec)


def a_served_fallback(name: str = "large", *, generation: int = 1, **served: Any) -> Manifest:
    """A Fallback in the cluster; `served` replaces fields of spec.served."""
    return _owner("Fallback", name, generation, {"served": _served_spec() | served})


def a_policy(name: str = "billing", *, generation: int = 1, **spec: Any) -> Manifest:
    """A RoutingPolicy with one expert and one fallback that anyone may call; `spec` replaces top-level fields."""
    base: Manifest = {
        "experts": [{"name": "invoice"}],
        "fallbacks": [{"name": "big"}],
        "auth": {"anonymous": True},
    }
    return _owner("RoutingPolicy", name, generation, base | spec)


def a_wide_rule(name: str) -> Manifest:
    """A rule of a policy with as much text as the schema takes: eight headers of 8 KiB of values each."""
    headers = [{"name": f"x-{header}", "in": [f"{value:0256}" for value in range(32)]} for header in range(8)]
    return {"name": name, "when": {"headers": headers}}


def a_profile(name: str = "l4", **spec: Any) -> Manifest:
    """An AcceleratorProfile of an L4 pool; `spec` replaces fields."""
    base: Manifest = {
        "resource": "nvidia.com/gpu",
        "memoryGiB": 24,
        "hourlyUSD": "0.80",
        "nodeSelector": {"nvidia.com/gpu.product": "NVIDIA-L4"},
        "tolerations": [{"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}],
    }
    return {
        "apiVersion": API_VERSION,
        "kind": "AcceleratorProfile",
        "metadata": {"name": name, "uid": f"uid-{name}", "generation": 1},
        "spec": base | spec,
    }


def _served_spec() -> Manifest:
    return {
        "model": {"uri": "hf://Qwen/Qwen2.5-1.5B-Instruct", "parameters": "1.5B"},
        "accelerator": {"profile": "l4"},
    }


def _owner(kind: str, name: str, generation: int, spec: Manifest) -> Manifest:
    metadata = {"name": name, "namespace": NAMESPACE, "uid": f"uid-{kind}-{name}", "generation": generation}
    return {"apiVersion": API_VERSION, "kind": kind, "metadata": metadata, "spec": spec}


def with_status(owner: Manifest, status: Manifest) -> Manifest:
    """The owner as it is stored after `status` was written."""
    return owner | {"status": copy.deepcopy(status)}


# Pods


def a_pod(owner: Manifest, name: str = "a", *, template: Manifest | None = None, **status: Any) -> Manifest:
    """A pod of `owner` with a node; `template` is the one it was made from, `status` replaces fields of its status."""
    metadata = {
        "name": f"{owner['metadata']['name']}-{name}",
        "namespace": owner["metadata"]["namespace"],
        "uid": f"uid-pod-{owner['metadata']['name']}-{name}",
        "labels": selector_labels(owner["kind"], owner["metadata"]["name"]),
        "annotations": {POD_HASH_ANNOTATION: pod_hash(template) if template else "of-another-template"},
    }
    base: Manifest = {"phase": "Pending", "conditions": [_condition("PodScheduled", "True")]}
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": metadata,
        "spec": {"nodeName": "gpu-1", "containers": []},
        "status": base | status,
    }


def a_ready_pod(
    owner: Manifest, name: str = "a", *, ip: str = "10.0.0.1", template: Manifest | None = None
) -> Manifest:
    """A pod that answers."""
    conditions = [_condition("PodScheduled", "True"), _condition("Ready", "True")]
    container = _container_name(owner)
    statuses = [{"name": container, "started": True, "ready": True, "state": {"running": {"startedAt": ago(600)}}}]
    return a_pod(
        owner, name, template=template, phase="Running", podIP=ip, conditions=conditions, containerStatuses=statuses
    )


def an_unscheduled_pod(owner: Manifest, message: str, name: str = "a", *, template: Manifest | None = None) -> Manifest:
    """A pod for which the scheduler found no node."""
    condition = _condition("PodScheduled", "False") | {"reason": "Unschedulable", "message": message}
    pod = a_pod(owner, name, template=template, conditions=[condition])
    return pod | {"spec": {"containers": []}}


def a_starting_pod(
    owner: Manifest,
    name: str = "a",
    *,
    template: Manifest | None = None,
    since_seconds: float = 30,
    ended: Manifest | None = None,
) -> Manifest:
    """A pod whose container runs and has not answered yet; `ended` is how its last try ended."""
    state: Manifest = {"name": _container_name(owner), "started": False, "ready": False}
    state["state"] = {"running": {"startedAt": ago(since_seconds)}}
    state |= {"lastState": {"terminated": ended}, "restartCount": 1} if ended else {}
    return a_pod(owner, name, template=template, phase="Running", podIP="10.0.0.9", containerStatuses=[state])


def a_waiting_pod(
    owner: Manifest,
    reason: str,
    message: str = "",
    *,
    container: str | None = None,
    ended: Manifest | None = None,
    template: Manifest | None = None,
) -> Manifest:
    """A pod whose container (or init container `fetch`) waits for `reason`."""
    name = container or _container_name(owner)
    state: Manifest = {"name": name, "image": "registry.example.com/image:1", "restartCount": 1 if ended else 0}
    state["state"] = {"waiting": {"reason": reason} | ({"message": message} if message else {})}
    state |= {"lastState": {"terminated": ended}} if ended else {}
    if name == "fetch":
        return a_pod(owner, template=template, initContainerStatuses=[state])
    return a_pod(owner, template=template, containerStatuses=[state])


def an_end(exit_code: int, message: str = "", *, reason: str = "Error", lived_seconds: float = 20) -> Manifest:
    """How a container ended, a minute ago."""
    end: Manifest = {
        "exitCode": exit_code,
        "reason": reason,
        "startedAt": ago(60 + lived_seconds),
        "finishedAt": ago(60),
    }
    return end | ({"message": message} if message else {})


def ending(pod: Manifest) -> Manifest:
    """The pod while it is being deleted."""
    return pod | {"metadata": pod["metadata"] | {"deletionTimestamp": ago(1)}}


def a_warning(about: Manifest, reason: str, message: str) -> Manifest:
    """A Warning event about an object."""
    involved = {"kind": about["kind"], "name": about["metadata"]["name"], "uid": about["metadata"]["uid"]}
    return {
        "apiVersion": "v1",
        "kind": "Event",
        "type": "Warning",
        "reason": reason,
        "message": message,
        "involvedObject": involved,
    }


def ago(seconds: float) -> str:
    """A Kubernetes time before NOW."""
    return f"{NOW - timedelta(seconds=seconds):%Y-%m-%dT%H:%M:%SZ}"


def pod_hash(template: Manifest) -> str:
    """What pods of a template are marked with."""
    return template["metadata"].get("annotations", {}).get(POD_HASH_ANNOTATION, "")


def _container_name(owner: Manifest) -> str:
    return "router" if owner["kind"] == "RoutingPolicy" else "engine"


def _condition(kind: str, status: str) -> Manifest:
    return {"type": kind, "status": status}


# What the operator sees


def observe(owner: Manifest, *others: Manifest, **fields: Any) -> Observed:
    """`owner` in a cluster where `others` exist and it has no children yet; `fields` replaces fields of Observed."""
    by_ref = {ObjectRef.of(each): each for each in others}
    references = dispatch.resolve_references(owner, by_ref.get)
    return replace(Observed(owner=owner, settings=SETTINGS, now=NOW, references=references), **fields)


def judge(observed: Observed, *failures: StepFailure) -> Verdict:
    """What is said of the owner after `failures`, if any, came in the way."""
    return dispatch.verdict(observed, dispatch.desired(observed), failures)


def carried_out(observed: Observed) -> Observed:
    """The cluster after the plan was executed, as the API server stores it."""
    children = {ObjectRef.of(child): child for child in observed.children}
    for step in plan(dispatch.desired(observed), observed).steps:
        ref = ObjectRef.of(step.manifest)
        if step.verb == "delete":
            children.pop(ref)
        elif step.verb == "prune":
            children[ref] = _merged(children[ref], step.manifest)
        else:
            children[ref] = _stored_over(children.get(ref), step.manifest)
    return replace(observed, children=tuple(children.values()))


def _stored_over(live: Manifest | None, manifest: Manifest) -> Manifest:
    """What an apply makes of `live`: the number of replicas stays where others own it, else it falls to 1."""
    stored = as_stored(manifest)
    if manifest["kind"] != "Deployment" or "replicas" in manifest["spec"]:
        return stored
    others = replica_managers(live) - {FIELD_MANAGER} if live else frozenset[str]()
    return scaled_by(stored, *others, replicas=live["spec"]["replicas"] if live and others else 1)


def scaled_by(deployment: Manifest, *managers: str, replicas: int) -> Manifest:
    """The stored Deployment after `managers` said how many replicas it has."""
    owned: Manifest = {"f:spec": {"f:replicas": {}}}
    entries = [{"manager": name, "operation": "Apply", "fieldsV1": owned} for name in managers]
    metadata = deployment["metadata"] | {"managedFields": entries}
    return deployment | {"metadata": metadata, "spec": deployment["spec"] | {"replicas": replicas}}


def _merged(live: Manifest, patch: Manifest) -> Manifest:
    """RFC 7386."""
    merged = {name: value for name, value in live.items() if name not in patch or patch[name] is not None}
    for name, value in patch.items():
        if isinstance(value, dict):
            merged[name] = _merged(merged.get(name, {}), cast("Manifest", value))
        elif value is not None:
            merged[name] = value
    return merged


def rolled_out(observed: Observed) -> Observed:
    """The cluster after the plan was executed and the Deployment controller is done."""
    done = carried_out(observed)
    return replace(done, children=tuple(_with_rollout(child) for child in done.children))


def _with_rollout(child: Manifest) -> Manifest:
    if child["kind"] != "Deployment":
        return child
    count = child["spec"]["replicas"]
    conditions = [_condition("Progressing", "True") | {"reason": "NewReplicaSetAvailable"}]
    status = {"observedGeneration": 1, "replicas": count, "updatedReplicas": count, "conditions": conditions}
    return child | {"status": status}


def deployment_of(manifests: Iterable[Manifest]) -> Manifest:
    """The Deployment among them."""
    return of_kind("Deployment", manifests)


def template_of(manifests: Iterable[Manifest]) -> Manifest:
    """The Deployment's pod template."""
    return deployment_of(manifests)["spec"]["template"]


def of_kind(kind: str, manifests: Iterable[Manifest]) -> Manifest:
    """The only object of a kind."""
    (found,) = (each for each in manifests if each["kind"] == kind)
    return found


def acknowledged(pods: Sequence[Manifest], digest: str, **fields: Any) -> tuple[Acknowledgement, ...]:
    """What routers in `pods` say when all serve `digest`."""
    return tuple(
        Acknowledgement(pod=pod["metadata"]["name"], pod_uid=pod["metadata"]["uid"], digest=digest, **fields)
        for pod in pods
    )


# What the API server makes of a manifest


def as_stored(manifest: Manifest) -> Manifest:
    """A manifest as it comes back: defaults are added, zero values are dropped, quantities are in another form."""
    stored: Manifest = _normalised(copy.deepcopy(manifest), ())
    stored["metadata"] |= {
        "uid": f"uid-{manifest['kind']}-{manifest['metadata']['name']}",
        "resourceVersion": "7",
        "generation": 1,
        "creationTimestamp": ago(60),
    }
    if "replicas" in stored.get("spec", {}):
        stored = scaled_by(stored, FIELD_MANAGER, replicas=stored["spec"]["replicas"])
    if manifest["kind"] == "Service":
        stored["spec"] |= {"clusterIP": "10.96.0.7", "sessionAffinity": "None", "ipFamilyPolicy": "SingleStack"}
    if manifest["kind"] == "Deployment":
        _add_pod_defaults(stored["spec"]["template"]["spec"])
    return stored


def _add_pod_defaults(spec: Manifest) -> None:
    spec |= {"restartPolicy": "Always", "dnsPolicy": "ClusterFirst", "schedulerName": "default-scheduler"}
    spec["serviceAccount"] = spec["serviceAccountName"]
    for container in [*spec["containers"], *spec.get("initContainers", [])]:
        container["terminationMessagePath"] = "/dev/termination-log"
        container.setdefault("resources", {})
        for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
            if probe in container:
                container[probe]["successThreshold"] = 1
                container[probe].get("httpGet", {}).setdefault("scheme", "HTTP")
    for volume in spec["volumes"]:
        for source in ("configMap", "secret", "projected"):
            if source in volume:
                volume[source]["defaultMode"] = 420


def _normalised(value: Any, path: tuple[str, ...]) -> Any:
    if isinstance(value, dict):
        fields = cast(dict[str, Any], value)
        found = {key: _normalised(each, (*path, key)) for key, each in fields.items()}
        keep = ("emptyDir", "data")
        if fields.get("kind") == "ControllerRevision":  # its data is stored as it comes
            found["data"] = fields["data"]
        return {key: each for key, each in found.items() if key in keep or each not in ({}, [], "")}
    if isinstance(value, list):
        entries = cast(list[Any], value)
        return [_normalised(each, path) for each in entries]
    if isinstance(value, str) and ("limits" in path or "requests" in path or path[-1:] == ("sizeLimit",)):
        return _canonical_quantity(value)
    return value


def _canonical_quantity(text: str) -> str:
    amount = parse_quantity(text)
    assert amount is not None
    for unit, factor in (("Gi", 1024**3), ("Mi", 1024**2), ("Ki", 1024)):
        if amount >= factor and amount % factor == 0:
            return f"{amount // factor}{unit}"
    return str(int(amount)) if amount == int(amount) else f"{int(amount * 1000)}m"
