"""The operator's process: composes its parts, runs them until SIGTERM, and leaves in order."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import random
import signal
import sys
from collections.abc import AsyncGenerator, Callable, Coroutine, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace

import uvloop
from kubernetes.config import ConfigException

from .adapters.accelerators import Accelerators
from .adapters.access import Access
from .adapters.admin import Admin
from .adapters.agents import Agents, Outside
from .adapters.artifacts import Artifacts
from .adapters.certificates import Certificates
from .adapters.client import Client, Connection, load_connection
from .adapters.clock import SystemClock
from .adapters.control_api import ControlApi, Leadership, Wakening
from .adapters.engines import VllmEngines
from .adapters.feed import Feed
from .adapters.fleet import FleetView
from .adapters.kinds import Kind, ref_of
from .adapters.kubernetes_cluster import KubernetesCluster, Surroundings
from .adapters.lease import Elector, address_of, make_identity
from .adapters.measuring import open_metrics
from .adapters.routers import RouterRegistry
from .adapters.scale import KubernetesScales, Reach
from .adapters.store import Store
from .adapters.watching import WatchThread
from .adapters.webhook import Webhook
from .adapters.webhook_trust import WebhookTrust
from .describing import Describer
from .handlers import make_registry
from .ports import Engines, MetricsSource
from .reconcile.dispatch import references
from .reconcile.types import Key, Manifest
from .resources.sidecar import allows_sidecars
from .resources.specs import InvalidSpecError, parse_policy, policy_experts
from .runtime import Runtime
from .scaler import Scaler
from .scaling.report import Recommendation, ScalingReport
from .scaling.types import TUNING
from .settings import Settings, SettingsError, load_settings
from .sharing import Sharing
from .telemetry import LOGGER, Telemetry, configure_logging, fields

FEED_SILENT_MAX_SECONDS = 600.0
"""A feed that did nothing for this long hangs: its longest step is a sweep, of lists that each time out after 30 s."""
DRAIN_SECONDS = 5.0
"""How long writes that were begun may take to end when the process does."""
LEASE_CONNECTIONS = 2

logger = logging.getLogger(LOGGER)


@dataclass(frozen=True, slots=True)
class Clients:
    """Of the Kubernetes API."""

    main: Client
    lease: Client
    """Has connections of its own: a renewal never waits behind other requests."""


@asynccontextmanager
async def make_clients(connection: Connection, telemetry: Telemetry) -> AsyncGenerator[Clients]:
    """Clients that tell of the same outages, until the block ends."""
    async with (
        Client(connection, telemetry) as main,
        Client(connection, telemetry, connections=LEASE_CONNECTIONS, reachability=main.reachability) as lease,
    ):
        yield Clients(main, lease)


class Operator:
    """The parts of one replica, wired; nothing runs before `run`."""

    def __init__(self, settings: Settings, connection: Connection, clients: Clients, telemetry: Telemetry) -> None:
        self._settings = settings
        self._telemetry = telemetry
        self._client = clients.main
        self._clock = SystemClock()
        self._store = Store(references)
        self._registry = RouterRegistry(self._clock, telemetry, wake=self._wake, leading=lambda: self._elector.leading)
        self._feed = self._make_feed()
        self._watches = WatchThread(
            make_registry(connection, _receive_in(asyncio.get_running_loop(), self._feed)),
            namespaces=lambda: self._feed.namespaces,
        )
        self._certificates = self._make_certificates()
        self._elector = self._make_elector(clients.lease)
        self._agents = self._make_agents()
        self._artifacts = Artifacts(
            self._client, self._store, self._clock, leading=lambda: self._elector.leading, wake=self._wake
        )
        self._runtime = self._make_runtime()
        self._control = self._make_control()
        self._webhook, self._webhook_trust = self._make_webhook(), self._make_webhook_trust()
        self._scaler: Scaler | None = None
        """There is one while `run` does."""
        self.admin = self._make_admin()
        telemetry.namespaces_unreadable.set_function(lambda: float(len(self._feed.unreadable)))

    async def run(self, stopping: asyncio.Event) -> None:
        """Serves until `stopping` is set; then leaves in order: nothing is cut, and a standby takes over at once."""
        view = FleetView(self._store, self._clock, agents=self._agents.of, connected=self._registry.connected)
        callers = VllmEngines(lambda: self._elector.leading)
        async with open_metrics(self._settings, self._client, view) as source, callers as engines:
            self._scaler = self._make_scaler(source, engines)
            await self._run(stopping, self._scaler)

    async def _run(self, stopping: asyncio.Event, scaler: Scaler) -> None:
        try:
            await _until(stopping, self._start())
            await self._serve(stopping, scaler)
        finally:
            await self._elector.release()
            await self._webhook.stop()
            await self._control.stop()
            await self._watches.stop()
            await self.admin.stop()

    async def _start(self) -> None:
        host = self._settings.pod_ip
        await self.admin.start(host, self._settings.admin_port)
        await self._feed.fill()
        await self._certificates.load()
        await self._control.start(host, self._settings.control_port)
        if self._settings.webhook_configuration:
            await self._webhook.start(host, self._settings.webhook_port)
        self._watches.start()

    async def _serve(self, stopping: asyncio.Event, scaler: Scaler) -> None:
        """What was begun ends before the Lease is given up, and the parts end only then."""
        async with asyncio.TaskGroup() as group:
            parts = (
                self._feed,
                self._certificates,
                self._elector,
                self._runtime,
                scaler,
                self._agents,
                self._artifacts,
                self._webhook_trust,
            )
            tasks = [group.create_task(part.run(), name=type(part).__name__) for part in parts]
            await stopping.wait()
            await asyncio.gather(self._runtime.drain(DRAIN_SECONDS), scaler.drain(DRAIN_SECONDS))
            await self._elector.release()
            await self._webhook.settle()
            for task in tasks:
                task.cancel()

    def _make_feed(self) -> Feed:
        return Feed(
            self._client,
            self._store,
            self._clock,
            namespaces=self._settings.watch_namespaces,
            wake=self._wake,
            watches_outdated=self._restart_watches,
        )

    def _make_certificates(self) -> Certificates:
        return Certificates(
            self._client,
            self._clock,
            namespace=self._settings.namespace,
            names=self._settings.control_names,
            address=self._settings.pod_ip,
            changed=self._spread_authority,
        )

    def _make_elector(self, client: Client) -> Elector:
        return Elector(
            client,
            self._clock,
            namespace=self._settings.namespace,
            name=self._settings.lease_name,
            identity=make_identity(self._settings.pod_name, self._settings.control_address),
            changed=self._lead,
        )

    def _make_agents(self) -> Agents:
        outside = Outside(
            settings=self._settings.for_children(),
            namespaces=lambda: self._feed.namespaces,
            leading=lambda: self._elector.leading,
            wake=self._wake,
            connected=self._registry.connected,
            instance=self._settings.pod_name,
        )
        return Agents(self._client, self._store, self._clock, outside)

    def _make_runtime(self) -> Runtime:
        surroundings = Surroundings(
            settings=self._settings.for_children(),
            acknowledgements=self._registry.acknowledgements,
            agents=self._agents.of,
            artifact_maps=self._artifacts.of,
            control_ca=lambda: self._certificates.bundle,
            leading=lambda: self._elector.leading,
            leading_seconds=lambda: self._elector.leading_seconds,
            wake=self._wake,
            instance=self._settings.pod_name,
            scaling=self._scaling_of,
        )
        return Runtime(
            KubernetesCluster(self._client, self._store, self._feed, self._clock, surroundings),
            self._registry,
            self._clock,
            self._telemetry,
            jitter=random.random,
            workers=self._settings.workers,
        )

    def _make_scaler(self, source: MetricsSource, engines: Engines) -> Scaler:
        reach = Reach(
            leading=lambda: self._elector.leading,
            namespaces=lambda: self._feed.namespaces,
            unreadable=lambda: self._feed.unreadable,
        )
        describer = Describer()
        accelerators = Accelerators(self._client, self._store, self._clock, reach)
        return Scaler(
            KubernetesScales(self._client, self._store, reach),
            engines,
            source,
            self._clock,
            self._telemetry,
            describe=describer.describe,
            shares=Sharing(describer, accelerators),
            wake=self._wake,
            tuning=replace(TUNING, tick_seconds=self._settings.scaling_interval_seconds),
        )

    def _scaling_of(self, key: Key) -> ScalingReport | None:
        return self._scaler.report(key) if self._scaler else None

    def _recommend(self, key: Key) -> Recommendation | None:
        return self._scaler.recommend(key) if self._scaler else None

    def _wake_replica(self, key: Key, waits: bool) -> None:
        """A request found no replica of the Expert, and waits for one or not."""
        if self._scaler:
            self._scaler.woken(key, waits=waits)

    def _make_control(self) -> ControlApi:
        return ControlApi(
            Access(self._client, self._clock, allows_sidecars=self._allows_sidecars),
            self._registry,
            self._certificates,
            Leadership(leading=lambda: self._elector.leading, leader_address=lambda: address_of(self._elector.holder)),
            clock=self._clock,
            exists=lambda key: self._store.get(ref_of(key)) is not None,
            wakening=Wakening(names=self._names, on_wake=self._wake_replica),
            recommend=self._recommend,
            artifacts=self._artifacts.files,
        )

    def _names(self, key: Key, expert: str) -> bool:
        """Whether the stored policy names that Expert."""
        policy = self._store.get(ref_of(key))
        try:
            return policy is not None and expert in policy_experts(parse_policy(policy))
        except InvalidSpecError:
            return False

    def _allows_sidecars(self, key: Key) -> bool:
        """As the stored policy says; one that does not parse, or is not known here yet, forbids nothing."""
        policy = self._store.get(ref_of(key))
        try:
            return policy is None or allows_sidecars(parse_policy(policy))
        except InvalidSpecError:
            return True

    def _make_webhook(self) -> Webhook:
        return Webhook(
            self._store,
            self._client,
            certificates=self._certificates,
            settings=self._settings.for_children(),
            telemetry=self._telemetry,
        )

    def _make_webhook_trust(self) -> WebhookTrust:
        return WebhookTrust(
            self._client,
            self._clock,
            name=self._settings.webhook_configuration,
            bundle=lambda: self._certificates.bundle,
            leading=lambda: self._elector.leading,
        )

    def _make_admin(self) -> Admin:
        feed, control, certificates, watches = self._feed, self._control, self._certificates, self._watches
        webhook, webhook_wanted = self._webhook, bool(self._settings.webhook_configuration)
        return Admin(
            self._telemetry,
            health={
                "feed": lambda: "hangs" if feed.silent_seconds > FEED_SILENT_MAX_SECONDS else "",
                "watches": lambda: "ended" if control.listening and not watches.alive else "",
            },
            readiness={
                "store": lambda: "" if feed.filled else "not filled yet",
                "certificates": lambda: "" if certificates.loaded else "not loaded yet",
                "control API": lambda: "" if control.listening else "not listening yet",
                "webhook": lambda: "" if webhook.listening or not webhook_wanted else "not listening yet",
            },
        )

    def _restart_watches(self) -> None:
        self._watches.restart()

    def _wake(self, key: Key) -> None:
        self._runtime.wake(key)

    def _spread_authority(self) -> None:
        """Routers hear of the authorities by their ConfigMap, the API server by the webhook's configuration."""
        self._webhook_trust.wake()
        for key in self._store.owners():
            if key.kind == "RoutingPolicy":
                self._runtime.wake(key)

    def _lead(self, leading: bool) -> None:
        """What was published under an earlier Lease is never served under this one."""
        self._telemetry.leader.set(leading)
        self._registry.release_all()
        self._webhook_trust.wake()
        if leading:
            self._runtime.open(self._store.owners())
        else:
            self._runtime.close()
        if self._scaler:
            self._scaler.lead(leading)


async def _until(stopping: asyncio.Event, work: Coroutine[None, None, None]) -> None:
    """`work` is done, or cut because `stopping` is set."""
    working, waiting = asyncio.ensure_future(work), asyncio.ensure_future(stopping.wait())
    try:
        await asyncio.wait((working, waiting), return_when=asyncio.FIRST_COMPLETED)
        if working.done():
            working.result()
    finally:
        waiting.cancel()
        working.cancel()


def _receive_in(loop: asyncio.AbstractEventLoop, feed: Feed) -> Callable[[Kind, str | None, Manifest], None]:
    """Hands events over from the watches' thread to the feed in `loop`; those that come after its end are dropped."""

    def receive(kind: Kind, event_type: str | None, manifest: Manifest) -> None:
        with contextlib.suppress(RuntimeError):
            loop.call_soon_threadsafe(feed.receive, kind, event_type, manifest)

    return receive


async def serve(settings: Settings, connection: Connection) -> None:
    """The operator runs until SIGTERM or SIGINT."""
    loop, stopping = asyncio.get_running_loop(), asyncio.Event()
    telemetry = Telemetry()
    async with make_clients(connection, telemetry) as clients:
        operator = Operator(settings, connection, clients, telemetry)
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, stopping.set)
        logger.info("operator started", extra=fields(namespace=settings.namespace, pod=settings.pod_name))
        await operator.run(stopping)
        logger.info("operator ended")


def run(environment: Mapping[str, str]) -> int:
    """Exit code: 0 after a signal, 2 when the environment is wrong."""
    try:
        settings = load_settings(environment)
    except SettingsError as error:
        sys.stderr.write(f"flotilla-operator: {error}\n")
        return 2
    configure_logging(settings.log_level)
    try:
        connection = load_connection()
    except ConfigException as error:
        sys.stderr.write(f"flotilla-operator: no Kubernetes API to talk to, set KUBECONFIG: {error}\n")
        return 2
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(serve(settings, connection))
    return 0


def main() -> None:
    """Entry point of `flotilla-operator`."""
    sys.exit(run(os.environ))


if __name__ == "__main__":
    main()
