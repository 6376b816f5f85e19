"""Figures of merit on cases worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flotilla_learning.choices import ALPHAS, evaluate_choices, table_of
from flotilla_learning.datasets import Example, Outcome
from flotilla_learning.errors import TrainingError
from flotilla_learning.metrics import NoLeadError, apgr_difference, apgr_of, evaluate, pair_of
from flotilla_router.strategies.scores import ClusterScores


def rows(*outcomes: tuple[float, float], groups: tuple[str, ...] | None = None) -> list[Example]:
    return [
        Example(
            str(number),
            "p" * number,
            {"weak": Outcome(weak), "strong": Outcome(strong)},
            (groups or {})[number] if groups else "",
        )
        for number, (weak, strong) in enumerate(outcomes)
    ]


EASY_LAST = rows((0, 1), (0, 1), (1, 1), (1, 1))
"""The strong model adds something to the first two of four."""


def test_the_curve_of_a_perfect_order() -> None:
    """Half of the calls recover the whole lead: the area is a triangle of 1/4 and a square of 1/2, and a quarter
    of the calls recovers half."""
    found = evaluate([4, 3, 2, 1], pair_of(EASY_LAST, "weak", "strong"))

    assert found.apgr.value == pytest.approx(0.75)
    assert found.cpt50.value == pytest.approx(0.25)
    assert found.cpt80.value == pytest.approx(0.4)
    assert (found.weak.value, found.strong.value, found.oracle_apgr) == (0.5, 1.0, pytest.approx(0.75))
    assert found.hypervolume.value == pytest.approx(0.5 + 0.5 * 0.75)
    assert found.curve[0] == (0.0, 0.5)
    assert found.curve[25] == (0.25, pytest.approx(0.75))
    assert found.curve[100] == (1.0, 1.0)


def test_the_curve_of_the_worst_order() -> None:
    """The lead is recovered by the last half of the calls."""
    found = evaluate([1, 2, 3, 4], pair_of(EASY_LAST, "weak", "strong"))

    assert found.apgr.value == pytest.approx(0.25)
    assert found.cpt50.value == pytest.approx(0.75)


def test_scores_that_are_all_the_same_are_worth_a_coin() -> None:
    """Ties go to the strong model together: no order is read into them, not that of the rows either."""
    found = evaluate([1, 1, 1, 1], pair_of(EASY_LAST, "weak", "strong"))

    assert found.apgr.value == pytest.approx(0.5)
    assert found.cpt50.value == pytest.approx(0.5)


def test_the_share_that_recovers_half_is_the_first_crossing() -> None:
    """A curve that overshoots and falls back crosses half a second time; the first counts: 1 of 4, then 2, 1, 1."""
    found = evaluate([4, 3, 2, 1], pair_of(rows((0, 1), (0, 1), (1, 0), (0, 0)), "weak", "strong"))

    assert found.cpt50.value == pytest.approx(0.125)
    assert found.apgr.value == pytest.approx((0.5 + 1.5 + 1.5 + 1) / 4)


def test_there_is_no_lead_to_recover_where_the_strong_model_is_no_better() -> None:
    """Then no share of it means anything."""
    with pytest.raises(NoLeadError):
        evaluate([1, 2], pair_of(rows((1, 0), (0, 1)), "weak", "strong"))


def test_an_interval_takes_whole_groups() -> None:
    """Ten copies of a question are one question: the interval is as wide as that of two questions."""
    alone = rows((0.0, 1.0), (0.5, 1.0))
    copies = rows(*[(0.0, 1.0), (0.5, 1.0)] * 10, groups=("a", "b") * 10)

    single = evaluate([1, 2], pair_of(alone, "weak", "strong"))
    tenfold = evaluate([1, 2] * 10, pair_of(copies, "weak", "strong"))

    assert (tenfold.weak.low, tenfold.weak.high) == (single.weak.low, single.weak.high) == (0.0, 0.5)


def test_a_difference_is_taken_on_the_same_resamples() -> None:
    """A scorer differs from itself by nothing, whatever the questions are."""
    pair = pair_of(EASY_LAST, "weak", "strong")
    same = apgr_difference([4, 3, 2, 1], [40, 30, 20, 10], pair)
    better = apgr_difference([4, 3, 2, 1], [1, 2, 3, 4], pair)

    assert (same.value, same.low, same.high) == (0, 0, 0)
    assert better.value == pytest.approx(0.5)


@given(st.permutations(list(range(6))))
def test_no_order_beats_the_oracle(order: list[int]) -> None:
    """Sorting by what the strong model adds is the best that any scores can do."""
    pair = pair_of(rows((0, 1), (0.5, 1), (1, 1), (0, 0), (1, 0.5), (0.25, 0.5)), "weak", "strong")

    assert apgr_of(np.array(order, float), pair) <= apgr_of(pair.gaps, pair) + 1e-9


def cluster_rows() -> tuple[list[Example], list[ClusterScores]]:
    """`a` is cheap and right on the first of two rows, `b` costs ten times that and is right on the second."""
    outcomes = [
        {"a": Outcome(1, 1.0), "b": Outcome(0, 10.0)},
        {"a": Outcome(0, 1.0), "b": Outcome(1, 10.0)},
    ]
    examples = [Example(str(number), "p", each) for number, each in enumerate(outcomes)]
    scores = [ClusterScores(("a", "b"), (1.0, 0.0), (1.0, 0.0)), ClusterScores(("a", "b"), (0.0, 1.0), (1.0, 0.0))]
    return examples, scores


def test_an_alpha_trades_quality_for_cost() -> None:
    """At 0 all is cheap; above a half the second row goes to the model that knows it, for (1 + 10) / 2 dollars."""
    examples, scores = cluster_rows()

    found = evaluate_choices(scores, table_of(examples, ("a", "b")))
    at = {alpha: (point.quality.value, point.usd.value) for alpha, point in found.by_alpha}

    assert list(at) == list(ALPHAS)
    assert at[0.0] == (0.5, 1.0)
    assert at[0.52] == at[1.0] == (1.0, 5.5)
    assert (found.oracle.quality.value, found.oracle.usd.value) == (1.0, 5.5)
    assert (found.random.quality.value, found.random.usd.value) == (0.5, 5.5)
    assert {model: point.quality.value for model, point in found.singles} == {"a": 0.5, "b": 0.5}


def test_hypervolume_is_the_area_of_what_a_cost_allows() -> None:
    """The one point that is better than the worst model (0.5): height 1 of 1, reach 1 - 5.5 / 10."""
    examples, scores = cluster_rows()

    found = evaluate_choices(scores, table_of(examples, ("a", "b")))

    assert found.hypervolume.value == pytest.approx(0.45)


def test_a_cost_that_is_not_known_is_not_zero() -> None:
    """A table of costs with a hole is refused, with the model's name."""
    examples = [Example("1", "p", {"a": Outcome(1, 1.0), "b": Outcome(0)})]

    with pytest.raises(TrainingError, match="1 of 1 rows do not say what b cost"):
        table_of(examples, ("a", "b"))
