"""Scores that have moved."""

from __future__ import annotations

from collections.abc import Sequence
from math import log
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flotilla_router.drift import DRIFTED_INDEX, LEAST_SCORES, WINDOW_SCORES, Drift

EVEN = [rank / 100 for rank in range(101)]


def index_of(quantiles: Sequence[float], scores: Sequence[float]) -> float | None:
    """The index after these scores."""
    drift = Drift(quantiles)
    for score in scores:
        drift.note(score)
    return drift.index


def test_scores_like_the_artifacts_own_have_not_drifted() -> None:
    """500 scores of the same distribution stay below 0.1; by chance alone 0.02 is usual."""
    draw = Random(1)

    index = index_of(EVEN, [draw.random() for _ in range(500)])

    assert index is not None
    assert index < 0.1


def test_scores_from_elsewhere_have_drifted() -> None:
    """Where most prompts are easier than in training, the index is significant."""
    draw = Random(1)

    index = index_of(EVEN, [draw.betavariate(2, 6) for _ in range(500)])

    assert index is not None
    assert index > DRIFTED_INDEX


def test_index_is_what_the_formula_gives() -> None:
    """Three quantiles make bins up to 0, up to 0.5, up to 1 and beyond, each with half a score added.

    Expected: 1.5, 1.5, 1.5 and 0.5 of 5. Live, of 200 scores and 2: 0.5, 50.5, 150.5 and 0.5.
    """
    live = (0.5 / 202, 50.5 / 202, 150.5 / 202, 0.5 / 202)
    expected = (1.5 / 5, 1.5 / 5, 1.5 / 5, 0.5 / 5)

    index = index_of([0.0, 0.5, 1.0], [0.2] * 50 + [0.8] * 150)

    by_hand = sum((a - e) * log(a / e) for a, e in zip(live, expected, strict=True))
    assert index == pytest.approx(by_hand)


def test_few_scores_say_nothing() -> None:
    """Below 200 the index is unknown, which is not the same as none."""
    assert index_of(EVEN, [2.0] * (LEAST_SCORES - 1)) is None
    assert index_of(EVEN, [2.0] * LEAST_SCORES) is not None


def test_an_artifact_without_quantiles_has_no_index() -> None:
    """There is nothing to compare with."""
    assert index_of([], [0.5] * 500) is None


def test_only_the_last_scores_count() -> None:
    """A drift that is over is forgotten after 500 scores."""
    draw = Random(2)

    index = index_of(EVEN, [5.0] * 1000 + [draw.random() for _ in range(WINDOW_SCORES)])

    assert index is not None
    assert index < 0.1


@given(st.lists(st.floats(), min_size=200, max_size=300), st.lists(st.floats(0, 1), min_size=1, max_size=101))
@settings(max_examples=50)
def test_index_is_finite_and_never_negative(scores: list[float], quantiles: list[float]) -> None:
    """Whatever comes, NaN and infinity included."""
    index = index_of(quantiles, scores)

    assert index is None or 0.0 <= index < 100.0
