"""What the scaler remembers of one Expert, and what it says of it. Whoever acts writes down here what became of it."""

from __future__ import annotations

import asyncio
import math
from bisect import bisect
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from .reconcile.pod_states import pod_states
from .reconcile.scaled import ScaledExpert
from .resources.pods import is_asleep, is_live
from .scaling.decide import decide
from .scaling.fleet import ExpertSignals, History
from .scaling.observe import PodState, count_replicas, observe, remember_cold_starts
from .scaling.report import Recommendation, Record, ScalingReport
from .scaling.rivals import Rivalry, notice
from .scaling.signals import Known, Unknown, fresh
from .scaling.types import Batching, Decision, Rule, State, Target, Tuning

RECORDS_MAX = 8
"""As many as a status shows."""
FAILING_TOLD_SECONDS = 30.0
"""For how long the number could not be written when a report says so: a burst of 5xx is over before."""
UNKNOWN_TOLD_SECONDS = 60.0
"""For how long demand has been unknown when a report says so: a new Expert's is known after a few scrapes, and most
answers that a source of metrics owes come with the next ticks."""


@dataclass(frozen=True, slots=True)
class Moment:
    """Now, twice, in seconds since the epoch."""

    wall: float
    """By this machine's clock, which may jump."""
    steady: float
    """The same when the process began; from then on it only grows, second by second."""


@dataclass(frozen=True, slots=True)
class Scaling:
    """What an Expert's spec and its surroundings say of its scaling now."""

    acts: bool
    """Whether the number is written."""
    target: Target | None
    """None: nothing is decided."""
    sleep_after_seconds: float | None = None


NOT_SCALED = Scaling(acts=False, target=None)


@dataclass(frozen=True, slots=True)
class Attempts:
    """Writes in a row that failed."""

    count: int
    since: float
    retry_at: float
    """Both steady."""
    message: str


@dataclass(slots=True)
class Ledger:
    """One Expert's memory; forgotten with the Expert, and when the Lease is lost."""

    expert: ScaledExpert
    state: State = field(default_factory=State)
    target: Target | None = None
    """None: the mode is Off, or its spec cannot be read."""
    decision: Decision | None = None
    wanted: int | None = None
    """What the decision and the allocation came to."""
    limited: str = ""
    """Why the allocation gave less than the decision asks for; ''."""
    shadow_usd_per_hour: float | None = None
    unknown: str = ""
    """Why demand is not known; ''."""
    unknown_since: float | None = None
    """Steady."""
    woken_at: float | None = None
    awaited_at: float | None = None
    """Steady: when a request last asked for a replica, and when one last waited for it."""
    cold_starts: dict[str, float] = field(default_factory=dict[str, float])
    pods: tuple[PodState, ...] = ()
    records: tuple[Record, ...] = ()
    rivalry: Rivalry = field(default_factory=Rivalry)
    failing: Attempts | None = None
    slept: dict[str, float] = field(default_factory=dict[str, float])
    """Steady: when pods were put to sleep, by uid."""
    told: object = None
    """What the reconciler last heard of."""
    advised: int | None = None
    """The number that was last recommended."""
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    """Held while something is written."""
    _born: dict[tuple[str, bool], float] = field(default_factory=dict[tuple[str, bool], float])
    """Steady: since when a pod is as it is, by uid and whether it answers."""
    _looked_at: float = -math.inf
    """Steady."""

    def look(self, expert: ScaledExpert, now: Moment) -> None:
        """The Expert is as it is now."""
        self.expert = expert
        self.pods = self._age(pod_states(expert.pods, now.wall), now.steady)
        self.cold_starts = remember_cold_starts(self.cold_starts, self.pods)
        if expert.other_scaler:
            self.leave()
        elif expert.deployment is not None and not self.lock.locked():  # else whose number it is shows afterwards
            self.rivalry = notice(self.rivalry, expert.replicas, now.steady, wanted=self.wanted)
        live = {pod.uid for pod in self.pods}
        self.slept = {uid: at for uid, at in self.slept.items() if uid in live}

    def leave(self) -> None:
        """The number is known to be others' to set: that they do is no reason to step back afterwards."""
        self.rivalry = Rivalry(self.expert.replicas)

    def _age(self, pods: Sequence[PodState], steady: float) -> tuple[PodState, ...]:
        """Ages that grow with time, not with the clock on the wall: what is new is no older than the look before."""
        begun = {(pod.uid, pod.ready): max(steady - pod.age_seconds, self._looked_at) for pod in pods}
        self._born = born = {key: self._born.get(key, at) for key, at in begun.items()}
        self._looked_at = steady
        return tuple(replace(pod, age_seconds=steady - born[pod.uid, pod.ready]) for pod in pods)

    def decide(self, signals: ExpertSignals, measured_at: float, steady: float, tuning: Tuning) -> Decision | None:
        """What is right by what was measured then; None: nothing is decided about it."""
        if self.target is None or self.expert.deployment is None:
            self.decision = None
            return None
        replicas = count_replicas(self.expert.replicas, self.pods, self.cold_starts)
        observation = observe(
            signals,
            replicas,
            self.target.objectives,
            woken_at=self.woken_at,
            awaited_at=self.awaited_at,
            measured_at=measured_at,
        )
        arrivals = fresh(observation.arrivals)
        self._note_unknown(arrivals.why if isinstance(arrivals, Unknown) else "", steady)
        self.decision = decide(observation, self.target, self.state, steady, tuning)
        self.state = self.decision.state
        self.wanted, self.limited, self.shadow_usd_per_hour = self.decision.replicas, "", None
        return self.decision

    def _note_unknown(self, why: str, steady: float) -> None:
        self.unknown = why
        if not why:
            self.unknown_since = None
        elif self.unknown_since is None:
            self.unknown_since = steady

    def backfill(self, history: History, now: Moment, tuning: Tuning) -> None:
        """What others remember of the last hour stands where nothing was seen here: before it, and in gaps."""
        own, since = self.state.demand, now.steady - tuning.history_seconds
        times, step = [at for at, _ in own], history.step_seconds
        filled = [
            (at, rate) for at, rate in _steady_demand(history, now) if at > since and not _is_near(times, at, step)
        ]
        first = times[0] if times else now.steady
        before = [(at, rate) for at, rate in filled if at < first]
        self.state = replace(
            self.state,
            demand=tuple(sorted((*filled, *own))),
            zero_since=_zero_since(before, self.state, first, 2 * step),
        )
        if isinstance(history.slot_seconds, Known) and len(filled) >= len(own):
            known = self.state.batching
            remembered = Batching(history.slot_seconds.value, line=known.line if known else None)
            self.state = replace(self.state, batching=remembered)

    @property
    def rival(self) -> str:
        """Who else sets the number, so that nothing is written; '': nobody."""
        if self.expert.other_scaler or not self.rivalry.paused:
            return self.expert.other_scaler
        return f"the field manager {self.expert.last_writer}" if self.expert.last_writer else "another client"

    @property
    def sleeping_pods(self) -> int:
        """Pods that sleep, or are about to."""
        return sum(is_live(pod) and is_asleep(pod) for pod in self.expert.pods)

    def remember(self, record: Record) -> None:
        """A change was written."""
        self.records = (*self.records, record)[-RECORDS_MAX:]

    @property
    def bound(self) -> tuple[Rule, str] | None:
        """The rule that bound the number, and why; None: nothing has been decided."""
        if self.decision is None:
            return None
        return (Rule.ACCELERATORS, self.limited) if self.limited else (self.decision.rule, self.decision.message)

    def report(self, steady: float) -> ScalingReport | None:
        """What the reconciler tells of it; None: nothing has been decided, or too little is known yet to tell."""
        bound, failing = self.bound, self.failing
        if self.decision is None or bound is None or self.wanted is None or self._is_too_new(steady):
            return None
        told = failing is not None and steady - failing.since >= FAILING_TOLD_SECONDS
        rule, message = bound
        return ScalingReport(
            recommended=self.wanted,
            rule=rule,
            message=message,
            records=self.records,
            notes=self.decision.notes,
            unknown=self.unknown if self._is_unknown_for_long(steady) else "",
            other_scaler=self.rival,
            failure=failing.message if failing and told else "",
            shadow_usd_per_hour=self.shadow_usd_per_hour,
            asleep=self.sleeping_pods,
        )

    def _is_unknown_for_long(self, steady: float) -> bool:
        return self.unknown_since is not None and steady - self.unknown_since >= UNKNOWN_TOLD_SECONDS

    def _is_too_new(self, steady: float) -> bool:
        """Whether its demand has never been known, which may only be because it has just been found."""
        news = self.state.demand or self.records or self.rival
        return bool(self.unknown) and not news and not self._is_unknown_for_long(steady)

    def recommendation(self, steady: float) -> Recommendation | None:
        """As above, for autoscalers of others."""
        report, at = self.report(steady), self.state.learned_at
        if report is None or at is None:
            return None
        return Recommendation(report.recommended, self.expert.replicas, report.rule, report.message, steady - at)


def material(report: ScalingReport | None) -> object:
    """What of a report is worth a look by the reconciler: messages change with every tick."""
    if report is None:
        return None
    shadow = report.shadow_usd_per_hour
    return replace(
        report,
        message="",
        unknown=str(bool(report.unknown)),
        shadow_usd_per_hour=None if shadow is None else round(shadow, 2),
    )


def _steady_demand(history: History, now: Moment) -> list[tuple[float, float]]:
    """(when, requests a second) of what was counted; nothing is newer than now, whatever clocks say."""
    newest = min(history.until - now.wall, 0.0) + now.steady
    last = len(history.demand) - 1
    return [
        (newest - (last - index) * history.step_seconds, rate)
        for index, rate in enumerate(history.demand)
        if rate is not None
    ]


def _is_near(times: Sequence[float], at: float, seconds: float) -> bool:
    """Whether one of `times`, which are sorted, is less than `seconds` away."""
    place = bisect(times, at)
    return any(abs(at - each) < seconds for each in times[max(place - 1, 0) : place + 1])


def _zero_since(
    remembered: Sequence[tuple[float, float]], state: State, first: float, gap_seconds: float
) -> float | None:
    """Since when demand has been zero without a gap, up to what was seen here."""
    since = state.zero_since if state.demand else first
    if since is None or (state.demand and since > first):
        return state.zero_since
    for at, rate in reversed(remembered):
        if rate > 0 or since - at > gap_seconds:
            break
        since = at
    return since if state.demand or since < first else None
