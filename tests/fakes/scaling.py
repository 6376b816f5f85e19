"""A fleet to scale, without a cluster: Experts with their Deployments and pods, what is measured, and engines."""

from __future__ import annotations

import asyncio
import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any

from builders import a_pod
from fakes.clock import VirtualClock
from flotilla_api.names import child_name
from flotilla_operator.ledger import Ledger, Scaling
from flotilla_operator.reconcile.scaled import ScaledExpert
from flotilla_operator.reconcile.types import Key, Manifest, ObjectRef
from flotilla_operator.scaling.fleet import ExpertSignals, FleetSignals, History, NamespacedName
from flotilla_operator.scaling.signals import NOT_MEASURED, Known, Signal
from flotilla_operator.scaling.types import Target, Tuning

NAMESPACE = "agents"
TARGET = Target(minimum=0, maximum=8, slots=10, replica_usd_per_hour=1.0, loss_usd=1.0, prior_slot_seconds=7.0)
TUNING = Tuning(
    utilization=0.7,
    batching_prior=1.0,
    shrink_after_seconds=300.0,
    shrink_again_seconds=150.0,
    shrink_ratio=0.5,
)
"""With these, a replica takes one request a second, and every request that is lost pays for one. Whatever turns out to
be the best tuning, these tests are about others' behaviour."""


def key_of(name: str) -> Key:
    """Of an Expert."""
    return Key("Expert", NAMESPACE, name)


def at_rate(arrivals: float) -> ExpertSignals:
    """What is measured of an Expert with so many requests a second, and nothing else."""
    nothing: Signal = Known(0.0) if arrivals == 0 else NOT_MEASURED
    return ExpertSignals(arrivals=Known(arrivals), running=nothing, waiting=nothing)


@dataclass
class FakeFleet:
    """The `ScaleTargets` port: what is written is there at the next look."""

    clock: VirtualClock
    stored: dict[Key, ScaledExpert] = field(default_factory=dict[Key, ScaledExpert])
    scalings: dict[Key, Scaling] = field(default_factory=dict[Key, Scaling])
    writes: list[tuple[str, int]] = field(default_factory=list[tuple[str, int]])
    """Names and numbers, in order."""
    annotated: list[tuple[str, Mapping[str, str | None]]] = field(
        default_factory=list[tuple[str, "Mapping[str, str | None]"]]
    )
    others: dict[ObjectRef, str] = field(default_factory=dict[ObjectRef, str])
    """Autoscalers on Deployments, known once they have been looked for."""
    found: dict[ObjectRef, str] = field(default_factory=dict[ObjectRef, str])
    others_hold: asyncio.Event | None = None
    error: Exception | None = None
    """What every write meets."""
    mark_error: Exception | None = None
    others_error: Exception | None = None
    hold: asyncio.Event | None = None
    """What writes wait for."""
    answer_hold: asyncio.Event | None = None
    """What answers to writes of numbers wait for, once these are carried out."""
    answer_error: Exception | None = None
    """What becomes of such an answer."""
    looks_for_others: int = 0
    attempts: int = 0
    """Writes of numbers, those that failed included."""

    def add(self, name: str, replicas: int, *, owned: bool = True, **target: Any) -> Key:
        """An Expert that has been there for long, with that many pods that answer."""
        key, moment = key_of(name), datetime(2025, 1, 1, tzinfo=UTC)
        metadata = {"name": name, "namespace": NAMESPACE, "uid": f"uid-{name}", "creationTimestamp": stamp(moment)}
        expert = {"apiVersion": "flotilla.dev/v1alpha1", "kind": "Expert", "metadata": metadata, "spec": {}}
        deployment = {"metadata": {"name": child_name("Expert", name), "namespace": NAMESPACE}}
        self.stored[key] = ScaledExpert(expert, deployment, replicas, owned)
        self.scalings[key] = Scaling(acts=True, target=replace(TARGET, **target))
        for number in range(replicas):
            self.add_pod(key, str(number))
        return key

    def add_pod(self, key: Key, name: str, *, ready: bool = True, age_seconds: float = 3600.0) -> Manifest:
        """One more pod; its name is prefixed with the Expert's."""
        scaled = self.stored[key]
        born = stamp(datetime.fromtimestamp(self.clock.now().timestamp() - age_seconds, UTC))
        conditions = [{"type": "Ready", "status": "True" if ready else "False"}]
        pod = copy.deepcopy(a_pod(scaled.expert, name, phase="Running", podIP=f"10.0.0.{name}", conditions=conditions))
        pod["metadata"]["creationTimestamp"] = born
        self.change(key, pods=(*scaled.pods, pod))
        return pod

    def change(self, key: Key, **fields: Any) -> None:
        """The stored Expert has these fields."""
        self.stored[key] = replace(self.stored[key], **fields)

    def aim(self, key: Key, **target: Any) -> None:
        """The Expert's spec says so from now on."""
        old = self.scalings[key].target
        assert old is not None
        self.scalings[key] = replace(self.scalings[key], target=replace(old, **target))

    def replicas(self, key: Key) -> int:
        """What the Deployment asks for."""
        return self.stored[key].replicas

    def describe(self, scaled: ScaledExpert, _signals: FleetSignals, _now: datetime) -> Scaling | None:
        """What the tests said."""
        return self.scalings.get(scaled.key)

    def experts(self) -> Sequence[ScaledExpert]:
        return tuple(self._as_known(each) for each in self.stored.values())

    def find(self, key: Key) -> ScaledExpert | None:
        return self._as_known(self.stored[key]) if key in self.stored else None

    def _as_known(self, scaled: ScaledExpert) -> ScaledExpert:
        return replace(scaled, other_scaler=self.found.get(scaled.deployment_ref, ""))

    async def scale(self, expert: ScaledExpert, replicas: int) -> None:
        self.attempts += 1
        await self._meet(self.error)
        self.writes.append((expert.key.name, replicas))
        self.change(expert.key, replicas=replicas, owned=True)
        if self.answer_hold:
            await self.answer_hold.wait()
        if self.answer_error:
            raise self.answer_error

    async def annotate(self, pod: Manifest, annotations: Mapping[str, str | None]) -> None:
        await self._meet(self.mark_error)
        self.annotated.append((pod["metadata"]["name"], annotations))
        for key, scaled in self.stored.items():
            self.change(key, pods=tuple(_annotated(each, pod, annotations) for each in scaled.pods))

    async def look_for_others(self) -> None:
        self.looks_for_others += 1
        if self.others_hold:
            await self.others_hold.wait()
        if self.others_error:
            raise self.others_error
        self.found = dict(self.others)

    async def _meet(self, error: Exception | None) -> None:
        if self.hold:
            await self.hold.wait()
        if error:
            raise error


@dataclass
class FakeMetrics:
    """The `MetricsSource` port."""

    experts: dict[NamespacedName, ExpertSignals] = field(default_factory=dict[NamespacedName, ExpertSignals])
    past: dict[NamespacedName, History] = field(default_factory=dict[NamespacedName, History])
    problems: tuple[str, ...] = ()
    reads: int = 0
    histories: int = 0
    hold: asyncio.Event | None = None
    error: Exception | None = None

    def measure(self, key: Key, signals: ExpertSignals) -> None:
        """From now on that is measured."""
        self.experts[NamespacedName(key.namespace, key.name)] = signals

    def remember(
        self, key: Key, until: float, demand: Sequence[float | None], slot_seconds: Signal = NOT_MEASURED
    ) -> None:
        """That was measured every 15 s."""
        self.past[NamespacedName(key.namespace, key.name)] = History(until, 15.0, tuple(demand), slot_seconds)

    async def read(self, now: float) -> FleetSignals:
        self.reads += 1
        if self.hold:
            await self.hold.wait()
        if self.error:
            raise self.error
        return FleetSignals(dict(self.experts), {}, self.problems)

    async def history(self, now: float, seconds: float, step: float) -> Mapping[NamespacedName, History]:
        self.histories += 1
        return dict(self.past)


@dataclass
class FakeShares:
    """Accelerators for everybody, unless a test says otherwise."""

    parted: Callable[[Sequence[Ledger]], None] = lambda _: None
    shared: list[int] = field(default_factory=list[int])
    """How many Experts each sharing was about."""

    async def look(self) -> None:
        """Nothing changes."""

    def share(self, ledgers: Sequence[Ledger]) -> None:
        self.shared.append(len(ledgers))
        self.parted(ledgers)


@dataclass
class FakeEngines:
    """The `Engines` port."""

    asleep: set[str] = field(default_factory=set[str])
    calls: list[str] = field(default_factory=list[str])
    error: Exception | None = None
    hold: asyncio.Event | None = None
    """What engines take to doze off."""

    async def sleep(self, address: str) -> None:
        self.calls.append(f"sleep {address}")
        if self.hold:
            await self.hold.wait()
        if self.error:
            raise self.error
        self.asleep.add(address)

    async def wake_up(self, address: str) -> None:
        self.calls.append(f"wake {address}")
        if self.error:
            raise self.error
        self.asleep.discard(address)


def stamp(moment: datetime) -> str:
    """A Kubernetes time."""
    return f"{moment:%Y-%m-%dT%H:%M:%SZ}"


def _annotated(pod: Manifest, changed: Manifest, annotations: Mapping[str, str | None]) -> Manifest:
    if pod["metadata"]["uid"] != changed["metadata"]["uid"]:
        return pod
    before: dict[str, str] = pod["metadata"].get("annotations") or {}
    merged = {**before, **annotations}
    kept = {name: value for name, value in merged.items() if value is not None}
    return {**pod, "metadata": {**pod["metadata"], "annotations": kept}}
