"""Waiting for a condition, never for a time."""

from __future__ import annotations

import time
from collections.abc import Callable

import httpx

POLL_SECONDS = 0.05


def wait_until(
    condition: Callable[[], bool], what: str, *, timeout_seconds: float, check: Callable[[], None] = lambda: None
) -> None:
    """Return once `condition` holds; a refused or failed request in it counts as not yet. `check` may give up.

    Raises:
        TimeoutError: it did not come to hold; the message says `what` was awaited.
    """
    deadline = time.monotonic() + timeout_seconds
    while not _holds(condition):
        check()
        if time.monotonic() > deadline:
            raise TimeoutError(f"waited {timeout_seconds:.0f} s for {what}")
        time.sleep(POLL_SECONDS)


def _holds(condition: Callable[[], bool]) -> bool:
    try:
        return condition()
    except (httpx.TransportError, httpx.HTTPStatusError):
        return False
