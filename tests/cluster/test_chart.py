"""The chart on a real API server: installed, upgraded, removed, and bounded by its RBAC."""

from __future__ import annotations

import base64
import json
from collections.abc import Generator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import yaml

from flotilla_api.crds import KINDS
from flotilla_operator.adapters.authority import make_authority
from flotilla_operator.adapters.webhook_trust import make_trust_patch
from localcluster.cluster import LocalCluster
from localcluster.tools import CommandError

ROOT = Path(__file__).parents[2]
CHART = ROOT / "charts" / "flotilla"
SYSTEM = "flotilla-system"
CONFIGURATION = ("mutatingwebhookconfiguration", "flotilla-sidecars")
OPERATOR = f"system:serviceaccount:{SYSTEM}:flotilla-operator"
EXAMPLES = [
    path
    for folder in ("quickstart", "accelerators", "sidecar")
    for path in sorted((ROOT / "examples" / folder).glob("*"))
]


@pytest.fixture(scope="module")
def cluster() -> Generator[LocalCluster]:
    """A cluster of this module's own, with the chart on it and nothing that runs pods: others bring their own CRDs."""
    with LocalCluster.start(name="chart", runner=False) as running:
        running.helm_install("flotilla", CHART, namespace=SYSTEM)
        running.kubectl("create", "namespace", "agents")
        yield running


def _may(cluster: LocalCluster, user: str, verb: str, resource: str, *, namespace: str, name: str = "") -> bool:
    """Whether the API server lets `user` do it; `resource` is GROUP/RESOURCE[/SUBRESOURCE]."""
    group, _, rest = resource.partition("/")
    plural, _, subresource = rest.partition("/")
    attributes = {"group": group, "resource": plural, "subresource": subresource, "verb": verb}
    attributes |= {"namespace": namespace, "name": name}
    review = {
        "apiVersion": "authorization.k8s.io/v1",
        "kind": "SubjectAccessReview",
        "spec": {"user": user, "resourceAttributes": attributes},
    }
    response = cluster.api.post("/apis/authorization.k8s.io/v1/subjectaccessreviews", json=review)
    return response.raise_for_status().json()["status"]["allowed"]


@pytest.mark.parametrize(
    ("verb", "resource", "namespace", "name"),
    [
        ("watch", "flotilla.dev/experts", "", ""),
        ("list", "flotilla.dev/acceleratorprofiles", "", ""),
        ("patch", "flotilla.dev/routingpolicies/status", "agents", "support"),
        ("patch", "apps/deployments", "agents", "sql-expert"),
        ("create", "/configmaps", "agents", ""),
        ("list", "/pods", "", ""),
        ("create", "events.k8s.io/events", "agents", ""),
        ("create", "authentication.k8s.io/tokenreviews", "", ""),
        ("update", "coordination.k8s.io/leases", SYSTEM, "flotilla-operator"),
        ("get", "/secrets", SYSTEM, "flotilla-control-tls"),
        ("get", "admissionregistration.k8s.io/mutatingwebhookconfigurations", "", "flotilla-sidecars"),
        ("patch", "admissionregistration.k8s.io/mutatingwebhookconfigurations", "", "flotilla-sidecars"),
    ],
)
def test_operator_may_do_its_work(cluster: LocalCluster, verb: str, resource: str, namespace: str, name: str) -> None:
    """The rights that the operator needs are granted."""
    assert _may(cluster, OPERATOR, verb, resource, namespace=namespace, name=name)


@pytest.mark.parametrize(
    ("verb", "resource", "namespace", "name"),
    [
        ("get", "/secrets", "agents", "provider"),
        ("list", "/secrets", SYSTEM, ""),
        ("list", "/secrets", "", ""),
        ("update", "flotilla.dev/experts", "agents", "sql"),
        ("patch", "flotilla.dev/experts", "agents", "sql"),
        ("delete", "/pods", "agents", "any"),
        ("create", "/pods/exec", "agents", "any"),
        ("create", "rbac.authorization.k8s.io/clusterroles", "", ""),
        ("escalate", "rbac.authorization.k8s.io/roles", "agents", ""),
        ("get", "/nodes", "", "any"),
        ("get", "coordination.k8s.io/leases", SYSTEM, "another"),
        ("create", "/serviceaccounts/token", "agents", "any"),
        ("patch", "admissionregistration.k8s.io/mutatingwebhookconfigurations", "", "another"),
        ("create", "admissionregistration.k8s.io/mutatingwebhookconfigurations", "", ""),
        ("delete", "admissionregistration.k8s.io/mutatingwebhookconfigurations", "", "flotilla-sidecars"),
    ],
)
def test_operator_may_do_nothing_else(
    cluster: LocalCluster, verb: str, resource: str, namespace: str, name: str
) -> None:
    """What it does not need, specs and Secrets above all, is out of its reach."""
    assert not _may(cluster, OPERATOR, verb, resource, namespace=namespace, name=name)


@pytest.mark.parametrize(("role", "writes"), [("view", False), ("edit", True), ("admin", True)])
def test_roles_of_kubernetes_cover_the_kinds(cluster: LocalCluster, role: str, writes: bool) -> None:
    """Who may view or edit a namespace may view or edit the fleet in it, and never read what routers are told."""
    user = f"{role}er"
    cluster.kubectl("create", "rolebinding", user, "-n", "agents", f"--clusterrole={role}", f"--user={user}")

    cluster.wait_for(
        lambda: _may(cluster, user, "list", "flotilla.dev/experts", namespace="agents"), f"{role} to be aggregated"
    )
    assert _may(cluster, user, "create", "flotilla.dev/routingpolicies", namespace="agents") is writes
    assert _may(cluster, user, "update", "flotilla.dev/experts/scale", namespace="agents") is writes
    assert not _may(cluster, user, "update", "flotilla.dev/experts/status", namespace="agents")
    assert not _may(cluster, user, "get", "flotilla.dev/routingpolicies/snapshot", namespace="agents")


def test_operator_pod_passes_the_restricted_standard(cluster: LocalCluster) -> None:
    """A namespace that enforces Kubernetes' strictest Pod Security Standard takes the operator's pods."""
    cluster.kubectl("create", "namespace", "strict")
    cluster.kubectl("label", "namespace", "strict", "pod-security.kubernetes.io/enforce=restricted")
    deployment = yaml.safe_load(cluster.kubectl("get", "deployment", "flotilla-operator", "-n", SYSTEM, "-o", "yaml"))
    cluster.kubectl("create", "serviceaccount", "flotilla-operator", "-n", "strict")
    pod: dict[str, Any] = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "operator", "namespace": "strict"},
        "spec": deployment["spec"]["template"]["spec"],
    }

    response = cluster.api.post("/api/v1/namespaces/strict/pods", params={"dryRun": "All"}, json=pod)

    assert response.status_code == 201, response.text


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_examples_are_accepted(cluster: LocalCluster, path: Path) -> None:
    """The API server takes every example as it stands."""
    printed = cluster.kubectl("apply", "--dry-run=server", "--validate=strict", "-f", str(path))

    assert "created (server dry run)" in printed


def test_upgrade_changes_the_operator_and_keeps_the_crds(cluster: LocalCluster) -> None:
    """An upgrade rolls the operator and leaves definitions and objects in place."""
    uids = _crd_uids(cluster)

    cluster.helm.upgrade("flotilla", CHART, namespace=SYSTEM, values={"operator": {"logLevel": "DEBUG"}})

    deployment = cluster.kubectl("get", "deployment", "flotilla-operator", "-n", SYSTEM, "-o", "yaml")
    assert {"name": "FLOTILLA_LOG_LEVEL", "value": "DEBUG"} in _environment(yaml.safe_load(deployment))
    assert _crd_uids(cluster) == uids


def test_an_upgrade_keeps_what_the_operator_wrote_into_the_webhook(cluster: LocalCluster) -> None:
    """Without the bundle the API server would trust nobody until the operator looks again."""
    bundle = base64.b64encode(make_authority(datetime.now(UTC)).bundle.encode()).decode()
    live = yaml.safe_load(cluster.kubectl("get", *CONFIGURATION, "-o", "yaml"))
    patch = json.dumps(make_trust_patch(live, bundle))
    cluster.kubectl("patch", *CONFIGURATION, "--type=strategic", "--field-manager=flotilla", "-p", patch)

    cluster.helm.upgrade("flotilla", CHART, namespace=SYSTEM, values={"watchNamespaces": ["agents"]})
    (webhook,) = yaml.safe_load(cluster.kubectl("get", *CONFIGURATION, "-o", "yaml"))["webhooks"]
    cluster.helm.upgrade("flotilla", CHART, namespace=SYSTEM, values={"watchNamespaces": []})

    assert webhook["clientConfig"]["caBundle"] == bundle
    assert webhook["namespaceSelector"]["matchExpressions"][1]["values"] == ["agents"]


def test_the_webhook_goes_with_the_release_and_with_its_value(cluster: LocalCluster) -> None:
    """A configuration that nobody answers would cost every agent's pod two seconds."""
    cluster.helm.upgrade("flotilla", CHART, namespace=SYSTEM, values={"sidecar": {"enabled": False}})
    off = cluster.kubectl("get", "mutatingwebhookconfigurations", "-o", "name")
    cluster.helm.upgrade("flotilla", CHART, namespace=SYSTEM, values={"sidecar": {"enabled": True}})

    assert off == ""
    assert "flotilla-sidecars" in cluster.kubectl("get", "mutatingwebhookconfigurations", "-o", "name")


def test_uninstall_keeps_crds_and_objects() -> None:
    """What the user declared survives the operator, and a reinstall finds it; another release name says what to do."""
    with LocalCluster.start(name="chart-removed", runner=False) as cluster:
        cluster.helm_install("flotilla", CHART, namespace=SYSTEM)
        uids = _crd_uids(cluster)
        cluster.wait_for(lambda: _apply_profile(cluster), "the profiles to be served")

        cluster.helm.uninstall("flotilla", namespace=SYSTEM)

        assert _crd_uids(cluster) == uids
        assert "l4" in cluster.kubectl("get", "acceleratorprofiles", "-o", "name")
        gone = "clusterroles,deployments,mutatingwebhookconfigurations"
        assert "flotilla" not in cluster.kubectl("get", gone, "-A", "-o", "name")
        with pytest.raises(CommandError, match="must equal"):
            cluster.helm_install("other", CHART, namespace=SYSTEM)
        cluster.helm_install("flotilla", CHART, namespace=SYSTEM)
        assert _crd_uids(cluster) == uids


def _apply_profile(cluster: LocalCluster) -> bool:
    try:
        cluster.kubectl("apply", "-f", str(ROOT / "examples" / "accelerators" / "l4.yaml"))
    except CommandError:
        return False
    return True


def _environment(deployment: dict[str, Any]) -> list[dict[str, str]]:
    (container,) = deployment["spec"]["template"]["spec"]["containers"]
    return container["env"]


def _crd_uids(cluster: LocalCluster) -> dict[str, str]:
    names = [kind.crd_name for kind in KINDS]
    listed = yaml.safe_load(cluster.kubectl("get", "crds", *names, "-o", "yaml"))["items"]
    return {crd["metadata"]["name"]: crd["metadata"]["uid"] for crd in listed}
