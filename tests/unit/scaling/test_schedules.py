"""Windows that a cron expression opens: when they hold, across changes of the clock, and what nobody can follow."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flotilla_api.scaling import Schedule
from flotilla_operator.scaling.schedules import Floor, InvalidScheduleError, Window, floor_at, make_window

OFFICE = "0 7 * * 1-5"


def _schedule(
    cron: str = OFFICE, zone: str | None = "Europe/Berlin", duration: str = "12h", least: int = 1
) -> Schedule:
    return Schedule(cron=cron, timeZone=zone, duration=duration, min=least)


def _window(cron: str = OFFICE, zone: str | None = "Europe/Berlin", duration: str = "12h", least: int = 1) -> Window:
    return make_window(_schedule(cron, zone, duration, least))


def _at(text: str) -> datetime:
    return datetime.fromisoformat(text)


@pytest.mark.parametrize(
    ("now", "replicas", "until"),
    [
        pytest.param("2026-11-23T06:59:59+01:00", 0, "2026-11-23T07:00:00+01:00", id="before it opens"),
        pytest.param("2026-11-23T07:00:00+01:00", 1, "2026-11-23T19:00:00+01:00", id="the moment it opens"),
        pytest.param("2026-11-23T18:59:59.5+01:00", 1, "2026-11-23T19:00:00+01:00", id="just before it closes"),
        pytest.param("2026-11-23T19:00:00+01:00", 0, "2026-11-24T07:00:00+01:00", id="the moment it closes"),
        pytest.param("2026-11-27T19:00:00+01:00", 0, "2026-11-30T07:00:00+01:00", id="over the weekend"),
        pytest.param("2026-07-06T05:00:00+00:00", 1, "2026-07-06T17:00:00+00:00", id="in summer, an hour earlier"),
        pytest.param("2026-07-06T14:00:00+09:00", 1, "2026-07-06T17:00:00+00:00", id="asked from another zone"),
    ],
)
def test_office_hours_are_those_of_the_zone(now: str, replicas: int, until: str) -> None:
    """The window is open from its opening to its end, which is no longer in it."""
    floor = floor_at([_window()], _at(now))

    assert floor.replicas == replicas
    assert floor.until == _at(until)


@pytest.mark.parametrize(
    ("now", "replicas", "until"),
    [
        pytest.param("2026-11-23T06:53:59+01:00", 0, "2026-11-23T06:54:00+01:00", id="before a start could be late"),
        pytest.param("2026-11-23T06:54:00+01:00", 1, "2026-11-23T19:00:00+01:00", id="as long before as a start takes"),
        pytest.param("2026-11-23T18:59:59+01:00", 1, "2026-11-23T19:00:00+01:00", id="to the end"),
        pytest.param("2026-11-23T19:00:00+01:00", 0, "2026-11-24T06:54:00+01:00", id="and no longer"),
    ],
)
def test_replicas_are_asked_for_so_early_that_they_answer_when_it_opens(now: str, replicas: int, until: str) -> None:
    """They take six minutes to start."""
    floor = floor_at([make_window(_schedule(), start_seconds=360.0)], _at(now))

    assert (floor.replicas, floor.until) == (replicas, _at(until))


@pytest.mark.parametrize(
    ("now", "replicas", "until"),
    [
        # 2026-03-29: clocks go from 02:00 to 03:00. 2026-10-25: from 03:00 back to 02:00.
        pytest.param("2026-03-29T01:59:59+01:00", 0, "2026-03-29T03:00:00+02:00", id="before the hour that is skipped"),
        pytest.param("2026-03-29T03:00:00+02:00", 1, "2026-03-29T03:20:00+02:00", id="right after it"),
        pytest.param("2026-03-29T03:19:59+02:00", 1, "2026-03-29T03:20:00+02:00", id="for its whole duration"),
        pytest.param("2026-03-29T03:30:00+02:00", 0, "2026-03-30T02:30:00+02:00", id="not once more"),
        pytest.param("2026-10-25T02:30:00+02:00", 1, "2026-10-25T02:50:00+02:00", id="the first of two"),
        pytest.param("2026-10-25T02:30:00+01:00", 0, "2026-10-26T02:30:00+01:00", id="not the second"),
    ],
)
def test_opening_at_a_change_of_the_clock_takes_place_once(now: str, replicas: int, until: str) -> None:
    """What clocks skip comes right after, and what they repeat comes once; a window is as long as it says."""
    floor = floor_at([_window("30 2 * * *", duration="20m")], _at(now))

    assert floor.replicas == replicas
    assert floor.until == _at(until)


@pytest.mark.parametrize(
    ("now", "replicas"),
    [
        pytest.param("2026-10-25T02:10:00+02:00", 0, id="first two o'clock, before"),
        pytest.param("2026-10-25T02:10:00+01:00", 1, id="second two o'clock, 40 minutes after the opening"),
        pytest.param("2026-10-25T02:29:59+01:00", 1, id="the last second"),
        pytest.param("2026-10-25T02:30:00+01:00", 0, id="an hour after"),
    ],
)
def test_window_stays_open_through_an_hour_that_is_repeated(now: str, replicas: int) -> None:
    """A clock that shows less than at the opening does not close it."""
    assert floor_at([_window("30 2 * * *", duration="1h")], _at(now)).replicas == replicas


def test_window_that_opens_again_before_it_closes_stays_open() -> None:
    """What ends is asked for again at its end."""
    window = _window("0 * * * *", duration="90m")

    floor = floor_at([window], _at("2026-11-23T10:45:00+01:00"))

    assert floor == Floor(1, _at("2026-11-23T10:45:00+01:00"), _at("2026-11-23T11:30:00+01:00"))
    assert floor_at([window], _at("2026-11-23T11:30:00+01:00")).replicas == 1


def test_largest_open_window_holds() -> None:
    """Of several windows the largest counts, and the first change of any of them is when to ask again."""
    windows = [_window(least=1), _window("0 9 * * *", duration="1h", least=4), _window("0 20 * * *", least=9)]

    floor = floor_at(windows, _at("2026-11-23T09:30:00+01:00"))

    assert floor.replicas == 4
    assert floor.until == _at("2026-11-23T10:00:00+01:00")


def test_without_schedules_nothing_is_asked_for_ever() -> None:
    """There is no time at which that could change."""
    floor = floor_at([], _at("2026-11-23T09:30:00Z"))

    assert floor.replicas == 0
    assert floor.holds(_at("2036-11-23T09:30:00Z"))


def test_floor_is_asked_for_again_when_the_clock_was_set_back() -> None:
    """It says nothing of the time before it was asked for."""
    floor = floor_at([_window()], _at("2026-11-23T08:00:00+01:00"))

    assert floor.holds(_at("2026-11-23T18:00:00+01:00"))
    assert not floor.holds(_at("2026-11-23T19:00:00+01:00"))
    assert not floor.holds(_at("2026-11-23T06:00:00+01:00"))


def test_time_zone_is_utc_unless_it_is_said() -> None:
    """The default is the API's."""
    assert floor_at([_window(zone=None)], _at("2026-11-23T07:00:00Z")).replicas == 1
    assert floor_at([_window(zone=None)], _at("2026-11-23T06:59:59Z")).replicas == 0


@pytest.mark.parametrize(
    ("schedule", "message"),
    [
        pytest.param(_schedule("61 7 * * *"), "cron '61 7 * * *': bad minute", id="no such minute"),
        pytest.param(_schedule("0 7 * * 1-9"), "cron '0 7 * * 1-9': bad day-of-week", id="no such day"),
        pytest.param(_schedule("0 7 30 2 *"), "cron '0 7 30 2 *': bad day-of-month", id="no such date"),
        pytest.param(_schedule("0 7 */20 * 1L"), "cron '0 7 */20 * 1L': no day is ever like that", id="no such Monday"),
        pytest.param(_schedule(zone="Europe/Bonn"), "timeZone 'Europe/Bonn' is not known", id="no such zone"),
        pytest.param(_schedule(zone="America"), "timeZone 'America' is not known", id="a folder of zones"),
    ],
)
def test_schedule_that_means_nothing_is_named(schedule: Schedule, message: str) -> None:
    """The API server cannot know these; the message says which field."""
    with pytest.raises(InvalidScheduleError) as caught:
        make_window(schedule)

    assert str(caught.value) == message


@given(st.from_regex(r"\A[0-9A-Za-z*/,#-]{1,8}( [0-9A-Za-z*/,#-]{1,8}){4}\Z"))
def test_no_cron_that_the_server_accepts_can_crash(cron: str) -> None:
    """It is a window, or the schedule is invalid."""
    try:
        window = make_window(_schedule(cron))
    except InvalidScheduleError:
        return
    floor_at([window], _at("2026-11-23T09:30:00Z"))


_CRONS = ["0 7 * * 1-5", "*/15 * * * *", "30 2 * * *", "0 */5 * * *", "15,45 1-3 * * 0", "0 0 1 * *"]
_CHANGES = [  # of Berlin, New York and Lord Howe, where it is half an hour
    st.datetimes(_at(day) - timedelta(hours=5), _at(day) + timedelta(hours=5))
    for day in ("2026-03-29T01:00", "2026-10-25T01:00", "2026-03-08T07:00", "2026-11-01T06:00", "2026-04-04T15:00")
]


@given(
    cron=st.sampled_from(_CRONS),
    zone=st.sampled_from(["UTC", "Europe/Berlin", "America/New_York", "Australia/Lord_Howe", "Asia/Kolkata"]),
    minutes=st.integers(1, 1440),
    now=st.one_of(st.datetimes(datetime(2026, 1, 1), datetime(2027, 1, 1)), *_CHANGES),
    share=st.floats(0, 0.999),
)
def test_floor_does_not_change_before_it_says(cron: str, zone: str, minutes: int, now: datetime, share: float) -> None:
    """Until the time that it gives, asking again gives the same number."""
    window = _window(cron, zone, f"{minutes}m")
    floor = floor_at([window], now.replace(tzinfo=UTC))
    assert floor.until is not None
    assert floor.since is not None

    later = floor.since + (floor.until - floor.since) * share

    assert floor.until > floor.since
    assert floor_at([window], later).replicas == floor.replicas
    assert floor_at([window], floor.until - timedelta(microseconds=1)).replicas == floor.replicas
