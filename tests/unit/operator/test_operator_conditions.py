"""Conditions keep their times, and events tell of transitions only."""

from __future__ import annotations

from datetime import timedelta

import pytest

from builders import NOW, an_expert, with_status
from flotilla_api.conditions import ConditionType, Reason
from flotilla_operator.reconcile.conditions import Check, failed, make_conditions, make_events, passed, unknown
from flotilla_operator.reconcile.types import Manifest

READY, AVAILABLE = ConditionType.READY, ConditionType.AVAILABLE
ANSWERS = passed(READY, Reason.READY, "it answers")
STARTS = failed(READY, Reason.STARTING, "it starts")
CRASHES = failed(READY, Reason.CRASH_LOOP, "it ended with exit code 1")
UNKNOWN = unknown(READY, Reason.PODS_PENDING, "nothing is known")


def after(*checks: Check) -> Manifest:
    """An owner whose stored status is what `checks` said a minute ago."""
    owner = an_expert()
    return with_status(owner, {"conditions": make_conditions(owner, checks, NOW - timedelta(minutes=1))})


def test_a_time_moves_only_with_the_status() -> None:
    """Another reason or message of the same status is no transition."""
    (crashing,) = make_conditions(after(STARTS), [CRASHES], NOW)
    (ready,) = make_conditions(after(STARTS), [ANSWERS], NOW)

    assert (crashing["reason"], crashing["lastTransitionTime"]) == ("CrashLoop", "2026-11-23T11:59:00Z")
    assert (ready["status"], ready["lastTransitionTime"]) == ("True", "2026-11-23T12:00:00Z")


def test_a_long_message_is_cut_to_what_the_schema_takes() -> None:
    """A scheduler with a thousand nodes has much to say; the API server takes 2048 characters."""
    (condition,) = make_conditions(an_expert(), [failed(READY, Reason.UNSCHEDULABLE, "x" * 5000)], NOW)

    assert len(condition["message"]) == 1000
    assert condition["message"].endswith("...")


@pytest.mark.parametrize(
    ("before", "now", "expected"),
    [
        pytest.param(None, [STARTS], [], id="a new owner that starts is no news"),
        pytest.param(None, [CRASHES], ["Warning CrashLoop"], id="a new owner that fails is"),
        pytest.param(None, [ANSWERS], ["Normal Ready"], id="a new owner that answers is"),
        pytest.param([STARTS], [STARTS], [], id="nothing changed"),
        pytest.param([STARTS], [ANSWERS], ["Normal Ready"], id="it became ready"),
        pytest.param([ANSWERS], [STARTS], ["Normal Starting"], id="it is replaced as wanted"),
        pytest.param([ANSWERS], [CRASHES], ["Warning CrashLoop"], id="it began to fail"),
        pytest.param([STARTS], [CRASHES], ["Warning CrashLoop"], id="it fails while it starts"),
        pytest.param(
            [CRASHES], [failed(READY, Reason.OUT_OF_MEMORY, "")], ["Warning OutOfMemory"], id="it fails otherwise now"
        ),
        pytest.param(
            [CRASHES], [failed(READY, Reason.CRASH_LOOP, "exit code 2")], [], id="another message of the same failure"
        ),
        pytest.param([UNKNOWN], [STARTS], [], id="from unknown to waiting"),
        pytest.param([ANSWERS], [UNKNOWN], [], id="to unknown"),
        pytest.param(
            [failed(AVAILABLE, Reason.STARTING, ""), STARTS],
            [failed(AVAILABLE, Reason.CRASH_LOOP, "it crashed"), CRASHES],
            ["Warning CrashLoop"],
            id="one cause in two conditions is told once",
        ),
    ],
)
def test_events_tell_of_transitions_only(before: list[Check] | None, now: list[Check], expected: list[str]) -> None:
    """A person who reads events sees each change once, and no repetition."""
    owner = after(*before) if before else an_expert()

    assert [f"{event.type} {event.reason}" for event in make_events(owner, now)] == expected
