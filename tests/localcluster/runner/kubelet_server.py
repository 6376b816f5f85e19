"""The part of the kubelet's own HTTPS interface that `kubectl logs` needs."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections import deque
from pathlib import Path

from aiohttp import web

from localcluster.config import RunnerConfig

CHUNK_BYTES = 64 << 10
POLL_SECONDS = 0.1
UNSUPPORTED = frozenset({"timestamps", "sinceSeconds", "sinceTime", "limitBytes"})


class LogServer:
    """Serves container logs to whoever shows a certificate of the cluster's authority."""

    def __init__(self, config: RunnerConfig) -> None:
        self._config = config

    async def run(self) -> None:
        """Serve until cancelled.

        Raises:
            OSError: the address is taken.
        """
        app = web.Application()
        app.router.add_get("/containerLogs/{namespace}/{pod}/{container}", self._logs)
        app.router.add_get("/healthz", _healthz)
        runner = web.AppRunner(app, access_log=None)
        await runner.setup()
        try:
            config = self._config
            site = web.TCPSite(runner, config.node_address, config.kubelet_port, ssl_context=_tls(config))
            await site.start()
            await asyncio.Event().wait()
        finally:
            await runner.cleanup()

    async def _logs(self, request: web.Request) -> web.StreamResponse:
        names = request.match_info
        if unknown := UNSUPPORTED & request.query.keys():
            return web.Response(
                status=400, text=f"the local cluster's logs cannot be had by {', '.join(sorted(unknown))}"
            )
        directory = find_logs(self._config.state_dir, names["namespace"], names["pod"], names["container"])
        if directory is None:
            return web.Response(status=404, text=f'container "{names["container"]}" has no logs')
        previous = request.query.get("previous") == "true"
        log = pick_log(directory, previous=previous)
        if log is None:
            what = f'container "{names["container"]}" in pod "{names["pod"]}"'
            message = f"previous terminated {what} not found" if previous else f"{what} is waiting to start"
            return web.Response(status=400, text=message)
        response = web.StreamResponse(headers={"Content-Type": "text/plain"})
        await response.prepare(request)
        follow = request.query.get("follow") == "true"
        with contextlib.suppress(ConnectionError):  # the reader has had enough
            await _send(response, log, _offset(log, request.query.get("tailLines")), follow=follow)
        return response


async def _healthz(_: web.Request) -> web.Response:
    return web.Response(text="ok")


def _tls(config: RunnerConfig) -> ssl.SSLContext:
    tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=config.ca_path)
    tls.verify_mode = ssl.CERT_REQUIRED
    tls.load_cert_chain(config.kubelet_cert, config.kubelet_key)
    return tls


def find_logs(state_dir: Path, namespace: str, pod: str, container: str) -> Path | None:
    """The container's directory; of several pods that had the name, the newest one's."""
    found = [path for path in (state_dir / "pods").glob(f"{namespace}_{pod}_*/{container}") if path.is_dir()]
    return max(found, key=lambda path: path.stat().st_mtime, default=None)


def pick_log(directory: Path, *, previous: bool) -> Path | None:
    """The log of the container's last run, or of the one before."""
    runs = sorted(int(log.stem) for log in directory.glob("*.log"))
    wanted = runs[-2:-1] if previous else runs[-1:]
    return directory / f"{wanted[0]}.log" if wanted else None


def _offset(log: Path, tail_lines: str | None) -> int:
    """Where the last so many lines begin."""
    if tail_lines is None:
        return 0
    with log.open("rb") as file:
        last = deque(file, maxlen=int(tail_lines))
        return file.tell() - sum(map(len, last))


async def _send(response: web.StreamResponse, log: Path, offset: int, *, follow: bool) -> None:
    """What the log holds from `offset`, and with `follow` what is added while the container runs."""
    with log.open("rb") as file:
        file.seek(offset)
        while True:
            running = log.with_name("pid").exists()
            while chunk := file.read(CHUNK_BYTES):
                await response.write(chunk)
            if not follow or not running:
                break
            await asyncio.sleep(POLL_SECONDS)
    await response.write_eof()
