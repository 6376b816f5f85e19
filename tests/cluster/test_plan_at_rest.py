"""What a real API server makes of our manifests is, at the next look, still what we want: no write at rest."""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from builders import a_policy, a_profile, an_expert, observe
from flotilla_api.meta import API_VERSION
from flotilla_operator.reconcile.dispatch import CHILD_KINDS, desired
from flotilla_operator.reconcile.plan import plan
from flotilla_operator.reconcile.types import Manifest, ObjectRef, Observed, Plan
from localcluster.cluster import LocalCluster

CRDS = Path(__file__).parents[2] / "crds"
PLURALS = {kind.kind: (kind.api_version, kind.plural) for kinds in CHILD_KINDS.values() for kind in kinds}
OWNERS = {"Expert": "experts", "Fallback": "fallbacks", "RoutingPolicy": "routingpolicies"}

DEMANDING = an_expert(
    engine={
        "env": [{"name": "EMPTY", "value": ""}, {"name": "S", "valueFrom": {"secretKeyRef": {"name": "s", "key": "k"}}}]
    },
    replicas=0,
    drain={"timeout": "0s"},
    podOverrides={
        "annotations": {"empty": ""},
        "tolerations": [{"key": "a", "operator": "Equal", "value": "", "effect": "NoExecute", "tolerationSeconds": 0}],
        "affinity": {
            "nodeAffinity": {},
            "podAntiAffinity": {
                "preferredDuringSchedulingIgnoredDuringExecution": [
                    {"weight": 1, "podAffinityTerm": {"topologyKey": "zone", "labelSelector": {}, "namespaces": []}}
                ]
            },
        },
        "topologySpreadConstraints": [
            {"maxSkew": 1, "topologyKey": "zone", "whenUnsatisfiable": "ScheduleAnyway", "labelSelector": {}}
        ],
        "resources": {"requests": {"cpu": "0.5", "memory": "1024Mi"}, "limits": {"memory": "2048Mi", "cpu": "1500m"}},
    },
)
GUARDED = a_policy(
    auth={"apiKeysSecretRef": {"name": "keys"}},
    tls={"secretRef": {"name": "tls"}},
    fallbacks=[],
    placement={"gateway": {"replicas": 1}},
)


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


def apply(api: LocalCluster, manifest: Manifest, plural: str) -> Manifest:
    """Server-side apply with force, as the adapter does it; unknown fields are errors."""
    version, metadata = manifest["apiVersion"], manifest["metadata"]
    prefix = "/api/v1" if version == "v1" else f"/apis/{version}"
    answer = api.api.patch(
        f"{prefix}/namespaces/{metadata['namespace']}/{plural}/{metadata['name']}",
        params={"fieldManager": "flotilla", "force": "true", "fieldValidation": "Strict"},
        headers={"content-type": "application/apply-patch+yaml"},
        content=json.dumps(manifest),
    )
    assert answer.status_code < 300, answer.text
    return answer.json()


def carried_out(api: LocalCluster, observed: Observed) -> Observed:
    """The cluster after the plan was carried out."""
    children = {ObjectRef.of(child): child for child in observed.children}
    for step in plan(desired(observed), observed).steps:
        assert step.verb != "delete"
        children[ObjectRef.of(step.manifest)] = apply(api, step.manifest, PLURALS[step.manifest["kind"]][1])
    return replace(observed, children=tuple(children.values()))


@pytest.mark.parametrize(
    "owner",
    [
        pytest.param(an_expert(), id="an expert"),
        pytest.param(DEMANDING, id="an expert full of zero values and quantities"),
        pytest.param(an_expert(scaling={"min": 3, "max": 8}), id="an expert that is scaled"),
        pytest.param(a_policy(), id="a policy"),
        pytest.param(GUARDED, id="a policy with keys and a certificate"),
    ],
)
def test_a_plan_over_what_the_api_server_stored_is_empty(api: LocalCluster, place: str, owner: Manifest) -> None:
    """Defaults, dropped zero values and rewritten quantities are no difference."""
    wanted = {"name": owner["metadata"]["name"], "namespace": place}
    stored = apply(
        api,
        {"apiVersion": API_VERSION, "kind": owner["kind"], "metadata": wanted, "spec": owner["spec"]},
        OWNERS[owner["kind"]],
    )
    profile = a_profile(tolerations=[{"key": "gpu", "operator": "Equal", "value": ""}])
    expert = an_expert()
    expert["metadata"]["namespace"] = place

    done = carried_out(api, observe(stored, profile, expert, control_ca="PEM"))

    assert len(done.children) == len(CHILD_KINDS[stored["kind"]])
    assert plan(desired(done), done) == Plan()
