"""Stepping back from whoever else sets the number, and coming back."""

from __future__ import annotations

from flotilla_operator.scaling.rivals import PAUSE_SECONDS, WINDOW_SECONDS, Rivalry, notice, wrote


def seen(*looks: tuple[float, int], start: Rivalry | None = None) -> Rivalry:
    """After looks at (when, number)."""
    rivalry = start or Rivalry()
    for now, live in looks:
        rivalry = notice(rivalry, live, now)
    return rivalry


def test_the_first_number_is_nobodys_change() -> None:
    """Whatever is there when the scaler starts is where it starts from."""
    assert not seen((0, 3)).changes


def test_a_number_that_the_scaler_wrote_is_no_change() -> None:
    """However often it is looked at."""
    rivalry = seen((15, 4), (30, 4), start=wrote(seen((0, 3)), 4))

    assert not rivalry.changes


def test_a_change_to_what_is_wanted_is_nobodys() -> None:
    """A write may be carried out though its answer is lost."""
    rivalry = notice(seen((0, 3)), 4, 15, wanted=4)

    assert not rivalry.changes
    assert len(seen((30, 3), start=rivalry).changes) == 1


def test_one_change_is_put_right() -> None:
    """Somebody may have tried something."""
    rivalry = seen((0, 3), (15, 7))

    assert len(rivalry.changes) == 1
    assert not rivalry.paused


def test_two_changes_within_minutes_are_another_scaler() -> None:
    """Writing again would only be overwritten again."""
    rivalry = wrote(seen((0, 3), (15, 7)), 3)

    assert seen((30, 7), start=rivalry).paused


def test_two_changes_far_apart_are_not() -> None:
    """Two people on one day."""
    rivalry = wrote(seen((0, 3), (15, 7)), 3)

    assert not seen((15 + WINDOW_SECONDS, 7), start=rivalry).paused


def test_the_scaler_comes_back_when_nobody_has_changed_the_number_for_a_while() -> None:
    """While the other goes on, it stays away."""
    paused = seen((30, 7), start=wrote(seen((0, 3), (15, 7)), 3))
    later = 30 + PAUSE_SECONDS

    assert seen((later - 1, 7), start=paused).paused
    assert not seen((later, 7), start=paused).paused
    assert seen((later - 1, 8), (later, 8), start=paused).paused
