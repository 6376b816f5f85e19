"""Scorers against the formulas of their papers, on cases worked out by hand."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flotilla_router.embedders.embedding import Embedding
from flotilla_router.strategies import qualitygap
from flotilla_router.strategies.cluster import Clusters, min_max
from flotilla_router.strategies.scores import ClusterScores, PairScore
from flotilla_router.strategies.winrate import Linear, SimilarityWeighted, sigmoid

UNIT = st.floats(0, 1)


def dense(*values: float) -> Embedding:
    """A prompt without a sparse part."""
    return Embedding(np.zeros(0, np.intp), np.zeros(0, np.float32), np.array(values, np.float32))


def floats(values: object) -> np.ndarray:
    return np.array(values, np.float32)


def test_linear_is_the_sigmoid_of_the_product() -> None:
    """0.6 x 2 - 0.8 x 1 + 0.6 = 1, and sigmoid(1) = 0.7310586."""
    assert Linear(floats([2, -1]), 0.6, 0)(dense(0.6, 0.8)) == pytest.approx(0.7310586)


def test_linear_reads_buckets_before_the_dense_part() -> None:
    """Buckets 1 and 3 of 4 at 0.6 and 0.8, then one dense number: 0.6 x 5 + 0.8 x 10 - 2 x 5.5 = 0."""
    embedding = Embedding(np.array([1, 3]), floats([0.6, 0.8]), floats([2]))

    assert Linear(floats([99, 5, 99, 10, -5.5]), 0.0, 4)(embedding) == pytest.approx(0.5)


def test_quality_gap_is_one_less_the_probability_that_small_is_as_good() -> None:
    """Hybrid LLM asks the small model where p is high; our scores are high where a prompt is hard."""
    assert qualitygap.score(0.9) == pytest.approx(0.1)


@given(st.floats(-1e6, 1e6))
def test_sigmoid_is_a_probability_without_overflow(logit: float) -> None:
    """Of any logit; sigmoid(-x) = 1 - sigmoid(x)."""
    assert 0 <= sigmoid(logit) <= 1
    assert sigmoid(-logit) == pytest.approx(1 - sigmoid(logit))


def test_similarity_weights_are_powers_of_gamma() -> None:
    """Cosines 0.8 and 0.4, over the largest 1 and 0.5: weights 10^2 and 10^1.5, so 100 / (100 + 31.623) = 0.7597.

    RouteLLM, section 4.2: omega_i = gamma^(1 + S), S the cosine over the largest cosine.
    """
    scorer = SimilarityWeighted(floats([[1, 0.5], [0, 0]]), floats([1, 0]), floats([1, 1]), gamma=10, buckets=0)

    assert scorer(dense(0.8, 0.6)) == pytest.approx(100 / (100 + 10**1.5), abs=1e-5)


def test_similarity_weights_count_prototypes_of_many() -> None:
    """A prototype that stands for three prompts weighs three times as much: 30 x 0.5 + 10 = 25 of 40."""
    scorer = SimilarityWeighted(floats([[1, 1]]), floats([0.5, 1]), floats([3, 1]), gamma=10, buckets=0)

    assert scorer(dense(1)) == pytest.approx(25 / 40)


def test_similarity_weighted_equals_the_bradley_terry_likelihood_maximised_by_search() -> None:
    """The weighted mean is where the weighted cross entropy of sigmoid(xi_strong - xi_weak) is least."""
    rng = np.random.default_rng(3)
    columns = rng.normal(size=(4, 20))
    columns /= np.linalg.norm(columns, axis=0)
    outcomes, prompt = rng.random(20), columns[:, 0]
    cosines = prompt @ columns
    weights = 10 ** (1 + np.maximum(cosines / cosines.max(), -1))
    gaps = np.linspace(-4, 4, 80_001)
    strong = 1 / (1 + np.exp(-gaps))
    loss = -(weights @ outcomes) * np.log(strong) - (weights @ (1 - outcomes)) * np.log(1 - strong)

    scorer = SimilarityWeighted(floats(columns), floats(outcomes), np.ones(20, np.float32), gamma=10, buckets=0)

    assert scorer(dense(*prompt)) == pytest.approx(strong[loss.argmin()], abs=1e-4)


def test_a_prompt_like_no_prototype_gets_the_mean_of_all() -> None:
    """An empty prompt has no direction: 2 of 3 prompts were won."""
    scorer = SimilarityWeighted(floats([[1, 0], [0, 1]]), floats([1, 0]), floats([2, 1]), gamma=10, buckets=0)

    assert scorer(dense(0, 0)) == pytest.approx(2 / 3)


MODELS = ("small", "middle", "large")
QUALITY = floats([[0.2, 0.6, 1.0], [0.5, 0.5, 0.9], [0.7, 0.7, 0.7]])
COST = floats([[1, 3, 5], [1, 2, 9], [1, 4, 4]])
CENTROIDS = floats([[1, 0, -1], [0, 1, 0]])


def clusters(nearest: int) -> Clusters:
    return Clusters(MODELS, CENTROIDS, QUALITY, COST, nearest=nearest, buckets=0)


def test_the_nearest_cluster_scores_by_scaled_quality_and_cost() -> None:
    """Near the first centroid p~ = (0, .5, 1) and q~ = (0, .5, 1): x = alpha p~ + (1 - alpha)(1 - q~).

    At alpha 0.7 that is (0.3, 0.5, 0.7); at 0.2 it is (0.8, 0.5, 0.2).
    """
    scores = clusters(1)(dense(0.9, 0.1))

    assert list(scores.utilities(0.7).values()) == pytest.approx([0.3, 0.5, 0.7])
    assert scores.ranked(0.7) == ("large", "middle", "small")
    assert list(scores.utilities(0.2).values()) == pytest.approx([0.8, 0.5, 0.2])
    assert scores.ranked(0.2) == MODELS


def test_two_nearest_clusters_vote_with_equal_weight() -> None:
    """Second: p~ = (0, 0, 1), q~ = (0, 1/8, 1). The means: p~ (0, .25, 1), 1 - q~ (1, .6875, 0)."""
    scores = clusters(2)(dense(0.7, 0.7))

    assert scores.quality == pytest.approx((0, 0.25, 1))
    assert scores.thrift == pytest.approx((1, 0.6875, 0))


def test_nearness_is_euclidean_also_where_centroids_are_short() -> None:
    """Centroids of k-means lie within the ball: (0.2, 0) is nearer to (0.1, 0) than the larger product (1, 0)."""
    near = Clusters(
        MODELS[:2], floats([[1, 0.1], [0, 0]]), floats([[0, 1], [1, 0]]), floats([[1, 2]] * 2), nearest=1, buckets=0
    )

    assert near(dense(0.2, 0)).quality == (1, 0)


def test_equal_qualities_or_costs_prefer_nobody() -> None:
    """Where a row has no spread, nothing is divided by zero, and the order of the artifact stands."""
    assert min_max(floats([[0.7, 0.7], [1, 3]])).tolist() == [[0, 0], [0, 1]]
    assert ClusterScores(("a", "b"), (0, 0), (1, 1)).ranked(0.5) == ("a", "b")


def test_more_neighbours_than_clusters_are_all_of_them() -> None:
    """An artifact of three clusters may ask for five."""
    assert clusters(5)(dense(1, 0)).quality == clusters(3)(dense(-1, 0)).quality


@given(UNIT, st.lists(UNIT, min_size=2, max_size=20))
def test_a_higher_threshold_never_makes_a_prompt_hard(score: float, thresholds: list[float]) -> None:
    """Strong if and only if score >= threshold; so calls to the strong model fall with the threshold."""
    strong = [PairScore("weak", "strong", score).ranked(each)[0] == "strong" for each in sorted(thresholds)]

    assert strong == [score >= each for each in sorted(thresholds)]
    assert all(before >= after for before, after in pairwise(strong))


@given(st.lists(st.tuples(UNIT, UNIT), min_size=2, max_size=6), st.lists(UNIT, min_size=2, max_size=6))
def test_a_higher_alpha_never_chooses_worse_quality(models: list[tuple[float, float]], alphas: list[float]) -> None:
    """The quality of the first choice rises with alpha, its thrift falls."""
    names = tuple(map(str, range(len(models))))
    scores = ClusterScores(names, tuple(q for q, _ in models), tuple(t for _, t in models))
    first = [int(scores.ranked(alpha)[0]) for alpha in sorted(alphas)]

    assert all(models[before][0] <= models[after][0] + 1e-9 for before, after in pairwise(first))
    assert all(set(scores.ranked(alpha)) == set(names) for alpha in alphas)


def test_scores_that_are_no_numbers_say_so() -> None:
    """A router falls back on its draw then."""
    assert not PairScore("weak", "strong", math.nan).finite
    assert not ClusterScores(("a", "b"), (0.1, math.nan), (0, 0)).finite
    assert PairScore("weak", "strong", 0.1).finite
