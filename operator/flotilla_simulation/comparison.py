"""Policies compared on one Expert's requests: tuned on the first part, measured on the rest."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from statistics import fmean

from .baselines import KINDS, Baseline, grid, tune
from .fleet import FleetExpert, Operated
from .oracle import TICK_SECONDS, oracle_dollars
from .policies import Bounds, Policy
from .replay import Outcome, Scenario, Series, replay
from .workload import Engine, Rules, Workload

OURS, ORACLE = "flotilla", "oracle"
POLICIES = (OURS, *KINDS, ORACLE)
WARM_UP_SECONDS = 3600.0
WARM_UP_RATIO = 0.25
"""Of the part before, at most, that is replayed and not counted."""
TUNE_RATIO = 1 / 3
MAX_DEPTH = 1024
"""Requests that wait for one replica; an engine has no bound, and they leave after the longest wait."""

Done = Callable[[], None]


@dataclass(frozen=True, slots=True)
class Choice:
    """A policy, with its number or none: then a baseline is tuned."""

    name: str
    threshold: float | None = None

    @property
    def is_tuned(self) -> bool:
        """Whether its number is chosen on the first part of the trace."""
        return self.name in KINDS and self.threshold is None


@dataclass(frozen=True, slots=True)
class Case:
    """One Expert under load."""

    expert: FleetExpert
    engine: Engine
    loads: tuple[Workload, ...]
    """One for each seed."""
    loss_usd: float
    hourly_usd: float
    """Of one replica."""
    began: datetime
    """The time of the requests' first second."""

    @property
    def hold_seconds(self) -> float:
        """How long a stream is held back to be judged, after its first token."""
        return min(self.expert.hold_seconds, self.expert.hold_tokens / self.engine.sequence_rate)

    def scenario(self, load: Workload, warm_up_seconds: float) -> Scenario:
        """What these requests are replayed against."""
        objective = self.expert.terms.objectives.ttft_p95
        rules = Rules(
            ttft_objective_seconds=float("inf") if objective is None else max(0.0, objective - self.hold_seconds),
            max_wait_seconds=self.expert.first_token_seconds,
            max_depth=MAX_DEPTH,
        )
        bounds = Bounds(min(self.expert.terms.minimum, self.expert.maximum), self.expert.maximum)
        return Scenario(load, self.engine, rules, bounds, warm_up_seconds, self.hourly_usd)


@dataclass(frozen=True, slots=True)
class Row:
    """What one policy came to after the warm-up, the mean over seeds."""

    policy: str
    parameter: str
    usd: float
    usd_by_seed: tuple[float, ...]
    gpu_hours: float | None = None
    """None, as all below: a bound has none."""
    requests: float | None = None
    lost: float | None = None
    late: float | None = None
    attainment: float | None = None
    """Share of the requests that were neither lost nor late."""
    cold_starts: float | None = None
    reversals: float | None = None
    ttft_p95_seconds: float | None = None
    series: Series | None = None
    """Of the first seed."""


@dataclass(frozen=True, slots=True)
class Comparison:
    """All policies on one Expert."""

    case: Case
    tuned_seconds: float
    """Of the trace's beginning; 0: nothing had to be tuned."""
    warm_up_seconds: float
    rows: tuple[Row, ...]

    @property
    def measured_seconds(self) -> float:
        """What the figures are of."""
        return self.case.loads[0].seconds - max(self.tuned_seconds, self.warm_up_seconds)


def replays(case: Case, choices: Sequence[Choice]) -> int:
    """How often `compare` says that something is done."""
    tuned = sum(len(grid(each.name, case.scenario(case.loads[0], 0.0))) for each in choices if each.is_tuned)
    return tuned + len(case.loads) * len(choices)


def compare(case: Case, choices: Sequence[Choice], done: Done, tune_seconds: float | None = None) -> Comparison:
    """Each policy's row, in their order. Baselines are tuned on the first seed's beginning alone.

    The figures leave out `tune_seconds` (a third of the trace) where one is tuned, and a warm-up before them.
    """
    whole = case.loads[0].seconds
    tuned = 0.0
    if any(each.is_tuned for each in choices):
        tuned = TUNE_RATIO * whole if tune_seconds is None else tune_seconds
    warm_up = min(WARM_UP_SECONDS, WARM_UP_RATIO * (tuned or whole))
    baselines = list(_baselines(case, choices, tuned, warm_up, done))
    start = max(0.0, tuned - warm_up)
    scenarios = [case.scenario(load.between(start, load.seconds), warm_up) for load in case.loads]
    rows: list[Row] = []
    for choice, baseline in zip(choices, baselines, strict=True):
        if choice.name == ORACLE:
            rows += _oracle_row(case, scenarios, done)
        else:
            rows.append(_row(case, baseline, scenarios, start, done))
    return Comparison(case, tuned, warm_up, tuple(rows))


def _baselines(
    case: Case, choices: Sequence[Choice], tuned: float, warm_up: float, done: Done
) -> Iterator[Baseline | None]:
    first = case.scenario(case.loads[0].between(0.0, tuned), warm_up) if tuned else None
    for choice in choices:
        if choice.threshold is not None:
            yield Baseline(choice.name, choice.threshold)
        elif choice.is_tuned and first is not None:
            yield tune(choice.name, first, case.loss_usd, done)
        else:
            yield None


def _row(case: Case, baseline: Baseline | None, scenarios: Sequence[Scenario], start: float, done: Done) -> Row:
    outcomes: list[Outcome] = []
    for scenario in scenarios:
        outcomes.append(replay(scenario, _policy(case, baseline, scenario, start)))
        done()
    dollars = tuple(each.dollars(case.hourly_usd, case.loss_usd) for each in outcomes)
    return Row(
        policy=baseline.kind if baseline else OURS,
        parameter=baseline.label if baseline else "",
        usd=fmean(dollars),
        usd_by_seed=dollars,
        gpu_hours=fmean(each.gpu_hours for each in outcomes) * case.expert.terms.gpus,
        requests=fmean(each.requests for each in outcomes),
        lost=fmean(each.lost for each in outcomes),
        late=fmean(each.late for each in outcomes),
        attainment=fmean(each.attainment for each in outcomes),
        cold_starts=fmean(each.cold_starts for each in outcomes),
        reversals=fmean(each.reversals for each in outcomes),
        ttft_p95_seconds=fmean(each.ttft_p95_seconds for each in outcomes) + case.hold_seconds,
        series=outcomes[0].series,
    )


def _policy(case: Case, baseline: Baseline | None, scenario: Scenario, start: float) -> Policy:
    if baseline is not None:
        return baseline.make(scenario)
    began = case.began + timedelta(seconds=start)
    return Operated(case.expert, case.loss_usd, case.engine.cold_start_seconds, began)


def _oracle_row(case: Case, scenarios: Sequence[Scenario], done: Done) -> list[Row]:
    """None where requests may wait longer than the bound's tick, so that it would be no bound."""
    dollars: list[float] = []
    for scenario in scenarios:
        rules = scenario.rules
        patience = min(rules.ttft_objective_seconds, rules.max_wait_seconds)
        if patience <= TICK_SECONDS:
            patient = replace(scenario, rules=replace(rules, ttft_objective_seconds=patience))
            dollars.append(oracle_dollars(patient, case.loss_usd))
        done()
    return [Row(ORACLE, "", fmean(dollars), tuple(dollars))] if dollars else []
