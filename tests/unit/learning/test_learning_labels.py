"""Labels against the formulas of RouteLLM (arXiv 2406.18665) and Hybrid LLM (arXiv 2404.14618)."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flotilla_learning.labels import choose_t, det, gap_labels, mean_difference, prob, trans, win_rate


def qualities(*values: float) -> np.ndarray:
    return np.array(values)


@pytest.mark.parametrize(
    ("weak", "strong", "expected"),
    [
        pytest.param(0.0, 1.0, 1.0, id="only strong is right"),
        pytest.param(1.0, 1.0, 0.5, id="both are"),
        pytest.param(0.0, 0.0, 0.5, id="neither is"),
        pytest.param(1.0, 0.0, 0.0, id="only weak is"),
        pytest.param(0.25, 0.75, 0.75, id="a judge's marks"),
    ],
)
def test_win_rate_counts_a_tie_as_half_a_win(weak: float, strong: float, expected: float) -> None:
    """(1 + strong - weak) / 2."""
    assert win_rate(qualities(weak), qualities(strong)) == expected


def test_det_looks_at_the_first_answers() -> None:
    """Section 3.1: one answer of each model."""
    assert det(qualities(0.6, 0.0), qualities(0.6, 1.0)) == 1
    assert det(qualities(0.5, 1.0), qualities(0.6, 0.0)) == 0


def test_prob_is_the_share_of_pairs_of_answers() -> None:
    """Weak 0.2, 0.6 against strong 0.4, 0.6: 0.6 holds against both, 0.2 against none: two of four pairs."""
    assert prob(qualities(0.2, 0.6), qualities(0.4, 0.6)) == 0.5


def test_trans_forgives_a_gap_of_t() -> None:
    """The same answers with t = 0.25: 0.2 >= 0.4 - 0.25 too, so three of four pairs."""
    assert trans(qualities(0.2, 0.6), qualities(0.4, 0.6), 0.25) == 0.75


def test_trans_chooses_the_t_whose_labels_differ_the_most() -> None:
    """Gaps of 0.2, 0.6 and 1: t = 0 and 1 label all alike; from 0.2 on one is 1 (mean difference 4/9), from 0.6 two
    are (4/9 as well): of equals it is the least t of the grid 0, 0.05, ..., 1."""
    prompts = [(qualities(0.8), qualities(1.0)), (qualities(0.4), qualities(1.0)), (qualities(0.0), qualities(1.0))]

    assert choose_t(prompts) == pytest.approx(0.2)
    assert gap_labels(prompts, "Trans").tolist() == [1, 0, 0]
    assert gap_labels(prompts, "Prob").tolist() == gap_labels(prompts, "Det").tolist() == [0, 0, 0]


def test_trans_of_a_weak_model_that_is_never_worse_forgives_nothing() -> None:
    """There is no gap to forgive."""
    assert choose_t([(qualities(1.0), qualities(0.0))]) == 0


@given(st.lists(st.floats(min_value=0, max_value=1), min_size=1, max_size=20))
def test_mean_difference_is_that_of_all_pairs(labels: list[float]) -> None:
    """Sorting is only faster than the double sum of equation 3."""
    pairs = [abs(first - second) for first in labels for second in labels]

    assert mean_difference(labels) == pytest.approx(sum(pairs) / len(pairs), abs=1e-12)


@given(
    st.lists(st.floats(min_value=0, max_value=1), min_size=1, max_size=4),
    st.lists(st.floats(min_value=0, max_value=1), min_size=1, max_size=4),
)
def test_trans_never_falls_with_t(weak: list[float], strong: list[float]) -> None:
    """The more is forgiven, the easier a prompt is."""
    labels = [trans(qualities(*weak), qualities(*strong), t / 4) for t in range(5)]

    assert labels == sorted(labels)
    assert labels[-1] == 1
