"""What is known of a sidecar's token, and for how long."""

from __future__ import annotations

import base64
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flotilla_router.verdicts import Admitted, Refused, Unavailable, Verdict, Verdicts, expiry_of

GOOD, BAD, NOBODY = Admitted("agent-1"), Refused("its pod is gone"), Unavailable("the control API is down")
HOUR = 3600.0


@pytest.mark.parametrize(
    ("answers", "now", "known"),
    [
        pytest.param([], 0, (None, True), id="an unknown token is asked about"),
        pytest.param([(0, GOOD)], 59.9, (GOOD, False), id="a good one is good for a minute"),
        pytest.param([(0, GOOD)], 60, (GOOD, True), id="then it is asked about while it goes on being good"),
        pytest.param([(0, GOOD)], HOUR - 0.1, (GOOD, True), id="until it expires"),
        pytest.param([(0, GOOD)], HOUR, (None, True), id="and no longer"),
        pytest.param([(0, GOOD), (60, GOOD)], 119, (GOOD, False), id="another good answer is good for another minute"),
        pytest.param([(0, GOOD), (60, BAD)], 61, (BAD, False), id="a bad answer ends it at once"),
        pytest.param([(0, GOOD), (60, BAD)], 65, (None, True), id="and what was good before is forgotten"),
        pytest.param([(0, GOOD), (60, NOBODY)], 64.9, (GOOD, False), id="while nobody can say it stays good"),
        pytest.param([(0, GOOD), (60, NOBODY)], 65, (GOOD, True), id="and is asked about every five seconds"),
        pytest.param([(0, GOOD), (60, NOBODY)], HOUR, (None, True), id="but not longer than it says itself"),
        pytest.param([(0, BAD)], 4.9, (BAD, False), id="a bad one is bad for five seconds"),
        pytest.param([(0, BAD)], 5, (None, True), id="then it is asked about anew"),
        pytest.param([(0, BAD), (5, GOOD)], 6, (GOOD, False), id="and may be good by then"),
        pytest.param([(0, NOBODY)], 0, (None, True), id="that nobody can say is no verdict"),
        pytest.param([(0, BAD), (1, NOBODY)], 2, (BAD, False), id="nor does it end a bad one"),
    ],
)
def test_verdicts_last_as_the_table_says(
    answers: list[tuple[float, Verdict]], now: float, known: tuple[Verdict | None, bool]
) -> None:
    """The table of the module, for a token that expires an hour after the start."""
    verdicts = Verdicts()
    for at, verdict in answers:
        verdicts.note(b"key", verdict, at, expires_in=HOUR - at)

    assert verdicts.find(b"key", now) == known


@given(
    st.lists(
        st.tuples(st.integers(0, 9), st.sampled_from([GOOD, BAD, NOBODY]), st.floats(0, 100), st.floats(-10, HOUR)),
        max_size=60,
    )
)
def test_verdicts_are_bounded_and_never_outlive_their_token(answers: list[tuple[int, Verdict, float, float]]) -> None:
    """Whatever is answered about which token, and when: no more is kept than may be, and nothing beyond its time."""
    verdicts = Verdicts(most=3)
    now, ends = 0.0, dict[bytes, float]()
    for token, verdict, wait, expires_in in answers:
        now += wait
        key = bytes([token])
        verdicts.note(key, verdict, now, expires_in=expires_in)
        if isinstance(verdict, Admitted):
            ends[key] = now + expires_in

        assert len(verdicts) <= 6
        for each in range(10):
            found, _ = verdicts.find(bytes([each]), now)
            assert not isinstance(found, Admitted) or now < ends[bytes([each])]


def test_a_flood_of_bad_tokens_drives_out_no_good_one() -> None:
    """They have room of their own."""
    verdicts = Verdicts(most=3)
    verdicts.note(b"good", GOOD, 0, expires_in=HOUR)
    for number in range(100):
        verdicts.note(b"bad-%d" % number, BAD, 1, expires_in=HOUR)

    assert verdicts.find(b"good", 2) == (GOOD, False)
    assert len(verdicts) == 4


def test_the_token_that_was_reviewed_longest_ago_makes_room() -> None:
    """Sidecars that still ask are reviewed every minute, so those that have gone are forgotten first."""
    verdicts = Verdicts(most=2)
    verdicts.note(b"stays", GOOD, 0, expires_in=HOUR)
    verdicts.note(b"gone", GOOD, 1, expires_in=HOUR)
    verdicts.note(b"stays", GOOD, 60, expires_in=HOUR)
    verdicts.note(b"new", GOOD, 61, expires_in=HOUR)

    assert [verdicts.find(key, 62)[0] for key in (b"stays", b"gone", b"new")] == [GOOD, None, GOOD]


def a_token(claims: object) -> str:
    """A token without a signature that anybody would check here."""
    parts = [json.dumps(part).encode() if not isinstance(part, bytes) else part for part in ({"alg": "RS256"}, claims)]
    return ".".join([*(base64.urlsafe_b64encode(part).decode().rstrip("=") for part in parts), "c2ln"])


@pytest.mark.parametrize(
    ("token", "expires"),
    [
        pytest.param(
            a_token({"exp": 1795000000, "aud": ["flotilla-gateway"]}), 1795000000, id="a ServiceAccount token"
        ),
        pytest.param(a_token({"exp": 1.5}), 1.5, id="a part of a second"),
        pytest.param("", None, id="none"),
        pytest.param("sk-12345", None, id="an API key"),
        pytest.param("a.b", None, id="two parts"),
        pytest.param("a.%%%.c", None, id="no base64"),
        pytest.param("a.\u00e9.c", None, id="no ASCII"),
        pytest.param(a_token({"aud": "x"}), None, id="without an end"),
        pytest.param(a_token({"exp": "soon"}), None, id="an end that is no number"),
        pytest.param(a_token(["exp"]), None, id="no claims"),
        pytest.param(a_token(b"\xff{"), None, id="no JSON"),
    ],
)
def test_a_token_says_when_it_expires(token: str, expires: float | None) -> None:
    """What has no end is no ServiceAccount token."""
    assert expiry_of(token) == expires
