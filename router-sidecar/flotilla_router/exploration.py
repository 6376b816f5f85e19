"""Random choices, and the probability with which each choice was made: what off-policy evaluation stands on."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple


class Choice(NamedTuple):
    """Which of the eligible models answers."""

    chosen: int
    propensity: float
    """Probability of this choice, given the request and what the router knew."""
    explored: bool


def explore(preferred: Sequence[tuple[float, int]], chosen: int, *, count: int, ratio: float, draw: float) -> Choice:
    """Choose `chosen`, or with probability `ratio` any of the `count` eligible models alike.

    preferred: what would be chosen without exploring, by index: several where a canary or a draw on the threshold
    might have decided otherwise, with their probabilities, which add up to 1. draw: uniform in [0, 1).

    P(a) = ratio / count + (1 - ratio) x sum of the probabilities with which a is preferred.
    """
    explored = draw < ratio
    index = min(int(draw / ratio * count), count - 1) if explored else chosen
    wanted = sum([probability for probability, each in preferred if each == index])
    return Choice(index, ratio / count + (1.0 - ratio) * wanted, explored)
