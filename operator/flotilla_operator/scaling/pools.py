"""What pools have for experts that are scaled: nodes, less what others hold of them. PURE.

| capacity of the profile | what there is                                                                              |
|-------------------------|--------------------------------------------------------------------------------------------|
| Nodes                   | allocatable of nodes that fit, less what others hold; what runs keeps what it holds        |
| a number                | that many for scaled experts                                                               |
| Unbounded               | any number                                                                                 |
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from flotilla_api.accelerator import AcceleratorProfileSpec, Capacity, Toleration
from flotilla_api.expert import PodOverrides

from .claims import Node, Places, Pool, Quota
from .fleet import NamespacedName

_REPELLING = frozenset({"NoSchedule", "NoExecute"})


@dataclass(frozen=True, slots=True)
class Taint:
    """Of a node, one that keeps pods away."""

    key: str
    value: str
    effect: str


@dataclass(frozen=True, slots=True)
class Machine:
    """A node, as the Kubernetes API tells of it."""

    name: str
    labels: Mapping[str, str]
    allocatable: Mapping[str, int]
    """Of extended resources."""
    taints: tuple[Taint, ...] = ()
    cordoned: bool = False


@dataclass(frozen=True, slots=True)
class Holding:
    """A pod that has not ended and asks for extended resources."""

    namespace: str
    node: str
    """'' until it is scheduled."""
    resources: Mapping[str, int]
    leaving: bool = False
    """Whether it is being deleted."""
    expert: NamespacedName | None = None
    """The Expert whose replica it is."""


@dataclass(frozen=True, slots=True)
class Bound:
    """A ResourceQuota on one extended resource."""

    namespace: str
    resource: str
    hard: int
    used: int


@dataclass(frozen=True, slots=True)
class Occupancy:
    """Who holds what in the cluster."""

    machines: Sequence[Machine] = ()
    holdings: Sequence[Holding] = ()
    bounds: Sequence[Bound] = ()

    def places(self, *, leaving: bool = False) -> Mapping[NamespacedName, Places]:
        """Where replicas of experts hold accelerators: those that stay, or those that are being deleted."""
        found: defaultdict[NamespacedName, Counter[str]] = defaultdict(Counter)
        for holding in self.holdings:
            if holding.expert is not None and holding.node and holding.leaving == leaving:
                found[holding.expert][holding.node] += 1
        return {expert: tuple(sorted(nodes.items())) for expert, nodes in found.items()}


@dataclass(frozen=True, slots=True)
class Placement:
    """Where the pods of some engines may go. What their affinity says is not looked at."""

    profile: str
    resource: str
    capacity: Capacity
    selector: Mapping[str, str] = field(default_factory=dict[str, str])
    tolerations: tuple[Toleration, ...] = ()

    @classmethod
    def of(cls, profile: str, spec: AcceleratorProfileSpec, overrides: PodOverrides | None) -> Placement:
        """Of an engine with these overrides; they make a pool of their own only where nodes are what a pool has."""
        capacity: Capacity = "Nodes" if spec.capacity is None else spec.capacity
        selector, tolerations = dict(spec.nodeSelector or {}), tuple(spec.tolerations or ())
        if overrides is not None and capacity == "Nodes":
            selector |= overrides.nodeSelector or {}
            tolerations += tuple(overrides.tolerations or ())
        return cls(profile, spec.resource, capacity, selector, tolerations)

    @property
    def pool(self) -> str:
        """The pool's name: the profile's, and all else that decides about nodes."""
        labels = [f"{key}={value}" for key, value in sorted(self.selector.items())]
        return " ".join((self.profile, *labels, *sorted(each.model_dump_json() for each in self.tolerations)))

    def admits(self, machine: Machine) -> bool:
        """Whether a new pod may go there."""
        if machine.cordoned or self.resource not in machine.allocatable:
            return False
        selected = all(machine.labels.get(key) == value for key, value in self.selector.items())
        return selected and all(map(self._tolerates, machine.taints))

    def _tolerates(self, taint: Taint) -> bool:
        """A taint with the resource's own name is tolerated: clusters that set it add the toleration to pods."""
        ignored = taint.effect not in _REPELLING or taint.key == self.resource
        return ignored or any(_matches(each, taint) for each in self.tolerations)


def make_pools(
    scaled: Mapping[NamespacedName, Placement], occupancy: Occupancy, lacking: Mapping[str, Sequence[int]]
) -> list[Pool]:
    """The pools of the scaled experts, one for each placement that differs.

    `lacking` are, by pool, the sizes of replicas that engines with a fixed number still lack: their accelerators are
    kept for them.
    """
    placements = {placement.pool: placement for placement in scaled.values()}
    pools = {expert: placement.pool for expert, placement in scaled.items()}
    resources = {placement.resource for placement in placements.values()}
    shares = {resource: _Held.of(resource, pools, occupancy.holdings) for resource in resources}
    return [
        _make_pool(placement, occupancy.machines, shares[placement.resource], lacking.get(pool, ()))
        for pool, placement in placements.items()
    ]


def make_quotas(scaled: Collection[NamespacedName], occupancy: Occupancy) -> list[Quota]:
    """What scaled experts may hold in each namespace that has a quota: all that others do not use."""
    own: Counter[tuple[str, str]] = Counter()
    for holding in occupancy.holdings:
        if holding.expert in scaled:
            own.update({(holding.namespace, resource): amount for resource, amount in holding.resources.items()})
    return [
        Quota(bound.namespace, bound.resource, max(0, bound.hard - max(0, bound.used - held)))
        for bound in occupancy.bounds
        for held in (own[bound.namespace, bound.resource],)
    ]


@dataclass(frozen=True, slots=True)
class _Held:
    """Accelerators that pods hold, by node."""

    own: Mapping[str, Counter[str]]
    """By pools of scaled experts."""
    scaled: Counter[str]
    """All of these."""
    others: Counter[str]

    @classmethod
    def of(cls, resource: str, pools: Mapping[NamespacedName, str], holdings: Iterable[Holding]) -> _Held:
        found = cls(defaultdict(Counter), Counter(), Counter())
        for holding in holdings:
            amount = holding.resources.get(resource, 0)
            pool = None if holding.expert is None else pools.get(holding.expert)
            if pool is None:
                found.others[holding.node] += amount
            else:
                found.scaled[holding.node] += amount
                found.own[pool][holding.node] += amount
        return found


def _make_pool(placement: Placement, machines: Iterable[Machine], held: _Held, lacking: Sequence[int]) -> Pool:
    pool = Pool(placement.pool, placement.resource, profile=placement.profile)
    if placement.capacity == "Unbounded":
        return pool
    if isinstance(placement.capacity, int):
        return replace(pool, accelerators=placement.capacity)
    available = {
        machine.name: max(0, machine.allocatable[placement.resource] - held.others[machine.name])
        for machine in machines
        if placement.admits(machine)
    }
    own = (name for name, amount in held.own.get(placement.pool, Counter[str]()).items() if name and amount)
    nodes = (Node(name, available.get(name, 0), held.scaled[name]) for name in sorted({*available, *own}))
    return replace(pool, nodes=tuple(nodes), reserved=tuple(sorted(lacking, reverse=True)))


def _matches(toleration: Toleration, taint: Taint) -> bool:
    """As the scheduler has it: https://kubernetes.io/docs/concepts/scheduling-eviction/taint-and-toleration/."""
    if toleration.effect not in (None, taint.effect):
        return False
    if toleration.key not in (None, taint.key):
        return False
    return toleration.operator == "Exists" or (toleration.value or "") == taint.value
