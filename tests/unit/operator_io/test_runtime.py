"""The runtime in virtual time: one key at a time, failures that concern only their own key, and the gate."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest

from builders import a_wide_rule
from fakes.clock import VirtualClock, settle
from flotilla_api.conditions import Reason
from flotilla_operator.ports import NotLeadingError, StepFailedError, UnavailableError, UnreachableError
from flotilla_operator.reconcile.contest import MAX_REPAIRS
from flotilla_operator.reconcile.dispatch import resolve_references
from flotilla_operator.reconcile.types import (
    Acknowledgement,
    Event,
    Key,
    Manifest,
    ObjectRef,
    Observed,
    Plan,
    PublishedSnapshot,
    StepFailure,
)
from flotilla_operator.resources.settings import OperatorSettings
from flotilla_operator.runtime import (
    BACKOFF_MAX_SECONDS,
    REFUSED_RETRY_SECONDS,
    TOLD_AFTER_SECONDS,
    Runtime,
    backoff_seconds,
)
from flotilla_operator.telemetry import Telemetry

SETTINGS = OperatorSettings(
    engine_image="vllm/vllm-openai:v0.32.0", router_image="flotilla-router:1", control_url="https://control:9443"
)
PROFILE: Manifest = {
    "apiVersion": "flotilla.dev/v1alpha1",
    "kind": "AcceleratorProfile",
    "metadata": {"name": "l4", "uid": "uid-l4", "generation": 1},
    "spec": {"resource": "nvidia.com/gpu", "memoryGiB": 24},
}
EXPERT = Key("Expert", "agents", "invoice")
FALLBACK = Key("Fallback", "agents", "big")
POLICY = Key("RoutingPolicy", "agents", "router")
SPECS: dict[Key, dict[str, Any]] = {
    EXPERT: {"model": {"uri": "hf://a/b"}, "accelerator": {"profile": "l4"}},
    FALLBACK: {"external": {"url": "https://api.example.com/v1", "model": "big-1"}},
    POLICY: {"experts": [], "fallbacks": [{"name": "big"}], "auth": {"anonymous": True}},
}


def an_owner(key: Key) -> Manifest:
    """A live owner."""
    metadata = {"name": key.name, "namespace": key.namespace, "uid": f"uid-{key.name}", "generation": 1}
    return {"apiVersion": "flotilla.dev/v1alpha1", "kind": key.kind, "metadata": metadata, "spec": SPECS[key]}


@dataclass
class FakeCluster:
    """A cluster that keeps what is written, and fails as it is told."""

    clock: VirtualClock
    owners: dict[Key, Manifest] = field(default_factory=dict[Key, Manifest])
    children: dict[ObjectRef, Manifest] = field(default_factory=dict[ObjectRef, Manifest])
    looks: list[tuple[float, Key]] = field(default_factory=list[tuple[float, Key]])
    """When each key was observed."""
    steps: list[str] = field(default_factory=list[str])
    statuses: list[Manifest] = field(default_factory=list[Manifest])
    events: list[str] = field(default_factory=list[str])
    errors: dict[Key, Exception] = field(default_factory=dict[Key, Exception])
    refuse: Callable[[Plan], Sequence[StepFailure]] = lambda plan: ()
    fail: Callable[[Plan], Exception | None] = lambda plan: None
    """What a plan's writes meet."""
    forgets: bool = False
    """Whether what is written is not there afterwards."""
    meddle: Callable[[Manifest], Manifest] = lambda child: child
    """What a mutating webhook makes of each write."""
    hold: asyncio.Event | None = None
    """Observations wait for it."""
    log: list[str] = field(default_factory=list[str])

    async def observe(self, key: Key) -> Observed | None:
        self.looks.append((round(self.clock.monotonic(), 3), key))
        if self.hold:
            await self.hold.wait()
        if key in self.errors:
            raise self.errors[key]
        owner = self.owners.get(key)
        if owner is None:
            return None
        known = {ObjectRef.of(manifest): manifest for manifest in (PROFILE, *self.owners.values())}
        return Observed(
            owner=owner,
            settings=SETTINGS,
            now=self.clock.now(),
            children=tuple(child for child in self.children.values() if _belongs(child, owner)),
            references=resolve_references(owner, known.get),
        )

    async def execute(self, plan: Plan) -> Sequence[StepFailure]:
        if error := self.fail(plan):
            raise error
        for step in plan.steps:
            ref = ObjectRef.of(step.manifest)
            self.steps.append(f"{step.verb} {ref.kind}")
            self.log.append("execute")
            if not self.forgets:
                written = self.children[ref] if step.verb == "prune" else step.manifest
                metadata = {**written["metadata"], "uid": f"uid-{ref}", "resourceVersion": "7"}
                self.children[ref] = self.meddle({**written, "metadata": metadata})
        return self.refuse(plan)

    async def write_status(self, owner: Manifest, status: Manifest) -> None:
        self.statuses.append(status)
        key = next(key for key, manifest in self.owners.items() if manifest is owner)
        self.owners[key] = {**owner, "status": status}

    async def emit(self, owner: ObjectRef, owner_uid: str, events: Sequence[Event]) -> None:
        self.events.extend(event.reason for event in events)

    def times(self, key: Key) -> list[float]:
        """When `key` was observed."""
        return [moment for moment, looked in self.looks if looked == key]


@dataclass
class FakeRouters:
    """Routers that note what is published."""

    log: list[str]
    published: dict[Key, PublishedSnapshot | None] = field(default_factory=dict[Key, PublishedSnapshot | None])

    def publish(self, key: Key, snapshot: PublishedSnapshot | None) -> None:
        self.log.append("publish")
        self.published[key] = snapshot

    def acknowledgements(self, key: Key) -> tuple[Acknowledgement, ...]:
        return ()


@dataclass
class World:
    """A runtime with all of its fakes."""

    clock: VirtualClock
    cluster: FakeCluster
    routers: FakeRouters
    runtime: Runtime
    telemetry: Telemetry


@asynccontextmanager
async def a_world(*keys: Key, open_gate: bool = True, workers: int = 2) -> AsyncGenerator[World]:
    """A running runtime over a cluster that has `keys`."""
    clock = VirtualClock()
    cluster = FakeCluster(clock, owners={key: an_owner(key) for key in keys})
    routers = FakeRouters(cluster.log)
    telemetry = Telemetry()
    runtime = Runtime(cluster, routers, clock, telemetry, jitter=lambda: 0.0, workers=workers)
    task = asyncio.create_task(runtime.run())
    if open_gate:
        runtime.open([])
    try:
        yield World(clock, cluster, routers, runtime, telemetry)
    finally:
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task


def _belongs(child: Manifest, owner: Manifest) -> bool:
    return any(each["uid"] == owner["metadata"]["uid"] for each in child["metadata"]["ownerReferences"])


async def test_wakes_before_a_worker_comes_are_one_reconcile() -> None:
    """A thousand events about one object cost one look."""
    async with a_world(FALLBACK, open_gate=False) as world:
        for _ in range(1000):
            world.runtime.wake(FALLBACK)
        world.runtime.open([])
        await settle()

        assert len(world.cluster.times(FALLBACK)) == 1


async def test_a_wake_during_a_reconcile_is_one_more_afterwards() -> None:
    """No two workers have one key, and no event is lost."""
    async with a_world(FALLBACK) as world:
        world.cluster.hold = asyncio.Event()
        world.runtime.wake(FALLBACK)
        await settle()
        world.runtime.wake(FALLBACK)
        world.runtime.wake(FALLBACK)
        await settle()
        looks_while_held = len(world.cluster.looks)
        world.cluster.hold.set()
        await settle()

        assert looks_while_held == 1
        assert len(world.cluster.looks) == 2


async def test_a_slow_key_does_not_keep_other_workers() -> None:
    """While one object waits for the API server, others are reconciled."""
    async with a_world(FALLBACK, EXPERT, workers=2) as world:
        hold = world.cluster.hold = asyncio.Event()
        world.runtime.wake(FALLBACK)
        await settle()
        world.cluster.hold = None
        world.runtime.wake(EXPERT)
        await settle()

        assert world.cluster.steps
        hold.set()


async def test_a_policy_does_not_wait_behind_many_models() -> None:
    """A policy's edit is served within a turn, and models keep their turns."""
    models = [Key("Expert", "agents", f"model-{number}") for number in range(50)]
    async with a_world(open_gate=False, workers=1) as world:
        for key in [*models, POLICY]:
            world.runtime.wake(key)
        world.runtime.open([])
        await settle()

        order = [key for _, key in world.cluster.looks]
        assert order.index(POLICY) <= 1
        assert [key for key in order if key != POLICY] == models


async def test_failures_back_off_up_to_a_cap_and_recover_at_once() -> None:
    """Each wait is twice the last; after a success the next failure begins anew."""
    async with a_world(FALLBACK) as world:
        world.cluster.errors[FALLBACK] = UnreachableError("no route")
        world.runtime.wake(FALLBACK)
        await world.clock.advance(1.5)
        early = world.cluster.times(FALLBACK)
        await world.clock.advance(600)
        late = world.cluster.times(FALLBACK)
        del world.cluster.errors[FALLBACK]
        await world.clock.advance(BACKOFF_MAX_SECONDS)

        assert early == [0.0, 0.2, 0.6, 1.4]
        assert late[-1] - late[-2] == pytest.approx(BACKOFF_MAX_SECONDS, abs=0.01)
        assert world.cluster.statuses


async def test_a_poisoned_key_never_delays_another() -> None:
    """A defect that one object provokes is retried by itself, and all others are served at once."""
    async with a_world(FALLBACK, EXPERT, workers=1) as world:
        world.cluster.errors[FALLBACK] = RuntimeError("provoked")
        world.runtime.wake(FALLBACK)
        world.runtime.wake(EXPERT)
        await settle()

        assert world.cluster.times(EXPERT)[0] == 0.0
        assert world.cluster.steps
        await world.clock.advance(0.3)
        assert world.cluster.times(FALLBACK) == [0.0, 0.2]


async def test_a_wake_during_back_off_is_served_at_once() -> None:
    """An event may be what ends the trouble."""
    async with a_world(FALLBACK) as world:
        world.cluster.errors[FALLBACK] = UnreachableError("no route")
        world.runtime.wake(FALLBACK)
        await world.clock.advance(0.1)
        del world.cluster.errors[FALLBACK]
        world.runtime.wake(FALLBACK)
        await settle()
        await world.clock.advance(600)

        assert world.cluster.times(FALLBACK) == [0.0, 0.1]


async def test_nothing_is_begun_while_the_gate_is_closed() -> None:
    """A standby hears everything and does nothing; when it leads, it looks at everything."""
    async with a_world(FALLBACK, EXPERT, open_gate=False) as world:
        world.runtime.wake(FALLBACK)
        await world.clock.advance(600)
        before = list(world.cluster.looks)
        world.runtime.open([FALLBACK, EXPERT])
        await settle()

        assert before == []
        assert {key for _, key in world.cluster.looks} == {FALLBACK, EXPERT}


async def test_the_gate_closes_again() -> None:
    """After the Lease is lost, neither events nor waiting retries begin anything."""
    async with a_world(FALLBACK) as world:
        world.cluster.errors[FALLBACK] = UnreachableError("no route")
        world.runtime.wake(FALLBACK)
        await settle()
        world.runtime.close()
        world.runtime.wake(FALLBACK)
        await world.clock.advance(600)

        assert world.cluster.times(FALLBACK) == [0.0]


async def test_a_key_that_met_a_lapse_of_the_lease_is_looked_at_again() -> None:
    """A lapse that ends at once opens no gate anew, so nothing else would wake the key."""
    async with a_world(FALLBACK) as world:
        world.cluster.errors[FALLBACK] = NotLeadingError()
        world.runtime.wake(FALLBACK)
        await settle()
        del world.cluster.errors[FALLBACK]
        await world.clock.advance(5)

        assert world.cluster.times(FALLBACK) == [0.0, 1.0]


async def test_a_lost_lease_keeps_the_key_behind_the_gate() -> None:
    """A replica that lost the Lease for good looks at nothing again."""
    async with a_world(FALLBACK) as world:
        world.cluster.errors[FALLBACK] = NotLeadingError()
        world.runtime.wake(FALLBACK)
        await settle()
        world.runtime.close()
        await world.clock.advance(600)

        assert world.cluster.times(FALLBACK) == [0.0]


async def test_drain_waits_for_what_was_begun() -> None:
    """A replica that leaves finishes its writes before it gives the Lease away."""
    async with a_world(EXPERT) as world:
        world.cluster.hold = asyncio.Event()
        world.runtime.wake(EXPERT)
        await settle()
        draining = asyncio.create_task(world.runtime.drain(60))
        await settle()
        done_early = draining.done()
        world.cluster.hold.set()
        await draining

        assert not done_early
        assert world.cluster.steps


async def test_what_was_written_is_looked_at_once_more_and_then_left_alone() -> None:
    """The second look finds an empty plan and the right status, and writes nothing."""
    async with a_world(EXPERT) as world:
        world.runtime.wake(EXPERT)
        await settle()
        steps, statuses = list(world.cluster.steps), len(world.cluster.statuses)
        world.runtime.wake(EXPERT)
        await settle()

        assert "create Deployment" in steps
        assert world.cluster.steps == steps
        assert len(world.cluster.statuses) == statuses


async def test_a_plan_that_never_gets_empty_does_not_spin() -> None:
    """Where something undoes what is written, the writes back off."""
    async with a_world(EXPERT) as world:
        world.cluster.forgets = True
        world.runtime.wake(EXPERT)
        await world.clock.advance(3600)

        assert len(world.cluster.times(EXPERT)) < 80


async def test_a_webhook_that_undoes_every_repair_is_told_of_and_not_fought() -> None:
    """A few writes, then a condition that leaves Ready alone; the spec's own changes still go through."""
    async with a_world(EXPERT) as world:
        world.runtime.wake(EXPERT)
        await settle()
        await world.clock.advance(60)
        (deployment,) = [ref for ref in world.cluster.children if ref.kind == "Deployment"]
        world.cluster.meddle = lambda child: _with_spec(child, paused=True)
        world.cluster.children[deployment] = _with_spec(world.cluster.children[deployment], paused=True)
        before = len(world.cluster.steps)
        world.runtime.wake(EXPERT)
        await world.clock.advance(1800)
        status = world.cluster.owners[EXPERT]["status"]
        accepted, *_, ready = status["conditions"]

        assert world.cluster.steps[before:] == ["prune Deployment"] * MAX_REPAIRS
        assert (accepted["status"], accepted["reason"]) == ("False", "Contested")
        assert ready["reason"] == "PodsPending"
        spec = {**world.cluster.owners[EXPERT]["spec"], "replicas": 3}
        world.cluster.owners[EXPERT] = {**world.cluster.owners[EXPERT], "spec": spec}
        world.runtime.wake(EXPERT)
        await settle()
        assert world.cluster.children[deployment]["spec"]["replicas"] == 3


def _with_spec(child: Manifest, **changes: Any) -> Manifest:
    return child if child["kind"] != "Deployment" else {**child, "spec": {**child["spec"], **changes}}


async def test_a_refused_write_is_shown_and_tried_again_later() -> None:
    """Nobody tells us when a quota or a policy changes, so a refusal is looked at again after a while."""
    async with a_world(EXPERT) as world:
        world.runtime.wake(EXPERT)
        await settle()
        world.cluster.children = {r: m for r, m in world.cluster.children.items() if r.kind != "Service"}
        world.cluster.forgets = True
        world.cluster.refuse = lambda plan: [StepFailure(step, Reason.APPLY_REFUSED, "quota") for step in plan.steps]
        world.runtime.wake(EXPERT)
        await settle()
        before = len(world.cluster.times(EXPERT))
        await world.clock.advance(REFUSED_RETRY_SECONDS + 1)

        assert len(world.cluster.times(EXPERT)) > before
        assert "quota" in str(world.cluster.owners[EXPERT]["status"])


async def test_a_policy_is_published_before_anything_is_written() -> None:
    """Routers do not wait for the API server's writes."""
    async with a_world(POLICY, FALLBACK) as world:
        world.runtime.wake(POLICY)
        await settle()

        published = world.routers.published[POLICY]

        assert world.cluster.log[0] == "publish"
        assert published is not None
        assert b'"policy":"router"' in published.data.replace(b" ", b"")


async def test_a_policy_whose_snapshot_fits_no_config_map_changes_nothing() -> None:
    """Neither the routers nor the API server get half of it; the status says why, and it is looked at again."""
    async with a_world(POLICY, FALLBACK) as world:
        world.runtime.wake(POLICY)
        await settle()
        log, owner = list(world.cluster.log), world.cluster.owners[POLICY]
        rules = [a_wide_rule(f"r{number:02}") for number in range(16)]
        world.cluster.owners[POLICY] = {**owner, "spec": {**owner["spec"], "rules": rules}}
        world.runtime.wake(POLICY)
        await settle()
        looks = len(world.cluster.times(POLICY))
        await world.clock.advance(REFUSED_RETRY_SECONDS + 1)

        assert world.cluster.log == log
        assert "SnapshotTooLarge" in str(world.cluster.owners[POLICY]["status"])
        assert len(world.cluster.times(POLICY)) > looks


async def test_a_policy_that_is_gone_is_withdrawn() -> None:
    """Its routers hear that there is nothing to serve."""
    async with a_world() as world:
        world.runtime.wake(POLICY)
        await settle()

        assert world.routers.published == {POLICY: None}


async def test_an_owner_that_is_being_deleted_gets_no_children() -> None:
    """A foreground deletion is not undone child by child."""
    async with a_world(EXPERT) as world:
        world.cluster.owners[EXPERT]["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z"
        world.runtime.wake(EXPERT)
        await settle()

        assert world.cluster.steps == []
        assert world.cluster.statuses == []


async def test_metrics_count_results_and_waiting_keys() -> None:
    """The numbers say what happened."""
    async with a_world(FALLBACK, open_gate=False) as world:
        world.runtime.wake(FALLBACK)
        waiting = world.telemetry.exposition().decode()
        world.runtime.open([])
        await settle()
        world.runtime.wake(FALLBACK)
        await settle()
        after = world.telemetry.exposition().decode()

        assert "flotilla_operator_queue_depth 1.0" in waiting
        assert "flotilla_operator_queue_depth 0.0" in after
        assert 'flotilla_operator_reconciles_total{kind="Fallback",result="changed"} 1.0' in after
        assert 'flotilla_operator_reconciles_total{kind="Fallback",result="unchanged"} 1.0' in after


@pytest.mark.parametrize(
    ("attempt", "jitter", "seconds"),
    [
        pytest.param(1, 0.0, 0.2, id="first"),
        pytest.param(3, 0.0, 0.8, id="doubled twice"),
        pytest.param(1, 1.0, 0.1, id="jitter takes at most half"),
        pytest.param(1000, 0.0, BACKOFF_MAX_SECONDS, id="capped, however many"),
    ],
)
def test_backoff_seconds(attempt: int, jitter: float, seconds: float) -> None:
    """Waits double up to a cap."""
    assert backoff_seconds(attempt, jitter) == pytest.approx(seconds)


async def test_a_write_that_keeps_failing_is_told_of_and_tried_on() -> None:
    """After a while the status says what the API server says, until it is written after all."""
    async with a_world(EXPERT) as world:
        world.cluster.fail = _broken
        world.runtime.wake(EXPERT)
        await world.clock.advance(TOLD_AFTER_SECONDS - 0.1)
        silent = list(world.cluster.statuses)
        await world.clock.advance(60)
        told, looks = world.cluster.statuses[-1], len(world.cluster.looks)
        world.cluster.fail = lambda plan: None
        await world.clock.advance(120)

        assert silent == []
        assert _accepted(told)["reason"] == "ApplyFailed"
        assert "failed calling webhook" in _accepted(told)["message"]
        assert "ServiceAccount" in _accepted(told)["message"]
        assert looks > 5
        assert _accepted(world.cluster.statuses[-1])["status"] == "True"


async def test_a_burst_of_failing_writes_is_nobodys_business() -> None:
    """However often an object wakes meanwhile: what passes by itself shows in no condition and no event."""
    async with a_world(EXPERT) as world:
        world.runtime.wake(EXPERT)
        await settle()
        world.cluster.children.clear()
        before = len(world.cluster.statuses)
        for _ in range(2):
            world.cluster.fail = _broken
            for _ in range(8):
                world.runtime.wake(EXPERT)
                await world.clock.advance(1.0)
            world.cluster.fail = lambda plan: None
            world.runtime.wake(EXPERT)
            await world.clock.advance(1.0)
            world.cluster.children.clear()
        told = world.cluster.statuses[before:]

        assert all(_accepted(status)["status"] == "True" for status in told)


def _broken(plan: Plan) -> Exception | None:
    error = UnavailableError(500, "InternalError", "failed calling webhook")
    return StepFailedError(plan.steps[0], error) if plan.steps else None


def _accepted(status: Manifest) -> Manifest:
    (found,) = (each for each in status["conditions"] if each["type"] == "Accepted")
    return found
