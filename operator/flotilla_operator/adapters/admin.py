"""The admin listener: /healthz, /readyz and /metrics, for the kubelet and Prometheus."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from aiohttp import web

from flotilla_operator.telemetry import Telemetry

Check = Callable[[], str]
"""Says what is wrong; '' when nothing is."""


IDLE_SECONDS = 75.0
"""A connection without a request is closed after this."""


class Admin:
    """The admin listener's server. A check is run on each request and answers at once."""

    def __init__(self, telemetry: Telemetry, *, health: Mapping[str, Check], readiness: Mapping[str, Check]) -> None:
        self._telemetry = telemetry
        self._health = dict(health)
        self._readiness = dict(readiness)
        self._runner: web.AppRunner | None = None
        self.port = 0
        """The port that it listens on, once it does."""

    async def start(self, host: str, port: int) -> None:
        """It listens on `host`:`port` (0: any free one)."""
        app = web.Application()
        app.router.add_get("/healthz", self._healthz)
        app.router.add_get("/readyz", self._readyz)
        app.router.add_get("/metrics", self._metrics)
        self._runner = web.AppRunner(app, access_log=None, keepalive_timeout=IDLE_SECONDS, shutdown_timeout=1.0)
        await self._runner.setup()
        await web.TCPSite(self._runner, host, port).start()
        self.port = self._runner.addresses[0][1]

    async def stop(self) -> None:
        """It no longer listens."""
        if self._runner:
            await self._runner.cleanup()

    async def _healthz(self, _: web.Request) -> web.Response:
        return _verdict(self._health)

    async def _readyz(self, _: web.Request) -> web.Response:
        return _verdict(self._readiness)

    async def _metrics(self, _: web.Request) -> web.Response:
        content_type = "text/plain; version=0.0.4; charset=utf-8"
        return web.Response(body=self._telemetry.exposition(), headers={"Content-Type": content_type})


def _verdict(checks: Mapping[str, Check]) -> web.Response:
    failed = [f"{name}: {wrong}" for name, check in checks.items() if (wrong := check())]
    return web.Response(status=503 if failed else 200, text="\n".join(failed) or "ok")
