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
    for index, share in enumerate(scores):
        draw -= share
        if draw < 0:
            return index
    return len(scores) - 1
