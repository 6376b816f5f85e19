"""kopf's watches on a fake API server: all of them, also when kopf did not see every kind at first."""

from __future__ import annotations

import asyncio
import gc
import ssl
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import kopf
import pytest

from fakes.apiserver import FakeApiServer, running_api_server
from flotilla_operator.adapters import watching
from flotilla_operator.adapters.authority import make_authority, make_serving
from flotilla_operator.adapters.client import Connection
from flotilla_operator.adapters.kinds import KINDS, OWN_KINDS
from flotilla_operator.adapters.watching import WatchThread
from flotilla_operator.handlers import make_registry

# kopf leaves the connections of watches that it must end to the garbage collector, which each test therefore calls.
pytestmark = [
    pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]
EVERYWHERE = {kind.collection_path("") for kind in KINDS.values()}


@asynccontextmanager
async def watches(
    api: FakeApiServer, *namespaces: str, missing_seconds: float = 600, unserved: bool = False
) -> AsyncGenerator[WatchThread]:
    """kopf watches until the block ends."""
    api.unserved = frozenset(kind.plural for kind in OWN_KINDS if unserved)
    connection = Connection(
        api.url, None, verify=True, server_name=None, client_certificate=None, authorization=lambda: None
    )
    registry = make_registry(connection, lambda kind, event_type, manifest: None)
    thread = WatchThread(registry, namespaces=lambda: namespaces, missing_seconds=missing_seconds)
    thread.start()
    try:
        yield thread
    finally:
        await thread.stop()
        api.ended.set()
        gc.collect()


async def _until_watched(api: FakeApiServer, paths: set[str]) -> None:
    async with asyncio.timeout(20):
        while not paths <= set(api.watches):  # noqa: ASYNC110 - the server has nothing else to wait for
            await asyncio.sleep(0.02)


async def test_every_kind_is_watched() -> None:
    """Once, and for good."""
    async with running_api_server() as api, watches(api):
        await _until_watched(api, EVERYWHERE)

        assert sorted(api.watches) == sorted(EVERYWHERE)


async def test_named_namespaces_are_watched() -> None:
    """And what is in no namespace."""
    expected = {kind.collection_path("agents" if kind.namespaced else "") for kind in KINDS.values()}
    async with running_api_server() as api, watches(api, "agents"):
        await _until_watched(api, expected)

        assert set(api.watches) == expected


async def test_a_kopf_that_does_not_end_is_left_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    """One that fails may wait for ever for its own watches; a new one takes its place all the same."""
    operator, patience = kopf.operator, watching.EXIT_SECONDS
    hung = 0

    async def hangs_at_first(**given: Any) -> None:
        nonlocal hung
        if hung:
            monkeypatch.setattr(watching, "EXIT_SECONDS", patience)  # the real one ends in its own time
            await operator(**given)
        while hung < 3:
            hung += 1
            with suppress(asyncio.CancelledError):
                await asyncio.Event().wait()

    for name in ("RESTART_SECONDS", "LOOK_SECONDS", "EXIT_SECONDS"):
        monkeypatch.setattr(watching, name, 0.05)
    monkeypatch.setattr(kopf, "operator", hangs_at_first)
    async with running_api_server() as api, watches(api, missing_seconds=2):
        await _until_watched(api, EVERYWHERE)


async def test_kinds_that_were_not_served_at_first_are_watched_later(monkeypatch: pytest.MonkeyPatch) -> None:
    """Just after a start of the API server kopf may find no CRD; it would never ask again."""
    monkeypatch.setattr(watching, "RESTART_SECONDS", 0.01)
    own = {kind.collection_path("") for kind in OWN_KINDS}
    async with running_api_server() as api, watches(api, missing_seconds=2, unserved=True):
        await _until_watched(api, EVERYWHERE - own)
        before = set(api.watches)
        api.unserved = frozenset()
        await _until_watched(api, EVERYWHERE)

        assert not before & own


@pytest.mark.parametrize("namespaces", [(), ("agents", "data")], ids=["all namespaces", "two namespaces"])
async def test_complete_watches_are_known_as_such(namespaces: tuple[str, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    """By the names of kopf's tasks: this fails when a release of kopf names them otherwise."""
    found: list[frozenset[str]] = []

    def noted(expected: frozenset[str]) -> frozenset[str]:
        found.append(missing(expected))
        return frozenset()

    missing = watching.missing_watches
    monkeypatch.setattr(watching, "missing_watches", noted)
    monkeypatch.setattr(watching, "LOOK_SECONDS", 0.05)
    count = sum(len(namespaces or ("",)) if kind.namespaced else 1 for kind in KINDS.values())
    async with running_api_server() as api, watches(api, *namespaces, missing_seconds=0.1):
        async with asyncio.timeout(20):
            while not found or found[-1]:  # noqa: ASYNC110 - kopf has nothing else to wait for
                await asyncio.sleep(0.02)

    assert len(watching.expected_watches(namespaces)) == count


async def test_an_api_server_with_a_certificate_for_another_name_is_watched(tmp_path: Path) -> None:
    """As a kubeconfig's tls-server-name has it: the name is verified, the address is dialled."""
    authority = make_authority(datetime.now(UTC))
    (tmp_path / "ca.crt").write_text(authority.bundle)
    serving = make_serving(authority, datetime.now(UTC), names=["api.internal"], address="127.9.9.9")
    (tmp_path / "serving.pem").write_bytes(serving.private_key + serving.chain)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "serving.pem")
    async with running_api_server(context) as api:
        connection = Connection(
            api.url,
            str(tmp_path / "ca.crt"),
            verify=True,
            server_name="api.internal",
            client_certificate=None,
            authorization=lambda: "Bearer token-1",
        )
        thread = WatchThread(make_registry(connection, lambda kind, event_type, manifest: None), namespaces=lambda: ())
        thread.start()
        try:
            await _until_watched(api, EVERYWHERE)
        finally:
            await thread.stop()
            api.ended.set()
            gc.collect()

        assert api.authorizations == {"Bearer token-1"}
