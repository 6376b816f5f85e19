"""What the scaler is to reach, from the Expert, its profile, and the policies and fallbacks around it."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest

from builders import NAMESPACE, a_fallback, a_policy, a_profile, an_expert
from flotilla_operator.describing import Describer
from flotilla_operator.reconcile.scaled import ScaledExpert
from flotilla_operator.reconcile.types import Manifest, ObjectRef
from flotilla_operator.scaling.fleet import FleetSignals, NamespacedName
from flotilla_operator.scaling.signals import Known

NOON = datetime(2026, 11, 23, 12, 0, tzinfo=UTC)
NOTHING = FleetSignals({}, {})
COST = {"inputPerMillionUSD": "2.50", "outputPerMillionUSD": "10"}
DEAR = {"inputPerMillionUSD": "25", "outputPerMillionUSD": "100"}
OFFICE = {"cron": "0 7 * * *", "duration": "6h", "min": 2}


def a_scaled_expert(*around: Manifest, version: str = "1", **scaling: Any) -> ScaledExpert:
    expert = an_expert(scaling={"min": 0, "max": 4} | scaling)
    expert["metadata"]["resourceVersion"] = version
    return ScaledExpert(expert, around={ObjectRef.of(each): each for each in (a_profile(), *around)})


def loss(scaled: ScaledExpert, describer: Describer | None = None) -> float | None:
    """What a lost request costs."""
    described = (describer or Describer()).describe(scaled, NOTHING, NOON)
    assert described is not None
    assert described.target is not None
    return described.target.loss_usd


@pytest.mark.parametrize(
    ("around", "usd"),
    [
        pytest.param([], None, id="no policy names it"),
        pytest.param([a_policy()], None, id="its fallback does not exist"),
        pytest.param([a_policy(), a_fallback()], None, id="its fallback has no price"),
        pytest.param([a_policy(), a_fallback(cost=COST)], 0.00325, id="its fallback's"),
        pytest.param(
            [a_policy(fallbacks=[{"name": "gone"}, {"name": "big"}]), a_fallback(cost=COST)],
            0.00325,
            id="the first that exists",
        ),
        pytest.param([a_policy(boundary="LocalOnly"), a_fallback(cost=COST)], None, id="none inside the boundary"),
        pytest.param(
            [
                a_policy(),
                a_fallback(cost=COST),
                a_policy("b", fallbacks=[{"name": "dear"}]),
                a_fallback("dear", cost=DEAR),
            ],
            0.0325,
            id="of two policies the dearer",
        ),
        pytest.param(
            [a_policy(), a_fallback(cost=COST), a_policy("b", rules="none")], 0.00325, id="one does not parse"
        ),
    ],
)
def test_lost_request_costs_what_routers_would_pay(around: list[Manifest], usd: float | None) -> None:
    """Of every policy around the Expert that can be read."""
    assert loss(a_scaled_expert(*around)) == (None if usd is None else pytest.approx(usd))


def test_measured_price_counts_first() -> None:
    """What the last hour really cost."""
    signals = FleetSignals({}, {NamespacedName(NAMESPACE, "big"): Known(0.02)})

    described = Describer().describe(a_scaled_expert(a_policy(), a_fallback(cost=COST)), signals, NOON)

    assert described is not None
    assert described.target is not None
    assert described.target.loss_usd == 0.02


def test_change_of_a_price_is_noticed() -> None:
    """What was read is remembered until an object is of another version."""
    describer, fallback = Describer(), a_fallback(cost=COST)
    dearer = a_fallback(cost=DEAR)
    dearer["metadata"]["resourceVersion"] = "2"

    before = loss(a_scaled_expert(a_policy(), fallback), describer)
    after = loss(a_scaled_expert(a_policy(), dearer), describer)
    without = loss(a_scaled_expert(a_policy()), describer)

    assert (before, after, without) == (pytest.approx(0.00325), pytest.approx(0.0325), None)


@pytest.mark.parametrize(
    ("hour", "least"),
    [pytest.param(12, 2, id="open"), pytest.param(13, 0, id="closed"), pytest.param(6, 0, id="not open yet")],
)
def test_schedule_is_looked_at_again_when_it_changes(hour: int, least: int) -> None:
    """Also by a describer that looked while the window was open, and where the clock was set back."""
    describer, scaled = Describer(), a_scaled_expert(schedules=[OFFICE])
    describer.describe(scaled, NOTHING, NOON.replace(hour=8))

    described = describer.describe(scaled, NOTHING, NOON.replace(hour=hour))

    assert described is not None
    assert described.target is not None
    assert described.target.scheduled_minimum == least


def test_edited_schedule_holds_at_once() -> None:
    """An open window of the old spec says nothing any more."""
    describer = Describer()
    describer.describe(a_scaled_expert(schedules=[OFFICE]), NOTHING, NOON)

    described = describer.describe(a_scaled_expert(version="2"), NOTHING, NOON)

    assert described is not None
    assert described.target is not None
    assert described.target.scheduled_minimum == 0


@pytest.mark.parametrize(("mode", "acts"), [("Apply", True), ("Recommend", False), ("Off", False)])
def test_mode_says_whether_it_acts(mode: str, acts: bool) -> None:
    """Off decides nothing either."""
    described = Describer().describe(a_scaled_expert(mode=mode), NOTHING, NOON)

    assert described is not None
    assert described.acts == acts
    assert (described.target is None) == (mode == "Off")


def test_expert_that_cannot_be_read_is_left_alone() -> None:
    """As is one whose number the spec says."""
    scaled = a_scaled_expert()

    assert Describer().describe(replace(scaled, expert=an_expert(scaling="much")), NOTHING, NOON) is None
    assert Describer().describe(replace(scaled, expert=an_expert(replicas=2)), NOTHING, NOON) is None
