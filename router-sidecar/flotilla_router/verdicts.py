"""What is known of sidecars' tokens, for how long, and how many are remembered. The clock is the caller's.

| known of a token | since            | then                                                           |
|------------------|------------------|----------------------------------------------------------------|
| it is good       | less than 60 s   | it is let in                                                   |
| it is good       | longer           | it is let in, and asked about once more                        |
| it is good       | until it expires | nothing is known any more                                      |
| it is bad        | less than 5 s    | it is refused                                                  |
| it is bad        | longer           | nothing is known any more                                      |
| nothing          |                  | it is asked about, and whoever shows it waits for the answer   |

While nobody can say, what is known stays, and it is asked again after 5 s.
"""

from __future__ import annotations

import base64
from dataclasses import dataclass
from typing import assert_never

import msgspec

FRESH_SECONDS = 60.0
REFUSED_SECONDS = 5.0
ASK_AGAIN_SECONDS = 5.0
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
class _Known:
    verdict: Admitted | Refused
    ask_at: float
    """When it is time to ask again."""
    ends_at: float
    """When it is forgotten."""


class Verdicts:
    """Verdicts by token. All times are monotonic seconds; a key stands for a token and is no secret."""

    def __init__(self, most: int = MOST_KNOWN) -> None:
        self._most = most
        self._good: dict[bytes, _Known] = {}
        self._bad: dict[bytes, _Known] = {}

    def __len__(self) -> int:
        return len(self._good) + len(self._bad)

    def find(self, key: bytes, now: float) -> tuple[Admitted | Refused | None, bool]:
        """What is known of a token, and whether it is time to ask about it."""
        for known in (self._good, self._bad):
            found = known.get(key)
            if found is not None and now < found.ends_at:
                return found.verdict, now >= found.ask_at
        return None, True

    def note(self, key: bytes, verdict: Verdict, now: float, *, expires_in: float) -> None:
        """Remember an answer. expires_in: seconds until the token itself expires."""
        match verdict:
            case Admitted():
                self._bad.pop(key, None)
                self._remember(self._good, key, _Known(verdict, now + FRESH_SECONDS, now + expires_in))
            case Refused():
                self._good.pop(key, None)
                ends_at = now + REFUSED_SECONDS
                self._remember(self._bad, key, _Known(verdict, ends_at, ends_at))
            case Unavailable():
                self._put_off(key, now)
            case _:
                assert_never(verdict)

    def _put_off(self, key: bytes, now: float) -> None:
        found = self._good.get(key)
        if found is not None:
            self._good[key] = _Known(found.verdict, now + ASK_AGAIN_SECONDS, found.ends_at)

    def _remember(self, known: dict[bytes, _Known], key: bytes, entry: _Known) -> None:
        """Keep an entry; when there is no room, the one whose answer is the oldest goes."""
        known.pop(key, None)
        if len(known) >= self._most:
            del known[next(iter(known))]
        known[key] = entry


_read_claims = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
_read_seconds = msgspec.json.Decoder(float).decode


def expiry_of(token: str) -> float | None:
    """When a ServiceAccount token says that it expires, in Unix seconds; None: it is no such token.

    It is only believed of a token that was found to be good. Source: RFC 7519, 4.1.4.
    """
    parts = token.split(".")
    if len(parts) != 3:
        return None
    try:
        payload = base64.urlsafe_b64decode(parts[1] + "=" * (-len(parts[1]) % 4))
        return _read_seconds(_read_claims(payload)["exp"])
    except (ValueError, KeyError, msgspec.DecodeError):
        return None
