"""Kubernetes quantities, as far as comparing two of them needs."""

from __future__ import annotations

import re
from decimal import Decimal

_FORM = re.compile(r"^([+-]?[0-9]+(?:\.[0-9]*)?|[+-]?\.[0-9]+)([eE][+-]?[0-9]+|[numkMGTPE]|[KMGTPE]i)?$")
_FACTORS = {"n": Decimal("1e-9"), "u": Decimal("1e-6"), "m": Decimal("1e-3"), "k": Decimal(1000)} | {
    unit: Decimal(1000) ** power for power, unit in enumerate("MGTPE", start=2)
}
_BINARY = {f"{unit}i": Decimal(1024) ** power for power, unit in enumerate("KMGTPE", start=1)}


def parse_quantity(text: str) -> Decimal | None:
    """The number that a quantity such as 1536Mi or 250m stands for; None: it is not a quantity."""
    match = _FORM.match(text)
    if not match:
        return None
    number, unit = match[1], match[2] or ""
    if unit[:1] in ("e", "E") and len(unit) > 1 and unit != "Ei":
        return Decimal(number + unit)
    return Decimal(number) * (_FACTORS | _BINARY | {"": Decimal(1)})[unit]
