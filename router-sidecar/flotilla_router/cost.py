"""Dollars: what a call costs, and how an amount is written."""

from __future__ import annotations

from flotilla_api.snapshot import TimePrice, TokenPrice

from .openai import Usage


def token_cost_usd(price: TokenPrice, usage: Usage) -> float:
    """Dollars for an answer."""
    inputs = usage.prompt_tokens * price.inputPerMillionUSD
    return (inputs + usage.completion_tokens * price.outputPerMillionUSD) / 1e6


def call_cost_usd(
    price: TokenPrice | TimePrice | None, usage: Usage | None, *, seconds: float, sent: bool, refused: bool
) -> float | None:
    """Dollars for a call that is over; None: nobody can say.

    sent: the server may have seen it. refused: it answered with an error, before any token.

    | price       | not sent | refused      | with usage   | else         |
    |-------------|----------|--------------|--------------|--------------|
    | by time     | 0        | seconds used | seconds used | seconds used |
    | by tokens   | 0        | 0            | tokens       | unknown      |
    | unknown     | 0        | 0            | unknown      | unknown      |
    """
    if not sent:
        return 0.0
    if type(price) is TimePrice:  # isinstance is dear on pydantic's classes
        return price.perSecondUSD * seconds
    if refused:
        return 0.0
    if type(price) is not TokenPrice or usage is None:
        return None
    return token_cost_usd(price, usage)


def dollars(amount: float) -> str:
    """A decimal without an exponent, down to a billionth of a dollar."""
    return f"{amount:.9f}".rstrip("0").rstrip(".")
