"""What an Expert's spec, its profile and the policies that name it say of its scaling now. No I/O."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import Generic, TypeVar

from flotilla_api.expert import ExpertSpec
from flotilla_api.policy import RoutingPolicySpec

from .ledger import Scaling
from .reconcile.replacements import replacements
from .reconcile.scaled import ScaledExpert
from .reconcile.types import Manifest, ObjectRef
from .resources.specs import InvalidSpecError, Served, find_profile, parse_model, parse_policy
from .scaling.fleet import ExpertSignals, FleetSignals
from .scaling.schedules import Floor, floor_at
from .scaling.targets import Replacement, Terms, lost_request_usd, make_target, make_terms

REMEMBERED_MAX = 20_000
"""Objects whose meaning is remembered; all are forgotten together when there are more."""

T = TypeVar("T")


class Memory(Generic[T]):
    """What was made of objects, until one of them changes."""

    def __init__(self) -> None:
        self._made: dict[str, tuple[tuple[str, ...], T]] = {}

    def of(self, make: Callable[[], T], *objects: Manifest | None) -> T:
        """What `make` makes of these objects, of which the first is there."""
        versions = tuple(_version(each) for each in objects)
        uid, _, _ = versions[0].partition("@")
        known = self._made.get(uid)
        if known is not None and known[0] == versions:
            return known[1]
        if len(self._made) >= REMEMBERED_MAX:
            self._made.clear()
        self._made[uid] = (versions, made := make())
        return made


class Describer:
    """Reads each object once, not at every tick."""

    def __init__(self) -> None:
        self._terms = Memory[Terms | None]()
        self._replacements = Memory[frozenset[Replacement]]()
        self._floors: dict[str, tuple[Terms, Floor]] = {}

    def describe(self, scaled: ScaledExpert, signals: FleetSignals, now: datetime) -> Scaling | None:
        """None: its spec cannot be read, or asks for no scaling."""
        terms = self.terms(scaled)
        if terms is None:
            return None
        if terms.mode == "Off":
            return Scaling(acts=False, target=None)
        measured = signals.experts.get(scaled.name, ExpertSignals())
        around = (scaled.around[ref] for ref in sorted(scaled.around))
        found = self._replacements.of(lambda: _make_replacements(scaled), scaled.expert, *around)
        loss = lost_request_usd(found, signals.request_usd, measured)
        target = make_target(terms, self._floor(scaled.uid, terms, now), loss, now.timestamp())
        return Scaling(acts=terms.mode == "Apply", target=target, sleep_after_seconds=terms.sleep_after_seconds)

    def terms(self, scaled: ScaledExpert) -> Terms | None:
        """What its spec and its profile say; None as above."""
        return self._terms.of(lambda: _make_terms(scaled), scaled.expert, self.profile(scaled))

    def profile(self, scaled: ScaledExpert) -> Manifest | None:
        """The AcceleratorProfile that it names; None: there is none of that name."""
        return _profile_of(scaled.expert["spec"], scaled)

    def _floor(self, uid: str, terms: Terms, now: datetime) -> Floor:
        known = self._floors.get(uid)
        if known is None or known[0] is not terms or not known[1].holds(now):
            if len(self._floors) >= REMEMBERED_MAX:
                self._floors.clear()
            self._floors[uid] = known = (terms, floor_at(terms.windows, now))
        return known[1]


def _make_terms(scaled: ScaledExpert) -> Terms | None:
    try:
        served = parse_model(scaled.expert)
    except InvalidSpecError:
        return None
    if not isinstance(served, Served) or not isinstance(served.spec, ExpertSpec):
        return None
    return make_terms(served.spec, find_profile(served, scaled.around))


def _make_replacements(scaled: ScaledExpert) -> frozenset[Replacement]:
    """What answers in its place, under all policies that name it and can be read."""
    known = {**scaled.around, ObjectRef.of(scaled.expert): scaled.expert}
    policies = [manifest for ref, manifest in scaled.around.items() if ref.kind == "RoutingPolicy"]
    specs = [spec for spec in map(_parse_policy, policies) if spec is not None]
    found = [replacements(scaled.name.namespace, spec, known).get(scaled.name.name, frozenset()) for spec in specs]
    return frozenset[Replacement]().union(*found)


def _parse_policy(manifest: Manifest) -> RoutingPolicySpec | None:
    try:
        return parse_policy(manifest)
    except InvalidSpecError:
        return None


def _profile_of(served: Manifest, scaled: ScaledExpert) -> Manifest | None:
    """The profile that the spec of a served model names."""
    accelerator: Manifest = served.get("accelerator") or {}
    name: str = accelerator.get("profile", "")
    return scaled.around.get(ObjectRef("AcceleratorProfile", "", name))


def _version(manifest: Manifest | None) -> str:
    if manifest is None:
        return ""
    metadata = manifest["metadata"]
    return f"{metadata['uid']}@{metadata.get('resourceVersion', '')}"
