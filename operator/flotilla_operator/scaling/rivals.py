"""Whether somebody else sets an expert's number of replicas as well. PURE.

| changes by others in five minutes | then                                                                        |
|-----------------------------------|-----------------------------------------------------------------------------|
| none                              | the scaler writes                                                           |
| one                               | the scaler writes: somebody may have tried something                        |
| two or more                       | the scaler steps back, until nobody has changed the number for ten minutes  |

A change to the number that the scaler wants is nobody's: it may be the scaler's own write, whose answer was lost.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

WINDOW_SECONDS = 300.0
PAUSE_SECONDS = 600.0
CHANGES = 2


@dataclass(frozen=True, slots=True)
class Rivalry:
    """The number as it should be, and when others changed it. Times are seconds that only grow."""

    expected: int | None = None
    """What was written, or seen last; None: nothing has been seen yet."""
    changes: tuple[float, ...] = ()
    """By others, in the last PAUSE_SECONDS, oldest first."""
    paused_since: float | None = None
    """When the scaler stepped back."""

    @property
    def paused(self) -> bool:
        """Whether the scaler has stepped back."""
        return self.paused_since is not None


def notice(rivalry: Rivalry, live: int, now: float, *, wanted: int | None = None) -> Rivalry:
    """After one more look at the live number; `wanted`: what the scaler last meant it to be."""
    changes = tuple(at for at in rivalry.changes if now - at < PAUSE_SECONDS)
    if rivalry.expected is not None and live not in (rivalry.expected, wanted):
        changes = (*changes, now)
    recent = sum(now - at < WINDOW_SECONDS for at in changes)
    paused_since = rivalry.paused_since
    if paused_since is None and recent >= CHANGES:
        paused_since = now
    elif not changes:
        paused_since = None
    return Rivalry(live, changes, paused_since)


def wrote(rivalry: Rivalry, number: int) -> Rivalry:
    """After the scaler has written `number`."""
    return replace(rivalry, expected=number)
