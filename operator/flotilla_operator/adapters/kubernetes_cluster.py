"""The `Cluster` port on a real Kubernetes API: reads from the store, writes that can never touch what is not ours."""

from __future__ import annotations

import asyncio
import logging
import uuid
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from flotilla_api.conditions import Reason
from flotilla_api.meta import API_VERSION
from flotilla_api.names import FIELD_MANAGER, MANAGED_BY, MANAGED_BY_LABEL, selector_labels
from flotilla_operator.ports import (
    Clock,
    NotFoundError,
    NotLeadingError,
    OperatorError,
    OutdatedError,
    RefusedError,
    StepFailedError,
    UnavailableError,
    UnreachableError,
    UnreadableError,
)
from flotilla_operator.reconcile.dispatch import desired, resolve_references
from flotilla_operator.reconcile.types import (
    Acknowledgement,
    AgentPod,
    Event,
    Key,
    Manifest,
    ObjectRef,
    Observed,
    Plan,
    Step,
    StepFailure,
)
from flotilla_operator.resources.pods import is_live, is_ready
from flotilla_operator.resources.settings import OperatorSettings
from flotilla_operator.scaling.report import ScalingReport
from flotilla_operator.telemetry import LOGGER, fields

from .client import Client
from .events import make_event
from .feed import Feed, complete
from .kinds import CORE_EVENT, EVENT, KINDS, Kind, controlling_owner, key_of, ref_of
from .owned import controller_uid, owned_pods, owned_replica_sets
from .store import Store

CREATE_ONLY = "1"
"""A server-side apply with this resourceVersion creates; where anything exists, its version is another: a conflict."""
WARNINGS_PER_OBJECT = 20
WARNED_OBJECTS_MAX = 20
"""Objects whose warnings are read in one observation: pods of one template fail for the same few reasons."""
EVENT_LISTS_AT_A_TIME = 4
"""So that a fleet of pods that fail leaves connections for writing."""

logger = logging.getLogger(LOGGER)


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What an observation needs beside the Kubernetes API."""

    settings: OperatorSettings
    acknowledgements: Callable[[Key], tuple[Acknowledgement, ...]]
    agents: Callable[[Key], tuple[AgentPod, ...] | None]
    control_ca: Callable[[], str]
    leading: Callable[[], bool]
    """Checked before every write."""
    leading_seconds: Callable[[], float]
    wake: Callable[[Key], None]
    instance: str
    """Name of this replica, shown in events."""
    artifact_maps: Callable[[Key], Mapping[str, str | None]] = lambda _: {}
    """As `Observed.artifact_maps`; it wakes the key when that changes."""
    scaling: Callable[[Key], ScalingReport | None] = lambda _: None
    """What the scaler last said of an Expert; it wakes the key when that changes."""


class KubernetesCluster:
    """The `Cluster` port."""

    def __init__(self, client: Client, store: Store, feed: Feed, clock: Clock, surroundings: Surroundings) -> None:
        self._client = client
        self._store = store
        self._feed = feed
        self._clock = clock
        self._around = surroundings
        self._event_lists = asyncio.Semaphore(EVENT_LISTS_AT_A_TIME)
        self._contested: defaultdict[Key, set[ObjectRef]] = defaultdict(set)
        """Children that could not be created because something has their name: only these need a live read."""

    async def observe(self, key: Key) -> Observed | None:
        """All inputs about `key`, or None when a live read says that it does not exist."""
        if why := self._feed.unreadable.get(key.namespace):
            raise UnreadableError(key.namespace, why)
        owner = await self._live_unless_stored(ref_of(key))
        if owner is None:
            self._contested.pop(key, None)
            return None
        references = await self._references(owner)
        pods = owned_pods(self._store, key)
        policy = key.kind == "RoutingPolicy"
        observed = Observed(
            owner=owner,
            settings=self._around.settings,
            now=self._clock.now(),
            children=tuple(self._store.controlled_by(owner["metadata"]["uid"])),
            pods=pods,
            warnings=await self._warnings(key, pods),
            references=references,
            reference_pods=await self._reference_pods(references) if policy else {},
            acknowledgements=self._around.acknowledgements(key) if policy else (),
            agents=self._around.agents(key) if policy else None,
            artifact_maps=self._around.artifact_maps(key) if policy else {},
            leading_seconds=self._around.leading_seconds() if policy else 0.0,
            control_ca=self._around.control_ca() if policy else "",
            scaling=self._around.scaling(key) if key.kind == "Expert" else None,
        )
        return await self._with_contested(key, observed)

    async def execute(self, plan: Plan) -> Sequence[StepFailure]:
        """Every step is carried out or reported; transient errors are raised for a retry.

        Raises:
            StepFailedError: a step met a transient error.
        """
        failures: list[StepFailure] = []
        for step in plan.steps:
            try:
                await self._carry_out(step)
            except RefusedError as error:
                failures.append(StepFailure(step, _refusal(step), error.message))
            except (UnavailableError, UnreachableError) as error:
                raise StepFailedError(step, error) from error
            except NotFoundError as error:
                if step.verb != "delete":
                    failures.append(StepFailure(step, Reason.APPLY_REFUSED, error.message))
        return failures

    async def write_status(self, owner: Manifest, status: Manifest) -> None:
        """The status subresource of `owner` is `status`; who names the owner is woken."""
        ref = ObjectRef.of(owner)
        kind = KINDS[ref.kind]
        # The API server ignores a wrong uid in a status write, so the version says which object is meant.
        version = owner["metadata"]["resourceVersion"]
        identity = {"name": ref.name, "namespace": ref.namespace, "resourceVersion": version}
        manifest: Manifest = {"apiVersion": API_VERSION, "kind": ref.kind, "metadata": identity, "status": status}
        self._require_lease()
        self._feed.learn(kind, await self._apply(kind, manifest, subresource="status"))
        for key in self._store.namers(ref):
            self._around.wake(key)

    async def emit(self, owner: ObjectRef, owner_uid: str, events: Sequence[Event]) -> None:
        """The events are recorded about the owner; one that cannot be recorded is logged and dropped."""
        for event in events:
            try:
                self._require_lease()
                await self._client.create(EVENT, owner.namespace, self._event(owner, owner_uid, event))
            except OperatorError as error:
                logger.warning("event dropped", extra=fields(object=str(owner), event=event.reason, reason=str(error)))

    async def _carry_out(self, step: Step) -> None:
        self._require_lease()
        ref = ObjectRef.of(step.manifest)
        kind = KINDS[ref.kind]
        if step.verb == "delete":
            await self._client.delete(kind, ref.namespace, ref.name, uid=step.uid)
            return
        if step.verb == "prune":
            self._feed.learn(kind, await self._prune(kind, step.manifest))
            return
        guard = {"resourceVersion": CREATE_ONLY} if step.verb == "create" else {"uid": step.uid}
        guard |= {"resourceVersion": step.version} if step.version else {}
        manifest = {**step.manifest, "metadata": {**step.manifest["metadata"], **guard}}
        self._feed.learn(kind, await self._apply(kind, manifest))

    async def _prune(self, kind: Kind, patch: Manifest) -> Manifest:
        """The object without what others added; after a conflict the store is told the truth."""
        try:
            return await self._client.merge(kind, patch, manager=FIELD_MANAGER)
        except (OutdatedError, NotFoundError):
            await self._refresh(kind, ObjectRef.of(patch))
            raise

    async def _apply(self, kind: Kind, manifest: Manifest, *, subresource: str = "") -> Manifest:
        """The applied object. After a conflict the store is told the truth, so that a retry does not meet it again."""
        try:
            return await self._client.apply(kind, manifest, manager=FIELD_MANAGER, subresource=subresource)
        except (OutdatedError, NotFoundError):
            await self._refresh(kind, ObjectRef.of(manifest))
            if owner := controlling_owner(manifest):
                self._contested[owner].add(ObjectRef.of(manifest))
            raise

    async def _refresh(self, kind: Kind, ref: ObjectRef) -> None:
        """The store knows the object as it is, and whom a change concerns is woken: the watch will bring no news."""
        live = await self._live(ref)
        if live is None or (kind.managed and not _is_managed(live)):
            change = self._store.forget(ref)
        else:
            change = self._feed.learn(kind, live)
        for key in self._store.concerned(change) if change else ():
            self._around.wake(key)

    def _require_lease(self) -> None:
        if not self._around.leading():
            raise NotLeadingError

    async def _live_unless_stored(self, ref: ObjectRef) -> Manifest | None:
        """The object from the store, else by a live read; None only when that says 404."""
        stored = self._store.get(ref)
        return stored if stored is not None else await self._live(ref)

    async def _live(self, ref: ObjectRef) -> Manifest | None:
        kind = KINDS[ref.kind]
        try:
            return complete(kind, await self._client.get(kind.path(ref.namespace, ref.name)))
        except NotFoundError:
            return None

    async def _references(self, owner: Manifest) -> Mapping[ObjectRef, Manifest | None]:
        """What the owner names, and what these name. What the store lacks is read live, until nothing new turns up."""
        live: dict[ObjectRef, Manifest | None] = {}
        while True:
            found = resolve_references(owner, lambda ref: self._store.get(ref) or live.get(ref))
            unknown = [ref for ref, manifest in found.items() if manifest is None and ref not in live]
            if not unknown:
                return found
            for ref in unknown:
                live[ref] = await self._live(ref)

    async def _reference_pods(
        self, references: Mapping[ObjectRef, Manifest | None]
    ) -> dict[ObjectRef, tuple[Manifest, ...]]:
        keys = {ref: key for ref, manifest in references.items() if manifest and (key := key_of(ref))}
        await asyncio.gather(*(self._read_pods(key) for key in keys.values() if self._seems_down(key)))
        return {ref: owned_pods(self._store, key) for ref, key in keys.items()}

    def _seems_down(self, key: Key) -> bool:
        """Nobody answers and somebody starts: perhaps it has, and only its predecessor's end is known so far.

        kopf keeps the order of the events of one object, and not that of two.
        """
        pods = owned_pods(self._store, key)
        return any(map(is_live, pods)) and not any(map(is_ready, pods))

    async def _read_pods(self, key: Key) -> None:
        """The store knows the owner's pods as they are now."""
        kind = KINDS["Pod"]
        pods, _ = await self._client.list_objects(kind, key.namespace, labels=selector_labels(key.kind, key.name))
        for pod in pods:
            self._feed.receive(kind, "MODIFIED", pod)

    async def _warnings(self, key: Key, pods: Sequence[Manifest]) -> tuple[Manifest, ...]:
        """Warning events about live pods that are not ready, and about ReplicaSets that lack pods."""
        unready = [pod for pod in pods if is_live(pod) and not is_ready(pod)]
        lacking = [replicas for replicas in owned_replica_sets(self._store, key) if _lacks_pods(replicas)]
        about = (*lacking, *unready)[:WARNED_OBJECTS_MAX]
        found = await asyncio.gather(*(self._warnings_about(manifest) for manifest in about))
        return tuple(event for events in found for event in events)

    async def _warnings_about(self, manifest: Manifest) -> Sequence[Manifest]:
        metadata = manifest["metadata"]
        selector = f"involvedObject.uid={metadata['uid']},type=Warning"
        async with self._event_lists:
            events, _ = await self._client.list_objects(CORE_EVENT, metadata["namespace"], field_selector=selector)
        return sorted(events, key=_when)[-WARNINGS_PER_OBJECT:]

    async def _with_contested(self, key: Key, observed: Observed) -> Observed:
        """`observed` with what live reads say about the names that a creation found taken."""
        contested = self._contested.get(key)
        if not contested:
            return observed
        uid = observed.owner["metadata"]["uid"]
        ours = {ObjectRef.of(child): child for child in observed.children}
        wanted = {ObjectRef.of(manifest) for manifest in desired(observed)}
        strangers: set[ObjectRef] = set()
        for ref in sorted((contested & wanted) - set(ours)):
            live = await self._live(ref)
            if live is not None and controller_uid(live) == uid:
                ours[ref] = live
            elif live is not None:
                strangers.add(ref)
        self._contested[key] = strangers
        return replace(observed, children=tuple(ours[ref] for ref in sorted(ours)), strangers=frozenset(strangers))

    def _event(self, owner: ObjectRef, owner_uid: str, event: Event) -> Manifest:
        regarding = {
            "apiVersion": API_VERSION,
            "kind": owner.kind,
            "namespace": owner.namespace,
            "name": owner.name,
            "uid": owner_uid,
        }
        name = f"{owner.name}.{uuid.uuid4().hex[:16]}"
        return make_event(regarding, event, name=name, now=self._clock.now(), instance=self._around.instance)


def _refusal(step: Step) -> Reason:
    return Reason.INVALID_POD_TEMPLATE if step.manifest["kind"] == "Deployment" else Reason.APPLY_REFUSED


def _is_managed(manifest: Manifest) -> bool:
    labels: Manifest = manifest["metadata"].get("labels") or {}
    return labels.get(MANAGED_BY_LABEL) == MANAGED_BY


def _when(event: Manifest) -> str:
    """When an event was last seen; timestamps sort as text."""
    return event.get("lastTimestamp") or event.get("eventTime") or event["metadata"].get("creationTimestamp") or ""


def _lacks_pods(replica_set: Manifest) -> bool:
    wanted: int = replica_set.get("spec", {}).get("replicas") or 0
    return wanted > (replica_set.get("status", {}).get("replicas") or 0)
