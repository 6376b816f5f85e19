"""The simulated replicas: what one of them does by hand, and against the step model of the engine simulator."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fakes.engine.model import Limits, Scheduler, Work
from flotilla_simulation.kernel import ARRIVED, FINISHED, LATE, LOST, SHED, SLOT_SECONDS, STARTED
from flotilla_simulation.replicas import Cluster
from flotilla_simulation.workload import Engine, Rules, Workload
from unit.simulation.simulated import poisson, regular

ENGINE = Engine()
PATIENT = Rules(ttft_objective_seconds=1e9, max_wait_seconds=1e9, max_depth=4096)


def _run(load: Workload, *, replicas: int = 1, rules: Rules = PATIENT, engine: Engine = ENGINE) -> Cluster:
    cluster = Cluster(load, engine, rules, replicas=replicas, maximum=8)
    cluster.advance(load.seconds)
    return cluster


def test_one_request_takes_its_prefill_and_its_tokens_at_the_sequence_rate() -> None:
    """800 prompt tokens at 8,000/s and 80 tokens at 40/s are 0.1 s and 2 s."""
    cluster = _run(regular(10.0))

    assert cluster.counters[FINISHED] == 1
    assert cluster.counters[SLOT_SECONDS] == pytest.approx(2.1)


def test_full_batch_shares_the_decode_rate() -> None:
    """Sixteen at once: 1.6 s of prefill, then 80 tokens each at 512/16 = 32/s."""
    cluster = _run(regular(*[10.0] * 16))

    assert cluster.counters[SLOT_SECONDS] == pytest.approx(16 * (1.6 + 80 / 32), rel=1e-3)


def test_request_beyond_the_slots_waits_and_is_lost_after_the_longest_wait() -> None:
    """The seventeenth waits for a slot that is not free within 3 s."""
    cluster = _run(regular(*[10.0] * 17), rules=Rules(max_wait_seconds=3.0))

    assert cluster.counters[LOST] == 1
    assert cluster.counters[STARTED] == 16


def test_request_whose_first_token_comes_after_the_objective_is_late() -> None:
    """The prompts are computed one after the other: after 1 s come the first tokens of all but the first nine."""
    cluster = _run(regular(*[10.0] * 16), rules=Rules(ttft_objective_seconds=1.0))

    assert cluster.counters[LATE] == 7


def test_without_a_ready_replica_everything_is_lost_at_once() -> None:
    """Nobody waits for a replica that starts."""
    cluster = Cluster(regular(10.0, 95.0, 120.0), ENGINE, PATIENT, replicas=0, maximum=8)
    cluster.scale(1)
    cluster.advance(600.0)

    assert cluster.counters[SHED] == 1
    assert cluster.counters[FINISHED] == 2


def test_new_replica_is_billed_from_its_creation_and_serves_after_the_cold_start() -> None:
    """It is pending for 90 s."""
    cluster = Cluster(regular(500.0), ENGINE, PATIENT, replicas=1, maximum=8)
    cluster.scale(2)
    cluster.advance(89.0)
    before = cluster.sample()
    cluster.advance(91.0)
    after = cluster.sample()

    assert (before.ready, before.pending_ages) == (1, (89.0,))
    assert (after.ready, after.pending_ages) == (2, ())


def test_shrinking_takes_pending_replicas_first_and_lets_running_requests_end() -> None:
    """A busy replica drains: it is billed until its last request has ended, and gets no new one."""
    cluster = Cluster(regular(*[10.0] * 4, 11.0), ENGINE, PATIENT, replicas=2, maximum=8)
    cluster.advance(10.5)
    cluster.scale(3)
    cluster.scale(1)
    cluster.advance(10.6)

    assert cluster.sample().ready == 1
    cluster.advance(600.0)
    assert cluster.counters[FINISHED] == 5


@pytest.mark.parametrize("rate", [pytest.param(rate, id=f"{rate}/s") for rate in (0.4, 1.0, 1.5, 2.2)])
def test_fluid_agrees_with_the_step_model(rate: float) -> None:
    """Slot-seconds, waiting and throughput of one replica are within a few percent, from idle to overloaded."""
    load = poisson(rate, 1800.0, seed=7)
    cluster = _run(load)
    steps = _stepped(load)

    done = cluster.counters[FINISHED]
    assert done == pytest.approx(len(steps), rel=0.03)
    stepped_slot_seconds = float(np.mean([_of(work.last_token_at) - _of(work.admitted_at) for work in steps]))
    assert cluster.counters[SLOT_SECONDS] / done == pytest.approx(stepped_slot_seconds, rel=0.06)


def _stepped(load: Workload) -> list[Work]:
    """The work that the step model finished."""
    limits = Limits(
        max_num_seqs=ENGINE.slots, kv_tokens=ENGINE.kv_tokens, prefill_rate=ENGINE.prefill_rate,
        decode_rate=ENGINE.decode_rate, sequence_rate=ENGINE.sequence_rate,
    )  # fmt: skip
    scheduler = Scheduler(limits)
    finished: list[Work] = []
    for at, prompt, output in zip(load.arrivals, load.prompt_tokens, load.output_tokens, strict=True):
        finished += [each.work for each in scheduler.advance(float(at)) if each.finished]
        scheduler.add(Work(int(prompt), int(output)), float(at))
    return finished + [each.work for each in scheduler.advance(load.seconds) if each.finished]


def _of(moment: float | None) -> float:
    assert moment is not None
    return moment


@settings(max_examples=30)
@given(rate=st.floats(0.2, 8.0), replicas=st.integers(0, 4), seed=st.integers(0, 99), wait=st.floats(0.0, 20.0))
def test_every_request_is_counted_once(rate: float, replicas: int, seed: int, wait: float) -> None:
    """Arrived is lost, finished, running or waiting."""
    load = poisson(rate, 200.0, seed=seed)
    cluster = _run(load, replicas=replicas, rules=Rules(max_wait_seconds=wait, max_depth=32))
    seen = cluster.sample()

    assert cluster.counters[ARRIVED] == len(load)
    assert cluster.counters[LOST] + cluster.counters[FINISHED] + seen.running + seen.waiting == len(load)
    assert cluster.counters[LATE] <= cluster.counters[STARTED]


def test_stopping_on_the_way_changes_nothing() -> None:
    """Advancing in ticks gives the same counts as advancing at once."""
    load = poisson(3.0, 900.0)
    whole = _run(load, replicas=2, rules=Rules())
    ticked = Cluster(load, ENGINE, Rules(), replicas=2, maximum=8)
    for tick in range(1, 901):
        ticked.advance(float(tick))

    for counter in (ARRIVED, LOST, LATE, FINISHED):
        assert ticked.counters[counter] == pytest.approx(whole.counters[counter], abs=3)
