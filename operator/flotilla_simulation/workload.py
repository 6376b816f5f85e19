"""Requests in the order of their arrival, and the engine that they are meant for."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Workload:
    """One expert's requests; the arrays have the same length."""

    arrivals: Floats
    """Seconds since the start, ascending."""
    prompt_tokens: Ints
    output_tokens: Ints
    """At least 1."""
    seconds: float
    """How long it lasts."""

    def __len__(self) -> int:
        return len(self.arrivals)

    def between(self, start: float, end: float) -> Workload:
        """The requests of [start, end), with times from `start` on."""
        first, last = np.searchsorted(self.arrivals, (start, end))
        kept = slice(int(first), int(last))
        return Workload(
            self.arrivals[kept] - start,
            self.prompt_tokens[kept],
            self.output_tokens[kept],
            min(end, self.seconds) - start,
        )

    def after(self, earlier: Workload) -> Workload:
        """These requests when `earlier` ones come first."""
        return Workload(
            np.concatenate((earlier.arrivals, self.arrivals + earlier.seconds)),
            np.concatenate((earlier.prompt_tokens, self.prompt_tokens)),
            np.concatenate((earlier.output_tokens, self.output_tokens)),
            earlier.seconds + self.seconds,
        )


@dataclass(frozen=True, slots=True)
class Engine:
    """One replica: what its GPU can do, and how it starts. Rates are tokens a second."""

    slots: int = 16
    """Requests that run at once."""
    prefill_rate: float = 8000.0
    decode_rate: float = 512.0
    """Of the whole batch."""
    sequence_rate: float = 40.0
    """Of one sequence, however empty the batch is."""
    kv_tokens: int = 65_536
    cold_start_seconds: float = 90.0
    """From a pod's creation to its first answer."""

    def work_seconds(self, prompt_tokens: Floats | Ints, output_tokens: Floats | Ints) -> Floats:
        """Seconds of a whole replica that each request takes when the batch is full; the least that is possible."""
        full = min(self.slots * self.sequence_rate, self.decode_rate)
        return prompt_tokens / self.prefill_rate + output_tokens / full


@dataclass(frozen=True, slots=True)
class Rules:
    """When a request is lost or late; as in a RoutingPolicy and an Expert's objectives."""

    ttft_objective_seconds: float = 1.0
    """A request whose first token comes later is late."""
    max_wait_seconds: float = 5.0
    """A request that waited longer is escalated: lost."""
    max_depth: int = 64
    """Requests that wait for one replica; one more is escalated at once."""
