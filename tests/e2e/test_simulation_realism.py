"""The simulator's predictions against a run on the cluster, whose log is replayed on the engine's speeds."""

from __future__ import annotations

import json
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from e2e.gateway import Gateway
from e2e.objects import a_policy, an_expert
from e2e.steps import Space
from flotilla_simulation.kernel import FINISHED, IN_FLIGHT_SECONDS
from flotilla_simulation.replicas import Cluster, ttft_quantile
from flotilla_simulation.speeds import measure_speeds
from flotilla_simulation.traces import read_request_log
from flotilla_simulation.workload import Engine, Rules, Workload

REPLICAS = 2
REQUESTS = 120
RATE = 3.0
"""Requests a second; the batches of both replicas are about half full."""
ENGINE = Engine(slots=8, prefill_rate=2000.0, decode_rate=160.0, sequence_rate=40.0)
RATES = {
    "SIM_PREFILL_TOKENS_PER_SECOND": "2000",
    "SIM_DECODE_TOKENS_PER_SECOND": "160",
    "SIM_SEQUENCE_TOKENS_PER_SECOND": "40",
    "SIM_OUTPUT_TOKENS": "60",
}


def test_a_run_of_the_engine_goes_as_predicted(space: Space, tmp_path: Path) -> None:
    """Times, slots and throughput of Poisson load on two replicas; and the log shows how fast the engine is."""
    space.apply(
        an_expert("small", env=RATES, replicas=REPLICAS, engine={"maxNumSeqs": ENGINE.slots}),
        a_policy("assist", experts=["small"], escalation={"on": []}),
    )
    space.wait_for(lambda: len(space.engines("small")) == REPLICAS, "two engines")
    space.wait_ready("Expert", "small")
    space.wait_condition("RoutingPolicy", "assist", "ConfigPropagated", "True")
    gateway = space.gateway("assist")

    _load(gateway)
    space.wait_for(lambda: len(_answered(gateway)) == REQUESTS, "a log line for each request")
    lines = _answered(gateway)
    log = tmp_path / "requests.log"
    log.write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    seen, predicted = _seen(lines), _predicted(read_request_log(log))
    speeds = measure_speeds(log, "small", slots=ENGINE.slots)

    assert predicted == {
        "seconds": pytest.approx(seen["seconds"], rel=0.15),
        "ttft_median": pytest.approx(seen["ttft_median"], rel=0.3, abs=0.05),
        "ttft_p95": pytest.approx(seen["ttft_p95"], rel=0.3, abs=0.1),
    }
    assert speeds.sequence_rate == pytest.approx(ENGINE.sequence_rate, rel=0.15)


def _answered(gateway: Gateway) -> list[dict[str, Any]]:
    return [line for line in gateway.log_lines() if line.get("event") == "request" and line["status"] == 200]


def _load(gateway: Gateway) -> None:
    """Poisson load of streams; each client begins at its time, and all are over."""
    random = np.random.default_rng(5)
    arrivals = np.cumsum(random.exponential(1 / RATE, REQUESTS))
    prompts = [f"{number} {'word ' * int(random.integers(20, 400))}" for number in range(REQUESTS)]
    clients = [
        threading.Timer(float(at), gateway.stream, [prompt], {"max_tokens": 120})
        for at, prompt in zip(arrivals, prompts, strict=True)
    ]
    for client in clients:
        client.start()
    for client in clients:
        client.join(float(arrivals[-1]) + 60)


def _seen(lines: list[dict[str, Any]]) -> dict[str, float]:
    firsts = [line["ttft_ms"] / 1000 for line in lines]
    return {
        "seconds": float(np.mean([line["duration_ms"] / 1000 for line in lines])),
        "ttft_median": float(np.median(firsts)),
        "ttft_p95": float(np.quantile(firsts, 0.95)),
    }


def _predicted(load: Workload) -> dict[str, float]:
    """Of the same requests; nobody is lost or late."""
    patient = Rules(ttft_objective_seconds=1e9, max_wait_seconds=1e9, max_depth=REQUESTS)
    cluster = Cluster(load, ENGINE, patient, replicas=REPLICAS, maximum=REPLICAS)
    cluster.advance(load.seconds + 600)
    return {
        "seconds": float(cluster.counters[IN_FLIGHT_SECONDS] / cluster.counters[FINISHED]),
        "ttft_median": ttft_quantile(cluster.ttft, 0.5),
        "ttft_p95": ttft_quantile(cluster.ttft, 0.95),
    }
