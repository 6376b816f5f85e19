"""Who says an Expert's number of replicas, on a real API server: handed over and back, it never dips."""

from __future__ import annotations

import json
from itertools import groupby
from typing import Any

from operator_world import GROUP, Manifest, World, end

from flotilla_api.names import FIELD_MANAGER, SCALER_MANAGER
from flotilla_operator.resources.replicas import replica_managers

APPLY = {"Content-Type": "application/apply-patch+yaml"}
DEPLOYMENT = "invoice-expert"
LEFT_ALONE = {"scaling": {"min": 0, "max": 8, "mode": "Off"}}
"""The number is somebody else's to say, and the operator's own scaler does not."""


def _path(world: World) -> str:
    return f"/apis/apps/v1/namespaces/{world.namespace}/deployments"


def _live(world: World) -> Manifest:
    return world.get(f"{_path(world)}/{DEPLOYMENT}")


def _replicas(world: World) -> int:
    return (_live(world).get("spec") or {"replicas": -1})["replicas"]


def _managers(world: World) -> frozenset[str]:
    live = _live(world)
    return replica_managers(live) if live else frozenset()


def _ask(world: World, **spec: Any) -> None:
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


def _is_seen(world: World) -> bool:
    expert = world.own("experts", "invoice")
    return expert.get("status", {}).get("observedGeneration") == expert["metadata"]["generation"]


def _scale(world: World, replicas: int, *, manager: str = SCALER_MANAGER) -> None:
    """`manager` applies the scale."""
    scale = {
        "apiVersion": "autoscaling/v1",
        "kind": "Scale",
        "metadata": {"name": DEPLOYMENT, "namespace": world.namespace},
        "spec": {"replicas": replicas},
    }
    parameters = {"fieldManager": manager, "force": "true"}
    path = f"{_path(world)}/{DEPLOYMENT}/scale"
    answer = world.cluster.api.patch(path, params=parameters, headers=APPLY, content=json.dumps(scale))
    assert answer.is_success, answer.text


def _numbers(world: World, first: Manifest) -> list[int]:
    """Every number that the Deployment has had since `first`, without repetitions: what a watch replays."""
    parameters = {"watch": "true", "resourceVersion": first["metadata"]["resourceVersion"], "timeoutSeconds": "1"}
    lines = world.cluster.api.get(_path(world), params=parameters).text.splitlines()
    looks = [first, *(json.loads(line)["object"] for line in lines)]
    return [number for number, _ in groupby(look["spec"]["replicas"] for look in looks)]


def _given_away(world: World) -> bool:
    """Whether the operator has left the number to others."""
    managers = _managers(world)
    return bool(managers) and FIELD_MANAGER not in managers


def _create(world: World, **spec: Any) -> Manifest:
    """The Expert's Deployment as it is first."""
    profile: Manifest = {
        "apiVersion": "flotilla.dev/v1alpha1",
        "kind": "AcceleratorProfile",
        "metadata": {"name": world.namespace},
        "spec": {"resource": "nvidia.com/gpu", "memoryGiB": 24},
    }
    world.create(f"{GROUP}/acceleratorprofiles", profile)
    _ask(world, **spec)
    world.until(lambda: bool(_live(world)), "the Deployment")
    return _live(world)


def test_number_goes_to_the_scaler_and_back_without_a_dip(world: World) -> None:
    """Each number that the Deployment ever has is one that somebody asked for."""
    world.start()
    first = _create(world, replicas=3)

    _ask(world, **LEFT_ALONE)
    world.until(lambda: _is_seen(world), "the operator to see that it is scaled")
    _scale(world, 3)
    world.until(lambda: _given_away(world), "the operator to leave the number")
    _scale(world, 5)
    _ask(world, replicas=5)
    world.until(lambda: FIELD_MANAGER in _managers(world), "the operator to own the number again")
    _ask(world, **LEFT_ALONE)
    world.until(lambda: _given_away(world), "the operator to leave it to the scaler, which still shares it")
    _ask(world, replicas=2)
    world.until(lambda: _replicas(world) == 2, "the spec's number")
    _ask(world, **LEFT_ALONE)
    world.until(lambda: _is_seen(world), "the operator to see that it is scaled")
    _scale(world, 0)
    world.until(lambda: _given_away(world), "the operator to leave the number")

    assert _numbers(world, first) == [3, 5, 2, 0]


def test_restart_in_the_middle_of_a_handover_changes_nothing(world: World) -> None:
    """What an operator that comes back has to know is in the Deployment itself."""
    replica = world.start()
    first = _create(world, replicas=3)
    end(replica.process)

    _ask(world, **LEFT_ALONE)
    replica = world.start()
    world.until(lambda: _is_seen(world), "the operator to see that it is scaled")
    end(replica.process)
    _scale(world, 3)
    _scale(world, 4)
    replica = world.start()
    world.until(lambda: _given_away(world), "the operator to leave the number")
    end(replica.process)
    _scale(world, 6)
    _ask(world, **LEFT_ALONE, engine={"maxNumSeqs": 8})
    world.start()
    world.until(lambda: "--max-num-seqs" in str(_live(world)["spec"]["template"]), "the new template")

    assert _numbers(world, first) == [3, 4, 6]


def test_number_of_another_autoscaler_is_left_alone(world: World) -> None:
    """Where an HPA, or a person, scaled the Deployment, the operator says no number, and does not fight."""
    world.start()
    first = _create(world, **LEFT_ALONE)

    world.cluster.kubectl("scale", f"deployment/{DEPLOYMENT}", "--replicas=7", "-n", world.namespace)
    world.until(lambda: _given_away(world), "the operator to leave the number")
    world.cluster.kubectl("delete", "service", DEPLOYMENT, "-n", world.namespace)
    world.until(lambda: bool(world.child("services", DEPLOYMENT)), "the operator to repair another child")

    assert _numbers(world, first) == [1, 7]
    assert _replicas(world) == 7
