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
from cryptography.hazmat.primitives.serialization import Encoding

from fakes.apiserver import FakeApiServer, running_api_server
from fakes.clock import VirtualClock
from flotilla_operator.adapters.authority import (
    AUTHORITY_LIFETIME,
    AUTHORITY_RENEW_BEFORE,
    SECRET_NAME,
    SERVING_LIFETIME,
    SPREAD,
    Authority,
    authority_secret,
    make_authority,
    read_authority,
    renew,
)
from flotilla_operator.adapters.certificates import Certificates
from flotilla_operator.adapters.client import Client, Connection
from flotilla_operator.telemetry import Telemetry

PATH = f"/api/v1/namespaces/flotilla-system/secrets/{SECRET_NAME}"
DER = Encoding.DER
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


def _certificates(bundle: str) -> list[bytes]:
    return [each.public_bytes(DER) for each in x509.load_pem_x509_certificates(bundle.encode())]


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


def an_authority(clock: CurrentClock, *, left: timedelta) -> Authority:
    """One that ends in `left`."""
    return make_authority(clock.now() - AUTHORITY_LIFETIME + left)


async def test_whatever_a_caller_trusts_during_a_renewal_it_accepts_every_replica() -> None:
    """A new authority is trusted before it signs: who knows the old bundle alone, or the new, is never cut off."""
    async with a_world() as world:
        world.clock.start -= timedelta(days=10)  # so that what is made in the course of it is valid by the real clock
        world.api.put(PATH, authority_secret(an_authority(world.clock, left=timedelta(days=366)), "flotilla-system"))
        replica = world.replica()
        await replica.load()
        old = replica.bundle
        world.clock.start += timedelta(days=2)
        await replica.refresh()
        started_now = world.replica()
        await started_now.load()
        both = replica.bundle

        assert both.startswith(old)
        assert len(x509.load_pem_x509_certificates(both.encode())) == 2
        for server in (replica, started_now):
            for bundle in (old, both):
                await served_certificate(server, trusting(bundle), NAMES[0])

        world.clock.start += SPREAD
        await replica.refresh()
        started_later = world.replica()
        await started_later.load()

        assert _certificates(replica.bundle) == _certificates(both)[::-1]
        for server in (replica, started_now, started_later):
            for bundle in (both, replica.bundle):
                await served_certificate(server, trusting(bundle), NAMES[0])


async def test_a_renewed_authority_changes_no_serving_certificate_before_its_time() -> None:
    """What the predecessor signed is served until its own renewal, which the new one signs."""
    async with a_world() as world:
        world.clock.start -= timedelta(days=10)
        world.api.put(PATH, authority_secret(an_authority(world.clock, left=timedelta(days=365)), "flotilla-system"))
        replica = world.replica()
        await replica.load()
        before = await served_certificate(replica, replica.client_context, NAMES[0])
        world.clock.start += SPREAD
        await replica.refresh()
        after = await served_certificate(replica, replica.client_context, NAMES[0])
        world.clock.start += SERVING_LIFETIME
        await replica.refresh()

        serving = replica._serving  # pyright: ignore[reportPrivateUsage] - it is not valid yet by the real clock
        assert after == before
        assert serving
        assert serving.issuer == x509.load_pem_x509_certificates(replica.bundle.encode())[0]
        assert world.changes == 2 * ["127.0.0.1"]


async def test_an_authority_that_nobody_trusts_any_more_signs_nothing_that_is_served() -> None:
    """Somebody deleted the Secret: what the lost authority signed is worth nothing from then on."""
    async with a_world() as world:
        replica = world.replica()
        await replica.load()
        lost = replica.bundle
        del world.api.objects[PATH]
        await replica.refresh()

        await served_certificate(replica, trusting(replica.bundle), NAMES[0])
        with pytest.raises(ssl.SSLCertVerificationError):
            await served_certificate(replica, trusting(lost), NAMES[0])
        assert world.changes == 2 * ["127.0.0.1"]


async def test_a_renewal_is_written_once() -> None:
    """The second replica, and every later look, reads what the first one wrote."""
    async with a_world() as world:
        world.api.put(PATH, authority_secret(an_authority(world.clock, left=timedelta(days=300)), "flotilla-system"))
        first, second = world.replica(), world.replica("127.0.0.2")
        await first.load()
        await second.load()
        await first.refresh()

        assert [method for method, _ in world.api.requests] == ["GET", "PUT", "GET", "GET"]
        assert first.bundle == second.bundle


@pytest.mark.parametrize(
    ("left", "successor_age", "signs", "trusted"),
    [
        pytest.param(AUTHORITY_RENEW_BEFORE + timedelta(days=1), None, None, 0, id="young enough: stays"),
        pytest.param(AUTHORITY_RENEW_BEFORE, None, "signer", 2, id="due: a successor is trusted"),
        pytest.param(AUTHORITY_RENEW_BEFORE, timedelta(hours=1), None, 0, id="the successor is not known yet: stays"),
        pytest.param(AUTHORITY_RENEW_BEFORE, SPREAD, "successor", 2, id="the successor is known: it signs"),
        pytest.param(SERVING_LIFETIME, timedelta(hours=1), "successor", 2, id="late: no time to wait"),
        pytest.param(timedelta(0), None, "new", 2, id="over: no time to wait"),
    ],
)
def test_when_an_authority_is_renewed(
    left: timedelta, successor_age: timedelta | None, signs: str | None, trusted: int
) -> None:
    """See the table of `renew`."""
    clock = CurrentClock()
    authority = an_authority(clock, left=left)
    successor = None if successor_age is None else make_authority(clock.now() - successor_age).signer
    found = renew(Authority(authority.signer, successor), clock.now())

    if signs is None:
        assert found is None
        return
    assert found
    names = {authority.signer.certificate: "signer"} | ({successor.certificate: "successor"} if successor else {})
    assert names.get(found.signer.certificate, "new") == signs
    assert len(found.trusted) == trusted
    assert authority.signer.certificate in found.trusted


def test_an_authority_survives_its_secret() -> None:
    """With a successor and a predecessor, each in its role."""
    now = datetime.now(UTC)
    authority = Authority(
        make_authority(now).signer, make_authority(now).signer, (make_authority(now).signer.certificate,)
    )
    read = read_authority(authority_secret(authority, "flotilla-system"))

    assert read.trusted == authority.trusted
    assert read.successor
    assert authority.successor
    assert read.successor.private_key.private_numbers() == authority.successor.private_key.private_numbers()
    assert authority_secret(read, "flotilla-system") == authority_secret(authority, "flotilla-system")


@pytest.mark.parametrize(
    "data",
    [
        pytest.param({}, id="empty"),
        pytest.param({"ca.crt": "!", "ca.key": "!"}, id="not base64"),
        pytest.param({"ca.crt": base64.b64encode(b"x").decode(), "ca.key": ""}, id="not a certificate"),
        pytest.param({"next.key": ""}, id="a successor without a certificate"),
    ],
)
async def test_a_broken_secret_is_replaced(data: dict[str, str]) -> None:
    """An edit by hand does not stop the control API for good."""
    async with a_world() as world:
        manifest = authority_secret(make_authority(world.clock.now()), "flotilla-system")
        manifest["data"] = manifest["data"] | data if data else {}
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
