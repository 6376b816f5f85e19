"""What a connection's client is given: time, room, and something that runs until its answer is there."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

LINGER_SECONDS = 2.0
"""How long what a client still sends is read and dropped after an early answer, so that the answer is not lost."""
MOST_QUEUED, MOST_QUEUED_BYTES = 16, 64 * 1024
"""Pipelined requests, and bytes of their bodies, that wait while more is read."""
SLOWEST_BYTES = 64 * 1024
"""Least that a client reads of a long answer in `Patience.keep_alive`, to get the rest."""
OVERHEAD_PER_BYTE = 9
"""Bytes on the wire that a byte of a body may take; a chunk of one byte takes six."""


class Running(Protocol):
    """A request that is being answered."""

    def client_gone(self) -> None:
        """Nobody waits for the answer any more."""
        ...

    def pause(self) -> None:
        """The client reads too slowly."""
        ...

    def resume(self) -> None:
        """The client reads on."""
        ...


@dataclass(frozen=True, slots=True)
class Patience:
    """Seconds that a client is waited for."""

    first_byte: float
    head: float
    body: float
    keep_alive: float
