"""Whom an artifact chooses, and what another one changes."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from artifacts import an_artifact, digest
from flotilla_learning.choosing import Setting, SettingError, judge_prompts, rank, threshold_for
from flotilla_learning.datasets import Example, Outcome
from flotilla_learning.diffing import Move, compare, mean_usd
from flotilla_router.artifact import load_artifact
from flotilla_router.strategies.scores import PairScore


def a_row(number: int, **outcomes: tuple[float, float | None]) -> Example:
    return Example(f"r{number}", f"prompt {number}", {name: Outcome(*each) for name, each in outcomes.items()})


ROWS = [
    a_row(1, small=(0.0, 0.001), big=(1.0, 0.011)),
    a_row(2, small=(1.0, 0.001), big=(1.0, 0.021)),
    a_row(3, small=(1.0, 0.001)),
    a_row(4),
]


def test_moves_are_counted_and_priced() -> None:
    """By the row's own dollars, else by the mean of the model: 0.010, 0.015 and 0.015."""
    diff = compare(ROWS, ["small"] * 4, ["big", "small", "big", "big"], seed=0, shown=2)

    (move,) = diff.moves
    assert replace(move, usd=None) == Move("small", "big", 3, None, ("r1", "r3"))
    assert move.usd == pytest.approx(0.040)
    assert (diff.moved, diff.prompts) == (3, 4)
    assert diff.usd_per_request is not None
    assert diff.usd_per_request.value == pytest.approx(0.010)
    assert diff.shares == {"big": (0.0, 0.75), "small": (1.0, 0.25)}


def test_quality_is_of_movers_that_know_both_outcomes() -> None:
    """The first gains 1; of the others that move nothing is known; the second stays: 1 of each mover, 3 of 4 move."""
    diff = compare(ROWS, ["small"] * 4, ["big", "small", "big", "big"], seed=0)

    assert diff.quality_rows == 1
    assert diff.quality is not None
    assert diff.quality.value == pytest.approx(0.75)
    assert (diff.quality.low, diff.quality.high) == (0.25, 1.0)


def test_quality_is_not_diluted_by_rows_that_are_not_labelled() -> None:
    """A tenth of the labels says the same of the same moves, only less surely."""
    rows = [a_row(number, small=(0.0, None), big=(1.0, None)) for number in range(400)]
    partly = [row if number % 10 == 0 else replace(row, outcomes={}) for number, row in enumerate(rows)]
    after = ["big", "big", "small", "small", "small"] * 80

    whole, part = (compare(each, ["small"] * 400, after, seed=0) for each in (rows, partly))

    assert (whole.quality_rows, part.quality_rows) == (160, 40)
    assert whole.quality is not None
    assert part.quality is not None
    assert whole.quality.value == part.quality.value == pytest.approx(0.4)


def test_quality_is_unknown_while_no_mover_is_known() -> None:
    """Those that stay are no evidence of what moves do."""
    diff = compare(ROWS, ["small"] * 4, ["small", "small", "big", "big"], seed=0)

    assert (diff.quality, diff.quality_rows) == (None, 0)


def test_unknown_cost_is_no_dollars_rather_than_zero() -> None:
    """A model that no row has a price of."""
    diff = compare([a_row(1, small=(1.0, 0.001))], ["small"], ["huge"], seed=0)

    assert diff.usd_per_request is None
    assert diff.moves[0].usd is None
    assert diff.quality is None
    assert mean_usd([a_row(1, small=(1.0, None))]) == {}


def test_same_choices_move_nobody() -> None:
    """And cost nothing, whatever is known."""
    diff = compare(ROWS, ["small", "big", "huge", "small"], ["small", "big", "huge", "small"], seed=0)

    assert (diff.moves, diff.moved) == ((), 0)
    assert diff.usd_per_request is not None
    assert diff.usd_per_request.value == 0.0


@given(st.lists(st.sampled_from(["a", "b", "c"]), min_size=1, max_size=8))
def test_way_back_is_the_opposite(before: list[str]) -> None:
    """Each move has its counterpart, at the negative price."""
    rows = [a_row(index, a=(0.1, 1.0), b=(0.5, 2.0), c=(0.9, 4.0)) for index in range(len(before))]
    after = before[::-1]

    there, back = compare(rows, before, after, seed=0), compare(rows, after, before, seed=0)

    assert {(each.before, each.after, each.prompts, each.usd) for each in there.moves} == {
        (each.after, each.before, each.prompts, None if each.usd is None else -each.usd) for each in back.moves
    }
    assert sum(each.usd or 0.0 for each in there.moves) == pytest.approx(0.0)


@given(st.lists(st.floats(0, 1), min_size=1, max_size=30), st.floats(0, 1))
def test_threshold_gives_the_largest_share_that_is_not_too_large(scores: list[float], ratio: float) -> None:
    """Prompts of one score cannot be told apart; with the next one more would be strong than asked for."""
    pairs = [PairScore("weak", "strong", score) for score in scores]

    threshold = threshold_for(pairs, ratio)

    strong = sum(score >= threshold for score in scores)
    allowed = [sum(score >= each for score in scores) for each in [*scores, 2.0]]
    assert strong == max(each for each in allowed if each <= ratio * len(scores) + 1e-6)


def test_choices_follow_the_setting() -> None:
    """A threshold, or a share of the strong model; an alpha is another strategy's."""
    files = an_artifact()
    artifact = load_artifact(files, digest(files))
    scores = judge_prompts(artifact.judge, ["prove the theorem", "hello you", "prove", "hello"], lambda _: None)

    def first(setting: Setting) -> list[str]:
        return [each[0] for each in rank(artifact, scores, setting)]

    assert first(Setting(threshold=0.5)) == ["strong", "weak", "strong", "weak"]
    assert first(Setting(threshold=0.0)) == ["strong"] * 4
    assert first(Setting(strong_ratio=0.0)) == ["weak"] * 4
    assert first(Setting(strong_ratio=0.3)).count("strong") == 1
    with pytest.raises(SettingError, match="a WinRate artifact takes a threshold"):
        rank(artifact, scores, Setting(alpha=0.5))
