"""One entry for every owner kind: children, status, snapshot and references."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from .types import Manifest, ObjectRef, Observed, OwnerKind, StepFailure, Verdict


class ChildKind(NamedTuple):
    """A kind of children, as the API server addresses it."""

    api_version: str
    kind: str
    plural: str


_SERVICE_ACCOUNT = ChildKind("v1", "ServiceAccount", "serviceaccounts")
_SERVICE = ChildKind("v1", "Service", "services")
_DEPLOYMENT = ChildKind("apps/v1", "Deployment", "deployments")
_BUDGET = ChildKind("policy/v1", "PodDisruptionBudget", "poddisruptionbudgets")
_ENGINE_KINDS = (
    _SERVICE_ACCOUNT,
    ChildKind("apps/v1", "ControllerRevision", "controllerrevisions"),
    _SERVICE,
    _DEPLOYMENT,
    _BUDGET,
)

CHILD_KINDS: Mapping[OwnerKind, tuple[ChildKind, ...]] = {
    "Expert": _ENGINE_KINDS,
    "Fallback": _ENGINE_KINDS,
    "RoutingPolicy": (
        _SERVICE_ACCOUNT,
        ChildKind("rbac.authorization.k8s.io/v1", "Role", "roles"),
        ChildKind("rbac.authorization.k8s.io/v1", "RoleBinding", "rolebindings"),
        ChildKind("v1", "ConfigMap", "configmaps"),
        _SERVICE,
        _DEPLOYMENT,
        _BUDGET,
    ),
}
"""Every kind that `desired` may return, by owner kind."""


def desired(observed: Observed) -> tuple[Manifest, ...]:
    """The children that the owner should have, in the order in which they are applied."""
    raise NotImplementedError


def verdict(observed: Observed, failures: Sequence[StepFailure]) -> Verdict:
    """The owner's whole status, the events of its transitions, and when to look again."""
    raise NotImplementedError


def snapshot_of(desired: Sequence[Manifest]) -> bytes | None:
    """The snapshot that a RoutingPolicy's ConfigMap holds; None where there is none."""
    raise NotImplementedError


def references(owner: Manifest) -> frozenset[ObjectRef]:
    """The AcceleratorProfiles, Experts and Fallbacks that the spec of any kind names itself, rules included."""
    raise NotImplementedError


def resolve_references(
    owner: Manifest, lookup: Callable[[ObjectRef], Manifest | None]
) -> dict[ObjectRef, Manifest | None]:
    """`references(owner)` and, for a RoutingPolicy, the profiles of what it names: `Observed.references`.

    A change of any of them wakes `owner`.
    """
    found = {reference: lookup(reference) for reference in sorted(references(owner))}
    for manifest in [manifest for manifest in found.values() if manifest]:
        found.update({reference: lookup(reference) for reference in sorted(references(manifest))})
    return found
