"""Replicas of one expert, request by request: continuous batching as a fluid, exact between events.

A replica's running sequences share its decoding: each gets 1 / max(1 / sequence rate, running / decode rate) tokens a
second, and nothing while a prompt is being computed. So one number for a replica, the tokens that a sequence which ran
since its start would have got, says when each running sequence ends. A waiting request is admitted first come, first
served when a slot and KV cache for all of its tokens are free (an engine admits a little sooner and may preempt). The
router sends a request to the ready replica with the fewest in flight.

It is checked against the step model of the engine simulator (tests/fakes/engine/model.py).
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from .compiled import compiled
from .workload import Floats, Ints

NONE, PENDING, READY, DRAINING = 0, 1, 2, 3
"""States of a place for a replica."""

ARRIVED, LOST, LATE, FINISHED, SLOT_SECONDS, IN_FLIGHT_SECONDS, REPLICA_SECONDS, STARTED, SHED = range(9)
COUNTERS = 9
"""What `Fleet.counters` holds; SHED are those of LOST that found nobody ready or a full queue."""

TTFT_BINS = 400
TTFT_BINS_PER_DECADE = 80.0
TTFT_LEAST_SECONDS = 1e-3

CLOCK, NEXT_ARRIVAL = 0, 1
_ROUNDING_TOKENS = 1e-6


class Load(NamedTuple):
    """The requests, in the order of their arrival."""

    arrivals: Floats
    prompts: Ints
    outputs: Ints


class Limits(NamedTuple):
    """Seconds, tokens, tokens a second."""

    prefill_rate: float
    decode_rate: float
    sequence_rate: float
    kv_tokens: float
    ttft_objective: float
    max_wait: float


class Fleet(NamedTuple):
    """All that changes; the first index is a replica's place."""

    place: Floats
    """The clock, and the index of the next arrival."""
    status: Ints
    ready_at: Floats
    at: Floats
    """When `virtual` and `stall` were right."""
    virtual: Floats
    """Tokens that a sequence would have got since the start."""
    stall: Floats
    """Seconds of prompts that are to be computed before decoding goes on."""
    done_at: Floats
    """When the next running sequence ends."""
    running: Ints
    held: Floats
    """Tokens of KV cache."""
    heads: Ints
    waiting: Ints
    queues: Ints
    """Rings of waiting requests, from `heads` on."""
    keys: Floats
    """Heaps of running sequences by the virtual time of their end."""
    starts: Floats
    tokens: Floats
    counters: Floats
    ttft: Ints


@compiled
def _step_seconds(running: int, limits: Limits) -> float:
    return max(1.0 / limits.sequence_rate, running / limits.decode_rate)


@compiled
def _catch_up(replica: int, now: float, limits: Limits, fleet: Fleet) -> None:
    left = now - fleet.at[replica]
    fleet.at[replica] = now
    if left <= fleet.stall[replica]:
        fleet.stall[replica] -= left
        return
    left -= fleet.stall[replica]
    fleet.stall[replica] = 0.0
    if fleet.running[replica] > 0:
        fleet.virtual[replica] += left / _step_seconds(fleet.running[replica], limits)


@compiled
def _push(replica: int, key: float, start: float, held: float, fleet: Fleet) -> None:
    keys, starts, tokens = fleet.keys[replica], fleet.starts[replica], fleet.tokens[replica]
    child = fleet.running[replica]
    while child > 0:
        parent = (child - 1) >> 1
        if keys[parent] <= key:
            break
        keys[child], starts[child], tokens[child] = keys[parent], starts[parent], tokens[parent]
        child = parent
    keys[child], starts[child], tokens[child] = key, start, held
    fleet.running[replica] += 1


@compiled
def _pop(replica: int, fleet: Fleet) -> None:
    keys, starts, tokens = fleet.keys[replica], fleet.starts[replica], fleet.tokens[replica]
    fleet.running[replica] -= 1
    last = fleet.running[replica]
    key, start, held = keys[last], starts[last], tokens[last]
    parent = 0
    while 2 * parent + 1 < last:
        child = 2 * parent + 1
        if child + 1 < last and keys[child + 1] < keys[child]:
            child += 1
        if key <= keys[child]:
            break
        keys[parent], starts[parent], tokens[parent] = keys[child], starts[child], tokens[child]
        parent = child
    keys[parent], starts[parent], tokens[parent] = key, start, held


@compiled
def _finish(replica: int, now: float, fleet: Fleet) -> None:
    """Whoever has all of its tokens is gone."""
    if fleet.stall[replica] > 0.0:
        return
    reached = fleet.virtual[replica] + _ROUNDING_TOKENS
    while fleet.running[replica] > 0 and fleet.keys[replica, 0] <= reached:
        fleet.counters[FINISHED] += 1
        fleet.counters[SLOT_SECONDS] += now - fleet.starts[replica, 0]
        fleet.held[replica] -= fleet.tokens[replica, 0]
        _pop(replica, fleet)


@compiled
def _start(replica: int, now: float, limits: Limits, load: Load, fleet: Fleet) -> None:
    request = fleet.queues[replica, fleet.heads[replica]]
    size = load.prompts[request] + load.outputs[request]
    fleet.stall[replica] += load.prompts[request] / limits.prefill_rate
    fleet.held[replica] += size
    _push(replica, fleet.virtual[replica] + load.outputs[request], now, float(size), fleet)
    first_token = now - load.arrivals[request] + fleet.stall[replica] + _step_seconds(fleet.running[replica], limits)
    scaled = np.log10(max(first_token, TTFT_LEAST_SECONDS) / TTFT_LEAST_SECONDS) * TTFT_BINS_PER_DECADE
    fleet.ttft[min(TTFT_BINS - 1, int(np.ceil(scaled)))] += 1
    fleet.counters[STARTED] += 1
    if first_token > limits.ttft_objective:
        fleet.counters[LATE] += 1


@compiled
def _admit(replica: int, now: float, limits: Limits, load: Load, fleet: Fleet) -> None:
    """Whoever waits and fits runs, whoever waited too long is lost; `done_at` is right again."""
    depth, slots = fleet.queues.shape[1], fleet.keys.shape[1]
    while fleet.waiting[replica] > 0:
        request = fleet.queues[replica, fleet.heads[replica]]
        if now - load.arrivals[request] >= limits.max_wait:
            fleet.counters[LOST] += 1
        else:
            size = load.prompts[request] + load.outputs[request]
            running = fleet.running[replica]
            if running >= slots or (running > 0 and fleet.held[replica] + size > limits.kv_tokens):
                break
            _start(replica, now, limits, load, fleet)
        fleet.heads[replica] = (fleet.heads[replica] + 1) % depth
        fleet.waiting[replica] -= 1
    if fleet.running[replica] > 0:
        left = max(0.0, fleet.keys[replica, 0] - fleet.virtual[replica])
        fleet.done_at[replica] = now + fleet.stall[replica] + left * _step_seconds(fleet.running[replica], limits)
        return
    fleet.done_at[replica] = np.inf
    if fleet.status[replica] == DRAINING and fleet.waiting[replica] == 0:
        fleet.status[replica] = NONE


@compiled
def _route(request: int, fleet: Fleet) -> int:
    """The replica that got it, or -1: it is lost."""
    best = -1
    least = 0
    for replica in range(len(fleet.status)):
        in_flight = fleet.running[replica] + fleet.waiting[replica]
        if fleet.status[replica] == READY and (best < 0 or in_flight < least):
            best, least = replica, in_flight
    depth = fleet.queues.shape[1]
    if best < 0 or fleet.waiting[best] >= depth:
        fleet.counters[LOST] += 1
        fleet.counters[SHED] += 1
        return -1
    fleet.queues[best, (fleet.heads[best] + fleet.waiting[best]) % depth] = request
    fleet.waiting[best] += 1
    return best


@compiled
def _wait(now: float, until: float, load: Load, fleet: Fleet) -> tuple[float, int]:
    """The next event's time and replica; -1: `until`; the count of replicas: an arrival. What passes is counted."""
    replicas = len(fleet.status)
    event = until
    who = -1
    arrival = int(fleet.place[NEXT_ARRIVAL])
    if arrival < len(load.arrivals) and load.arrivals[arrival] < event:
        event, who = load.arrivals[arrival], replicas
    in_flight = 0
    billed = 0
    for replica in range(replicas):
        status = fleet.status[replica]
        if status == NONE:
            continue
        billed += 1
        due = fleet.ready_at[replica] if status == PENDING else fleet.done_at[replica]
        in_flight += fleet.running[replica] + fleet.waiting[replica]
        if due < event:
            event, who = due, replica
    event = max(event, now)
    fleet.counters[IN_FLIGHT_SECONDS] += in_flight * (event - now)
    fleet.counters[REPLICA_SECONDS] += billed * (event - now)
    return event, who


@compiled
def advance(until: float, limits: Limits, load: Load, fleet: Fleet) -> None:
    """All that happens before `until` has happened."""
    replicas = len(fleet.status)
    now = fleet.place[CLOCK]
    while True:
        now, who = _wait(now, until, load, fleet)
        if who < 0:
            break
        if who == replicas:
            request = int(fleet.place[NEXT_ARRIVAL])
            fleet.place[NEXT_ARRIVAL] += 1
            fleet.counters[ARRIVED] += 1
            who = _route(request, fleet)
            if who < 0:
                continue
        elif fleet.status[who] == PENDING:
            fleet.status[who] = READY
            fleet.at[who] = now
        _catch_up(who, now, limits, fleet)
        _finish(who, now, fleet)
        _admit(who, now, limits, load, fleet)
    for replica in range(replicas):
        if fleet.waiting[replica] > 0:
            _catch_up(replica, now, limits, fleet)
            _admit(replica, now, limits, load, fleet)
    fleet.place[CLOCK] = now


@compiled
def look(fleet: Fleet) -> tuple[int, int, int, float]:
    """Running and waiting requests, replicas that are ready, and the tokens that the fullest replica holds."""
    running = 0
    waiting = 0
    ready = 0
    fullest = 0.0
    for replica in range(len(fleet.status)):
        if fleet.status[replica] < READY:
            continue
        running += fleet.running[replica]
        waiting += fleet.waiting[replica]
        ready += int(fleet.status[replica] == READY)
        fullest = max(fullest, fleet.held[replica])
    return running, waiting, ready, fullest
