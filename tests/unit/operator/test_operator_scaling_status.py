"""What statuses say of scaling: why a number is what it is, once, and nothing more because numbers move."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from builders import (
    NOW,
    a_fallback,
    a_policy,
    a_profile,
    a_ready_pod,
    an_expert,
    carried_out,
    judge,
    observe,
    rolled_out,
    scaled_by,
    template_of,
    with_status,
)
from flotilla_api.names import ASLEEP_ANNOTATION, SCALER_MANAGER
from flotilla_api.status import ExpertStatus
from flotilla_operator.reconcile.scaling_checks import LINGER_SECONDS
from flotilla_operator.reconcile.scaling_status import DECISIONS_MAX, QUIET_SECONDS
from flotilla_operator.reconcile.types import Manifest, Observed
from flotilla_operator.scaling.report import Record, ScalingReport
from flotilla_operator.scaling.types import Input, Note, Rule

LIMITS = {"min": 0, "max": 8}


def a_report(recommended: int = 2, rule: Rule = Rule.ECONOMICS, **fields: Any) -> ScalingReport:
    return ScalingReport(recommended, rule, fields.pop("message", "4.10 requests/s: 2 cost least"), **fields)


def a_record(after: int = 2, *, before: int = 1, seconds_ago: float = 10, **fields: Any) -> Record:
    at = NOW.timestamp() - seconds_ago
    inputs = (Input("arrivals", 4.1037, 6.7), Input("kvUsage", None), Input("kvTokens", 65536.0))
    return Record(at, before, after, Rule.ECONOMICS, "4.10 requests/s: 2 cost least", "a GPU pays above 178/h", inputs)


def a_scaled_expert(report: ScalingReport | None, *, replicas: int = 2, **scaling: Any) -> Observed:
    """An Expert whose replicas all answer, and what the scaler says of it."""
    expert = an_expert(scaling=LIMITS | scaling)
    created = rolled_out(observe(expert, a_profile(), scaling=report))
    template = template_of(created.children)
    pods = tuple(a_ready_pod(expert, str(index), template=template) for index in range(replicas))
    children = [
        scaled_by(child, SCALER_MANAGER, replicas=replicas)
        | {"status": child["status"] | {"replicas": replicas, "updatedReplicas": replicas}}
        if child["kind"] == "Deployment"
        else child
        for child in created.children
    ]
    return carried_out(replace(created, children=tuple(children), pods=pods))


def later(observed: Observed, seconds: float = 15, **fields: Any) -> Observed:
    """The same Expert after its status was written."""
    written = with_status(observed.owner, judge(observed).status)
    return replace(observed, owner=written, now=observed.now + timedelta(seconds=seconds), **fields)


def condition(observed: Observed, kind: str) -> str:
    found = {each["type"]: each for each in judge(observed).status["conditions"]}
    return f"{found[kind]['status']} {found[kind]['reason']}" if kind in found else "none"


def message(observed: Observed, kind: str) -> str:
    return next(each["message"] for each in judge(observed).status["conditions"] if each["type"] == kind)


def scaling_of(observed: Observed) -> Manifest:
    return judge(observed).status.get("scaling", {})


@pytest.mark.parametrize(
    ("scaling", "report", "expected"),
    [
        pytest.param({}, a_report(), "True ScalingActive", id="it follows demand"),
        pytest.param({}, None, "Unknown Undecided", id="nothing decided yet"),
        pytest.param({"mode": "Off"}, a_report(), "False Off", id="off"),
        pytest.param({"mode": "Recommend"}, a_report(), "False Recommending", id="recommend"),
        pytest.param({"mode": "Recommend"}, a_report(other_scaler="HPA a"), "False Recommending", id="recommend to it"),
        pytest.param({"mode": "Recommend"}, a_report(unknown="down"), "False MetricsStale", id="recommend on nothing"),
        pytest.param({}, a_report(other_scaler="HPA a", unknown="down"), "False OtherAutoscaler", id="somebody else"),
        pytest.param({}, a_report(failure="403"), "False ScaleFailed", id="it could not be written"),
        pytest.param({}, a_report(notes=frozenset({Note.STARTUP_STALLED})), "False StartupStalled", id="stalled"),
        pytest.param({}, a_report(unknown="down", rule=Rule.MINIMUM), "False MetricsStale", id="unknown demand"),
        pytest.param({}, a_report(rule=Rule.PRICE_UNKNOWN), "False PriceUnknown", id="no price"),
        pytest.param({}, a_report(rule=Rule.ACCELERATORS), "False InsufficientAccelerators", id="no accelerator"),
        pytest.param(
            {},
            a_report(notes=frozenset({Note.LATENCY_NOT_CAPACITY_BOUND})),
            "False LatencyNotCapacityBound",
            id="nothing is full",
        ),
        pytest.param({}, a_report(notes=frozenset({Note.FALLBACK_CHEAPER})), "True FallbackCheaper", id="not worth it"),
        pytest.param({}, a_report(notes=frozenset({Note.QUALITY_BOUND})), "True ScalingActive", id="quality"),
    ],
)
def test_scaling_active_says_whether_the_number_follows_demand(
    scaling: dict[str, Any], report: ScalingReport | None, expected: str
) -> None:
    """And if it does not, why."""
    assert condition(a_scaled_expert(report, **scaling), "ScalingActive") == expected


def test_messages_say_who_and_what_to_do() -> None:
    """Of whatever keeps the scaler from acting."""
    other = a_scaled_expert(a_report(other_scaler="HorizontalPodAutoscaler agents/invoice"))
    unknown = a_scaled_expert(a_report(unknown="Prometheus answered 503"))

    assert message(other, "ScalingActive") == (
        "HorizontalPodAutoscaler agents/invoice sets the number of replicas: remove it, or say scaling.mode: Recommend"
    )
    assert message(unknown, "ScalingActive") == "demand is unknown, so nothing shrinks: Prometheus answered 503"


@pytest.mark.parametrize(
    ("report", "expected"),
    [
        pytest.param(a_report(), "True EscalationHealthy", id="few"),
        pytest.param(a_report(notes=frozenset({Note.QUALITY_BOUND})), "False QualityBound", id="for quality"),
        pytest.param(a_report(unknown="down"), "Unknown MetricsStale", id="unknown demand"),
        pytest.param(None, "Unknown Undecided", id="nothing decided yet"),
    ],
)
def test_escalations_for_quality_are_told_of(report: ScalingReport | None, expected: str) -> None:
    """More replicas would not help there."""
    assert condition(a_scaled_expert(report), "EscalationHealthy") == expected


def test_expert_with_replicas_says_nothing_of_scaling() -> None:
    """Neither in conditions nor in the status."""
    observed = carried_out(observe(an_expert(replicas=2), a_profile()))

    assert condition(observed, "ScalingActive") == condition(observed, "EscalationHealthy") == "none"
    assert "scaling" not in judge(observed).status


def test_status_shows_what_is_recommended_and_why() -> None:
    """Numbers are rounded, what was unknown has no value, and the schema takes it."""
    report = a_report(records=(a_record(),), shadow_usd_per_hour=1.2049, asleep=1)

    found = judge(a_scaled_expert(report)).status

    assert found["scaling"] == {
        "at": "2026-11-23T12:00:00Z",
        "recommended": 2,
        "rule": "Economics",
        "message": "4.10 requests/s: 2 cost least",
        "shadowUSDPerHour": "1.20",
        "asleep": 1,
        "decisions": [
            {
                "at": "2026-11-23T11:59:50Z",
                "from": 1,
                "to": 2,
                "rule": "Economics",
                "message": "4.10 requests/s: 2 cost least",
                "counterfactual": "a GPU pays above 178/h",
                "inputs": [
                    {"name": "arrivals", "value": "4.1", "ageSeconds": 7},
                    {"name": "kvUsage"},
                    {"name": "kvTokens", "value": "65536"},
                ],
            }
        ],
    }
    ExpertStatus.model_validate(found)


def test_long_texts_fit_the_schema() -> None:
    """A reason from outside may be as long as it likes."""
    record = replace(a_record(), message="m" * 5000, counterfactual="c" * 5000)
    report = a_report(message="m" * 5000, records=(record,), unknown="u" * 5000, failure="f" * 5000)

    for each in (report, replace(report, failure="")):
        found = ExpertStatus.model_validate(judge(a_scaled_expert(each)).status)
        assert found.scaling is not None
        assert found.scaling.decisions is not None
        assert found.scaling.message is not None
        assert len(found.scaling.message) == 512


def test_decisions_of_earlier_processes_are_kept_up_to_a_number() -> None:
    """The newest first; a new leader knows none of them."""
    first = a_scaled_expert(a_report(records=tuple(a_record(n, seconds_ago=1000 - n) for n in range(6))))
    second = later(first, scaling=None)
    third = later(second, scaling=a_report(records=tuple(a_record(n, seconds_ago=-n) for n in range(6, 11))))

    assert [each["to"] for each in scaling_of(second)["decisions"]] == [5, 4, 3, 2, 1, 0]
    assert [each["to"] for each in scaling_of(third)["decisions"]] == [10, 9, 8, 7, 6, 5, 4, 3]
    assert len(scaling_of(third)["decisions"]) == DECISIONS_MAX


def test_each_change_is_one_event() -> None:
    """Told when it is stored, and never again: not at the next look, and not after a restart."""
    records = (a_record(2, before=1, seconds_ago=20), a_record(0, before=2, seconds_ago=10))
    first = a_scaled_expert(a_report(records=records))
    told = [(each.type, each.reason, each.message) for each in judge(first).events if each.reason.startswith("Scaled")]
    again = later(first, scaling=a_report(records=(*records, a_record(1, before=0, seconds_ago=-5))))
    restarted = later(again, scaling=None)

    assert told == [
        ("Normal", "ScaledUp", "1 -> 2 replicas, Economics: 4.10 requests/s: 2 cost least; a GPU pays above 178/h"),
        ("Normal", "ScaledDown", "2 -> 0 replicas, Economics: 4.10 requests/s: 2 cost least; a GPU pays above 178/h"),
    ]
    assert [each.message.split(",")[0] for each in judge(again).events] == ["0 -> 1 replicas"]
    assert judge(restarted).events == ()


def test_changes_that_no_longer_fit_the_status_are_not_told_again() -> None:
    """A process remembers more of them than a status holds."""
    records = tuple(a_record(n, seconds_ago=1000 - n) for n in range(20))
    first = a_scaled_expert(a_report(records=records))

    assert len([each for each in judge(first).events if each.reason.startswith("Scaled")]) == 20
    assert judge(later(first)).events == ()


@given(
    rate=st.floats(0, 1000),
    shadow=st.floats(1.13, 1.29),
    age=st.integers(0, 10_000),
    unknown=st.booleans(),
    notes=st.sets(st.sampled_from(Note)),
)
def test_nothing_is_written_because_a_number_moved(
    rate: float, shadow: float, age: int, unknown: bool, notes: set[Note]
) -> None:
    """Messages, ages and prices move with every tick; what they mean does not."""

    def said(number: float, seconds: int, price: float) -> ScalingReport:
        why = f"last measured {seconds} s ago" if unknown else ""
        text = f"{number:.2f} requests/s"
        return a_report(message=text, unknown=why, notes=frozenset(notes), shadow_usd_per_hour=price)

    first = a_scaled_expert(said(4.1, 95, 1.2))

    again = later(first, seconds=3600, scaling=said(rate, age, shadow))

    assert judge(again).status == again.owner["status"]


def test_another_number_is_told_at_once() -> None:
    """It is what the status is for."""
    first = a_scaled_expert(a_report(2))

    found = scaling_of(later(first, seconds=1, scaling=a_report(3, message="7 requests/s")))

    assert (found["recommended"], found["message"], found["at"]) == (3, "7 requests/s", "2026-11-23T12:00:01Z")


def test_another_rule_for_the_same_number_is_told_after_a_while() -> None:
    """Rules may take turns with every tick."""
    first = a_scaled_expert(a_report(2, Rule.ECONOMICS))
    delayed = a_report(2, Rule.SHRINK_DELAYED, message="1 would do")

    soon, late = later(first, seconds=60, scaling=delayed), later(first, seconds=QUIET_SECONDS, scaling=delayed)

    assert scaling_of(soon)["rule"] == "Economics"
    assert judge(soon).requeue_after_seconds == QUIET_SECONDS - 60
    assert (scaling_of(late)["rule"], scaling_of(late)["message"]) == ("ShrinkDelayed", "1 would do")


def test_demand_that_is_known_at_last_is_told_at_once_and_lost_again_after_a_while() -> None:
    """A status does not go on about unknown demand; and demand that comes and goes is not written with each tick."""
    blind = a_report(2, Rule.METRICS_UNKNOWN, unknown="not scraped twice yet")

    known = later(a_scaled_expert(blind), seconds=15, scaling=a_report(2))
    lost = later(known, seconds=15, scaling=blind)

    assert scaling_of(known)["rule"] == "Economics"
    assert scaling_of(lost)["rule"] == "Economics"
    assert judge(lost).requeue_after_seconds == QUIET_SECONDS - 15


def test_fallback_that_costs_less_is_told_as_the_rule() -> None:
    """And no more often than another rule."""
    cheaper = a_report(notes=frozenset({Note.FALLBACK_CHEAPER}))
    first = a_scaled_expert(cheaper)

    soon, late = (later(first, seconds=seconds, scaling=a_report()) for seconds in (60, QUIET_SECONDS))

    assert (scaling_of(first)["rule"], condition(first, "ScalingActive")) == ("FallbackCheaper", "True FallbackCheaper")
    assert judge(soon).status == soon.owner["status"]
    assert condition(late, "ScalingActive") == "True ScalingActive"


def test_clock_that_was_set_back_delays_nothing() -> None:
    """What is stored seems to come from the future then."""
    first = a_scaled_expert(a_report(2))

    found = scaling_of(later(first, seconds=-3600, scaling=a_report(2, Rule.MAXIMUM)))

    assert found["rule"] == "Maximum"


@pytest.mark.parametrize(
    ("before", "after", "changes"),
    [(1.2, 1.3, False), (1.2, 1.5, True), (None, 1.2, True), (1.2, None, True), (0.001, 0.004, False)],
)
def test_shadow_price_is_told_when_it_has_changed_much(
    before: float | None, after: float | None, changes: bool
) -> None:
    """And comes and goes with the shortage of accelerators."""
    first = a_scaled_expert(a_report(shadow_usd_per_hour=before))

    second = later(first, seconds=QUIET_SECONDS, scaling=a_report(shadow_usd_per_hour=after))

    assert (scaling_of(second) != second.owner["status"]["scaling"]) == changes


def test_complaint_that_comes_and_goes_stays_for_a_while() -> None:
    """Metrics that flap are one transition, not one a tick."""
    stale = a_scaled_expert(a_report(unknown="down"))

    soon = later(stale, seconds=30, scaling=a_report())
    late = later(stale, seconds=LINGER_SECONDS, scaling=a_report())

    assert condition(soon, "ScalingActive") == "False MetricsStale"
    assert judge(soon).requeue_after_seconds == LINGER_SECONDS - 30
    assert judge(soon).events == ()
    assert condition(late, "ScalingActive") == "True ScalingActive"


def test_other_autoscaler_that_went_away_is_forgotten_at_once() -> None:
    """Nothing about it is measured, so nothing flaps."""
    first = a_scaled_expert(a_report(other_scaler="HPA a"))

    assert condition(later(first, scaling=a_report()), "ScalingActive") == "True ScalingActive"


def test_new_leader_says_what_the_last_one_did_until_it_knows_better() -> None:
    """A restart of the operator writes no status."""
    first = a_scaled_expert(a_report(records=(a_record(),), notes=frozenset({Note.QUALITY_BOUND})))

    restarted = later(first, scaling=None)

    assert judge(restarted).status == restarted.owner["status"]


@pytest.mark.parametrize(
    ("report", "expected"),
    [
        (a_report(0, Rule.ACCELERATORS), "False InsufficientAccelerators"),
        (a_report(0, other_scaler="HPA a"), "False ScaledToZero"),
        (a_report(0, Rule.IDLE), "True ScaledToZero"),
    ],
)
def test_new_leader_leaves_ready_as_it_was(report: ScalingReport, expected: str) -> None:
    """Also where nothing could be woken."""
    first = a_scaled_expert(report, replicas=0)

    restarted = later(first, scaling=None)

    assert condition(first, "Ready") == expected
    assert judge(restarted).status == restarted.owner["status"]


def test_mode_off_keeps_the_past_and_says_nothing_of_now() -> None:
    """What was recommended before is no recommendation."""
    first = a_scaled_expert(a_report(records=(a_record(),)))
    off = later(first)
    off = replace(
        off, owner=with_status(an_expert(generation=2, scaling=LIMITS | {"mode": "Off"}), off.owner["status"])
    )

    assert list(scaling_of(off)) == ["decisions"]


@pytest.mark.parametrize(
    ("scaling", "report", "expected"),
    [
        pytest.param({}, a_report(0, Rule.IDLE), "True ScaledToZero", id="a request wakes it"),
        pytest.param({}, None, "True ScaledToZero", id="also while the operator restarts"),
        pytest.param({"mode": "Recommend"}, a_report(0), "False ScaledToZero", id="nobody wakes it"),
        pytest.param({}, a_report(0, other_scaler="HPA a"), "False ScaledToZero", id="somebody else stopped it"),
        pytest.param({"min": 1}, a_report(1), "False ScaledToZero", id="it should not be at zero"),
        pytest.param({}, a_report(0, Rule.ACCELERATORS), "False InsufficientAccelerators", id="nothing to wake it on"),
    ],
)
def test_expert_at_zero_is_ready_when_a_request_wakes_it(
    scaling: dict[str, Any], report: ScalingReport | None, expected: str
) -> None:
    """A policy bridges or holds that request."""
    observed = a_scaled_expert(report, replicas=0, **scaling)

    assert condition(observed, "Ready") == expected
    assert condition(observed, "Available") == f"False {expected.split()[1]}"
    assert condition(observed, "Scheduled") == "True ScaledToZero"
    assert not [each for each in judge(observed).events if each.type == "Warning" and each.reason == "ScaledToZero"]


def test_expert_at_zero_that_costs_more_than_its_fallback_says_what_wakes_it() -> None:
    """Other requests are answered by the fallback, for as long as that costs less."""
    observed = a_scaled_expert(a_report(0, notes=frozenset({Note.FALLBACK_CHEAPER})), replicas=0)

    (ready,) = (each for each in judge(observed).status["conditions"] if each["type"] == "Ready")
    assert (ready["status"], ready["reason"]) == ("True", "ScaledToZero")
    assert ready["message"] == ("no replica is wanted; a fallback costs less; a request that none may answer wakes it")


def test_expert_that_sleeps_is_ready_and_has_no_replica_that_answers() -> None:
    """Its pods say that they are healthy, and answer nothing."""
    observed = a_scaled_expert(a_report(asleep=2))
    pods = [
        pod
        | {"metadata": pod["metadata"] | {"annotations": pod["metadata"]["annotations"] | {ASLEEP_ANNOTATION: "true"}}}
        for pod in observed.pods
    ]

    asleep = replace(observed, pods=tuple(pods))
    half = replace(observed, pods=(observed.pods[0], pods[1]))

    assert condition(asleep, "Ready") == "True Asleep"
    assert condition(asleep, "Available") == "False Asleep"
    assert judge(asleep).status["readyReplicas"] == 0
    assert condition(half, "Ready") == "True Ready"
    assert judge(half).status["readyReplicas"] == 1


def test_wanted_replicas_are_the_deployments() -> None:
    """Not those that the spec begins with."""
    observed = a_scaled_expert(a_report(5), replicas=2)
    children = [
        scaled_by(child, SCALER_MANAGER, replicas=5) if child["kind"] == "Deployment" else child
        for child in observed.children
    ]

    assert condition(observed, "Scheduled") == "True Scheduled"
    assert condition(replace(observed, children=tuple(children)), "Scheduled") == "Unknown PodsPending"


def test_rules_that_mean_nothing_are_not_accepted_and_the_rest_goes_on() -> None:
    """The Expert serves, its number follows demand, and the field is named."""
    schedules = [{"cron": "0 25 * * *", "duration": "1h", "min": 1}]

    observed = a_scaled_expert(a_report(), schedules=schedules)

    assert condition(observed, "Accepted") == "False InvalidSpec"
    assert message(observed, "Accepted") == (
        "spec.scaling.schedules[0]: cron '0 25 * * *': bad hour; everything else of the spec holds"
    )
    assert condition(observed, "Ready") == "True Ready"
    assert condition(observed, "ScalingActive") == "True ScalingActive"


def _policy_condition(*reports: tuple[str, ScalingReport | None]) -> str:
    """EscalationHealthy of a policy over Experts with these reports."""
    experts = [
        with_status(expert, judge(observe(expert, a_profile(), scaling=report)).status)
        for expert, report in ((an_expert(name, scaling=LIMITS), report) for name, report in reports)
    ]
    policy = a_policy(experts=[{"name": name} for name, _ in reports])
    return condition(rolled_out(observe(policy, *experts, a_fallback(), a_profile())), "EscalationHealthy")


BOUND = a_report(notes=frozenset({Note.QUALITY_BOUND}))


@pytest.mark.parametrize(
    ("reports", "expected"),
    [
        pytest.param([("invoice", a_report()), ("sql", a_report())], "True EscalationHealthy", id="all are"),
        pytest.param([("invoice", a_report()), ("sql", BOUND)], "False QualityBound", id="one is not"),
        pytest.param([("invoice", a_report()), ("sql", None)], "True EscalationHealthy", id="one is not known"),
        pytest.param([("invoice", None)], "Unknown MetricsStale", id="none is known"),
    ],
)
def test_policy_says_what_its_experts_do_of_escalations(
    reports: list[tuple[str, ScalingReport | None]], expected: str
) -> None:
    """Where the threshold is, that more replicas would not help."""
    assert _policy_condition(*reports) == expected


def test_policy_without_scaled_experts_says_nothing_of_escalations() -> None:
    """Nobody measures them."""
    observed = rolled_out(observe(a_policy(), an_expert(replicas=2), a_fallback(), a_profile()))

    assert condition(observed, "EscalationHealthy") == "none"


def test_policy_names_the_experts_and_what_to_look_at() -> None:
    """As the design says it."""
    expert = an_expert(scaling=LIMITS)
    stored = with_status(expert, judge(observe(expert, a_profile(), scaling=BOUND)).status)

    assert message(rolled_out(observe(a_policy(), stored, a_fallback(), a_profile())), "EscalationHealthy") == (
        "of Expert invoice answers are escalated for quality: scaling will not help; look at the threshold or the model"
    )


def test_policy_counts_an_expert_that_a_request_wakes() -> None:
    """As the Expert itself says that it is ready."""
    policy = a_policy(fallbacks=[])
    awake = rolled_out(observe(policy, an_expert(scaling=LIMITS), a_profile()))
    fixed = rolled_out(observe(policy, an_expert(replicas=0), a_profile()))

    assert judge(awake).status["experts"] == "1/1"
    assert judge(fixed).status["experts"] == "0/1"
