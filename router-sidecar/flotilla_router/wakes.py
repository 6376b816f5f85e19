"""Wakes: tells the control API which sleeping experts are asked for, and never holds up a request for it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from math import inf

from .control import ControlError
from .telemetry import Telemetry

WAKE_SECONDS = 3.0
"""Longest wait for an answer."""
REPEAT_SECONDS = 3.0
"""Between two wakes of an expert that is still asked for."""
RETRY_SECONDS = 1.0
"""After one that was not taken."""

Ask = Callable[[str, float], Awaitable[None]]
"""Has an expert woken, within some seconds. Raises ControlError, OSError or TimeoutError: that was not taken."""


class Wakes:
    """At most one wake of an expert is under way, and at most one a second is sent."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        ask: Ask,
        telemetry: Telemetry,
        *,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self._loop = loop
        self._now = now
        self._ask = ask
        self._telemetry = telemetry
        self._next_at: dict[str, float] = {}
        """By expert: from when on it may be woken again, in monotonic seconds; inf while a wake is under way."""
        self._failing: set[str] = set()
        """Experts whose last wake was not taken."""
        self._tasks: set[asyncio.Task[None]] = set()

    def wake(self, expert: str) -> None:
        """The expert is asked for; whoever scales it hears of it soon."""
        if self._now() < self._next_at.get(expert, 0.0):
            return
        self._next_at[expert] = inf
        task = self._loop.create_task(self._send(expert))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def close(self) -> None:
        """Nothing is under way."""
        for task in tuple(self._tasks):
            task.cancel()

    async def _send(self, expert: str) -> None:
        pause = RETRY_SECONDS
        try:
            async with asyncio.timeout(WAKE_SECONDS):
                await self._ask(expert, WAKE_SECONDS)
        except (ControlError, OSError) as error:
            self._failed(expert, str(error) or "the control API does not answer in time")
        except Exception as error:  # our own mistake, about one expert: it is tried again
            self._failed(expert, f"the router failed: {error!r}")
            self._loop.call_exception_handler({"message": "an expert could not be woken", "exception": error})
        else:
            self._sent(expert)
            pause = REPEAT_SECONDS
        finally:
            self._next_at[expert] = self._now() + pause

    def _sent(self, expert: str) -> None:
        self._telemetry.woke(expert, "ok")
        if expert in self._failing:
            self._failing.discard(expert)
            self._telemetry.say("wakes are taken again", expert=expert)

    def _failed(self, expert: str, error: str) -> None:
        """Counted each time, logged the first time."""
        self._telemetry.woke(expert, "failed")
        if expert not in self._failing:
            self._failing.add(expert)
            self._telemetry.say("wake failed", expert=expert, error=error)
