"""What an Expert's spec and its surroundings say of its scaling: read once, until they change."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from builders import NAMESPACE, a_fallback, a_policy, a_profile, a_served_fallback, an_expert
from flotilla_operator.describing import Describer
from flotilla_operator.ledger import Scaling
from flotilla_operator.reconcile.scaled import ScaledExpert
from flotilla_operator.reconcile.types import Manifest, ObjectRef
from flotilla_operator.scaling.fleet import FleetSignals, NamespacedName
from flotilla_operator.scaling.signals import Known
from flotilla_operator.scaling.types import Target

NOON = datetime(2026, 11, 23, 12, 0, tzinfo=UTC)
NOTHING = FleetSignals({}, {})
CHEAP = {"inputPerMillionUSD": "1", "outputPerMillionUSD": "1"}
DEAR = {"inputPerMillionUSD": "10", "outputPerMillionUSD": "10"}
ASSUMED_USD = 700 * 1e-6
"""Of a request of 500 and 200 tokens at a dollar a million."""


def scaled(*around: Manifest, **scaling: Any) -> ScaledExpert:
    """The Expert invoice, with that around it."""
    expert = an_expert(scaling={"min": 0, "max": 4} | scaling)
    return ScaledExpert(expert, around={ObjectRef.of(each): each for each in around})


def describe(expert: ScaledExpert, signals: FleetSignals = NOTHING, now: datetime = NOON) -> Scaling:
    """What is said of it."""
    found = Describer().describe(expert, signals, now)
    assert found is not None
    return found


def target(expert: ScaledExpert, signals: FleetSignals = NOTHING, now: datetime = NOON) -> Target:
    """What is to be reached."""
    found = describe(expert, signals, now).target
    assert found is not None
    return found


@pytest.mark.parametrize(
    ("mode", "acts", "decides"),
    [(None, True, True), ("Apply", True, True), ("Recommend", False, True), ("Off", False, False)],
)
def test_the_mode_says_who_acts(mode: str | None, acts: bool, decides: bool) -> None:
    """Recommend decides and leaves the number to others; Off does neither."""
    found = describe(scaled(**({"mode": mode} if mode else {})))

    assert (found.acts, found.target is not None) == (acts, decides)


def test_an_expert_whose_spec_cannot_be_read_says_nothing() -> None:
    """Its number is left as it is."""
    broken = an_expert(scaling={"max": "many"})

    assert Describer().describe(ScaledExpert(broken), NOTHING, NOON) is None


def test_a_replica_costs_what_its_accelerators_do() -> None:
    """Of the profile that the Expert names; without it the price is unknown."""
    assert target(scaled(a_profile(hourlyUSD="0.80"))).replica_usd_per_hour == pytest.approx(0.8)
    assert target(scaled()).replica_usd_per_hour is None


@pytest.mark.parametrize(
    ("policies", "usd"),
    [
        pytest.param([a_policy(fallbacks=[{"name": "cheap"}, {"name": "dear"}])], ASSUMED_USD, id="the first one"),
        pytest.param(
            [a_policy("one", fallbacks=[{"name": "cheap"}]), a_policy("two", fallbacks=[{"name": "dear"}])],
            10 * ASSUMED_USD,
            id="of several policies the dearest",
        ),
        pytest.param(
            [
                a_policy(
                    experts=[],
                    fallbacks=[{"name": "cheap"}],
                    rules=[
                        {"name": "r", "when": {}, "experts": [{"name": "invoice"}], "fallbacks": [{"name": "dear"}]}
                    ],
                )
            ],
            10 * ASSUMED_USD,
            id="that of the rule which leads to it",
        ),
        pytest.param([a_policy(experts=[], fallbacks=[{"name": "dear"}])], None, id="none of a policy that does not"),
        pytest.param([], None, id="no policy"),
    ],
)
def test_a_lost_request_costs_what_its_first_fallback_does(policies: list[Manifest], usd: float | None) -> None:
    """Where no dollars are measured, by its prices and an assumed request."""
    fallbacks = [a_fallback("cheap", cost=CHEAP), a_fallback("dear", cost=DEAR)]

    found = target(scaled(a_profile(), *policies, *fallbacks)).loss_usd

    assert found == (None if usd is None else pytest.approx(usd))


def test_measured_dollars_are_better_than_assumed_ones() -> None:
    """Of the very fallback."""
    signals = FleetSignals({}, {NamespacedName(NAMESPACE, "big"): Known(0.004)})

    assert target(scaled(a_policy(), a_fallback(cost=CHEAP)), signals).loss_usd == 0.004


def test_a_fallback_in_the_cluster_costs_its_slots_time() -> None:
    """By its own profile's price."""
    served = a_served_fallback("large", accelerator={"profile": "h100"})
    policy = a_policy(fallbacks=[{"name": "large"}])

    found = target(scaled(policy, served, a_profile(), a_profile("h100", hourlyUSD="3.60"))).loss_usd

    assert found == pytest.approx(3.60 / 3600 / 64 * 4)


def test_an_override_ends_and_a_schedule_opens_by_the_clock() -> None:
    """Nothing in the spec changes then."""
    describer = Describer()
    expert = scaled(
        override={"replicas": 3, "until": "2026-11-23T13:00:00Z"},
        schedules=[{"cron": "0 14 * * *", "duration": "1h", "min": 2}],
    )

    def at(hours: float) -> tuple[int | None, int]:
        found = describer.describe(expert, NOTHING, NOON + timedelta(hours=hours))
        assert found
        assert found.target
        return found.target.override, found.target.scheduled_minimum

    assert [at(0), at(1), at(2.5), at(3.5), at(0)] == [(3, 0), (None, 0), (None, 2), (None, 0), (3, 0)]


def test_a_change_of_any_object_is_seen() -> None:
    """Though each is read only once."""
    describer = Describer()

    def usd(price: str, version: str) -> tuple[float | None, float | None]:
        fallback = a_fallback(cost={"inputPerMillionUSD": price, "outputPerMillionUSD": price})
        profile = a_profile(hourlyUSD=price)
        for each in (fallback, profile):
            each["metadata"]["resourceVersion"] = version
        found = describer.describe(scaled(a_policy(), fallback, profile), NOTHING, NOON)
        assert found
        assert found.target
        return found.target.loss_usd, found.target.replica_usd_per_hour

    assert usd("1", "1") == (pytest.approx(ASSUMED_USD), 1.0)
    assert usd("2", "2") == (pytest.approx(2 * ASSUMED_USD), 2.0)


@pytest.mark.parametrize(
    ("scaling", "seconds"), [({"sleep": {"after": "2m"}}, 120.0), ({}, None)], ids=["after two minutes", "never"]
)
def test_sleep_is_what_the_spec_says(scaling: Mapping[str, Any], seconds: float | None) -> None:
    """Without a word replicas do not sleep."""
    assert describe(scaled(**scaling)).sleep_after_seconds == seconds
