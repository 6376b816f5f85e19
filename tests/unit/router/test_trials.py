"""Which sessions try an artifact."""

from __future__ import annotations

import json

import pytest

from flotilla_router.trials import opening_of, session_of, takes_part

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

    by_both = session_of({b"x-user": b"u", b"x-session-id": b"s"}, names, "key", b"one")

    assert by_both == session_of({b"x-session-id": b"s"}, names, "other key", b"two")
    assert by_both != session_of({b"x-user": b"s"}, names, "key", b"one")


def test_without_a_header_the_key_and_the_beginning_of_the_prompt_are_the_session() -> None:
    """A conversation that begins alike is the same session as it grows, under the same key only."""
    opening = b"You are a clerk. " * 20

    assert session_of({}, (), "key", opening + b"a") == session_of({}, (), "key", opening + b"b")
    assert session_of({}, (), "key", opening) != session_of({}, (), "other", opening)
    assert session_of({}, (), None, b"a") != session_of({}, (), None, b"b")


def test_a_conversation_begins_with_its_first_message() -> None:
    """What stands before the messages, such as the number of tokens, may change from request to request."""
    first = {"role": "user", "content": "How do I reset my password?" * 20}
    bodies = [
        json.dumps({"model": "auto", "max_tokens": tokens, "messages": [first, *more]}).encode()
        for tokens, more in ((5, []), (100, [{"role": "assistant", "content": "Which one?"}]))
    ]

    assert opening_of(bodies[0]) == opening_of(bodies[1])
    assert b"reset my password" in opening_of(bodies[0])


@pytest.mark.parametrize(
    ("body", "opening"),
    [
        pytest.param(b'{"model":"m","prompt":"x"}', b'"prompt":"x"}', id="a completion"),
        pytest.param(b'{"model":"m"}', b'{"model":"m"}', id="neither"),
        pytest.param(b"", b"", id="empty"),
    ],
)
def test_the_opening_of_other_bodies(body: bytes, opening: bytes) -> None:
    """There is always something to hash."""
    assert opening_of(body) == opening
