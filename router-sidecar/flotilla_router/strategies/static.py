"""Static: a draw by weight, the same for every request."""

from __future__ import annotations

from collections.abc import Sequence

from . import Candidate


def score(candidates: Sequence[Candidate]) -> list[float]:
    """Each candidate's share of the draw; they add up to 1."""
    total = sum(candidate.weight for candidate in candidates)
    return [candidate.weight / total for candidate in candidates]


def pick(scores: Sequence[float], draw: float) -> int:
    """Index of the candidate on whose share `draw`, uniform in [0, 1), falls."""
    return split(scores, draw)[0]


def split(scores: Sequence[float], draw: float) -> tuple[int, float]:
    """The same, and where on that share it falls: uniform in [0, 1) again, for another draw."""
    for index, share in enumerate(scores):
        if draw < share:
            return index, draw / share
        draw -= share
    return len(scores) - 1, 0.0
