"""The pod template of an engine, and the hash over what makes a restart necessary."""

from __future__ import annotations

import math
from typing import Any

from flotilla_api import names
from flotilla_api.accelerator import AcceleratorProfileSpec
from flotilla_api.expert import (
    DEFAULT_ACCELERATOR_COUNT,
    DEFAULT_APIS,
    DEFAULT_DRAIN_TIMEOUT,
    DEFAULT_MAX_NUM_SEQS,
    DEFAULT_STARTUP_TIMEOUT,
    Engine,
    PodOverrides,
    ServedModel,
    ServingApi,
)
from flotilla_api.meta import Model, parse_duration_seconds

from . import scripts, vllm
from .manifest import Manifest, canonical_hash, child_of, owner_labels
from .settings import OperatorSettings
from .specs import Served
from .workload import container_security, pod_security

ENGINE_USER = 2000
ENGINE_PORT_NAME = "http"
SETTLE_SECONDS = 5
"""How long a pod that ends still accepts requests, so that every route to it can disappear first."""
_PROBE_TIMEOUT_SECONDS = 10
_MAX_PROBE_PERIOD_SECONDS = 5
_MIN_SHM_GIB = 2
FETCH_RESOURCES: Manifest = {"requests": {"cpu": "500m", "memory": "1Gi"}, "limits": {"memory": "8Gi"}}
"""Of the download, where nothing is said of the engine: it holds at most `vllm.FETCH_BUFFER_LIMIT` itself, the rest is
page cache on its way to disk."""

_NO_OVERRIDES = PodOverrides.model_validate({})
_NO_ENGINE = Engine.model_validate({})
_UNSAID: dict[str, object] = {
    "gpus": DEFAULT_ACCELERATOR_COUNT,
    "maxNumSeqs": DEFAULT_MAX_NUM_SEQS,
    "startupSeconds": parse_duration_seconds(DEFAULT_STARTUP_TIMEOUT),
    "drainSeconds": parse_duration_seconds(DEFAULT_DRAIN_TIMEOUT),
    "probeApi": DEFAULT_APIS[0],
}
"""What `restart_hash` takes for not said: a default that is written out is the same as one that is not."""


def make_engine_template(served: Served, profile: AcceleratorProfileSpec, settings: OperatorSettings) -> Manifest:
    """A pod template for one replica, as this version of the operator renders it."""
    overrides = served.spec.podOverrides or _NO_OVERRIDES
    metadata: Manifest = {
        "labels": _without_injection(overrides.labels or {}) | owner_labels(served.owner),
        "annotations": dict(overrides.annotations or {}),
    }
    spec = _pod_spec(served) | _placement(profile, overrides)
    spec["containers"] = [_engine_container(served, profile, settings)]
    if vllm.claim_name(served.spec.model) is None:
        spec["initContainers"] = [_fetch_container(served, profile, settings)]
    digest = canonical_hash({"metadata": metadata, "spec": spec})
    metadata["annotations"][names.POD_HASH_ANNOTATION] = digest
    return {"metadata": metadata, "spec": spec}


def restart_hash(served: Served, profile: AcceleratorProfileSpec) -> str:
    """Hash over what the user said that a running pod cannot take over; the operator's own defaults are not in it.

    While it stays, the stored template is applied again as it is, so that an operator upgrade restarts no engine. It is
    over what differs from the defaults: writing one out restarts nothing, and neither do a field or a default that a
    later version brings.
    """
    spec, engine, overrides = served.spec, served.spec.engine or _NO_ENGINE, served.spec.podOverrides or _NO_OVERRIDES
    said: dict[str, object] = {
        "owner": [served.owner["kind"], served.name],
        "model": _plain(spec.model, "parameters"),
        "resource": profile.resource,
        "gpus": served.gpus,
        "image": engine.image,
        "args": engine.args,
        "env": [_plain(each) for each in engine.env or ()],
        "maxModelLen": engine.maxModelLen,
        "maxNumSeqs": engine.maxNumSeqs,
        "startupSeconds": startup_seconds(spec),
        "probeApi": _probe_api(spec),
        "drainSeconds": drain_seconds(spec),
        "labels": _without_injection(overrides.labels or {}),
        "annotations": overrides.annotations,
        "sleep": "enabled" if served.may_sleep else None,
        "resources": _own_resources(overrides, profile),
        **_placement(profile, overrides),
    }
    return canonical_hash({name: value for name, value in said.items() if not _is_unsaid(name, value)})


def _is_unsaid(name: str, value: object) -> bool:
    return value in (None, "", [], {}) or value == _UNSAID.get(name)


def startup_seconds(spec: ServedModel) -> float:
    """How long one start of the engine may take."""
    return parse_duration_seconds((spec.engine and spec.engine.startupTimeout) or DEFAULT_STARTUP_TIMEOUT)


def drain_seconds(spec: ServedModel) -> float:
    """How long running requests are waited for."""
    return parse_duration_seconds((spec.drain and spec.drain.timeout) or DEFAULT_DRAIN_TIMEOUT)


def _plain(model: Model | None, *without: str) -> dict[str, Any] | None:
    return model.model_dump(exclude_none=True, exclude=set(without)) if model else None


def _without_injection(labels: dict[str, str]) -> dict[str, str]:
    # An engine that got a router injected would call itself.
    return {key: value for key, value in labels.items() if key != names.POLICY_LABEL}


def _pod_spec(served: Served) -> Manifest:
    # Service links would put VLLM_PORT and the like into the environment of a pod beside a Service called "vllm".
    return {
        "serviceAccountName": child_of(served.owner),
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "terminationGracePeriodSeconds": SETTLE_SECONDS + math.ceil(drain_seconds(served.spec)) + 15,
        "securityContext": pod_security(ENGINE_USER),
        "volumes": _volumes(served),
    }


def _placement(profile: AcceleratorProfileSpec, overrides: PodOverrides) -> Manifest:
    """Where the user wants the pods; nothing of the operator's own, since `restart_hash` is over it."""
    tolerations = [_plain(each) for each in [*(profile.tolerations or []), *(overrides.tolerations or [])]]
    placement = {
        "nodeSelector": (profile.nodeSelector or {}) | (overrides.nodeSelector or {}),
        "tolerations": [each for index, each in enumerate(tolerations) if each not in tolerations[:index]],
        "runtimeClassName": profile.runtimeClassName,
        "affinity": overrides.affinity,
        "topologySpreadConstraints": overrides.topologySpreadConstraints,
        "priorityClassName": overrides.priorityClassName,
        "imagePullSecrets": [{"name": each.name} for each in overrides.imagePullSecrets or ()],
    }
    return {key: value for key, value in placement.items() if value}


def _volumes(served: Served) -> list[Manifest]:
    # Workers of one replica and NCCL exchange data in shared memory; a container's own 64Mi are not enough.
    shared_memory = {"medium": "Memory", "sizeLimit": f"{max(_MIN_SHM_GIB, served.gpus)}Gi"}
    claim = vllm.claim_name(served.spec.model)
    weights: Manifest = {"persistentVolumeClaim": {"claimName": claim, "readOnly": True}} if claim else {"emptyDir": {}}
    return [
        {"name": "models", **weights},
        {"name": "cache", "emptyDir": {}},
        {"name": "tmp", "emptyDir": {}},
        {"name": "shm", "emptyDir": shared_memory},
    ]


def _writable_mounts() -> list[Manifest]:
    return [{"name": "cache", "mountPath": vllm.CACHE_DIR}, {"name": "tmp", "mountPath": "/tmp"}]  # noqa: S108


def _container(name: str, served: Served, settings: OperatorSettings) -> Manifest:
    return {
        "name": name,
        "image": (served.spec.engine and served.spec.engine.image) or settings.engine_image,
        "imagePullPolicy": settings.image_pull_policy,
        "securityContext": container_security(),
        "terminationMessagePolicy": "FallbackToLogsOnError",
    }


def _fetch_container(served: Served, profile: AcceleratorProfileSpec, settings: OperatorSettings) -> Manifest:
    return _container(names.FETCH_CONTAINER, served, settings) | {
        "command": vllm.fetch_command(served.spec.model),
        "env": vllm.fetch_env(served),
        "resources": _fetch_resources(_own_resources(served.spec.podOverrides or _NO_OVERRIDES, profile)),
        "volumeMounts": [{"name": "models", "mountPath": vllm.MODELS_DIR}, *_writable_mounts()],
    }


def _engine_container(served: Served, profile: AcceleratorProfileSpec, settings: OperatorSettings) -> Manifest:
    return _container(names.ENGINE_CONTAINER, served, settings) | {
        "command": ["python3", "-c", scripts.LAUNCHER, "vllm", "serve"],
        "args": vllm.vllm_args(served),
        "env": vllm.engine_env(served),
        "ports": [{"name": ENGINE_PORT_NAME, "containerPort": names.ENGINE_PORT, "protocol": "TCP"}],
        "resources": _resources(served, profile),
        "volumeMounts": [
            {"name": "models", "mountPath": vllm.MODELS_DIR, "readOnly": True},
            *_writable_mounts(),
            {"name": "shm", "mountPath": "/dev/shm"},  # noqa: S108 - where shared memory is
        ],
        "startupProbe": _startup_probe(served),
        "readinessProbe": _health_probe(period=5, timeout=5, failures=3),
        "livenessProbe": _health_probe(period=10, timeout=10, failures=6),
        "lifecycle": {"preStop": {"exec": {"command": _drain_command(served.spec)}}},
    }


def _resources(served: Served, profile: AcceleratorProfileSpec) -> Manifest:
    own = _own_resources(served.spec.podOverrides or _NO_OVERRIDES, profile)
    return own | {"limits": own.get("limits", {}) | {profile.resource: str(served.gpus)}}


def _fetch_resources(own: Manifest) -> Manifest:
    """What the user asks for the engine, devices aside, and the download's own defaults for amounts not spoken of.

    A pod is charged for the larger of the two, so this costs nothing; quotas and limit ranges that the user met for the
    engine are met by the download too, and a pod that is to be Guaranteed is.
    """
    said = {kind: {name: each for name, each in amounts.items() if "/" not in name} for kind, amounts in own.items()}
    names_said = {name for amounts in said.values() for name in amounts}
    return {
        kind: {name: each for name, each in defaults.items() if name not in names_said} | said.get(kind, {})
        for kind, defaults in FETCH_RESOURCES.items()
    }


def _own_resources(overrides: PodOverrides, profile: AcceleratorProfileSpec) -> Manifest:
    """What the user asks for beside the accelerators."""
    given = _plain(overrides.resources) or {}
    found = {kind: {name: each for name, each in given[kind].items() if name != profile.resource} for kind in given}
    return {kind: amounts for kind, amounts in found.items() if amounts}


def _startup_probe(served: Served) -> Manifest:
    """A probe that allows startupTimeout, in steps that are short against it."""
    timeout = startup_seconds(served.spec)
    period = max(1, min(_MAX_PROBE_PERIOD_SECONDS, int(timeout / 30)))
    arguments = [str(names.ENGINE_PORT), _probe_api(served.spec), served.name, str(_PROBE_TIMEOUT_SECONDS - 1)]
    return {
        "exec": {"command": ["python3", "-c", scripts.STARTUP_PROBE, *arguments]},
        "periodSeconds": period,
        "timeoutSeconds": _PROBE_TIMEOUT_SECONDS,
        "failureThreshold": max(1, math.ceil(timeout / period)),
    }


def _probe_api(spec: ServedModel) -> ServingApi:
    return ((spec.capabilities and spec.capabilities.apis) or DEFAULT_APIS)[0]


def _health_probe(*, period: int, timeout: int, failures: int) -> Manifest:
    return {
        "httpGet": {"path": "/health", "port": ENGINE_PORT_NAME},
        "periodSeconds": period,
        "timeoutSeconds": timeout,
        "failureThreshold": failures,
    }


def _drain_command(spec: ServedModel) -> list[str]:
    return ["python3", "-c", scripts.DRAIN, str(names.ENGINE_PORT), str(SETTLE_SECONDS), f"{drain_seconds(spec):g}"]
