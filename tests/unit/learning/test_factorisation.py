"""Matrix factorisation against RouteLLM's formula, worked out by hand, and its fit to comparisons."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.sparse import csr_matrix

from flotilla_learning.factorisation import (
    Factorisation,
    Shapes,
    comparisons_of,
    fit_factorisation,
    loss_and_gradient,
)
from flotilla_router.embedders.embedding import Embedding
from flotilla_router.strategies.winrate import Linear

HAND = Factorisation(
    vectors=np.array([[1.0, 0.0], [3.0, 1.0]]),
    projection=np.array([[1.0, 0.0], [2.0, 1.0], [0.0, -1.0]]),
    offset=np.array([0.5, 0.25]),
    readout=np.array([0.5, 2.0]),
)


def test_delta_is_the_papers_bilinear_form() -> None:
    """For q = (1, .5, 0), W1^T q + b = (2.5, .75); delta(weak) = .5 x 2.5 = 1.25, delta(strong) = 3.75 + 1.5 = 5.25."""
    assert HAND.deltas(np.array([[1, 0.5, 0]])).tolist() == [[1.25, 5.25]]


def test_collapsed_plane_of_the_hand_made_model() -> None:
    """w2 o (v_s - v_w) = (1, 2): W1 of it is (1, 4, -2), and b . (1, 2) = 1; at q: 1 + 2 + 1 = 4 = 5.25 - 1.25."""
    plane = HAND.collapsed(0, 1)

    assert (plane.weights.tolist(), plane.bias) == ([1, 4, -2], 1)
    assert plane(np.array([[1, 0.5, 0]])).tolist() == [4]


def test_the_routers_scorer_gives_the_uncollapsed_probability() -> None:
    """sigmoid(5.25 - 1.25) = 0.98201."""
    plane = HAND.collapsed(0, 1)
    embedding = Embedding(np.zeros(0, np.intp), np.zeros(0, np.float32), np.array([1, 0.5, 0], np.float32))

    assert Linear(plane.weights, plane.bias, 0)(embedding) == pytest.approx(1 / (1 + math.exp(-4)))


@given(st.integers(1, 5), st.integers(2, 4), st.integers(1, 6), st.integers(0, 2**32 - 1))
def test_collapsing_changes_no_pairs_score(rank: int, models: int, dims: int, seed: int) -> None:
    """Of any two models and any prompts."""
    rng = np.random.default_rng(seed)
    model = Factorisation(
        rng.normal(size=(models, rank)), rng.normal(size=(dims, rank)), rng.normal(size=rank), rng.normal(size=rank)
    )
    rows = rng.normal(size=(7, dims))
    deltas = model.deltas(rows)

    assert model.collapsed(0, models - 1)(rows) == pytest.approx(deltas[:, models - 1] - deltas[:, 0])


def a_fleet(rows: int, seed: int) -> tuple[csr_matrix, np.ndarray]:
    """Three models: the first knows words 0 to 4, the second 5 to 9, the third all; prompts have one word each."""
    words = np.random.default_rng(seed).integers(0, 10, rows)
    prompts = csr_matrix((np.ones(rows), (np.arange(rows), words)), shape=(rows, 10))
    return prompts, np.stack([words < 5, words >= 5, words >= 0], axis=1).astype(float)


def test_comparisons_teach_who_knows_what() -> None:
    """The first is a match for the third where it knows the word, and loses where it does not."""
    prompts, quality = a_fleet(400, seed=1)
    model = fit_factorisation(prompts, quality, rank=3, penalty=0.01, seed=0)
    gaps = model.collapsed(0, 2)(np.eye(10))

    assert gaps[:5].max() < 0.5
    assert gaps[5:].min() > 2


def test_models_that_are_never_compared_learn_from_each_other() -> None:
    """First and second have no prompt in common; both were compared with the third, and the order is right."""
    prompts, quality = a_fleet(400, seed=2)
    quality[::2, 0] = np.nan
    quality[1::2, 1] = np.nan
    gaps = fit_factorisation(prompts, quality, rank=3, penalty=0.01, seed=0).collapsed(0, 1)(np.eye(10))

    assert gaps[:5].max() < -1
    assert gaps[5:].min() > 1


def test_the_gradient_is_that_of_theloss_and_gradient() -> None:
    """By central differences, on numbers drawn at random."""
    prompts, quality = a_fleet(30, seed=3)
    quality[4, 1] = np.nan
    shapes, comparisons = Shapes(10, 3, 2), list(comparisons_of(quality))
    numbers = np.random.default_rng(4).normal(size=shapes.size)
    _, gradient = loss_and_gradient(shapes.parted(numbers), prompts, comparisons, 0.1)
    for index in range(0, shapes.size, 3):
        step = np.eye(shapes.size)[index] * 1e-5
        above, below = (
            loss_and_gradient(shapes.parted(numbers + sign * step), prompts, comparisons, 0.1)[0] for sign in (1, -1)
        )

        assert gradient[index] == pytest.approx((above - below) / 2e-5, abs=1e-6)


def test_the_same_seed_gives_the_same_model() -> None:
    """Training can be repeated."""
    prompts, quality = a_fleet(60, seed=5)
    one, two = (fit_factorisation(prompts, quality, rank=2, penalty=1, seed=7).collapsed(0, 1) for _ in range(2))

    assert one.weights.tolist() == two.weights.tolist()
