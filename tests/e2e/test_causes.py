"""Why an Expert does not answer: its conditions name the pod's real cause, so nobody has to read pod events."""

from __future__ import annotations

from typing import Any

import pytest

from e2e.objects import an_expert
from e2e.steps import Space

CAUSES = [
    pytest.param(
        {"engine": {"image": "registry.example.com/none:1"}},
        "Available",
        "ImagePullFailed",
        "registry.example.com/none:1",
        id="an image that does not exist",
    ),
    pytest.param(
        {"model": {"uri": "hf://acme/missing-1b"}},
        "Available",
        "DownloadFailed",
        "acme/missing-1b",
        id="a model that does not exist",
    ),
    pytest.param(
        {"model": {"uri": "hf://acme/gated-1b"}},
        "Available",
        "DownloadFailed",
        "Cannot access gated repo",
        id="a gated model without a token",
    ),
    pytest.param(
        {"env": {"SIM_FAIL_AT_LOAD": "oom"}}, "Available", "OutOfMemory", "CUDA out of memory", id="too small a GPU"
    ),
    pytest.param(
        {"podOverrides": {"resources": {"limits": {"memory": "8Mi"}}}},
        "Available",
        "OutOfMemory",
        "more memory than its limit",
        id="too small a memory limit",
    ),
    pytest.param(
        {"env": {"SIM_FAIL_AT_LOAD": "crash"}},
        "Available",
        "CrashLoop",
        "CUDA error: an illegal memory access",
        id="an engine that crashes",
    ),
    pytest.param(
        {"engine": {"startupTimeout": "3s"}, "env": {"SIM_LOAD_SECONDS": "600"}},
        "Available",
        "EngineStartTimeout",
        "no answer within 3 s",
        id="an engine that takes too long to load",
    ),
    pytest.param(
        {"model": {"uri": "pvc://weights/small"}},
        "Available",
        "ClaimNotFound",
        "weights",
        id="a claim that does not exist",
    ),
    pytest.param(
        {"engine": {"env": [{"name": "TOKEN", "valueFrom": {"configMapKeyRef": {"name": "proxy", "key": "url"}}}]}},
        "Available",
        "ConfigMapNotFound",
        "proxy",
        id="a ConfigMap that does not exist",
    ),
    pytest.param(
        {"accelerator": {"profile": "e2e-l4", "count": 9}},
        "Scheduled",
        "InsufficientAccelerators",
        "Insufficient nvidia.com/gpu",
        id="more GPUs than a node has",
    ),
    pytest.param(
        {"podOverrides": {"nodeSelector": {"pool": "nowhere"}}},
        "Scheduled",
        "Unschedulable",
        "didn't match Pod's node affinity/selector",
        id="nodes that do not exist",
    ),
]


@pytest.mark.parametrize(("spec", "condition", "reason", "said"), CAUSES)
def test_the_cause_is_in_the_conditions(
    space: Space, spec: dict[str, Any], condition: str, reason: str, said: str
) -> None:
    """The condition has the documented reason and a message with the detail; Ready says the same."""
    space.apply(an_expert("broken", **spec))

    found = space.wait_condition("Expert", "broken", condition, "False", reason)
    ready = space.wait_condition("Expert", "broken", "Ready", "False", reason)

    assert said in found["message"]
    assert said in ready["message"]


def test_a_quota_that_forbids_pods_is_named(space: Space) -> None:
    """When the API server refuses the pods themselves, the Expert says so in its words."""
    quota = {"apiVersion": "v1", "kind": "ResourceQuota", "metadata": {"name": "none"}, "spec": {"hard": {"pods": "0"}}}
    space.apply(quota)
    space.wait_for(lambda: space.get("ResourceQuota", "none").get("status", {}).get("hard"), "the quota to be known")

    space.apply(an_expert("broken"))

    found = space.wait_condition("Expert", "broken", "Ready", "False", "PodsForbidden")
    assert "exceeded quota" in found["message"]


def test_an_insufficient_accelerator_names_the_schedulers_count(space: Space) -> None:
    """The scheduler's own sentence is in the message, with its count of nodes."""
    space.apply(an_expert("wide", accelerator={"profile": "e2e-l4", "count": 9}))

    found = space.wait_condition("Expert", "wide", "Ready", "False", "InsufficientAccelerators")

    assert "0/5 nodes are available" in found["message"]


def test_a_repaired_expert_becomes_ready(space: Space) -> None:
    """Once the cause is taken away, every condition follows."""
    space.apply(an_expert("broken", engine={"image": "registry.example.com/none:1"}))
    space.wait_condition("Expert", "broken", "Ready", "False", "ImagePullFailed")

    space.apply(an_expert("broken"))

    space.wait_ready("Expert", "broken")
    statuses = {each["type"]: each["status"] for each in space.get("Expert", "broken")["status"]["conditions"]}
    assert statuses.pop("Fits") == "Unknown"  # the size of the model is not said
    assert set(statuses.values()) == {"True"}


def test_a_served_fallback_names_its_cause_too(space: Space) -> None:
    """What is served for a Fallback is looked at in the same way."""
    expert = an_expert("large", env={"SIM_FAIL_AT_LOAD": "oom"})
    space.apply({**expert, "kind": "Fallback", "spec": {"served": expert["spec"]}})

    space.wait_condition("Fallback", "large", "Ready", "False", "OutOfMemory")
