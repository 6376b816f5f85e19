"""Probes over the network, and how their failures are worded."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any, cast

import msgspec
from aiohttp import web
from pod_builders import a_container, a_pod

from localcluster.config import ImageSpec
from localcluster.runner.containers import ContainerProcess
from localcluster.runner.model import Probe
from localcluster.runner.probes import Outcome, Prober, Target


def _target(**container: Any) -> Target:
    """A container whose process these probes do not touch."""
    spec = a_pod(a_container(**container)).spec.containers[0]
    return Target(spec, cast(ContainerProcess, None), ImageSpec(["/bin/sh"]), "127.0.0.1")


async def _probe(probe: dict[str, Any], **container: Any) -> Outcome:
    async with Prober.open() as prober:
        return await prober.probe(msgspec.convert(probe, Probe), _target(**container))


@asynccontextmanager
async def _answering(status: int, *, hang: bool = False) -> AsyncGenerator[int]:
    """The port of a server that answers with that status, if it answers."""

    async def answer(request: web.Request) -> web.Response:
        if hang:
            await asyncio.Event().wait()
        assert request.headers["X-Probe"] == "yes"
        return web.Response(status=status, headers={"Location": "http://elsewhere.invalid/"} if status == 302 else {})

    app = web.Application()
    app.router.add_get("/health", answer)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    yield runner.addresses[0][1]
    await runner.cleanup()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def _http(port: int | str) -> dict[str, Any]:
    return {"httpGet": {"port": port, "path": "/health", "httpHeaders": [{"name": "X-Probe", "value": "yes"}]}}


async def test_http_probe_accepts_success_and_redirects() -> None:
    """Any status from 200 to 399 passes; a named port is the container's; redirects are not followed."""
    for status in (200, 204, 302):
        async with _answering(status) as port:
            outcome = await _probe(_http("http"), ports=[{"name": "http", "containerPort": port}])
            assert outcome == Outcome(True)


async def test_http_probe_tells_the_status() -> None:
    """An error status is the message."""
    async with _answering(503) as port:
        outcome = await _probe(_http(port))

    assert outcome == Outcome(False, "HTTP probe failed with statuscode: 503")


async def test_refused_probes_read_like_the_kubelets() -> None:
    """A refused connection is told in Go's words, for both kinds of probe."""
    port = _free_port()

    http = await _probe(_http(port))
    tcp = await _probe({"tcpSocket": {"port": port}})

    refused = f"dial tcp 127.0.0.1:{port}: connect: connection refused"
    assert http == Outcome(False, f'Get "http://127.0.0.1:{port}/health": {refused}')
    assert tcp == Outcome(False, refused)


async def test_hanging_server_times_out() -> None:
    """A server that takes connections but does not answer fails the probe after its timeout."""
    async with _answering(200, hang=True) as port:
        outcome = await _probe({**_http(port), "timeoutSeconds": 1})

    assert not outcome.success
    assert outcome.message.endswith("context deadline exceeded (Client.Timeout exceeded while awaiting headers)")


async def test_tcp_probe_connects() -> None:
    """A port that somebody listens on passes."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        outcome = await _probe({"tcpSocket": {"port": listener.getsockname()[1]}})

    assert outcome == Outcome(True)


async def test_unknown_port_name() -> None:
    """A port name that the container does not declare is a failure, not an error of the runner."""
    assert await _probe(_http("nope")) == Outcome(False, "couldn't find port: nope")
