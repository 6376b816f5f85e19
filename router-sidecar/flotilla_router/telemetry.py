"""Metrics, and what is logged. Counting is a dictionary update; text is only made when Prometheus asks for it."""

from __future__ import annotations

import time
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence, Sized
from typing import Protocol, TypeVar

from prometheus_client import CollectorRegistry, GCCollector, PlatformCollector, ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.exposition import generate_latest
from prometheus_client.registry import Collector

from flotilla_api import metrics as m
from flotilla_api.causes import CAUSE_GROUPS, Cause
from flotilla_api.control import Problem, ProblemKind

from .learned import ArmFigures
from .logs import AttemptRecord, Log, RequestRecord

DURATION_BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0)
"""Seconds."""
TOKEN_BUCKETS = (0.005, 0.0075, 0.01, 0.015, 0.02, 0.025, 0.03, 0.04, 0.05, 0.075, 0.1, 0.15, 0.25, 0.5, 1.0)
"""Seconds for one token: engines take 5 to 100 ms, and more where they are saturated."""
METRICS_CONTENT_TYPE = b"text/plain; version=0.0.4; charset=utf-8"
NOBODY = "none"
"""The label `model` of a request that no model answered."""

_CODES = {status: str(status) for status in range(1000)}

Labels = tuple[str, ...]
Amount = TypeVar("Amount")


class _Counter:
    """Sums by label values."""

    def __init__(self, name: str, text: str, labels: Labels) -> None:
        self._name = name
        self._text = text
        self._labels = labels
        self.sums: defaultdict[Labels, float] = defaultdict(float)

    def collect(self) -> Metric:
        family = CounterMetricFamily(self._name.removesuffix("_total"), self._text, labels=self._labels)
        for values, amount in self.sums.items():
            family.add_metric(values, amount)
        return family


class _Histogram:
    """Counts by bucket and label values."""

    def __init__(self, name: str, text: str, labels: Labels, buckets: tuple[float, ...] = DURATION_BUCKETS) -> None:
        self._name = name
        self._text = text
        self._labels = labels
        self._bounds = buckets
        self._counts: dict[Labels, list[float]] = {}

    def observe(self, values: Labels, amount: float) -> None:
        """Count `amount`; the last cell holds the sum."""
        counts = self._counts.get(values)
        if counts is None:
            counts = self._counts[values] = [0.0] * (len(self._bounds) + 2)
        counts[bisect_left(self._bounds, amount)] += 1
        counts[-1] += amount

    def collect(self) -> Metric:
        family = HistogramMetricFamily(self._name, self._text, labels=self._labels)
        for values, counts in self._counts.items():
            total = 0.0
            buckets: list[tuple[str, float]] = []
            for bound, count in zip((*map(str, self._bounds), "+Inf"), counts, strict=False):
                total += count
                buckets.append((bound, total))
            family.add_metric(values, buckets, counts[-1])
        return family


def _no_arms() -> Sequence[ArmFigures]:
    return ()


class Kept(Protocol):
    """What is told of a request log."""

    @property
    def written(self) -> int:
        """Rows."""
        ...

    @property
    def bytes(self) -> int:
        """On disk."""
        ...

    def dropped(self) -> Iterable[tuple[str, int]]:
        """Rows that were lost, by why."""
        ...


class Telemetry(Collector):
    """Everything that is counted and logged in one router."""

    def __init__(self, namespace: str, policy: str, log: Log) -> None:
        self.policy = policy
        self.log = log
        self._namespace = namespace
        self.in_flight = 0
        self.control_connected = False
        self.connections: Sized = ()
        """Those of clients that are open."""
        self.held: Sized = ()
        """Requests that wait for a sleeping expert."""
        self.request_log: Kept | None = None
        """None: a sidecar's."""
        self._problems: tuple[str, ...] = ()
        self.snapshot_digest = ""
        self._requests = _Counter(m.ROUTER_REQUESTS, "Finished requests.", ("policy", "api", "model", "code"))
        self._attempts = _Counter(m.ROUTER_ATTEMPTS, "Calls to endpoints.", ("policy", "target", "result"))
        self._escalations = _Counter(
            m.ROUTER_ESCALATIONS, "Requests that left an expert.", ("policy", "expert", "cause", "group")
        )
        self._demand = _Counter(m.ROUTER_DEMAND, "Requests first meant for an expert.", ("policy", "expert"))
        self._wakes = _Counter(m.ROUTER_WAKES, "Wakes of sleeping experts.", ("policy", "expert", "result"))
        self._tokens = _Counter(m.ROUTER_TOKENS, "Tokens of all attempts.", ("policy", "target", "type"))
        self._cost = _Counter(m.ROUTER_COST_USD, "Dollars of all attempts.", ("policy", "target"))
        self._unpriced = _Counter(m.ROUTER_UNPRICED, "Attempts without a known price.", ("policy", "target"))
        self._refused = _Counter(m.ROUTER_REFUSED, "Requests refused before a call.", ("policy", "code"))
        self._rejected = _Counter(m.ROUTER_SNAPSHOT_REJECTED, "Snapshots that did not validate.", ("policy",))
        self._rejected.sums[policy,] = 0
        self.arms: Callable[[], Sequence[ArmFigures]] = _no_arms
        """What is measured of the artifacts in use."""
        self._strategy = _Counter(
            m.ROUTER_STRATEGY_DECISIONS, "Choices of learned strategies.", ("policy", "role", "result", "model")
        )
        self._artifacts_refused = _Counter(
            m.ROUTER_ARTIFACTS_REFUSED, "Artifacts that were not used.", ("policy", "role", "reason")
        )
        self._embeddings = _Counter(m.ROUTER_EMBEDDINGS, "Prompts for embedding Experts.", ("policy", "result"))
        self._shadow = _Counter(m.ROUTER_SHADOW_DECISIONS, "Scores of a shadow.", ("policy", "model", "shadow"))
        self._relayed = _Counter(m.ROUTER_RELAYED, "Sidecars' requests passed on.", ("policy", "model", "code"))
        self._seconds = _Histogram(m.ROUTER_REQUEST_SECONDS, "Arrival to last byte.", ("policy", "model"))
        self._first_byte = _Histogram(m.ROUTER_TTFT_SECONDS, "Arrival to first byte.", ("policy", "model"))
        self._per_token = _Histogram(
            m.ROUTER_TPOT_SECONDS, "Time of each token after the first.", ("policy", "model"), TOKEN_BUCKETS
        )
        self._registry = CollectorRegistry()
        self._registry.register(self)
        ProcessCollector(registry=self._registry)
        PlatformCollector(registry=self._registry)
        GCCollector(registry=self._registry)

    def attempted(self, attempt: AttemptRecord) -> None:
        """Count one attempt where the request is counted."""
        self._attempts.sums[self.policy, attempt.target, attempt.result] += 1

    def charged(self, attempt: AttemptRecord) -> None:
        """Count what an attempt takes and costs, where the model server is called."""
        policy, target, usd = self.policy, attempt.target, attempt.usd
        if attempt.input_tokens is not None:
            self._tokens.sums[policy, target, "input"] += attempt.input_tokens
            self._tokens.sums[policy, target, "output"] += attempt.output_tokens or 0
        if usd is None:
            self._unpriced.sums[policy, target] += 1
        elif usd:
            self._cost.sums[policy, target] += usd

    def expect(self, experts: Iterable[str]) -> None:
        """These may be asked for: one that never was has a demand of 0, which is not the same as an unknown one."""
        for expert in experts:
            self._demand.sums[self.policy, expert] += 0

    def demanded(self, expert: str) -> None:
        """Count a request that was first meant for `expert`, whatever becomes of it."""
        self._demand.sums[self.policy, expert] += 1

    def woke(self, expert: str, result: str) -> None:
        """Count a wake. result: ok or failed."""
        self._wakes.sums[self.policy, expert, result] += 1

    def ranked(self, role: str, result: str, model: str) -> None:
        """Count a request of a policy with a learned strategy. model: chosen first."""
        self._strategy.sums[self.policy, role, result, model] += 1

    def shadowed(self, model: str, preferred: str) -> None:
        """Count what a shadow's artifact would have preferred to `model`."""
        self._shadow.sums[self.policy, model, preferred] += 1

    def embedded(self, result: str) -> None:
        """Count a prompt that an embedding Expert was to make a vector of."""
        self._embeddings.sums[self.policy, result] += 1

    def artifact_refused(self, role: str, reason: str) -> None:
        """Count an artifact that was not used."""
        self._artifacts_refused.sums[self.policy, role, reason] += 1

    def escalated(self, expert: str, cause: Cause) -> None:
        """Count a request that left `expert`."""
        self._escalations.sums[self.policy, expert, cause.value, CAUSE_GROUPS[cause].value] += 1

    def finished(self, record: RequestRecord) -> None:
        """Count and log a request; one that a sidecar sent on is counted there."""
        record.time = round(time.time(), 3)
        if record.relayed:
            self._relayed.sums[self.policy, record.alias, _CODES[record.status]] += 1
        else:
            self._count(record)
        self.log.request(record)

    def _count(self, record: RequestRecord) -> None:
        labels = (self.policy, record.model or NOBODY)
        self._requests.sums[self.policy, record.api, labels[1], _CODES[record.status]] += 1
        self._seconds.observe(labels, record.duration_ms / 1000)
        if record.ttft_ms is not None:
            self._first_byte.observe(labels, record.ttft_ms / 1000)
        if record.tpot_ms is not None:
            self._per_token.observe(labels, record.tpot_ms / 1000)

    def refused(self, code: str, *, status: int, request_id: str, message: str) -> None:
        """Count and log a request that no model was called for."""
        self._refused.sums[self.policy, code] += 1
        fields = {"request_id": request_id, "policy": self.policy, "status": status, "code": code, "error": message}
        self.log.write("refused", fields)

    def snapshot_applied(self, digest: str, generation: int) -> None:
        """Say which snapshot is in use."""
        self.snapshot_digest = digest
        self.say("snapshot applied", digest=digest, generation=generation)

    def snapshot_rejected(self, digest: str, error: str) -> None:
        """Say that a snapshot was refused and the last good one stays."""
        self._rejected.sums[self.policy,] += 1
        self.say("snapshot rejected", digest=digest, error=error, stays=self.snapshot_digest or None)

    def note_problems(self, problems: Sequence[Problem]) -> None:
        """Count what keeps this router from doing its work, unless it is under way; what is new or solved is logged."""
        texts = tuple([each.text for each in problems if each.kind is not ProblemKind.ARTIFACT_LOADING])
        for text in texts:
            if text not in self._problems:
                self.say("problem", problem=text)
        for text in self._problems:
            if text not in texts:
                self.say("problem solved", problem=text)
        self._problems = texts

    def say(self, event: str, **fields: object) -> None:
        """Write one log line."""
        self.log.write(event, {"policy": self.policy, "namespace": self._namespace, **fields})

    def exposition(self) -> bytes:
        """All metrics in Prometheus' text format."""
        return generate_latest(self._registry)

    def collect(self) -> Iterable[Metric]:
        """All of our own metrics."""
        for each in (
            self._requests,
            self._attempts,
            self._escalations,
            self._demand,
            self._wakes,
            self._tokens,
            self._cost,
            self._unpriced,
            self._relayed,
            self._refused,
            self._rejected,
            self._strategy,
            self._artifacts_refused,
            self._shadow,
            self._embeddings,
            self._seconds,
            self._first_byte,
            self._per_token,
        ):
            yield each.collect()
        name = m.ROUTER_LOG_DROPPED.removesuffix("_total")
        dropped = CounterMetricFamily(name, "Log lines that were lost.", labels=("policy",))
        dropped.add_metric((self.policy,), self.log.dropped)
        yield dropped
        yield self._gauge(m.ROUTER_IN_FLIGHT, "Requests under way.", self.in_flight)
        yield self._gauge(m.ROUTER_HELD, "Requests that wait for a sleeping expert.", len(self.held))
        yield self._gauge(m.ROUTER_CONNECTIONS, "Open connections of clients.", len(self.connections))
        yield self._gauge(m.ROUTER_PROBLEMS, "What keeps this router from doing its work.", len(self._problems))
        yield self._gauge(m.ROUTER_CONTROL_CONNECTED, "1 while the control API answers.", int(self.control_connected))
        if self.request_log is not None:
            yield from self._of_request_log(self.request_log)
        yield from self._of_arms(self.arms())
        if self.snapshot_digest:
            info = GaugeMetricFamily(m.ROUTER_SNAPSHOT_INFO, "The snapshot in use.", labels=("policy", "digest"))
            info.add_metric((self.policy, self.snapshot_digest), 1)
            yield info

    def _of_request_log(self, log: Kept) -> Iterable[Metric]:
        name = m.ROUTER_REQUEST_LOG_ROWS.removesuffix("_total")
        rows = CounterMetricFamily(name, "Rows written to the request log.", labels=("policy",))
        rows.add_metric((self.policy,), log.written)
        yield rows
        name = m.ROUTER_REQUEST_LOG_DROPPED.removesuffix("_total")
        dropped = CounterMetricFamily(name, "Rows that the request log lacks.", labels=("policy", "reason"))
        for reason, count in log.dropped():
            dropped.add_metric((self.policy, reason), count)
        yield dropped
        yield self._gauge(m.ROUTER_REQUEST_LOG_BYTES, "The request log on disk.", log.bytes)

    def _of_arms(self, arms: Sequence[ArmFigures]) -> Iterable[Metric]:
        info = GaugeMetricFamily(m.ROUTER_ARTIFACT_INFO, "Artifacts in use.", labels=("policy", "role", "digest"))
        labels = ("policy", "role")
        threshold = GaugeMetricFamily(m.ROUTER_STRATEGY_THRESHOLD, "Where strong begins.", labels=labels)
        drift = GaugeMetricFamily(m.ROUTER_SCORE_DRIFT, "Stability index of live scores.", labels=labels)
        for arm in arms:
            info.add_metric((self.policy, arm.role, arm.artifact), 1)
            if arm.threshold is not None:
                threshold.add_metric((self.policy, arm.role), arm.threshold)
            if arm.drift is not None:
                drift.add_metric((self.policy, arm.role), arm.drift)
        return (info, threshold, drift)

    def _gauge(self, name: str, text: str, value: float) -> GaugeMetricFamily:
        family = GaugeMetricFamily(name, text, labels=("policy",))
        family.add_metric((self.policy,), value)
        return family
