"""Accelerators that there are, and who holds them: nodes, quotas and strangers' pods by LIST once a minute, and the
pods of our own engines from the store, as they are now.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import TypeVar

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

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class _Place:
    """What one list is about; all of the cluster where nothing is named."""

    namespace: str = ""
    node: str = ""


@dataclass(frozen=True, slots=True)
class _Stranger:
    """A pod that is none of our engines', as far as the last list could tell."""

    uid: str
    holding: Holding


class Accelerators:
    """Knows what pools have, as of the last look, and what our engines hold of it, as of now."""

    def __init__(self, client: Client, store: Store, clock: Clock, reach: Reach) -> None:
        self._client = client
        self._store = store
        self._clock = clock
        self._reach = reach
        self._due = float("-inf")
        self._machines: dict[_Place, tuple[Machine, ...]] = {}
        """Empty: nodes have not been listed."""
        self._bounds: dict[_Place, tuple[Bound, ...]] = {}
        self._strangers: dict[_Place, tuple[_Stranger, ...]] = {}
        self._slots = asyncio.Semaphore(LISTS_AT_A_TIME)
        self._untold: dict[str, str] = {}
        """Why something could not be listed, by what."""

    async def look(self) -> None:
        """What nodes, quotas and strangers say is at most a minute old; what cannot be listed is as it was."""
        now, resources = self._clock.monotonic(), self._resources()
        if now < self._due or not resources:
            return
        self._due = now + LOOK_SECONDS
        own = {_uid(pod) for pods in self._pods().values() for pod in pods}
        await self._read(self._machines, NODE, [_Place()], lambda node: _machines(node, resources))
        await self._read(self._bounds, QUOTA, self._places(), lambda quota: _bounds(quota, resources))
        nodes = [_Place(node=machine.name) for machine in _all(self._machines)]
        places = self._places(nodes) if nodes else nodes
        await self._read(self._strangers, AGENT_POD, places, lambda pod: _strangers(pod, resources, own))

    def supply(self, scaled: Collection[NamespacedName]) -> Supply:
        """What there is for these Experts."""
        holdings, engines, resources = list[Holding](), list[Engine](), self._resources()
        found = self._pods()
        self._recognize({_uid(pod) for pods in found.values() for pod in pods})
        for key, owned in found.items():
            expert = NamespacedName(key.namespace, key.name) if key.kind == "Expert" else None
            pods = [pod for pod in owned if not _has_ended(pod)]
            holdings += [_holding(pod, resources, expert) for pod in pods]
            if expert not in scaled:
                engines += self._engine(key, pods)
        holdings += [stranger.holding for stranger in _all(self._strangers)]
        occupancy = Occupancy(tuple(_all(self._machines)), holdings, tuple(_all(self._bounds)))
        return Supply(occupancy, engines, nodes_known=bool(self._machines))

    def _pods(self) -> dict[Key, tuple[Manifest, ...]]:
        """Of each model that is served in the cluster, as the store knows them now."""
        return {key: owned_pods(self._store, key) for key in self._store.owners() if key.kind != "RoutingPolicy"}

    def _recognize(self, own: Collection[str]) -> None:
        """Pods that the list knew before the store did are no strangers, also when they are gone."""
        for place, strangers in self._strangers.items():
            self._strangers[place] = tuple(stranger for stranger in strangers if stranger.uid not in own)

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

    def _places(self, whole: Sequence[_Place] = (_Place(),)) -> Sequence[_Place]:
        """The served namespaces, beyond which no strangers are seen; `whole` where all are served."""
        return [_Place(namespace) for namespace in self._reach.namespaces()] or whole

    async def _read(
        self,
        known: dict[_Place, tuple[T, ...]],
        kind: Kind,
        places: Sequence[_Place],
        read: Callable[[Manifest], Iterable[T]],
    ) -> None:
        """`known` is what is read at these places; where they cannot be listed it is what was read there last."""
        for gone in known.keys() - set(places):
            del known[gone]

        async def read_at(place: _Place) -> None:
            items = await self._list(kind, place)
            if items is not None:
                known[place] = tuple(each for item in items for each in read(item))

        await asyncio.gather(*map(read_at, places))

    async def _list(self, kind: Kind, place: _Place) -> Sequence[Manifest] | None:
        """None: it cannot be listed, which is told of once."""
        what = f"{kind.plural} of {place.namespace}" if place.namespace else kind.plural
        selector = f"spec.nodeName={place.node}" if place.node else ""
        try:
            async with self._slots:
                items, _ = await self._client.list_objects(kind, place.namespace, field_selector=selector)
        except OperatorError as error:
            if self._untold.get(what) != str(error):
                self._untold[what] = str(error)
                logger.warning("accelerators not counted", extra=fields(what=what, reason=str(error)))
            return None
        self._untold.pop(what, None)
        return items


def _all(known: Mapping[_Place, tuple[T, ...]]) -> Iterator[T]:
    return (each for found in known.values() for each in found)


def _machines(node: Manifest, resources: Collection[str]) -> Iterator[Machine]:
    """The node, where it has accelerators."""
    machine = _machine(node, resources)
    if machine.allocatable:
        yield machine


def _strangers(pod: Manifest, resources: Collection[str], own: Collection[str]) -> Iterator[_Stranger]:
    """The pod, where it is none of `own` and holds accelerators."""
    holding = _holding(pod, resources)
    if holding.resources and not _has_ended(pod) and _uid(pod) not in own:
        yield _Stranger(_uid(pod), holding)


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


def _uid(pod: Manifest) -> str:
    return pod["metadata"]["uid"]


def _is_placed(pod: Manifest) -> bool:
    return bool(pod["spec"].get("nodeName"))


def _is_leaving(pod: Manifest) -> bool:
    return bool(pod["metadata"].get("deletionTimestamp"))


def _has_ended(pod: Manifest) -> bool:
    return pod.get("status", {}).get("phase") in _ENDED
