"""Certificates: one authority for all replicas, served, trusted and renewed."""

from __future__ import annotations

import asyncio
import base64
import os
import ssl
import tempfile
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509

from fakes.apiserver import FakeApiServer, running_api_server
from fakes.clock import VirtualClock
from flotilla_operator.adapters.certificates import (
    AUTHORITY_LIFETIME,
    SECRET_NAME,
    SERVING_LIFETIME,
    Certificates,
    authority_secret,
    make_authority,
    read_authority,
)
from flotilla_operator.adapters.client import Client, Connection
from flotilla_operator.telemetry import Telemetry

PATH = f"/api/v1/namespaces/flotilla-system/secrets/{SECRET_NAME}"
NAMES = ("flotilla-control.flotilla-system.svc", "flotilla-control")


@dataclass
class CurrentClock(VirtualClock):
    """Virtual time that starts now, because OpenSSL checks validity by the machine's clock."""

    start: datetime = field(default_factory=lambda: datetime.now(UTC))

    def __post_init__(self) -> None:
        super().__init__()

    def now(self) -> datetime:
        """UTC now."""
        return self.start + timedelta(seconds=self.monotonic())


@dataclass
class World:
    """Replicas on one API server."""

    api: FakeApiServer
    client: Client
    clock: CurrentClock
    changes: list[str] = field(default_factory=list[str])

    def replica(self, address: str = "127.0.0.1") -> Certificates:
        """The certificates of one more replica."""
        return Certificates(
            self.client,
            self.clock,
            namespace="flotilla-system",
            names=NAMES,
            address=address,
            changed=lambda: self.changes.append(address),
        )


@asynccontextmanager
async def a_world() -> AsyncGenerator[World]:
    """No Secret is there yet."""
    async with running_api_server() as api:
        connection = Connection(
            api.url, None, verify=True, server_name=None, client_certificate=None, authorization=lambda: None
        )
        async with Client(connection, Telemetry()) as client:
            yield World(api, client, CurrentClock())


async def served_certificate(server: Certificates, trust: ssl.SSLContext, name: str) -> x509.Certificate:
    """What a caller that trusts `trust` and dials `name` is shown."""

    async def accept(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.close()

    listener = await asyncio.start_server(accept, "127.0.0.1", 0, ssl=server.server_context)
    try:
        port = listener.sockets[0].getsockname()[1]
        _, writer = await asyncio.open_connection("127.0.0.1", port, ssl=trust, server_hostname=name)
        shown = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
        writer.close()
        await writer.wait_closed()
        return x509.load_der_x509_certificate(shown)
    finally:
        listener.close()
        await listener.wait_closed()


def trusting(bundle: str) -> ssl.SSLContext:
    """A caller's context."""
    return ssl.create_default_context(cadata=bundle)


@pytest.mark.parametrize("name", [*NAMES, "127.0.0.1"])
async def test_callers_that_trust_the_bundle_reach_the_service_and_the_pod(name: str) -> None:
    """Routers dial the Service, other replicas dial the address."""
    async with a_world() as world:
        replica = world.replica()
        await replica.load()

        shown = await served_certificate(replica, trusting(replica.bundle), name)
        assert shown.not_valid_after_utc > datetime.now(UTC) + SERVING_LIFETIME - timedelta(days=1)


async def test_a_caller_refuses_another_name() -> None:
    """The certificate is good for our names only."""
    async with a_world() as world:
        replica = world.replica()
        await replica.load()

        with pytest.raises(ssl.SSLCertVerificationError):
            await served_certificate(replica, trusting(replica.bundle), "example.com")


async def test_replicas_share_one_authority() -> None:
    """Two replicas that start at the same moment trust each other, and only one of them wrote."""
    async with a_world() as world:
        first, second = world.replica(), world.replica("127.0.0.2")
        await asyncio.gather(first.load(), second.load())

        assert first.bundle == second.bundle
        await served_certificate(first, second.client_context, "127.0.0.1")
        assert ("PUT", PATH) not in world.api.requests


async def test_a_serving_certificate_is_renewed_while_it_serves() -> None:
    """The same listener shows a new certificate long before the old one runs out."""
    async with a_world() as world:
        replica = world.replica()
        await replica.load()
        before = await served_certificate(replica, replica.client_context, NAMES[0])
        await replica.refresh()
        unchanged = await served_certificate(replica, replica.client_context, NAMES[0])
        world.clock.start += SERVING_LIFETIME - timedelta(days=20)
        await replica.refresh()

        serving = replica._serving  # pyright: ignore[reportPrivateUsage] - it is not valid yet by the real clock
        assert unchanged == before
        assert serving
        assert serving.not_after > before.not_valid_after_utc
        assert world.changes == ["127.0.0.1"]


async def test_an_authority_is_renewed_and_its_predecessor_stays_trusted() -> None:
    """Callers that learn of the new authority before its certificates, or after, are never cut off."""
    async with a_world() as world:
        predecessor = make_authority(world.clock.now() - AUTHORITY_LIFETIME + timedelta(days=100))
        world.api.put(PATH, authority_secret(predecessor, "flotilla-system"))
        replica = world.replica()
        await replica.load()

        trusted = x509.load_pem_x509_certificates(replica.bundle.encode())
        assert len(trusted) == 2
        assert trusted[1] == predecessor.certificate
        await served_certificate(replica, trusting(replica.bundle), NAMES[0])
        world.api.requests.clear()
        await replica.refresh()
        assert [method for method, _ in world.api.requests] == ["GET"]


@pytest.mark.parametrize(
    "data",
    [
        pytest.param({}, id="empty"),
        pytest.param({"ca.crt": "!", "ca.key": "!"}, id="not base64"),
        pytest.param({"ca.crt": base64.b64encode(b"x").decode(), "ca.key": ""}, id="not a certificate"),
    ],
)
async def test_a_broken_secret_is_replaced(data: dict[str, str]) -> None:
    """An edit by hand does not stop the control API for good."""
    async with a_world() as world:
        manifest = authority_secret(make_authority(world.clock.now()), "flotilla-system") | {"data": data}
        world.api.put(PATH, manifest)
        replica = world.replica()
        await replica.load()

        await served_certificate(replica, trusting(replica.bundle), NAMES[0])


def test_a_key_that_is_not_the_authoritys_is_refused() -> None:
    """A mixed-up Secret is broken, not half trusted."""
    now = datetime.now(UTC)
    mixed = authority_secret(make_authority(now), "flotilla-system")
    mixed["data"]["ca.key"] = authority_secret(make_authority(now), "flotilla-system")["data"]["ca.key"]

    with pytest.raises(ValueError, match="not the key"):
        read_authority(mixed)


async def test_no_private_key_is_left_in_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The file that the ssl module reads is gone afterwards."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    async with a_world() as world:
        await world.replica().load()

    assert os.listdir(tmp_path) == []  # noqa: PTH208 - pathlib's way counts as blocking here
