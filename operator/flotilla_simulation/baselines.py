"""Who is compared with `decide()` on a user's fleet, and the grid on which each is tuned.

Thresholds follow from what one replica can do, so that one grid serves every engine: a share of its slots, or of the
requests a second that keep a full batch busy.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from .policies import HpaPods, Keda, Knative, Policy, Static
from .replay import Scenario, replay

KINDS = ("hpa-waiting", "hpa-concurrency", "keda", "knative", "static")
_WAITING = (0.5, 1.0, 2.0, 4.0, 8.0)
_SHARES = (0.3, 0.4, 0.5, 0.6, 0.7, 0.85, 1.0, 1.25)
_STATIC_STEPS = 12
"""Numbers of replicas that are tried for a static fleet, at most."""
KNATIVE_DELAYS = (0.0, 300.0)
"""scale-down-delay in seconds."""


@dataclass(frozen=True, slots=True)
class Baseline:
    """A kind of scaler with its number."""

    kind: str
    threshold: float
    """Per replica: waiting requests, requests in flight, or requests a second; of a static fleet its replicas."""
    delay_seconds: float = 0.0
    """Knative's scale-down-delay."""

    def make(self, scenario: Scenario) -> Policy:
        """For one replay. A HorizontalPodAutoscaler keeps one replica at least."""
        bounds = scenario.bounds
        awake = replace(bounds, minimum=max(1, bounds.minimum))
        match self.kind:
            case "hpa-waiting":
                return HpaPods(self.threshold, awake)
            case "hpa-concurrency":
                return HpaPods(self.threshold, awake, concurrency=True)
            case "keda":
                return Keda(self.threshold, bounds)
            case "knative":
                return Knative(self.threshold, bounds, scale_down_delay_seconds=self.delay_seconds)
            case _:
                return Static(int(self.threshold), bounds)

    @property
    def label(self) -> str:
        """Its number, as tables show it."""
        return f"{self.threshold:.3g}" + (f", delay {self.delay_seconds:g} s" if self.delay_seconds else "")


def grid(kind: str, scenario: Scenario) -> list[Baseline]:
    """What `kind` may be tuned to there."""
    slots, most = scenario.engine.slots, scenario.bounds.maximum
    match kind:
        case "hpa-waiting":
            return [Baseline(kind, each) for each in _WAITING]
        case "hpa-concurrency":
            return [Baseline(kind, share * slots) for share in _SHARES]
        case "keda":
            return [Baseline(kind, share / scenario.work_seconds) for share in _SHARES]
        case "knative":
            return [Baseline(kind, share * slots, delay) for share in _SHARES[::2] for delay in KNATIVE_DELAYS]
        case _:
            least, step = scenario.bounds.minimum, max(1, -(-most // _STATIC_STEPS))
            return [Baseline(kind, float(number)) for number in sorted({*range(max(1, least), most + 1, step), most})]


def tune(kind: str, scenario: Scenario, loss_usd: float, each_done: Callable[[], None]) -> Baseline:
    """The baseline of its grid that pays least there."""

    def pays(baseline: Baseline) -> float:
        outcome = replay(scenario, baseline.make(scenario))
        each_done()
        return outcome.dollars(scenario.hourly_usd, loss_usd)

    return min(grid(kind, scenario), key=pays)
