"""Time that passes only when a test says so."""

from __future__ import annotations

import asyncio
import heapq
import itertools
from datetime import UTC, datetime, timedelta

SETTLE_ROUNDS = 100
"""Turns of the event loop after which everything that can happen without time passing has happened."""


class VirtualClock:
    """Implements the operator's `Clock`."""

    def __init__(self) -> None:
        self._seconds = 0.0
        self._jumped = timedelta()
        self._sleepers: list[tuple[float, int, asyncio.Future[None]]] = []
        self._numbers = itertools.count()

    def now(self) -> datetime:
        """UTC now."""
        return datetime(2026, 1, 1, tzinfo=UTC) + timedelta(seconds=self._seconds) + self._jumped

    def jump(self, seconds: float) -> None:
        """The clock on the wall is set forward, or back; no time passes."""
        self._jumped += timedelta(seconds=seconds)

    def monotonic(self) -> float:
        """Seconds since the clock was made."""
        return self._seconds

    @property
    def sleepers(self) -> int:
        """How many wait for a moment to come."""
        return sum(not future.done() for _, _, future in self._sleepers)

    async def sleep(self, seconds: float) -> None:
        """Returns once `advance` has passed the moment."""
        future = asyncio.get_running_loop().create_future()
        heapq.heappush(self._sleepers, (self._seconds + seconds, next(self._numbers), future))
        await future

    async def advance(self, seconds: float) -> None:
        """Time passes; each sleeper wakes at its own moment and does what it can before the next one."""
        end = self._seconds + seconds
        await settle()
        while self._sleepers and self._sleepers[0][0] <= end:
            moment, _, future = heapq.heappop(self._sleepers)
            self._seconds = max(self._seconds, moment)
            if not future.done():
                future.set_result(None)
            await settle()
        self._seconds = end


async def settle() -> None:
    """Everything that can happen without time passing has happened."""
    for _ in range(SETTLE_ROUNDS):
        await asyncio.sleep(0)
