"""What the scaler tells of one expert: the reconciler puts it into the status, events and metrics. PURE."""

from __future__ import annotations

from dataclasses import dataclass

from .types import Input, Note, Rule


@dataclass(frozen=True, slots=True)
class Record:
    """One change of the number of replicas, and why."""

    at: float
    before: int
    after: int
    rule: Rule
    message: str
    counterfactual: str
    inputs: tuple[Input, ...]


@dataclass(frozen=True, slots=True)
class ScalingReport:
    """What is known of an expert's scaling now."""

    recommended: int
    """What the decision and the allocation came to."""
    rule: Rule
    """What bound it."""
    message: str
    records: tuple[Record, ...] = ()
    """Changes by this process, oldest first, bounded."""
    notes: frozenset[Note] = frozenset()
    unknown: str = ""
    """Why demand has not been known for a while; '' where it is or was a moment ago."""
    other_scaler: str = ""
    """Whoever else sets the number, such as HorizontalPodAutoscaler agents/invoice; then nothing is written."""
    failure: str = ""
    """Why the number could not be written; ''."""
    shadow_usd_per_hour: float | None = None
    """What one GPU more in its pool would save; None: prices are unknown, or nothing is short."""
    asleep: int = 0
    """Replicas that sleep."""


@dataclass(frozen=True, slots=True)
class Recommendation:
    """What others' autoscalers are told of an expert."""

    replicas: int
    """What the decision and the allocation came to."""
    current: int
    """What is asked for now."""
    rule: Rule
    message: str
    age_seconds: float
    """Since it was decided."""
