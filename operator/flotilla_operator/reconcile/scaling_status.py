"""What statuses say of scaling: written when something of interest changes, never because a number has moved."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime

from flotilla_api.conditions import Reason
from flotilla_operator.resources.specs import Served
from flotilla_operator.scaling.report import Record, ScalingReport
from flotilla_operator.scaling.types import Input, Note, Rule

from .conditions import Check
from .scaling_checks import escalation_healthy, linger, mode_of, scaling_active, shortened
from .types import Event, Manifest, Observed

DECISIONS_MAX = 8
QUIET_SECONDS = 300.0
"""Least time between two words on a rule or a price while the recommended number is the same."""
SHADOW_PRICE_TOLERANCE = 0.1


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
    status, wait = _status(stored, observed, is_off=mode_of(scaling) == "Off")
    found = (scaling_active(scaling, observed, status.get("rule")), escalation_healthy(scaling, observed))
    checks = [linger(observed, check) for check in found if check]
    waits = [each for each in (wait, *(left for _, left in checks)) if each is not None]
    return ScalingVerdict(
        status=status or None,
        checks=tuple(check for check, _ in checks),
        events=_events(stored, observed.scaling),
        requeue_after_seconds=min(waits, default=None),
    )


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
    """The number and what bound it: at once where it is another number, or where nothing was known, else not again
    within QUIET_SECONDS."""
    names = ("at", "recommended", "rule", "message", "shadowUSDPerHour")
    before = {name: stored[name] for name in names if name in stored}
    after = _in_words(report, now)
    if "at" not in before or before.get("recommended") != report.recommended:
        return after, None
    if before.get("rule") == _rule(report).value and _is_close(before.get("shadowUSDPerHour"), report):
        return before, None
    if before.get("rule") == Rule.METRICS_UNKNOWN.value:
        return after, None  # at most once in QUIET_SECONDS: the way back waits for these
    age = (now - datetime.fromisoformat(before["at"])).total_seconds()
    return (before, QUIET_SECONDS - age) if 0 <= age < QUIET_SECONDS else (after, None)


def _in_words(report: ScalingReport, now: datetime) -> Manifest:
    said = {
        "at": _timestamp(now),
        "recommended": report.recommended,
        "rule": _rule(report).value,
        "message": shortened(report.message),
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
        "message": shortened(record.message),
        "inputs": [_input(each) for each in record.inputs],
    }
    return made | ({"counterfactual": shortened(record.counterfactual)} if record.counterfactual else {})


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
    return Event("Normal", reason.value, shortened("; ".join(part for part in parts if part)))


def _timestamp(moment: datetime) -> str:
    return f"{moment:%Y-%m-%dT%H:%M:%SZ}"
