"""How long a request holds its slot, by how full the batches are. PURE.

An engine decodes a full batch more slowly than a few sequences, so what is measured while batches are half full is not
what a full one takes. A line is learned through both: exponentially weighted means, variance and covariance of

    load     busy slots / slots of the ready replicas, from 0 to 1
    seconds  slot-seconds a request

with a ridge towards a prior slope, which holds until loads have differed enough to show the real one.

Source: Finch, Incremental calculation of weighted mean and variance (2009); Hoerl and Kennard, Ridge regression (1970).
"""

from __future__ import annotations

from dataclasses import dataclass

from .types import Batching, Tuning

ASSUMED_LOAD = 0.5
"""Of seconds that somebody else remembers, without saying how full batches were."""


@dataclass(frozen=True, slots=True)
class Sample:
    """One tick's."""

    load: float
    seconds: float


def learn_batching(known: Batching | None, sample: Sample, tuning: Tuning) -> Batching:
    """`known` with one more tick in it."""
    if known is None:
        return Batching(sample.seconds, sample.load)
    weight = tuning.learning_weight
    before = sample.load if known.load is None else known.load
    off_load, off_seconds = sample.load - before, sample.seconds - known.seconds
    return Batching(
        seconds=known.seconds + weight * off_seconds,
        load=before + weight * off_load,
        variance=(1 - weight) * (known.variance + weight * off_load * off_load),
        covariance=(1 - weight) * (known.covariance + weight * off_load * off_seconds),
    )


def full_batch_seconds(known: Batching, tuning: Tuning) -> float:
    """Slot-seconds of a request while the batch is full; never less than on average."""
    load = ASSUMED_LOAD if known.load is None else known.load
    prior = tuning.batching_prior * known.seconds
    slope = (known.covariance + tuning.batching_ridge * prior) / (known.variance + tuning.batching_ridge)
    return known.seconds + max(0.0, slope) * (1.0 - load)
