"""Where signals come from, as the settings say."""

from __future__ import annotations

import itertools
import time

import pytest

from builders import NAMESPACE, an_expert
from fakes.clock import VirtualClock
from fakes.exporter import Router, running_exporter
from fakes.prometheus import running_prometheus_fake
from flotilla_operator.adapters.client import Client, Connection
from flotilla_operator.adapters.fleet import FleetView
from flotilla_operator.adapters.measuring import open_metrics
from flotilla_operator.adapters.store import Store
from flotilla_operator.reconcile.dispatch import references
from flotilla_operator.reconcile.types import Manifest
from flotilla_operator.scaling.fleet import Fleet, MeasuredPod, NamespacedName, Routers, ServedExpert
from flotilla_operator.scaling.readings import READINGS, Scope, promql
from flotilla_operator.scaling.signals import Known
from flotilla_operator.scaling.types import TUNING
from flotilla_operator.settings import Settings, load_settings
from flotilla_operator.telemetry import Telemetry

INVOICE = NamespacedName(NAMESPACE, "invoice")


def settings(**more: str) -> Settings:
    required = {"ENGINE_IMAGE": "e", "ROUTER_IMAGE": "r", "NAMESPACE": "flotilla-system"}
    return load_settings({f"FLOTILLA_{name}": value for name, value in (required | more).items()})


def a_view(*manifests: Manifest) -> FleetView:
    store, versions = Store(references), itertools.count(1)
    for manifest in manifests:
        metadata = {**manifest["metadata"], "resourceVersion": str(next(versions))}
        store.apply({**manifest, "metadata": metadata})
    return FleetView(store, VirtualClock(), agents=lambda _: (), connected=lambda _: frozenset())


def a_client(url: str) -> Client:
    connection = Connection(
        url, None, verify=True, server_name=None, client_certificate=None, authorization=lambda: None
    )
    return Client(connection, Telemetry())


async def test_a_named_prometheus_is_asked_within_the_settings() -> None:
    """Its interval, its labels, and the namespaces that are served."""
    async with running_prometheus_fake() as server, a_client("http://127.0.0.1:9") as client:
        given = settings(
            PROMETHEUS_URL=server.url,
            PROMETHEUS_LABELS="cluster=prod",
            WATCH_NAMESPACES="agents,lab",
            SCRAPE_INTERVAL_SECONDS="30",
            SCALING_INTERVAL_SECONDS="20",
        )
        async with open_metrics(given, client, a_view(an_expert(scaling={"max": 3}))) as source:
            await source.read(time.time())

    scope = Scope(30.0, (("cluster", "prod"),), ("agents", "lab"), 20.0)
    assert sorted(server.queries) == sorted(promql(reading, scope) for reading in READINGS)


async def test_nothing_is_asked_about_a_fleet_that_is_not_scaled() -> None:
    """Whoever sets replicas needs no Prometheus, and has none loaded."""
    async with (
        running_prometheus_fake() as server,
        a_client("http://127.0.0.1:9") as client,
        open_metrics(settings(PROMETHEUS_URL=server.url), client, a_view(an_expert())) as source,
    ):
        found = await source.read(time.time())

    assert (server.queries, found.experts) == ([], {})


class GatewayView(FleetView):
    """One Expert behind one gateway that answers at an address of the test's."""

    address = ""

    def now(self) -> Fleet:
        """As it is."""
        gateway = MeasuredPod("gateway", self.address, 0.0)
        policy = NamespacedName(NAMESPACE, "billing")
        return Fleet({INVOICE: ServedExpert((), frozenset({"billing"}))}, {policy: Routers((gateway,))})


@pytest.mark.parametrize("interval", ["1", "60"])
async def test_without_prometheus_two_ticks_are_a_rate_whatever_the_interval_says(interval: str) -> None:
    """The operator scrapes when it decides: what a monitoring would do is of no concern."""
    view = GatewayView(Store(references), VirtualClock(), agents=lambda _: (), connected=lambda _: frozenset())
    now = time.time()
    with running_exporter() as exporter:
        exporter.pages["/metrics"] = Router("billing", {"invoice": 30})
        view.address = exporter.address
        async with (
            a_client("http://127.0.0.1:9") as client,
            open_metrics(settings(SCRAPE_INTERVAL_SECONDS=interval), client, view) as source,
        ):
            await source.read(now)
            exporter.pages["/metrics"] = Router("billing", {"invoice": 60})
            found = (await source.read(now + TUNING.tick_seconds)).experts[INVOICE]

    assert isinstance(found.arrivals, Known)
    assert found.arrivals.value == pytest.approx(2.0, rel=0.05)
