"""Small workloads for the simulator's tests."""

from __future__ import annotations

import numpy as np

from flotilla_simulation.policies import Bounds
from flotilla_simulation.replay import Scenario
from flotilla_simulation.traces import CONVERSATION, Lengths
from flotilla_simulation.workload import Engine, Rules, Workload


def poisson(rate: float, seconds: float, *, seed: int = 1, lengths: Lengths = CONVERSATION) -> Workload:
    """`rate` requests a second, of the conversation trace's lengths."""
    random = np.random.default_rng(seed)
    arrivals = np.cumsum(random.exponential(1 / rate, int(rate * seconds * 1.5) + 20))
    arrivals = arrivals[arrivals < seconds]
    prompts, outputs = lengths.sample(len(arrivals), random)
    return Workload(arrivals, prompts.astype(np.int64), outputs.astype(np.int64), seconds)


def regular(*arrivals: float, prompt: int = 800, output: int = 80, seconds: float = 600.0) -> Workload:
    """Requests of one size at these times."""
    count = len(arrivals)
    return Workload(
        np.array(arrivals, np.float64), np.full(count, prompt, np.int64), np.full(count, output, np.int64), seconds
    )


def a_scenario(load: Workload, *, least: int = 1, most: int = 12, warm_up: float = 0.0) -> Scenario:
    """The workload on the default engine."""
    return Scenario(load, Engine(), Rules(), Bounds(least, most), warm_up)
