"""The share of the requests that the strong model gets."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flotilla_router.strong_ratio import StrongRatio

Scores = Callable[[Random], float]


def even(draw: Random) -> float:
    """Scores alike likely everywhere."""
    return draw.random()


TRAFFIC: dict[str, Scores] = {
    "the calibration's own": even,
    "easier": lambda draw: draw.betavariate(2, 12),
    "harder": lambda draw: draw.betavariate(20, 2),
    "all below the calibration's": lambda draw: -draw.random(),
    "all above it": lambda draw: 1 + draw.random(),
    "one score for all": lambda draw: 0.4,
    "three scores": lambda draw: draw.choice([0.2, 0.4, 0.8]),
}
EVEN = [(threshold / 20, 1 - threshold / 20) for threshold in range(21)]
"""The calibration of scores alike likely everywhere."""


def strong_calls(ratio: StrongRatio, scores: Scores, count: int, draw: Random) -> list[bool]:
    """Which of so many requests went to the strong model."""
    return [ratio.decide(scores(draw), draw.random()).strong for _ in range(count)]


def share(calls: Sequence[bool]) -> float:
    return sum(calls) / len(calls)


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("name", TRAFFIC)
def test_strong_ratio_is_held_on_traffic_that_was_not_calibrated_on(name: str, seed: int) -> None:
    """A target of 0.30 is met within 0.03 by the first 500 requests, and by the next 500."""
    ratio, draw = StrongRatio(0.3, EVEN), Random(seed)

    calls = strong_calls(ratio, TRAFFIC[name], 1000, draw)

    assert share(calls[:500]) == pytest.approx(0.3, abs=0.03)
    assert share(calls[500:]) == pytest.approx(0.3, abs=0.03)


@pytest.mark.parametrize("name", TRAFFIC)
def test_strong_ratio_is_held_again_after_a_shift(name: str) -> None:
    """500 requests after the traffic has changed the share is what it should be."""
    ratio, draw = StrongRatio(0.3, EVEN), Random(5)
    strong_calls(ratio, even, 2000, draw)

    calls = strong_calls(ratio, TRAFFIC[name], 1500, draw)

    assert share(calls[500:1000]) == pytest.approx(0.3, abs=0.03)
    assert share(calls[1000:]) == pytest.approx(0.3, abs=0.03)


def test_strong_ratio_starts_from_the_calibration() -> None:
    """The first request is judged by the calibrated threshold of the wanted share, between the table's rows."""
    assert StrongRatio(0.3, EVEN).threshold == pytest.approx(0.7, abs=0.03)
    assert StrongRatio(0.3, [(0.9, 0.1), (0.1, 0.5)]).threshold == pytest.approx(0.5, abs=0.03)


def test_strong_ratio_sends_the_harder_prompts() -> None:
    """Once it has settled, nine of ten of the hardest fifth go to the strong model, and none of the easiest half."""
    ratio, draw = StrongRatio(0.3, EVEN), Random(3)
    strong_calls(ratio, even, 500, draw)
    scores = [draw.random() for _ in range(2000)]

    calls = [(score, ratio.decide(score, draw.random()).strong) for score in scores]

    assert share([strong for score, strong in calls if score > 0.8]) > 0.9
    assert share([strong for score, strong in calls if score < 0.5]) < 0.01


@pytest.mark.parametrize("target", [0.0, 1.0])
def test_strong_ratio_of_all_or_nothing_has_no_exceptions(target: float) -> None:
    """A target of 0 or 1 is met by every request, a score beyond all others included."""
    ratio, draw = StrongRatio(target, EVEN), Random(1)

    calls = [ratio.decide(score, draw.random()).strong for score in (-1.0, 0.5, 2.0, 3.0, -4.0)]

    assert calls == [bool(target)] * 5


def test_strong_ratio_without_a_calibration_is_refused() -> None:
    """There is nothing to start from."""
    with pytest.raises(ValueError, match="calibration"):
        StrongRatio(0.3, [])


def test_strong_ratio_of_scores_that_are_none_is_kept() -> None:
    """NaN and infinity are judged, and leave no trace in the window."""
    ratio = StrongRatio(0.3, EVEN)
    before = ratio.threshold

    for score in (float("nan"), float("inf"), float("-inf")) * 100:
        ratio.note(score)

    assert ratio.threshold == before


SCORES = st.floats(0, 1) | st.sampled_from([0.0, 0.5, 1.0])


@given(st.lists(SCORES, min_size=1, max_size=600), st.floats(0.01, 0.99), st.randoms(use_true_random=False))
@settings(max_examples=60)
def test_verdicts_agree_with_their_probability_and_threshold(scores: list[float], target: float, draw: Random) -> None:
    """Above the threshold everything is strong, below it nothing; the probability is that of the verdict's draw."""
    ratio = StrongRatio(target, EVEN)
    for score in scores:
        position = draw.random()

        verdict = ratio.decide(score, position)

        assert verdict.strong == (position < verdict.probability)
        if score != verdict.threshold:
            assert verdict.probability == float(score > verdict.threshold)
        assert 0.0 <= verdict.probability <= 1.0


@given(st.lists(SCORES, min_size=300, max_size=600), st.floats(0.05, 0.6))
@settings(max_examples=60)
def test_the_strong_model_is_never_asked_for_more_than_twice_the_share(scores: list[float], target: float) -> None:
    """Whatever is owed, the threshold leaves no more than twice the target of the last 200 scores above it."""
    ratio = StrongRatio(target, EVEN)
    for score in scores:
        ratio.decide(score, 0.999999)  # a draw on the threshold is always lost, so that as much as possible is owed

    above = sum(score > ratio.threshold for score in scores[-200:])

    assert above <= 2 * target * 200
