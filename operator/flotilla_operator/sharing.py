"""What each scaled Expert gets of the accelerators that there are. No I/O: what there is comes in as a value."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from flotilla_api.expert import PodOverrides

from .describing import Describer, Memory
from .ledger import Ledger
from .reconcile.types import Manifest
from .resources.specs import InvalidSpecError, Served, parse_model, parse_profile
from .scaling.allocate import allocate
from .scaling.claims import Claim, Pool
from .scaling.fleet import NamespacedName
from .scaling.pools import Occupancy, Placement, make_pools, make_quotas


@dataclass(frozen=True, slots=True)
class Engine:
    """A model that is served in the cluster and whose number of replicas is not the scaler's."""

    owner: Manifest
    profile: Manifest
    replicas: int
    """What its Deployment asks for."""
    placed: int
    """Pods that have a node, those that are being deleted included: what these hold their successors get."""


@dataclass(frozen=True, slots=True)
class Supply:
    """Accelerators, and who else needs some."""

    occupancy: Occupancy
    engines: Sequence[Engine] = ()
    nodes_known: bool = True
    """False: nodes cannot be listed, and pools of nodes bound nothing."""


class Accelerators(Protocol):
    """What knows the accelerators."""

    async def look(self) -> None:
        """What is known of them is new enough. Never raises: what cannot be read stays as it was."""
        ...

    def supply(self, scaled: Collection[NamespacedName]) -> Supply:
        """What there is for these Experts; their own engines are not among its `engines`."""
        ...


class Sharing:
    """Parts the accelerators of each pool among the Experts that are scaled."""

    def __init__(self, describer: Describer, accelerators: Accelerators) -> None:
        self._describer = describer
        self._accelerators = accelerators
        self._placements = Memory[Placement | None]()

    async def look(self) -> None:
        """What is shared is known as it is now."""
        await self._accelerators.look()

    def share(self, ledgers: Sequence[Ledger]) -> None:
        """Each ledger says what its Expert gets, and why that is less than it wants."""
        placed = [(ledger, placement) for ledger in ledgers if (placement := self._placement_of(ledger))]
        scaled = {ledger.expert.name: placement for ledger, placement in placed}
        if not scaled:
            return
        supply = self._accelerators.supply(scaled)
        pools = make_pools(scaled, supply.occupancy, self._lacking(supply.engines))
        claims = self._claims(placed, supply.occupancy)
        grants = allocate(claims, _bounding(pools, supply), make_quotas(scaled, supply.occupancy))
        for ledger, _ in placed:
            if grant := grants.get(ledger.expert.name):
                ledger.wanted, ledger.limited = grant.replicas, grant.message
                ledger.shadow_usd_per_hour = grant.shadow_usd_per_hour

    def _claims(self, placed: Iterable[tuple[Ledger, Placement]], occupancy: Occupancy) -> list[Claim]:
        staying, leaving = occupancy.places(), occupancy.places(leaving=True)
        return [
            claim
            for ledger, placement in placed
            if (claim := self._claim(ledger, placement.pool, staying, leaving)) is not None
        ]

    def _claim(
        self,
        ledger: Ledger,
        pool: str,
        staying: Mapping[NamespacedName, tuple[tuple[str, int], ...]],
        leaving: Mapping[NamespacedName, tuple[tuple[str, int], ...]],
    ) -> Claim | None:
        terms, decision, name = self._describer.terms(ledger.expert), ledger.decision, ledger.expert.name
        if terms is None or decision is None:
            return None
        claim = Claim(
            name,
            pool,
            terms.gpus,
            floor=0,
            wanted=0,
            current=ledger.expert.replicas,
            placed=staying.get(name, ()),
            leaving=leaving.get(name, ()),
            replica_usd_per_hour=terms.replica_usd_per_hour or 0.0,
        )
        return Claim.of(decision, claim.hand_over())

    def _placement_of(self, ledger: Ledger) -> Placement | None:
        expert = ledger.expert
        profile = self._describer.profile(expert)
        return None if profile is None else self._place(expert.expert, profile)

    def _place(self, owner: Manifest, profile: Manifest) -> Placement | None:
        return self._placements.of(lambda: _placement(owner, profile), owner, profile)

    def _lacking(self, engines: Iterable[Engine]) -> dict[str, list[int]]:
        """By pool: the sizes of replicas that engines with a number of their own still lack."""
        found: defaultdict[str, list[int]] = defaultdict(list)
        for engine in engines:
            placement, served = self._place(engine.owner, engine.profile), _served(engine.owner)
            if placement is not None and served is not None:
                found[placement.pool] += [served.gpus] * max(0, engine.replicas - engine.placed)
        return dict(found)


def _bounding(pools: Iterable[Pool], supply: Supply) -> list[Pool]:
    """Pools whose bound is known."""
    return [pool for pool in pools if supply.nodes_known or pool.nodes is None]


def _served(owner: Manifest) -> Served | None:
    try:
        model = parse_model(owner)
    except InvalidSpecError:
        return None
    return model if isinstance(model, Served) else None


def _placement(owner: Manifest, profile: Manifest) -> Placement | None:
    served = _served(owner)
    if served is None:
        return None
    overrides: PodOverrides | None = served.spec.podOverrides
    try:
        return Placement.of(profile["metadata"]["name"], parse_profile(profile), overrides)
    except InvalidSpecError:
        return None
