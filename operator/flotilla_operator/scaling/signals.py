"""A measured value in three states: a value with its age, a confirmed zero, or unknown. PURE."""

from __future__ import annotations

import math
from dataclasses import dataclass

STALE_SECONDS = 90.0
"""A value that is older says nothing of now: six scrapes of 15 s were missed."""


@dataclass(frozen=True, slots=True)
class Known:
    """Measured. 0.0 is a confirmed zero: whoever would count was asked and had counted nothing."""

    value: float
    age_seconds: float = 0.0
    """Since the newest sample that it is made of."""


@dataclass(frozen=True, slots=True)
class Unknown:
    """Not measured, or only in part. It is no zero: nothing may shrink on it."""

    why: str
    at_least: float = 0.0
    """What was measured all the same: that much is certain, and may be acted on."""


Signal = Known | Unknown
NOT_MEASURED = Unknown("not measured")


def fresh(signal: Signal) -> Signal:
    """`signal`, or Unknown where it is stale or no amount."""
    if isinstance(signal, Unknown):
        return signal
    if not math.isfinite(signal.value) or signal.value < 0:
        return Unknown(f"{signal.value} is no amount")
    if signal.age_seconds > STALE_SECONDS:
        return Unknown(f"last measured {signal.age_seconds:.0f} s ago")
    return signal


def value_of(signal: Signal, default: float = 0.0) -> float:
    """The value where it is known and fresh, else `default`."""
    found = fresh(signal)
    return found.value if isinstance(found, Known) else default
