"""Answers to every reading -> the signals of every Expert. PURE; the same for Prometheus' answers and our own scrapes.

A row that is not there:

| counted by | who was asked (see `evidence`)           | then it is                                  |
|------------|------------------------------------------|---------------------------------------------|
| routers    | all                                      | a confirmed zero                            |
| engines    | all                                      | unknown: engines count zeroes too           |
| either     | not all                                  | unknown; demand that is there is a part     |
| engines    | there are none                           | a confirmed zero                            |
| routers    | no policy names the Expert               | unknown; arrivals are what engines finish   |
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import TypedDict

from . import readings as r
from .evidence import NOT_READ, Age, Answers, Evidence
from .fleet import (
    ExpertSignals,
    Fleet,
    FleetSignals,
    Latencies,
    Loss,
    Losses,
    MeasuredPod,
    NamespacedName,
    PodSignals,
    ServedExpert,
    SleepState,
)
from .readings import Reading, Rows, Scope
from .signals import Known, Signal, Unknown

_SLEEP_STATES: Mapping[str, SleepState] = {
    "awake": "Awake",
    "weights_offloaded": "WeightsOffloaded",
    "discard_all": "Discarded",
}


def reduce_signals(
    fleet: Fleet, answers: Answers, now: float, scope: Scope, problems: Iterable[str] = ()
) -> FleetSignals:
    """The signals of every Expert of `fleet`; `problems` are those that the source has seen itself."""
    evidence = Evidence(fleet, answers, now, scope)
    routed, engines = _Routed(answers, evidence), _Engines(answers, evidence)
    experts = {key: _expert(key, served, routed, engines) for key, served in fleet.experts.items()}
    return FleetSignals(experts, _request_usd(evidence), (*problems, *evidence.problems()))


def _expert(key: NamespacedName, served: ServedExpert, routed: _Routed, engines: _Engines) -> ExpertSignals:
    signals = engines.measure(key, served)
    signals = replace(signals, **routed.measure(key, served))
    return signals if served.policies else replace(signals, arrivals=signals.finished)


class _Routed:
    """What routers count, by Expert."""

    def __init__(self, answers: Answers, evidence: Evidence) -> None:
        self._answers = answers
        self._evidence = evidence
        self._losses: defaultdict[tuple[str, str], list[Loss]] = defaultdict(list)
        self._ttft: defaultdict[tuple[str, str], list[tuple[float, float]]] = defaultdict(list)
        for (namespace, expert, group, cause), rate in evidence.rows(r.LOSSES).items():
            self._losses[namespace, expert].append(Loss(group, cause, rate))
        for (namespace, model, bound), rate in evidence.rows(r.TTFT).items():
            self._ttft[namespace, model].append((_bound(bound), rate))

    def measure(self, key: NamespacedName, served: ServedExpert) -> _RoutedSignals:
        """Of one Expert."""
        age = self._evidence.of_routers(key, served)
        return {
            "arrivals": self._arrivals(key, age),
            "losses": self._losses_of(key, age),
            "ttft": self._ttft_of(key, age),
            "tpot_p95": _quantile(r.TPOT_P95, _both(self._answers, r.TPOT_P95, age), key),
        }

    def _arrivals(self, key: NamespacedName, age: Age) -> Signal:
        rate = self._evidence.rows(r.DEMAND).get((key.namespace, key.name), 0.0)
        if math.isnan(rate):
            return Unknown("demand is answered as no amount")
        found = _both(self._answers, r.DEMAND, age)
        return Unknown(found.why, at_least=rate) if isinstance(found, Unknown) else Known(rate, found[1])

    def _losses_of(self, key: NamespacedName, age: Age) -> Losses | Unknown:
        found = _both(self._answers, r.LOSSES, age)
        if isinstance(found, Unknown):
            return found
        losses = sorted(self._losses.get((key.namespace, key.name), ()), key=lambda loss: (loss.group, loss.cause))
        if any(math.isnan(loss.per_second) for loss in losses):
            return Unknown("losses are answered as no amount")
        return Losses(tuple(loss for loss in losses if loss.per_second > 0), found[1])

    def _ttft_of(self, key: NamespacedName, age: Age) -> Latencies | Unknown:
        found = _both(self._answers, r.TTFT, age)
        if isinstance(found, Unknown):
            return found
        buckets = sorted(self._ttft.get((key.namespace, key.name), [(math.inf, 0.0)]))
        if any(math.isnan(each) for bucket in buckets for each in bucket) or buckets[-1][0] != math.inf:
            return Unknown("the time to first token is answered as no histogram")
        bounds, below = zip(*buckets, strict=True)
        per_second = (max(0.0, rate - before) for rate, before in zip(below, (0.0, *below), strict=False))
        return Latencies(bounds, tuple(per_second), found[1])


class _Engines:
    """What engines count, by Expert."""

    def __init__(self, answers: Answers, evidence: Evidence) -> None:
        self._answers = answers
        self._evidence = evidence
        self._caches: defaultdict[tuple[str, str], float] = defaultdict(float)
        """Tokens by namespace and pod; a pod with several engines has as many caches."""
        for namespace, pod, _, tokens, blocks, block_size in evidence.rows(r.CACHE):
            self._caches[namespace, pod] += _cache_tokens(tokens, blocks, block_size)

    def measure(self, key: NamespacedName, served: ServedExpert) -> ExpertSignals:
        """Of one Expert, without what routers count."""
        age = self._evidence.of_engines(key, served)
        finished = self._sum(r.FINISHED, key, served, age)
        return ExpertSignals(
            queue_p95=_quantile(r.QUEUE_P95, _both(self._answers, r.QUEUE_P95, age), key),
            running=self._sum(r.RUNNING, key, served, age),
            waiting=self._sum(r.WAITING, key, served, age),
            kv_usage=self._most(r.KV_USAGE, key, served, age),
            preemptions=self._sum(r.PREEMPTIONS, key, served, age),
            slot_seconds=self._sum(r.SLOT_SECONDS, key, served, age),
            finished=finished,
            prompt_tokens=_mean(self._sum(r.PROMPT_TOKENS, key, served, age), finished),
            generation_tokens=_mean(self._sum(r.GENERATION_TOKENS, key, served, age), finished),
            kv_tokens=self._kv_tokens(key, served, age),
            pods=tuple(self._pod(key, pod) for pod in served.engines),
        )

    def _sum(self, reading: Reading, key: NamespacedName, served: ServedExpert, age: Age) -> Signal:
        found = self._values(reading, key, served, age)
        return found if isinstance(found, Unknown) else Known(sum(found[0]), found[1])

    def _most(self, reading: Reading, key: NamespacedName, served: ServedExpert, age: Age) -> Signal:
        found = self._values(reading, key, served, age)
        return found if isinstance(found, Unknown) else Known(max(found[0], default=0.0), found[1])

    def _values(
        self, reading: Reading, key: NamespacedName, served: ServedExpert, age: Age
    ) -> tuple[list[float], float] | Unknown:
        """Those of all engines, and their age."""
        if not served.engines:
            return [], 0.0
        found = _both(self._answers, reading, age)
        if isinstance(found, Unknown):
            return found
        values: list[float] = []
        for pod in served.engines:
            value = found[0].get((key.namespace, pod.name))
            if value is None and self._evidence.is_settled(pod):
                return Unknown(f"engine {pod.name} does not count {reading.name}")
            if value is not None and math.isnan(value):
                return Unknown(f"{reading.name} of engine {pod.name} is answered as no amount")
            values += [] if value is None else [value]
        return values, found[1]

    def _kv_tokens(self, key: NamespacedName, served: ServedExpert, age: Age) -> Signal:
        found = _both(self._answers, r.CACHE, age)
        if isinstance(found, Unknown):
            return found
        sizes = [self._caches.get((key.namespace, pod.name), 0.0) for pod in served.engines]
        known = [size for size in sizes if size > 0]
        return Known(min(known), found[1]) if known else Unknown("no engine says how large its KV cache is")

    def _pod(self, key: NamespacedName, pod: MeasuredPod) -> PodSignals:
        alone = ServedExpert((pod,))
        age = self._evidence.of_engines(key, alone)
        return PodSignals(
            name=pod.name,
            running=self._sum(r.RUNNING, key, alone, age),
            waiting=self._sum(r.WAITING, key, alone, age),
            kv_usage=self._sum(r.KV_USAGE, key, alone, age),
            sleep=None if isinstance(age, Unknown) else self._sleep(key, pod),
        )

    def _sleep(self, key: NamespacedName, pod: MeasuredPod) -> SleepState | None:
        """The deepest that one of its engines is in."""
        rows = self._evidence.rows(r.SLEEP)
        states: list[SleepState] = [
            state for said, state in _SLEEP_STATES.items() if rows.get((key.namespace, pod.name, said), 0.0) > 0
        ]
        return states[-1] if states else None


class _RoutedSignals(TypedDict):
    """Fields of `ExpertSignals`."""

    arrivals: Signal
    losses: Losses | Unknown
    ttft: Latencies | Unknown
    tpot_p95: Signal


def _request_usd(evidence: Evidence) -> dict[NamespacedName, Signal]:
    """Dollars of an answered attempt whose price is known, by target."""
    spent, unpriced = evidence.rows(r.USD), evidence.rows(r.UNPRICED)
    targets: dict[NamespacedName, Signal] = {}
    for labels, answered in evidence.rows(r.ANSWERED).items():
        priced = answered - unpriced.get(labels, 0.0)
        usd = spent.get(labels, 0.0)
        if priced > 0 and usd > 0:
            targets[NamespacedName(*labels)] = Known(usd / priced)
    return targets


def _both(answers: Answers, reading: Reading, age: Age) -> tuple[Rows, float] | Unknown:
    """What a reading found and how old it is, or the first reason why that is unknown."""
    answer = answers.get(reading, NOT_READ)
    if isinstance(answer, Unknown):
        return answer
    return age if isinstance(age, Unknown) else (answer, age)


def _quantile(reading: Reading, found: tuple[Rows, float] | Unknown, key: NamespacedName) -> Signal:
    """That of no request is unknown: nothing was fast, and nothing slow."""
    if isinstance(found, Unknown):
        return found
    value = found[0].get((key.namespace, key.name), math.nan)
    return Known(value, found[1]) if math.isfinite(value) else Unknown(f"no request says anything of {reading.name}")


def _mean(total: Signal, count: Signal) -> Signal:
    if isinstance(total, Unknown) or isinstance(count, Unknown):
        return total if isinstance(total, Unknown) else count
    return Known(total.value / count.value, count.age_seconds) if count.value > 0 else Unknown("no request finished")


def _bound(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return math.nan


def _cache_tokens(tokens: str, blocks: str, block_size: str) -> float:
    """0: it does not say. A model with several kinds of attention has more blocks than its tokens need."""
    if tokens.isdecimal():
        return float(tokens)
    return float(blocks) * float(block_size) if blocks.isdecimal() and block_size.isdecimal() else 0.0
