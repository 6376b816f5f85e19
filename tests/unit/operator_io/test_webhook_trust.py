"""The API server trusts the webhook: caBundle is ours soon after anything changes, and nothing else is written."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

import pytest

from fakes.apiserver import FakeApiServer, running_api_server
from fakes.clock import VirtualClock
from flotilla_operator.adapters.client import Client, Connection
from flotilla_operator.adapters.webhook_trust import CHECK_SECONDS, WebhookTrust, make_trust_patch
from flotilla_operator.telemetry import Telemetry

NAME = "flotilla-sidecars"
PATH = f"/apis/admissionregistration.k8s.io/v1/mutatingwebhookconfigurations/{NAME}"
READ, WRITE = ("GET", PATH), ("PATCH", PATH)


def encoded(bundle: str) -> str:
    return base64.b64encode(bundle.encode()).decode()


def a_configuration(*bundles: str | None) -> dict[str, Any]:
    """With a webhook for each bundle."""
    service = {"name": "flotilla-control", "namespace": "flotilla-system", "port": 9444, "path": "/v1/inject"}
    webhooks = [
        {
            "name": f"{number}.flotilla.dev",
            "clientConfig": {"service": service} | ({} if bundle is None else {"caBundle": encoded(bundle)}),
            "failurePolicy": "Ignore",
        }
        for number, bundle in enumerate(bundles)
    ]
    return {"metadata": {"name": NAME}, "webhooks": webhooks}


@dataclass
class World:
    """A replica that keeps the configuration."""

    api: FakeApiServer
    clock: VirtualClock
    trust: WebhookTrust
    bundle: str = "ours"
    leading: bool = True
    requests: list[tuple[str, str]] = field(default_factory=list[tuple[str, str]])

    def bundles(self) -> list[str]:
        """What the API server trusts."""
        webhooks = self.api.objects[PATH]["webhooks"]
        return [base64.b64decode(each["clientConfig"]["caBundle"]).decode() for each in webhooks]

    async def answered(self, requests: list[tuple[str, str]]) -> None:
        """The API server has got exactly these since the last call, and the replica rests again."""
        async with asyncio.timeout(10):
            while len(self.api.requests) < len(requests) or not self.clock.sleepers:  # noqa: ASYNC110 - the fake has nothing to wait for
                await asyncio.sleep(0.001)
        assert self.api.requests == requests
        self.api.requests.clear()


@asynccontextmanager
async def a_world(*, name: str = NAME, leading: bool = True) -> AsyncGenerator[World]:
    """The configuration is as the chart made it."""
    async with running_api_server() as api:
        api.put(PATH, a_configuration(None))
        connection = Connection(
            api.url, None, verify=True, server_name=None, client_certificate=None, authorization=lambda: None
        )
        async with Client(connection, Telemetry()) as client:
            clock = VirtualClock()
            trust = WebhookTrust(client, clock, name=name, bundle=lambda: world.bundle, leading=lambda: world.leading)
            world = World(api, clock, trust, leading=leading)
            task = asyncio.create_task(trust.run())
            try:
                yield world
            finally:
                task.cancel()
                with suppress(asyncio.CancelledError):
                    await task


async def test_a_leader_writes_its_bundle_and_then_nothing() -> None:
    """Everything else of the configuration stays, and at rest it is only read."""
    async with a_world() as world:
        await world.answered([READ, WRITE])
        written = world.api.objects[PATH]
        await world.clock.advance(CHECK_SECONDS)
        await world.answered([READ])

        assert world.bundles() == ["ours"]
        assert written["webhooks"][0]["failurePolicy"] == "Ignore"
        assert written["webhooks"][0]["clientConfig"]["service"]["port"] == 9444


async def test_what_somebody_writes_over_it_is_mended() -> None:
    """Such as an upgrade that replaces the object."""
    async with a_world() as world:
        await world.answered([READ, WRITE])
        world.api.put(PATH, a_configuration("theirs", "ours"))
        await world.clock.advance(CHECK_SECONDS)
        await world.answered([READ, WRITE])

        assert world.bundles() == ["ours", "ours"]


async def test_a_new_authority_is_told_at_once() -> None:
    """A renewal does not wait for the next look."""
    async with a_world() as world:
        await world.answered([READ, WRITE])
        world.bundle = "ours and the next"
        world.trust.wake()
        await world.answered([READ, WRITE])

        assert world.bundles() == ["ours and the next"]


async def test_a_standby_neither_reads_nor_writes_until_it_leads() -> None:
    """And begins the moment it does."""
    async with a_world(leading=False) as world:
        await world.answered([])
        await world.clock.advance(3 * CHECK_SECONDS)
        await world.answered([])
        world.leading = True
        world.trust.wake()
        await world.answered([READ, WRITE])

        assert world.bundles() == ["ours"]


async def test_a_leader_that_lost_the_lease_meanwhile_writes_nothing() -> None:
    """What it read is the business of the next leader."""
    async with a_world(leading=False) as world:
        world.api.holds[READ] = asyncio.Event()
        world.leading = True
        world.trust.wake()
        async with asyncio.timeout(10):
            while READ not in world.api.held:  # noqa: ASYNC110 - the fake has nothing to wait for
                await asyncio.sleep(0.001)
        world.leading = False
        world.api.holds[READ].set()

        await world.answered([READ])


async def test_a_conflict_and_a_refusal_are_tried_again(caplog: pytest.LogCaptureFixture) -> None:
    """What goes wrong is said once, not every 15 s."""
    async with a_world(leading=False) as world:
        world.api.failures[WRITE] = {"code": 409, "reason": "Conflict", "message": "changed"}
        world.leading = True
        world.trust.wake()
        await world.answered([READ, WRITE])
        await world.clock.advance(CHECK_SECONDS)
        await world.answered([READ, WRITE])
        world.api.failures.clear()
        await world.clock.advance(CHECK_SECONDS)
        await world.answered([READ, WRITE])

        assert world.bundles() == ["ours"]
    assert [record.message for record in caplog.records].count("webhook configuration not checked") == 1


async def test_an_absent_configuration_is_never_made() -> None:
    """It is the chart's to make."""
    async with a_world(leading=False) as world:
        del world.api.objects[PATH]
        world.leading = True
        world.trust.wake()

        await world.answered([READ])


async def test_without_a_configuration_nothing_runs() -> None:
    """The webhook is off."""
    async with a_world(name="") as world:
        await world.clock.advance(CHECK_SECONDS)

        assert world.api.requests == []
        assert not world.clock.sleepers


def test_only_what_differs_is_patched_and_only_in_this_version() -> None:
    """A strategic merge patch, whose list entries are told by name."""
    live = a_configuration("ours", "theirs")
    live["metadata"]["resourceVersion"] = "7"

    assert make_trust_patch(live, encoded("ours")) == {
        "metadata": {"name": NAME, "resourceVersion": "7"},
        "webhooks": [{"name": "1.flotilla.dev", "clientConfig": {"caBundle": encoded("ours")}}],
    }
