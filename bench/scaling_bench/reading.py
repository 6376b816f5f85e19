"""What one tick's reading costs the operator: Prometheus' answers, or pages of its own scraping, made into signals."""

from __future__ import annotations

import json
import random
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import fakes
from flotilla_operator.scaling import readings as r
from flotilla_operator.scaling.answers import Vector, read_vector
from flotilla_operator.scaling.fleet import Fleet, FleetSignals, MeasuredPod, NamespacedName, Routers, ServedExpert
from flotilla_operator.scaling.readings import READINGS, Answer, Reading, Scope
from flotilla_operator.scaling.reduce import reduce_signals
from flotilla_operator.scaling.scrapes import EXPOSITION, PodScrapes, summed_values

NAMESPACE = "agents"
ENGINES_PER_EXPERT = 3
EXPERTS_PER_POLICY = 10
GATEWAYS_PER_POLICY = 2
SCOPE = Scope()
NOW = 1e9
PAGE = Path(fakes.__file__).parent / "recordings" / "vllm-0.32" / "metrics.txt"
BOUNDS = (
    "0.005",
    "0.01",
    "0.025",
    "0.05",
    "0.1",
    "0.25",
    "0.5",
    "1",
    "2.5",
    "5",
    "10",
    "30",
    "60",
    "120",
    "300",
    "+Inf",
)
_CACHE = {"engine": "0", "kv_cache_size_tokens": "40000", "num_gpu_blocks": "2500", "block_size": "16"}

Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class ReadingCost:
    """Of one tick."""

    parse_seconds: float
    reduce_seconds: float
    """CPU."""
    megabytes: float
    """Of all answers."""

    @property
    def seconds(self) -> float:
        """All of the CPU."""
        return self.parse_seconds + self.reduce_seconds


def a_fleet(experts: int) -> Fleet:
    """Every Expert has engines of its own, and shares a policy with nine others."""
    served = {
        NamespacedName(NAMESPACE, f"expert-{number:04d}"): ServedExpert(
            tuple(_pods(f"expert-{number:04d}-expert", ENGINES_PER_EXPERT)),
            frozenset({f"policy-{number // EXPERTS_PER_POLICY:03d}"}),
        )
        for number in range(experts)
    }
    policies = {name for each in served.values() for name in each.policies}
    routers = {
        NamespacedName(NAMESPACE, name): Routers(tuple(_pods(f"{name}-gateway", GATEWAYS_PER_POLICY)))
        for name in policies
    }
    return Fleet(served, routers)


def answers_about(fleet: Fleet, seed: int = 0) -> dict[Reading, bytes]:
    """What a Prometheus would answer to each reading, with random values."""
    chance = random.Random(seed)
    return {reading: _body(reading, _rows(reading, fleet), chance) for reading in READINGS}


def measure_prometheus(experts: int) -> ReadingCost:
    """The best of three, because other work on the machine only ever adds."""
    fleet = a_fleet(experts)
    bodies = answers_about(fleet)
    megabytes = sum(map(len, bodies.values())) / 1e6
    return min((_measure_once(fleet, bodies, megabytes) for _ in range(3)), key=lambda cost: cost.seconds)


def measure_scraping(engines: int) -> float:
    """CPU seconds of one tick that reads vLLM's page of so many engines, without the network."""
    page = PAGE.read_text()
    pods = [PodScrapes(NAMESPACE, pod.name) for pod in _pods("model-expert", engines)]
    best = float("inf")
    for tick in range(4):
        began = time.process_time()
        for pod in pods:
            pod.add(NOW + 15.0 * tick, EXPOSITION.samples(page))
        for reading in READINGS:
            summed_values(reading, pods, NOW + 15.0 * tick + 1, SCOPE)
        best = min(best, time.process_time() - began)
    return best


def signals_from(fleet: Fleet, bodies: Mapping[Reading, bytes]) -> FleetSignals:
    """What follows from the answers."""
    return reduce_signals(fleet, _parsed(bodies), NOW, SCOPE)


def _measure_once(fleet: Fleet, bodies: Mapping[Reading, bytes], megabytes: float) -> ReadingCost:
    began = time.process_time()
    answers = _parsed(bodies)
    parsed = time.process_time()
    reduce_signals(fleet, answers, NOW, SCOPE)
    return ReadingCost(parsed - began, time.process_time() - parsed, megabytes)


def _parsed(bodies: Mapping[Reading, bytes]) -> dict[Reading, Answer]:
    found = {reading: read_vector(reading, body) for reading, body in bodies.items()}
    return {reading: each.rows if isinstance(each, Vector) else each for reading, each in found.items()}


def _pods(prefix: str, count: int) -> Iterator[MeasuredPod]:
    return (MeasuredPod(f"{prefix}-5dd7987bb9-{number:05d}", "10.0.0.1:8000", 0.0) for number in range(count))


def _rows(reading: Reading, fleet: Fleet) -> Iterator[dict[str, str]]:
    """Labels of each row."""
    if "policy" in reading.by:
        for policy, routers in fleet.routers.items():
            yield from ({"policy": policy.name, "pod": pod.name} for pod in routers.gateways)
    elif "pod" in reading.by:
        for expert, served in fleet.experts.items():
            labels = {"model_name": expert.name, "sleep_state": "awake", **_CACHE}
            yield from ({**labels, "pod": pod.name} for pod in served.engines)
    else:
        for expert in fleet.experts:
            names = {"expert": expert.name, "model": expert.name, "target": expert.name}
            for bound in BOUNDS if "le" in reading.by else ("",):
                yield {**names, "le": bound, "group": "capacity", "cause": "Overloaded"}


def _body(reading: Reading, rows: Iterator[dict[str, str]], chance: random.Random) -> bytes:
    result: list[Json] = []
    for labels in rows:
        named = {**labels, "namespace": NAMESPACE}
        value = 3.0 if reading in (r.ROUTERS, r.SCRAPES) else chance.random()
        result.append({"metric": {name: named[name] for name in reading.by}, "value": [NOW, f"{value:.12f}"]})
    return json.dumps({"status": "success", "data": {"resultType": "vector", "result": result}}).encode()
