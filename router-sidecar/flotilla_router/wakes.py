"""Wakes: tells the control API which sleeping experts are asked for, and never holds up a request for it.

Requests that wait for the expert are told apart from those that somebody else answers: they get a replica in any case.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from math import inf

from .control import ControlError
from .telemetry import Telemetry

WAKE_SECONDS = 3.0
"""Longest wait for an answer."""
REPEAT_SECONDS = 3.0
"""Between two wakes of an expert that is still asked for."""
RETRY_SECONDS = 1.0
"""After one that was not taken."""


@dataclass(frozen=True, slots=True)
class Wake:
    """What the control API is told."""

    expert: str
    waits: bool
    """Whether a request waits for it, or is refused for want of it, because nobody else may answer."""


Ask = Callable[[Wake, float], Awaitable[None]]
"""Has an expert woken, within some seconds. Raises ControlError, OSError or TimeoutError: that was not taken."""


class Wakes:
    """Of each kind at most one wake of an expert is under way, and at most one a second is sent."""

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
        self._next_at: dict[Wake, float] = {}
        """From when on it may be sent again, in monotonic seconds; inf while it is under way."""
        self._failing: set[str] = set()
        """Experts whose last wake was not taken."""
        self._tasks: set[asyncio.Task[None]] = set()

    def wake(self, expert: str, *, waits: bool) -> None:
        """The expert is asked for, by a request that `waits` for it or not; whoever scales it hears of it soon."""
        wake = Wake(expert, waits)
        if self._now() < self._next_at.get(wake, 0.0):
            return
        self._next_at[wake] = inf
        task = self._loop.create_task(self._send(wake))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def close(self) -> None:
        """Nothing is under way."""
        for task in tuple(self._tasks):
            task.cancel()

    async def _send(self, wake: Wake) -> None:
        expert, pause = wake.expert, RETRY_SECONDS
        try:
            async with asyncio.timeout(WAKE_SECONDS):
                await self._ask(wake, WAKE_SECONDS)
        except (ControlError, OSError) as error:
            self._failed(expert, str(error) or "the control API does not answer in time")
        except Exception as error:  # our own mistake, about one expert: it is tried again
            self._failed(expert, f"the router failed: {error!r}")
            self._loop.call_exception_handler({"message": "an expert could not be woken", "exception": error})
        else:
            self._sent(expert)
            pause = REPEAT_SECONDS
        finally:
            self._next_at[wake] = self._now() + pause

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
