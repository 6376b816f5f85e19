"""Random choices and their probabilities."""

from __future__ import annotations

from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flotilla_router.exploration import explore


@pytest.mark.parametrize(
    ("draw", "index", "propensity", "explored"),
    [
        pytest.param(0.9, 2, 0.925, False, id="not explored: 0.9 + 0.1 / 4"),
        pytest.param(0.06, 2, 0.925, True, id="explored, and the same as it would be otherwise"),
        pytest.param(0.01, 0, 0.025, True, id="explored: 0.1 / 4"),
        pytest.param(0.0999, 3, 0.025, True, id="the last of them"),
    ],
)
def test_a_choice_has_the_probability_of_being_made(draw: float, index: int, propensity: float, explored: bool) -> None:
    """One request in ten goes to any of four models; the others to the third."""
    choice = explore([(1.0, 2)], 2, count=4, ratio=0.1, draw=draw)

    assert (choice.chosen, choice.explored) == (index, explored)
    assert choice.propensity == pytest.approx(propensity)


def test_without_exploration_the_choice_is_certain() -> None:
    """A ratio of 0 explores for no draw."""
    assert explore([(1.0, 1)], 1, count=2, ratio=0.0, draw=0.0) == (1, 1.0, False)


def test_what_a_canary_might_have_chosen_counts() -> None:
    """Where one session in four would have got the other model, the choice has a probability of 3 / 4 or 1 / 4."""
    preferred = [(0.75, 0), (0.25, 1)]

    assert explore(preferred, 0, count=2, ratio=0.0, draw=0.5).propensity == 0.75
    assert explore(preferred, 1, count=2, ratio=0.0, draw=0.5).propensity == 0.25


@given(st.lists(st.floats(0.01, 1), min_size=1, max_size=4), st.integers(1, 5), st.floats(0, 1), st.integers(0, 4))
def test_probabilities_of_all_choices_add_up_to_1(weights: list[float], count: int, ratio: float, shift: int) -> None:
    """Whatever is preferred, some model is chosen, and none with a probability outside [0, 1]."""
    total = sum(weights)
    preferred = [(weight / total, (at + shift) % count) for at, weight in enumerate(weights)]

    propensities = [explore(preferred, each, count=count, ratio=ratio, draw=1.0).propensity for each in range(count)]

    assert sum(propensities) == pytest.approx(1.0)
    assert all(0.0 <= each <= 1.0 + 1e-12 for each in propensities)


def test_outcomes_weighted_by_their_propensity_tell_what_every_model_would_have_given() -> None:
    """Inverse propensities recover each model's own quality from a log with exploration and a canary.

    20,000 rows, and weights of at most 1 / 0.05: the estimate's deviation is below sqrt(20 / 20,000) = 0.032.
    """
    draw, qualities, rows = Random(11), (0.9, 0.5, 0.2), 20_000
    sums = [0.0, 0.0, 0.0]
    for _ in range(rows):
        preferred = [(0.8, 0), (0.2, 1)]
        chosen = 0 if draw.random() < 0.8 else 1
        choice = explore(preferred, chosen, count=3, ratio=0.15, draw=draw.random())
        sums[choice.chosen] += (draw.random() < qualities[choice.chosen]) / choice.propensity

    for total, quality in zip(sums, qualities, strict=True):
        assert total / rows == pytest.approx(quality, abs=4 * 0.032)
