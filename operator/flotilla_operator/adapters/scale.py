"""The `ScaleTargets` port on a real Kubernetes API: scaled Experts from the store, and writes that touch nothing else.

Of a Deployment only /scale is written, by server-side apply under a manager of its own, so that the reconciler's
apply and the scaler's never meet in one field.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from flotilla_api.names import FIELD_MANAGER, SCALER_MANAGER
from flotilla_operator.ports import NotFoundError, NotLeadingError, OperatorError, RefusedError
from flotilla_operator.reconcile.scaled import ScaledExpert
from flotilla_operator.reconcile.types import Key, Manifest, ObjectRef
from flotilla_operator.resources.manifest import child_of
from flotilla_operator.resources.replicas import replica_managers
from flotilla_operator.telemetry import LOGGER, fields

from .client import Client
from .kinds import AUTOSCALER, KINDS, ref_of
from .owned import controller_uid, owned_pods
from .store import Store

logger = logging.getLogger(LOGGER)


@dataclass(frozen=True, slots=True)
class Reach:
    """What the scaler may read and write now."""

    leading: Callable[[], bool]
    """Checked before every write."""
    namespaces: Callable[[], Sequence[str]]
    """Those that can be read; none: all."""
    unreadable: Callable[[], Mapping[str, str]]
    """Those that are left out."""


@dataclass(frozen=True, slots=True)
class _Written:
    """A number that was written, until the store has heard of it."""

    uid: str
    """Of the Deployment."""
    version: int
    replicas: int


class KubernetesScales:
    """The `ScaleTargets` port."""

    def __init__(self, client: Client, store: Store, reach: Reach) -> None:
        self._client = client
        self._store = store
        self._reach = reach
        self._written: dict[ObjectRef, _Written] = {}
        self._autoscalers: dict[str, Mapping[ObjectRef, str]] = {}
        """As last listed, by namespace ('': all)."""
        self._unlisted: dict[str, str] = {}
        """Why a namespace's autoscalers cannot be listed."""

    def experts(self) -> Sequence[ScaledExpert]:
        """Every Expert with `scaling` in a namespace that can be read."""
        keys = [key for key in self._store.owners() if key.kind == "Expert"]
        found = tuple(scaled for key in keys if (scaled := self.find(key)))
        self._forget_others({scaled.deployment_ref for scaled in found})
        return found

    def find(self, key: Key) -> ScaledExpert | None:
        """That Expert; None: it is not known, not scaled, being deleted, or may not be read."""
        expert = self._store.get(ref_of(key))
        if expert is None or not expert["spec"].get("scaling") or key.namespace in self._reach.unreadable():
            return None
        if expert["metadata"].get("deletionTimestamp"):
            return None
        deployment = self._deployment(expert)
        around = self._around(key)
        if deployment is None:
            return ScaledExpert(expert, other_scaler=self._other(expert), around=around)
        managers = replica_managers(deployment)
        strangers = sorted(managers - {FIELD_MANAGER, SCALER_MANAGER})
        written = self._unheard(deployment)
        return ScaledExpert(
            expert,
            deployment,
            replicas=written.replicas if written else deployment["spec"].get("replicas", 1),
            owned=written is not None or bool(managers - {FIELD_MANAGER}),
            last_writer=strangers[0] if strangers else "",
            other_scaler=self._other(expert),
            pods=owned_pods(self._store, key),
            around=around,
        )

    async def scale(self, expert: ScaledExpert, replicas: int) -> None:
        """Its Deployment asks for `replicas`, and the scaler owns that number.

        Raises:
            OperatorError: see the tree; OutdatedError when the Deployment is another by now.
        """
        assert expert.deployment is not None
        metadata = expert.deployment["metadata"]
        identity = {"name": metadata["name"], "namespace": metadata["namespace"], "uid": metadata["uid"]}
        scale = {"apiVersion": "autoscaling/v1", "kind": "Scale", "metadata": identity, "spec": {"replicas": replicas}}
        self._require_lease()
        answer = await self._client.apply(KINDS["Deployment"], scale, manager=SCALER_MANAGER, subresource="scale")
        version = int(answer["metadata"]["resourceVersion"])
        self._written[ObjectRef.of(expert.deployment)] = _Written(metadata["uid"], version, replicas)

    async def annotate(self, pod: Manifest, annotations: Mapping[str, str | None]) -> None:
        """The pod has these annotations; None: not this one.

        Raises:
            OperatorError: see the tree; OutdatedError when a pod of that name is another by now.
        """
        identity = {name: pod["metadata"][name] for name in ("name", "namespace", "uid")}
        self._require_lease()
        patch: Manifest = {"metadata": {**identity, "annotations": dict(annotations)}}
        await self._client.merge(KINDS["Pod"], patch, manager=FIELD_MANAGER)

    async def look_for_others(self) -> None:
        """Experts name the horizontal autoscalers on their Deployments, KEDA's among them, as they are now.

        Those of a namespace in which they cannot be listed are as they were last seen; that is told of once.

        Raises:
            UnavailableError, UnreachableError: there, they have never been seen.
        """
        namespaces = tuple(self._reach.namespaces()) or ("",)
        self._autoscalers = {name: found for name, found in self._autoscalers.items() if name in namespaces}
        errors = await asyncio.gather(*(self._list_autoscalers(namespace) for namespace in namespaces))
        if unseen := next((error for error in errors if error), None):
            raise unseen

    async def _list_autoscalers(self, namespace: str) -> OperatorError | None:
        """What is not known because of it, and may be later; None: nothing."""
        try:
            items, _ = await self._client.list_objects(AUTOSCALER, namespace)
        except OperatorError as error:
            if self._unlisted.get(namespace) != str(error):
                self._unlisted[namespace] = str(error)
                logger.warning("autoscalers not listed", extra=fields(namespace=namespace, reason=str(error)))
            passes = not isinstance(error, (RefusedError, NotFoundError))
            return error if passes and namespace not in self._autoscalers else None
        self._unlisted.pop(namespace, None)
        self._autoscalers[namespace] = {
            ObjectRef("Deployment", item["metadata"]["namespace"], item["spec"]["scaleTargetRef"]["name"]): str(
                ObjectRef.of(item)
            )
            for item in items
            if item["spec"]["scaleTargetRef"]["kind"] == "Deployment"
        }
        return None

    def _other(self, expert: Manifest) -> str:
        """The autoscaler on its Deployment; '': none is known."""
        namespace = expert["metadata"]["namespace"]
        ref = ObjectRef("Deployment", namespace, child_of(expert))
        return next((found[ref] for each in (namespace, "") if ref in (found := self._autoscalers.get(each, {}))), "")

    def _deployment(self, expert: Manifest) -> Manifest | None:
        """The Expert's own; None: it has not been made, or somebody else's has its name."""
        ref = ObjectRef("Deployment", expert["metadata"]["namespace"], child_of(expert))
        found = self._store.get(ref)
        return found if found is not None and controller_uid(found) == expert["metadata"]["uid"] else None

    def _unheard(self, deployment: Manifest) -> _Written | None:
        """What was written to it that the store has not heard of yet."""
        ref = ObjectRef.of(deployment)
        written = self._written.get(ref)
        if written is None:
            return None
        metadata = deployment["metadata"]
        if written.uid == metadata["uid"] and int(metadata["resourceVersion"]) < written.version:
            return written
        del self._written[ref]
        return None

    def _forget_others(self, known: set[ObjectRef]) -> None:
        for ref in [ref for ref in self._written if ref not in known]:
            del self._written[ref]

    def _around(self, key: Key) -> dict[ObjectRef, Manifest]:
        """The Expert's profile, the policies that name it, and the fallbacks of these with their own profiles."""
        policies = [ref_of(namer) for namer in self._store.namers(ref_of(key)) if namer.kind == "RoutingPolicy"]
        named = {ref for policy in policies for ref in self._store.named_by(policy) if ref.kind == "Fallback"}
        profiles = {
            ref
            for model in (ref_of(key), *named)
            for ref in self._store.named_by(model)
            if ref.kind == "AcceleratorProfile"
        }
        refs = sorted({*policies, *named, *profiles})
        return {ref: manifest for ref in refs if (manifest := self._store.get(ref)) is not None}

    def _require_lease(self) -> None:
        if not self._reach.leading():
            raise NotLeadingError
