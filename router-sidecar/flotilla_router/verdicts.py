"""What is known of sidecars' tokens, for how long, and how many are remembered. The clock is the caller's.

| known of a token | since            | then                                                             |
|------------------|------------------|------------------------------------------------------------------|
| it is good       | less than 45 s   | it is let in                                                     |
| it is good       | less than 60 s   | it is let in, and asked about once more                          |
| it is good       | longer           | it is asked about, and whoever shows it waits for the answer     |
| it is good       | until it expires | nothing is known any more                                        |
| it is bad        | less than 5 s    | it is refused                                                    |
| it is bad        | longer           | nothing is known any more                                        |
| nothing          |                  | it is asked about, and whoever shows it waits for the answer     |

While nobody can say, what is known stays: a good token is let in, is asked about again after 5 s, and whoever shows it
waits again after 15 s. So a sidecar that asks every few seconds waits for nothing but a control API that hangs, once.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import assert_never

ASK_SECONDS = 45.0
FRESH_SECONDS = 60.0
REFUSED_SECONDS = 5.0
ASK_AGAIN_SECONDS = 5.0
STAYS_SECONDS = 15.0
MOST_KNOWN = 4096
"""Good tokens that are remembered, and as many bad ones: a flood of those never drives out the good."""


@dataclass(frozen=True, slots=True)
class Admitted:
    """The token is of a pod with the policy's sidecar."""

    pod: str


@dataclass(frozen=True, slots=True)
class Refused:
    """It is not, and why."""

    reason: str


@dataclass(frozen=True, slots=True)
class Unavailable:
    """Nobody can say, and why."""

    reason: str


Verdict = Admitted | Refused | Unavailable


@dataclass(frozen=True, slots=True)
class Known:
    """A verdict, and for how long it is one. All times are monotonic seconds."""

    verdict: Admitted | Refused
    ask_at: float
    """When it is time to ask again."""
    wait_at: float
    """When whoever shows the token has to wait for the answer."""
    ends_at: float
    """When it is forgotten."""


class Verdicts:
    """Verdicts by token; a key stands for a token and is no secret."""

    def __init__(self, most: int = MOST_KNOWN) -> None:
        self._most = most
        self._good: dict[bytes, Known] = {}
        self._bad: dict[bytes, Known] = {}

    def __len__(self) -> int:
        return len(self._good) + len(self._bad)

    def find(self, key: bytes, now: float) -> Known | None:
        """What is known of a token."""
        for known in (self._good, self._bad):
            found = known.get(key)
            if found is not None and now < found.ends_at:
                return found
        return None

    def note(self, key: bytes, verdict: Verdict, now: float, *, expires_in: float) -> Verdict:
        """Remember an answer; the verdict that follows from it. expires_in: seconds until the token itself expires."""
        match verdict:
            case Admitted():
                self._bad.pop(key, None)
                known = Known(verdict, now + ASK_SECONDS, now + FRESH_SECONDS, now + expires_in)
                self._remember(self._good, key, known)
                return verdict
            case Refused():
                self._good.pop(key, None)
                ends_at = now + REFUSED_SECONDS
                self._remember(self._bad, key, Known(verdict, ends_at, ends_at, ends_at))
                return verdict
            case Unavailable():
                return self._put_off(key, now) or verdict
            case _:
                assert_never(verdict)

    def _put_off(self, key: bytes, now: float) -> Admitted | Refused | None:
        found = self.find(key, now)
        if found is not None and isinstance(found.verdict, Admitted):
            wait_at = max(found.wait_at, now + STAYS_SECONDS)
            self._good[key] = Known(found.verdict, now + ASK_AGAIN_SECONDS, wait_at, found.ends_at)
        return None if found is None else found.verdict

    def _remember(self, known: dict[bytes, Known], key: bytes, entry: Known) -> None:
        """Keep an entry; when there is no room, the one whose answer is the oldest goes."""
        known.pop(key, None)
        if len(known) >= self._most:
            del known[next(iter(known))]
        known[key] = entry
