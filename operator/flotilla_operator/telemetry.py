"""Metrics and logs of the operator."""

from __future__ import annotations

import json
import logging
import sys
from datetime import UTC, datetime
from typing import Any, TextIO

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, generate_latest

from flotilla_api import metrics as names

LOGGER = "flotilla"
_QUIET = ("kopf", "aiohttp", "asyncio", "urllib3", "kubernetes")
_SILENT = ("kopf._cogs.clients", "kopf._core.reactor.running")
"""kopf's retries, one line for each watch that the client's own outage line sums up; and its word about signals."""
_QUOTED = frozenset(' "=\n')


class Telemetry:
    """The operator's metrics, in a registry of its own so that tests and embedders never share them."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        registry = self.registry
        ProcessCollector(registry=registry)
        self.reconciles = Counter(
            names.OPERATOR_RECONCILES, "Reconciliations by result.", ["kind", "result"], registry=registry
        )
        self.reconcile_seconds = Histogram(
            names.OPERATOR_RECONCILE_SECONDS,
            "Duration of a reconciliation.",
            ["kind"],
            buckets=(0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30),
            registry=registry,
        )
        self.writes = Counter(
            names.OPERATOR_API_WRITES, "Writes to the Kubernetes API.", ["resource", "verb"], registry=registry
        )
        self.errors = Counter(
            names.OPERATOR_API_ERRORS, "Failed calls to the Kubernetes API.", ["verb", "code"], registry=registry
        )
        self.queue_depth = Gauge(names.OPERATOR_QUEUE_DEPTH, "Keys that wait for a worker.", registry=registry)
        self.leader = Gauge(names.OPERATOR_LEADER, "1 while this replica holds the Lease.", registry=registry)
        self.namespaces_unreadable = Gauge(
            names.OPERATOR_NAMESPACES_UNREADABLE,
            "Watched namespaces that are left out because something in them may not be read.",
            registry=registry,
        )
        self.acknowledgement_seconds = Histogram(
            names.OPERATOR_ROUTER_ACK_SECONDS,
            "From a new snapshot to each router's acknowledgement.",
            buckets=(0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60),
            registry=registry,
        )
        self.injections = Counter(
            names.OPERATOR_INJECTIONS, "Pods that the admission webhook looked at.", ["result"], registry=registry
        )
        self.routers_lagging = Gauge(
            names.OPERATOR_ROUTERS_LAGGING,
            "Connected routers that do not serve the current snapshot.",
            ["namespace", "policy"],
            registry=registry,
        )

    def exposition(self) -> bytes:
        """All metrics in Prometheus' text format."""
        return generate_latest(self.registry)


def fields(**values: object) -> dict[str, Any]:
    """`extra` for a log call: a constant message, and `values` as key-values."""
    return {"fields": values}


def configure_logging(level: str, stream: TextIO = sys.stderr) -> None:
    """Logs go to `stream`: key=value on a terminal, else one JSON object a line. Libraries speak from WARNING up."""
    handler = logging.StreamHandler(stream)
    handler.setFormatter(KeyValueFormatter() if stream.isatty() else JsonFormatter())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level)
    for library in _QUIET:
        logging.getLogger(library).setLevel(max(logging.WARNING, root.level))
    for repeated in _SILENT:
        logging.getLogger(repeated).setLevel(logging.CRITICAL)


class JsonFormatter(logging.Formatter):
    """One JSON object a line."""

    def format(self, record: logging.LogRecord) -> str:
        """`time`, `level`, `logger`, `message`, the key-values, and `error` with a traceback where there is one."""
        return json.dumps(_content(self, record), default=str)


class KeyValueFormatter(logging.Formatter):
    """For a person at a terminal."""

    def format(self, record: logging.LogRecord) -> str:
        """Time, level, message and the key-values."""
        content = _content(self, record)
        head = f"{content.pop('time')} {content.pop('level'):7} {content.pop('message')}"
        content.pop("logger")
        trace = content.pop("error", "")
        pairs = " ".join(f"{key}={_quote(value)}" for key, value in content.items())
        return "\n".join(part for part in (f"{head} {pairs}".rstrip(), trace) if part)


def _content(formatter: logging.Formatter, record: logging.LogRecord) -> dict[str, Any]:
    content: dict[str, Any] = {
        "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
        "level": record.levelname.lower(),
        "logger": record.name,
        "message": record.getMessage(),
        **getattr(record, "fields", {}),
    }
    if record.exc_info:
        content["error"] = formatter.formatException(record.exc_info)
    return content


def _quote(value: object) -> str:
    text = str(value)
    return json.dumps(text) if not text or _QUOTED & set(text) else text
