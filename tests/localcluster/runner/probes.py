"""Carries out probes and lifecycle hooks as the kubelet does, and words their failures like it."""

from __future__ import annotations

import asyncio
import errno
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Self

import aiohttp

from localcluster.config import ImageSpec
from localcluster.runner.containers import ContainerProcess
from localcluster.runner.environment import map_loopback, resolve_program
from localcluster.runner.model import (
    Container,
    Handler,
    HttpGetAction,
    IntOrString,
    Probe,
    TcpSocketAction,
)

HOOK_TIMEOUT_SECONDS = 3600.0  # of a postStart hook, which nothing else bounds


@dataclass(frozen=True, slots=True)
class Outcome:
    """Whether a probe or hook succeeded, and the message if not."""

    success: bool
    message: str = ""


@dataclass(frozen=True, slots=True)
class Target:
    """A running container, where it is reached, and the image whose programs its commands name."""

    container: Container
    process: ContainerProcess
    image: ImageSpec
    pod_ip: str


class Prober:
    """Probes over one HTTP session whose connections are never reused, so that a hung server is noticed."""

    def __init__(self, session: aiohttp.ClientSession) -> None:
        self._session = session

    @classmethod
    @asynccontextmanager
    async def open(cls) -> AsyncGenerator[Self]:
        """A prober that does not check certificates, as probes do not."""
        connector = aiohttp.TCPConnector(ssl=False, force_close=True, limit=0)
        headers = {"User-Agent": "kube-probe/1.36", "Accept": "*/*"}
        async with aiohttp.ClientSession(connector=connector, headers=headers) as session:
            yield cls(session)

    async def probe(self, probe: Probe, target: Target) -> Outcome:
        """Probe once."""
        if probe.http_get:
            return await self._http_get(probe.http_get, target, probe.timeout_seconds)
        if probe.tcp_socket:
            return await _connect(probe.tcp_socket, target, probe.timeout_seconds)
        if probe.exec:
            return await _execute(probe.exec.command, target, probe.timeout_seconds)
        return Outcome(False, "probes of this type are not supported by the local cluster")

    async def run_hook(self, hook: Handler, target: Target, timeout_seconds: float) -> Outcome:
        """Run a lifecycle hook to its end, or until the time is over."""
        if hook.sleep:
            await asyncio.sleep(min(hook.sleep.seconds, timeout_seconds))
            return Outcome(True)
        if hook.exec:
            return await _execute(hook.exec.command, target, timeout_seconds)
        if hook.http_get:
            return await self._http_get(hook.http_get, target, timeout_seconds)
        return Outcome(False, "hooks of this type are not supported")

    async def _http_get(self, action: HttpGetAction, target: Target, timeout_seconds: float) -> Outcome:
        address = _address(action.host, action.port, target)
        if address is None:
            return Outcome(False, f"couldn't find port: {action.port}")
        path = action.path if action.path.startswith("/") else f"/{action.path}"
        url = f"{action.scheme.lower()}://{address[0]}:{address[1]}{path}"
        headers = {header.name: header.value for header in action.http_headers}
        timeout = aiohttp.ClientTimeout(total=timeout_seconds)
        try:
            async with self._session.get(url, headers=headers, timeout=timeout, allow_redirects=False) as response:
                await response.content.read(10 << 10)
        except TimeoutError:
            waiting = "context deadline exceeded (Client.Timeout exceeded while awaiting headers)"
            return Outcome(False, f'Get "{url}": {waiting}')
        except aiohttp.ClientConnectorError as error:
            return Outcome(False, f'Get "{url}": {_dial_error(address, error.os_error)}')
        except (aiohttp.ClientError, ValueError) as error:
            return Outcome(False, f'Get "{url}": {str(error) or type(error).__name__}')
        if 200 <= response.status < 400:
            return Outcome(True)
        return Outcome(False, f"HTTP probe failed with statuscode: {response.status}")


async def _connect(action: TcpSocketAction, target: Target, timeout_seconds: float) -> Outcome:
    address = _address(action.host, action.port, target)
    if address is None:
        return Outcome(False, f"couldn't find port: {action.port}")
    try:
        async with asyncio.timeout(timeout_seconds):
            _, writer = await asyncio.open_connection(*address)
    except TimeoutError:
        return Outcome(False, f"dial tcp {address[0]}:{address[1]}: i/o timeout")
    except OSError as error:
        return Outcome(False, _dial_error(address, error))
    writer.close()
    return Outcome(True)


async def _execute(command: Sequence[str], target: Target, timeout_seconds: float) -> Outcome:
    argv = resolve_program([map_loopback(word, target.pod_ip) for word in command], target.image)
    result = await target.process.execute(argv, timeout_seconds)
    if result.code is None:
        return Outcome(False, f'command timed out: "{" ".join(command)}" timed out after {timeout_seconds:g}s')
    return Outcome(result.code == 0, "" if result.code == 0 else result.output.strip()[:10000])


def _address(host: str, port: IntOrString, target: Target) -> tuple[str, int] | None:
    number = port if isinstance(port, int) else _numbered(port, target.container)
    return None if number is None else (host or target.pod_ip, number)


def _numbered(name: str, container: Container) -> int | None:
    if name.isdigit():
        return int(name)
    return next((port.container_port for port in container.ports if port.name == name), None)


def _dial_error(address: tuple[str, int], error: OSError) -> str:
    refused = error.errno == errno.ECONNREFUSED
    return f"dial tcp {address[0]}:{address[1]}: connect: {'connection refused' if refused else error.strerror}"
