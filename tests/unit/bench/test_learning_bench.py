"""What the tables of learned routing are made of."""

from __future__ import annotations

import numpy as np
import pytest

from flotilla_learning.datasets import Example, Outcome
from flotilla_router.strategies.scores import ClusterScores
from learning_bench import sets
from learning_bench.fleet import choose_alpha
from learning_bench.pairs import joint


def test_gsm8k_is_read_without_what_a_model_was_trained_on() -> None:
    """1,319 questions, 12 of them contaminated."""
    rows = sets.gsm8k()

    assert len(rows) == 1307
    assert not [row for row in rows if "ducks lay 16 eggs per day" in row.prompt]


def test_of_the_published_test_part_119_questions_are_in_training_too() -> None:
    """Put together and grouped, no split has one on either side."""
    rows = sets.fleet()
    split = sets.parted(rows, share=0.25, seed=1)

    assert len(rows) - len({row.prompt for row in rows}) == 119
    assert not {row.group for row in split.train} & {row.group for row in split.test}


def test_a_figure_of_several_splits_is_their_mean_and_spans_all_their_resamples() -> None:
    """The first of each split's figures is the figure, the others are its resamples."""
    found = joint([np.array([1.0, *np.linspace(0, 1, 101)]), np.array([3.0, *np.linspace(9, 10, 101)])])

    assert found.value == 2
    assert found.low < 0.1
    assert found.high > 9.9


@pytest.mark.parametrize(("bound", "expected"), [(None, "b"), (0.6, "a")])
def test_alpha_is_the_best_that_the_bound_allows(bound: float | None, expected: str) -> None:
    """`b` is better and five times as dear: with a bound of 0.6 of its cost nothing but `a` is left."""
    rows = [Example("1", "p", {"a": Outcome(0.4, 1.0), "b": Outcome(0.9, 5.0)})]
    scores = [ClusterScores(("a", "b"), (0.0, 1.0), (1.0, 0.0))]

    alpha = choose_alpha(scores, rows, ("a", "b"), bound)

    assert scores[0].ranked(alpha)[0] == expected
