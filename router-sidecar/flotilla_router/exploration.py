"""Random choices, and the probability with which each choice was made: what off-policy evaluation stands on."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple


class Way(NamedTuple):
    """One of the orders by which a model may have been chosen."""

    probability: float
    """Of this order; those of all ways add up to 1."""
    eligible: int
    """Models of the order that may answer; 0: there is nothing to explore."""
    included: bool
    """Whether the model is one of them."""
    otherwise: float
    """Probability that it is chosen by this order where nothing is explored."""


def explored(count: int, *, ratio: float, draw: float) -> int | None:
    """With probability `ratio` the index of one of `count` models, each alike; None: nothing is explored.

    draw: uniform in [0, 1).
    """
    if draw >= ratio or count == 0:
        return None
    return min(int(draw / ratio * count), count - 1)


def propensity(ways: Sequence[Way], ratio: float) -> float:
    """The probability with which a model is chosen.

    P = sum over the ways of probability x (e / eligible, if included, + (1 - e) x otherwise), where e is `ratio`, and 0
    where nothing is eligible.
    """
    total = 0.0
    for way in ways:
        explores = ratio if way.eligible else 0.0
        drawn = explores / way.eligible if way.included else 0.0
        total += way.probability * (drawn + (1.0 - explores) * way.otherwise)
    return total
