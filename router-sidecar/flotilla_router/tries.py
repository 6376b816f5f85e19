"""Which replica of a target is called next, after those that failed."""

from __future__ import annotations

from dataclasses import dataclass, field

from .registry import Replica, TargetState, pick
from .upstream import Failure

TRIES_PER_TARGET = 2
"""Calls to replicas of one target that may have seen the request; refused connections are not counted."""


@dataclass(slots=True, eq=False)
class Tries:
    """One request's calls to one target."""

    state: TargetState
    _called: list[Replica] = field(default_factory=list[Replica])
    _seen: int = 0
    """Calls that may have been seen."""
    _reached: bool = False
    """Whether a replica could be connected to."""

    def next(self, now: float, draw: float) -> Replica | None:
        """The replica to call next; the Service where no replica could be connected to; None: there is nobody left.

        now: monotonic seconds. draw: uniform in [0, 1).
        """
        state = self.state
        candidates = state.candidates(now, self._called)
        if not candidates and not self._called:
            candidates = state.candidates(now, healthy=False)
        if candidates and self._seen < TRIES_PER_TARGET:
            return pick(candidates, draw)
        if self._called and not self._reached and state.service not in self._called:
            return state.service
        return None

    def begin(self, replica: Replica) -> None:
        """`replica` is called."""
        self._called.append(replica)
        self._seen += 1

    def failed(self, failure: Failure | None) -> None:
        """The call has failed; None: with an answer."""
        if failure is None or not failure.before_sending:
            self._reached = True
        elif failure is not Failure.CONNECT_TIMEOUT:
            self._seen -= 1
