"""Parts that engines and gateways share: accounts, Services, budgets and security contexts."""

from __future__ import annotations

from .manifest import Manifest, child_of, make_metadata, owner_selector

ROUTER_USER = 65532
"""Numeric user of the router's image."""


def make_service_account(owner: Manifest) -> Manifest:
    """An account with no rights of its own; no token is mounted unless a pod asks for one."""
    return {
        "apiVersion": "v1",
        "kind": "ServiceAccount",
        "metadata": make_metadata(owner, child_of(owner)),
        "automountServiceAccountToken": False,
    }


def make_service(owner: Manifest, *, port_name: str, port: int) -> Manifest:
    """A ClusterIP Service whose `port` leads to the container port called `port_name`."""
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": make_metadata(owner, child_of(owner)),
        "spec": {
            "type": "ClusterIP",
            "selector": owner_selector(owner),
            "ports": [{"name": port_name, "port": port, "targetPort": port_name, "protocol": "TCP"}],
        },
    }


def make_budget(owner: Manifest) -> Manifest:
    """A PodDisruptionBudget: one eviction at a time, and a pod that is not ready never blocks the drain of a node."""
    return {
        "apiVersion": "policy/v1",
        "kind": "PodDisruptionBudget",
        "metadata": make_metadata(owner, child_of(owner)),
        "spec": {
            "maxUnavailable": 1,
            "selector": {"matchLabels": owner_selector(owner)},
            "unhealthyPodEvictionPolicy": "AlwaysAllow",
        },
    }


def pod_security(user: int) -> Manifest:
    """A pod security context of the restricted profile for `user`."""
    return {
        "runAsNonRoot": True,
        "runAsUser": user,
        "runAsGroup": user,
        "fsGroup": user,
        "fsGroupChangePolicy": "OnRootMismatch",
        "seccompProfile": {"type": "RuntimeDefault"},
    }


def container_security() -> Manifest:
    """A container security context of the restricted profile."""
    return {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
