"""What all requests share: model servers, the clock, and the list of those under way."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

from flotilla_api.snapshot import Target

from .holds import Holds
from .reach import Reach
from .registry import Live
from .telemetry import Telemetry
from .upstream import Upstreams
from .wakes import Wakes

TICK_SECONDS = 0.1
"""How exact timeouts are; a commit's maxWait has a timer of its own."""


class Runnable(Protocol):
    """A request under way."""

    @property
    def due(self) -> float:
        """Monotonic seconds when `tick` has something to look at."""
        ...

    def begin(self) -> None:
        """Make the first attempt."""
        ...

    def tick(self, now: float) -> None:
        """Look after timeouts and silence."""
        ...

    def look_again(self) -> None:
        """What it waits for may be there: `tick` has something to look at, if it waits."""
        ...

    def stop(self, message: str) -> None:
        """The router ends: so does the request, with an error."""
        ...


@dataclass(slots=True, kw_only=True)
class Dispatcher:
    """What exchanges share: the outside world, the clock, and each other's list."""

    loop: asyncio.AbstractEventLoop
    upstreams: Upstreams
    reach: Reach
    telemetry: Telemetry
    wakes: Wakes
    draw: Callable[[], float]
    """Uniform in [0, 1)."""
    holds: Holds = field(default_factory=Holds)
    under_way: set[Runnable] = field(default_factory=set[Runnable])
    _ticking: bool = False

    def ready(self, live: Live, target: Target, now: float) -> bool:
        """Whether a call to `target` is worth trying."""
        if not self.reach.can_reach(target):
            return False
        for replica in live.state(target).replicas:  # noqa: SIM110 - twice per request: no generator
            if replica.open_at <= now:
                return True
        return False

    def present(self, live: Live, target: Target) -> bool:
        """Whether `target` has a replica at all, if only one that is left out for now."""
        return bool(live.state(target).replicas) and self.reach.can_reach(target)

    def begin(self, exchange: Runnable) -> None:
        """Run an exchange."""
        self.under_way.add(exchange)
        self.telemetry.in_flight += 1
        exchange.begin()
        if not self._ticking and self.under_way:
            self._ticking = True
            self.loop.call_later(TICK_SECONDS, self._tick)

    def finished(self, exchange: Runnable) -> None:
        """Forget an exchange."""
        self.under_way.discard(exchange)
        self.telemetry.in_flight -= 1

    def loaded(self, live: Live) -> None:
        """A snapshot is in use: requests that wait for an expert go on within a tick, if it has a replica now."""
        if self.holds.loaded(live):
            for exchange in self.under_way:
                exchange.look_again()

    def _tick(self) -> None:
        self._ticking = bool(self.under_way)
        if self._ticking:
            self.loop.call_later(TICK_SECONDS, self._tick)
        now = self.loop.time()
        for exchange in [exchange for exchange in self.under_way if exchange.due <= now]:
            try:
                exchange.tick(now)
            except Exception as error:  # our own mistake, in one request: the others are looked after all the same
                self.loop.call_exception_handler({"message": "a request's clock failed", "exception": error})
                exchange.stop("the router failed on this request")
