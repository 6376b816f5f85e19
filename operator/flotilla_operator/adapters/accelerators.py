"""Accelerators that there are, and who holds them: nodes, quotas and strangers' pods by LIST once a minute, and the
pods of our own engines from the store, as they are now.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from decimal import Decimal

from flotilla_operator.ports import Clock, OperatorError
from flotilla_operator.reconcile.types import Key, Manifest, ObjectRef
from flotilla_operator.resources.manifest import child_of
from flotilla_operator.resources.quantity import parse_quantity
from flotilla_operator.scaling.fleet import NamespacedName
from flotilla_operator.scaling.pools import Bound, Holding, Machine, Occupancy, Taint
from flotilla_operator.sharing import Engine, Supply
from flotilla_operator.telemetry import LOGGER, fields

from .client import Client
from .kinds import AGENT_POD, NODE, QUOTA, Kind, ref_of
from .owned import owned_pods
from .scale import Reach
from .store import Store

LOOK_SECONDS = 60.0
LISTS_AT_A_TIME = 8
_ENDED = frozenset({"Succeeded", "Failed"})
_QUOTA_PREFIX = "requests."
_CONTAINERS = ("containers", "initContainers")

logger = logging.getLogger(LOGGER)


class Accelerators:
    """Knows what pools have, as of the last look, and what our engines hold of it, as of now."""

    def __init__(self, client: Client, store: Store, clock: Clock, reach: Reach) -> None:
        self._client = client
        self._store = store
        self._clock = clock
        self._reach = reach
        self._due = float("-inf")
        self._machines: tuple[Machine, ...] | None = None
        """None: nodes have not been listed."""
        self._bounds: tuple[Bound, ...] = ()
        self._strangers: tuple[Holding, ...] = ()
        self._slots = asyncio.Semaphore(LISTS_AT_A_TIME)
        self._untold: dict[str, str] = {}
        """Why something could not be listed, by what."""

    async def look(self) -> None:
        """What nodes, quotas and strangers say is at most a minute old; what cannot be listed is as it was."""
        now, resources = self._clock.monotonic(), self._resources()
        if now < self._due or not resources:
            return
        self._due = now + LOOK_SECONDS
        nodes = await self._list(NODE, "")
        if nodes is not None:
            machines = (_machine(node, resources) for node in nodes)
            self._machines = tuple(machine for machine in machines if machine.allocatable)
        quotas = await self._list_all(QUOTA, [{}])
        self._bounds = tuple(bound for quota in quotas for bound in _bounds(quota, resources))
        names = [machine.name for machine in self._machines or ()]
        pods = await self._list_all(AGENT_POD, [{"spec.nodeName": name} for name in names])
        strangers = (pod for pod in pods if not _has_ended(pod) and self._store.get(ObjectRef.of(pod)) is None)
        self._strangers = tuple(holding for pod in strangers if (holding := _holding(pod, resources)).resources)

    def supply(self, scaled: Collection[NamespacedName]) -> Supply:
        """What there is for these Experts."""
        holdings, engines = list(self._strangers), list[Engine]()
        resources = self._resources()
        for key in self._store.owners():
            if key.kind == "RoutingPolicy":
                continue
            expert = NamespacedName(key.namespace, key.name) if key.kind == "Expert" else None
            pods = [pod for pod in owned_pods(self._store, key) if not _has_ended(pod)]
            holdings += [_holding(pod, resources, expert) for pod in pods]
            if expert not in scaled:
                engines += self._engine(key, pods)
        occupancy = Occupancy(self._machines or (), holdings, self._bounds)
        return Supply(occupancy, engines, nodes_known=self._machines is not None)

    def _engine(self, key: Key, pods: Sequence[Manifest]) -> Iterator[Engine]:
        """The model, where it is served in the cluster and has been made."""
        owner = self._store.get(ref_of(key))
        named = self._store.named_by(ref_of(key)) if owner else ()
        profile = next((self._store.get(ref) for ref in named if ref.kind == "AcceleratorProfile"), None)
        deployment = self._store.get(ObjectRef("Deployment", key.namespace, child_of(owner))) if owner else None
        if owner and profile and deployment:
            yield Engine(owner, profile, deployment["spec"].get("replicas", 1), sum(map(_is_placed, pods)))

    def _resources(self) -> frozenset[str]:
        """The accelerators that profiles name."""
        return frozenset(profile["spec"]["resource"] for profile in self._store.of_kind("AcceleratorProfile"))

    async def _list_all(self, kind: Kind, selectors: Sequence[Mapping[str, str]]) -> list[Manifest]:
        """Objects in every served namespace that one of `selectors` matches.

        Where only some namespaces are served, one list each does it, and strangers in others are not seen.
        """
        namespaces = tuple(self._reach.namespaces())
        wanted = [("", each) for each in selectors]
        if namespaces:
            everything: Mapping[str, str] = {}
            wanted = [(namespace, everything) for namespace in namespaces] if selectors else []
        found = await asyncio.gather(*(self._list(kind, namespace, selector) for namespace, selector in wanted))
        return [manifest for manifests in found for manifest in manifests or ()]

    async def _list(
        self, kind: Kind, namespace: str, selector: Mapping[str, str] | None = None
    ) -> Sequence[Manifest] | None:
        """None: it cannot be listed, which is told of once."""
        what = f"{kind.plural} of {namespace}" if namespace else kind.plural
        fields_wanted = ",".join(f"{name}={value}" for name, value in (selector or {}).items())
        try:
            async with self._slots:
                items, _ = await self._client.list_objects(kind, namespace, field_selector=fields_wanted)
        except OperatorError as error:
            if self._untold.get(what) != str(error):
                self._untold[what] = str(error)
                logger.warning("accelerators not counted", extra=fields(what=what, reason=str(error)))
            return None
        self._untold.pop(what, None)
        return items


def _machine(node: Manifest, resources: Collection[str]) -> Machine:
    spec, metadata = node["spec"], node["metadata"]
    allocatable: dict[str, str] = node.get("status", {}).get("allocatable") or {}
    taints: list[Manifest] = spec.get("taints") or []
    return Machine(
        name=metadata["name"],
        labels=metadata.get("labels") or {},
        allocatable={name: _whole(amount) for name, amount in allocatable.items() if name in resources},
        taints=tuple(Taint(each["key"], each.get("value", ""), each["effect"]) for each in taints),
        cordoned=bool(spec.get("unschedulable")),
    )


def _bounds(quota: Manifest, resources: Collection[str]) -> Iterator[Bound]:
    """What a ResourceQuota says of accelerators; one for a part of the pods only says nothing of ours."""
    spec = quota["spec"]
    if spec.get("scopes") or spec.get("scopeSelector"):
        return
    used: dict[str, str] = quota.get("status", {}).get("used") or {}
    bounds: dict[str, str] = spec.get("hard") or {}
    for name, hard in bounds.items():
        resource = name.removeprefix(_QUOTA_PREFIX)
        if name.startswith(_QUOTA_PREFIX) and resource in resources:
            yield Bound(quota["metadata"]["namespace"], resource, _whole(hard), _whole(used.get(name, "0")))


def _holding(pod: Manifest, resources: Collection[str], expert: NamespacedName | None = None) -> Holding:
    return Holding(
        namespace=pod["metadata"]["namespace"],
        node=pod["spec"].get("nodeName", ""),
        resources={name: amount for name in resources if (amount := _asked(pod, name))},
        leaving=_is_leaving(pod),
        expert=expert,
    )


def _asked(pod: Manifest, resource: str) -> int:
    """Containers run together, init containers one after another before them."""
    together, before = (_amounts(pod["spec"].get(place) or (), resource) for place in _CONTAINERS)
    return max((sum(together), *before))


def _amounts(containers: Iterable[Manifest], resource: str) -> list[int]:
    return [_amount(container, resource) for container in containers]


def _amount(container: Manifest, resource: str) -> int:
    resources: Manifest = container.get("resources") or {}
    limits: dict[str, str] = resources.get("limits") or resources.get("requests") or {}
    return _whole(limits.get(resource, "0"))


def _whole(amount: str) -> int:
    return int(parse_quantity(str(amount)) or Decimal(0))


def _is_placed(pod: Manifest) -> bool:
    return bool(pod["spec"].get("nodeName"))


def _is_leaving(pod: Manifest) -> bool:
    return bool(pod["metadata"].get("deletionTimestamp"))


def _has_ended(pod: Manifest) -> bool:
    return pod.get("status", {}).get("phase") in _ENDED
