"""The kinds that the operator reads, and how the API server addresses them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, get_args

from flotilla_api.meta import GROUP, VERSION
from flotilla_api.names import KIND_LABEL, MANAGED_BY, MANAGED_BY_LABEL, OWNER_LABEL
from flotilla_operator.reconcile.dispatch import CHILD_KINDS
from flotilla_operator.reconcile.types import Key, Manifest, ObjectRef, OwnerKind

MANAGED_SELECTOR = f"{MANAGED_BY_LABEL}={MANAGED_BY}"
OWNER_KINDS: tuple[OwnerKind, ...] = get_args(OwnerKind)


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of objects that the store holds."""

    kind: str
    group: str
    """'' for the core group."""
    version: str
    plural: str
    namespaced: bool = True
    managed: bool = True
    """Whether only objects with our managed-by label are read."""

    @property
    def api_version(self) -> str:
        """As in a manifest."""
        return f"{self.group}/{self.version}" if self.group else self.version

    @property
    def selector(self) -> str:
        """The label selector that the API server applies; '' for every object."""
        return MANAGED_SELECTOR if self.managed else ""

    def collection_path(self, namespace: str) -> str:
        """Path of all objects in `namespace`; '' for all namespaces, or a cluster-scoped kind."""
        root = f"/apis/{self.group}/{self.version}" if self.group else f"/api/{self.version}"
        return f"{root}/namespaces/{namespace}/{self.plural}" if namespace else f"{root}/{self.plural}"

    def path(self, namespace: str, name: str) -> str:
        """Path of one object."""
        return f"{self.collection_path(namespace)}/{name}"


def _own(kind: str, plural: str, *, namespaced: bool = True) -> Kind:
    return Kind(kind, GROUP, VERSION, plural, namespaced=namespaced, managed=False)


def _children() -> list[Kind]:
    found: dict[str, Kind] = {}
    for child in (child for kinds in CHILD_KINDS.values() for child in kinds):
        group, _, version = child.api_version.rpartition("/")
        found[child.kind] = Kind(child.kind, group, version, child.plural)
    return list(found.values())


OWN_KINDS = (
    _own("AcceleratorProfile", "acceleratorprofiles", namespaced=False),
    _own("Expert", "experts"),
    _own("Fallback", "fallbacks"),
    _own("RoutingPolicy", "routingpolicies"),
)
KINDS: dict[str, Kind] = {
    kind.kind: kind
    for kind in (
        *OWN_KINDS,
        *_children(),
        Kind("ReplicaSet", "apps", "v1", "replicasets"),
        Kind("Pod", "", "v1", "pods"),
    )
}
"""Every kind in the store, by its name; names are unique among them."""

AGENT_POD = Kind("Pod", "", "v1", "pods", managed=False)
"""A pod that is not ours; never in the store."""

AUTOSCALER = Kind("HorizontalPodAutoscaler", "autoscaling", "v2", "horizontalpodautoscalers", managed=False)
NODE = Kind("Node", "", "v1", "nodes", namespaced=False, managed=False)
QUOTA = Kind("ResourceQuota", "", "v1", "resourcequotas", managed=False)
LEASE = Kind("Lease", "coordination.k8s.io", "v1", "leases", managed=False)
CONFIG_MAP = Kind("ConfigMap", "", "v1", "configmaps", managed=False)
"""One that is not ours; never in the store."""
SECRET = Kind("Secret", "", "v1", "secrets", managed=False)
CORE_EVENT = Kind("Event", "", "v1", "events", managed=False)
EVENT = Kind("Event", "events.k8s.io", "v1", "events", managed=False)
TOKEN_REVIEW = Kind("TokenReview", "authentication.k8s.io", "v1", "tokenreviews", namespaced=False, managed=False)
ACCESS_REVIEW = Kind(
    "SubjectAccessReview", "authorization.k8s.io", "v1", "subjectaccessreviews", namespaced=False, managed=False
)

WEBHOOK_CONFIGURATION = Kind(
    "MutatingWebhookConfiguration",
    "admissionregistration.k8s.io",
    "v1",
    "mutatingwebhookconfigurations",
    namespaced=False,
    managed=False,
)


def key_of(ref: ObjectRef) -> Key | None:
    """The key of a reference to an owner; None for other kinds."""
    for kind in OWNER_KINDS:
        if ref.kind == kind:
            return Key(kind, ref.namespace, ref.name)
    return None


def ref_of(key: Key) -> ObjectRef:
    """The reference to the owner itself."""
    return ObjectRef(key.kind, key.namespace, key.name)


def controller_of(manifest: Manifest) -> Manifest | None:
    """The controlling owner reference, or None."""
    references: list[Manifest] = manifest["metadata"].get("ownerReferences") or []
    return next((reference for reference in references if reference.get("controller")), None)


def labelled_owner(manifest: Manifest) -> Key | None:
    """The owner that a child's or pod's labels name; labels prove nothing about who made it."""
    metadata: Manifest = manifest["metadata"]
    labels: dict[str, Any] = metadata.get("labels") or {}
    if KIND_LABEL not in labels or OWNER_LABEL not in labels:
        return None
    return key_of(ObjectRef(labels[KIND_LABEL], metadata.get("namespace", ""), labels[OWNER_LABEL]))


def controlling_owner(manifest: Manifest) -> Key | None:
    """The owner whose controlled child `manifest` is, or None."""
    controller = controller_of(manifest)
    if controller is None:
        return None
    return key_of(ObjectRef(controller["kind"], manifest["metadata"].get("namespace", ""), controller["name"]))
