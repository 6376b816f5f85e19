"""What the tables of learned routing are made of."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from flotilla_learning.datasets import Example, Outcome
from flotilla_learning.metrics import Interval, pair_of
from flotilla_router.strategies.scores import ClusterScores
from learning_bench import sets
from learning_bench.embedders import BOTH, HASHED, embedders
from learning_bench.fleet import Predict, choose_alpha, choose_by, predict_logistic, predict_neighbours, predict_planes
from learning_bench.pairs import MODELS, SHARES, Replicates, joint
from learning_bench.plots import draw_curves, draw_labels
from learning_bench.sets import Split


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


@pytest.mark.parametrize("predict", [predict_planes, predict_logistic, predict_neighbours])
def test_simple_methods_choose_by_the_words_of_similar_prompts(predict: Predict) -> None:
    """`a` does the sums and `b` the verse; each training row is chosen for by rows that it is not among."""
    prompts = [(f"sum number {n}", 1.0) for n in range(100)] + [(f"verse about {n}", 0.0) for n in range(100)]
    rows = [Example(text, text, {"a": Outcome(sums, 1.0), "b": Outcome(1 - sums, 1.0)}) for text, sums in prompts]

    found = choose_by(Split(rows, [rows[0], rows[-1]]), ("a", "b"), predict)

    assert found.test.tolist() == [0, 1]
    assert found.left_out is not None
    assert found.left_out.tolist() == [0] * 100 + [1] * 100


def test_a_curve_is_the_mean_of_the_splits_curves() -> None:
    """An oracle has the whole lead after half of the calls, its opposite none until then."""
    weak, strong = MODELS
    rows = [Example(str(n), str(n), {weak: Outcome(0.0), strong: Outcome(n % 2)}) for n in range(10)]
    pair = pair_of(rows, *MODELS)

    curve = Replicates().add(pair.gaps, pair, seed=0).add(-pair.gaps, pair, seed=0).curve

    assert np.interp([0, 0.5, 1], SHARES, curve) == pytest.approx([0, 0.5, 1])
    assert np.interp(0.25, SHARES, curve) == pytest.approx(0.25)


def test_word_vectors_know_words_and_lie_beside_the_hashed_ones() -> None:
    """64 numbers of the table, which the default without a table lacks."""
    found = embedders()

    assert found[BOTH].dims == found[HASHED].dims + 64
    assert np.abs(found[BOTH].embed("Which of these numbers is prime?").dense[:64]).max() > 0


def test_pictures_name_what_they_show_and_are_always_the_same(tmp_path: Path) -> None:
    """So that they change in Git only when a figure does."""
    for turn in ("one", "two"):
        draw_curves(tmp_path / f"{turn}-curve.svg", {"ours": SHARES**0.5, "oracle": np.minimum(SHARES * 5, 1)})
        lines = {"ours": {250: Interval(0.55, 0.5, 0.6), 8_000: Interval(0.66, 0.64, 0.68)}}
        draw_labels(tmp_path / f"{turn}-labels.svg", lines, ("length", Interval(0.58, 0.56, 0.6)))

    curve, labels = ((tmp_path / f"one-{name}.svg").read_text() for name in ("curve", "labels"))
    assert all(f">{name}<" in curve for name in ("ours", "oracle", "chance"))
    assert all(f">{name}<" in labels for name in ("ours", "length", "250", "8,000"))
    assert (curve, labels) == tuple((tmp_path / f"two-{name}.svg").read_text() for name in ("curve", "labels"))
