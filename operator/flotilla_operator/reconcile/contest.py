"""Repairs that somebody undoes each time: after a few they are left, and told of, so that no fight goes on for ever.

A mutating webhook puts its field back into every write of ours; another controller does so a moment later, often with
another value, as an autoscaler of its replicas does. Each time a Deployment is changed its pods may restart.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from flotilla_api.conditions import Reason

from .types import ObjectRef, Plan, Step, StepFailure

MAX_REPAIRS = 5
"""Of the same places of one object within the window."""
WINDOW_SECONDS = 3600.0

Repair = tuple[str, tuple[str, ...]]
"""uid of an object, and the places in it that are put right."""
Times = Mapping[Repair, tuple[float, ...]]
"""When each was carried out, in seconds."""


def give_up(plan: Plan, times: Times, now_seconds: float) -> tuple[Plan, tuple[StepFailure, ...]]:
    """`plan` without repairs that were in vain MAX_REPAIRS times, and a failure for each of them.

    What the spec asks for anew is always carried out.
    """
    recent = _recent(times, now_seconds)
    given_up = [step for step in plan.steps if step.repairs and len(recent.get(_repair(step), ())) >= MAX_REPAIRS]
    return Plan(tuple(step for step in plan.steps if step not in given_up)), tuple(map(_failure, given_up))


def remember(times: Times, done: Sequence[Step], now_seconds: float) -> Times:
    """`times` with the repairs among `done`, and without those that are too long ago."""
    repairs = [_repair(step) for step in done if step.repairs]
    return _recent(times, now_seconds) | {each: (*times.get(each, ()), now_seconds)[-MAX_REPAIRS:] for each in repairs}


def _recent(times: Times, now_seconds: float) -> dict[Repair, tuple[float, ...]]:
    kept = {
        each: tuple(moment for moment in moments if now_seconds - moment < WINDOW_SECONDS)
        for each, moments in times.items()
    }
    return {each: moments for each, moments in kept.items() if moments}


def _repair(step: Step) -> Repair:
    return step.uid, step.repairs


def _failure(step: Step) -> StepFailure:
    return StepFailure(
        step,
        Reason.CONTESTED,
        f"{ObjectRef.of(step.manifest)} is changed again after each repair and is left so for now "
        f"({step.reason}): look for a mutating webhook or another controller",
    )
