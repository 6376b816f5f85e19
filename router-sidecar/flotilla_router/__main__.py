"""`flotilla-router`: puts the parts together, runs until SIGTERM, drains and ends."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import gc
import os
import random
import resource
import signal
import sys
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import uvloop

from flotilla_api.control import Problem, ProblemKind

from .access import Access
from .artifacts import Artifacts
from .control import SnapshotSource
from .control_client import ArtifactFetcher, ControlClient, TokenReviewer, Waker
from .credentials import ApiKeys, ServerCertificate, UpstreamCredentials
from .dispatch import Dispatcher
from .endpoints import Router
from .judging import Judge
from .learned import Learned
from .logpages import LogPages
from .logs import Log, open_log
from .reach import Outside, Providers, Reach
from .registry import Live, Registry, SnapshotError
from .relay import Relay
from .requestlog import RequestLog
from .reviews import Reviews
from .server import Listener
from .serving import Patience
from .settings import RouterSettings, SettingsError
from .telemetry import Telemetry
from .upstream import Upstreams
from .vectors import Vectors
from .wakes import Wakes

FILES_SECONDS = 2.0
"""How often keys, credentials and certificates are looked at."""
LOG_FLUSH_SECONDS = 0.1
LAST_FLUSH_SECONDS = 1.0
EXPIRE_SECONDS = 1.0
DRAIN_CHECK_SECONDS = 0.05
_OTHER_FILES = 256


class SnapshotStore:
    """Applies snapshots to everything that depends on them. Implements control.Store."""

    def __init__(
        self,
        registry: Registry,
        reach: Reach,
        telemetry: Telemetry,
        *,
        outside: Outside,
        keys: ApiKeys | None,
        request_log: RequestLog | None,
        artifacts: Artifacts,
        loaded: Callable[[Live], None],
    ) -> None:
        """loaded: is told of each snapshot once it is in use."""
        self._registry = registry
        self._outside = outside
        self._keys = keys
        """None: no client needs one."""
        self._request_log = request_log
        """None: a sidecar keeps none."""
        self._reach = reach
        self._telemetry = telemetry
        self._artifacts = artifacts
        self._loaded = loaded
        self._error: str | None = ""

    @property
    def digest(self) -> str:
        """Of the snapshot in use; empty: there is none."""
        live = self._registry.live
        return live.digest if live is not None else ""

    def offer(self, data: bytes) -> str | None:
        """Use a snapshot from now on, or say why not."""
        try:
            live = self._registry.load(data)
        except SnapshotError as error:
            self._telemetry.snapshot_rejected(error.digest, str(error))
            return str(error)
        self._outside.want(live.snapshot)
        self._reach.keep(live.states.values())
        self._artifacts.want(live.snapshot)
        self._telemetry.snapshot_applied(live.digest, live.snapshot.generation)
        if self._request_log is not None:
            self._request_log.configure(live.snapshot.requestLog)
        self._telemetry.expect(target.name for target in live.snapshot.targets if target.kind == "Expert")
        self._telemetry.note_problems(self.problems())
        self._loaded(live)
        return None

    def problems(self) -> Sequence[Problem]:
        """Keys, credentials, tokens and artifacts that are missing or cannot be used, and scores that have drifted."""
        live, keys = self._registry.live, self._keys
        problems = self._outside.problems() + self._artifacts.problems()
        if live is not None and keys is not None and not live.snapshot.anonymous and not keys.any:
            text = "no API key is mounted: every request is refused"
            problems.append(Problem(ProblemKind.API_KEYS, "", text))
        if self._request_log is not None and self._request_log.problem is not None:
            problems.append(Problem(ProblemKind.REQUEST_LOG, "", self._request_log.problem))
        return problems

    def connected(self, error: str | None) -> None:
        """Note whether the control API answers; only changes are logged."""
        self._telemetry.control_connected = error is None
        if error != self._error:
            self._error = error
            self._telemetry.say("control API connected" if error is None else "control API lost", error=error)


@dataclass(frozen=True, slots=True)
class Ports:
    """Where a running router listens."""

    data: int
    admin: int


class RouterProcess:
    """A whole router, to be started once."""

    def __init__(self, settings: RouterSettings, log: Log) -> None:
        loop = asyncio.get_running_loop()
        self._settings = settings
        self._log = log
        self._certificate = ServerCertificate(settings.tls_dir)
        self._keys = ApiKeys(settings.api_keys_dir)
        self._outside = _make_outside(settings)
        self._upstreams = Upstreams(loop)
        self.telemetry = Telemetry(settings.namespace, settings.policy, log)
        reach = Reach(self._outside)
        self.registry = Registry(settings.namespace, settings.policy)
        control = ControlClient(self._upstreams)
        self._wakes = Wakes(loop, Waker(control, settings), self.telemetry)
        self.dispatcher = Dispatcher(
            loop=loop,
            upstreams=self._upstreams,
            reach=reach,
            telemetry=self.telemetry,
            wakes=self._wakes,
            draw=random.random,
        )
        self.telemetry.held = self.dispatcher.holds
        self._request_log = RequestLog(settings.request_log_dir) if settings.role == "Gateway" else None
        self.telemetry.request_log = self._request_log
        learned = Learned(self._score_failed)
        self.telemetry.arms = learned.figures
        self._artifacts = Artifacts(
            loop, learned, self.telemetry, ask_control=ArtifactFetcher(control, settings), draw=random.random
        )
        self.store = SnapshotStore(
            self.registry,
            reach,
            self.telemetry,
            outside=self._outside,
            keys=self._keys if settings.role == "Gateway" else None,
            request_log=self._request_log,
            artifacts=self._artifacts,
            loaded=self.dispatcher.loaded,
        )
        self._reviews = _make_reviews(loop, control, settings)
        access = Access(settings.role, settings.policy, self._keys, self._reviews)
        self._vectors = Vectors(self.dispatcher)
        judge = Judge(learned, self.telemetry, random.random, self._vectors)
        pages = None if self._request_log is None else LogPages(loop, self._request_log, self._keys)
        self.router = Router(self.registry, self.dispatcher, access, judge, log=self._request_log, pages=pages)
        self.source = SnapshotSource(self.store, control, settings.snapshot_dir, settings.control_token_dir)
        patience = Patience(
            settings.first_byte_seconds, settings.head_seconds, settings.body_seconds, settings.keep_alive_seconds
        )
        most = settings.max_connections
        self._data = Listener(loop, self.router.data_surface(), patience, most)
        self._admin = Listener(loop, self.router.admin_surface(), patience, most)
        self.telemetry.connections = self._data.connections
        self._tasks: list[asyncio.Task[None]] = []

    async def start(self) -> Ports:
        """Serve: first health, then requests; a snapshot that is mounted is in use from the first request on."""
        settings = self._settings
        admin = await self._admin.start(settings.admin_host, settings.admin_port)
        self.source.read_file()
        data = await self._data.start(settings.data_host, settings.data_port, self._certificate.context)
        loop = asyncio.get_running_loop()
        self._tasks = [loop.create_task(self._housekeeping()), loop.create_task(self.source.watch_file())]
        if settings.control_url is not None:
            follow = self.source.follow(settings.control_url, settings.namespace, settings.policy, random.random)
            self._tasks.append(loop.create_task(follow))
        self.telemetry.say(
            "router started", data_port=data, admin_port=admin, tls=self._certificate.context is not None
        )
        return Ports(data, admin)

    def report(self, _loop: asyncio.AbstractEventLoop, context: Mapping[str, Any]) -> None:
        """Log a mistake of our own; the connection that it happened on is closed by the loop."""
        error = context.get("exception")
        trace = "".join(traceback.format_exception(error)) if isinstance(error, BaseException) else None
        self.telemetry.say("router error", error=context.get("message"), trace=trace)

    def _score_failed(self, role: str, error: Exception) -> None:
        """A mistake in an artifact's numbers, or of our own, cost a request its score, and nothing else."""
        context = {"message": f"the {role}'s artifact could not score a prompt", "exception": error}
        asyncio.get_running_loop().call_exception_handler(context)

    async def drain(self) -> None:
        """Not ready, settle, accept no more, finish what is under way up to the grace, end the rest with an error."""
        self.router.draining = True
        self.telemetry.say("draining", requests=len(self.dispatcher.under_way))
        await asyncio.sleep(self._settings.settle_seconds)
        self._data.stop_accepting()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._settings.drain_seconds):
                while self.dispatcher.under_way or self._data.busy:  # noqa: ASYNC110 - many small things end
                    await asyncio.sleep(DRAIN_CHECK_SECONDS)
        for exchange in tuple(self.dispatcher.under_way):
            exchange.stop("the router is shutting down")
        if self._reviews is not None:
            self._reviews.close()

    async def close(self) -> None:
        """Nothing is left open or running."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._wakes.close()
        self._artifacts.close()
        self._vectors.close()
        await self._data.close()
        await self._admin.close()
        self._upstreams.close()
        if self._request_log is not None:
            self._request_log.close(LAST_FLUSH_SECONDS)
        self.telemetry.say("router ended")
        self._log.flush(LAST_FLUSH_SECONDS)

    async def _housekeeping(self) -> None:
        """Everything that is done every now and then; none of it takes long."""
        files_at = expire_at = 0.0
        loop = asyncio.get_running_loop()
        while True:
            now = loop.time()
            if now >= files_at:
                self.look_at_files()
                files_at = now + FILES_SECONDS
            if now >= expire_at:
                self._upstreams.expire(now)
                expire_at = now + EXPIRE_SECONDS
            self._log.flush()
            if self._request_log is not None:
                self._request_log.flush()
            await asyncio.sleep(LOG_FLUSH_SECONDS)

    def look_at_files(self) -> None:
        """Keys, credentials, tokens and certificates are those of the files now."""
        self._keys.refresh()
        self._outside.refresh()
        self.telemetry.note_problems(self.store.problems())
        error = self._certificate.refresh()
        if error is not None:
            self.telemetry.say("certificate refused", error=error)


def _make_reviews(loop: asyncio.AbstractEventLoop, control: ControlClient, settings: RouterSettings) -> Reviews | None:
    if settings.control_url is None:
        return None
    return Reviews(loop, TokenReviewer(control, settings.control_url, settings), namespace=settings.namespace)


def _make_outside(settings: RouterSettings) -> Outside:
    """A sidecar holds no provider's credentials: its gateway does."""
    if settings.role == "Sidecar":
        return Relay(settings.policy, settings.gateway_token_dir, settings.gateway_ca_dir)
    return Providers(UpstreamCredentials(settings.credentials_dir))


async def run(settings: RouterSettings, log: Log) -> None:
    """Run until SIGTERM or SIGINT."""
    ended = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, ended.set)
    process = RouterProcess(settings, log)
    loop.set_exception_handler(process.report)
    try:
        await process.start()
        _settle_memory()
        await ended.wait()
        await process.drain()
    finally:
        await process.close()


def _settle_memory() -> None:
    """What the start left free goes back to the system, and no collection walks over what stays."""
    gc.collect()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # glibc alone has it
    if trim is not None:
        trim(0)
    gc.freeze()


def _allow_files(connections: int) -> None:
    """Let the process open a file for each client and each call, as far as its hard limit goes."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = 2 * connections + _OTHER_FILES
    if soft == resource.RLIM_INFINITY or soft >= wanted:
        return
    allowed = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    resource.setrlimit(resource.RLIMIT_NOFILE, (allowed, hard))


def main() -> None:
    """Entry point of the console script."""
    try:
        settings = RouterSettings.from_environment(os.environ)
    except SettingsError as error:
        sys.stderr.write(f"flotilla-router: {error}\n")
        sys.exit(2)
    _allow_files(settings.max_connections)
    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(run(settings, open_log()))
    except OSError as error:
        sys.stderr.write(f"flotilla-router: cannot start: {error}\n")
        sys.exit(1)


if __name__ == "__main__":
    main()
