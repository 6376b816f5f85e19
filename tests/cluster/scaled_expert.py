"""A scaled Expert's Deployment on a real API server: who says its number, and every number that it ever had."""

from __future__ import annotations

import json
from itertools import groupby
from typing import Any

from operator_world import GROUP, Manifest, World

from flotilla_api.names import FIELD_MANAGER, SCALER_MANAGER
from flotilla_operator.resources.replicas import replica_managers

APPLY = {"Content-Type": "application/apply-patch+yaml"}
DEPLOYMENT = "invoice-expert"
LEFT_ALONE = {"scaling": {"min": 0, "max": 8, "mode": "Off"}}
"""The number is somebody else's to say, and the operator's own scaler does not."""


def path(world: World) -> str:
    """Of the Deployments."""
    return f"/apis/apps/v1/namespaces/{world.namespace}/deployments"


def live(world: World) -> Manifest:
    """The Deployment; {} where there is none."""
    return world.get(f"{path(world)}/{DEPLOYMENT}")


def replicas(world: World) -> int:
    """What it asks for; -1: it is not there."""
    return (live(world).get("spec") or {"replicas": -1})["replicas"]


def managers(world: World) -> frozenset[str]:
    """Who owns that number."""
    found = live(world)
    return replica_managers(found) if found else frozenset()


def ask(world: World, **spec: Any) -> None:
    """The Expert's spec says its number so; the operator has looked at it when this returns."""
    served = {"model": {"uri": "pvc://models/invoice"}, "accelerator": {"profile": world.namespace}}
    expert = {
        "apiVersion": "flotilla.dev/v1alpha1",
        "kind": "Expert",
        "metadata": {"name": "invoice"},
        "spec": {**served, **spec},
    }
    path = f"{GROUP}/namespaces/{world.namespace}/experts/invoice"
    answer = world.cluster.api.patch(
        path, params={"fieldManager": "user", "force": "true"}, headers=APPLY, content=json.dumps(expert)
    )
    assert answer.is_success, answer.text


def is_seen(world: World) -> bool:
    """Whether the operator has looked at the spec as it is."""
    expert = world.own("experts", "invoice")
    return expert.get("status", {}).get("observedGeneration") == expert["metadata"]["generation"]


def scale(world: World, replicas: int, *, manager: str = SCALER_MANAGER) -> None:
    """`manager` applies the scale."""
    scale = {
        "apiVersion": "autoscaling/v1",
        "kind": "Scale",
        "metadata": {"name": DEPLOYMENT, "namespace": world.namespace},
        "spec": {"replicas": replicas},
    }
    parameters = {"fieldManager": manager, "force": "true"}
    subresource = f"{path(world)}/{DEPLOYMENT}/scale"
    answer = world.cluster.api.patch(subresource, params=parameters, headers=APPLY, content=json.dumps(scale))
    assert answer.is_success, answer.text


def numbers(world: World, first: Manifest) -> list[int]:
    """Every number that the Deployment has had since `first`, without repetitions: what a watch replays."""
    parameters = {"watch": "true", "resourceVersion": first["metadata"]["resourceVersion"], "timeoutSeconds": "1"}
    lines = world.cluster.api.get(path(world), params=parameters).text.splitlines()
    looks = [first, *(json.loads(line)["object"] for line in lines)]
    return [number for number, _ in groupby(look["spec"]["replicas"] for look in looks)]


def given_away(world: World) -> bool:
    """Whether the operator has left the number to others."""
    found = managers(world)
    return bool(found) and FIELD_MANAGER not in found


def create(world: World, **spec: Any) -> Manifest:
    """The Expert's Deployment as it is first."""
    profile: Manifest = {
        "apiVersion": "flotilla.dev/v1alpha1",
        "kind": "AcceleratorProfile",
        "metadata": {"name": world.namespace},
        "spec": {"resource": "nvidia.com/gpu", "memoryGiB": 24, "capacity": "Unbounded"},
    }
    world.create(f"{GROUP}/acceleratorprofiles", profile)
    ask(world, **spec)
    world.until(lambda: bool(live(world)), "the Deployment")
    return live(world)
