"""The children of a RoutingPolicy: a router Deployment, its Service, its rights and the snapshot it starts from."""

from __future__ import annotations

import math
from dataclasses import dataclass

from flotilla_api import names
from flotilla_api.fallback import External
from flotilla_api.meta import GROUP, parse_duration_seconds
from flotilla_api.policy import DEFAULT_GATEWAY_REPLICAS, DEFAULT_TOTAL_TIMEOUT, RoutingPolicySpec

from .credentials import credential_mounts, credential_volumes
from .manifest import Manifest, child_of, make_metadata, owner_labels, owner_selector
from .settings import OperatorSettings
from .strategies import make_request_log
from .workload import ROUTER_USER, container_security, make_budget, make_service, make_service_account, pod_security

SETTLE_SECONDS = 5
"""How long a gateway that ends still accepts connections, so that every route to it can disappear first."""
_TOKEN_SECONDS = 3600
_LOG_VOLUME = "request-log"
_LOG_ROOM = 2
"""Its volume's limit to the log's own: the kubelet ends a pod that fills more, and blocks take more room than bytes."""


@dataclass(frozen=True, slots=True)
class GatewayInputs:
    """What the gateway of one policy is made from."""

    owner: Manifest
    spec: RoutingPolicySpec
    externals: dict[str, External]
    """External fallbacks of the policy by name."""
    snapshot: bytes
    published_at: str
    control_ca: str
    settings: OperatorSettings


def make_gateway(inputs: GatewayInputs) -> tuple[Manifest, ...]:
    """All children in the order in which they are applied."""
    owner = inputs.owner
    return (
        make_service_account(owner),
        make_role(owner),
        make_role_binding(owner),
        make_snapshot_map(inputs),
        make_service(owner, port_name=data_port_name(inputs.spec), port=443 if inputs.spec.tls else 80),
        make_gateway_deployment(inputs),
        make_budget(owner),
    )


def gateway_replicas(spec: RoutingPolicySpec) -> int:
    """Wanted router pods."""
    gateway = spec.placement.gateway if spec.placement else None
    return (gateway.replicas if gateway else None) or DEFAULT_GATEWAY_REPLICAS


def gateway_url(owner: Manifest, spec: RoutingPolicySpec) -> str:
    """The base URL that clients in the cluster use."""
    return f"{data_port_name(spec)}://{child_of(owner)}.{owner['metadata']['namespace']}.svc/v1"


def data_port_name(spec: RoutingPolicySpec) -> str:
    """Name of the port for clients."""
    return "https" if spec.tls else "http"


def make_role(owner: Manifest) -> Manifest:
    """The right to read this policy's snapshot from the control API, and no other right."""
    rule = {
        "apiGroups": [GROUP],
        "resources": ["routingpolicies/snapshot"],
        "resourceNames": [owner["metadata"]["name"]],
        "verbs": ["get"],
    }
    return {
        "apiVersion": "rbac.authorization.k8s.io/v1",
        "kind": "Role",
        "metadata": make_metadata(owner, child_of(owner)),
        "rules": [rule],
    }


def make_role_binding(owner: Manifest) -> Manifest:
    """The gateway's account has the gateway's Role."""
    name = child_of(owner)
    return {
        "apiVersion": "rbac.authorization.k8s.io/v1",
        "kind": "RoleBinding",
        "metadata": make_metadata(owner, name),
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": name},
        "subjects": [{"kind": "ServiceAccount", "name": name, "namespace": owner["metadata"]["namespace"]}],
    }


def make_snapshot_map(inputs: GatewayInputs) -> Manifest:
    """What a router starts from when the control API does not answer."""
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": make_metadata(inputs.owner, names.snapshot_name(inputs.owner["metadata"]["name"])),
        "data": {
            names.SNAPSHOT_KEY: inputs.snapshot.decode(),
            names.PUBLISHED_KEY: inputs.published_at,
            names.CONTROL_CA_KEY: inputs.control_ca,
        },
    }


def make_gateway_deployment(inputs: GatewayInputs) -> Manifest:
    """Routers that are replaced one by one with no capacity lost."""
    owner = inputs.owner
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": make_metadata(owner, child_of(owner)),
        "spec": {
            "replicas": gateway_replicas(inputs.spec),
            "revisionHistoryLimit": 2,
            "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0}},
            "selector": {"matchLabels": owner_selector(owner)},
            "template": {"metadata": {"labels": owner_labels(owner)}, "spec": _pod_spec(inputs)},
        },
    }


def _pod_spec(inputs: GatewayInputs) -> Manifest:
    settings = inputs.settings
    spec: Manifest = {
        "serviceAccountName": child_of(inputs.owner),
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "terminationGracePeriodSeconds": SETTLE_SECONDS + _drain_seconds(inputs.spec) + 10,
        "securityContext": pod_security(ROUTER_USER),
        "topologySpreadConstraints": [_spread(inputs.owner)],
        "containers": [_container(inputs)],
        "volumes": _volumes(inputs),
    }
    secrets = [{"name": name} for name in settings.router_image_pull_secrets]
    return spec | ({"imagePullSecrets": secrets} if secrets else {})


def _spread(owner: Manifest) -> Manifest:
    return {
        "maxSkew": 1,
        "topologyKey": "kubernetes.io/hostname",
        "whenUnsatisfiable": "ScheduleAnyway",
        "labelSelector": {"matchLabels": owner_selector(owner)},
    }


def _drain_seconds(spec: RoutingPolicySpec) -> int:
    """As long as the longest request may take: a rolling update then cuts none."""
    return math.ceil(parse_duration_seconds((spec.timeouts and spec.timeouts.total) or DEFAULT_TOTAL_TIMEOUT))


def _container(inputs: GatewayInputs) -> Manifest:
    settings = inputs.settings
    return {
        "name": names.ROUTER_CONTAINER,
        "image": settings.router_image,
        "imagePullPolicy": settings.image_pull_policy,
        "env": _env(inputs),
        "ports": [
            {"name": data_port_name(inputs.spec), "containerPort": _data_port(inputs.spec), "protocol": "TCP"},
            {"name": "admin", "containerPort": names.ROUTER_ADMIN_PORT, "protocol": "TCP"},
        ],
        "resources": {
            "requests": {"cpu": settings.router_cpu_request, "memory": settings.router_memory_request},
            "limits": {"memory": settings.router_memory_limit},
        },
        "readinessProbe": _probe("/readyz", period=2, failures=2),
        "livenessProbe": _probe("/healthz", period=10, failures=6),
        "securityContext": container_security(),
        "terminationMessagePolicy": "FallbackToLogsOnError",
        "volumeMounts": _mounts(inputs),
    }


def _data_port(spec: RoutingPolicySpec) -> int:
    return names.GATEWAY_TLS_PORT if spec.tls else names.GATEWAY_PORT


def _env(inputs: GatewayInputs) -> list[Manifest]:
    metadata = inputs.owner["metadata"]
    pod_ip = {"name": "POD_IP", "valueFrom": {"fieldRef": {"apiVersion": "v1", "fieldPath": "status.podIP"}}}
    values = {
        "FLOTILLA_POLICY": metadata["name"],
        "FLOTILLA_NAMESPACE": metadata["namespace"],
        "FLOTILLA_CONTROL_URL": inputs.settings.control_url,
        "FLOTILLA_DATA_HOST": "$(POD_IP)",
        "FLOTILLA_DATA_PORT": str(_data_port(inputs.spec)),
        "FLOTILLA_ADMIN_HOST": "$(POD_IP)",
        "FLOTILLA_ADMIN_PORT": str(names.ROUTER_ADMIN_PORT),
        "FLOTILLA_SETTLE_SECONDS": str(SETTLE_SECONDS),
        "FLOTILLA_DRAIN_SECONDS": str(_drain_seconds(inputs.spec)),
    }
    return [pod_ip, *({"name": name, "value": value} for name, value in values.items())]


def _probe(path: str, *, period: int, failures: int) -> Manifest:
    return {
        "httpGet": {"path": path, "port": "admin"},
        "periodSeconds": period,
        "timeoutSeconds": 5,
        "failureThreshold": failures,
    }


def _mounts(inputs: GatewayInputs) -> list[Manifest]:
    spec = inputs.spec
    paths = {"snapshot": names.SNAPSHOT_DIR, "control-token": names.CONTROL_TOKEN_DIR}
    paths |= credential_mounts(inputs.externals)
    paths |= {"api-keys": names.API_KEYS_DIR} if spec.auth.apiKeysSecretRef else {}
    paths |= {"tls": names.GATEWAY_TLS_DIR} if spec.tls else {}
    mounts: list[Manifest] = [{"name": name, "mountPath": path, "readOnly": True} for name, path in paths.items()]
    return mounts + ([{"name": _LOG_VOLUME, "mountPath": names.REQUEST_LOG_DIR}] if spec.requestLog else [])


def _volumes(inputs: GatewayInputs) -> list[Manifest]:
    """Only a missing certificate keeps a gateway from starting; what else is missing leaves a gap that it reports."""
    spec = inputs.spec
    token = {
        "path": names.CONTROL_TOKEN_FILE,
        "audience": names.CONTROL_AUDIENCE,
        "expirationSeconds": _TOKEN_SECONDS,
    }
    snapshot = {"name": names.snapshot_name(inputs.owner["metadata"]["name"]), "optional": True}
    volumes: list[Manifest] = [
        {"name": "snapshot", "configMap": snapshot},
        {"name": "control-token", "projected": {"sources": [{"serviceAccountToken": token}]}},
    ]
    volumes += credential_volumes(inputs.externals)
    if keys := spec.auth.apiKeysSecretRef:
        volumes.append({"name": "api-keys", "secret": {"secretName": keys.name, "optional": True}})
    if spec.tls:
        volumes.append({"name": "tls", "secret": {"secretName": spec.tls.secretRef.name}})
    if log := make_request_log(spec.requestLog):
        volumes.append({"name": _LOG_VOLUME, "emptyDir": {"sizeLimit": str(log.maxBytes * _LOG_ROOM)}})
    return volumes
