"""Claims on accelerators, as tests write them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from flotilla_operator.scaling.claims import Claim, Grant, Node, Pool
from flotilla_operator.scaling.fleet import NamespacedName

GPU = "nvidia.com/gpu"


def name(expert: str) -> NamespacedName:
    """`sql`, or `team/sql`."""
    namespace, _, plain = expert.rpartition("/")
    return NamespacedName(namespace or "agents", plain)


def a_claim(
    expert: str,
    wanted: int,
    usd: Sequence[float] = (),
    *,
    floor: int = 0,
    size: int = 1,
    placed: Mapping[str, int] | int = 0,
    current: int | None = None,
    price: float = 1.0,
    pool: str = "l4",
) -> Claim:
    """A claim on `pool`; `placed` replicas run on node a, or on the nodes named."""
    nodes = {"a": placed} if isinstance(placed, int) else placed
    running = tuple(sorted((node, replicas) for node, replicas in nodes.items() if replicas))
    return Claim(
        name(expert),
        pool,
        size,
        floor,
        wanted,
        current=sum(nodes.values()) if current is None else current,
        placed=running,
        usd_per_hour=tuple(usd),
        replica_usd_per_hour=price,
    )


def a_pool(nodes: Mapping[str, int], *, pool: str = "l4", held: Mapping[str, int] | None = None) -> Pool:
    """Nodes with so many accelerators for pods that may come; `held` says of some what pods hold there."""
    found = {node: Node(node, available) for node, available in nodes.items()}
    found |= {node: Node(node, nodes.get(node, 0), amount) for node, amount in (held or {}).items()}
    return Pool(pool, GPU, tuple(found.values()))


def numbers(grants: Mapping[NamespacedName, Grant]) -> dict[str, int]:
    """Replicas by expert's name."""
    return {expert.name: grant.replicas for expert, grant in grants.items()}
