"""The operator's process: composes its parts, runs them until SIGTERM, and leaves in order."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import random
import signal
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import uvloop
from kubernetes.config import ConfigException

from .adapters.access import Access
from .adapters.admin import Admin
from .adapters.certificates import Certificates
from .adapters.client import Client, Connection, load_connection
from .adapters.clock import SystemClock
from .adapters.control_api import ControlApi, Leadership
from .adapters.feed import Feed
from .adapters.kinds import Kind, ref_of
from .adapters.kubernetes_cluster import KubernetesCluster, Surroundings
from .adapters.lease import Elector, address_of, make_identity
from .adapters.routers import RouterRegistry
from .adapters.store import Store
from .adapters.watching import WatchThread
from .handlers import make_registry
from .reconcile.dispatch import references
from .reconcile.types import Key, Manifest
from .runtime import Runtime
from .settings import Settings, SettingsError, load_settings
from .telemetry import LOGGER, Telemetry, configure_logging, fields

FEED_SILENT_MAX_SECONDS = 600.0
"""A feed that did nothing for this long hangs: its longest step is a sweep, of lists that each time out after 30 s."""
DRAIN_SECONDS = 5.0

logger = logging.getLogger(LOGGER)


@dataclass(frozen=True, slots=True)
class Operator:
    """The parts of one replica."""

    settings: Settings
    feed: Feed
    watches: WatchThread
    certificates: Certificates
    elector: Elector
    runtime: Runtime
    control: ControlApi
    admin: Admin

    async def run(self) -> None:
        """Serves until it is cancelled; then leaves in order, so that a standby takes over at once."""
        host = self.settings.pod_ip
        try:
            await self.admin.start(host, self.settings.admin_port)
            await self.feed.fill()
            await self.certificates.load()
            await self.control.start(host, self.settings.control_port)
            self.watches.start()
            async with asyncio.TaskGroup() as group:
                for part in (self.feed, self.certificates, self.elector, self.runtime):
                    group.create_task(part.run(), name=type(part).__name__)
        finally:
            await self._leave()

    async def _leave(self) -> None:
        await self.runtime.drain(DRAIN_SECONDS)
        await self.elector.release()
        await self.control.stop()
        await self.watches.stop()
        await self.admin.stop()


def compose(settings: Settings, connection: Connection, client: Client, telemetry: Telemetry) -> Operator:
    """The parts of one replica, wired; nothing runs yet."""
    clock = SystemClock()
    store = Store(references)

    def wake(key: Key) -> None:
        """All parts wake the runtime, which is made last because it needs them."""
        runtime.wake(key)

    registry = RouterRegistry(clock, telemetry, wake=wake)
    watches = WatchThread(
        make_registry(connection, _receive_in(asyncio.get_running_loop(), lambda: feed)),
        namespaces=settings.watch_namespaces,
    )
    feed = Feed(
        client,
        store,
        clock,
        namespaces=settings.watch_namespaces,
        wake=wake,
        kinds_returned=watches.restart,
    )
    certificates = Certificates(
        client,
        clock,
        namespace=settings.namespace,
        names=settings.control_names,
        address=settings.pod_ip,
        changed=lambda: _wake_policies(runtime, store),
    )
    elector = Elector(
        client,
        clock,
        namespace=settings.namespace,
        name=settings.lease_name,
        identity=make_identity(settings.pod_name, settings.control_address),
        changed=lambda leading: _lead(leading, telemetry, runtime, registry, store),
    )
    surroundings = Surroundings(
        settings=settings.for_children(),
        acknowledgements=registry.acknowledgements,
        control_ca=lambda: certificates.bundle,
        leading=lambda: elector.leading,
        leading_seconds=lambda: elector.leading_seconds,
        wake=wake,
        instance=settings.pod_name,
    )
    runtime = Runtime(
        KubernetesCluster(client, store, feed, clock, surroundings),
        registry,
        clock,
        telemetry,
        jitter=random.random,
        workers=settings.workers,
    )
    control = ControlApi(
        Access(client, clock),
        registry,
        certificates,
        Leadership(leading=lambda: elector.leading, leader_address=lambda: address_of(elector.holder)),
        exists=lambda key: store.get(ref_of(key)) is not None,
    )
    admin = Admin(
        telemetry,
        health={
            "feed": lambda: "hangs" if feed.silent_seconds > FEED_SILENT_MAX_SECONDS else "",
            "watches": lambda: "ended" if control.listening and not watches.alive else "",
        },
        readiness={
            "store": lambda: "" if feed.filled else "not filled yet",
            "certificates": lambda: "" if certificates.loaded else "not loaded yet",
            "control API": lambda: "" if control.listening else "not listening yet",
        },
    )
    return Operator(settings, feed, watches, certificates, elector, runtime, control, admin)


def _lead(leading: bool, telemetry: Telemetry, runtime: Runtime, registry: RouterRegistry, store: Store) -> None:
    telemetry.leader.set(leading)
    if leading:
        runtime.open(store.owners())
    else:
        runtime.close()
        registry.release_all()


def _wake_policies(runtime: Runtime, store: Store) -> None:
    for key in store.owners():
        if key.kind == "RoutingPolicy":
            runtime.wake(key)


def _receive_in(
    loop: asyncio.AbstractEventLoop, feed: Callable[[], Feed]
) -> Callable[[Kind, str | None, Manifest], None]:
    """Hands events over from the watches' thread to the feed in `loop`; those that come after its end are dropped."""

    def receive(kind: Kind, event_type: str | None, manifest: Manifest) -> None:
        with contextlib.suppress(RuntimeError):
            loop.call_soon_threadsafe(feed().receive, kind, event_type, manifest)

    return receive


async def serve(settings: Settings, connection: Connection) -> None:
    """The operator runs until SIGTERM or SIGINT."""
    loop = asyncio.get_running_loop()
    telemetry = Telemetry()
    async with Client(connection, telemetry) as client:
        operator = compose(settings, connection, client, telemetry)
        task = asyncio.create_task(operator.run())
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, task.cancel)
        logger.info("operator started", extra=fields(namespace=settings.namespace, pod=settings.pod_name))
        with contextlib.suppress(asyncio.CancelledError):
            await task
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
