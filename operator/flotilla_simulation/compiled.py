"""Numba's compiler, with types."""

from __future__ import annotations

from collections.abc import Callable
from typing import ParamSpec, TypeVar, cast

import numba  # pyright: ignore[reportMissingTypeStubs]

P = ParamSpec("P")
R = TypeVar("R")


def compiled(function: Callable[P, R]) -> Callable[P, R]:
    """`function` as machine code, kept between runs."""
    decorate = cast("Callable[[Callable[P, R]], Callable[P, R]]", numba.njit(cache=True))  # pyright: ignore[reportUnknownMemberType]
    return decorate(function)
