"""From what should be and what is to an ordered list of writes, each with its reason."""

from __future__ import annotations

from collections.abc import Sequence

from .types import Manifest, Observed, Plan, StepFailure


def plan(desired: Sequence[Manifest], observed: Observed) -> Plan:
    """Creates, applies and deletes that make the owner's children equal to `desired`; strangers are never touched."""
    raise NotImplementedError


def conflicts(desired: Sequence[Manifest], observed: Observed) -> tuple[StepFailure, ...]:
    """A failure for every desired object whose name a stranger holds."""
    raise NotImplementedError
