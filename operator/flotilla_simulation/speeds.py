"""How fast an engine is: by its weights and its accelerator's data sheet, or as a router's log shows it."""

from __future__ import annotations

import json
import math
from bisect import bisect_right
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from flotilla_api.accelerator import AcceleratorProfileSpec
from flotilla_api.meta import parse_weight_count
from flotilla_operator.resources.memory import GIB, KV_BYTES_PER_TOKEN, estimate_memory
from flotilla_operator.resources.specs import Served

from .traces import TraceError, open_text

BANDWIDTH_RATIO, COMPUTE_RATIO = 0.6, 0.4
"""Of the data sheet's figures, that decoding and prefill are taken to reach."""
FULL_BATCH_STEP = 2.0
"""A step of a full batch takes that many times as long as one of a single sequence."""
LEAST_STREAMS = 50
"""Streamed answers without which a log says too little."""

_SHEETS = {
    "l4": (300e9, 121e12),
    "a10g": (600e9, 70e12),
    "a100": (2039e9, 312e12),
    "h100": (3350e9, 989e12),
}
"""Bytes a second and half-precision operations a second, without sparsity. Source: NVIDIA's data sheets."""


@dataclass(frozen=True, slots=True)
class Speeds:
    """Tokens a second of one replica, and tokens in its KV cache."""

    prefill_rate: float
    decode_rate: float
    """Of a full batch."""
    sequence_rate: float
    """Of one sequence alone."""
    kv_tokens: int | None = None
    """None: the cache bounds nothing."""


def estimate_speeds(served: Served, profile: AcceleratorProfileSpec | None, slots: int) -> Speeds | None:
    """A guess, which may be wrong by two times; None: neither the weights nor the accelerator say enough.

    A sequence's token reads all weights once, a prompt's token takes two operations for each weight.
    """
    sheet = _sheet(served, profile)
    memory = estimate_memory(served, profile) if profile else None
    if sheet is None or memory is None or served.spec.model.parameters is None:
        return None
    bandwidth, operations = sheet
    parameters = parse_weight_count(served.spec.model.parameters)
    alone = BANDWIDTH_RATIO * bandwidth * served.gpus / (memory.weights_gib * GIB)
    free = (memory.budget_gib - memory.weights_gib - memory.overhead_gib) * GIB
    return Speeds(
        prefill_rate=COMPUTE_RATIO * operations * served.gpus / (2 * parameters),
        decode_rate=slots * alone / FULL_BATCH_STEP,
        sequence_rate=alone,
        kv_tokens=max(1, int(free / (KV_BYTES_PER_TOKEN * math.sqrt(parameters / 1e9)))),
    )


def _sheet(served: Served, profile: AcceleratorProfileSpec | None) -> tuple[float, float] | None:
    product = (profile.nodeSelector or {}).get("nvidia.com/gpu.product", "") if profile else ""
    words = set(f"{product}-{served.spec.accelerator.profile}".lower().split("-"))
    return next((figures for name, figures in _SHEETS.items() if name in words), None)


@dataclass(frozen=True, slots=True)
class _Stream:
    pod: str
    start: float
    end: float
    prompt_tokens: int
    ttft: float
    tpot: float


def measure_speeds(path: Path, expert: str, *, slots: int, hold_tokens: int = 0, hold_seconds: float = 0.0) -> Speeds:
    """What the streams of a router's log show of an Expert; `hold_*` bound what the policy holds back of each.

    A sequence's rate is that of the fastest tenth. A prompt's is taken from streams that had their replica to
    themselves, or nearly, after what is held back. A batch's is the most that ran at once, by their own rates: less
    than what a full batch could do where none was full.

    Raises:
        TraceError: it has too few streams of that Expert, or is no such log.
    """
    streams = list(_streams(path, expert))
    if len(streams) < LEAST_STREAMS:
        raise TraceError(
            f"{path}: {len(streams)} streams of Expert {expert} with ttft_ms and tpot_ms; {LEAST_STREAMS} are needed "
            "to tell how fast it is: give the speeds themselves"
        )
    tpots = np.array([each.tpot for each in streams])
    crowds = np.minimum(slots, list(_crowds(streams)))
    fastest = float(np.quantile(tpots, 0.1))
    return Speeds(
        prefill_rate=_prefill_rate(streams, crowds, hold_tokens, hold_seconds),
        decode_rate=float(np.quantile(crowds / tpots, 0.95)),
        sequence_rate=1.0 / fastest,
    )


def _prefill_rate(streams: list[_Stream], crowds: np.ndarray[Any, Any], tokens: int, seconds: float) -> float:
    """Slope of the time to the first token over the prompt's length, of the tenth with the least company."""
    quiet = np.argsort(crowds, kind="stable")[: max(LEAST_STREAMS // 2, len(streams) // 10)]
    chosen = [streams[int(index)] for index in quiet]
    prompts = np.array([float(each.prompt_tokens) for each in chosen])
    firsts = np.array([max(1e-4, each.ttft - each.tpot - min(seconds, tokens * each.tpot)) for each in chosen])
    return float(prompts.sum() / firsts.sum())


def _crowds(streams: list[_Stream]) -> Iterator[float]:
    """How many were on the same replica in the middle of each, itself and those that waited included."""
    starts: defaultdict[str, list[float]] = defaultdict(list)
    ends: defaultdict[str, list[float]] = defaultdict(list)
    for each in streams:
        starts[each.pod].append(each.start)
        ends[each.pod].append(each.end)
    for times in (*starts.values(), *ends.values()):
        times.sort()
    for each in streams:
        middle = (each.start + each.end) / 2
        yield max(1.0, bisect_right(starts[each.pod], middle) - bisect_right(ends[each.pod], middle))


def _streams(path: Path, expert: str) -> Iterator[_Stream]:
    """Answers of one attempt, which are the ones whose times are the engine's."""
    with open_text(path) as text:
        for number, line in enumerate(text, 1):
            try:
                record: Mapping[str, Any] = json.loads(line)
                found = _stream(record, expert) if record.get("event") == "request" else None
            except (ValueError, KeyError, AttributeError, TypeError) as error:
                raise TraceError(f"{path}:{number}: no line of a router's request log: {error}") from error
            if found is not None:
                yield found


def _stream(record: Mapping[str, Any], expert: str) -> _Stream | None:
    attempts = record["attempts"]
    ttft, tpot = record.get("ttft_ms"), record.get("tpot_ms")
    if len(attempts) != 1 or attempts[0]["target"] != expert or not tpot or ttft is None:
        return None
    seconds = float(record["duration_ms"]) / 1000
    end, prompt = float(record["time"]), int(attempts[0].get("input_tokens") or 1)
    return _Stream(str(attempts[0]["endpoint"]), end - seconds, end, prompt, ttft / 1000, tpot / 1000)
