"""What is no ratio over the report set: a step in quality, and the CPU of a tick."""

from __future__ import annotations

import time
from dataclasses import replace

from flotilla_operator.scaling.allocate import allocate
from flotilla_operator.scaling.claims import Claim, Pool
from flotilla_operator.scaling.decide import decide
from flotilla_operator.scaling.fleet import NamespacedName
from flotilla_operator.scaling.observe import observe
from flotilla_operator.scaling.signals import Known, value_of
from flotilla_operator.scaling.types import Batching, Decision, Objectives, Observation, Replicas, State, Target
from flotilla_simulation.flotilla_policy import Flotilla
from flotilla_simulation.replay import replay
from flotilla_simulation.replicas import Sample
from scaling_bench.contenders import Ours
from scaling_bench.measure import load
from scaling_bench.reading import NOW, a_fleet, answers_about, signals_from
from scaling_bench.scenarios import DAY, Trace

ESCALATED_SHARE = 0.5
_ROUNDS = 3


class _QualityStep(Flotilla):
    """From the middle of the day on half of the answers are escalated, after they took their slots."""

    def observe(self, sample: Sample) -> Observation:
        seen = Flotilla.observe(self, sample)
        share = ESCALATED_SHARE if sample.at > DAY / 2 else 0.0
        return replace(seen, quality_losses=Known(share * value_of(seen.arrivals), self.lag_seconds))


def quality_step_ratio(trace: Trace, price: float) -> float:
    """GPU-hours with the step over those without."""
    case = load(trace)
    plain = Ours(price).make(case)
    assert isinstance(plain, Flotilla)
    stepped = _QualityStep(plain.target, plain.tuning, plain.window_seconds)
    return replay(case, stepped).gpu_hours / replay(case, plain).gpu_hours


def tick_cpu_seconds(experts: int) -> float:
    """One tick of so many Experts: Prometheus' answers parsed and reduced, observed, decided, and shared out.

    Every Expert knows an hour of demand; four fifths of what they want is there. The best of three, because other work
    on the machine only ever adds.
    """
    fleet = a_fleet(experts)
    bodies = answers_about(fleet)
    target = Target(0, 16, 32, replica_usd_per_hour=0.8, loss_usd=0.0045, objectives=Objectives(ttft_p95=0.5))
    hour = tuple((NOW - 15.0 * age, 2.0 + (age * 7919 % 101) / 25.0) for age in range(239, 0, -1))
    before = State(batching=Batching(4.0), demand=hour, learned_at=NOW - 15.0)
    pool = Pool("l4", "nvidia.com/gpu", accelerators=experts * 2)
    best = float("inf")
    for _ in range(_ROUNDS):
        began = time.process_time()
        signals = signals_from(fleet, bodies)
        claims = [
            _claim(key, decide(observe(each, Replicas(2, 2), target.objectives), target, before, NOW))
            for key, each in signals.experts.items()
        ]
        allocate(claims, [pool])
        best = min(best, time.process_time() - began)
    return best


def _claim(key: NamespacedName, decision: Decision) -> Claim:
    return Claim.of(decision, Claim(key, "l4", 1, 0, 0, current=2, placed=(("any", 2),), replica_usd_per_hour=0.8))
