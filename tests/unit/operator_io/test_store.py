"""The store's index: which report is newer, what a list says about what it lacks, and who is concerned."""

from __future__ import annotations

from typing import Any

import pytest

from flotilla_api.names import child_labels
from flotilla_operator.adapters.store import TOMBSTONES_MAX, Change, Store
from flotilla_operator.reconcile.dispatch import references
from flotilla_operator.reconcile.types import Key, Manifest, ObjectRef

NAMESPACE = "agents"
EXPERT = Key("Expert", NAMESPACE, "invoice")
POLICY = Key("RoutingPolicy", NAMESPACE, "router")


def an_object(kind: str, name: str, version: int, *, uid: str = "", **rest: Any) -> Manifest:
    """An object of the store's kinds."""
    metadata = {"name": name, "namespace": NAMESPACE, "uid": uid or f"uid-{name}", "resourceVersion": str(version)}
    return {"kind": kind, "metadata": {**metadata, **rest.pop("metadata", {})}, **rest}


def an_expert(version: int, *, profile: str = "l4", uid: str = "uid-invoice") -> Manifest:
    """The Expert `invoice` on a profile."""
    spec = {"model": {"uri": "hf://a/b"}, "accelerator": {"profile": profile}}
    return an_object("Expert", "invoice", version, uid=uid, spec=spec)


def a_policy(version: int, *experts: str) -> Manifest:
    """The policy `router` over experts."""
    spec = {"experts": [{"name": name} for name in experts], "auth": {"anonymous": True}}
    return an_object("RoutingPolicy", "router", version, spec=spec)


def a_profile(version: int) -> Manifest:
    """The cluster-scoped profile `l4`."""
    manifest = an_object("AcceleratorProfile", "l4", version, spec={})
    del manifest["metadata"]["namespace"]
    return manifest


def a_pod(version: int, name: str = "pod-1") -> Manifest:
    """A pod with the expert's labels."""
    controller = {"kind": "ReplicaSet", "name": "rs", "uid": "uid-rs", "controller": True}
    labels = child_labels("Expert", "invoice")
    return an_object("Pod", name, version, metadata={"labels": labels, "ownerReferences": [controller]})


def version_of(store: Store, ref: ObjectRef) -> str | None:
    """The stored version, or None."""
    found = store.get(ref)
    return found["metadata"]["resourceVersion"] if found else None


@pytest.fixture
def store() -> Store:
    """An empty store."""
    return Store(references)


def test_apply_keeps_the_newer_of_two_reports_whatever_their_order(store: Store) -> None:
    """A report that is late changes nothing."""
    store.apply(an_expert(7))

    assert store.apply(an_expert(5)) is None
    assert store.apply(an_expert(7)) is None
    assert version_of(store, ObjectRef("Expert", NAMESPACE, "invoice")) == "7"


def test_apply_orders_versions_as_numbers(store: Store) -> None:
    """Version 10 is newer than version 9."""
    store.apply(an_expert(9))

    assert store.apply(an_expert(10)) is not None


def test_remove_that_comes_after_the_next_object_of_the_name_is_ignored(store: Store) -> None:
    """Events of two objects of one name may overtake each other: a deletion only ends its own."""
    store.apply(an_expert(5, uid="first"))
    store.apply(an_expert(9, uid="second"))

    assert store.remove(an_expert(8, uid="first")) is None
    assert version_of(store, ObjectRef("Expert", NAMESPACE, "invoice")) == "9"


def test_apply_that_comes_after_the_deletion_is_ignored(store: Store) -> None:
    """A late report does not bring a deleted object back."""
    store.apply(an_expert(5))
    store.remove(an_expert(8))

    assert store.apply(an_expert(6)) is None
    assert store.owners() == []


def test_apply_brings_back_an_object_that_left_the_selector_and_returned(store: Store) -> None:
    """A watch reports an object whose label was taken away as deleted; with the label back it counts again."""
    store.apply(a_pod(5))
    store.remove(a_pod(8))

    assert store.apply(a_pod(9)) is not None


def test_deletions_are_remembered_within_bounds(store: Store) -> None:
    """Years of deletions do not fill the memory."""
    for number in range(TOMBSTONES_MAX + 10):
        store.remove(an_object("Pod", f"pod-{number}", number + 1))

    assert len(store._deleted) == TOMBSTONES_MAX  # pyright: ignore[reportPrivateUsage] - nothing else shows it


@pytest.mark.parametrize(
    ("listed", "version", "left"),
    [
        pytest.param([], 9, [], id="an object that the list lacks is gone"),
        pytest.param([], 4, ["5"], id="unless it is newer than the list"),
        pytest.param([5], 9, ["5"], id="an object that the list has stays"),
        pytest.param([8], 9, ["8"], id="a newer state in the list is taken"),
        pytest.param([3], 9, ["5"], id="an older state in the list is not"),
    ],
)
def test_replace_compares_versions(store: Store, listed: list[int], version: int, left: list[str]) -> None:
    """A consistent list synthesises the deletions that a watch lost."""
    store.apply(an_expert(5))

    store.replace("Expert", "", [an_expert(each) for each in listed], version)

    version_left = version_of(store, ObjectRef("Expert", NAMESPACE, "invoice"))
    assert ([version_left] if version_left else []) == left


def test_replace_reports_deletions_as_changes(store: Store) -> None:
    """A deletion that is synthesised wakes the same keys as one that was heard."""
    store.apply(an_expert(5))

    (change,) = store.replace("Expert", "", [], 9)

    assert change.after is None
    assert store.concerned(change) == {EXPERT}


def test_replace_of_one_namespace_leaves_the_others(store: Store) -> None:
    """Where only some namespaces are watched, each has its own list."""
    store.apply(an_expert(5))

    assert store.replace("Expert", "elsewhere", [], 9) == []
    assert store.owners() == [EXPERT]


def test_replace_does_not_bring_back_what_was_deleted_after_the_list(store: Store) -> None:
    """A list that was slow to arrive does not undo the deletion that overtook it."""
    store.apply(an_expert(5))
    store.remove(an_expert(9))

    store.replace("Expert", "", [an_expert(5)], 8)

    assert store.owners() == []


def test_replace_with_an_older_list_than_the_last_takes_the_list_alone(store: Store) -> None:
    """After etcd was restored from a backup, versions begin anew and the past does not count."""
    store.replace("Expert", "", [an_expert(500), an_object("Expert", "gone", 400, spec={})], 600)

    store.replace("Expert", "", [an_expert(90)], 100)

    assert store.owners() == [EXPERT]
    assert version_of(store, ObjectRef("Expert", NAMESPACE, "invoice")) == "90"


def test_forget_removes_what_a_live_read_did_not_find(store: Store) -> None:
    """An object whose deletion was never heard goes when the API server says 404."""
    store.apply(an_expert(5))

    assert store.forget(ObjectRef("Expert", NAMESPACE, "invoice")) is not None
    assert store.forget(ObjectRef("Expert", NAMESPACE, "invoice")) is None


def test_controlled_by_follows_the_controller_reference(store: Store) -> None:
    """Children are found by the uid of their controller, and no longer once it is taken away."""
    store.apply(a_pod(5))
    assert [pod["metadata"]["name"] for pod in store.controlled_by("uid-rs")] == ["pod-1"]

    orphan = a_pod(6)
    del orphan["metadata"]["ownerReferences"]
    store.apply(orphan)

    assert store.controlled_by("uid-rs") == []


def test_labelled_finds_pods_by_their_owner_labels(store: Store) -> None:
    """Pods are found by the owner that their labels name."""
    store.apply(a_pod(5, "pod-b"))
    store.apply(a_pod(6, "pod-a"))

    assert [pod["metadata"]["name"] for pod in store.labelled(EXPERT, "Pod")] == ["pod-a", "pod-b"]
    assert store.labelled(EXPERT, "Service") == []
    assert store.labelled(POLICY, "Pod") == []


def test_concerned_reaches_policies_through_experts_from_a_profile(store: Store) -> None:
    """A profile's change wakes the experts on it and the policies that use these."""
    store.apply(an_expert(5))
    store.apply(a_policy(6, "invoice"))

    change = store.apply(a_profile(7))

    assert change
    assert store.concerned(change) == {EXPERT, POLICY}


def test_concerned_wakes_policies_for_experts_that_did_not_exist(store: Store) -> None:
    """A policy may come before the expert that it names."""
    store.apply(a_policy(5, "invoice"))

    change = store.apply(an_expert(6))

    assert change
    assert store.concerned(change) == {EXPERT, POLICY}


def test_concerned_forgets_references_that_were_dropped(store: Store) -> None:
    """A policy that no longer names an expert is not woken by it."""
    store.apply(a_policy(5, "invoice"))
    store.apply(a_policy(6, "sql"))

    change = store.apply(an_expert(7))

    assert change
    assert store.concerned(change) == {EXPERT}


def test_concerned_wakes_the_owner_and_its_policies_for_a_pod(store: Store) -> None:
    """A pod that became ready is a new endpoint for every policy that uses its expert."""
    store.apply(a_policy(5, "invoice"))

    change = store.apply(a_pod(6))

    assert change
    assert store.concerned(change) == {EXPERT, POLICY}


def test_concerned_wakes_the_former_and_the_new_owner(store: Store) -> None:
    """A child whose owner label was edited concerns both owners that it named."""
    child = an_object("Service", "invoice-expert", 5, metadata={"labels": child_labels("Expert", "invoice")})
    moved = an_object("Service", "invoice-expert", 6, metadata={"labels": child_labels("Expert", "sql")})

    assert store.concerned(Change(child, moved)) == {EXPERT, Key("Expert", NAMESPACE, "sql")}


def test_concerned_finds_the_owner_of_a_child_without_labels(store: Store) -> None:
    """The controller reference alone leads to the owner."""
    controller = {"kind": "Expert", "name": "invoice", "uid": "uid-invoice", "controller": True}
    child = an_object("Service", "invoice-expert", 5, metadata={"ownerReferences": [controller]})

    assert store.concerned(Change(None, child)) == {EXPERT}
