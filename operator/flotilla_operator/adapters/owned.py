"""Which pods are an owner's, by the store. PURE: a label alone makes no pod ours."""

from __future__ import annotations

from flotilla_operator.reconcile.types import Key, Manifest

from .kinds import controller_of, ref_of
from .store import Store


def owned_pods(store: Store, key: Key) -> tuple[Manifest, ...]:
    """Pods that bear the owner's labels and were made by its Deployment."""
    sets = {replicas["metadata"]["uid"] for replicas in owned_replica_sets(store, key)}
    return tuple(pod for pod in store.labelled(key, "Pod") if controller_uid(pod) in sets)


def owned_replica_sets(store: Store, key: Key) -> list[Manifest]:
    """Those of the Deployments that the owner controls."""
    owner = store.get(ref_of(key))
    children = store.controlled_by(owner["metadata"]["uid"]) if owner else []
    deployments = [child for child in children if child["kind"] == "Deployment"]
    controlled = (store.controlled_by(deployment["metadata"]["uid"]) for deployment in deployments)
    return [manifest for manifests in controlled for manifest in manifests if manifest["kind"] == "ReplicaSet"]


def controller_uid(manifest: Manifest) -> str:
    """Of the controller that made the object; '' when it has none."""
    controller = controller_of(manifest)
    return controller["uid"] if controller else ""
