"""Names of children, labels, annotations, paths and ports that operator, router, chart and users share."""

from __future__ import annotations

from .meta import GROUP

MANAGED_BY_LABEL = "app.kubernetes.io/managed-by"
MANAGED_BY = "flotilla"
NAME_LABEL = "app.kubernetes.io/name"
INSTANCE_LABEL = "app.kubernetes.io/instance"
COMPONENT_LABEL = "app.kubernetes.io/component"

KIND_LABEL = f"{GROUP}/owner-kind"
"""On every child and its pods: Expert, Fallback or RoutingPolicy."""
OWNER_LABEL = f"{GROUP}/owner"
"""On every child and its pods: the owner's name."""
POLICY_LABEL = f"{GROUP}/policy"
"""On agents' pods: the RoutingPolicy whose sidecar they want. Never on our own children."""

INJECTED_ANNOTATION = f"{GROUP}/injected"
"""On a pod with our sidecar: the RoutingPolicy whose requests it routes."""

DESIRED_HASH_ANNOTATION = f"{GROUP}/desired-hash"
"""Hash of the manifest as it was last applied."""
RESTART_HASH_ANNOTATION = f"{GROUP}/restart-hash"
"""Hash over the inputs that need a restart, on an engine's Deployment and its stored ControllerRevision."""
POD_HASH_ANNOTATION = f"{GROUP}/pod-hash"
"""On an engine's pods: hash of the template that they were made from."""

ASLEEP_ANNOTATION = f"{GROUP}/asleep"
"""On an engine's pod that sleeps or is about to: it gets no requests."""
DELETION_COST_ANNOTATION = "controller.kubernetes.io/pod-deletion-cost"
"""Kubernetes' own: of a ReplicaSet's ready pods, those with the least cost go first."""

FIELD_MANAGER = "flotilla"
SCALER_MANAGER = "flotilla-scaler"
"""Owns `replicas` of Deployments that are scaled: it applies their /scale, and nothing else."""

ENGINE_CONTAINER = "engine"
FETCH_CONTAINER = "fetch"
ROUTER_CONTAINER = "router"
SIDECAR_CONTAINER = "flotilla-router"
"""The router in an agent's pod, among containers that are not ours."""

ENGINE_PORT = 8000
GATEWAY_PORT = 8080
GATEWAY_TLS_PORT = 8443
ROUTER_ADMIN_PORT = 9090
"""`/healthz /readyz /metrics` of a router."""
OPERATOR_ADMIN_PORT = 8081
"""`/healthz /readyz /metrics` of the operator."""
CONTROL_PORT = 9443
"""The control API."""
WEBHOOK_PORT = 9444
"""The admission webhook that adds sidecars."""
SIDECAR_PORT = 18080
"""Of a sidecar on its pod's loopback, where neither the policy nor the chart says another."""
SIDECAR_ADMIN_PORT = 19090
"""`/healthz /readyz /metrics` of a sidecar on its pod's address; 9090 may be the agent's own."""

CONTROL_AUDIENCE = "flotilla-control"
"""Audience of the ServiceAccount tokens that routers show to the control API."""
GATEWAY_AUDIENCE = "flotilla-gateway"
"""Audience of the ServiceAccount tokens that sidecars show to their policy's gateway."""
RELAY_HEADER = "x-flotilla-relay"
"""On a sidecar's call to its gateway, with the policy's name: the bearer token is a ServiceAccount token, and the
request's `model` is the name of an external Fallback."""

SNAPSHOT_KEY = "snapshot.json"
PUBLISHED_KEY = "published-at"
CONTROL_CA_KEY = "control-ca.crt"
"""Keys of the snapshot ConfigMap. `published-at` says when the snapshot became what it is; later ones sort after it."""

SNAPSHOT_DIR = "/etc/flotilla/snapshot"
CREDENTIALS_DIR = "/etc/flotilla/credentials"
"""One folder for each external fallback, named by the snapshot, with the files `api-key` and `ca.crt` where it has them."""
CREDENTIAL_FILE = "api-key"
CA_FILE = "ca.crt"
API_KEYS_DIR = "/etc/flotilla/api-keys"
GATEWAY_TLS_DIR = "/etc/flotilla/tls"
TOKENS_DIR = "/var/run/secrets/flotilla.dev"
CONTROL_TOKEN_DIR = f"{TOKENS_DIR}/control"
CONTROL_TOKEN_FILE = "token"  # noqa: S105 - a file's name, not a token
GATEWAY_TOKEN_DIR = f"{TOKENS_DIR}/gateway"
GATEWAY_TOKEN_FILE = "token"  # noqa: S105 - a file's name, not a token
GATEWAY_CA_DIR = "/etc/flotilla/gateway-ca"
"""In a sidecar: `ca.crt` of the gateway's own certificate, where its Secret holds one; otherwise the system's are used."""
REQUEST_LOG_DIR = "/var/lib/flotilla/requests"
"""In a gateway whose policy has a requestLog: a folder that it may write to."""

_CHILD_SUFFIX = {"Expert": "expert", "Fallback": "fallback", "RoutingPolicy": "gateway"}


def child_name(kind: str, name: str) -> str:
    """Name shared by the Deployment, Service, PodDisruptionBudget and ServiceAccount of an owner; unique across kinds."""
    return f"{name}-{_CHILD_SUFFIX[kind]}"


def snapshot_name(policy: str) -> str:
    """Name of the ConfigMap that holds a policy's snapshot."""
    return f"{policy}-snapshot"


def selector_labels(kind: str, name: str) -> dict[str, str]:
    """Labels that select an owner's pods; immutable for the life of its Deployment."""
    return {KIND_LABEL: kind, OWNER_LABEL: name}


def child_labels(kind: str, name: str) -> dict[str, str]:
    """Labels of every child of an owner."""
    component = "router" if kind == "RoutingPolicy" else "engine"
    return {
        MANAGED_BY_LABEL: MANAGED_BY,
        NAME_LABEL: "flotilla",
        INSTANCE_LABEL: name,
        COMPONENT_LABEL: component,
        **selector_labels(kind, name),
    }
