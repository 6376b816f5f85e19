"""The sidecar's examples: agents that get one, and the NetworkPolicy that leaves them no way around it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from flotilla_api import names
from flotilla_operator.resources.settings import OperatorSettings
from flotilla_operator.resources.sidecar import SidecarInputs, inject_sidecar, wanted_policy
from flotilla_operator.resources.specs import parse_policy
from localcluster.tools import helm_template

Manifest = dict[str, Any]

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "examples"
SYSTEM = "flotilla-system"


def _load(path: Path) -> list[Manifest]:
    return [document for document in yaml.safe_load_all(path.read_text()) if document]


FILES = sorted((EXAMPLES / "sidecar").rglob("*.yaml"))
ADMISSION = "admissionregistration.k8s.io/v1"
"""Of the ValidatingAdmissionPolicy, which its file says needs 1.30."""
SIDECAR = {path.name: _load(path)[0] for path in FILES}
POLICY = _load(EXAMPLES / "quickstart" / "10-policy.yaml")[0]
WORKLOADS = [each for each in SIDECAR.values() if each["kind"] in {"Deployment", "Job"}]
NETWORK: Manifest = SIDECAR["networkpolicy.yaml"]["spec"]


@pytest.mark.parametrize("version", ["1.29", "1.30", "1.36"])
@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_examples_fit_the_schemas_of_kubernetes(path: Path, version: str) -> None:
    """Strictly, in the oldest version that has these kinds and in the one that the tests run."""
    for manifest in _load(path):
        if manifest["apiVersion"] == ADMISSION and version == "1.29":
            continue
        kubernetes_validate.validate(manifest, version, strict=True)


@pytest.mark.parametrize("workload", WORKLOADS, ids=lambda each: each["kind"])
def test_an_example_gets_the_sidecar_of_the_quickstarts_policy(workload: Manifest) -> None:
    """Its pods name that policy, live beside it, and nothing in them keeps the sidecar from being used."""
    template: Manifest = workload["spec"]["template"]
    metadata: Manifest = POLICY["metadata"]
    settings = OperatorSettings("vllm", "router:1", "https://control")
    inputs = SidecarInputs(metadata["namespace"], metadata["name"], parse_policy(POLICY), settings)

    injection = inject_sidecar(template, inputs)

    assert workload["metadata"]["namespace"] == metadata["namespace"]
    assert wanted_policy(template) == metadata["name"]
    assert (injection.refused, injection.warnings) == ("", ())


def test_the_workloads_run_the_program_of_the_config_map() -> None:
    """What they mount is there, under the name that their command has."""
    program = SIDECAR["10-program.yaml"]

    for workload in WORKLOADS:
        spec: Manifest = workload["spec"]["template"]["spec"]
        assert spec["volumes"][0]["configMap"]["name"] == program["metadata"]["name"]
        _, script = spec["containers"][0]["command"]
        assert Path(script).name in program["data"]


def _may_reach(pod: Mapping[str, str], port: int, *, namespace: str = "agents", protocol: str = "TCP") -> bool:
    """Whether the policy lets an agent's pod connect to a pod with those labels."""
    return any(
        {"protocol": protocol, "port": port} in rule["ports"]
        and any(_selects_peer(peer, pod, namespace) for peer in rule["to"])
        for rule in NETWORK["egress"]
    )


def _selects_peer(peer: Manifest, pod: Mapping[str, str], namespace: str) -> bool:
    """A peer without a namespaceSelector means the policy's own namespace."""
    home = SIDECAR["networkpolicy.yaml"]["metadata"]["namespace"]
    here = _selects(peer["namespaceSelector"], _of(namespace)) if "namespaceSelector" in peer else namespace == home
    return here and _selects(peer["podSelector"], pod)


def _of(namespace: str) -> dict[str, str]:
    return {"kubernetes.io/metadata.name": namespace}


def _selects(selector: Manifest, labels: Mapping[str, str]) -> bool:
    """Kubernetes' rule, for the operators that the example uses."""
    expressions: list[Manifest] = selector.get("matchExpressions", [])
    return selector.get("matchLabels", {}).items() <= labels.items() and all(
        labels.get(each["key"]) in each["values"] if each["operator"] == "In" else each["key"] in labels
        for each in expressions
    )


GATEWAY = names.child_labels("RoutingPolicy", "support")
DNS = {"k8s-app": "kube-dns"}


@pytest.mark.parametrize(
    ("pod", "port", "where"),
    [
        pytest.param(names.child_labels("Expert", "small"), names.ENGINE_PORT, {}, id="an expert"),
        pytest.param(names.child_labels("Fallback", "large"), names.ENGINE_PORT, {}, id="a served fallback"),
        pytest.param(GATEWAY, names.GATEWAY_PORT, {}, id="the gateway"),
        pytest.param(GATEWAY, names.GATEWAY_TLS_PORT, {}, id="the gateway with a certificate"),
        pytest.param(DNS, 53, {"namespace": "kube-system", "protocol": "UDP"}, id="DNS"),
        pytest.param(DNS, 53, {"namespace": "kube-system"}, id="DNS over TCP"),
    ],
)
def test_the_network_policy_lets_an_agent_reach(pod: Mapping[str, str], port: int, where: Manifest) -> None:
    """All that a sidecar calls, at the ports where its pods listen."""
    assert _may_reach(pod, port, **where)


@pytest.mark.parametrize(
    ("pod", "port", "where"),
    [
        pytest.param({}, 443, {}, id="a proxy in its own namespace"),
        pytest.param({}, 443, {"namespace": "providers"}, id="another namespace"),
        pytest.param(names.child_labels("Expert", "x"), names.ENGINE_PORT, {"namespace": "lab"}, id="others' experts"),
        pytest.param(GATEWAY, names.ROUTER_ADMIN_PORT, {}, id="a gateway's metrics"),
        pytest.param(DNS, 443, {"namespace": "kube-system"}, id="something else in kube-system"),
    ],
)
def test_the_network_policy_keeps_an_agent_from(pod: Mapping[str, str], port: int, where: Manifest) -> None:
    """Everything else: a provider has no pod that it selects."""
    assert not _may_reach(pod, port, **where)


def test_the_network_policy_lets_a_sidecar_reach_the_control_api() -> None:
    """Its pods have the labels that the chart gives them, whatever the release is called."""
    text = helm_template(ROOT / "charts" / "flotilla", "fleet", namespace=SYSTEM)
    operators = [each for each in yaml.safe_load_all(text) if each and each["kind"] == "Deployment"]
    (labels,) = (each["spec"]["template"]["metadata"]["labels"] for each in operators)

    assert _may_reach(labels, names.CONTROL_PORT, namespace=SYSTEM)
    assert not _may_reach(labels, names.WEBHOOK_PORT, namespace=SYSTEM)


def test_the_network_policy_is_about_what_pods_with_the_label_send() -> None:
    """It selects agents and never our own children, and says nothing of what reaches an agent."""
    assert _selects(NETWORK["podSelector"], {names.POLICY_LABEL: "support"})
    assert not _selects(NETWORK["podSelector"], GATEWAY)
    assert NETWORK["policyTypes"] == ["Egress"]
    assert "ingress" not in NETWORK
