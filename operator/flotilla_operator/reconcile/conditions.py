"""Conditions from checks: transitions, times and the events that tell of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal

from flotilla_api.conditions import ConditionType, Reason

from .types import Event, Manifest

CheckStatus = Literal["True", "False", "Unknown"]
_MAX_MESSAGE = 1000

_WAITING = frozenset(
    {
        Reason.STARTING,
        Reason.PODS_PENDING,
        Reason.ROLLING_OUT,
        Reason.SCALED_TO_ZERO,
        Reason.ASLEEP,
        Reason.OFF,
        Reason.RECOMMENDING,
        Reason.WAITING_FOR_ROUTERS,
        Reason.PARAMETERS_UNKNOWN,
    }
)
"""Reasons of a False or Unknown that pass by themselves or are wanted: no warning."""


@dataclass(frozen=True, slots=True)
class Check:
    """What one check found: a condition without its times."""

    type: ConditionType
    status: CheckStatus
    reason: Reason
    message: str

    @property
    def ok(self) -> bool:
        """Whether the condition is True."""
        return self.status == "True"


def passed(kind: ConditionType, reason: Reason, message: str) -> Check:
    """The condition is True."""
    return Check(kind, "True", reason, message)


def failed(kind: ConditionType, reason: Reason, message: str) -> Check:
    """The condition is False."""
    return Check(kind, "False", reason, message)


def unknown(kind: ConditionType, reason: Reason, message: str) -> Check:
    """Nothing can be said."""
    return Check(kind, "Unknown", reason, message)


def same_as(kind: ConditionType, check: Check) -> Check:
    """`check` said of another condition type."""
    return Check(kind, check.status, check.reason, check.message)


def previous_check(owner: Manifest, kind: ConditionType) -> Check | None:
    """What the stored status says of this generation; None: nothing."""
    found = _previous(owner).get(kind)
    if found is None or found.get("observedGeneration") != owner["metadata"]["generation"]:
        return None
    reason = found["reason"]
    return Check(kind, found["status"], Reason(reason), found["message"]) if reason in set(Reason) else None


def make_conditions(owner: Manifest, checks: Sequence[Check], now: datetime) -> list[Manifest]:
    """Conditions of `owner` in the order of `checks`; a time moves only with its condition's status."""
    previous = _previous(owner)
    return [_condition(owner, check, previous.get(check.type, {}), now) for check in checks]


def make_events(owner: Manifest, checks: Sequence[Check]) -> tuple[Event, ...]:
    """One event per transition: a status that flipped, or another reason of a failure; each reason is told once.

    Of an owner seen for the first time only failures and its readiness are news.
    """
    events: dict[Reason, Event] = {}
    for check in reversed(checks):
        if check.reason not in events and _is_news(check, _previous(owner).get(check.type)):
            events[check.reason] = _event(check)
    return tuple(reversed(events.values()))


def _previous(owner: Manifest) -> dict[str, Any]:
    conditions: list[Manifest] = owner.get("status", {}).get("conditions", [])
    return {each["type"]: each for each in conditions}


def _condition(owner: Manifest, check: Check, previous: Manifest, now: datetime) -> Manifest:
    unchanged = previous.get("status") == check.status
    return {
        "type": check.type.value,
        "status": check.status,
        "reason": check.reason.value,
        "message": _cut(check.message),
        "lastTransitionTime": previous["lastTransitionTime"] if unchanged else f"{now:%Y-%m-%dT%H:%M:%SZ}",
        "observedGeneration": owner["metadata"]["generation"],
    }


def _is_news(check: Check, previous: Manifest | None) -> bool:
    if previous is None:
        return _is_warning(check) or (check.ok and check.type is ConditionType.READY)
    flipped = previous["status"] != check.status and "Unknown" not in (check.status, previous["status"])
    return flipped or (_is_warning(check) and previous["reason"] != check.reason)


def _is_warning(check: Check) -> bool:
    return check.status == "False" and check.reason not in _WAITING


def _event(check: Check) -> Event:
    return Event("Warning" if _is_warning(check) else "Normal", check.reason.value, _cut(check.message))


def _cut(message: str) -> str:
    return message if len(message) <= _MAX_MESSAGE else f"{message[: _MAX_MESSAGE - 3]}..."
