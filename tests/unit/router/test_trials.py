"""Which sessions try an artifact."""

from __future__ import annotations

import pytest

from flotilla_router.trials import session_of, takes_part

ARTIFACT, OTHER = "sha256:" + "a" * 64, "sha256:" + "b" * 64
SESSIONS = [f"session {number}".encode() for number in range(4000)]


@pytest.mark.parametrize("percent", [1, 10, 50])
def test_a_canary_takes_its_share_of_the_sessions(percent: int) -> None:
    """Of 4,000 sessions the wanted percent, give or take four standard deviations."""
    taken = sum(takes_part(ARTIFACT, session, percent) for session in SESSIONS)

    share = percent / 100
    assert abs(taken / 4000 - share) < 4 * (share * (1 - share) / 4000) ** 0.5


def test_all_or_none_take_part_at_the_ends() -> None:
    """100 percent is everybody, 0 nobody."""
    assert all(takes_part(ARTIFACT, session, 100) for session in SESSIONS)
    assert not any(takes_part(ARTIFACT, session, 0) for session in SESSIONS)


def test_a_higher_percent_adds_sessions_and_moves_none_back() -> None:
    """Those that took part at 5 percent still do at 20."""
    assert all(takes_part(ARTIFACT, session, 20) for session in SESSIONS if takes_part(ARTIFACT, session, 5))


def test_another_artifact_is_tried_by_other_sessions() -> None:
    """The same tenth of the users is not tried upon every time."""
    both = sum(takes_part(ARTIFACT, session, 10) and takes_part(OTHER, session, 10) for session in SESSIONS)

    assert both < 4000 * 0.02


def test_a_session_is_named_by_the_first_header_that_is_there() -> None:
    """The order is the policy's, not the request's; the prompt then does not matter."""
    names = (b"x-session-id", b"x-user")

    by_both = session_of({b"x-user": b"u", b"x-session-id": b"s"}, names, "key", "one")

    assert by_both == session_of({b"x-session-id": b"s"}, names, "other key", "two")
    assert by_both != session_of({b"x-user": b"s"}, names, "key", "one")


def test_without_a_header_the_key_and_the_beginning_of_the_prompt_are_the_session() -> None:
    """A conversation that begins alike is the same session as it grows, under the same key only."""
    opening = "You are a clerk. " * 20

    assert session_of({}, (), "key", opening + "a") == session_of({}, (), "key", opening + "b")
    assert session_of({}, (), "key", opening) != session_of({}, (), "other", opening)
    assert session_of({}, (), None, "a") != session_of({}, (), None, "b")


def test_half_a_surrogate_pair_is_part_of_a_session_like_any_other() -> None:
    """JSON can hold what UTF-8 cannot."""
    assert session_of({}, (), None, "\ud800") != session_of({}, (), None, "\udfff")
