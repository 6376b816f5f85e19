"""What an Expert's spec asks of its scaling, with every default, and what a request costs that leaves it."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from builders import NAMESPACE, a_fallback, a_policy, a_profile, a_served_fallback, an_expert
from flotilla_api.accelerator import AcceleratorProfileSpec
from flotilla_api.expert import ExpertSpec
from flotilla_api.scaling import Schedule
from flotilla_api.snapshot import TimePrice, TokenPrice
from flotilla_operator.reconcile.dispatch import resolve_references
from flotilla_operator.reconcile.replacements import replacements
from flotilla_operator.reconcile.types import Manifest, ObjectRef
from flotilla_operator.resources.specs import parse_policy
from flotilla_operator.scaling.fleet import ExpertSignals, NamespacedName
from flotilla_operator.scaling.schedules import Floor, make_window
from flotilla_operator.scaling.signals import Known, Unknown
from flotilla_operator.scaling.targets import (
    Override,
    Replacement,
    Terms,
    lost_request_usd,
    make_target,
    make_terms,
)
from flotilla_operator.scaling.types import Objectives, Target

UNTIL = datetime(2026, 11, 23, 18, 0, tzinfo=UTC).timestamp()
BIG, LARGE = NamespacedName(NAMESPACE, "big"), NamespacedName(NAMESPACE, "large")
TOKEN_PRICE = TokenPrice(inputPerMillionUSD=2.5, outputPerMillionUSD=10)


def _terms(scaling: dict[str, Any], profile: Manifest | None = None, **spec: Any) -> Terms:
    found = make_terms(
        ExpertSpec.model_validate(an_expert(scaling=scaling, **spec)["spec"]),
        AcceleratorProfileSpec.model_validate((profile or a_profile())["spec"]),
    )
    assert found is not None
    return found


def test_defaults_of_scaling_are_those_of_the_descriptions() -> None:
    """One replica at least, no objectives, a quarter of an hour before the last one may go."""
    terms = _terms({"max": 4})

    assert terms == Terms(
        minimum=1,
        maximum=4,
        mode="Apply",
        slots=64,
        gpus=1,
        replica_usd_per_hour=0.8,
        objectives=Objectives(),
        slo_floor=False,
        windows=(),
        override=None,
        idle_after_seconds=900,
        sleep_after_seconds=None,
        prior_slot_seconds=4,
        prior_cold_start_seconds=360,
        problems=(),
    )


def test_every_field_of_scaling_is_read() -> None:
    """Durations become seconds, ratios numbers, times seconds since the epoch."""
    schedule = {"cron": "0 7 * * 1-5", "timeZone": "Europe/Berlin", "duration": "12h", "min": 2}

    terms = _terms(
        {
            "min": 0,
            "max": 4,
            "mode": "Recommend",
            "objectives": {"ttftP95": "500ms", "queueP95": "200ms", "tpotP95": "40ms", "escalationRatio": "0.05"},
            "sloFloor": True,
            "schedules": [schedule],
            "override": {"replicas": 3, "until": "2026-11-23T19:00:00+01:00"},
            "idleAfter": "5m",
            "sleep": {"after": "1m"},
        },
        accelerator={"profile": "l4", "count": 2},
        engine={"maxNumSeqs": 8},
    )

    assert terms.objectives == Objectives(0.5, 0.2, 0.04, 0.05)
    assert (terms.minimum, terms.maximum, terms.mode, terms.slo_floor) == (0, 4, "Recommend", True)
    assert (terms.idle_after_seconds, terms.sleep_after_seconds) == (300, 60)
    assert (terms.slots, terms.gpus, terms.replica_usd_per_hour) == (8, 2, 1.6)
    assert terms.override == Override(3, UNTIL)
    start_seconds = terms.prior_cold_start_seconds
    assert terms.windows == (make_window(Schedule.model_validate(schedule), start_seconds=start_seconds),)


def test_expert_with_replicas_has_no_terms() -> None:
    """Its number is said."""
    assert make_terms(ExpertSpec.model_validate(an_expert(replicas=2)["spec"]), None) is None


def test_rules_that_mean_nothing_are_told_and_the_others_hold() -> None:
    """One schedule in error takes neither the others nor the limits with it."""
    schedules = [
        {"cron": "0 25 * * *", "duration": "1h", "min": 1},
        {"cron": "0 7 * * *", "duration": "1h", "min": 2},
        {"cron": "0 7 * * *", "timeZone": "Mars/Olympus", "duration": "1h", "min": 3},
    ]

    terms = _terms({"max": 4, "schedules": schedules, "override": {"replicas": 2, "until": "2026-02-30T00:00:00Z"}})

    assert terms.problems == (
        "spec.scaling.schedules[0]: cron '0 25 * * *': bad hour",
        "spec.scaling.schedules[2]: timeZone 'Mars/Olympus' is not known",
        "spec.scaling.override.until: '2026-02-30T00:00:00Z' is no day of its month",
    )
    assert [window.replicas for window in terms.windows] == [2]
    assert terms.override is None
    assert terms.maximum == 4


@pytest.mark.parametrize(
    ("profile", "spec", "seconds"),
    [
        pytest.param({}, {}, 360, id="a third of startupTimeout, and a download"),
        pytest.param({}, {"engine": {"startupTimeout": "3m"}}, 120, id="the engine is quicker"),
        pytest.param({}, {"model": {"uri": "pvc://models/a"}}, 300, id="nothing to download"),
        pytest.param({"capacity": "Unbounded"}, {}, 540, id="a node has to come first"),
        pytest.param({"capacity": 8}, {}, 360, id="a number of GPUs that are there"),
    ],
)
def test_cold_start_is_guessed_from_what_has_to_happen(
    profile: dict[str, Any], spec: dict[str, Any], seconds: float
) -> None:
    """Until it is measured."""
    assert _terms({"max": 1}, a_profile(**profile), **spec).prior_cold_start_seconds == seconds


@pytest.mark.parametrize(("length", "seconds"), [(None, 4), (8192, 4), (100, 1)])
def test_slot_seconds_are_guessed_from_the_longest_answer(length: int | None, seconds: float) -> None:
    """Until they are measured; a short context leaves room for short answers only."""
    engine = {"maxModelLen": length} if length else {}

    assert _terms({"max": 1}, engine=engine).prior_slot_seconds == seconds


def test_price_of_a_replica_is_unknown_without_a_profile_that_says_it() -> None:
    """Neither a profile that is missing nor one without a price counts as free."""
    spec = ExpertSpec.model_validate(an_expert(scaling={"max": 1})["spec"])
    unpriced = AcceleratorProfileSpec.model_validate({"resource": "nvidia.com/gpu", "memoryGiB": 24})

    without, unsaid = make_terms(spec, None), make_terms(spec, unpriced)

    assert without is not None
    assert unsaid is not None
    assert without.replica_usd_per_hour is None
    assert unsaid.replica_usd_per_hour is None


@pytest.mark.parametrize(
    ("now", "override"),
    [pytest.param(UNTIL - 1, 3, id="before it ends"), pytest.param(UNTIL, None, id="the moment it ends")],
)
def test_override_ends_by_itself(now: float, override: int | None) -> None:
    """Nobody has to remember to take it back."""
    terms = _terms({"max": 4, "override": {"replicas": 3, "until": "2026-11-23T18:00:00Z"}})

    assert make_target(terms, Floor(), None, now).override == override


def test_target_is_what_decide_reads() -> None:
    """Limits, prices and priors of the terms; the floor of the schedules, never above max."""
    terms = _terms({"min": 0, "max": 4, "objectives": {"ttftP95": "1s"}, "idleAfter": "5m"})

    target = make_target(terms, Floor(9), 0.0045, UNTIL)

    assert target == Target(
        minimum=0,
        maximum=4,
        slots=64,
        replica_usd_per_hour=0.8,
        loss_usd=0.0045,
        objectives=Objectives(ttft_p95=1),
        scheduled_minimum=4,
        idle_after_seconds=300,
        prior_slot_seconds=4,
        prior_cold_start_seconds=360,
    )


@pytest.mark.parametrize(
    ("found", "measured", "expert", "usd"),
    [
        pytest.param([], {}, ExpertSignals(), None, id="nobody answers in its place"),
        pytest.param([Replacement(BIG, None)], {}, ExpertSignals(), None, id="no price"),
        pytest.param([Replacement(BIG, None)], {BIG: Known(0.02)}, ExpertSignals(), 0.02, id="measured"),
        pytest.param([Replacement(BIG, TOKEN_PRICE)], {BIG: Known(0.02)}, ExpertSignals(), 0.02, id="measured first"),
        pytest.param([Replacement(BIG, TOKEN_PRICE)], {BIG: Unknown("down")}, ExpertSignals(), 0.00325, id="assumed"),
        pytest.param(
            [Replacement(BIG, TOKEN_PRICE)],
            {BIG: Known(0.02, 3600)},
            ExpertSignals(prompt_tokens=Known(1000), generation_tokens=Known(100)),
            0.0035,
            id="measured long ago, tokens now",
        ),
        pytest.param(
            [Replacement(LARGE, TimePrice(perSecondUSD=0.001))], {}, ExpertSignals(), 0.004, id="price of a slot's time"
        ),
        pytest.param(
            [Replacement(BIG, TOKEN_PRICE), Replacement(LARGE, None)],
            {LARGE: Known(0.5)},
            ExpertSignals(),
            0.5,
            id="dearest",
        ),
    ],
)
def test_lost_request_costs_what_its_replacement_does(
    found: list[Replacement], measured: dict[NamespacedName, Any], expert: ExpertSignals, usd: float | None
) -> None:
    """Measured dollars where there are any, else the price of a mean request; of several policies the highest."""
    assert lost_request_usd(found, measured, expert) == (None if usd is None else pytest.approx(usd))


def _replacements(policy: Manifest, *others: Manifest) -> dict[str, set[str]]:
    known = {ObjectRef.of(each): each for each in others}
    found = replacements(NAMESPACE, parse_policy(policy), resolve_references(policy, known.get))
    return {expert: {each.name.name for each in names} for expert, names in found.items()}


INVOICE, SQL = an_expert("invoice"), an_expert("sql")
NOBODY: set[str] = set()


@pytest.mark.parametrize(
    ("policy", "expected"),
    [
        pytest.param(a_policy(), {"invoice": {"big"}}, id="the first fallback"),
        pytest.param(
            a_policy(fallbacks=[{"name": "gone"}, {"name": "large"}, {"name": "big"}]),
            {"invoice": {"large"}},
            id="the first that exists",
        ),
        pytest.param(
            a_policy(fallbacks=[{"name": "big"}, {"name": "large"}], boundary="LocalOnly"),
            {"invoice": {"large"}},
            id="the first inside the boundary",
        ),
        pytest.param(a_policy(boundary="LocalOnly"), {"invoice": NOBODY}, id="none inside it"),
        pytest.param(a_policy(fallbacks=[]), {"invoice": NOBODY}, id="none at all"),
        pytest.param(
            a_policy(
                rules=[
                    {"name": "sql", "when": {"tools": {"min": 1}}, "experts": [{"name": "sql"}]},
                    {"name": "far", "when": {"tools": {"max": 0}}, "fallbacks": [{"name": "large"}]},
                ]
            ),
            {"invoice": {"big", "large"}, "sql": {"big"}},
            id="of every rule that names the expert",
        ),
    ],
)
def test_replacement_is_the_first_fallback_that_may_answer(policy: Manifest, expected: dict[str, set[str]]) -> None:
    """Of the policy and of each rule, as a router would choose it."""
    assert _replacements(policy, INVOICE, SQL, a_fallback(), a_served_fallback(), a_profile()) == expected


def test_replacement_carries_its_price() -> None:
    """Token prices of an API, and of a served model the time of a slot."""
    cost = {"inputPerMillionUSD": "2.50", "outputPerMillionUSD": "10"}
    policy = a_policy(rules=[{"name": "far", "when": {"tools": {"max": 0}}, "fallbacks": [{"name": "large"}]}])
    known = {ObjectRef.of(each): each for each in (INVOICE, a_fallback(cost=cost), a_served_fallback(), a_profile())}

    found = replacements(NAMESPACE, parse_policy(policy), resolve_references(policy, known.get))

    slot = TimePrice(perSecondUSD=0.8 / 3600 / 64)
    assert {each.name: each.price for each in found["invoice"]} == {BIG: TOKEN_PRICE, LARGE: slot}
