"""How long a request holds its slot, by how full the batches are. PURE.

An engine decodes a full batch more slowly than a few sequences, so what is measured while batches are half full is not
what a full one takes. Two things are learned:

    seconds at load   averages of the last minutes: they follow what prompts are about
    a line            log(seconds) over the load, from weighted moments of hours: it belongs to the engine

The line's slope has a ridge towards a prior, which holds until loads have differed enough to show the real one.

Source: Finch, Incremental calculation of weighted mean and variance (2009); Hoerl and Kennard, Ridge regression (1970).
"""

from __future__ import annotations

import math

from .types import Batching, BatchLine, BatchTick, Tuning

ASSUMED_LOAD = 0.5
"""Of seconds that somebody else remembers, without saying how full batches were."""
LEAST_SECONDS = 1e-3
"""No request is shorter: what measures less than that measures nothing."""
MOST_GROWTH = math.log(3.0)
"""A full batch takes at most three times as long as a single sequence. Where prompts become shorter while replicas
come, a steeper slope would be learned of that, and it would ask for more replicas still."""


def learn_batching(known: Batching | None, tick: BatchTick, tuning: Tuning) -> Batching:
    """`known` with one more tick in it."""
    smoothed = tick if known is None or known.smoothed is None else _smooth(known.smoothed, tick, tuning)
    seconds = max(smoothed.busy / smoothed.finished, LEAST_SECONDS)
    line = _extend(None if known is None else known.line, smoothed.load, math.log(seconds), tuning)
    if known is None:
        return Batching(seconds, smoothed.load, smoothed, line)
    weight = tuning.learning_weight
    return Batching(
        seconds=_toward(known.seconds, seconds, weight),
        load=smoothed.load if known.load is None else _toward(known.load, smoothed.load, weight),
        smoothed=smoothed,
        line=line,
    )


def full_batch_seconds(known: Batching, tuning: Tuning) -> float:
    """Slot-seconds of a request while the batch is full; never less than on average."""
    load = ASSUMED_LOAD if known.load is None else known.load
    growth, ridge = math.log(tuning.batching_prior), tuning.batching_ridge
    if known.line is not None:
        growth = (known.line.covariance + ridge * growth) / (known.line.variance + ridge)
    return known.seconds * math.exp(min(max(0.0, growth), MOST_GROWTH) * (1.0 - load))


def _smooth(before: BatchTick, tick: BatchTick, tuning: Tuning) -> BatchTick:
    weight = tuning.smoothing_weight
    return BatchTick(
        _toward(before.busy, tick.busy, weight),
        _toward(before.finished, tick.finished, weight),
        _toward(before.load, tick.load, weight),
    )


def _extend(line: BatchLine | None, load: float, log_seconds: float, tuning: Tuning) -> BatchLine:
    """All ticks weigh the same until there are 1 / line_weight of them."""
    if line is None:
        return BatchLine(load, log_seconds)
    ticks = line.ticks + 1
    weight = max(1.0 / ticks, tuning.line_weight)
    off_load, off_seconds = load - line.load, log_seconds - line.log_seconds
    return BatchLine(
        load=line.load + weight * off_load,
        log_seconds=line.log_seconds + weight * off_seconds,
        variance=(1 - weight) * (line.variance + weight * off_load * off_load),
        covariance=(1 - weight) * (line.covariance + weight * off_load * off_seconds),
        ticks=ticks,
    )


def _toward(before: float, now: float, weight: float) -> float:
    return before + weight * (now - before)
