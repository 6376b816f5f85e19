"""Manifests as plain JSON: identity, canonical hash and the metadata that every child has."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from flotilla_api import names

Manifest = dict[str, Any]
"""A Kubernetes object as JSON. Treated as immutable: builders return new ones."""


@dataclass(frozen=True, slots=True, order=True)
class ObjectRef:
    """Any Kubernetes object by kind and name; namespace '' for cluster-scoped ones."""

    kind: str
    namespace: str
    name: str

    def __str__(self) -> str:
        return f"{self.kind} {self.namespace}/{self.name}" if self.namespace else f"{self.kind} {self.name}"

    @staticmethod
    def of(manifest: Mapping[str, Any]) -> ObjectRef:
        """The reference to `manifest`."""
        metadata = manifest["metadata"]
        return ObjectRef(manifest["kind"], metadata.get("namespace", ""), metadata["name"])


def canonical_hash(value: object) -> str:
    """16 hex digits that depend on the JSON value alone, not on the order of its keys."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def child_of(owner: Manifest) -> str:
    """The name that an owner's main children share."""
    return names.child_name(owner["kind"], owner["metadata"]["name"])


def owner_labels(owner: Manifest) -> dict[str, str]:
    """Labels of every child of `owner`."""
    return names.child_labels(owner["kind"], owner["metadata"]["name"])


def owner_selector(owner: Manifest) -> dict[str, str]:
    """Labels that select the pods of `owner`."""
    return names.selector_labels(owner["kind"], owner["metadata"]["name"])


def make_metadata(owner: Manifest, name: str, annotations: Mapping[str, str] | None = None) -> Manifest:
    """Metadata of a child of `owner`, controlled by it."""
    metadata: Manifest = {
        "name": name,
        "namespace": owner["metadata"]["namespace"],
        "labels": owner_labels(owner),
        "ownerReferences": [make_owner_reference(owner)],
    }
    return metadata | ({"annotations": dict(annotations)} if annotations else {})


def make_owner_reference(owner: Manifest) -> Manifest:
    """A controller reference to `owner`. It does not block the owner's deletion: that would need more rights."""
    return {
        "apiVersion": owner["apiVersion"],
        "kind": owner["kind"],
        "name": owner["metadata"]["name"],
        "uid": owner["metadata"]["uid"],
        "controller": True,
        "blockOwnerDeletion": False,
    }
