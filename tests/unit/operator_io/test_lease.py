"""The Lease: one writer at a time, a standby that takes over, and a holder that stops in time."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import pytest

from fakes.apiserver import FakeApiServer, running_api_server
from fakes.clock import VirtualClock
from flotilla_operator.adapters.client import WRITE_TIMEOUT_SECONDS, Client, Connection
from flotilla_operator.adapters.lease import (
    DURATION_SECONDS,
    RENEW_DEADLINE_SECONDS,
    RENEW_SECONDS,
    Elector,
    address_of,
    make_identity,
)
from flotilla_operator.telemetry import Telemetry

PATH = "/apis/coordination.k8s.io/v1/namespaces/flotilla-system/leases/flotilla-operator"
TAKEOVER_SECONDS = 15.0


def connect(url: str) -> Connection:
    """A connection without TLS or credentials."""
    return Connection(url, None, verify=True, server_name=None, client_certificate=None, authorization=lambda: None)


@dataclass
class Replica:
    """One replica's elector and what it announced."""

    elector: Elector
    announced: list[bool] = field(default_factory=list[bool])


@dataclass
class World:
    """Two replicas on one API server, in virtual time."""

    api: FakeApiServer
    clock: VirtualClock
    first: Replica
    second: Replica

    async def turn(self, *replicas: Replica) -> None:
        """Time goes on by one renewal interval, then each of `replicas` takes its step."""
        await self.clock.advance(RENEW_SECONDS)
        for replica in replicas:
            await replica.elector.step()


@asynccontextmanager
async def two_replicas() -> AsyncGenerator[World]:
    """The first one holds the Lease."""
    clock = VirtualClock()
    async with running_api_server() as api, Client(connect(api.url), Telemetry()) as client:
        replicas: list[Replica] = []
        for name in ("a", "b"):
            announced: list[bool] = []
            elector = Elector(
                client,
                clock,
                namespace="flotilla-system",
                name="flotilla-operator",
                identity=make_identity(name, f"10.0.0.{len(replicas)}:9443"),
                changed=announced.append,
            )
            replicas.append(Replica(elector, announced))
        for replica in replicas:
            await replica.elector.step()
        yield World(api, clock, *replicas)


async def test_one_of_two_leads_and_both_know_where_it_is() -> None:
    """The Lease says where the holder's control API is."""
    async with two_replicas() as world:
        assert (world.first.elector.leading, world.second.elector.leading) == (True, False)
        assert world.first.announced == [True]
        assert world.second.announced == []
        assert address_of(world.second.elector.holder) == "10.0.0.0:9443"


async def test_a_holder_that_renews_keeps_the_lease() -> None:
    """However long it goes on."""
    async with two_replicas() as world:
        for _ in range(30):
            await world.turn(world.first, world.second)

        assert world.first.announced == [True]
        assert world.second.announced == []


async def test_a_standby_takes_over_from_a_dead_holder_in_time() -> None:
    """It waits until the Lease has run out, and not much longer."""
    async with two_replicas() as world:
        died = world.clock.monotonic()
        while not world.second.elector.leading:
            await world.turn(world.second)

        assert DURATION_SECONDS <= world.clock.monotonic() - died <= TAKEOVER_SECONDS


async def test_a_released_lease_is_taken_at_once() -> None:
    """An orderly end costs no waiting."""
    async with two_replicas() as world:
        await world.first.elector.release()
        await world.turn(world.second)

        assert world.first.announced == [True, False]
        assert world.second.announced == [True]


async def test_a_released_lease_is_not_taken_back() -> None:
    """A renewal that was due must not undo the release."""
    async with two_replicas() as world:
        await asyncio.gather(world.first.elector.step(), world.first.elector.release())
        await world.first.elector.step()

        assert not world.first.elector.leading
        assert world.api.objects[PATH]["spec"]["holderIdentity"] == ""


async def test_a_holder_that_cannot_renew_stops_before_anyone_may_take_over() -> None:
    """By the clock alone, without being told, and early enough for its last write to end."""
    async with two_replicas() as world:
        world.api.failures["PUT", PATH] = {"code": 503, "message": "down"}
        await world.turn(world.first)
        still_leading = world.first.elector.leading
        await world.clock.advance(RENEW_DEADLINE_SECONDS - RENEW_SECONDS)

        assert still_leading
        assert not world.first.elector.leading
        assert RENEW_DEADLINE_SECONDS + WRITE_TIMEOUT_SECONDS < DURATION_SECONDS


async def test_a_holder_that_was_replaced_gives_way() -> None:
    """It finds another's name in the Lease and is a standby."""
    async with two_replicas() as world:
        while not world.second.elector.leading:
            await world.turn(world.second)
        await world.first.elector.step()
        await world.first.elector.step()

        assert not world.first.elector.leading
        assert world.first.announced == [True, False]
        assert world.first.elector.holder == world.second.elector.holder


async def test_a_holder_survives_a_conflict() -> None:
    """Somebody touched the Lease: the holder reads it again and goes on."""
    async with two_replicas() as world:
        world.api.put(PATH, world.api.objects[PATH])
        await world.turn(world.first)
        await world.turn(world.first)

        assert world.first.elector.leading
        assert world.first.announced == [True]


async def test_a_deleted_lease_is_made_anew() -> None:
    """The holder makes it, or a standby does."""
    async with two_replicas() as world:
        del world.api.objects[PATH]
        await world.turn(world.first)
        await world.turn(world.first)

        assert world.first.elector.leading
        assert PATH in world.api.objects


@pytest.mark.parametrize(
    ("identity", "address"),
    [
        pytest.param(make_identity("pod-a", "10.0.0.7:9443"), "10.0.0.7:9443", id="ours"),
        pytest.param(make_identity("pod-a", "[fd00::7]:9443"), "[fd00::7]:9443", id="IPv6"),
        pytest.param("somebody", "", id="somebody else's"),
        pytest.param("", "", id="nobody"),
    ],
)
def test_address_of(identity: str, address: str) -> None:
    """A holder's identity says where it is, where it is one of ours."""
    assert address_of(identity) == address
