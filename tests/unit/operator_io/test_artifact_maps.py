"""Trained artifacts in ConfigMaps on a fake API server: which are looked at, who is woken, and what routers get."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import io
import tarfile
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest

from builders import NAMESPACE, a_policy
from fakes.apiserver import FakeApiServer, running_api_server
from fakes.clock import VirtualClock
from flotilla_api.conditions import Reason
from flotilla_operator.adapters.artifacts import LOOK_SECONDS, PULSE_SECONDS, TAR_SECONDS, Artifacts, Missing
from flotilla_operator.adapters.client import Client, Connection
from flotilla_operator.adapters.store import Store
from flotilla_operator.ports import UnavailableError
from flotilla_operator.reconcile.dispatch import references
from flotilla_operator.reconcile.types import Key
from flotilla_operator.telemetry import Telemetry

KEY = Key("RoutingPolicy", NAMESPACE, "billing")
MAPS = f"/api/v1/namespaces/{NAMESPACE}/configmaps"
WEIGHTS = b"\x00\xff"
MANIFEST = b'{"schemaVersion": 1}'
DIGEST = "sha256:" + hashlib.sha256(MANIFEST).hexdigest()
OTHER = "sha256:" + 64 * "b"
PAIR = {"small": "invoice", "strong": "big"}


def a_strategy(name: str = "router", digest: str = DIGEST) -> dict[str, Any]:
    """WinRate by an artifact in the ConfigMap `name`."""
    artifact = {"configMapRef": {"name": name}, "digest": digest}
    return {"type": "WinRate", "artifact": artifact, "models": PAIR, "threshold": "0.5"}


@dataclass
class World:
    """The component, and the API server that it looks at."""

    api: FakeApiServer
    clock: VirtualClock
    store: Store
    artifacts: Artifacts
    leading: bool = True
    woken: list[Key] = field(default_factory=list[Key])

    def put_policy(self, name: str = "billing", **spec: Any) -> None:
        """The store knows the policy."""
        path = f"/apis/flotilla.dev/v1alpha1/namespaces/{NAMESPACE}/routingpolicies/{name}"
        self.store.apply(self.api.put(path, a_policy(name, **spec)))

    def put_map(self, name: str = "router", manifest: bytes = MANIFEST) -> None:
        """The ConfigMap is there."""
        binary = {"weights.npz": base64.b64encode(WEIGHTS).decode(), "notes.bin": ""}
        data = {"manifest.json": manifest.decode()} if manifest else {}
        self.api.put(f"{MAPS}/{name}", {"metadata": {"name": name}, "data": data, "binaryData": binary})

    async def pulse(self, seconds: float = PULSE_SECONDS) -> None:
        """Time passes, pulse by pulse; what each of them brings about takes none."""
        for _ in range(round(seconds / PULSE_SECONDS)):
            await self.clock.advance(PULSE_SECONDS)
            await self.rest()

    async def rest(self) -> None:
        """Until the component waits for its next pulse."""
        async with asyncio.timeout(10):
            await asyncio.sleep(0)
            while not self.clock.sleepers:  # noqa: ASYNC110 - it does nothing else that could be waited for
                await asyncio.sleep(0.001)

    def reads(self, name: str = "router") -> int:
        """Requests about a ConfigMap."""
        return self.api.requests.count(("GET", f"{MAPS}/{name}"))


@asynccontextmanager
async def a_world() -> AsyncGenerator[World]:
    """It runs, and has looked once at nothing."""
    async with running_api_server() as api:
        connection = Connection(
            api.url, None, verify=True, server_name=None, client_certificate=None, authorization=lambda: None
        )
        async with Client(connection, Telemetry()) as client:
            clock, store, woken = VirtualClock(), Store(references), list[Key]()
            found = Artifacts(client, store, clock, leading=lambda: world.leading, wake=woken.append)
            world = World(api, clock, store, found, woken=woken)
            running = asyncio.create_task(found.run())
            await world.rest()
            yield world
            running.cancel()
            await asyncio.wait((running,))


def unpacked(tar: bytes | Missing) -> dict[str, bytes]:
    """What a router reads."""
    assert isinstance(tar, bytes)
    with tarfile.open(fileobj=io.BytesIO(tar)) as archive:
        found = {member.name: archive.extractfile(member) for member in archive}
    return {name: packed.read() for name, packed in found.items() if packed}


async def test_a_named_config_map_is_looked_at_and_its_policy_woken() -> None:
    """The digest is that of manifest.json; of others nothing is read."""
    async with a_world() as world:
        world.put_map()
        world.put_map("unrelated")
        world.put_policy(strategy=a_strategy())
        await world.pulse()

        assert world.artifacts.of(KEY) == {"router": DIGEST}
        assert world.woken == [KEY]
        assert world.reads("unrelated") == 0


async def test_a_policy_that_learned_nothing_costs_no_request() -> None:
    """Most policies draw by weight."""
    async with a_world() as world:
        world.put_policy("none")
        world.put_policy("static", strategy={"type": "Static"})
        url = {"url": "https://models.example.com/router.tar", "digest": DIGEST}
        world.put_policy("elsewhere", strategy=a_strategy() | {"artifact": url})
        world.put_policy("unreadable", strategy=a_strategy() | {"later": True})
        await world.pulse(LOOK_SECONDS)

        assert world.api.requests == []


@pytest.mark.parametrize("role", ["shadow", "canary"])
async def test_a_trials_artifact_is_looked_at_too(role: str) -> None:
    """It is handed out like the strategy's."""
    async with a_world() as world:
        world.put_map("next")
        trial = {"artifact": {"configMapRef": {"name": "next"}, "digest": DIGEST}, "percent": 5}
        spec: dict[str, Any] = {"strategy": a_strategy(digest=OTHER), role: trial}
        world.put_policy("billing", **spec)
        await world.pulse()

        assert world.artifacts.of(KEY) == {"next": DIGEST, "router": None}
        assert unpacked(await world.artifacts.files(KEY, DIGEST))["weights.npz"] == WEIGHTS


async def test_what_is_missing_comes_and_what_is_there_goes() -> None:
    """Each change of the digest wakes the policy once, within a look; another change wakes nobody."""
    async with a_world() as world:
        world.put_policy(strategy=a_strategy())
        await world.pulse()
        seen = [(world.artifacts.of(KEY)["router"], len(world.woken))]
        for manifest in (b"", MANIFEST, MANIFEST, None):
            if manifest is None:
                del world.api.objects[f"{MAPS}/router"]
            else:
                world.put_map(manifest=manifest)
            await world.pulse(LOOK_SECONDS)
            seen.append((world.artifacts.of(KEY)["router"], len(world.woken)))

        assert seen == [(None, 1), ("", 2), (DIGEST, 3), (DIGEST, 3), (None, 4)]


async def test_an_unchanged_config_map_is_not_read_again() -> None:
    """Its metadata say that it is what it was."""
    async with a_world() as world:
        world.put_map()
        world.put_policy(strategy=a_strategy())
        await world.pulse()
        first = world.reads()
        await world.pulse(3 * LOOK_SECONDS)

        assert (first, world.reads()) == (2, 5)


async def test_a_policy_that_is_gone_is_forgotten() -> None:
    """And so is one that names another."""
    async with a_world() as world:
        world.put_map()
        world.put_policy(strategy=a_strategy())
        await world.pulse()
        world.put_policy(strategy={"type": "Static"})
        await world.pulse()
        reads = world.reads()
        await world.pulse(LOOK_SECONDS)

        assert world.artifacts.of(KEY) == {}
        assert world.reads() == reads


async def test_an_outage_changes_nothing_that_is_known() -> None:
    """What could not be read is neither missing nor another."""
    async with a_world() as world:
        world.put_map()
        world.put_policy(strategy=a_strategy())
        await world.pulse()
        world.api.failures[("GET", f"{MAPS}/router")] = {"code": 503, "reason": "Down", "message": "etcd"}
        await world.pulse(LOOK_SECONDS)

        assert world.artifacts.of(KEY) == {"router": DIGEST}
        with pytest.raises(UnavailableError):
            await world.artifacts.files(KEY, DIGEST)


async def test_a_standby_looks_at_nothing() -> None:
    """It starts anew when it leads."""
    async with a_world() as world:
        world.put_map()
        world.put_policy(strategy=a_strategy())
        world.leading = False
        await world.pulse(LOOK_SECONDS)
        assert (world.artifacts.of(KEY), world.reads()) == ({}, 0)

        world.leading = True
        await world.pulse()
        assert world.artifacts.of(KEY) == {"router": DIGEST}


async def test_a_router_gets_the_files_of_the_artifact_and_no_others() -> None:
    """From a ConfigMap that may hold more; asked again soon, it is not read again."""
    async with a_world() as world:
        world.put_map()
        world.put_policy(strategy=a_strategy())
        tar = await world.artifacts.files(KEY, DIGEST)
        again = await world.artifacts.files(KEY, DIGEST)

        assert unpacked(tar) == {"manifest.json": MANIFEST, "weights.npz": WEIGHTS}
        assert (again, world.reads()) == (tar, 1)

        del world.api.objects[f"{MAPS}/router"]
        await world.pulse(TAR_SECONDS)
        assert isinstance(await world.artifacts.files(KEY, DIGEST), Missing)


@pytest.mark.parametrize(
    ("strategy", "manifest", "reason", "message"),
    [
        pytest.param(
            {"type": "Static"}, MANIFEST, Reason.ARTIFACT_NOT_FOUND, "names no ConfigMap", id="a policy that names none"
        ),
        pytest.param(
            a_strategy(digest=OTHER), MANIFEST, Reason.ARTIFACT_NOT_FOUND, "names no ConfigMap", id="another digest"
        ),
        pytest.param(a_strategy(), None, Reason.ARTIFACT_NOT_FOUND, "does not exist", id="no ConfigMap"),
        pytest.param(
            a_strategy(),
            b"",
            Reason.ARTIFACT_DIGEST_MISMATCH,
            "has no manifest.json",
            id="something else",
        ),
        pytest.param(
            a_strategy(), b"{}", Reason.ARTIFACT_DIGEST_MISMATCH, "holds the artifact sha256:", id="another artifact"
        ),
    ],
)
async def test_a_router_gets_nothing_that_the_policy_does_not_pin(
    strategy: dict[str, Any], manifest: bytes | None, reason: Reason, message: str
) -> None:
    """Knowing a digest opens no ConfigMap, and naming a ConfigMap does not make it the artifact."""
    async with a_world() as world:
        if manifest is not None:
            world.put_map(manifest=manifest)
        world.put_policy(strategy=strategy)
        found = await world.artifacts.files(KEY, DIGEST)

        assert isinstance(found, Missing)
        assert found.reason is reason
        assert message in found.message


async def test_an_artifact_of_another_namespace_is_not_remembered_for_this_one() -> None:
    """A digest is no secret: who names it without having the ConfigMap gets nothing."""
    async with a_world() as world:
        world.put_map()
        world.put_policy(strategy=a_strategy())
        assert isinstance(await world.artifacts.files(KEY, DIGEST), bytes)
        world.put_policy("thief", strategy=a_strategy(name="elsewhere"))

        thief = Key("RoutingPolicy", NAMESPACE, "thief")
        assert isinstance(await world.artifacts.files(thief, DIGEST), Missing)
