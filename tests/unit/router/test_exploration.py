"""Random choices and their probabilities."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flotilla_router.exploration import Way, explored, propensity


@pytest.mark.parametrize(
    ("draw", "index"),
    [
        pytest.param(0.01, 0, id="the first of four"),
        pytest.param(0.06, 2, id="the third"),
        pytest.param(0.0999, 3, id="the last"),
        pytest.param(0.1, None, id="not explored"),
        pytest.param(0.9, None, id="nor here"),
    ],
)
def test_a_share_of_the_draws_explores_all_models_alike(draw: float, index: int | None) -> None:
    """One request in ten goes to any of four models."""
    assert explored(4, ratio=0.1, draw=draw) == index


def test_nothing_is_explored_without_a_ratio_or_a_model() -> None:
    """Whatever the draw."""
    assert explored(2, ratio=0.0, draw=0.0) is None
    assert explored(0, ratio=1.0, draw=0.5) is None


def test_a_choice_may_come_of_the_strategy_or_of_exploration() -> None:
    """A tenth of the requests goes to any of four models, the rest to the preferred one."""
    assert propensity([Way(1.0, 4, True, 1.0)], 0.1) == pytest.approx(0.925)
    assert propensity([Way(1.0, 4, True, 0.0)], 0.1) == pytest.approx(0.025)


def test_what_a_canary_might_have_chosen_counts() -> None:
    """A quarter of the sessions has an artifact that prefers this model, and that chooses among one model more.

    3/4 x 0.2 / 2 + 1/4 x (0.2 / 3 + 0.8).
    """
    ways = [Way(0.75, 2, True, 0.0), Way(0.25, 3, True, 1.0)]

    assert propensity(ways, 0.2) == pytest.approx(0.075 + 0.25 * (0.2 / 3 + 0.8))


def test_a_model_that_an_order_lacks_is_not_explored_by_it() -> None:
    """A draw by weight may lead to it all the same; where nobody is eligible every request is drawn."""
    assert propensity([Way(1.0, 2, False, 0.5)], 0.2) == pytest.approx(0.4)
    assert propensity([Way(1.0, 0, False, 0.5)], 0.2) == pytest.approx(0.5)


@given(st.lists(st.floats(0.01, 1), min_size=1, max_size=4), st.integers(1, 5), st.floats(0, 1), st.integers(0, 4))
def test_probabilities_of_all_choices_add_up_to_1(weights: list[float], count: int, ratio: float, shift: int) -> None:
    """Whatever is preferred, some model is chosen, and none with a probability outside [0, 1]."""
    total = sum(weights)
    preferred = [(weight / total, (at + shift) % count) for at, weight in enumerate(weights)]

    propensities = [
        propensity([Way(share, count, True, float(wanted == each)) for share, wanted in preferred], ratio)
        for each in range(count)
    ]

    assert sum(propensities) == pytest.approx(1.0)
    assert all(0.0 <= each <= 1.0 + 1e-12 for each in propensities)
