"""What a model costs: per token where it is said, else per second of a GPU slot."""

from __future__ import annotations

from decimal import Decimal

from flotilla_api.accelerator import AcceleratorProfileSpec
from flotilla_api.expert import DEFAULT_MAX_NUM_SEQS, TokenCost
from flotilla_api.snapshot import TimePrice, TokenPrice

from .specs import Served


def token_price(cost: TokenCost) -> TokenPrice:
    """Dollars per million tokens."""
    return TokenPrice(
        inputPerMillionUSD=float(cost.inputPerMillionUSD), outputPerMillionUSD=float(cost.outputPerMillionUSD)
    )


def served_price(served: Served, profile: AcceleratorProfileSpec | None) -> TokenPrice | TimePrice | None:
    """Token prices where the owner names them, else the price of a slot's time; None: unknown.

    A slot's second costs hourlyUSD x GPUs / 3600 / maxNumSeqs dollars.
    """
    if served.cost:
        return token_price(served.cost)
    if profile is None or profile.hourlyUSD is None:
        return None
    slots = (served.spec.engine and served.spec.engine.maxNumSeqs) or DEFAULT_MAX_NUM_SEQS
    return TimePrice(perSecondUSD=float(Decimal(profile.hourlyUSD) * served.gpus / 3600 / slots))


def hourly_cost_usd(served: Served, profile: AcceleratorProfileSpec | None, *, replicas: int) -> str | None:
    """Dollars per hour of the GPUs of `replicas` replicas, with cents; None: unknown."""
    if profile is None or profile.hourlyUSD is None:
        return None
    return f"{Decimal(profile.hourlyUSD) * served.gpus * replicas:.2f}"
