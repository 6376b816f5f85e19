"""Kubernetes quantities: `100m`, `1Gi`, `2e3`."""

from __future__ import annotations

import re
from decimal import ROUND_CEILING, Decimal

_SUFFIXES = {
    "": Decimal(1),
    "n": Decimal("1e-9"),
    "u": Decimal("1e-6"),
    "m": Decimal("1e-3"),
    **{suffix: Decimal(1000) ** power for power, suffix in enumerate("kMGTPE", start=1)},
    **{f"{suffix}i": Decimal(1024) ** power for power, suffix in enumerate("KMGTPE", start=1)},
}
_QUANTITY = re.compile(r"([+-]?[0-9.]+(?:[eE][+-]?[0-9]+)?)([numkMGTPE]?i?)")


def parse_quantity(text: str | int) -> Decimal:
    """The number that a quantity stands for.

    Raises:
        ValueError: it is not a quantity.
    """
    match = _QUANTITY.fullmatch(str(text))
    if match is None or match[2] not in _SUFFIXES:
        raise ValueError(f"{text!r} is not a quantity")
    return Decimal(match[1]) * _SUFFIXES[match[2]]


def divide_up(amount: str | int, divisor: str) -> int:
    """How many divisors the amount holds, rounded up; a divisor of 0 counts as 1, as the API server stores it."""
    by = parse_quantity(divisor) or Decimal(1)
    return int((parse_quantity(amount) / by).to_integral_value(ROUND_CEILING))
