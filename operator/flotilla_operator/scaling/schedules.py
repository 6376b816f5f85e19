"""Least numbers of replicas by the clock: windows that a cron expression opens. PURE: the time is an argument."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from cronsim import CronSim, CronSimError

from flotilla_api.meta import parse_duration_seconds
from flotilla_api.scaling import DEFAULT_TIME_ZONE, Schedule

_AROUND = timedelta(hours=3)
"""Clocks are set by less. Within it the order of openings by the local clock may not be theirs in time."""
_ANY_DAY = datetime(2024, 1, 1)
"""An expression that has no opening in the fifty years after it has none at all."""


@dataclass(frozen=True, slots=True)
class Window:
    """A schedule that can be followed."""

    cron: str
    zone: ZoneInfo
    duration: timedelta
    replicas: int
    ahead: timedelta = timedelta(0)
    """How long before it opens replicas are asked for: they answer when it does."""


@dataclass(frozen=True, slots=True)
class Floor:
    """The least number of replicas that schedules ask for, and for how long that holds."""

    replicas: int = 0
    since: datetime | None = None
    until: datetime | None = None
    """When to ask again: no window opens or closes before; None: no window ever does."""

    def holds(self, now: datetime) -> bool:
        """Whether it is still right; a clock that was set back makes it ask again."""
        return (self.since is None or self.since <= now) and (self.until is None or now < self.until)


class InvalidScheduleError(ValueError):
    """A schedule that the API server accepted and that nobody can follow; the message names what is wrong."""


def make_window(schedule: Schedule, *, start_seconds: float = 0.0) -> Window:
    """The window of one schedule, whose replicas take `start_seconds` to start.

    Raises:
        InvalidScheduleError: cron or timeZone means nothing.
    """
    try:
        never = next(CronSim(schedule.cron, _ANY_DAY), None) is None
    except CronSimError as error:
        raise InvalidScheduleError(f"cron {schedule.cron!r}: {str(error).lower()}") from error
    if never:
        raise InvalidScheduleError(f"cron {schedule.cron!r}: no day is ever like that")
    zone = _zone(DEFAULT_TIME_ZONE if schedule.timeZone is None else schedule.timeZone)
    duration = timedelta(seconds=parse_duration_seconds(schedule.duration))
    return Window(schedule.cron, zone, duration, schedule.min, timedelta(seconds=start_seconds))


def floor_at(windows: Sequence[Window], now: datetime) -> Floor:
    """The largest number of the windows that are open at `now`, which must be aware of its zone.

    As Debian's cron does, an opening that clocks skip takes place right after, and one that they repeat once.
    """
    states = [_state(window, now) for window in windows]
    changes = [until for _, until in states if until is not None]
    return Floor(
        replicas=max(
            (window.replicas for window, (is_open, _) in zip(windows, states, strict=True) if is_open), default=0
        ),
        since=now,
        until=min(changes, default=None),
    )


def _state(window: Window, now: datetime) -> tuple[bool, datetime | None]:
    """Whether its replicas are asked for, and when that may change next."""
    soon = now + window.ahead
    opened = _last_opening(window, soon)
    if opened is not None and opened + window.duration > now:
        return True, opened + window.duration
    following = _next_opening(window, soon)
    return False, None if following is None else following - window.ahead


def _last_opening(window: Window, now: datetime) -> datetime | None:
    """The latest one at or before `now`."""
    for opening in _openings(window, now + _AROUND, backwards=True):
        if opening <= now:
            return opening
    return None


def _next_opening(window: Window, now: datetime) -> datetime | None:
    """The earliest one after `now`."""
    for opening in _openings(window, now - _AROUND, backwards=False):
        if opening > now:
            return opening
    return None


def _openings(window: Window, start: datetime, *, backwards: bool) -> Iterator[datetime]:
    for opening in CronSim(window.cron, start.astimezone(window.zone), reverse=backwards):
        yield opening.astimezone(UTC)


@lru_cache(maxsize=1024)
def _zone(name: str) -> ZoneInfo:
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError) as error:  # OSError: a folder of zones, such as America
        raise InvalidScheduleError(f"timeZone {name!r} is not known") from error
