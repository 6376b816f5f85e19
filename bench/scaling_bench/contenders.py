"""Who is compared, and the grid on which each baseline is tuned."""

from __future__ import annotations

from dataclasses import dataclass

from flotilla_operator.scaling.types import TUNING, Objectives, Target, Tuning
from flotilla_simulation.baselines import Baseline
from flotilla_simulation.flotilla_policy import RATE_WINDOW_SECONDS, Flotilla
from flotilla_simulation.policies import Policy
from flotilla_simulation.replay import Scenario


@dataclass(frozen=True, slots=True)
class Ours:
    """`decide()` at a price, in shares of a full GPU."""

    price: float
    tuning: Tuning = TUNING
    objective: bool = False
    """Whether the Expert's spec has `ttftP95`, which also asks for a replica more wherever it is missed."""
    window_seconds: float = RATE_WINDOW_SECONDS

    def make(self, scenario: Scenario) -> Policy:
        """For one replay."""
        objective = scenario.rules.ttft_objective_seconds if self.objective else None
        target = Target(
            minimum=scenario.bounds.minimum,
            maximum=scenario.bounds.maximum,
            slots=scenario.engine.slots,
            replica_usd_per_hour=scenario.hourly_usd,
            loss_usd=self.price * scenario.share_usd,
            objectives=Objectives(ttft_p95=objective),
            prior_cold_start_seconds=scenario.engine.cold_start_seconds,
        )
        return Flotilla(target, self.tuning, self.window_seconds)


Contender = Baseline | Ours

HPA_WAITING = [Baseline("hpa-waiting", each) for each in (0.5, 1, 2, 4, 8)]
HPA_CONCURRENCY = [Baseline("hpa-concurrency", each) for each in (5, 6, 7, 8, 9, 10, 11, 12, 14, 16, 20, 30)]
KEDA = [Baseline("keda", each) for each in (0.5, 0.6, 0.7, 0.8, 0.9, 1.0, 1.1, 1.2, 1.3, 1.4, 1.5, 1.7, 2.0, 2.5)]
KNATIVE = [Baseline("knative", each, delay) for each in (5, 6, 8, 12, 20) for delay in (0.0, 300.0, 900.0)]
STATIC = [Baseline("static", each) for each in (1, 2, 3, 4, 5, 6, 8, 10, 12, 15, 18, 24)]
GRID = [*HPA_WAITING, *HPA_CONCURRENCY, *KEDA, *KNATIVE, *STATIC]
