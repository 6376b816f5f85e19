"""Scorers: one file per strategy, each a pure function from eligible candidates to scores in [0, 1]."""

from __future__ import annotations

from dataclasses import dataclass

from flotilla_api.snapshot import Target


@dataclass(frozen=True, slots=True)
class Candidate:
    """An eligible expert and its weight, which is above 0."""

    target: Target
    weight: int
