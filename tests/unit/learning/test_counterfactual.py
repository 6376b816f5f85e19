"""What a log's rows say of other choices, and how figures are shown."""

from __future__ import annotations

import numpy as np
import pytest

from flotilla_learning.counterfactual import features_of, first_candidate, judge, outcome_of
from flotilla_learning.datasets import Example, Logged, Outcome
from flotilla_learning.offpolicy import OffPolicy, Reason, Refused
from flotilla_learning.reports import dollars, one_line, table
from flotilla_router.strategies.scores import ClusterScores, PairScore


def a_row(logged: Logged | None, **outcomes: float) -> Example:
    return Example("1", "Why?", {name: Outcome(quality) for name, quality in outcomes.items()}, logged=logged)


@pytest.mark.parametrize(
    ("row", "outcome"),
    [
        pytest.param(a_row(None, small=1.0), None, id="nobody had a choice"),
        pytest.param(a_row(Logged("small", 0.5), big=1.0), None, id="its answer was not judged"),
        pytest.param(a_row(Logged("small", 0.5), small=0.25), Outcome(0.25), id="its own answer"),
        pytest.param(a_row(Logged("small", 0.5, status=200), small=0.25), None, id="what its client got is not known"),
        pytest.param(
            a_row(Logged("small", 0.5, {}, Outcome(1.0, 0.03)), small=0.25, big=1.0),
            Outcome(1.0, 0.03),
            id="escalated: what the client got, and all that it cost",
        ),
    ],
)
def test_outcome_is_what_came_of_the_choice(row: Example, outcome: Outcome | None) -> None:
    """To choose the small model is to get what its answer leads to."""
    assert outcome_of(row) == outcome


@pytest.mark.parametrize(
    ("candidates", "first"),
    [
        pytest.param((), "big", id="not known"),
        pytest.param(("small", "big"), "big", id="all"),
        pytest.param(("small", "sql"), "small", id="not the first"),
        pytest.param(("sql",), None, id="none"),
    ],
)
def test_first_candidate_is_who_might_have_answered(candidates: tuple[str, ...], first: str | None) -> None:
    """As a router passes over who is not eligible."""
    row = a_row(Logged("small", 0.5, {}, None, candidates))

    assert first_candidate(row, ["big", "small"]) == first


def test_features_are_known_before_the_answer() -> None:
    """Of a pair its score, of Cluster each model's quality and thrift; and the prompt's length."""
    pair = features_of([PairScore("a", "b", 0.5)], ["xx"])
    cluster = features_of([ClusterScores(("a", "b"), (0.1, 0.2), (1.0, 0.0))], [""])

    assert pair.tolist() == [[0.5, 0.25, pytest.approx(np.log(3))]]
    assert cluster.tolist() == [[0.1, 0.2, 1.0, 0.0, 0.0]]


def test_dollars_are_unknown_if_those_of_one_row_are() -> None:
    """They are no zero; quality is estimated all the same."""
    rows = [
        a_row(Logged(("small", "big")[index % 2], 0.5, {}, Outcome(float(index % 2), None if index == 7 else 0.01)))
        for index in range(400)
    ]

    found = judge(rows, ["big"] * 400, np.zeros((400, 1)), seed=0)

    assert found.usd is None
    assert found.logged_usd is None
    assert isinstance(found.quality, OffPolicy)
    assert found.quality.self_normalised.value == 1.0
    assert found.shares == {"big": (0.5, 1.0), "small": (0.5, 0.0)}


def test_refusal_is_kept() -> None:
    """A model that the log never chose."""
    rows = [a_row(Logged("small", 0.5, {}, Outcome(1.0))) for _ in range(100)]

    found = judge(rows, ["huge"] * 100, np.zeros((100, 1)), seed=0)

    assert isinstance(found.quality, Refused)
    assert found.quality.reason == Reason.NO_SUPPORT


def test_tables_are_aligned() -> None:
    """Names to the left, numbers to the right, nothing behind the last column."""
    assert table([["A", "BB", "C"], ["long", "1", ""]]) == ["A      BB   C", "long    1"]


@pytest.mark.parametrize(("usd", "shown"), [(None, "?"), (0.0, "$0"), (-0.0191, "-$0.0191"), (1234.567, "$1235")])
def test_dollars_have_four_digits(usd: float | None, shown: str) -> None:
    """What is not known is a question."""
    assert dollars(usd) == shown


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        pytest.param("short", "short", id="short"),
        pytest.param("two\n\tlines", "two lines", id="lines"),
        pytest.param("\x1b[2Jgone\x07", "[2Jgone", id="a terminal's codes"),
        pytest.param("x" * 30, "x" * 17 + "...", id="long"),
        pytest.param(" " * 100 + "x", "...", id="long and empty"),
    ],
)
def test_prompts_are_shown_on_one_line(text: str, shown: str) -> None:
    """Whatever is in them."""
    assert one_line(text, 20) == shown
