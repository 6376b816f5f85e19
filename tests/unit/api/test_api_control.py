"""What operator and routers say to each other beside snapshots."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flotilla_api.control import TEXT_MAX_CHARACTERS, Problem, ProblemKind, format_time

LABELS = st.from_regex(r"[a-z0-9]([-a-z0-9]{0,20}[a-z0-9])?", fullmatch=True)
MOMENTS = st.datetimes(datetime(2000, 1, 1), datetime(2900, 1, 1), timezones=st.just(UTC))


@given(st.sampled_from(ProblemKind), st.just("") | LABELS, st.text(max_size=200))
def test_a_problem_arrives_as_it_was_sent(kind: ProblemKind, target: str, text: str) -> None:
    """Whatever its text holds."""
    problem = Problem(kind, target, text)

    assert Problem.from_query(problem.to_query()) == problem


@pytest.mark.parametrize(
    "value", ["", "a sentence", "Fallback big: its API key is not mounted", "Other", "New:big:text"]
)
def test_a_problem_of_another_release_is_still_a_problem(value: str) -> None:
    """Nothing that a router says makes its poll fail."""
    assert Problem.from_query(value) == Problem(ProblemKind.OTHER, "", value)


def test_a_problem_is_bounded() -> None:
    """However long its text is."""
    assert len(Problem(ProblemKind.API_KEYS, "", "x" * 10_000).to_query()) == TEXT_MAX_CHARACTERS


@given(MOMENTS, MOMENTS)
def test_times_sort_as_text(one: datetime, other: datetime) -> None:
    """A router compares them without reading them."""
    assert (format_time(one) < format_time(other)) == (one < other)


def test_a_time_is_written_in_utc() -> None:
    """Also one of another zone."""
    moment = datetime(2026, 11, 23, 12, tzinfo=timezone(timedelta(hours=2)))

    assert format_time(moment) == "2026-11-23T10:00:00.000000Z"
