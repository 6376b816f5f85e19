"""The children of an Expert and a RoutingPolicy: repaired, never taken from others, gone with their owner."""

from __future__ import annotations

from collections.abc import Generator
from typing import Any

import pytest

from e2e.fixtures import new_space
from e2e.objects import Manifest, a_policy, an_expert
from e2e.steps import Space
from flotilla_api.names import MANAGED_BY, MANAGED_BY_LABEL, PUBLISHED_KEY, snapshot_name
from stack.flotilla import Stack

ENGINE_CHILDREN = ["Deployment", "Service", "PodDisruptionBudget", "ServiceAccount", "ControllerRevision"]
GATEWAY_CHILDREN = [
    "Deployment",
    "Service",
    "PodDisruptionBudget",
    "ServiceAccount",
    "ConfigMap",
    "Role",
    "RoleBinding",
]


@pytest.fixture(scope="module")
def owners(stack: Stack) -> Generator[Space]:
    """An Expert with no replica, and a policy; their children are there."""
    with new_space(stack) as space:
        space.apply(an_expert("idle", replicas=0), a_policy("assist", experts=["idle"]))
        space.wait_condition("Expert", "idle", "Ready", "False", "ScaledToZero")
        space.wait_condition("RoutingPolicy", "assist", "RouterReady", "True")
        yield space


def _child(space: Space, kind: str, owner_kind: str, owner: str) -> Manifest:
    (child,) = space.owned(kind, owner_kind, owner)
    return space.get(kind, child["metadata"]["name"])


@pytest.mark.parametrize(
    ("owner_kind", "owner", "kind"),
    [
        *(pytest.param("Expert", "idle", kind, id=f"an expert's {kind}") for kind in ENGINE_CHILDREN),
        *(pytest.param("RoutingPolicy", "assist", kind, id=f"a gateway's {kind}") for kind in GATEWAY_CHILDREN),
    ],
)
def test_a_child_that_is_deleted_by_hand_comes_back(owners: Space, owner_kind: str, owner: str, kind: str) -> None:
    """Every kind of child is made anew, with the same content and controlled by its owner."""
    before = _child(owners, kind, owner_kind, owner)
    name = before["metadata"]["name"]

    owners.delete(kind, name)

    def is_back() -> bool:
        found = owners.find(kind, name)
        return found is not None and found["metadata"]["uid"] != before["metadata"]["uid"]

    owners.wait_for(is_back, f"{kind} {name} to come back")
    after = owners.get(kind, name)
    assert after["metadata"]["ownerReferences"] == before["metadata"]["ownerReferences"]
    assert after["metadata"]["labels"] == before["metadata"]["labels"]
    assert _content(after) == _content(before)


def _content(manifest: Manifest) -> Manifest:
    """What the operator wrote, without what the API server chose and when a snapshot was published."""
    parts = {key: manifest[key] for key in ("spec", "data", "rules", "subjects", "roleRef") if key in manifest}
    if manifest["kind"] == "Service":
        parts["spec"] = {key: each for key, each in parts["spec"].items() if not key.startswith("clusterIP")}
    if "data" in parts:
        parts["data"] = {key: each for key, each in parts["data"].items() if key != PUBLISHED_KEY}
    return parts


@pytest.mark.parametrize(
    ("kind", "name", "patch"),
    [
        pytest.param("Deployment", "idle-expert", {"spec": {"replicas": 3}}, id="replicas of an expert"),
        pytest.param(
            "Deployment",
            "idle-expert",
            {"spec": {"strategy": {"rollingUpdate": {"maxSurge": 5}}}},
            id="the strategy of an expert",
        ),
        pytest.param("Service", "idle-expert", {"spec": {"selector": {"app": "mine"}}}, id="the selector of a Service"),
        pytest.param("Service", "assist-gateway", {"metadata": {"labels": {MANAGED_BY_LABEL: None}}}, id="our label"),
        pytest.param("ConfigMap", snapshot_name("assist"), {"data": {"snapshot.json": "{}"}}, id="the snapshot"),
        pytest.param("Role", "assist-gateway", {"rules": []}, id="the rights of a gateway"),
        pytest.param(
            "PodDisruptionBudget", "assist-gateway", {"spec": {"maxUnavailable": 9}}, id="the budget of a gateway"
        ),
    ],
)
def test_a_child_that_is_edited_by_hand_is_repaired(owners: Space, kind: str, name: str, patch: Manifest) -> None:
    """What somebody wrote over our fields is put right; the object stays the same one."""
    before = owners.get(kind, name)

    edited = owners.merge(kind, name, patch)

    assert _wanted(edited) != _wanted(before)
    owners.wait_for(lambda: _wanted(owners.get(kind, name)) == _wanted(before), f"{kind} {name} to be repaired")
    assert owners.get(kind, name)["metadata"]["uid"] == before["metadata"]["uid"]


def _wanted(manifest: Manifest) -> tuple[Any, ...]:
    return manifest["metadata"]["labels"], _content(manifest)


def test_what_others_add_to_a_child_stays(space: Space) -> None:
    """An annotation of another tool on a child is nobody's business: it stays while our own fields are repaired."""
    space.apply(an_expert("noted", replicas=0))
    space.wait_condition("Expert", "noted", "Ready", "False", "ScaledToZero")
    space.merge("Deployment", "noted-expert", {"metadata": {"annotations": {"example.com/note": "keep"}}})

    space.merge("Deployment", "noted-expert", {"spec": {"replicas": 2}})

    space.wait_for(lambda: space.get("Deployment", "noted-expert")["spec"]["replicas"] == 0, "the replicas' repair")
    assert space.get("Deployment", "noted-expert")["metadata"]["annotations"]["example.com/note"] == "keep"


def test_an_object_of_a_stranger_is_neither_overwritten_nor_adopted(space: Space) -> None:
    """A Service that somebody made under a child's name stays as it is, and the Expert says Conflict."""
    theirs = {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": "taken-expert"},
        "spec": {"selector": {"app": "theirs"}, "ports": [{"name": "web", "port": 80}]},
    }
    space.apply(theirs)
    before = space.get("Service", "taken-expert")

    space.apply(an_expert("taken", replicas=0))

    accepted = space.wait_condition("Expert", "taken", "Accepted", "False", "Conflict")
    space.wait_condition("Expert", "taken", "Ready", "False", "Conflict")
    assert "taken-expert" in accepted["message"]
    assert "Service" in accepted["message"]
    assert space.get("Service", "taken-expert") == before


def test_a_managed_label_on_a_strangers_object_makes_it_no_child(space: Space) -> None:
    """Our labels alone prove nothing: a ConfigMap that bears them but is not controlled by the policy stays."""
    labels = {MANAGED_BY_LABEL: MANAGED_BY, "flotilla.dev/owner-kind": "RoutingPolicy", "flotilla.dev/owner": "taken"}
    theirs = {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": snapshot_name("taken"), "labels": labels},
        "data": {"mine": "yes"},
    }
    space.apply(theirs)
    before = space.get("ConfigMap", snapshot_name("taken"))

    space.apply(an_expert("idle", replicas=0), a_policy("taken", experts=["idle"]))

    space.wait_condition("RoutingPolicy", "taken", "Accepted", "False", "Conflict")
    assert space.get("ConfigMap", snapshot_name("taken")) == before


def test_children_of_a_deleted_expert_are_gone(space: Space) -> None:
    """Nothing is left of an Expert: no finalizer holds it, and its children and pods follow it."""
    space.apply(an_expert("short"))
    space.wait_ready("Expert", "short")
    assert "finalizers" not in space.get("Expert", "short")["metadata"]

    space.delete("Expert", "short")

    assert space.find("Expert", "short") is None
    kinds = [*ENGINE_CHILDREN, "ReplicaSet", "Pod"]
    space.wait_for(lambda: not any(space.owned(kind, "Expert", "short") for kind in kinds), "the children to be gone")


def test_children_of_a_deleted_policy_are_gone(space: Space) -> None:
    """The same for a policy and its gateway."""
    space.apply(an_expert("idle", replicas=0), a_policy("short", experts=["idle"]))
    space.wait_condition("RoutingPolicy", "short", "RouterReady", "True")

    space.delete("RoutingPolicy", "short")

    kinds = [*GATEWAY_CHILDREN, "ReplicaSet", "Pod"]
    space.wait_for(
        lambda: not any(space.owned(kind, "RoutingPolicy", "short") for kind in kinds), "the children to be gone"
    )


def test_an_expert_and_a_fallback_may_share_a_name(space: Space) -> None:
    """Children's names tell the kind of their owner, so the two do not meet."""
    space.apply(an_expert("twin", replicas=0))
    fallback = an_expert("twin", replicas=0)
    space.apply({**fallback, "kind": "Fallback", "spec": {"served": fallback["spec"]}})

    space.wait_condition("Expert", "twin", "Accepted", "True")
    space.wait_condition("Fallback", "twin", "Accepted", "True")
    names = {each["metadata"]["name"] for each in space.list("Deployment")}
    assert names == {"twin-expert", "twin-fallback"}
