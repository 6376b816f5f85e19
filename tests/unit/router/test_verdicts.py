"""What is known of a sidecar's token, and for how long."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flotilla_router.verdicts import Admitted, Refused, Unavailable, Verdict, Verdicts

GOOD, BAD, NOBODY = Admitted("agent-1"), Refused("its pod is gone"), Unavailable("the control API is down")
HOUR = 3600.0


NOTHING, USE, ASK, WAIT = "nothing", "use", "use and ask", "ask and wait"


def what_to_do(verdicts: Verdicts, now: float) -> tuple[Verdict | None, str]:
    """What is known of a token, and what whoever reads it does."""
    known = verdicts.find(b"key", now)
    if known is None:
        return None, NOTHING
    return known.verdict, USE if now < known.ask_at else ASK if now < known.wait_at else WAIT


@pytest.mark.parametrize(
    ("answers", "now", "known"),
    [
        pytest.param([], 0, (None, NOTHING), id="of an unknown token nothing is known"),
        pytest.param([(0, GOOD)], 44.9, (GOOD, USE), id="a good one is good"),
        pytest.param([(0, GOOD)], 45, (GOOD, ASK), id="then it is asked about while it goes on being good"),
        pytest.param([(0, GOOD)], 59.9, (GOOD, ASK), id="for a minute in all"),
        pytest.param([(0, GOOD)], 60, (GOOD, WAIT), id="then whoever shows it waits for the answer"),
        pytest.param([(0, GOOD)], HOUR - 0.1, (GOOD, WAIT), id="until it expires"),
        pytest.param([(0, GOOD)], HOUR, (None, NOTHING), id="and no longer"),
        pytest.param([(0, GOOD), (50, GOOD)], 94, (GOOD, USE), id="another good answer is good for as long again"),
        pytest.param([(0, GOOD), (50, BAD)], 51, (BAD, USE), id="a bad answer ends it at once"),
        pytest.param([(0, GOOD), (50, BAD)], 55, (None, NOTHING), id="and what was good before is forgotten"),
        pytest.param([(0, GOOD), (50, NOBODY)], 54.9, (GOOD, USE), id="while nobody can say it stays good"),
        pytest.param([(0, GOOD), (50, NOBODY)], 55, (GOOD, ASK), id="and is asked about every five seconds"),
        pytest.param([(0, GOOD), (50, NOBODY)], 64.9, (GOOD, ASK), id="at leisure for fifteen"),
        pytest.param([(0, GOOD), (50, NOBODY)], 65, (GOOD, WAIT), id="but not for longer"),
        pytest.param([(0, GOOD), (45, NOBODY)], 59.9, (GOOD, ASK), id="which takes nothing from its minute"),
        pytest.param([(0, GOOD), (900, NOBODY)], 906, (GOOD, ASK), id="also long after it was good"),
        pytest.param([(0, GOOD), (60, NOBODY)], HOUR, (None, NOTHING), id="but not longer than it says itself"),
        pytest.param([(0, BAD)], 4.9, (BAD, USE), id="a bad one is bad for five seconds"),
        pytest.param([(0, BAD)], 5, (None, NOTHING), id="then nothing is known"),
        pytest.param([(0, BAD), (5, GOOD)], 6, (GOOD, USE), id="and it may be good by then"),
        pytest.param([(0, NOBODY)], 0, (None, NOTHING), id="that nobody can say is no verdict"),
        pytest.param([(0, BAD), (1, NOBODY)], 2, (BAD, USE), id="nor does it end a bad one"),
    ],
)
def test_verdicts_last_as_the_table_says(
    answers: list[tuple[float, Verdict]], now: float, known: tuple[Verdict | None, str]
) -> None:
    """The table of the module, for a token that expires an hour after the start."""
    verdicts = Verdicts()
    for at, verdict in answers:
        verdicts.note(b"key", verdict, at, expires_in=HOUR - at)

    assert what_to_do(verdicts, now) == known


@pytest.mark.parametrize(
    ("before", "answer", "follows"),
    [
        pytest.param([], NOBODY, NOBODY, id="nothing is known"),
        pytest.param([GOOD], NOBODY, GOOD, id="what is good stays good"),
        pytest.param([GOOD], BAD, BAD, id="a bad answer counts"),
        pytest.param([BAD], NOBODY, BAD, id="what is bad stays bad"),
    ],
)
def test_who_has_waited_is_told_what_is_known(before: list[Verdict], answer: Verdict, follows: Verdict) -> None:
    """That nobody can say is an answer only where nothing is known."""
    verdicts = Verdicts()
    for verdict in before:
        verdicts.note(b"key", verdict, 0, expires_in=HOUR)

    assert verdicts.note(b"key", answer, 1, expires_in=HOUR - 1) == follows


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
            found = verdicts.find(bytes([each]), now)
            assert found is None or not isinstance(found.verdict, Admitted) or now < ends[bytes([each])]


def test_a_flood_of_bad_tokens_drives_out_no_good_one() -> None:
    """They have room of their own."""
    verdicts = Verdicts(most=3)
    verdicts.note(b"good", GOOD, 0, expires_in=HOUR)
    for number in range(100):
        verdicts.note(b"bad-%d" % number, BAD, 1, expires_in=HOUR)

    found = verdicts.find(b"good", 2)
    assert found is not None
    assert found.verdict == GOOD
    assert len(verdicts) == 4


def test_the_token_that_was_reviewed_longest_ago_makes_room() -> None:
    """Sidecars that still ask are reviewed every minute, so those that have gone are forgotten first."""
    verdicts = Verdicts(most=2)
    verdicts.note(b"stays", GOOD, 0, expires_in=HOUR)
    verdicts.note(b"gone", GOOD, 1, expires_in=HOUR)
    verdicts.note(b"stays", GOOD, 60, expires_in=HOUR)
    verdicts.note(b"new", GOOD, 61, expires_in=HOUR)

    assert [verdicts.find(key, 62) is not None for key in (b"stays", b"gone", b"new")] == [True, False, True]
