"""What statuses say of scaling: written when something of interest changes, never because a number has moved."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from flotilla_api.conditions import ConditionType, Reason
from flotilla_api.policy import RoutingPolicySpec
from flotilla_api.scaling import DEFAULT_MIN_REPLICAS, DEFAULT_SCALING_MODE, Scaling
from flotilla_operator.resources.pods import find_condition
from flotilla_operator.resources.specs import Served, policy_experts
from flotilla_operator.scaling.report import Record, ScalingReport
from flotilla_operator.scaling.types import Input, Note, Rule

from .conditions import Check, failed, passed, previous_check, unknown
from .types import Event, Manifest, ObjectRef, Observed

DECISIONS_MAX = 8
QUIET_SECONDS = 300.0
"""Least time between two words on a rule or a price while the recommended number is the same."""
LINGER_SECONDS = 120.0
"""How long a complaint stays at least: what is measured comes and goes around a threshold."""
SHADOW_PRICE_TOLERANCE = 0.1
_MESSAGE_MAX = 512
_LINGERING = frozenset(
    {
        Reason.METRICS_STALE,
        Reason.LATENCY_NOT_CAPACITY_BOUND,
        Reason.STARTUP_STALLED,
        Reason.INSUFFICIENT_ACCELERATORS,
        Reason.QUALITY_BOUND,
    }
)
_QUALITY_HINT = "scaling will not help; look at the threshold or the model"


@dataclass(frozen=True, slots=True)
class ScalingVerdict:
    """What is said of an Expert's scaling."""

    status: Manifest | None = None
    """`status.scaling`; None: it is not scaled, or nothing is known."""
    checks: tuple[Check, ...] = ()
    events: tuple[Event, ...] = ()
    requeue_after_seconds: float | None = None

    @property
    def reason(self) -> Reason | None:
        """Of ScalingActive; None: it is not scaled."""
        return self.checks[0].reason if self.checks else None


def scaling_verdict(observed: Observed, served: Served) -> ScalingVerdict:
    """The whole of it; empty for what is not scaled."""
    scaling = served.scaling
    if scaling is None:
        return ScalingVerdict()
    stored: Manifest = observed.owner.get("status", {}).get("scaling") or {}
    status, wait = _status(stored, observed, is_off=_mode(scaling) == "Off")
    active, active_wait = _linger(observed, _scaling_active(scaling, observed, status.get("rule")))
    healthy, healthy_wait = _linger(observed, _escalation_healthy(scaling, observed))
    waits = [each for each in (wait, active_wait, healthy_wait) if each is not None]
    return ScalingVerdict(
        status=status or None,
        checks=(active, *((healthy,) if healthy else ())),
        events=_events(stored, observed.scaling),
        requeue_after_seconds=min(waits, default=None),
    )


def policy_escalations(observed: Observed, spec: RoutingPolicySpec) -> Check | None:
    """What the policy's Experts say of their escalations; None: none of them is scaled."""
    kind, namespace = ConditionType.ESCALATION_HEALTHY, observed.owner["metadata"]["namespace"]
    experts = {name: observed.references.get(ObjectRef("Expert", namespace, name)) for name in policy_experts(spec)}
    said = {name: find_condition(expert, kind) for name, expert in experts.items() if expert}
    known = {name: each["status"] for name, each in said.items() if each}
    if not known:
        return None
    if bound := sorted(name for name, status in known.items() if status == "False"):
        listed = ", ".join(f"Expert {name}" for name in bound)
        return failed(kind, Reason.QUALITY_BOUND, f"of {listed} answers are escalated for quality: {_QUALITY_HINT}")
    if "True" not in known.values():
        return unknown(kind, Reason.METRICS_STALE, "nothing is known of its experts' escalations")
    return passed(kind, Reason.ESCALATION_HEALTHY, "few answers are escalated for their quality")


def _mode(scaling: Scaling) -> str:
    return scaling.mode or DEFAULT_SCALING_MODE


def _status(stored: Manifest, observed: Observed, *, is_off: bool) -> tuple[Manifest, float | None]:
    """What to store, and after how many seconds more can be said; None: all is said."""
    report = observed.scaling
    decisions = _decisions(stored, report)
    kept = {"decisions": decisions} if decisions else {}
    if is_off:
        return kept, None
    if report is None:
        return stored, None
    asleep = {"asleep": report.asleep} if report.asleep else {}
    said, wait = _said(stored, report, observed.now)
    return said | asleep | kept, wait


def _said(stored: Manifest, report: ScalingReport, now: datetime) -> tuple[Manifest, float | None]:
    """The number and what bound it: at once where it is another number, else not again within QUIET_SECONDS."""
    names = ("at", "recommended", "rule", "message", "shadowUSDPerHour")
    before = {name: stored[name] for name in names if name in stored}
    after = _in_words(report, now)
    if "at" not in before or before.get("recommended") != report.recommended:
        return after, None
    if before.get("rule") == _rule(report).value and _is_close(before.get("shadowUSDPerHour"), report):
        return before, None
    age = (now - datetime.fromisoformat(before["at"])).total_seconds()
    return (before, QUIET_SECONDS - age) if 0 <= age < QUIET_SECONDS else (after, None)


def _in_words(report: ScalingReport, now: datetime) -> Manifest:
    said = {
        "at": _timestamp(now),
        "recommended": report.recommended,
        "rule": _rule(report).value,
        "message": _cut(report.message),
    }
    shadow = report.shadow_usd_per_hour
    return said if shadow is None else said | {"shadowUSDPerHour": f"{shadow:.2f}"}


def _rule(report: ScalingReport) -> Rule:
    """What bound the number; that a fallback costs less says more than that dollars did."""
    cheaper = report.rule is Rule.ECONOMICS and Note.FALLBACK_CHEAPER in report.notes
    return Rule.FALLBACK_CHEAPER if cheaper else report.rule


def _is_close(stored: str | None, report: ScalingReport) -> bool:
    shadow = report.shadow_usd_per_hour
    if stored is None or shadow is None:
        return stored is None and shadow is None
    return abs(float(stored) - shadow) <= max(0.01, SHADOW_PRICE_TOLERANCE * shadow)


def _decisions(stored: Manifest, report: ScalingReport | None) -> list[Manifest]:
    """The newest changes first: those of this process, and what earlier ones stored."""
    ours = [_decision(record) for record in report.records] if report else []
    known = {_identity(each): each for each in (*stored.get("decisions", ()), *ours)}
    return sorted(known.values(), key=lambda each: each["at"], reverse=True)[:DECISIONS_MAX]


def _decision(record: Record) -> Manifest:
    made: Manifest = {
        "at": _timestamp(datetime.fromtimestamp(record.at, UTC)),
        "from": record.before,
        "to": record.after,
        "rule": record.rule.value,
        "message": _cut(record.message),
        "inputs": [_input(each) for each in record.inputs],
    }
    return made | ({"counterfactual": _cut(record.counterfactual)} if record.counterfactual else {})


def _identity(decision: Manifest) -> tuple[str, int, int]:
    return decision["at"], decision["from"], decision["to"]


def _input(given: Input) -> Manifest:
    made: Manifest = {"name": given.name}
    if given.value is not None:
        made["value"] = _rounded(given.value)
    if given.age_seconds is not None:
        made["ageSeconds"] = round(given.age_seconds)
    return made


def _rounded(value: float) -> str:
    """Three digits, or all of those before the point."""
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.3g}"


def _events(stored: Manifest, report: ScalingReport | None) -> tuple[Event, ...]:
    """One for each change that the stored status does not have yet."""
    told: list[Manifest] = stored.get("decisions", [])
    newest, known = max((each["at"] for each in told), default=""), {_identity(each) for each in told}
    records = [(record, _decision(record)) for record in (report.records if report else ())]
    return tuple(_event(record) for record, made in records if made["at"] >= newest and _identity(made) not in known)


def _event(record: Record) -> Event:
    reason = Reason.SCALED_UP if record.after > record.before else Reason.SCALED_DOWN
    parts = (f"{record.before} -> {record.after} replicas, {record.rule}: {record.message}", record.counterfactual)
    return Event("Normal", reason.value, _cut("; ".join(part for part in parts if part)))


def _scaling_active(scaling: Scaling, observed: Observed, rule: str | None) -> Check:
    """Whether the number follows demand; `rule` is what the status says of it.

    | mode      | report                       | ScalingActive                   |
    |-----------|------------------------------|---------------------------------|
    | Off       |                              | False, Off                      |
    | others    | none yet                     | as before, else Unknown         |
    | Apply     | somebody else sets it        | False, OtherAutoscaler          |
    | Apply     | it could not be written      | False, ScaleFailed              |
    | others    | of pods that do not start    | False, StartupStalled           |
    | others    | of unknown demand            | False, MetricsStale             |
    | others    | that others get the GPUs     | False, InsufficientAccelerators |
    | others    | neither price nor objective  | False, PriceUnknown             |
    | others    | latency, and nothing is full | False, LatencyNotCapacityBound  |
    | Recommend | any other                    | False, Recommending             |
    | Apply     | the fallback costs less      | True, FallbackCheaper           |
    | Apply     | any other                    | True                            |
    """
    kind, mode, report = ConditionType.SCALING_ACTIVE, _mode(scaling), observed.scaling
    if mode == "Off":
        return failed(kind, Reason.OFF, "scaling.mode is Off: the number of replicas is left to others")
    if report is None:
        return _undecided(kind, observed)
    complaint = (_cannot_act(report) if mode == "Apply" else None) or _cannot_tell(report)
    if complaint:
        return _steady(observed, failed(kind, *complaint))
    if mode == "Recommend":
        return failed(kind, Reason.RECOMMENDING, "scaling.mode is Recommend: see status.scaling.recommended")
    if rule == Rule.FALLBACK_CHEAPER:
        text = "a replica would cost more than the requests that it saves: a fallback answers these"
        return passed(kind, Reason.FALLBACK_CHEAPER, text)
    least = DEFAULT_MIN_REPLICAS if scaling.min is None else scaling.min
    return passed(kind, Reason.SCALING_ACTIVE, f"the number of replicas follows demand, from {least} to {scaling.max}")


Complaint = tuple[Reason, str]


def _cannot_act(report: ScalingReport) -> Complaint | None:
    if report.other_scaler:
        text = f"{report.other_scaler} sets the number of replicas: remove it, or say scaling.mode: Recommend"
        return Reason.OTHER_AUTOSCALER, text
    return (Reason.SCALE_FAILED, _cut(report.failure)) if report.failure else None


def _cannot_tell(report: ScalingReport) -> Complaint | None:
    if Note.STARTUP_STALLED in report.notes:
        text = "pods take much longer to start than they should, so no more are asked for: see Scheduled and Available"
        return Reason.STARTUP_STALLED, text
    if report.unknown:
        return Reason.METRICS_STALE, f"demand is unknown, so nothing shrinks: {_cut(report.unknown)}"
    if report.rule is Rule.ACCELERATORS:
        return Reason.INSUFFICIENT_ACCELERATORS, _cut(report.message)
    if report.rule is Rule.PRICE_UNKNOWN:
        text = "nothing says how many are right: set hourlyUSD of the profile and cost of a fallback, or objectives"
        return Reason.PRICE_UNKNOWN, text
    if Note.LATENCY_NOT_CAPACITY_BOUND in report.notes:
        text = "an objective is missed though no replica is full: scaling will not help; look at prompts and the engine"
        return Reason.LATENCY_NOT_CAPACITY_BOUND, text
    return None


def _escalation_healthy(scaling: Scaling, observed: Observed) -> Check | None:
    """Whether requests leave it for what more replicas could help."""
    kind, report = ConditionType.ESCALATION_HEALTHY, observed.scaling
    if _mode(scaling) == "Off":
        return None
    if report is None:
        return _undecided(kind, observed)
    if report.unknown:
        return _steady(observed, unknown(kind, Reason.METRICS_STALE, f"demand is unknown: {_cut(report.unknown)}"))
    if Note.QUALITY_BOUND in report.notes:
        return failed(kind, Reason.QUALITY_BOUND, f"answers are escalated for their quality: {_QUALITY_HINT}")
    return passed(kind, Reason.ESCALATION_HEALTHY, "few answers are escalated for their quality")


def _undecided(kind: ConditionType, observed: Observed) -> Check:
    """A new leader says nothing until it knows something; what was known stays."""
    previous = previous_check(observed.owner, kind)
    return previous or unknown(kind, Reason.UNDECIDED, "the scaler has not decided yet")


def _steady(observed: Observed, check: Check) -> Check:
    """`check`, or what is stored where only numbers in its message differ."""
    previous = previous_check(observed.owner, check.type)
    same = previous is not None and (previous.status, previous.reason) == (check.status, check.reason)
    return previous if previous and same and _words(previous.message) == _words(check.message) else check


def _words(message: str) -> str:
    return re.sub(r"\d+(\.\d+)?", "#", message)


def _linger(observed: Observed, check: Check | None) -> tuple[Any, float | None]:
    """`check`; or a complaint that is younger than LINGER_SECONDS, and what is left of them."""
    previous = previous_check(observed.owner, check.type) if check else None
    if check is None or previous is None or not check.ok or previous.ok or previous.reason not in _LINGERING:
        return check, None
    since = find_condition(observed.owner, check.type)["lastTransitionTime"]
    left = LINGER_SECONDS - (observed.now - datetime.fromisoformat(since)).total_seconds()
    return (previous, left) if 0 < left <= LINGER_SECONDS else (check, None)


def _timestamp(moment: datetime) -> str:
    return f"{moment:%Y-%m-%dT%H:%M:%SZ}"


def _cut(message: str) -> str:
    return message if len(message) <= _MESSAGE_MAX else f"{message[: _MESSAGE_MAX - 3]}..."
