"""One entry for every owner kind: children, status, snapshot and references."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from flotilla_operator.resources.specs import (
    InvalidSpecError,
    Served,
    parse_model,
    parse_policy,
    policy_experts,
    policy_fallbacks,
)

from .checks import invalid_verdict
from .engine import desired_engine
from .engine_status import engine_verdict
from .external import external_verdict
from .gateway import desired_gateway
from .gateway_status import gateway_verdict
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
    """The children that the owner should have, in the order in which they are applied.

    An owner whose stored spec does not parse keeps the children that it has.
    """
    try:
        if observed.owner["kind"] == "RoutingPolicy":
            return desired_gateway(observed, parse_policy(observed.owner))
        model = parse_model(observed.owner)
    except InvalidSpecError:
        return observed.children
    return desired_engine(observed, model) if isinstance(model, Served) else ()


def verdict(observed: Observed, wanted: Sequence[Manifest], failures: Sequence[StepFailure]) -> Verdict:
    """The owner's whole status, the events of its transitions, and when to look again.

    `wanted` is what `desired(observed)` returned, `failures` what came in the way of it.
    """
    try:
        if observed.owner["kind"] == "RoutingPolicy":
            return gateway_verdict(observed, parse_policy(observed.owner), wanted, failures)
        model = parse_model(observed.owner)
    except InvalidSpecError as error:
        return invalid_verdict(observed, str(error))
    if isinstance(model, Served):
        return engine_verdict(observed, model, wanted, failures)
    return external_verdict(observed, model, failures)


def references(owner: Manifest) -> frozenset[ObjectRef]:
    """The AcceleratorProfiles, Experts and Fallbacks that the spec of any kind names itself, rules included."""
    try:
        if owner["kind"] == "RoutingPolicy":
            return _policy_references(owner)
        if owner["kind"] in ("Expert", "Fallback"):
            model = parse_model(owner)
            return frozenset({model.profile_ref}) if isinstance(model, Served) else frozenset()
    except InvalidSpecError:
        pass
    return frozenset()


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


def _policy_references(owner: Manifest) -> frozenset[ObjectRef]:
    spec, namespace = parse_policy(owner), owner["metadata"]["namespace"]
    experts = {ObjectRef("Expert", namespace, name) for name in policy_experts(spec)}
    return frozenset(experts | {ObjectRef("Fallback", namespace, name) for name in policy_fallbacks(spec)})
