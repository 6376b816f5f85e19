"""Faults to inject, set over `/sim/faults`: which request meets which. Pure.

`POST /sim/faults` takes one fault or a list:

    {"kind": "die_mid_stream", "count": 1, "after_events": 3}

- `http_error`: answer with `status` (500), `retry_after` as a header when set.
- `overloaded`: the same with status 503, counted as a rejected admission.
- `context_overflow`: answer as if the prompt did not fit.
- `hang`: never answer; a stream falls silent after `after_events` events if set. `seconds` later the connection closes.
- `slow_first_token`: start `seconds` late.
- `die_before_first_byte`: close the connection (with `process: true`: the whole engine exits, as after a crash).
- `die_mid_stream`: the same after `after_events` events (1); whole answers die before their first byte.
- `error_mid_stream`: end the stream with an error event after `after_events` events (1), as vLLM does when a running
  request fails; a whole answer becomes a 500.
- `empty_answer`: finish at once, with no text.
- `low_confidence`: answer with low log-probabilities.

`count` requests meet it (null: until `DELETE /sim/faults`); `model` narrows it, and so does `path`. Without a path it
is met by generation only; with one by that path (so `/health` can fail too).
"""

from __future__ import annotations

from typing import Literal

import msgspec

Kind = Literal[
    "http_error",
    "overloaded",
    "context_overflow",
    "hang",
    "slow_first_token",
    "die_before_first_byte",
    "die_mid_stream",
    "error_mid_stream",
    "empty_answer",
    "low_confidence",
]


class Fault(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """One fault as it was posted."""

    kind: Kind
    count: int | None = 1
    status: int | None = None
    message: str | None = None
    retry_after: int | None = None
    """Seconds."""
    seconds: float | None = None
    after_events: int | None = None
    process: bool = False
    model: str | None = None
    path: str | None = None

    @property
    def http_status(self) -> int:
        """The status of an answer that this fault replaces."""
        return self.status or (503 if self.kind == "overloaded" else 500)


class Faults:
    """The faults still to happen, first posted first met."""

    def __init__(self) -> None:
        self._left: list[tuple[Fault, int | None]] = []

    def add(self, faults: list[Fault]) -> None:
        """Put `faults` after the present ones."""
        self._left += [(fault, fault.count) for fault in faults]

    def clear(self) -> None:
        """Drop all of them."""
        self._left.clear()

    def listing(self) -> list[Fault]:
        """Return what is left, with the counts left."""
        return [msgspec.structs.replace(fault, count=left) for fault, left in self._left]

    @property
    def are_set(self) -> bool:
        """Whether any fault is left."""
        return bool(self._left)

    def take(self, path: str, model: str | None, *, generates: bool) -> Fault | None:
        """Return the fault that a request meets, and count it."""
        for i, (fault, left) in enumerate(self._left):
            meets = generates if fault.path is None else fault.path == path
            if not meets or fault.model not in (None, model):
                continue
            if left is not None and left <= 1:
                del self._left[i]
            elif left is not None:
                self._left[i] = (fault, left - 1)
            return fault
        return None


def decode(body: bytes) -> list[Fault]:
    """Read one fault or a list of them.

    Raises:
        msgspec.DecodeError: the body is neither.
    """
    if body.lstrip().startswith(b"["):
        return msgspec.json.decode(body, type=list[Fault])
    return [msgspec.json.decode(body, type=Fault)]
