"""Metrics and logs of the operator."""

from __future__ import annotations

import contextlib
import json
import logging
import sys
from datetime import UTC, datetime
from typing import Any, TextIO

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, generate_latest

from flotilla_api import metrics as names

from .scaling.report import ScalingReport

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

        self.scaler = ScalerTelemetry(registry)

    def exposition(self) -> bytes:
        """All metrics in Prometheus' text format."""
        return generate_latest(self.registry)


class ScalerTelemetry:
    """The scaler's metrics. Series of an Expert that is scaled no more are removed."""

    def __init__(self, registry: CollectorRegistry) -> None:
        expert = ["namespace", "expert"]
        self._desired = Gauge(names.SCALER_DESIRED, "What the Deployment asks for.", expert, registry=registry)
        self._actual = Gauge(names.SCALER_ACTUAL, "Pods that answer.", expert, registry=registry)
        self._recommended = Gauge(names.SCALER_RECOMMENDED, "What is right.", expert, registry=registry)
        self._rule = Gauge(names.SCALER_BOUND_RULE, "What bound the decision.", [*expert, "rule"], registry=registry)
        self._shadow = Gauge(
            names.SCALER_SHADOW_PRICE, "What one accelerator more would save.", expert, registry=registry
        )
        self._rules: dict[tuple[str, str], str] = {}
        """By Expert: the rule that has a series."""
        self.decisions = Counter(names.SCALER_DECISIONS, "Decisions by rule.", ["rule"], registry=registry)
        self.crashes = Counter(names.SCALER_CRASHES, "Unexpected errors.", registry=registry)
        self.problems = Gauge(names.SCALER_SIGNAL_PROBLEMS, "Problems of the last reading.", registry=registry)
        self.tick_seconds = Histogram(
            names.SCALER_TICK_SECONDS,
            "Duration of a tick.",
            buckets=(0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 15, 30),
            registry=registry,
        )

    def tell(self, namespace: str, expert: str, *, desired: int, actual: int, report: ScalingReport | None) -> None:
        """The series of an Expert are these."""
        self._desired.labels(namespace, expert).set(desired)
        self._actual.labels(namespace, expert).set(actual)
        if report is None:
            return
        self._recommended.labels(namespace, expert).set(report.recommended)
        self._set_rule(namespace, expert, report.rule.value)
        if report.shadow_usd_per_hour is not None:
            self._shadow.labels(namespace, expert).set(report.shadow_usd_per_hour)
        else:
            _remove(self._shadow, namespace, expert)

    def _set_rule(self, namespace: str, expert: str, rule: str) -> None:
        before = self._rules.get((namespace, expert))
        if before == rule:
            return
        if before is not None:
            _remove(self._rule, namespace, expert, before)
        self._rule.labels(namespace, expert, rule).set(1)
        self._rules[namespace, expert] = rule

    def forget(self, namespace: str, expert: str) -> None:
        """The Expert has no series any more."""
        for gauge in (self._desired, self._actual, self._recommended, self._shadow):
            _remove(gauge, namespace, expert)
        rule = self._rules.pop((namespace, expert), None)
        if rule is not None:
            _remove(self._rule, namespace, expert, rule)

    def clear(self) -> None:
        """No Expert has series: another replica decides."""
        for gauge in (self._desired, self._actual, self._recommended, self._shadow, self._rule):
            gauge.clear()
        self._rules.clear()


def _remove(gauge: Gauge, *labels: str) -> None:
    with contextlib.suppress(KeyError):
        gauge.remove(*labels)


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
