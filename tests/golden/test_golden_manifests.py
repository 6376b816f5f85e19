"""What each kind turns into, whole, as it is applied, and checked against the schemas of Kubernetes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import kubernetes_validate  # pyright: ignore[reportMissingTypeStubs]
import pytest
import yaml

from builders import (
    NAMESPACE,
    SETTINGS,
    a_fallback,
    a_policy,
    a_profile,
    a_ready_pod,
    a_served_fallback,
    an_expert,
    observe,
)
from flotilla_api.names import POLICY_LABEL
from flotilla_operator.reconcile import dispatch
from flotilla_operator.reconcile.types import Manifest, ObjectRef, Observed
from flotilla_operator.resources.sidecar import SidecarInputs, inject_sidecar
from flotilla_operator.resources.specs import parse_policy

KUBERNETES_VERSIONS = ("1.29", "1.36")


class _Dumper(yaml.SafeDumper):
    """Long texts as blocks, and no anchors."""

    def ignore_aliases(self, data: object) -> bool:
        return True


def _as_block(_: yaml.SafeDumper, text: str) -> yaml.Node:
    style = "|" if "\n" in text else None
    return yaml.ScalarNode("tag:yaml.org,2002:str", text, style=style)


_Dumper.add_representer(str, _as_block)


def an_expert_with_everything() -> Manifest:
    return an_expert(
        "extract",
        model={
            "uri": "hf://acme/extract-7b-AWQ",
            "revision": "989aa7980e4cf806f80c7fef2b1adb7bc71aa306",
            "tokenSecretRef": {"name": "hf", "key": "token"},
            "parameters": "7.6B",
        },
        accelerator={"profile": "l4", "count": 2},
        engine={
            "image": "registry.example.com/vllm:custom",
            "args": ["--enable-auto-tool-choice", "--tool-call-parser=hermes"],
            "env": [
                {"name": "HTTPS_PROXY", "value": "http://proxy:3128"},
                {"name": "LICENSE", "valueFrom": {"secretKeyRef": {"name": "license", "key": "key"}}},
            ],
            "maxModelLen": 8192,
            "maxNumSeqs": 32,
            "startupTimeout": "20m",
        },
        capabilities={"apis": ["completions"], "tools": True},
        replicas=3,
        rollout={"maxSurge": 1, "maxUnavailable": 0},
        drain={"timeout": "2m"},
        podOverrides={
            "labels": {"team": "billing"},
            "annotations": {"cluster-autoscaler.kubernetes.io/safe-to-evict": "false"},
            "nodeSelector": {"topology.kubernetes.io/zone": "a"},
            "tolerations": [{"key": "spot", "operator": "Exists"}],
            "affinity": {"podAntiAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": []}},
            "topologySpreadConstraints": [
                {"maxSkew": 1, "topologyKey": "zone", "whenUnsatisfiable": "ScheduleAnyway", "labelSelector": {}}
            ],
            "priorityClassName": "serving",
            "imagePullSecrets": [{"name": "registry"}],
            "resources": {"requests": {"cpu": "4", "memory": "16Gi"}, "limits": {"memory": "24Gi"}},
        },
    )


def a_policy_with_everything() -> Manifest:
    return a_policy(
        models=["auto", "gpt-4o-mini"],
        pinnable=["big"],
        boundary="Any",
        experts=[{"name": "sql", "weight": 3}, {"name": "invoice"}],
        fallbacks=[{"name": "large"}, {"name": "big"}],
        rules=[
            {
                "name": "tools",
                "when": {
                    "tools": {"min": 1},
                    "promptTokens": {"gte": 10, "lt": 6000},
                    "models": ["auto"],
                    "headers": [{"name": "X-Task", "in": ["extract", "classify"]}],
                },
                "experts": [{"name": "invoice"}],
                "fallbacks": [{"name": "big"}],
                "escalation": {"on": ["Overloaded"], "confidence": {"min": "0.8"}},
            },
            {"name": "private", "when": {"headers": [{"name": "x-class", "in": ["pii"]}]}, "boundary": "LocalOnly"},
        ],
        strategy={"type": "Static"},
        escalation={
            "commit": {"tokens": 8, "maxWait": "300ms", "noSignal": "Escalate", "structured": {"maxBytes": "32Ki"}},
            "deadline": "10s",
            "onFallbackFailure": "Error",
        },
        timeouts={"connect": "500ms", "total": "90s"},
        coldStart={"mode": "Hold", "maxHold": "30s"},
        maxBodyBytes="1Mi",
        auth={"apiKeysSecretRef": {"name": "router-keys"}},
        tls={"secretRef": {"name": "router-tls"}},
        placement={
            "gateway": {"replicas": 3},
            "sidecar": {
                "port": 4000,
                "adminPort": 4001,
                "image": "registry.example.com/router:1",
                "resources": {"requests": {"cpu": "100m"}, "limits": {"cpu": "1", "memory": "128Mi"}},
            },
        },
    )


def a_learned_policy() -> Manifest:
    """One whose strategy was trained, with a shadow, a canary and a request log."""
    digest = "sha256:" + 32 * "0a"
    return a_policy(
        strategy={
            "type": "WinRate",
            "artifact": {"configMapRef": {"name": "router-2026-11"}, "digest": digest},
            "models": {"small": "invoice", "strong": "big"},
            "targetStrongRatio": "0.30",
            "header": {"min": "0.2", "max": "0.8"},
            "explore": {"ratio": "0.02"},
        },
        shadow={"artifact": {"url": "https://models.example.com/router.tar", "digest": digest}, "percent": 5},
        canary={
            "artifact": {"oci": f"registry.example.com/acme/routers@{digest}", "digest": digest},
            "models": {"weak": "invoice", "strong": "big"},
            "percent": 10,
            "sessionHeaders": ["X-Session-Id"],
        },
        requestLog={"prompts": "Redacted", "maxBytes": "128Mi", "readers": ["ml"]},
        auth={"apiKeysSecretRef": {"name": "router-keys"}},
    )


def a_full_cluster() -> Observed:
    invoice, sql, large = an_expert(), an_expert("sql"), a_served_fallback()
    big = a_fallback(
        credentialsSecretRef={"name": "big", "key": "apiKey"},
        tls={"caSecretRef": {"name": "big-ca", "key": "ca.crt"}},
        request={"drop": ["min_p"], "rename": {"max_tokens": "max_completion_tokens"}, "set": {"store": False}},
        cost={"inputPerMillionUSD": "2.50", "outputPerMillionUSD": "10"},
    )
    pods = {
        ObjectRef("Expert", NAMESPACE, "invoice"): (
            a_ready_pod(invoice, "b", ip="10.0.0.2"),
            a_ready_pod(invoice, "a", ip="10.0.0.1"),
        ),
        ObjectRef("Fallback", NAMESPACE, "large"): (a_ready_pod(large, ip="fd00::7"),),
    }
    policy = a_policy_with_everything()
    return observe(policy, a_profile(), invoice, sql, large, big, reference_pods=pods, control_ca="PEM\n")


def an_agent(**spec: object) -> Manifest:
    """An agent's pod, with a container and whatever `spec` adds."""
    container = {"name": "agent", "image": "registry.example.com/agent:1", "args": ["serve"]}
    metadata = {"name": "agent", "namespace": NAMESPACE, "labels": {"app": "agent", POLICY_LABEL: "billing"}}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": {"containers": [container], **spec}}


def a_busy_agent() -> Manifest:
    """One that has of everything something already."""
    migrate = {"name": "migrate", "image": "m", "env": [{"name": "OPENAI_BASE_URL", "value": "http://elsewhere/v1"}]}
    agent = an_agent(
        initContainers=[migrate],
        volumes=[{"name": "data", "emptyDir": {"sizeLimit": "1Gi"}}],
        imagePullSecrets=[{"name": "registry"}],
        serviceAccountName="agent",
        restartPolicy="Never",
    )
    agent["metadata"]["annotations"] = {"example.com/team": "billing"}
    return agent


def injected(agent: Manifest, policy: Manifest) -> Manifest:
    settings = replace(SETTINGS, router_image_pull_secrets=("mirror",))
    return inject_sidecar(agent, SidecarInputs(NAMESPACE, "billing", parse_policy(policy), settings)).pod


PODS = [
    pytest.param("agent", injected(an_agent(), a_policy()), id="an agent with nothing but a container"),
    pytest.param(
        "agent-everything", injected(a_busy_agent(), a_policy_with_everything()), id="an agent with everything"
    ),
]

CASES = [
    pytest.param("expert", observe(an_expert(), a_profile()), id="an expert with nothing but a model and a profile"),
    pytest.param(
        "expert-everything",
        observe(an_expert_with_everything(), a_profile(runtimeClassName="nvidia")),
        id="an expert with every field",
    ),
    pytest.param(
        "expert-claim",
        observe(an_expert(model={"uri": "pvc://weights/qwen/1.5b"}), a_profile()),
        id="an expert whose weights are on a claim",
    ),
    pytest.param("fallback-served", observe(a_served_fallback(), a_profile()), id="a fallback in the cluster"),
    pytest.param("policy", observe(a_policy(), a_profile(), an_expert(), a_fallback()), id="a small policy"),
    pytest.param("policy-everything", a_full_cluster(), id="a policy with every field but those of learned routing"),
    pytest.param(
        "policy-learned",
        observe(a_learned_policy(), a_profile(), an_expert(), a_fallback()),
        id="a policy that routes by what was learned, and keeps a log to learn from",
    ),
]


@pytest.mark.parametrize(("name", "observed"), CASES)
def test_manifests_are_as_the_golden_file(
    name: str, observed: Observed, matches_golden: Callable[[str, str], None]
) -> None:
    """A change to what is applied is seen by a reader, never by accident."""
    text = yaml.dump_all(dispatch.desired(observed), Dumper=_Dumper, sort_keys=False, width=120)

    matches_golden(f"{name}.yaml", text)


@pytest.mark.parametrize(("name", "pod"), PODS)
def test_injected_pods_are_as_the_golden_file(
    name: str, pod: Manifest, matches_golden: Callable[[str, str], None]
) -> None:
    """What an agent's pod becomes, whole."""
    matches_golden(f"{name}.yaml", yaml.dump(pod, Dumper=_Dumper, sort_keys=False, width=120))


@pytest.mark.parametrize("version", KUBERNETES_VERSIONS)
@pytest.mark.parametrize(("name", "pod"), PODS)
def test_injected_pods_are_valid(name: str, pod: Manifest, version: str) -> None:
    """The oldest and the newest supported Kubernetes take a sidecar as it is."""
    kubernetes_validate.validate(pod, version, strict=True)  # pyright: ignore[reportUnknownMemberType]


@pytest.mark.parametrize("version", KUBERNETES_VERSIONS)
@pytest.mark.parametrize(("name", "observed"), CASES)
def test_manifests_are_valid(name: str, observed: Observed, version: str) -> None:
    """The oldest and the newest supported Kubernetes know every field and accept every value's type."""
    for manifest in dispatch.desired(observed):
        kubernetes_validate.validate(manifest, version, strict=True)  # pyright: ignore[reportUnknownMemberType]


def test_children_are_of_the_announced_kinds() -> None:
    """CHILD_KINDS names every kind that is returned, so that each is watched and none is forgotten."""
    for case in CASES:
        observed = case.values[1]
        assert isinstance(observed, Observed)
        announced = {(kind.api_version, kind.kind) for kind in dispatch.CHILD_KINDS[observed.owner["kind"]]}

        assert {(each["apiVersion"], each["kind"]) for each in dispatch.desired(observed)} == announced
