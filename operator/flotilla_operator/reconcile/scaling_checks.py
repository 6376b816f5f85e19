"""Whether an Expert's number of replicas follows its demand, and whether that helps."""

from __future__ import annotations

import re
from datetime import datetime

from flotilla_api.conditions import ConditionType, Reason
from flotilla_api.policy import RoutingPolicySpec
from flotilla_api.scaling import DEFAULT_MIN_REPLICAS, DEFAULT_SCALING_MODE, Scaling, ScalingMode
from flotilla_operator.resources.pods import find_condition
from flotilla_operator.resources.specs import policy_experts
from flotilla_operator.scaling.report import ScalingReport
from flotilla_operator.scaling.types import Note, Rule

from .conditions import Check, failed, passed, previous_check, unknown
from .types import ObjectRef, Observed

LINGER_SECONDS = 120.0
"""How long a complaint stays at least: what is measured comes and goes around a threshold."""
MESSAGE_MAX = 512
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


def mode_of(scaling: Scaling) -> ScalingMode:
    """Its mode, said or not."""
    return scaling.mode or DEFAULT_SCALING_MODE


def scaling_active(scaling: Scaling, observed: Observed, rule: str | None) -> Check:
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
    kind, mode, report = ConditionType.SCALING_ACTIVE, mode_of(scaling), observed.scaling
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
    return (Reason.SCALE_FAILED, shortened(report.failure)) if report.failure else None


def _cannot_tell(report: ScalingReport) -> Complaint | None:
    if Note.STARTUP_STALLED in report.notes:
        text = "pods take much longer to start than they should, so no more are asked for: see Scheduled and Available"
        return Reason.STARTUP_STALLED, text
    if report.unknown:
        return Reason.METRICS_STALE, f"demand is unknown, so nothing shrinks: {shortened(report.unknown)}"
    if report.rule is Rule.ACCELERATORS:
        return Reason.INSUFFICIENT_ACCELERATORS, shortened(report.message)
    if report.rule is Rule.PRICE_UNKNOWN:
        text = "nothing says how many are right: set hourlyUSD of the profile and cost of a fallback, or objectives"
        return Reason.PRICE_UNKNOWN, text
    if Note.LATENCY_NOT_CAPACITY_BOUND in report.notes:
        text = "an objective is missed though no replica is full: scaling will not help; look at prompts and the engine"
        return Reason.LATENCY_NOT_CAPACITY_BOUND, text
    return None


def escalation_healthy(scaling: Scaling, observed: Observed) -> Check | None:
    """Whether requests leave it for what more replicas could help."""
    kind, report = ConditionType.ESCALATION_HEALTHY, observed.scaling
    if mode_of(scaling) == "Off":
        return None
    if report is None:
        return _undecided(kind, observed)
    if report.unknown:
        return _steady(observed, unknown(kind, Reason.METRICS_STALE, f"demand is unknown: {shortened(report.unknown)}"))
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


def linger(observed: Observed, check: Check) -> tuple[Check, float | None]:
    """`check`; or a complaint that is younger than LINGER_SECONDS, and what is left of them."""
    previous = previous_check(observed.owner, check.type)
    if previous is None or not check.ok or previous.ok or previous.reason not in _LINGERING:
        return check, None
    since = find_condition(observed.owner, check.type)["lastTransitionTime"]
    left = LINGER_SECONDS - (observed.now - datetime.fromisoformat(since)).total_seconds()
    return (previous, left) if 0 < left <= LINGER_SECONDS else (check, None)


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


def shortened(message: str) -> str:
    """`message`, or as much of it as a status takes."""
    return message if len(message) <= MESSAGE_MAX else f"{message[: MESSAGE_MAX - 3]}..."
