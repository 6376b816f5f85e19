"""Requests that wait for a sleeping expert: how many may, how long, and when they look whether they still have to."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from .decisions import Decision, Refusal
from .registry import Live

MOST_HELD = 256
"""Requests that wait for one expert at a time."""
LOOK_SECONDS = 1.0
"""How often a request that waits looks again, beside every change of who sleeps: its expert is woken anew then, too."""

Decide = Callable[[bool], tuple[Live, Decision | Refusal]]
"""Decides anew by the snapshot of now, which it also gives; told whether the request has waited for long enough."""


@dataclass(slots=True, kw_only=True, eq=False)
class Hold:
    """One request's wait. Times are monotonic seconds."""

    expert: str
    """Whom it waits for."""
    since: float
    until: float
    """When the wait began, and when it is over."""
    decide: Decide
    due: float
    """When to look whether it still has to wait."""

    def look_later(self, now: float) -> None:
        """It waits on."""
        self.due = min(now + LOOK_SECONDS, self.until)


class Holds:
    """All requests that wait."""

    def __init__(self, most: int = MOST_HELD) -> None:
        self._most = most
        self._waiting: dict[str, set[Hold]] = {}
        self._seen: tuple[int, frozenset[str]] | None = None
        """Of the snapshot in use: its generation, and the experts that sleep."""

    def __len__(self) -> int:
        return sum(map(len, self._waiting.values()))

    def enter(self, hold: Hold) -> None:
        """A request waits; where too many do, its wait is over at once."""
        waiting = self._waiting.setdefault(hold.expert, set())
        if len(waiting) < self._most:
            waiting.add(hold)
        else:
            hold.until = hold.due = 0.0

    def leave(self, hold: Hold) -> None:
        """A request waits no longer."""
        waiting = self._waiting.get(hold.expert, set())
        waiting.discard(hold)
        if not waiting:
            self._waiting.pop(hold.expert, None)

    def loaded(self, live: Live) -> bool:
        """A snapshot is in use; whether it says anything new to those that wait, such as who sleeps."""
        asleep = frozenset(target.name for target in live.snapshot.targets if target.asleep)
        seen = (live.snapshot.generation, asleep)
        changed, self._seen = seen != self._seen, seen
        return changed
