"""One trace file, of whatever kind, as the requests of the Experts that share it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from .traces import CONVERSATION, Client, TraceError, open_text, read_azure, read_client, read_request_log
from .workload import Engine, Workload

COPIES_WITHIN_SECONDS = 30.0
"""How far a repeated request is from the one that it repeats."""

Source = Client | Workload


@dataclass(frozen=True, slots=True)
class Cut:
    """Which part of a trace is taken."""

    skip_seconds: float = 0.0
    seconds: float | None = None
    """None: all that follows; of a ServeGen client a day."""


def read_source(path: Path) -> Source:
    """An Azure trace, a router's request log or a ServeGen client, told apart by the first line.

    Raises:
        TraceError: it is none of them, or has a wrong line.
    """
    try:
        with open_text(path) as text:
            first = text.readline()
        if first.lstrip("\ufeff").startswith("TIMESTAMP,"):
            return read_azure(path)
        if first.lstrip().startswith("{") and isinstance(json.loads(first), dict):
            return read_request_log(path)
        if first.count(",") == 5:
            return read_client(path)
    except (OSError, UnicodeDecodeError, ValueError) as error:
        raise TraceError(f"{path}: {error}") from error
    raise TraceError(
        f"{path}:1: neither an Azure trace (TIMESTAMP,ContextTokens,GeneratedTokens), nor a router's request log "
        "(JSON lines), nor a ServeGen client (start,rate,cv,distribution,shape,scale)"
    )


def draw(source: Source, cut: Cut, *, factor: float, seed: int) -> Workload:
    """The requests of the part that is taken, at `factor` times their rate.

    A ServeGen client's arrivals are drawn from each window's own distribution and its lengths from those of Azure's
    conversations. Recorded requests stay as they are; with another factor some are left out, or repeated a little
    later.

    Raises:
        TraceError: nothing of the trace is left.
    """
    if isinstance(source, Client):
        end = min(source.seconds, cut.skip_seconds + (86_400.0 if cut.seconds is None else cut.seconds))
        if cut.skip_seconds >= end:
            raise TraceError(f"it lasts {source.seconds:.0f} s, of which nothing is left")
        return source.sample(cut.skip_seconds, end, rate_factor=factor, lengths=CONVERSATION, seed=seed)
    end = source.seconds if cut.seconds is None else min(source.seconds, cut.skip_seconds + cut.seconds)
    kept = source.between(min(cut.skip_seconds, end), end)
    if not len(kept):
        raise TraceError(f"it lasts {source.seconds:.0f} s, of which nothing is left")
    return kept if factor == 1.0 else _repeated(kept, factor, np.random.default_rng(seed))


def mean_replicas(load: Workload, engine: Engine) -> float:
    """Replicas that the requests would keep busy if their batches were full."""
    return float(engine.work_seconds(load.prompt_tokens, load.output_tokens).sum()) / load.seconds


def deal(load: Workload, shares: Mapping[str, float], seed: int) -> dict[str, Workload]:
    """Each request at random to one of these, by their shares; alone, one gets all."""
    if len(shares) == 1:
        return dict.fromkeys(shares, load)
    weights = np.array(list(shares.values()))
    chosen = np.random.default_rng(seed).choice(len(shares), len(load), p=weights / weights.sum())
    return {name: _picked(load, np.flatnonzero(chosen == index)) for index, name in enumerate(shares)}


def _repeated(load: Workload, factor: float, random: np.random.Generator) -> Workload:
    times = np.floor(factor + random.random(len(load))).astype(np.int64)
    index = np.repeat(np.arange(len(load)), times)
    copy = np.arange(len(index)) - np.repeat(np.cumsum(times) - times, times)
    arrivals = load.arrivals[index] + np.where(copy > 0, random.uniform(0, COPIES_WITHIN_SECONDS, len(index)), 0.0)
    order = np.argsort(arrivals, kind="stable")
    inside = order[arrivals[order] < load.seconds]
    chosen = index[inside]
    return Workload(arrivals[inside], load.prompt_tokens[chosen], load.output_tokens[chosen], load.seconds)


def _picked(load: Workload, index: Sequence[int] | np.ndarray[tuple[int], np.dtype[np.int64]]) -> Workload:
    return Workload(load.arrivals[index], load.prompt_tokens[index], load.output_tokens[index], load.seconds)
