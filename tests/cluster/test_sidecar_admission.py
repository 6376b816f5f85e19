"""The example's ValidatingAdmissionPolicy on a real API server: who may make pods that look like Flotilla's own."""

from __future__ import annotations

import json
from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest
import yaml
from operator_world import World

from flotilla_api import names
from localcluster.cluster import LocalCluster
from localcluster.tools import CommandError, helm_template

ROOT = Path(__file__).parents[2]
EXAMPLE = ROOT / "examples" / "sidecar" / "strict" / "admissionpolicy.yaml"
AUTHOR = "author"
LOOKS_LIKE_OURS = {names.KIND_LABEL: "RoutingPolicy"}

Manifest = dict[str, Any]


@pytest.fixture
def guarded(plane: LocalCluster, world: World) -> Generator[World]:
    """The policy is in force."""
    plane.kubectl("apply", "-f", str(EXAMPLE))
    try:
        world.until(lambda: "Flotilla's own" in create(world, a_workload("Pod", LOOKS_LIKE_OURS)), "the policy")
        yield world
    finally:
        plane.kubectl("delete", "-f", str(EXAMPLE))


def operator_account() -> str:
    """The chart's, as a user."""
    manifests = yaml.safe_load_all(helm_template(ROOT / "charts" / "flotilla", "flotilla", namespace="flotilla-system"))
    (account,) = (each["metadata"] for each in manifests if each and each["kind"] == "ServiceAccount")
    return f"system:serviceaccount:flotilla-system:{account['name']}"


def create(world: World, manifest: Manifest, *, user: str = AUTHOR, dry_run: bool = True) -> str:
    """What is said to somebody who has every right that RBAC can give; '' when it is created."""
    return run(world, "create", manifest, user, *(["--dry-run=server"] if dry_run else []))


def run(world: World, verb: str, manifest: Manifest, user: str, *options: str) -> str:
    command = ["-n", world.namespace, verb, "-f", "-", "--as", user, "--as-group", "system:masters", *options]
    try:
        world.cluster.kubectl(*command, input=json.dumps(manifest))
    except CommandError as error:
        return str(error)
    return ""


def a_workload(kind: str, labels: dict[str, str], name: str = "agent") -> Manifest:
    """One whose pods have `labels`."""
    containers = [{"name": "agent", "image": "toolbox"}]
    metadata = {"labels": {"app": "agent", **labels}}
    pod: Manifest = {"metadata": metadata, "spec": {"containers": containers}}
    if kind == "Pod":
        return {"apiVersion": "v1", "kind": kind, **pod, "metadata": {**metadata, "name": name}}
    if kind in ("Job", "CronJob"):
        job: Manifest = {"template": {**pod, "spec": {**pod["spec"], "restartPolicy": "Never"}}}
        spec: Manifest = job if kind == "Job" else {"schedule": "0 7 * * *", "jobTemplate": {"spec": job}}
        return {"apiVersion": "batch/v1", "kind": kind, "metadata": {"name": name}, "spec": spec}
    if kind == "ReplicationController":
        spec = {"selector": {"app": "agent"}, "template": pod}
        return {"apiVersion": "v1", "kind": kind, "metadata": {"name": name}, "spec": spec}
    spec = {"selector": {"matchLabels": {"app": "agent"}}, "template": pod}
    return {"apiVersion": "apps/v1", "kind": kind, "metadata": {"name": name}, "spec": spec}


KINDS = [
    "Pod",
    "Deployment",
    "ReplicaSet",
    "StatefulSet",
    "DaemonSet",
    "Job",
    "CronJob",
    "ReplicationController",
]


def test_an_author_of_agents_makes_no_pod_that_looks_like_flotillas_own(guarded: World) -> None:
    """Neither directly nor by any kind that the cluster makes pods of, nor by relabelling one; others are let in."""
    for kind in KINDS:
        for labels in (LOOKS_LIKE_OURS, {names.OWNER_LABEL: "support"}):
            assert "those of Flotilla's own pods" in create(guarded, a_workload(kind, labels)), kind
        assert create(guarded, a_workload(kind, {names.POLICY_LABEL: "support"})) == "", kind
    assert create(guarded, a_workload("Pod", {}), dry_run=False) == ""
    assert "those of Flotilla's own pods" in run(guarded, "apply", a_workload("Pod", LOOKS_LIKE_OURS), AUTHOR)


def test_the_operators_children_go_on_being_made(guarded: World) -> None:
    """It writes their Deployments, and the cluster's controllers make ReplicaSets and pods of them."""
    deployment = a_workload("Deployment", LOOKS_LIKE_OURS, "support-gateway")

    assert create(guarded, deployment, user=operator_account(), dry_run=False) == ""

    selector = f"{names.KIND_LABEL}=RoutingPolicy"
    listing = ["-n", guarded.namespace, "get", "pods", "-l", selector, "-o", "name"]
    guarded.until(lambda: "support-gateway" in guarded.cluster.kubectl(*listing), "a pod of the Deployment")
