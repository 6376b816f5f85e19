"""Where autoscaling's signals come from, as the settings say."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

from flotilla_operator.ports import MetricsSource
from flotilla_operator.scaling.readings import Scope
from flotilla_operator.settings import Settings

from .client import Client
from .fleet import FleetView, SidecarLocator
from .prometheus import PrometheusMetrics
from .prometheus_server import PrometheusServer, PrometheusSettings
from .scraping import ScrapedMetrics


@asynccontextmanager
async def open_metrics(settings: Settings, client: Client, view: FleetView) -> AsyncGenerator[MetricsSource]:
    """A Prometheus server where one is named, else the operator's own scraping; connections end with the block."""
    seconds, tick = settings.metrics_timeout_seconds, settings.scaling_interval_seconds
    if settings.prometheus_url:
        scope = Scope(
            settings.scrape_interval_seconds,
            settings.prometheus_labels,
            settings.watch_namespaces,
            tick,
        )
        async with PrometheusServer(_server(settings)) as server:
            yield PrometheusMetrics(server, scope, fleet=view.now, timeout_seconds=seconds)
    else:
        locate = SidecarLocator(client).locate
        # Pods are scraped when they are asked about, once a tick, whatever a monitoring would do.
        async with ScrapedMetrics(Scope(tick), fleet=view.now, locate=locate, timeout_seconds=seconds) as scraped:
            yield scraped


def _server(settings: Settings) -> PrometheusSettings:
    return PrometheusSettings(
        url=settings.prometheus_url,
        timeout_seconds=settings.metrics_timeout_seconds,
        token_file=settings.prometheus_token_file,
        username_file=settings.prometheus_username_file,
        password_file=settings.prometheus_password_file,
        ca_file=settings.prometheus_ca_file,
    )
